//! The loss of a language model: cross entropy of the next token, in `f32`.

use mlxlm_core::{Array, Dtype, fused};

use crate::Result;

/// The sum of the cross entropies of the targets that `mask` has ones for, and how many they are.
///
/// # Shapes
/// - `logits`: `[B, L, V]`, `targets`: `[B, L]` integers, `mask`: `[B, L]` of zeros and ones; results: `[]`, `f32`
pub fn cross_entropy(logits: &Array, targets: &Array, mask: &Array) -> Result<(Array, Array)> {
    let logits = logits.as_dtype(Dtype::Float32)?;
    let mask = mask.as_dtype(Dtype::Float32)?;
    let entropies = fused::cross_entropy(&logits, targets)?;
    Ok((entropies.multiply(&mask)?.sum(None)?, mask.sum(None)?))
}
