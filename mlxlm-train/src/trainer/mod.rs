//! A training run: batches, steps, validations, reports and checkpoints.
//!
//! Ports `train` and `evaluate` of `mlx_lm/tuner/trainer.py` @ 0.32.2. Unusual: everything that is drawn follows from the seed and the
//! iteration, so that a run goes on bit by bit where it was stopped; and a loss that is no number ends the run before it spoils anything.
//!
//! ```no_run
//! use std::ops::ControlFlow;
//!
//! use mlxlm_core::weights::{FineTuneType, LoraParameters};
//! use mlxlm_train::data::{Example, Rows, Splits};
//! use mlxlm_train::optim::{Adam, Rule};
//! use mlxlm_train::trainer::{Checkpoints, Event};
//! use mlxlm_train::{FineTune, Trainer, TrainerOptions};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut model = mlxlm_models::load_model("model", &Default::default())?.0.model;
//! let row = Example { tokens: vec![1, 15, 27, 2], start: 0 };
//! let splits = Splits { train: Rows::Examples(vec![row; 8]), ..Splits::default() };
//!
//! let parameters = LoraParameters { rank: 8, scale: 20.0, dropout: 0.0, keys: None };
//! let tune = FineTune { fine_tune_type: FineTuneType::Lora, num_layers: 16, parameters, seed: 0 };
//! let trainable = tune.begin(&mut *model)?;
//! let checkpoints = Checkpoints { folder: "adapters".into(), config: tune.config(), arguments: Default::default() };
//! checkpoints.begin()?;
//! let rule = Rule::Adam(Adam::default());
//! let mut trainer = Trainer::new(&mut *model, trainable, rule, TrainerOptions::default(), Some(checkpoints))?;
//! trainer.run(&splits, &mut |event| {
//!     if let Event::Report(report) = event {
//!         println!("{}: {}", report.iteration, report.train_loss);
//!     }
//!     ControlFlow::Continue(())
//! })?;
//! # Ok(())
//! # }
//! ```

mod checkpoint;
mod event;
mod options;
mod step;

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Instant;

use mlxlm_core::{Array, device};
use mlxlm_models::CausalLm;
use mlxlm_models::frame::Packing;

pub use checkpoint::{Checkpoints, STATE_FILE};
pub use event::{Event, Report};
pub use options::TrainerOptions;

use crate::data::{Rows, SortedBatches, Splits, once, pack_examples};
use crate::optim::{Optimizer, Rule};
use crate::{Error, Result, Trainable, TrainingState};
use step::Learn;

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// All iterations were made.
    Finished,
    /// Who hears of events stopped it; what it had learned is saved.
    Stopped,
}

/// Who hears of events; breaking stops the run after the iteration.
pub type Listener<'a> = dyn FnMut(&Event) -> ControlFlow<()> + 'a;

/// A training run over a model.
#[derive(Debug)]
pub struct Trainer<'a> {
    model: &'a mut (dyn CausalLm + 'static),
    trainable: Trainable,
    optimizer: Optimizer,
    options: TrainerOptions,
    checkpoints: Option<Checkpoints>,
    state: TrainingState,
    /// Gradients that wait for the optimizer's next step.
    pending: Vec<Array>,
    /// The parameters before training, which DPO holds the model to.
    before: Vec<Array>,
    last_saved: Option<PathBuf>,
    /// The last checkpoint with which a loss was a number.
    last_good: Option<PathBuf>,
}

