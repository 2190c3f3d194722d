//! `awq`.

use mlxlm_quant::awq::{AwqOptions, awq};
use mlxlm_quant::plan;

use super::{affine, begin, calibration, warn_of_dense};
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
    awq(&mut *begun.job.model, &samples.batches(4), &options, &mut progress::work())?;
    begun.finish(scheme, args.learn.revision.as_deref(), "")
}
