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
use mlxlm_quant::{Calibration, CalibrationOptions, Converted, Job, Kept, Most, Texts};
use mlxlm_train::data;
use serde_json::{Value, json};

use crate::args::LearnArgs;
use crate::commands::convert;
use crate::failure::{Failure, Result};
use crate::model::{self, Source};
use crate::output::{note, say, warn};
use crate::progress;

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
    let most = num_samples.map_or(Most::All, |count| Most::Tokens(count.saturating_mul(sequence_length)));
    let options = CalibrationOptions { path: None, num_samples, sequence_length, seed: args.seed };
    let calibration = texts(job, args, most)?.samples(&options)?;
    // The texts that are built in are few, as their help says.
    calibration.note().iter().filter(|_| args.data_path.is_some()).for_each(note);
    Ok(calibration)
}

/// The texts to calibrate with: a file, a folder or a data set of the hub as fine-tuning takes them, or what is built in.
fn texts(job: &Job, args: &LearnArgs, most: Most) -> Result<Texts> {
    match &args.data_path {
        Some(path) if path.is_dir() || !path.exists() && looks_like_repo(path) => {
            let name = path.to_string_lossy();
            let source = data::Source::new(&*name);
            let rows = data::read_split(&source, "train", &model::hub()?, &progress::shown())?;
            Ok(Texts::of_rows(&name, &rows, &job.tokenizer, (args.seed, most))?)
        }
        path => Ok(Texts::read(path.as_deref(), &job.tokenizer)?),
    }
}

fn looks_like_repo(path: &Path) -> bool {
    path.extension().is_none() && path.components().count() == 2 && path.is_relative()
}

/// The folder of `--checkpoint`, begun or gone on with; `options` is all that the result depends on beside the model and the samples.
fn kept(folder: Option<&Path>, job: &Job, samples: &Calibration, options: &Value) -> Result<Option<Kept>> {
    let Some(folder) = folder else { return Ok(None) };
    let samples = json!({"count": samples.len(), "fingerprint": samples.fingerprint()});
    let run = json!({"model": job.files()?, "samples": samples, "options": options});
    Ok(Some(Kept::open(folder, &run)?))
}

/// A run that is over is not gone on with.
fn forget(kept: Option<Kept>) -> Result {
    Ok(kept.map_or(Ok(()), Kept::forget)?)
}

/// An affine scheme.
fn affine(bits: i32, group_size: i32) -> Result<Scheme> {
    Ok(Scheme::new(Mode::Affine, bits, group_size)?)
}

/// Refuses what takes more than one machine, or is not there.
fn refuse(option: &str, given: bool, why: &str) -> Result {
    if given { Err(Failure::usage(format!("`{option}` is not supported: {why}"))) } else { Ok(()) }
}
