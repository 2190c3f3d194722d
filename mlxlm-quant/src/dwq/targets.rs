//! What a teacher says, as it is asked or from files that keep the likeliest tokens of each position.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use mlxlm_core::ops::argpartition_axis;
use mlxlm_core::ops::indexing::TryIndexOp;
use mlxlm_core::weights::{SafetensorsFile, save_safetensors};
use mlxlm_core::{Array, io, transforms};
use mlxlm_models::CausalLm;

use super::Batch;
use crate::report::{Event, Report};
use crate::{Error, Result};

/// Tokens of each position that files keep.
const KEPT: i32 = 1024;

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
#[derive(Debug, Clone, Copy)]
pub enum Targets<'a> {
    /// The teacher, who is asked.
    Model(&'a dyn CausalLm),
    /// A folder that [`write_targets`] or Python mlx-lm has filled.
    Folder(&'a Path),
}

/// Logits of a batch.
#[derive(Debug)]
pub(super) struct Wanted {
    /// `[B, L, N]`.
    pub(super) logits: Array,
    /// Whose they are, if not of all tokens: `[B, L, N]`.
    pub(super) indices: Option<Array>,
}

impl Targets<'_> {
    /// What the teacher says of the batch with this number.
    pub(super) fn of(&self, split: Split, number: usize, inputs: &Array) -> Result<Wanted> {
        match self {
            Self::Model(teacher) => {
                let logits = teacher.forward(inputs, None)?;
                transforms::eval([&logits])?;
                Ok(Wanted { logits, indices: None })
            }
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
                Ok(Wanted { logits, indices: Some(indices) })
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
            let logits = teacher.forward(&batch.inputs, None)?;
            let kept = KEPT.min(logits.dim(-1));
            let order = argpartition_axis(&logits, -kept, -1)?;
            let indices = order.try_index((.., .., -kept..))?;
            let logits = logits.take_along_axis(&indices, -1)?;
            let arrays = [("logits".to_owned(), logits), ("indices".to_owned(), indices.contiguous()?)];
            save_safetensors(path, &arrays, &BTreeMap::new())?;
        }
        report(Event::Step { what: "targets", done: batches.len(), of: batches.len() });
    }
    Ok(())
}
