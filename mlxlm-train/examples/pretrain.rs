//! Trains a small language model from scratch: `cargo run --release --example pretrain -- --help`.
//!
//! `--data` holds `train.jsonl` and `valid.jsonl` of `{"tokens": [...]}`. The output is a model folder; with `--resume` a run
//! goes on where it was saved. With `--max-minutes` the learning rate follows the clock as well as the steps, whichever
//! is further, so that a run always ends with its learning rate at the bottom.
#![allow(clippy::print_stdout, reason = "a program that reports its progress")]

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Parser;
use mlxlm_core::weights::save_model;
use mlxlm_core::{device, io, transforms};
use mlxlm_models::{Built, CausalLm, ModelConfig, build_random};
use mlxlm_train::data::{Batch, Batches, Documents};
use mlxlm_train::optim::{Adam, Optimizer, Rule, clip_by_global_norm};
use mlxlm_train::{Schedule, Trainable, TrainingState, loss};

/// Files of a tokenizer, copied beside the weights where the data folder has them.
const TOKENIZER_FILES: [&str; 6] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "generation_config.json",
    "vocab.json",
];

/// Train a small language model from scratch
#[derive(Parser, Debug)]
struct Args {
    /// `config.json` of the model
    #[arg(long)]
    config: PathBuf,
    /// Folder with `train.jsonl` and `valid.jsonl`
    #[arg(long)]
    data: PathBuf,
    /// Folder of the trained model
    #[arg(long)]
    out: PathBuf,
    /// Optimizer steps
    #[arg(long, default_value_t = 6000)]
    steps: u64,
    /// End after this time at the latest
    #[arg(long)]
    max_minutes: Option<f64>,
    /// Rows in a batch
    #[arg(long, default_value_t = 8)]
    batch_size: usize,
    /// Tokens in a row
    #[arg(long, default_value_t = 256)]
    seq_len: usize,
    /// The highest learning rate
    #[arg(long, default_value_t = 3e-3)]
    learning_rate: f64,
    /// Steps until it is reached
    #[arg(long, default_value_t = 150)]
    warmup: u64,
    /// AdamW's weight decay
    #[arg(long, default_value_t = 0.1)]
    weight_decay: f32,
    /// The largest norm of a gradient
    #[arg(long, default_value_t = 1.0)]
    max_grad_norm: f32,
    /// What weights and batches are drawn from
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Steps between validations
    #[arg(long, default_value_t = 250)]
    valid_every: u64,
    /// Batches of a validation
    #[arg(long, default_value_t = 16)]
    valid_batches: usize,
    /// Steps between savings
    #[arg(long, default_value_t = 500)]
    save_every: u64,
    /// Steps between reports
    #[arg(long, default_value_t = 20)]
    report_every: u64,
    /// Go on from the last saving
    #[arg(long)]
    resume: bool,
}

fn main() -> Result<()> {
    let args = Args::parse();
    if args.steps == 0 || args.seq_len == 0 {
        bail!("`--steps` and `--seq-len` must be at least 1");
    }
    device::keep_memory(usize::MAX);
    let config = ModelConfig::new(io::read_json(&args.config)?)?;
    let Built { model, warnings } = build_random(&config, args.seed)?;
    for warning in warnings {
        println!("warning: {warning}");
    }
    let vocab_size = model.info().vocab_size as u32;
    let read = |name: &str| Documents::read(args.data.join(name), vocab_size);
    let (train, valid) = (read("train.jsonl")?, read("valid.jsonl")?);
    let valid: Vec<Batch> = Batches::new(&valid, args.batch_size, args.seq_len, 0)?.take(args.valid_batches).collect();
    let mut run = Run::new(&args, model)?;
    if args.resume {
        run.resume()?;
    }
    let batches = Batches::new(&train, args.batch_size, args.seq_len, args.seed)?;
    println!(
        "{:.2}M parameters, {} documents, {} batches of {} x {} tokens in an epoch",
        run.trainable.count() as f64 / 1e6,
        train.tokens.len(),
        batches.per_epoch(),
        args.batch_size,
        args.seq_len,
    );
    run.train(batches, &valid)
}

/// A training run.
struct Run<'a> {
    args: &'a Args,
    model: Box<dyn CausalLm>,
    trainable: Trainable,
    optimizer: Optimizer,
    schedule: Schedule,
    begin: Instant,
    state: TrainingState,
}

impl<'a> Run<'a> {
    fn new(args: &'a Args, mut model: Box<dyn CausalLm>) -> Result<Self> {
        let trainable = Trainable::collect(&mut *model, |_, _| true);
        let warmup = args.warmup.min(args.steps / 2) as f64;
        let after = args.steps as f64 - warmup;
        let schedule = Schedule::from_name("cosine_decay", &[args.learning_rate, after, args.learning_rate / 100.0])?;
        let adam =
            Adam { betas: [0.9, 0.95], bias_correction: true, weight_decay: args.weight_decay, ..Adam::default() };
        Ok(Self {
            args,
            model,
            trainable,
            optimizer: Optimizer::new(Rule::Adam(adam)),
            schedule: schedule.with_warmup(args.learning_rate / 100.0, warmup),
            begin: Instant::now(),
            state: TrainingState::default(),
        })
    }

