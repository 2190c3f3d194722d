//! `benchmark`: how fast a model reads and writes (`mlx_lm/benchmark.py` 0.32.2).
//!
//! Unusual:
//! - Prompts are random tokens and no text is made, so the folder needs no tokenizer.
//! - Tokens a second are those after the first, over the time after the first; the reference counts the first as well.
//! - `--context-tokens`, `--skip-warmup`, `--json`, `--bandwidth`, `--decoding` and the precision of caches are ours: `cargo xtask bench` lives on them.

mod context;
pub(crate) mod decoding;
mod trial;

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use mlxlm_core::{Array, bandwidth, device, nn, random};
use mlxlm_models::{Built, CausalLm, LoadOptions, load_model};
use mlxlm_sample::{GenerateOptions, engine};
use serde_json::json;

use self::trial::{Setting, Trial};
use super::generate::{kv_quantization, prefill_step_size};
use crate::args::{BenchmarkArgs, DEFAULT_MODEL};
use crate::failure::{Failure, Result};
use crate::model::{CODE_IS_NEVER_RUN, resolve};
use crate::output::{say, warn};

/// Runs the command.
pub(super) fn run(args: &BenchmarkArgs) -> Result {
    refuse(args)?;
    if args.bandwidth {
        return show_bandwidth(args.json);
    }
    if let Some(part) = args.decoding {
        return decoding::run(part, args);
    }
    let begin = Instant::now();
    let model = load(args)?;
    let (_, weight_bytes) = nn::size(&*model);
    trial::first_token(&*model)?;
    let ready_s = begin.elapsed().as_secs_f64();

    check_room(&*model, args)?;
    random::seed(0).map_err(mlxlm_core::Error::from)?;
    let mut setting = Setting {
        model: &*model,
        prompts: random_prompts(&*model, args)?,
        context: context::filled(&*model, args.context_tokens)?,
        kv_quantization: kv_quantization(&args.precision)?,
        state_bf16: args.precision.gdn_state_bf16,
        generation_tokens: args.generation_tokens.get(),
        prefill_step_size: prefill_step_size(args.prefill_step_size, None),
    };
    let line = |text: String| if args.json { Ok(()) } else { say!("{text}") };
    if !args.skip_warmup {
        line("Running warmup..".to_owned())?;
        setting.run()?;
    }
    let (p, g, b) = (args.prompt_tokens, args.generation_tokens, args.batch_size);
    line(format!("Timing with prompt_tokens={p}, generation_tokens={g}, batch_size={b}."))?;
    let mut trials = Vec::new();
    for i in 1..=args.num_trials.get() {
        thread::sleep(Duration::from_secs(args.delay));
        let trial = setting.run()?;
        line(format!("Trial {i}:  {}, total_time={:.3}", figures(&[&trial]), trial.total_s))?;
        trials.push(trial);
    }
    line(format!("Averages: {}", figures(&trials.iter().collect::<Vec<_>>())))?;
    if !args.json {
        return Ok(());
    }
    say!(
        "{}",
        json!({
            "model_type": model.info().model_type,
            "prompt_tokens": p,
            "generation_tokens": g,
            "batch_size": b,
            "context_tokens": args.context_tokens,
            "weight_bytes": weight_bytes,
            "ready_s": ready_s,
            "trials": trials.iter().map(Trial::to_json).collect::<Vec<_>>(),
            "peak_memory_bytes": device::peak_memory_bytes()?,
            "peak_resident_bytes": peak_resident_bytes(),
        })
    )
}

/// What this version does not do is said, not passed over.
fn refuse(args: &BenchmarkArgs) -> Result {
    if args.pipeline {
        return Err(Failure::usage("`--pipeline` is not supported: a model runs on one machine"));
    }
    if args.quantize_activations {
        return Err(Failure::usage("`--quantize-activations` is not supported"));
    }
    Ok(())
}

