//! DWQ: the scales and biases of a quantized model are trained until it says what the dense one says; its codes stay.
//!
//! Ports `mlx_lm/quant/dwq.py` @ 0.32.2. Unusual: while it is trained the student's matrices are unpacked, as functions of scales and
//! biases, so that stacks of experts and tables are trained too, one block at a time (`backward`); a run can be continued.

mod data;
mod student;
mod targets;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Instant;

use mlxlm_core::ops::indexing::TryIndexOp;
use mlxlm_core::{Array, transforms};
use mlxlm_models::CausalLm;
use mlxlm_train::optim::{Adam, Optimizer, Rule};

use crate::backward::{self, Model, Parts};
use crate::divergence::kl;
use crate::report::{Event, Report};
use crate::{Error, Result};
pub use data::{Batch, batches};
pub use student::{Student, Unit};
pub use targets::{Split, Targets, write_targets};

/// How a student is trained.
#[derive(Debug, Clone)]
pub struct DwqOptions {
    /// The rate of Adam, in units of the next field.
    pub learning_rate: f32,
    /// What is trained.
    pub unit: Unit,
    /// Whether the rate falls to nothing until the last step, as half a wave of a cosine.
    pub falling: bool,
    /// What logits are divided by before they are compared.
    pub temperature: f32,
    /// Steps between two looks at the samples that are not trained with.
    pub validate_every: usize,
    /// A file that keeps how far the run came, and that a later one goes on from.
    pub checkpoint: Option<PathBuf>,
    /// Steps between two writes of it.
    pub checkpoint_every: usize,
    /// Whether, where training made the loss over the other samples larger, the scales go only a half or a quarter of the way, or stay
    /// as they were: whichever of these is best.
    pub only_better: bool,
}

impl Default for DwqOptions {
    fn default() -> Self {
        let checkpoint = None;
        let (learning_rate, temperature) = (1e-6, 2.0);
        let (validate_every, checkpoint_every) = (200, 20);
        let (unit, falling, only_better) = (Unit::Weight, false, false);
        Self { learning_rate, unit, falling, temperature, validate_every, checkpoint, checkpoint_every, only_better }
    }
}

impl DwqOptions {
    /// The rate of a step, counted from zero.
    fn rate(&self, step: usize, of: usize) -> f32 {
        let share = if self.falling { step as f32 / of.max(1) as f32 } else { 0.0 };
        self.learning_rate * 0.5 * (1.0 + (std::f32::consts::PI * share).cos())
    }
}

/// What a run reached.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Trained {
    /// The loss over the samples that are not trained with, before.
    pub before: f64,
    /// And after.
    pub after: f64,
}

/// Trains the scales and biases of `student`, whose matrices are packed before and after: once over `train`.
///
/// # Errors
/// [`Error::NothingToTrain`] if no leaf of the student is affine with less than 8 bits; [`Error::NotFinite`] for a loss that is not finite.
pub fn dwq(
    student: &mut dyn CausalLm,
    targets: &Targets<'_>,
    (train, valid): (&[Batch], &[Batch]),
    options: &DwqOptions,
    report: Report<'_>,
) -> Result<Trained> {
    if options.learning_rate <= 0.0 || !options.learning_rate.is_finite() {
        let value = options.learning_rate.to_string();
        let name = if options.unit == Unit::Step { "relative_learning_rate" } else { "learning_rate" };
        return Err(Error::Parameter { name, value, expected: "a number above 0" });
    }
    let mut run = Run::new(student, targets, (train, valid), options, report)?;
    let untrained = run.leaves.arrays().to_vec();
    let before = run.validate(0)?;
    run.train()?;
    let mut after = run.validate(train.len())?;
    if after > before {
        let risen = after;
        let kept = if options.only_better {
            let (share, best) = run.go_back(untrained, before)?;
            after = best;
            format!("; {:.0} % of the change is kept, with {after:.4}", 100.0 * share)
        } else {
            String::new()
        };
        (run.report)(Event::Note(&format!(
            "the loss over the samples that were not trained with rose from {before:.4} to {risen:.4}{kept}; a smaller learning rate may help"
        )));
    }
    run.put(run.leaves.arrays().to_vec())?;
    Ok(Trained { before, after })
}

/// A student, what it learns from and how.
struct Run<'a> {
    student: &'a mut dyn CausalLm,
    leaves: Student,
    parts: Option<Parts>,
    targets: &'a Targets<'a>,
    train: &'a [Batch],
    valid: &'a [Batch],
    options: &'a DwqOptions,
    report: Report<'a>,
}

impl<'a> Run<'a> {
    fn new(
        student: &'a mut dyn CausalLm,
        targets: &'a Targets<'a>,
        (train, valid): (&'a [Batch], &'a [Batch]),
        options: &'a DwqOptions,
        report: Report<'a>,
    ) -> Result<Self> {
        let leaves = Student::unpack(student, options.unit)?;
        backward::let_go_of_files(student, &leaves)?;
        let parts = match train.iter().chain(valid).next() {
            Some(batch) => Parts::find(student, &leaves, &batch.inputs)?,
            None => None,
        };
        Ok(Self { student, leaves, parts, targets, train, valid, options, report })
    }

    /// The mean loss over the samples that are not trained with.
    fn validate(&mut self, step: usize) -> Result<f64> {
        let (mut sum, mut all) = (0.0, 0.0);
        for (i, batch) in self.valid.iter().enumerate() {
            sum += self.loss(Split::Valid, i, batch, None)?;
            all += batch.positions()?;
        }
        let loss = sum / f64::max(all, 1.0);
        (self.report)(Event::Loss { valid: true, step, loss });
        Ok(loss)
    }

