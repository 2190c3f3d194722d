//! Attention.

use mlx_rs::Array;
use mlx_rs::error::Exception;
use mlx_rs::fast::ScaledDotProductAttentionMask;

use super::{by_kernel, plain};

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
    by_kernel!(crate::kernels::attend(q, k, v, scale, mask.as_ref(), sinks));
    mlx_rs::fast::scaled_dot_product_attention(q, k, v, scale, mask, sinks)
}

/// Attention of each token to itself and those before it, with grouped heads.
///
/// # Shapes
/// - `q`: `[B, H, L, d]`, `k`, `v`: `[B, K, L, d]` where `K` divides `H`; result: `[B, H, L, d]`
#[track_caller]
pub fn causal_attention(q: &Array, k: &Array, v: &Array, scale: f32) -> Result<Array, Exception> {
    by_kernel!(crate::kernels::float::causal_attention(q, k, v, scale));
    plain::causal_attention(q, k, v, scale)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{check, check_narrow, normal};
    use super::*;

    #[test]
    fn causal_attention_is_the_plain_one() {
        let check_sizes = |len: i32, heads: i32, kv_heads: i32, dims: i32| {
            let kv = [2, len, kv_heads, dims];
            let inputs = [normal(&[2, len, heads, dims], 1), normal(&kv, 2), normal(&kv, 3)];
            let by_head = |x: &Array| x.transpose_axes(&[0, 2, 1, 3]);
            type Attention = fn(&Array, &Array, &Array, f32) -> Result<Array, Exception>;
            let with = |f: Attention| {
                move |x: &[Array]| by_head(&f(&by_head(&x[0])?, &by_head(&x[1])?, &by_head(&x[2])?, 0.3)?)
            };
            check(&inputs, with(causal_attention), with(plain::causal_attention));
        };
        check_sizes(1, 1, 1, 4);
        check_sizes(7, 4, 2, 8);
        check_sizes(64, 2, 2, 16);
        check_sizes(150, 4, 1, 32);
    }

    #[test]
    fn narrow_types_are_rounded_once() {
        let shape: &[i32] = &[2, 4, 70, 16];
        check_narrow(&[shape, &[2, 2, 70, 16], &[2, 2, 70, 16]], |x| causal_attention(&x[0], &x[1], &x[2], 0.3));
    }
}
