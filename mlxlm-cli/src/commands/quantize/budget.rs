//! `quantize`: as good as a budget allows.

use std::path::PathBuf;

use mlxlm_core::nn;
use mlxlm_core::quant::Scheme;
use mlxlm_quant::budget::{self, Figures, Goal, MeasureOptions};
use mlxlm_quant::dwq::{Batch, DwqOptions, Targets, Unit, dwq};
use mlxlm_quant::gptq::{Care, Packing, gptq};
use mlxlm_quant::plan::Plan;
use mlxlm_quant::{Calibration, Error, open_model};
use mlxlm_train::evaluate;
use serde_json::{Value, json};

use super::{begin, calibration, forget, kept};
use crate::args::QuantizeArgs;
use crate::failure::{Failure, Result};
use crate::output::{note, say};
use crate::progress;

/// How often a divergence that is too large is tried again with more bits.
const ATTEMPTS: usize = 3;

/// Runs the command.
pub(in crate::commands) fn run(args: &QuantizeArgs) -> Result {
    let mut goal = goal(args)?;
    let mut begun = begin(&args.model, &args.learn)?;
    let mut samples = calibration(&begun.job, &args.learn, args.num_samples, args.sequence_length)?;
    let held = samples.hold_out(samples.len().div_ceil(8));
    let few: Vec<_> = samples.batches(1).into_iter().take(args.measure_samples.get()).collect();
    let options = MeasureOptions::default();
    let kept = kept(args.checkpoint.as_deref(), &begun.job, &samples, &of_run(args))?;
    let measured = budget::measure(&mut *begun.job.model, &few, &options, kept.as_ref(), &mut progress::work())?;
    let mut attempt = 1;
    let figures = loop {
        let (plan, expected) = budget::choose(&*begun.job.model, &measured, goal)?;
        say!("[INFO] {}", in_words(&plan))?;
        let part = kept.as_ref().map(|kept| kept.part(&format!("attempt-{attempt}"))).transpose()?;
        let packing = Packing { plan: &plan, care: Care::FULL, kept: part.as_ref() };
        gptq(&mut *begun.job.model, &samples.batches(4), packing, &mut progress::work())?;
        let checkpoint = part.map(|part| part.file("scales.safetensors"));
        tune(args, &mut begun.job, (&samples, &held.batches(1)), checkpoint)?;
        let teacher = begun.job.again()?;
        let comparison = evaluate::compare(&*begun.job.model, &*teacher, held.sequences(), 1, |_| ())?;
        let (weights, bytes) = nn::size(&*begun.job.model);
        let bits_per_weight = bytes as f64 * 8.0 / weights.max(1) as f64;
        let figures = Figures { comparison, bytes, bits_per_weight };
        match args.max_kl {
            Some(most) if comparison.divergence > most && attempt < ATTEMPTS => {
                note(format_args!(
                    "the divergence is {:.5}, more than {most}: again with more bits",
                    comparison.divergence
                ));
                goal = Goal::Kl(0.8 * expected * most / comparison.divergence);
                begun.job.model = begun.job.again()?;
                attempt += 1;
            }
            Some(most) if comparison.divergence > most => {
                let (wanted, nearest) = (format!("a divergence of {most}"), format!("{:.6}", comparison.divergence));
                return Err(Error::Budget { wanted, nearest }.into());
            }
            _ => break figures,
        }
    };
    let found = figures.comparison;
    say!("[INFO] KL divergence {:.5}, same likeliest token {:.2} %", found.divergence, 100.0 * found.same_top)?;
    say!("[INFO] perplexity {:.3}, of the original {:.3}", found.perplexity, found.perplexity_of_other)?;
    let section = budget::card(&*begun.job.model, &figures);
    let head = usual(&*begun.job.model)?;
    begun.finish(head, args.learn.revision.as_deref(), &section)?;
    forget(kept)
}

