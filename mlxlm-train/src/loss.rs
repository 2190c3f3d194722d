//! The loss of a language model: cross entropy of the next token, in `f32`.

use mlxlm_core::{Array, Dtype, ops};

use crate::Result;

/// The sum of the cross entropies of the targets that `mask` has ones for, and how many they are.
///
/// # Shapes
/// - `logits`: `[B, L, V]`, `targets`: `[B, L]` integers, `mask`: `[B, L]` of zeros and ones; results: `[]`, `f32`
pub fn cross_entropy(logits: &Array, targets: &Array, mask: &Array) -> Result<(Array, Array)> {
    let logits = logits.as_dtype(Dtype::Float32)?;
    let mask = mask.as_dtype(Dtype::Float32)?;
    let chosen = logits.take_along_axis(targets.expand_dims(-1)?, -1)?.squeeze_axes(&[-1])?;
    let entropies = ops::logsumexp_axis(&logits, -1, false)?.subtract(chosen)?;
    Ok((entropies.multiply(&mask)?.sum(None)?, mask.sum(None)?))
}
