//! The commands that learn how to quantize: what they have in common.

pub(super) mod awq;
pub(super) mod budget;
pub(super) mod dwq;
pub(super) mod dynamic;
pub(super) mod gptq;

use std::path::Path;

use mlxlm_core::error::{LISTED, listed};
use mlxlm_core::nn::Precision;
use mlxlm_core::quant::{Mode, Scheme};
use mlxlm_models::NewFolder;
use mlxlm_quant::plan::{self, Plan};
use mlxlm_quant::{Calibration, CalibrationOptions, Converted, Job};

use crate::args::LearnArgs;
use crate::commands::convert;
use crate::failure::{Failure, Result};
use crate::model::{self, Source};
use crate::output::{note, say, warn};

/// A model that is about to be quantized.
struct Begun {
    job: Job,
    source: Source,
    folder: NewFolder,
}

/// Makes the folder and opens the model, which must be dense.
fn begin(name: &str, args: &LearnArgs) -> Result<Begun> {
    let folder = NewFolder::create(&args.mlx_path)?;
    if args.trust_remote_code {
        warn(model::CODE_IS_NEVER_RUN);
    }
    say!("[INFO] Loading")?;
    let source = model::resolve(name, args.revision.as_deref())?;
    let job = Job::dense(&source.folder)?;
    job.warnings.iter().for_each(warn);
    Ok(Begun { job, source, folder })
}

impl Begun {
    /// Writes the folder.
    fn finish(self, head: Scheme, revision: Option<&str>, section: &str) -> Result {
        let card = convert::model_card(&self.source, revision)?.render(None) + section;
        finished(&self.job.finish(self.folder, head, Some(&card))?)
    }
}

/// Warns of leaves that stay dense because the scheme does not fit them.
fn warn_of_dense(job: &Job, plan: &Plan, scheme: Scheme) {
    let leaves = plan::packables(&*job.model).into_iter();
    let dense = leaves.filter(|leaf| leaf.precision != Precision::Dense && !plan.contains_key(&leaf.path));
    let dense: Vec<String> = dense.map(|leaf| leaf.path).collect();
    if !dense.is_empty() {
        let paths = listed(&dense, LISTED);
        warn(format_args!("{paths} are not quantized, because {scheme} cannot pack matrices of their shape"));
    }
}

fn finished(converted: &Converted) -> Result {
    say!("[INFO] Quantized model with {:.3} bits per weight.", converted.bits_per_weight)
}

/// The samples, and in words that there are fewer than were asked for.
fn calibration(job: &Job, args: &LearnArgs, num_samples: i64, sequence_length: usize) -> Result<Calibration> {
    let num_samples = usize::try_from(num_samples).ok().filter(|&count| count > 0);
    let options = CalibrationOptions { path: text(args)?, num_samples, sequence_length, seed: args.seed };
    let calibration = Calibration::read(&job.tokenizer, &options)?;
    // The texts that are built in are few, as their help says.
    calibration.note().iter().filter(|_| args.data_path.is_some()).for_each(note);
    Ok(calibration)
}

/// The file of texts; a data set of the hub is refused by name.
fn text(args: &LearnArgs) -> Result<Option<std::path::PathBuf>> {
    let Some(path) = &args.data_path else { return Ok(None) };
    if !path.exists() && looks_like_repo(path) {
        let message = format!("`{}` is no file here, and data sets of the hub are not downloaded", path.display());
        return Err(Failure::usage(message).hint("download it, and name a file of text or of JSON objects, one a line"));
    }
    Ok(Some(path.clone()))
}

fn looks_like_repo(path: &Path) -> bool {
    path.extension().is_none() && path.components().count() == 2 && path.is_relative()
}

/// An affine scheme.
fn affine(bits: i32, group_size: i32) -> Result<Scheme> {
    Ok(Scheme::new(Mode::Affine, bits, group_size)?)
}

/// Refuses what takes more than one machine, or is not there.
fn refuse(option: &str, given: bool, why: &str) -> Result {
    if given { Err(Failure::usage(format!("`{option}` is not supported: {why}"))) } else { Ok(()) }
}

/// Why `--grad-checkpoint` is refused.
const NO_CHECKPOINTS: &str = "gradients of this version keep all activations; take shorter samples or fewer at once";