fn load(args: &BenchmarkArgs) -> Result<Box<dyn CausalLm>> {
    if args.model.variant.trust_remote_code {
        warn(CODE_IS_NEVER_RUN);
    }
    let name = args.model.model.as_deref().unwrap_or(DEFAULT_MODEL);
    let source = resolve(name, args.model.variant.revision.as_deref())?;
    let options = LoadOptions { adapter_path: args.model.variant.adapter_path.clone(), ..LoadOptions::default() };
    let (Built { mut model, warnings }, _) = load_model(source.folder, &options)?;
    warnings.iter().for_each(warn);
    nn::arrange(&mut *model).map_err(mlxlm_core::Error::from)?;
    Ok(model)
}

/// Refuses what there is no memory for: all tokens of all sequences are known.
fn check_room(model: &dyn CausalLm, args: &BenchmarkArgs) -> Result {
    let context = args.context_tokens as usize;
    let tokens = context.saturating_add(args.prompt_tokens.get()).saturating_add(args.generation_tokens.get());
    let options = GenerateOptions {
        kv_quantization: kv_quantization(&args.precision)?,
        state_bf16: args.precision.gdn_state_bf16,
        ..GenerateOptions::default()
    };
    Ok(engine::check_room(model, &options, args.batch_size.get(), tokens)?)
}

/// As many prompts as there are sequences, of random tokens.
fn random_prompts(model: &dyn CausalLm, args: &BenchmarkArgs) -> Result<Vec<Vec<u32>>> {
    // Of 31 bits, by its parser.
    let tokens = args.prompt_tokens.get() as i32;
    let prompt = |_| {
        let drawn = random::randint::<_, u32>(0, model.info().vocab_size, &[tokens], None);
        let tokens_of = |drawn: Array| Ok(drawn.to_vec_exact::<u32>()?);
        Ok(drawn.map_err(mlxlm_core::Error::from).and_then(tokens_of)?)
    };
    (0..args.batch_size.get()).map(prompt).collect()
}

/// The means of trials, in the words of the reference.
fn figures(trials: &[&Trial]) -> String {
    let mean = |of: fn(&Trial) -> f64| trials.iter().map(|trial| of(trial)).sum::<f64>() / trials.len() as f64;
    let (prompt, generation) = (mean(|trial| trial.prompt_tps), mean(|trial| trial.generation_tps));
    let peak = mean(|trial| trial.peak_memory_bytes as f64 / 1e9);
    format!("prompt_tps={prompt:.3}, generation_tps={generation:.3}, peak_memory={peak:.3}")
}

/// `--bandwidth`.
fn show_bandwidth(json: bool) -> Result {
    let read = bandwidth::measure().map_err(|error| Failure::new(format!("cannot measure the bandwidth: {error}")))?;
    let bandwidth::Bandwidth { bytes_per_s, usual_bytes_per_s, threads } = read;
    let (gb, usual) = (bytes_per_s / 1e9, usual_bytes_per_s / 1e9);
    match json {
        true => {
            say!("{}", json!({"bytes_per_s": bytes_per_s, "usual_bytes_per_s": usual_bytes_per_s, "threads": threads}))
        }
        false => say!("Read bandwidth: {gb:.1} GB/s with {threads} threads (median {usual:.1} GB/s)"),
    }
}

/// The most memory that the process has had resident, in bytes; only Linux tells.
fn peak_resident_bytes() -> Option<u64> {
    peak_in_status(&std::fs::read_to_string(Path::new("/proc/self/status")).ok()?)
}

fn peak_in_status(status: &str) -> Option<u64> {
    let kilobytes = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?.trim().strip_suffix("kB")?;
    Some(kilobytes.trim().parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_is_read_from_what_linux_says() {
        assert_eq!(peak_in_status("VmPeak:\t 1 kB\nVmHWM:\t   2052 kB\nVmRSS:\t 3 kB\n"), Some(2052 * 1024));
        assert_eq!(peak_in_status("VmRSS: 3 kB\n"), None);
    }

    #[test]
    fn figures_are_means_in_the_words_of_the_reference() {
        let trial = |prompt_tps, generation_tps| Trial {
            prompt_tps,
            generation_tps,
            peak_memory_bytes: 2_500_000_000,
            ..Trial::default()
        };
        let shown = figures(&[&trial(100.0, 10.0), &trial(200.0, 11.0)]);
        assert_eq!(shown, "prompt_tps=150.000, generation_tps=10.500, peak_memory=2.500");
    }
}
