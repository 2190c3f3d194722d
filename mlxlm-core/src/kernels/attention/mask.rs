//! Masks of attention in memory, broadcast to all scores.

use half::{bf16, f16};
use mlx_rs::Dtype;

use crate::kernels::primitive::View;

/// A mask, broadcast to `[B, H, L, S]`.
#[derive(Clone, Copy)]
pub(super) struct MaskView {
    strides: [isize; 4],
    dtype: Dtype,
    data: *const u8,
}

// SAFETY: values are only read, and MLX keeps them while the task runs.
unsafe impl Sync for MaskView {}

impl MaskView {
    pub(super) fn new(view: &View<'_>) -> Self {
        let mut strides = [0; 4];
        for (to, (&size, &stride)) in strides.iter_mut().rev().zip(view.shape.iter().zip(view.strides).rev()) {
            *to = if size == 1 { 0 } else { stride as isize };
        }
        let data = match view.dtype {
            Dtype::Bool => view.as_ptr::<bool>().cast(),
            Dtype::Float32 => view.as_ptr::<f32>().cast(),
            Dtype::Float16 => view.as_ptr::<f16>().cast(),
            Dtype::Bfloat16 => view.as_ptr::<bf16>().cast(),
            other => unreachable!("a mask is not {other:?}"),
        };
        Self { strides, dtype: view.dtype, data }
    }

    /// Applies the mask of a query to its scores of the keys from `key` on. A hidden key gets the lowest finite score, so that
    /// a query which sees nothing takes the mean of all values, as in MLX.
    pub(super) fn apply(&self, [b, h, l, key]: [usize; 4], scores: &mut [f32]) {
        let [bs, hs, ls, ss] = self.strides;
        let first = b as isize * bs + h as isize * hs + l as isize * ls + key as isize * ss;
        for (i, score) in scores.iter_mut().enumerate() {
            let at = first + i as isize * ss;
            // SAFETY: the mask is as large as the scores, or broadcast with a stride of 0.
            unsafe {
                match self.dtype {
                    Dtype::Bool => {
                        // Foreign bytes may be neither 0 nor 1.
                        if *self.data.cast::<u8>().offset(at) == 0 {
                            *score = f32::MIN;
                        }
                    }
                    Dtype::Float32 => *score += *self.data.cast::<f32>().offset(at),
                    Dtype::Float16 => *score += (*self.data.cast::<f16>().offset(at)).to_f32(),
                    _ => *score += (*self.data.cast::<bf16>().offset(at)).to_f32(),
                }
            }
        }
    }
}
