//! Greedy decoding: the most likely token (`greedy_sampler` of `mlx_lm/sample_utils.py`).

use mlxlm_core::{Array, fast};

use crate::Result;

/// The index of the largest entry of each row; the first of equals.
///
/// # Shapes
/// `logprobs` `[B, V]` → `[B]`, u32.
pub fn greedy(logprobs: &Array) -> Result<Array> {
    Ok(fast::argmax(logprobs)?)
}
