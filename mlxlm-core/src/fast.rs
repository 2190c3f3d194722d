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

/// Rotary positions (arXiv:2104.09864) on the first `dims` of each head, from position `offset` on.
///
/// `traditional` pairs neighbours, and not the halves; `freqs`, the reciprocals of frequencies, stands for a `base`.
///
/// # Shapes
/// - `x`: `[…, L, d]`, `freqs`: `[dims / 2]`, and the shape of `x` comes back
#[track_caller]
pub fn rope(
    x: &Array,
    dims: i32,
    traditional: bool,
    base: Option<f32>,
    scale: f32,
    offset: i32,
    freqs: Option<&Array>,
) -> Result<Array, Exception> {
    let turn = Turn { dims, traditional, base, scale };
    match kernels::rope(x, turn, Offset::Same(offset), freqs)? {
        Some(out) => Ok(out),
        None => mlx_rs::fast::rope(x, dims, traditional, base, scale, offset, freqs),
    }
}

/// [`rope`] with the position of the first token in an array.
///
/// # Shapes
/// - `offset`: a scalar, or `[B]`
#[track_caller]
pub fn rope_dynamic(
    x: &Array,
    dims: i32,
    traditional: bool,
    base: Option<f32>,
    scale: f32,
    offset: &Array,
    freqs: Option<&Array>,
) -> Result<Array, Exception> {
    let turn = Turn { dims, traditional, base, scale };
    match kernels::rope(x, turn, Offset::Array(offset), freqs)? {
        Some(out) => Ok(out),
        None => mlx_rs::fast::rope_dynamic(x, dims, traditional, base, scale, offset, freqs),
    }
}

/// How to turn heads.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Turn {
    pub(crate) dims: i32,
    pub(crate) traditional: bool,
    pub(crate) base: Option<f32>,
    pub(crate) scale: f32,
}

/// The position of the first token.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Offset<'a> {
    Same(i32),
    Array(&'a Array),
}

#[cfg(test)]
mod tests {
    use super::*;
    use mlx_rs::{Dtype, random};

    fn close(got: &Array, want: &Array, tolerance: f64) {
        assert_eq!((got.shape(), got.dtype()), (want.shape(), want.dtype()));
        assert!(got.all_close(want, tolerance, tolerance, None).unwrap(), "{got} is not {want}");
    }

    #[test]
    fn rotations_agree_with_mlx() {
        let x = random::normal::<f32>(&[2, 3, 5, 16], None, None, &random::key(1).unwrap()).unwrap();
        let freqs = Array::from_slice(&[1.0_f32, 3.0, 10.0, 50.0, 70.0, 90.0, 200.0, 900.0], &[8]);
        let offsets = Array::from_slice(&[3, 9], &[2]);
        let one = Array::from_int(7);
        for (dtype, tolerance) in [(Dtype::Float32, 1e-5), (Dtype::Float16, 4e-3), (Dtype::Bfloat16, 3e-2)] {
            let x = x.as_dtype(dtype).unwrap();
            for traditional in [false, true] {
                let theirs = mlx_rs::fast::rope(&x, 16, traditional, 1000.0, 0.5, 4, None).unwrap();
                close(&rope(&x, 16, traditional, Some(1000.0), 0.5, 4, None).unwrap(), &theirs, tolerance);
                let theirs = mlx_rs::fast::rope(&x, 8, traditional, 1000.0, 1.0, 0, None).unwrap();
                close(&rope(&x, 8, traditional, Some(1000.0), 1.0, 0, None).unwrap(), &theirs, tolerance);
                let theirs = mlx_rs::fast::rope(&x, 16, traditional, None, 1.0, 4, &freqs).unwrap();
                close(&rope(&x, 16, traditional, None, 1.0, 4, Some(&freqs)).unwrap(), &theirs, tolerance);
                for offset in [&offsets, &one] {
                    let theirs = mlx_rs::fast::rope_dynamic(&x, 16, traditional, None, 1.0, offset, &freqs).unwrap();
                    let ours = rope_dynamic(&x, 16, traditional, None, 1.0, offset, Some(&freqs)).unwrap();
                    close(&ours, &theirs, tolerance);
                }
            }
        }
    }

    #[test]
    fn what_has_no_kernel_is_left_to_mlx() {
        let x = random::normal::<f32>(&[3, 5, 16], None, None, &random::key(1).unwrap()).unwrap();
        let theirs = mlx_rs::fast::rope(&x, 16, false, 1000.0, 1.0, 4, None).unwrap();
        close(&rope(&x, 16, false, Some(1000.0), 1.0, 4, None).unwrap(), &theirs, 1e-6);
        assert!(rope(&x, 18, false, Some(1000.0), 1.0, 4, None).is_err() || cfg!(target_os = "macos"));
    }
}
