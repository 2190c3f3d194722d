//! `gptq`.

use mlxlm_quant::gptq::{Care, GptqOptions, Packing, gptq};
use serde_json::json;

use super::{affine, begin, calibration, forget, kept, warn_of_dense};
use crate::args::GptqArgs;
use crate::failure::Result;
use crate::progress;

/// Runs the command.
pub(in crate::commands) fn run(args: &GptqArgs) -> Result {
    let scheme = affine(args.bits, args.group_size)?;
    let fallback = affine(args.fallback_bits, args.fallback_group_size)?;
    let mut begun = begin(&args.model, &args.learn)?;
    begun.job.check(scheme)?;
    let samples = calibration(&begun.job, &args.learn, args.num_samples, args.sequence_length)?;
    let plan = GptqOptions { scheme, fallback }.plan(&*begun.job.model);
    warn_of_dense(&begun.job, &plan, scheme);
    let care = if args.plain { Care::REFERENCE } else { Care::FULL };
    let schemes = [scheme, fallback].map(|scheme| scheme.to_string());
    let options = json!({"command": "gptq", "schemes": schemes, "plain": args.plain});
    let kept = kept(args.checkpoint.as_deref(), &begun.job, &samples, &options)?;
    let packing = Packing { plan: &plan, care, kept: kept.as_ref() };
    gptq(&mut *begun.job.model, &samples.batches(4), packing, &mut progress::work())?;
    begun.finish(scheme, args.learn.revision.as_deref(), "")?;
    forget(kept)
}
