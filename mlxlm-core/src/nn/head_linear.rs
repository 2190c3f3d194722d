//! One linear map for each head: the halves of a projection into heads, where attention is to latents (arXiv:2405.04434).
//!
//! Ports `MultiLinear` and its quantized twin of `mlx_lm/models/mla.py` @ 0.32.2. Fine-tunes leave these maps as they are, as
//! in the reference.

use mlx_rs::error::Exception;
use mlx_rs::{Array, ops};

use super::{Matrix, Worth};
use crate::Result;
use crate::weights::{Init, Weights};

/// A stack of linear maps, one for each head.
#[derive(Debug, Clone)]
pub struct HeadLinear {
    /// `[H, out, in]`.
    pub weight: Matrix,
    /// How it is cut, and how far it may be packed; a device that has some of the columns has some of the heads.
    pub worth: Worth,
}

impl HeadLinear {
    /// The maps of `heads` heads from `input` to `output` dimensions at `w`.
    pub fn load(w: &Weights, heads: i32, output: i32, input: i32) -> Result<Self> {
        let init = Init::Normal(1.0 / (input.max(1) as f32).sqrt());
        Ok(Self { weight: Matrix::load(w, &[heads, output, input], init)?, worth: w.worth() })
    }

    /// What each head's map makes of that head's input.
    ///
    /// # Shapes
    /// - `x`: `[B, H, L, in]`, result: `[B, H, L, out]`
    #[track_caller]
    pub fn forward(&self, x: &Array) -> Result<Array, Exception> {
        match *x.shape() {
            [batch, heads, 1, _] => {
                let each = ops::arange::<u32, u32>(0, heads.unsigned_abs(), None)?;
                self.weight.project_chosen(x, &ops::broadcast_to(each, &[batch, heads])?, false)
            }
            _ => self.weight.project_stack(x, true),
        }
    }

    /// What all maps make of the same input.
    ///
    /// # Shapes
    /// - `x`: `[B, L, in]`, result: `[B, H, L, out]`
    #[track_caller]
    pub fn spread(&self, x: &Array) -> Result<Array, Exception> {
        let (heads, output) = (self.weight.shape()[0], self.weight.shape()[1]);
        let all = self.weight.flattened()?.project(x)?;
        all.reshape(&[x.dim(0), x.dim(1), heads, output])?.transpose_axes(&[0, 2, 1, 3])
    }

    /// What all maps, turned round (`x @ weight`), make of the same input.
    ///
    /// # Shapes
    /// - `x`: `[B, L, out]`, result: `[B, H, L, in]`
    #[track_caller]
    pub fn spread_back(&self, x: &Array) -> Result<Array, Exception> {
        let Matrix::Dense(stack) = &self.weight else {
            return self.weight.project_stack(&x.expand_dims(1)?, false);
        };
        Self { weight: Matrix::Dense(stack.swap_axes(-1, -2)?), worth: self.worth }.spread(x)
    }
}

#[cfg(test)]
mod tests {
    use mlx_rs::random;

    use super::*;
    use crate::quant::Mode;

    #[test]
    fn dense_and_packed_maps_agree_with_products_by_hand() {
        let draw = |shape: &[i32], seed| random::normal::<f32>(shape, None, None, &random::key(seed).unwrap()).unwrap();
        let (stack, x) = (draw(&[3, 64, 32], 1), draw(&[2, 5, 32], 2));
        let mut packed = Matrix::Dense(stack.clone());
        packed.quantize(Mode::Mxfp8.default_scheme()).unwrap();
        for weight in [Matrix::Dense(stack), packed] {
            let dense = weight.dense().unwrap();
            let maps = HeadLinear { weight, worth: Worth::default() };
            let near = |got: Array, want: Array| assert!(got.all_close(&want, 1e-4, 1e-4, None).unwrap());
            let wide = x.expand_dims(1).unwrap();
            let spread = wide.matmul(dense.swap_axes(-1, -2).unwrap()).unwrap();
            near(maps.spread(&x).unwrap(), spread.clone());
            let back = draw(&[2, 5, 64], 3);
            near(maps.spread_back(&back).unwrap(), back.expand_dims(1).unwrap().matmul(&dense).unwrap());
            // Each head with its own input, many tokens and one.
            for len in [5, 1] {
                let own = draw(&[2, 3, len, 32], 4);
                let want = own.matmul(dense.swap_axes(-1, -2).unwrap()).unwrap();
                near(maps.forward(&own).unwrap(), want);
            }
        }
    }
}
