//! `perplexity`: how well a model predicts texts, and how far it is from another.

use std::time::Instant;

use mlxlm_core::{device, nn};
use mlxlm_train::data::{self, Source};
use mlxlm_train::evaluate::{self, Comparison, Perplexity};
use serde_json::json;

use crate::args::PerplexityArgs;
use crate::failure::{Failure, Result};
use crate::model;
use crate::output::say;
use crate::progress::{self, Counted};
use crate::terminal;

/// Runs the command.
pub(super) fn run(args: &PerplexityArgs) -> Result {
    let samples = match args.num_samples {
        0 => return Err(Failure::usage("`--num-samples` is 0, expected a positive number, or -1 for all")),
        samples => usize::try_from(samples).ok(),
    };
    let loaded = model::load_model(&args.model, &args.variant, <_>::default())?;
    let source = Source {
        train_split: Some(args.split.clone()),
        valid_split: Some(args.split.clone()),
        test_split: Some(args.split.clone()),
        ..Source::new(&args.data_path)
    };
    let records = data::read_split(&source, &args.split, &model::hub()?, &progress::shown())?;
    let length = args.sequence_length.get();
    let sequences = evaluate::sequences(&records, &source.keys, &loaded.tokenizer, length, samples, args.seed)?;
    drop(records);
    let (begin, batch_size) = (Instant::now(), args.batch_size.get());
    let counted = Counted::new("perplexity", sequences.len());
    let measured = evaluate::perplexity(&*loaded.model, &sequences, batch_size, |done| counted.set(done))?;
    counted.finish();
    let seconds = begin.elapsed().as_secs_f64();
    let compared = match &args.against {
        None => None,
        Some(other) => {
            let other = model::load_model(other, &<_>::default(), <_>::default())?;
            let counted = Counted::new("comparison", sequences.len());
            let done = |done| counted.set(done);
            let compared = evaluate::compare(&*loaded.model, &*other.model, &sequences, batch_size, done)?;
            counted.finish();
            Some(compared)
        }
    };
    let (parameters, _) = nn::size(&*loaded.model);
    let peak = device::peak_memory_bytes()? as f64 / 1e9;
    if args.json {
        return say!("{:#}", report(args, &measured, compared.as_ref(), seconds, peak));
    }
    let Perplexity { perplexity, error, tokens, .. } = measured;
    say!("Model: {} ({:.1}M parameters)", terminal::name(&args.model), parameters as f64 / 1e6)?;
    say!("Perplexity: {perplexity:.3} ± {error:.3}")?;
    if let (Some(compared), Some(other)) = (&compared, &args.against) {
        say!("Against {} (perplexity {:.3}):", terminal::name(other), compared.perplexity_of_other)?;
        say!(
            "  KL divergence: {:.5} ± {:.5}, at most {:.3}",
            compared.divergence,
            compared.divergence_error,
            compared.greatest
        )?;
        say!("  Same best token: {:.2} % ± {:.2} %", 100.0 * compared.same_top, 100.0 * compared.same_top_error)?;
    }
    say!("Sequences: {} of {length} tokens", sequences.len())?;
    say!("Evaluation time: {seconds:.2} seconds")?;
    say!("Peak memory: {peak:.2} GB")?;
    say!("Tokens per second: {:.0}", tokens as f64 / seconds.max(1e-9))
}

fn report(
    args: &PerplexityArgs,
    measured: &Perplexity,
    compared: Option<&Comparison>,
    seconds: f64,
    peak: f64,
) -> serde_json::Value {
    let compared = compared.map(|compared| {
        json!({
            "model": args.against,
            "perplexity": compared.perplexity_of_other,
            "kl_divergence": compared.divergence,
            "kl_divergence_stderr": compared.divergence_error,
            "kl_divergence_max": compared.greatest,
            "same_top_1": compared.same_top,
            "same_top_1_stderr": compared.same_top_error,
            "tokens": compared.tokens,
        })
    });
    json!({
        "model": args.model,
        "perplexity": measured.perplexity,
        "perplexity_stderr": measured.error,
        "loss": measured.loss,
        "tokens": measured.tokens,
        "seconds": seconds,
        "peak_memory_gb": peak,
        "against": compared,
    })
}