/// All that the result depends on beside the model and the samples.
fn of_run(args: &QuantizeArgs) -> Value {
    json!({
        "command": "quantize",
        "target_bpw": args.target_bpw,
        "target_bytes": args.target_bytes,
        "max_kl": args.max_kl,
        "measure_samples": args.measure_samples,
        "epochs": args.epochs,
        "relative_learning_rate": args.relative_learning_rate,
        "batch_size": args.batch_size,
    })
}

/// What has to be kept to.
fn goal(args: &QuantizeArgs) -> Result<Goal> {
    let positive = |name: &str, value: f64| match value > 0.0 && value.is_finite() {
        true => Ok(value),
        false => Err(Failure::usage(format!("`{name}` is {value}, expected a number above 0"))),
    };
    Ok(match (args.target_bpw, args.target_bytes, args.max_kl) {
        (Some(bits), ..) => Goal::BitsPerWeight(positive("--target-bpw", bits)?),
        (_, Some(bytes), _) => Goal::Bytes(bytes as u64),
        (.., Some(kl)) => Goal::Kl(positive("--max-kl", kl)?),
        _ => return Err(Failure::usage("neither `--target-bpw` nor `--target-bytes` nor `--max-kl` is given")),
    })
}

/// Trains scales and biases with the samples that the codes were chosen with.
fn tune(
    args: &QuantizeArgs,
    job: &mut mlxlm_quant::Job,
    (samples, held): (&Calibration, &[mlxlm_core::Array]),
    checkpoint: Option<PathBuf>,
) -> Result {
    if args.epochs == 0 {
        return Ok(());
    }
    let whole = |inputs: mlxlm_core::Array| -> Result<Batch> {
        let mask = mlxlm_core::ops::ones::<f32>(inputs.shape()).map_err(mlxlm_core::Error::from)?;
        Ok(Batch { inputs, mask })
    };
    let once: Vec<Batch> = samples.batches(args.batch_size).into_iter().map(whole).collect::<Result<_>>()?;
    let train: Vec<Batch> = (0..args.epochs).flat_map(|_| once.iter().cloned()).collect();
    let valid: Vec<Batch> = held.iter().cloned().map(whole).collect::<Result<_>>()?;
    // What is measured in the end is the divergence of the logits as they are.
    let options = DwqOptions {
        learning_rate: args.relative_learning_rate,
        unit: Unit::Step,
        falling: true,
        temperature: 1.0,
        checkpoint,
        only_better: true,
        ..DwqOptions::default()
    };
    let source = job.source().to_owned();
    let teacher = || open_model(&source);
    match dwq(&mut *job.model, &Targets::Model(&teacher), (&train, &valid), &options, &mut progress::work()) {
        Ok(_) | Err(Error::NothingToTrain) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// How many leaves have which scheme.
fn in_words(plan: &Plan) -> String {
    let mut counts: Vec<(Scheme, usize)> = Vec::new();
    for &scheme in plan.values() {
        match counts.iter_mut().find(|(known, _)| *known == scheme) {
            Some((_, count)) => *count += 1,
            None => counts.push((scheme, 1)),
        }
    }
    counts.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
    let words = |(scheme, count): &(Scheme, usize)| {
        format!("{count} × {} {} bits by {}", scheme.mode, scheme.bits, scheme.group_size)
    };
    counts.iter().map(words).collect::<Vec<_>>().join(", ")
}

/// The scheme that most leaves have.
fn usual(model: &dyn mlxlm_models::CausalLm) -> Result<Scheme> {
    let mut schemes = Vec::new();
    model.walk("", &mut |_, leaf| schemes.extend(leaf.matrix().and_then(nn::Matrix::scheme)));
    let count = |scheme: &Scheme| schemes.iter().filter(|other| *other == scheme).count();
    let usual = schemes.iter().max_by_key(|scheme| count(scheme)).copied();
    usual.ok_or_else(|| Failure::new("no matrix of the model can be packed"))
}
