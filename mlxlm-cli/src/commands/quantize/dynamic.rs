//! `dynamic_quant`.

use std::path::PathBuf;

use mlxlm_quant::dynamic::{self, Levels};
use mlxlm_quant::plan;
use mlxlm_train::evaluate;
use serde_json::json;

use super::{affine, begin, calibration, forget, kept, warn_of_dense};
use crate::args::DynamicQuantArgs;
use crate::failure::Result;
use crate::output::say;
use crate::progress;

/// Runs the command.
pub(in crate::commands) fn run(args: &DynamicQuantArgs) -> Result {
    let levels = Levels {
        low: affine(args.low_bits, args.low_group_size)?,
        high: affine(args.high_bits, args.high_group_size)?,
    };
    let mut begun = begin(&args.model, &args.learn)?;
    begun.job.check(levels.low)?;
    let model = &*begun.job.model;
    let samples = || calibration(&begun.job, &args.learn, args.num_samples, args.sequence_length);
    let mut run = None;
    let sensitivities = match &args.sensitivities {
        Some(path) => dynamic::read(path, model, levels)?,
        None => {
            let samples = samples()?;
            let schemes = [levels.low, levels.high].map(|scheme| scheme.to_string());
            let options = json!({"command": "dynamic_quant", "schemes": schemes});
            run = kept(args.checkpoint.as_deref(), &begun.job, &samples, &options)?;
            let (mut student, batches) = (begun.job.again()?, samples.batches(4));
            let options = (levels, run.as_ref());
            let found = dynamic::sensitivities(model, &mut *student, &batches, options, &mut progress::work())?;
            let path = PathBuf::from(args.model.replace('/', "_") + "_sensitivities.json");
            dynamic::write(&path, &found)?;
            say!("[INFO] Sensitivities are in {}", path.display())?;
            found
        }
    };
    let texts = args.report_ppl.then(samples).transpose()?;
    let perplexity = |words: &str, model: &dyn mlxlm_models::CausalLm| match &texts {
        Some(texts) => {
            let found = evaluate::perplexity(model, texts.sequences(), 4, |_| ())?;
            say!("{words} PPL: {:.3}", found.perplexity)
        }
        None => Ok(()),
    };
    perplexity("Original", model)?;
    let chosen = dynamic::choose(model, &sensitivities, levels, args.target_bpw)?;
    warn_of_dense(&begun.job, &chosen, levels.low);
    plan::round(&mut *begun.job.model, &chosen)?;
    perplexity("Quantized", &*begun.job.model)?;
    begun.finish(levels.low, args.learn.revision.as_deref(), "")?;
    forget(run)
}
