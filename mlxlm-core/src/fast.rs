//! MLX's fused operations, by our kernels where those are faster: on Linux CPUs, where MLX composes them of scalar loops.

use mlx_rs::Array;
use mlx_rs::error::Exception;
pub use mlx_rs::fast::*;

use crate::kernels;

/// `softmax(scale · q @ k.T + mask) @ v`, with query heads in groups that share a kv-head.
///
/// `sinks` are scores, one for each head, that take part in the softmax and have no value.
///
/// # Shapes
/// - `q`: `[B, H, L, d]`, `k`: `[B, K, S, d]`, `v`: `[B, K, S, e]`, a mask array: broadcast to `[B, H, L, S]`,
///   `sinks`: `[H]`; result: `[B, H, L, e]`
#[track_caller]
pub fn scaled_dot_product_attention(
    q: &Array,
    k: &Array,
    v: &Array,
    scale: f32,
    mask: Option<ScaledDotProductAttentionMask<'_>>,
    sinks: Option<&Array>,
) -> Result<Array, Exception> {
    match kernels::attend(q, k, v, scale, mask.as_ref(), sinks)? {
        Some(out) => Ok(out),
        None => mlx_rs::fast::scaled_dot_product_attention(q, k, v, scale, mask, sinks),
    }
}
