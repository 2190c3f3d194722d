//! `dwq`.

use std::path::Path;

use mlxlm_models::NewFolder;
use mlxlm_quant::dwq::{self, Batch, DwqOptions, Targets, Unit};
use mlxlm_quant::{Job, Most, open_model, plan};

use super::{affine, finished, refuse, texts, warn_of_dense};
use crate::args::DwqArgs;
use crate::commands::convert;
use crate::failure::Result;
use crate::model;
use crate::output::{note, say, warn};
use crate::progress;

/// Samples that are measured with.
const VALID: usize = 32;

/// Runs the command.
pub(in crate::commands) fn run(args: &DwqArgs) -> Result {
    refuse("--pipeline", args.pipeline, "pipelines need several machines")?;
    let scheme = affine(args.bits, args.group_size)?;
    let folder = match args.targets_only {
        true => None,
        false => Some(NewFolder::create(&args.learn.mlx_path)?),
    };
    if args.learn.trust_remote_code {
        warn(model::CODE_IS_NEVER_RUN);
    }
    say!("[INFO] Loading")?;
    let revision = args.learn.revision.as_deref();
    let source = model::resolve(&args.model, revision)?;
    let mut student = match &args.quantized_model {
        Some(name) => Job::quantized(&model::resolve(name, None)?.folder)?,
        None => Job::dense(&source.folder)?,
    };
    student.warnings.iter().for_each(warn);
    let (train, valid) = samples(args, &student)?;
    if let Some(target_dir) = args.target_dir.as_deref().filter(|folder| !dwq::has_targets(folder)) {
        let teacher = open_model(&source.folder)?;
        dwq::write_targets(&*teacher, target_dir, (&train, &valid), &mut progress::work())?;
    }
    let Some(folder) = folder else { return Ok(()) };
    if args.quantized_model.is_none() {
        student.check(scheme)?;
        let uniform = plan::uniform(&*student.model, scheme);
        warn_of_dense(&student, &uniform, scheme);
        plan::round(&mut *student.model, &uniform)?;
    }
    let teacher = || open_model(&source.folder);
    let targets = match &args.target_dir {
        Some(folder) => Targets::Folder(folder),
        None => Targets::Model(&teacher),
    };
    let (learning_rate, unit) = match args.relative_learning_rate {
        Some(rate) => (rate, Unit::Step),
        None => (args.learning_rate, Unit::Weight),
    };
    let options = DwqOptions { learning_rate, unit, checkpoint: args.checkpoint.clone(), ..DwqOptions::default() };
    let trained = dwq::dwq(&mut *student.model, &targets, (&train, &valid), &options, &mut progress::work())?;
    say!("[INFO] Validation loss {:.4}, before {:.4}", trained.after, trained.before)?;
    let card = convert::model_card(&source, revision)?.render(None);
    let converted = match args.quantized_model {
        Some(_) => student.save(folder, Some(&card))?,
        None => student.finish(folder, scheme, Some(&card))?,
    };
    args.checkpoint.as_deref().map_or(Ok(()), forget)?;
    finished(&converted)
}

/// A run that is over is not gone on with.
fn forget(checkpoint: &Path) -> Result {
    mlxlm_core::io::remove_file(checkpoint)?;
    Ok(())
}

/// The samples that are trained with, and those that are measured with.
fn samples(args: &DwqArgs, student: &Job) -> Result<(Vec<Batch>, Vec<Batch>)> {
    let most = Most::Rows(args.num_samples.saturating_add(VALID));
    let texts = texts(student, &args.learn, most)?;
    let mut texts = texts.documents(args.max_seq_length.max(2), args.learn.seed)?;
    let valid_count = VALID.min(texts.len().div_ceil(5));
    let mut valid = texts.split_off(texts.len() - valid_count);
    if texts.is_empty() {
        texts.clone_from(&valid);
    }
    if texts.len() < args.num_samples && args.learn.data_path.is_some() {
        note(format_args!("the text has {} samples to train with, fewer than the {}", texts.len(), args.num_samples));
    }
    texts.truncate(args.num_samples.max(1));
    let seed = args.learn.seed;
    valid.truncate(VALID);
    let of_valid = args.batch_size.min(valid.len());
    let of_train = args.batch_size.min(texts.len());
    Ok((dwq::batches(texts, of_train, seed)?, dwq::batches(valid, of_valid, seed)?))
}
