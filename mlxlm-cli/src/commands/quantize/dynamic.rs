//! `dynamic_quant`.

use std::path::PathBuf;

use mlxlm_core::Dtype;
use mlxlm_quant::dynamic::{self, Levels, SensitivityOptions};
use mlxlm_quant::{divergence, plan};

use super::{NO_CHECKPOINTS, affine, begin, calibration, refuse, warn_of_dense};
use crate::args::{DynamicQuantArgs, SumType};
use crate::failure::Result;
use crate::output::say;
use crate::progress;

/// Runs the command.
pub(in crate::commands) fn run(args: &DynamicQuantArgs) -> Result {
    refuse("--grad-checkpoint", args.grad_checkpoint, NO_CHECKPOINTS)?;
    let levels = Levels {
        low: affine(args.low_bits, args.low_group_size)?,
        high: affine(args.high_bits, args.high_group_size)?,
    };
    let mut begun = begin(&args.model, &args.learn)?;
    begun.job.check(levels.low)?;
    let model = &*begun.job.model;
    let samples = || calibration(&begun.job, &args.learn, args.num_samples, args.sequence_length);
    let sensitivities = match &args.sensitivities {
        Some(path) => dynamic::read(path, model, levels)?,
        None => {
            let accumulate = match args.accumulation_dtype {
                SumType::Float32 => Dtype::Float32,
                SumType::Bfloat16 => Dtype::Bfloat16,
            };
            let options = SensitivityOptions { levels, accumulate };
            let batches = samples()?.batches(4);
            let mut student = begun.job.again()?;
            let found = dynamic::sensitivities(model, &mut *student, &batches, options, &mut progress::work())?;
            let path = PathBuf::from(args.model.replace('/', "_") + "_sensitivities.json");
            dynamic::write(&path, &found)?;
            say!("[INFO] Sensitivities are in {}", path.display())?;
            found
        }
    };
    let texts = if args.report_ppl { samples()?.batches(4) } else { Vec::new() };
    let perplexity = |words: &str, model: &dyn mlxlm_models::CausalLm| match args.report_ppl {
        true => say!("{words} PPL: {:.3}", divergence::perplexity(model, &texts)?),
        false => Ok(()),
    };
    perplexity("Original", model)?;
    let chosen = dynamic::choose(model, &sensitivities, levels, args.target_bpw)?;
    warn_of_dense(&begun.job, &chosen, levels.low);
    plan::round(&mut *begun.job.model, &chosen)?;
    perplexity("Quantized", &*begun.job.model)?;
    begun.finish(levels.low, args.learn.revision.as_deref(), "")
}