    /// The loss over a batch, summed, and the gradients where somebody takes them.
    fn loss(&mut self, split: Split, i: usize, batch: &Batch, take: Option<backward::Take<'_>>) -> Result<f64> {
        let wanted = self.targets.of(split, i, &batch.inputs)?;
        let loss = of_states(batch, &wanted, self.options.temperature);
        Model::new(self.student, &self.leaves).loss(self.parts.as_ref(), &batch.inputs, &loss, take)
    }

    /// Goes over the batches to train with, from where the checkpoint says.
    fn train(&mut self) -> Result<()> {
        let (options, of) = (self.options, self.train.len());
        // Gradients of steps are as small as a step, and smaller than what mlx-lm adds to them.
        let eps = if options.unit == Unit::Step { 1e-15 } else { Adam::default().eps };
        let mut optimizer = Optimizer::new(Rule::Adam(Adam { bias_correction: true, eps, ..Adam::default() }));
        let path = options.checkpoint.as_deref();
        let first = match path.filter(|path| path.exists()) {
            Some(path) => self.leaves.resume(path, &mut optimizer)?,
            None => 0,
        };
        let began = Instant::now();
        for (step, batch) in self.train.iter().enumerate().skip(first) {
            let (loss, gradients) = self.gradients(step, batch)?;
            let updated = optimizer.update(self.leaves.arrays(), &gradients, options.rate(step, of))?;
            transforms::eval(updated.iter().chain(optimizer.moments().iter().flatten()))?;
            self.put(updated)?;
            let done = step + 1;
            (self.report)(Event::Loss { valid: false, step: done, loss });
            (self.report)(Event::Step { what: "steps", done, of });
            if let Some(path) = path.filter(|_| done % options.checkpoint_every.max(1) == 0 || done == of) {
                self.leaves.save(path, &optimizer, done, began.elapsed().as_secs_f64())?;
            }
            if done % options.validate_every.max(1) == 0 && done < of {
                self.validate(done)?;
            }
        }
        Ok(())
    }

    /// The mean loss of a step and its gradients.
    fn gradients(&mut self, step: usize, batch: &Batch) -> Result<(f64, Vec<Array>)> {
        let mut sums: Vec<Option<Array>> = vec![None; self.leaves.arrays().len()];
        let mut take = |leaf: usize, more: &[Array]| add(&mut sums[2 * leaf..], more);
        let sum = self.loss(Split::Train, step, batch, Some(&mut take))?;
        let positions = batch.positions()?.max(1.0);
        let loss = sum / positions;
        if !loss.is_finite() {
            return Err(Error::NotFinite { path: format!("the loss of step {}", step + 1) });
        }
        let mean = |(sum, array): (&Option<Array>, &Array)| match sum {
            Some(sum) => sum.divide(Array::from_f32(positions as f32)),
            None => mlxlm_core::ops::zeros_like(array),
        };
        Ok((loss, sums.iter().zip(self.leaves.arrays()).map(mean).collect::<Result<_, _>>()?))
    }

    /// Keeps a half, a quarter or nothing of the change, whichever has the smallest loss; returns the share and its loss.
    fn go_back(&mut self, untrained: Vec<Array>, before: f64) -> Result<(f32, f64)> {
        let trained = self.leaves.arrays().to_vec();
        let (mut share, mut loss, mut best) = (0.0, before, None);
        for less in [0.5, 0.25] {
            let some = untrained.iter().zip(&trained).map(|(from, to)| between(from, to, less));
            self.put(some.collect::<Result<_, _>>()?)?;
            let of_less = self.validate(self.train.len())?;
            if of_less < loss {
                (share, loss, best) = (less, of_less, Some(self.leaves.arrays().to_vec()));
            }
        }
        self.put(best.unwrap_or(untrained))?;
        Ok((share, loss))
    }

    /// Gives the student these scales and biases.
    fn put(&mut self, arrays: Vec<Array>) -> Result<()> {
        self.leaves.replace(self.student, arrays)
    }
}

/// What lies at a share of the way from one array to another.
fn between(from: &Array, to: &Array, share: f32) -> Result<Array, mlxlm_core::Exception> {
    let there = from.add(to.subtract(from)?.multiply(Array::from_f32(share))?)?;
    there.eval()?;
    Ok(there)
}

/// Adds gradients to those of other parts.
fn add(sums: &mut [Option<Array>], more: &[Array]) -> Result<()> {
    for (sum, more) in sums.iter_mut().zip(more) {
        let all = match sum.take() {
            Some(sum) => sum.add(more)?,
            None => more.clone(),
        };
        transforms::eval([&all])?;
        *sum = Some(all);
    }
    Ok(())
}

/// The sum of the divergences of the positions that count, among those whose states are given.
fn of_states(
    batch: &Batch,
    wanted: &targets::Wanted,
    temperature: f32,
) -> impl Fn(&dyn CausalLm, &Array, Range<i32>) -> Result<Array> {
    move |student, states, range| {
        let (of_teacher, indices) = wanted.of(range.clone())?;
        let logits = student.head(states)?;
        let logits = match indices {
            Some(indices) => logits.take_along_axis(&indices, -1)?,
            None => logits,
        };
        let mask = batch.mask.reshape(&[1, -1])?.try_index((.., range))?;
        Ok(kl(&logits, &of_teacher, temperature)?.multiply(&mask)?.sum(None)?)
    }
}

/// Whether a folder has targets of both kinds.
pub fn has_targets(folder: &Path) -> bool {
    [Split::Train, Split::Valid].iter().all(|split| folder.join(split.name()).join(targets::file_name(0)).is_file())
}
