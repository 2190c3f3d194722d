//! `dynamic_quant`.

use std::path::PathBuf;

use mlxlm_models::CausalLm;
use mlxlm_quant::dynamic::{self, Levels, Sensitivities};
use mlxlm_quant::{Calibration, Job, Kept, open_model, plan};
use mlxlm_train::evaluate;
use serde_json::json;

use super::{affine, begin, calibration, forget, kept, warn_of_dense};
use crate::args::DynamicQuantArgs;
use crate::failure::Result;
use crate::output::say;
use crate::progress;

/// Samples in a batch. The result depends on it by rounding only, and memory grows with it.
const BATCH: usize = 2;

/// Runs the command.
pub(in crate::commands) fn run(args: &DynamicQuantArgs) -> Result {
    let levels = Levels {
        low: affine(args.low_bits, args.low_group_size)?,
        high: affine(args.high_bits, args.high_group_size)?,
    };
    let mut begun = begin(&args.model, &args.learn)?;
    begun.job.check(levels.low)?;
    let (sensitivities, run) = match &args.sensitivities {
        Some(path) => (dynamic::read(path, &*begun.job.model, levels)?, None),
        None => estimate(args, &mut begun.job, levels)?,
    };
    let texts = args.report_ppl.then(|| samples(args, &begun.job)).transpose()?;
    let perplexity = |words: &str, model: &dyn CausalLm| match &texts {
        Some(texts) => {
            let found = evaluate::perplexity(model, texts.sequences(), 4, |_| ())?;
            say!("{words} PPL: {:.3}", found.perplexity)
        }
        None => Ok(()),
    };
    perplexity("Original", &*begun.job.model)?;
    let chosen = dynamic::choose(&*begun.job.model, &sensitivities, levels, args.target_bpw)?;
    warn_of_dense(&begun.job, &chosen, levels.low);
    plan::round(&mut *begun.job.model, &chosen)?;
    perplexity("Quantized", &*begun.job.model)?;
    begun.finish(levels.low, args.learn.revision.as_deref(), "")?;
    forget(run)
}

fn samples(args: &DynamicQuantArgs, job: &Job) -> Result<Calibration> {
    calibration(job, &args.learn, args.num_samples, args.sequence_length)
}

/// The sensitivities, which are also written into the current folder, and the checkpoint if there is one.
fn estimate(args: &DynamicQuantArgs, job: &mut Job, levels: Levels) -> Result<(Sensitivities, Option<Kept>)> {
    let samples = samples(args, job)?;
    let schemes = [levels.low, levels.high].map(|scheme| scheme.to_string());
    let options = json!({"command": "dynamic_quant", "schemes": schemes, "batch": BATCH});
    let run = kept(args.checkpoint.as_deref(), job, &samples, &options)?;
    let source = job.source().to_owned();
    let (teacher, options) = (|| open_model(&source), (levels, run.as_ref()));
    let found =
        dynamic::sensitivities(&teacher, &mut *job.model, &samples.batches(BATCH), options, &mut progress::work())?;
    job.model = job.again()?;
    let path = PathBuf::from(args.model.replace('/', "_") + "_sensitivities.json");
    dynamic::write(&path, &found)?;
    say!("[INFO] Sensitivities are in {}", path.display())?;
    Ok((found, run))
}