impl<'a> Trainer<'a> {
    /// A run of `model`, of which `trainable` is trained, that is to begin.
    ///
    /// The parameters as they are now are what DPO holds the model to. Without `checkpoints` nothing is saved.
    ///
    /// # Errors
    /// [`Error::Setting`] for numbers that no training can have.
    pub fn new(
        model: &'a mut (dyn CausalLm + 'static),
        trainable: Trainable,
        rule: Rule,
        options: TrainerOptions,
        checkpoints: Option<Checkpoints>,
    ) -> Result<Self> {
        options.check()?;
        let mut optimizer = Optimizer::new(rule);
        if let Some(ratio) = options.lora_plus_ratio {
            let factor = |name: &String| if name.ends_with(".lora_b") { ratio } else { 1.0 };
            optimizer = optimizer.with_factors(trainable.names().iter().map(factor).collect());
        }
        let before = trainable.arrays().to_vec();
        let (state, pending) = (TrainingState::default(), Vec::new());
        Ok(Self {
            model,
            trainable,
            optimizer,
            options,
            checkpoints,
            state,
            pending,
            before,
            last_saved: None,
            last_good: None,
        })
    }

    /// What is trained, as it is now.
    pub fn trainable(&self) -> &Trainable {
        &self.trainable
    }

    /// How far the run is.
    pub fn state(&self) -> TrainingState {
        self.state
    }

    /// Puts a fine-tune into what is trained: see [`load_adapters`](crate::load_adapters).
    pub fn load_adapters(&mut self, path: impl AsRef<std::path::Path>) -> Result<usize> {
        crate::load_adapters(path, self.model, &mut self.trainable)
    }

    /// Trains until all iterations are made or `listener` breaks, and saves at the end.
    ///
    /// # Errors
    /// [`Error::NotFinite`] if the loss, the gradient or the validation loss is no number any more: parameters and files stay as they were.
    /// [`Error::WrongRows`], [`Error::NothingToLearn`] and those of [`SortedBatches::new`] before the first step.
    pub fn run(&mut self, splits: &Splits, listener: &mut Listener) -> Result<Ending> {
        self.check_rows("train", &splits.train)?;
        match (&splits.train, &splits.valid) {
            (Rows::Examples(train), Rows::Examples(valid)) if self.options.packing => {
                self.check_packing()?;
                let TrainerOptions { max_seq_length, seed, .. } = self.options;
                let [train, valid] = [train, valid].map(|rows| pack_examples(rows, max_seq_length, seed));
                self.run_over(&train, &valid, listener)
            }
            (Rows::Examples(train), Rows::Examples(valid)) => self.run_over(train, valid, listener),
            (Rows::Preferences(train), Rows::Preferences(valid)) => self.run_over(train, valid, listener),
            (Rows::Examples(train), Rows::Preferences(valid)) if valid.is_empty() => {
                self.run_over(train, &[], listener)
            }
            (Rows::Preferences(train), Rows::Examples(valid)) if valid.is_empty() => {
                self.run_over(train, &[], listener)
            }
            (_, valid) => self.check_rows("valid", valid).map(|()| Ending::Stopped),
        }
    }

    /// The mean loss over at most `batches` batches of rows, all of them if absent, weighted by their tokens, or for preferences by
    /// pairs; nothing if `listener` breaks.
    pub fn evaluate(&mut self, rows: &Rows, batches: Option<usize>, listener: &mut Listener) -> Result<Option<f32>> {
        self.check_rows("test", rows)?;
        match rows {
            Rows::Examples(rows) => self.measure(rows, batches, listener),
            Rows::Preferences(rows) => self.measure(rows, batches, listener),
        }
    }

    fn run_over<T: Learn>(&mut self, train: &[T], valid: &[T], listener: &mut Listener) -> Result<Ending> {
        let TrainerOptions { iters, batch_size, max_seq_length, seed, .. } = self.options;
        let mut batches = SortedBatches::new(train, batch_size, max_seq_length, seed)?;
        batches.skip_to(self.state.iteration);
        let per_epoch = batches.per_epoch() as u64;
        let (begin, before_s) = (Instant::now(), self.state.elapsed_s);
        let mut window = Window::default();
        while self.state.iteration < iters {
            let iteration = self.state.iteration + 1;
            let is_last = iteration == iters;
            let every = |steps: u64| iteration.is_multiple_of(steps) || is_last;
            let is_measured = !valid.is_empty() && (iteration == 1 || every(self.options.steps_per_eval));
            if is_measured && self.validate(valid, listener)?.is_break() {
                // Nothing was learned since the last checkpoint but what is saved now.
                let _ = self.save(listener)?;
                return Ok(Ending::Stopped);
            }
            let started = Instant::now();
            let Some(batch) = batches.next() else { break };
            let stepped = self.step::<T>(&batch, iteration.is_multiple_of(self.options.grad_accumulation_steps))?;
            if let Some((what, value)) = stepped.broken() {
                let (batch, epoch) = ((iteration - 1) % per_epoch + 1, (iteration - 1) / per_epoch + 1);
                let checkpoint = self.last_good.clone();
                return Err(Error::NotFinite { what, value, iteration, batch, epoch, checkpoint });
            }
            self.last_good.clone_from(&self.last_saved);
            let tokens = T::tokens(&batch);
            self.state.iteration = iteration;
            self.state.step = self.optimizer.step();
            self.state.trained_tokens += tokens;
            self.state.elapsed_s = before_s + begin.elapsed().as_secs_f64();
            window.add(&stepped, tokens, started.elapsed().as_secs_f64());
            let trained_tokens = self.state.trained_tokens;
            let mut flow = listener(&Event::Iteration { iteration, loss: stepped.loss, trained_tokens });
            if every(self.options.steps_per_report) {
                let report = window.report(iteration, trained_tokens, device::peak_memory_bytes()?);
                flow = merged(flow, listener(&Event::Report(report)));
                window = Window::default();
            }
            if every(self.options.save_every) || flow.is_break() {
                flow = merged(flow, self.save(listener)?);
            }
            if flow.is_break() && !is_last {
                return Ok(Ending::Stopped);
            }
        }
        Ok(Ending::Finished)
    }

    fn validate<T: Learn>(&mut self, rows: &[T], listener: &mut Listener) -> Result<ControlFlow<()>> {
        let (begin, iteration) = (Instant::now(), self.state.iteration);
        let Some(loss) = self.measure(rows, self.options.val_batches, listener)? else {
            return Ok(ControlFlow::Break(()));
        };
        if !loss.is_finite() {
            return Err(Error::Validation { value: loss, iteration, checkpoint: self.last_good.clone() });
        }
        Ok(listener(&Event::Validation { iteration, loss, seconds: begin.elapsed().as_secs_f64() }))
    }

    fn measure<T: Learn>(&mut self, rows: &[T], most: Option<usize>, listener: &mut Listener) -> Result<Option<f32>> {
        let TrainerOptions { batch_size, max_seq_length, .. } = self.options;
        let all = rows.len().div_ceil(batch_size);
        let total = most.map_or(all, |most| most.clamp(1, all));
        let (mut sum, mut weight, mut done) = (0.0, 0.0, 0);
        for (i, batch) in once(rows, batch_size, max_seq_length).enumerate() {
            // The rows are sorted by length, and a part of them should be as long as all.
            if i != done * all / total {
                continue;
            }
            done += 1;
            let count = T::weight(&batch);
            sum += f64::from(self.loss::<T>(&batch)?) * count;
            weight += count;
            if listener(&Event::Measured { done, total }).is_break() {
                return Ok(None);
            }
            if done == total {
                break;
            }
        }
        Ok(Some((sum / weight.max(1.0)) as f32))
    }

    /// Refuses a model that would mix the texts of a row, before the first step. Nothing is computed.
    fn check_packing(&self) -> Result<()> {
        let packing = Packing::new(vec![vec![0, 1]], 2)?;
        self.model.hidden_packed(&Array::from_slice(&[0, 0], &[1, 2]), &packing)?;
        Ok(())
    }

    /// Refuses rows of another kind than the objective needs, and those that teach nothing.
    fn check_rows(&self, split: &'static str, rows: &Rows) -> Result<()> {
        let objective = self.options.objective;
        let max_seq_length = self.options.max_seq_length;
        let nothing = match (rows, objective.needs_preferences()) {
            (Rows::Examples(_), true) => {
                let (needs, got) = ("pairs of answers", "texts");
                return Err(Error::WrongRows { objective: objective.name(), split, needs, got });
            }
            (Rows::Preferences(_), false) => {
                let (needs, got) = ("texts", "pairs of answers");
                return Err(Error::WrongRows { objective: objective.name(), split, needs, got });
            }
            (Rows::Examples(rows), false) => rows.iter().all(|row| row.learned(max_seq_length) == 0),
            (Rows::Preferences(rows), true) => rows.iter().all(|row| row.learned(max_seq_length) == 0),
        };
        if nothing {
            return Err(Error::NothingToLearn { split, rows: rows.len(), max_seq_length });
        }
        Ok(())
    }
}

