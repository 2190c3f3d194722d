//! Perplexity on texts, and how far two models are apart.
//!
//! Ports `mlx_lm/perplexity.py` @ 0.32.2: texts are put together in an order drawn from the seed, and cut into sequences of
//! one length. Unusual: whole batches of sequences never hold all of their logits, and texts that do not suffice give fewer
//! sequences instead of an error.

use mlxlm_core::text::Tokenizer;
use mlxlm_core::{fast, transforms};
use mlxlm_models::CausalLm;

use super::score::{Learned, floats, token_losses};
use super::{EvaluateError, permutation};
use crate::Result;
use crate::data::{DataError, Example, Fault, Format, Keys, Record};

/// Sequences of `sequence_length` tokens from the rows of a dataset, at most `num_samples` of them if there is a limit.
///
/// Rows are taken in the order in which numpy permutes them with this seed, and tokenized as far as they are needed.
///
/// # Errors
/// [`DataError::Faults`] for the first row that cannot be used, [`EvaluateError::TooFewTokens`] if there is not one sequence.
pub fn sequences(
    records: &[Record],
    keys: &Keys,
    tokenizer: &Tokenizer,
    sequence_length: usize,
    num_samples: Option<usize>,
    seed: u32,
) -> Result<Vec<Vec<u32>>> {
    if sequence_length < 2 {
        let (name, value) = ("sequence-length", sequence_length.to_string());
        return Err(EvaluateError::Option { name, value, expected: "at least 2" }.into());
    }
    let format = Format { tokenizer, keys, mask_prompt: false };
    let wanted = num_samples.map_or(usize::MAX, |samples| samples.saturating_mul(sequence_length));
    let mut tokens = Vec::new();
    for place in permutation(records.len(), seed) {
        if tokens.len() >= wanted {
            break;
        }
        let record = &records[place];
        let example = format
            .example(record)
            .map_err(|why| DataError::Faults(vec![Fault { place: record.place.clone(), column: None, why }]))?;
        tokens.extend(example.tokens);
    }
    if tokens.len() < sequence_length {
        return Err(EvaluateError::TooFewTokens { tokens: tokens.len(), sequence_length }.into());
    }
    tokens.truncate(wanted);
    Ok(tokens.chunks_exact(sequence_length).map(<[u32]>::to_vec).collect())
}

/// How well a model predicts texts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Perplexity {
    /// The exponential of the mean loss.
    pub perplexity: f64,
    /// Its standard error, from the spread of the losses of all tokens.
    pub error: f64,
    /// The mean loss of a token.
    pub loss: f64,
    /// How many tokens were predicted.
    pub tokens: usize,
}

/// A mean that grows, with its spread (Welford).
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Mean {
    pub(super) count: usize,
    pub(super) mean: f64,
    squares: f64,
}

impl Mean {
    pub(super) fn add(&mut self, value: f64) {
        self.count += 1;
        let before = value - self.mean;
        self.mean += before / self.count as f64;
        self.squares += before * (value - self.mean);
    }

    fn add_all(&mut self, values: impl IntoIterator<Item = f32>) {
        values.into_iter().for_each(|value| self.add(value.into()));
    }

    /// The standard error of the mean; zero for less than two values.
    pub(super) fn error(&self) -> f64 {
        match self.count {
            0 | 1 => 0.0,
            n => (self.squares / (n - 1) as f64).sqrt() / (n as f64).sqrt(),
        }
    }
}

/// The perplexity of a model on sequences; every token but the first of each is predicted. `done` hears how many sequences
/// are done.
///
/// # Errors
/// Those of the model.
pub fn perplexity(
    model: &dyn CausalLm,
    sequences: &[Vec<u32>],
    batch_size: usize,
    mut done: impl FnMut(usize),
) -> Result<Perplexity> {
    let mut mean = Mean::default();
    let mut count = 0;
    for batch in examples(sequences).chunks(batch_size.max(1)) {
        let losses = token_losses(model, &batch.iter().collect::<Vec<_>>())?;
        mean.add_all(losses.iter().flatten().map(|&(loss, _)| loss));
        count += batch.len();
        done(count);
    }
    let perplexity = mean.mean.exp();
    Ok(Perplexity { perplexity, error: perplexity * mean.error(), loss: mean.mean, tokens: mean.count })
}

/// How far a model is from another, over all next-token distributions of some texts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Comparison {
    /// The mean Kullback-Leibler divergence of the model from the other: `KL(other ‖ model)`, in nats.
    pub divergence: f64,
    /// Its standard error.
    pub divergence_error: f64,
    /// The greatest divergence of one token.
    pub greatest: f64,
    /// The share of tokens for which both models find the same token most likely.
    pub same_top: f64,
    /// Its standard error.
    pub same_top_error: f64,
    /// The model's perplexity.
    pub perplexity: f64,
    /// That of the other.
    pub perplexity_of_other: f64,
    /// How many distributions were compared.
    pub tokens: usize,
}

/// Compares the distributions of a model with those of another, `other`, which is taken for the right one.
///
/// # Errors
/// [`EvaluateError::Vocabulary`] if they are over different vocabularies.
pub fn compare(
    model: &dyn CausalLm,
    other: &dyn CausalLm,
    sequences: &[Vec<u32>],
    batch_size: usize,
    mut done: impl FnMut(usize),
) -> Result<Comparison> {
    let (got, expected) = (model.info().vocab_size, other.info().vocab_size);
    if got != expected {
        return Err(EvaluateError::Vocabulary { got, expected }.into());
    }
    let [mut divergence, mut same, mut loss, mut loss_of_other] = [Mean::default(); 4];
    let (mut greatest, mut count) = (0_f64, 0);
    for batch in examples(sequences).chunks(batch_size.max(1)) {
        let rows: Vec<&Example> = batch.iter().collect();
        let (ours, theirs) = (Learned::read(model, &rows)?, Learned::read(other, &rows)?);
        for piece in ours.pieces() {
            let (logits, of_other) = (ours.logits(model, &piece)?, theirs.logits(other, &piece)?);
            let targets = ours.targets(piece);
            let apart = fast::divergence(&logits, &of_other)?;
            let agree = fast::argmax(&logits)?.eq(fast::argmax(&of_other)?)?;
            let losses = [fast::cross_entropy(&logits, &targets)?, fast::cross_entropy(&of_other, &targets)?];
            transforms::eval([&apart, &agree].into_iter().chain(&losses))?;
            // Rounding may leave a little less than nothing; what is no number stays none.
            let apart = floats(&apart)?.into_iter().map(|apart| if apart < 0.0 { 0.0 } else { apart });
            greatest = apart.clone().fold(greatest, |greatest, apart| greatest.max(apart.into()));
            divergence.add_all(apart);
            same.add_all(floats(&agree)?);
            loss.add_all(floats(&losses[0])?);
            loss_of_other.add_all(floats(&losses[1])?);
        }
        count += batch.len();
        done(count);
    }
    Ok(Comparison {
        divergence: divergence.mean,
        divergence_error: divergence.error(),
        greatest,
        same_top: same.mean,
        same_top_error: same.error(),
        perplexity: loss.mean.exp(),
        perplexity_of_other: loss_of_other.mean.exp(),
        tokens: divergence.count,
    })
}

fn examples(sequences: &[Vec<u32>]) -> Vec<Example> {
    sequences.iter().map(|tokens| Example { tokens: tokens.clone(), start: 0 }).collect()
}
