//! Batches of texts of different lengths.

use mlxlm_core::{Array, order};

use crate::{Error, Result};

/// What models read, and which positions count.
#[derive(Debug, Clone)]
pub struct Batch {
    /// `[B, L]`, `i32`.
    pub inputs: Array,
    /// `[B, L]`, `f32`: one where a token follows, zero for padding.
    pub mask: Array,
}

impl Batch {
    /// A batch of texts; each gives up its last token, which nothing follows.
    pub fn new(texts: &[Vec<u32>]) -> Self {
        let len = texts.iter().map(Vec::len).max().unwrap_or(0).saturating_sub(1);
        let inputs: Vec<i32> =
            texts.iter().flat_map(|text| (0..len).map(|i| text.get(i).map_or(0, |&token| token as i32))).collect();
        let counts = |text: &Vec<u32>, i: usize| if i + 1 < text.len() { 1_f32 } else { 0.0 };
        let mask: Vec<f32> = texts.iter().flat_map(|text| (0..len).map(move |i| counts(text, i))).collect();
        let shape = [texts.len() as i32, len as i32];
        Self { inputs: Array::from_slice(&inputs, &shape), mask: Array::from_slice(&mask, &shape) }
    }

    /// How many positions count.
    pub(super) fn positions(&self) -> Result<f64> {
        Ok(f64::from(self.mask.sum(None)?.try_item_exact::<f32>()?))
    }
}

/// Texts of like lengths together, in an order drawn from the seed; what does not fill a batch is left out.
///
/// # Errors
/// [`Error::Parameter`] if there are fewer texts than a batch takes.
pub fn batches(mut texts: Vec<Vec<u32>>, batch_size: usize, seed: u64) -> Result<Vec<Batch>> {
    if batch_size == 0 || texts.len() < batch_size {
        let value = batch_size.to_string();
        return Err(Error::Parameter { name: "batch_size", value, expected: "from 1 to the number of samples" });
    }
    texts.sort_by_key(Vec::len);
    let batches: Vec<Batch> = texts.chunks_exact(batch_size).map(Batch::new).collect();
    Ok(order::permutation(batches.len(), seed)?.into_iter().map(|i| batches[i].clone()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_does_not_count() {
        let batch = Batch::new(&[vec![1, 2, 3], vec![4, 5]]);
        assert_eq!(batch.inputs.to_vec_exact::<i32>().unwrap(), [1, 2, 4, 5]);
        assert_eq!(batch.mask.to_vec_exact::<f32>().unwrap(), [1.0, 1.0, 1.0, 0.0]);
    }

    #[test]
    fn texts_of_like_lengths_go_together() {
        let texts = (1..=7).map(|len| vec![9; len + 1]).collect();
        let lens: Vec<i32> = batches(texts, 2, 3).unwrap().iter().map(|batch| batch.inputs.dim(1)).collect();
        let mut sorted = lens.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, [2, 4, 6]);
        assert!(batches(vec![vec![1, 2]], 2, 0).is_err());
    }
}
