//! What a teacher says, as it is asked or from files that keep the likeliest tokens of each position.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use mlxlm_core::ops::argpartition_axis;
use mlxlm_core::ops::indexing::TryIndexOp;
use mlxlm_core::weights::{SafetensorsFile, save_safetensors};
use mlxlm_core::{Array, io, transforms};
use mlxlm_models::CausalLm;

use super::Batch;
use crate::report::{Event, Report};
use crate::teacher::{Taught, Teacher};
use crate::{Error, Result};

/// Tokens of each position that files keep.
const KEPT: i32 = 1024;

/// Positions of each text whose logits are in memory at once.
const ROWS: i32 = 64;

/// Which samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// Those that are trained with.
    Train,
    /// Those that are measured with.
    Valid,
}

impl Split {
    /// The name of its folder.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Valid => "valid",
        }
    }
}

/// Where the logits of the teacher come from.
#[derive(Clone, Copy)]
pub enum Targets<'a> {
    /// The teacher, who is asked.
    Model(Teacher<'a>),
    /// A folder that [`write_targets`] or Python mlx-lm has filled.
    Folder(&'a Path),
}

/// The logits that a teacher has for a batch.
#[derive(Debug)]
pub(super) enum Wanted {
    /// Those of all tokens.
    All(Taught),
    /// Those of the likeliest tokens, and which these are: `[1, B · L, N]`.
    Likeliest(Array, Array),
}

impl Wanted {
    /// The logits of some positions of the batch, and of which tokens they are if not of all.
    pub(super) fn of(&self, range: Range<i32>) -> Result<(Array, Option<Array>)> {
        match self {
            Self::All(taught) => Ok((taught.logits(range)?, None)),
            Self::Likeliest(logits, indices) => {
                Ok((logits.try_index((.., range.clone()))?, Some(indices.try_index((.., range))?)))
            }
        }
    }
}

impl Targets<'_> {
    /// What the teacher says of the batch with this number.
    pub(super) fn of(&self, split: Split, number: usize, inputs: &Array) -> Result<Wanted> {
        let as_one = |array: &Array| array.reshape(&[1, -1, array.dim(-1)]);
        match self {
            Self::Model(open) => Ok(Wanted::All(Taught::read(open, inputs)?)),
            Self::Folder(folder) => {
                let path = folder.join(split.name()).join(file_name(number));
                let wrong = |why: &str| Error::Targets { path: path.clone(), why: why.to_owned() };
                let mut arrays = SafetensorsFile::open(&path)?.arrays()?;
                let logits = arrays.remove("logits").ok_or_else(|| wrong("it has no `logits`"))?;
                let indices = arrays.remove("indices").ok_or_else(|| wrong("it has no `indices`"))?;
                let fits =
                    logits.ndim() == 3 && logits.shape() == indices.shape() && logits.shape()[..2] == *inputs.shape();
                if !fits {
                    return Err(wrong("it is of samples of other lengths"));
                }
                Ok(Wanted::Likeliest(as_one(&logits)?, as_one(&indices)?))
            }
        }
    }
}

pub(super) fn file_name(number: usize) -> PathBuf {
    format!("{number:010}.safetensors").into()
}

/// Asks the teacher once, and keeps the likeliest tokens of each position in files `train/0000000000.safetensors` and so on.
pub fn write_targets(
    teacher: &dyn CausalLm,
    folder: &Path,
    (train, valid): (&[Batch], &[Batch]),
    report: Report<'_>,
) -> Result<()> {
    for (split, batches) in [(Split::Train, train), (Split::Valid, valid)] {
        let folder = folder.join(split.name());
        io::create_dir_all(&folder)?;
        for (i, batch) in batches.iter().enumerate() {
            report(Event::Step { what: "targets", done: i, of: batches.len() });
            let path = folder.join(file_name(i));
            // What an interrupted run has kept already is whole: files appear by rename.
            if path.is_file() {
                continue;
            }
            let states = teacher.hidden(&batch.inputs, None)?;
            let (mut logits, mut indices) = (Vec::new(), Vec::new());
            for start in (0..states.dim(1)).step_by(ROWS as usize) {
                let of_rows = teacher.head(&states.try_index((.., start..(start + ROWS).min(states.dim(1))))?)?;
                let kept = KEPT.min(of_rows.dim(-1));
                let order = argpartition_axis(&of_rows, -kept, -1)?;
                let likeliest = order.try_index((.., .., -kept..))?.contiguous()?;
                let of_rows = of_rows.take_along_axis(&likeliest, -1)?;
                transforms::eval([&of_rows, &likeliest])?;
                logits.push(of_rows);
                indices.push(likeliest);
            }
            let whole = |parts: &[Array]| mlxlm_core::ops::concatenate(parts, 1);
            let arrays = [("logits".to_owned(), whole(&logits)?), ("indices".to_owned(), whole(&indices)?)];
            save_safetensors(path, &arrays, &BTreeMap::new())?;
        }
        report(Event::Step { what: "targets", done: batches.len(), of: batches.len() });
    }
    Ok(())
}
