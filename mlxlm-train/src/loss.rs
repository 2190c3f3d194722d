//! The loss of a language model: cross entropy of the next token, in `f32`.

use mlxlm_core::{Array, Dtype, Exception, fast, nn, ops};
use mlxlm_models::CausalLm;
use mlxlm_models::frame::Packing;

use crate::Result;
use crate::data::Batch;

/// States that go through the head at once: with a vocabulary of 128 thousand, 64 MB of logits in 16 bits.
const CHUNK: usize = 256;

/// The sum of the cross entropies of the targets that `mask` has ones for, and how many they are.
///
/// # Shapes
/// - `logits`: `[B, L, V]`, `targets`: `[B, L]` integers, `mask`: `[B, L]` of zeros and ones; results: `[]`, `f32`
pub fn cross_entropy(logits: &Array, targets: &Array, mask: &Array) -> Result<(Array, Array)> {
    let mask = mask.as_dtype(Dtype::Float32)?;
    let entropies = fast::cross_entropy(logits, targets)?;
    Ok((entropies.multiply(&mask)?.sum(None)?, mask.sum(None)?))
}

/// The mean cross entropy over all targets of a batch: `[]`, `f32`. A batch without targets has a loss of zero.
///
/// The logits never exist all at once, and only targets have some: see [`sums`].
pub fn mean(model: &(dyn CausalLm + 'static), batch: &Batch) -> Result<Array> {
    Ok(sums(model, batch)?.sum(None)?.divide(Array::from_f32(batch.tokens.max(1) as f32))?)
}

/// The sum of the cross entropies of the targets of each row of a batch: `[B]`, `f32`.
///
/// Where a batch says where documents begin, none of them sees another. States that predict no target are left out before the head. The others go through it in chunks, whose logits are computed again for
/// their gradient (see [`nn::checkpoint`]), so that there are never more of them than those of one chunk.
pub fn sums(model: &(dyn CausalLm + 'static), batch: &Batch) -> Result<Array> {
    sums_in_chunks(model, batch, CHUNK)
}

pub(crate) fn sums_in_chunks(model: &(dyn CausalLm + 'static), batch: &Batch, chunk: usize) -> Result<Array> {
    let hidden = match batch.documents.as_slice() {
        [] => model.hidden(&batch.inputs, None)?,
        documents => model.hidden_packed(&batch.inputs, &Packing::new(documents.to_vec(), batch.inputs.dim(1))?)?,
    };
    let &[rows, len, width] = hidden.shape() else { return Ok(Array::from_f32(0.0)) };
    let mask = batch.mask.try_as_slice::<f32>().map_err(mlxlm_core::Error::from)?;
    let chosen: Vec<i32> = (0..).zip(mask).filter(|&(_, &one)| one > 0.0).map(|(i, _)| i).collect();
    if chosen.is_empty() {
        return Ok(ops::zeros::<f32>(&[rows])?);
    }
    let (hidden, targets) = (hidden.reshape(&[-1, width])?, batch.targets.reshape(&[-1])?);
    let mut entropies: Vec<Array> = Vec::new();
    for part in chosen.chunks(chunk) {
        let at = Array::from_slice(part, &[1, part.len() as i32]);
        let (hidden, targets) = (hidden.take_axis(&at, 0)?, targets.take_axis(&at, 0)?);
        let hidden = match entropies.last() {
            Some(before) => after(&hidden, before)?,
            None => hidden,
        };
        let of_part = move |model: &(dyn CausalLm + 'static), inputs: &[Array]| {
            let logits = inputs.iter().map(|hidden| model.head(hidden)).collect::<Result<Vec<_>, _>>();
            let logits = logits.map_err(|error| Exception::custom(error.to_string()))?;
            logits.iter().map(|logits| fast::cross_entropy(logits, &targets)?.reshape(&[-1])).collect()
        };
        entropies.extend(match chosen.len() > chunk {
            true => nn::checkpoint(model, |name| model.head_reads(name), &[hidden], of_part)?,
            false => of_part(model, &[hidden])?,
        });
    }
    // Which row each state is of.
    let count = chosen.len() as i32;
    let of_row = (0..rows).flat_map(|row| chosen.iter().map(move |i| f32::from(u8::from(i / len == row))));
    let of_row = Array::from_iter(of_row, &[rows, count]);
    Ok(of_row.matmul(ops::concatenate(&entropies, 0)?.reshape(&[count, 1])?)?.reshape(&[rows])?)
}

/// `x` as it is, by way of `before`: the one is computed after the other, and its gradient is known before the other's.
///
/// MLX would compute all chunks side by side, since none needs another, and so hold the logits of all of them.
fn after(x: &Array, before: &Array) -> Result<Array> {
    let nothing = before.sum(None)?.multiply(Array::from_f32(0.0))?;
    Ok(x.add(nothing.as_dtype(x.dtype())?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_masked_targets_count() {
        let logits = Array::from_slice(&[0_f32, 0.0, 1.0, 3.0, 50.0, -50.0], &[1, 3, 2]);
        let targets = Array::from_slice(&[1, 0, 1], &[1, 3]);
        let mask = Array::from_slice(&[1_f32, 1.0, 0.0], &[1, 3]);
        let (sum, count) = cross_entropy(&logits, &targets, &mask).unwrap();
        let expected = 2_f32.ln() + (1.0 + 2_f32.exp()).ln();
        assert!((sum.try_item_exact::<f32>().unwrap() - expected).abs() < 1e-5);
        assert_eq!(count.try_item_exact::<f32>().unwrap().to_bits(), 2_f32.to_bits());
    }
}