    fn state_path(&self) -> PathBuf {
        self.args.out.join("training_state.safetensors")
    }

    fn resume(&mut self) -> Result<()> {
        let path = self.state_path();
        self.state = TrainingState::load(path, &mut *self.model, &mut self.trainable, &mut self.optimizer)?;
        println!("resumed at step {}", self.state.step);
        Ok(())
    }

    /// The share of the run that is over, by steps or by time.
    fn progress(&self, elapsed_s: f64) -> f64 {
        let by_steps = self.state.step as f64 / self.args.steps as f64;
        self.args.max_minutes.map_or(by_steps, |minutes| by_steps.max(elapsed_s / (60.0 * minutes)))
    }

    fn train(&mut self, batches: Batches<'_>, valid: &[Batch]) -> Result<()> {
        let before_s = self.state.elapsed_s;
        let (mut losses, mut tokens, mut since) = (0.0, 0, Instant::now());
        for batch in batches.skip(self.state.step as usize) {
            let elapsed_s = before_s + self.begin.elapsed().as_secs_f64();
            let progress = self.progress(elapsed_s);
            if progress >= 1.0 {
                break;
            }
            let rate = self.schedule.at(progress * self.args.steps as f64);
            let loss = self.step(&batch, rate as f32)?;
            self.state = TrainingState { step: self.state.step + 1, elapsed_s, ..self.state };
            let step = self.state.step;
            if !loss.is_finite() {
                bail!("the loss became {loss} at step {step}; use a lower learning rate or a longer warmup");
            }
            (losses, tokens) = (losses + loss, tokens + batch.tokens);
            let every = |steps: u64| steps > 0 && step.is_multiple_of(steps);
            if every(self.args.report_every) {
                let mean = losses / self.args.report_every as f32;
                let speed = tokens as f64 / since.elapsed().as_secs_f64();
                println!("step {step:6}  {elapsed_s:6.0} s  loss {mean:.4}  lr {rate:.2e}  {speed:.0} tokens/s");
                (losses, tokens, since) = (0.0, 0, Instant::now());
            }
            if every(self.args.valid_every) {
                println!("step {step:6}  validation loss {:.4}", self.validate(valid)?);
            }
            if every(self.args.save_every) {
                self.save()?;
            }
        }
        println!("validation loss {:.4} after {} steps", self.validate(valid)?, self.state.step);
        self.save()
    }

    fn step(&mut self, batch: &Batch, rate: f32) -> Result<f32> {
        let (values, gradients) = self.trainable.value_and_grad(&mut *self.model, |model| {
            let logits = model.forward(&batch.inputs, None)?;
            let (sum, count) = loss::cross_entropy(&logits, &batch.targets, &batch.mask)?;
            Ok(vec![sum.divide(count)?])
        })?;
        let (gradients, _) = clip_by_global_norm(&gradients, self.args.max_grad_norm)?;
        let updated = self.optimizer.update(self.trainable.arrays(), &gradients, rate)?;
        transforms::eval(values.iter().chain(&updated).chain(self.optimizer.moments().iter().flatten()))?;
        self.trainable.replace(&mut *self.model, updated)?;
        Ok(values.first().context("the loss has no value")?.try_item_exact::<f32>()?)
    }

    fn validate(&self, valid: &[Batch]) -> Result<f32> {
        let (mut sum, mut count) = (0.0, 0.0);
        for batch in valid {
            let logits = self.model.forward(&batch.inputs, None)?;
            let (losses, tokens) = loss::cross_entropy(&logits, &batch.targets, &batch.mask)?;
            transforms::eval([&losses, &tokens])?;
            sum += losses.try_item_exact::<f32>()?;
            count += tokens.try_item_exact::<f32>()?;
        }
        Ok(sum / count)
    }

    /// Writes the model folder and what `--resume` needs.
    fn save(&self) -> Result<()> {
        let out = &self.args.out;
        io::create_dir_all(out)?;
        save_model(out, self.trainable.named(), self.trainable.count() as u64)?;
        copy(&self.args.config, &out.join("config.json"))?;
        for name in TOKENIZER_FILES {
            let from = self.args.data.join(name);
            if from.is_file() {
                copy(&from, &out.join(name))?;
            }
        }
        self.state.save(self.state_path(), &self.trainable, &self.optimizer)?;
        println!("step {:6}  saved to {}", self.state.step, out.display());
        Ok(())
    }
}

/// Copies a file, unless it is there already.
fn copy(from: &Path, to: &Path) -> Result<()> {
    if to.exists() && from.canonicalize()? == to.canonicalize()? {
        return Ok(());
    }
    Ok(io::copy(from, to)?)
}
