//! Log-probabilities as plain numbers: of tokens that were chosen, and of those that were given.

use mlxlm_cache::Caches;
use mlxlm_core::ops::indexing::TryIndexOp;
use mlxlm_core::{Array, Dtype, fast, transforms};
use mlxlm_models::CausalLm;
use mlxlm_sample::engine::Token;
use mlxlm_sample::{Error, Result};

use super::job::Scored;

/// Tokens of a prompt that are scored in one pass: their logits over the whole vocabulary are in memory at once.
const CHUNK: usize = 64;

/// A token that was chosen, with the `top` best ones.
pub(super) fn of_token(token: &Token, top: usize) -> Result<Scored> {
    let logprobs = host(&token.logprobs)?;
    Ok(scored(&logprobs, token.id, top))
}

/// The mean of the states of a prompt, made one long: `[D]`.
pub(super) fn embedding(model: &dyn CausalLm, prompt: &[u32]) -> Result<Vec<f32>> {
    let hidden = model.hidden(&row_of(prompt), None)?;
    let mean = host(&hidden.as_dtype(Dtype::Float32)?.mean_axis(1, false)?)?;
    let length = mean.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    if !length.is_finite() {
        return Err(Error::NotNumbers { n: 0 });
    }
    let scale = if length > 0.0 { 1.0 / length } else { 1.0 };
    Ok(mean.into_iter().map(|x| (f64::from(x) * scale) as f32).collect())
}

/// The scoring of a prompt, a chunk at a time.
#[derive(Debug)]
pub(super) struct Scoring {
    prompt: Vec<u32>,
    caches: Caches,
    read: usize,
    top: usize,
    scored: Vec<Scored>,
}

impl Scoring {
    pub(super) fn new(model: &dyn CausalLm, prompt: &[u32], top: usize) -> Result<Self> {
        let caches = mlxlm_sample::make_prompt_cache(model, None)?;
        Ok(Self { prompt: prompt.to_vec(), caches, read: 0, top, scored: Vec::new() })
    }

    /// Tokens that are read: in the end all but the last, which decoding goes on with.
    pub(super) fn read(&self) -> usize {
        self.read
    }

    /// Whether all is scored.
    pub(super) fn is_done(&self) -> bool {
        self.read + 1 >= self.prompt.len()
    }

    /// Scores the next chunk.
    pub(super) fn advance(&mut self, model: &dyn CausalLm) -> Result<()> {
        let to = (self.read + CHUNK).min(self.prompt.len() - 1);
        if to == self.read {
            return Ok(());
        }
        let logits = model.forward(&row_of(&self.prompt[self.read..to]), Some(&mut self.caches))?;
        transforms::eval(self.caches.arrays().into_iter().chain([&logits]))?;
        for i in self.read..to {
            let at = (i - self.read) as i32;
            let row = logits.try_index((0, at..=at, ..))?.as_dtype(Dtype::Float32)?;
            let logprobs = host(&row.subtract(&fast::logsumexp(&row)?)?)?;
            let scored = scored(&logprobs, self.prompt[i + 1], self.top);
            if !scored.logprob.is_finite() {
                return Err(Error::NotNumbers { n: 0 });
            }
            self.scored.push(scored);
        }
        self.read = to;
        Ok(())
    }

    /// The log-probabilities of all tokens but the first, and caches that have read all but the last.
    pub(super) fn finish(self) -> (Vec<Scored>, Caches) {
        (self.scored, self.caches)
    }
}

pub(super) fn row_of(ids: &[u32]) -> Array {
    Array::from_slice(ids, &[1, ids.len() as i32])
}

/// The numbers of an array.
fn host(array: &Array) -> Result<Vec<f32>> {
    let array = array.as_dtype(Dtype::Float32)?;
    Ok(array.to_vec_exact::<f32>().map_err(mlxlm_core::Error::from)?)
}

fn scored(logprobs: &[f32], id: u32, top: usize) -> Scored {
    let logprob = logprobs.get(id as usize).copied().unwrap_or(f32::NAN);
    Scored { id, logprob, top: best(logprobs, top) }
}

/// The `count` largest, the largest first; of equals the first.
fn best(logprobs: &[f32], count: usize) -> Vec<(u32, f32)> {
    let mut best: Vec<(u32, f32)> = Vec::with_capacity(count + 1);
    for (id, &logprob) in logprobs.iter().enumerate() {
        if best.len() == count && best.last().is_none_or(|(_, least)| logprob <= *least) {
            continue;
        }
        let at = best.partition_point(|(_, other)| *other >= logprob);
        best.insert(at, (id as u32, logprob));
        best.truncate(count);
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_come_first_and_of_equals_the_first() {
        let logprobs = [-2.0, -1.0, -3.0, -1.0, f32::NEG_INFINITY];
        assert_eq!(best(&logprobs, 3), [(1, -1.0), (3, -1.0), (0, -2.0)]);
        assert_eq!(best(&logprobs, 0), []);
        assert_eq!(best(&logprobs, 9).len(), 5);
    }
}
