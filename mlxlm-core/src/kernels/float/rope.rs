//! Rotary positions (arXiv:2104.09864) whose pairs are the two halves of a head; the gradient turns the other way.

use std::ffi::CStr;

use mlx_rs::error::Exception;
use mlx_rs::{Array, Dtype};

use super::{Heads, isa, multiversion};
use crate::kernels::gemm::Shared;
use crate::kernels::isa::Isa;
use crate::kernels::pool;
use crate::kernels::primitive::{Gradient, Operation, View, ViewMut, apply_one};

/// The numbers of a rotation over whole heads.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rotation {
    /// Pair `i` of `n` turns by `base^(-i/n)` for each position.
    pub(crate) base: f32,
    /// Factor of positions.
    pub(crate) scale: f32,
    /// Position of the first token.
    pub(crate) offset: i32,
    /// 1, or -1 to turn back.
    pub(crate) direction: f32,
}

impl Rotation {
    /// # Shapes
    /// - `x`: `[B, H, L, d]` of `f32` with an even `d`, and the same comes back
    pub(crate) fn apply(self, x: &Array) -> Result<Array, Exception> {
        apply_one(self, &[x], x.shape(), Dtype::Float32)
    }

    /// Cosines and sines, `[L, d / 2]` each. Angles are computed as MLX's CPU path does, in `f32`.
    fn table(&self, len: usize, half: usize) -> (Vec<f32>, Vec<f32>) {
        let step = -self.base.ln() / half as f32;
        let frequencies: Vec<f32> = (0..half).map(|i| (i as f32 * step).exp()).collect();
        let angles = (0..len).flat_map(|position| {
            let position = (position as i32 + self.offset) as f32 * self.scale;
            frequencies.iter().map(move |frequency| position * frequency)
        });
        angles.map(|angle| (angle.cos(), self.direction * angle.sin())).unzip()
    }
}

impl Operation for Rotation {
    fn name(&self) -> &'static CStr {
        c"Rotation"
    }

    fn run(&self, inputs: &[View<'_>], outputs: &mut [ViewMut<'_>]) {
        let mut buffer = Vec::new();
        let x = Heads::of(&inputs[0], &mut buffer);
        let &[batch, heads, len, dims] = inputs[0].shape else { unreachable!("heads have four axes") };
        let [batch, heads, len, dims] = [batch, heads, len, dims].map(|n| n as usize);
        let (cos, sin) = self.table(len, dims / 2);
        let (out, isa) = (Shared(outputs[0].as_mut_slice::<f32>().as_mut_ptr()), isa());
        pool::parallel(batch * heads, |task| {
            let head = x.head(task / heads, task % heads);
            for i in 0..len {
                let half = dims / 2;
                // SAFETY: the row is inside the view, and one task writes each head.
                let (row, out) = unsafe {
                    let row = std::slice::from_raw_parts(head.add(i * x.ld()), dims);
                    (row, std::slice::from_raw_parts_mut(out.get().add((task * len + i) * dims), dims))
                };
                rotate(isa, row, &cos[i * half..][..half], &sin[i * half..][..half], out);
            }
        });
    }

    fn vjp(&self, at: &Gradient) -> Result<Vec<Array>, Exception> {
        Ok(vec![Self { direction: -self.direction, ..*self }.apply(&at.cotangents[0])?])
    }
}

multiversion! {
    fn rotate(x: &[f32], cos: &[f32], sin: &[f32], out: &mut [f32]) {
        let half = cos.len();
        let ((x, y), (u, v)) = (x.split_at(half), out.split_at_mut(half));
        let (x, y, u, v, sin) = (&x[..half], &y[..half], &mut u[..half], &mut v[..half], &sin[..half]);
        for i in 0..half {
            u[i] = x[i] * cos[i] - y[i] * sin[i];
            v[i] = x[i] * sin[i] + y[i] * cos[i];
        }
    }
}