fn merged(a: ControlFlow<()>, b: ControlFlow<()>) -> ControlFlow<()> {
    if a.is_break() { a } else { b }
}

/// The iterations since the last report.
#[derive(Debug, Default)]
struct Window {
    iterations: u64,
    loss: f64,
    tokens: u64,
    seconds: f64,
    latest: Option<step::Stepped>,
}

impl Window {
    fn add(&mut self, stepped: &step::Stepped, tokens: u64, seconds: f64) {
        self.iterations += 1;
        self.loss += f64::from(stepped.loss);
        self.tokens += tokens;
        self.seconds += seconds;
        self.latest = Some(stepped.clone());
    }

    fn report(&self, iteration: u64, trained_tokens: u64, peak_memory_bytes: usize) -> Report {
        let latest = self.latest.clone().unwrap_or_default();
        Report {
            iteration,
            train_loss: (self.loss / self.iterations.max(1) as f64) as f32,
            learning_rate: latest.learning_rate,
            grad_norm: latest.grad_norm,
            iterations_per_second: self.iterations as f64 / self.seconds.max(f64::MIN_POSITIVE),
            tokens_per_second: self.tokens as f64 / self.seconds.max(f64::MIN_POSITIVE),
            trained_tokens,
            peak_memory_bytes,
            measures: latest.measures,
        }
    }
}
