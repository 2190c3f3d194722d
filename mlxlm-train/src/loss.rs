//! The loss of a language model: cross entropy of the next token, in `f32`.

use mlxlm_core::{Array, Dtype, fast};

use crate::Result;

/// The sum of the cross entropies of the targets that `mask` has ones for, and how many they are.
///
/// # Shapes
/// - `logits`: `[B, L, V]`, `targets`: `[B, L]` integers, `mask`: `[B, L]` of zeros and ones; results: `[]`, `f32`
pub fn cross_entropy(logits: &Array, targets: &Array, mask: &Array) -> Result<(Array, Array)> {
    let mask = mask.as_dtype(Dtype::Float32)?;
    let entropies = fast::cross_entropy(logits, targets)?;
    Ok((entropies.multiply(&mask)?.sum(None)?, mask.sum(None)?))
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
