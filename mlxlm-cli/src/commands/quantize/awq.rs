//! `awq`.

use mlxlm_quant::awq::{AwqOptions, awq};
use mlxlm_quant::plan;
use serde_json::json;

use super::{affine, begin, calibration, forget, kept, warn_of_dense};
use crate::args::AwqArgs;
use crate::failure::Result;
use crate::progress;

/// Runs the command.
pub(in crate::commands) fn run(args: &AwqArgs) -> Result {
    let scheme = affine(args.bits, args.group_size)?;
    let embed = affine(args.embed_bits, args.embed_group_size)?;
    let mut begun = begin(&args.model, &args.learn)?;
    begun.job.check(scheme)?;
    let samples = calibration(&begun.job, &args.learn, args.num_samples, args.sequence_length)?;
    warn_of_dense(&begun.job, &plan::uniform(&*begun.job.model, scheme), scheme);
    let options = AwqOptions { scheme, embed, n_grid: args.n_grid.get() };
    let schemes = [scheme, embed].map(|scheme| scheme.to_string());
    let of_run = json!({"command": "awq", "schemes": schemes, "n_grid": args.n_grid});
    let kept = kept(args.checkpoint.as_deref(), &begun.job, &samples, &of_run)?;
    awq(&mut *begun.job.model, &samples.batches(4), &options, kept.as_ref(), &mut progress::work())?;
    begun.finish(scheme, args.learn.revision.as_deref(), "")?;
    forget(kept)
}
