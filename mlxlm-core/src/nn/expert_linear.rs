//! One linear map for each expert, of which every token takes a few.

use mlx_rs::Array;
use mlx_rs::error::Exception;

use super::{LowRankAdapter, Matrix};
use crate::Result;
use crate::weights::{Init, Weights};

/// A stack of linear maps.
#[derive(Debug, Clone)]
pub struct ExpertLinear {
    /// `[E, out, in]`.
    pub weight: Matrix,
    /// `[E, out]`.
    pub bias: Option<Array>,
    /// What a fine-tune adds; LoRA only.
    pub adapter: Option<LowRankAdapter>,
}

impl ExpertLinear {
    /// The maps of `experts` experts from `input` to `output` dimensions at `w`.
    pub fn load(w: &Weights, experts: i32, output: i32, input: i32) -> Result<Self> {
        let init = Init::Normal(1.0 / (input.max(1) as f32).sqrt());
        Ok(Self {
            weight: Matrix::load(w, &[experts, output, input], init)?,
            bias: None,
            adapter: w
                .low_rank(|r| [vec![experts, r, input], vec![experts, output, r], vec![experts, output]])
                .map(LowRankAdapter::new),
        })
    }

    /// # Shapes
    /// - `x`: `[…, 1, in]`, `indices`: `[…]` of `u32`, ascending if `sorted`; result: `[…, 1, out]`
    #[track_caller]
    pub fn forward(&self, x: &Array, indices: &Array, sorted: bool) -> Result<Array, Exception> {
        let mut y = self.weight.project_chosen(x, indices, sorted)?;
        if let Some(adapter) = &self.adapter {
            let z = Matrix::Dense(adapter.a.clone()).project_chosen(&adapter.drop(x)?, indices, sorted)?;
            let z = Matrix::Dense(adapter.b.clone()).project_chosen(&z, indices, sorted)?;
            y = y.add(adapter.scaled(&z, x)?)?;
        }
        match &self.bias {
            Some(bias) => y.add(bias.take_axis(indices, 0)?.expand_dims(-2)?),
            None => Ok(y),
        }
    }

    /// Puts the adapter into the weights, which keep their form.
    pub fn fuse(&mut self) -> Result<(), Exception> {
        let Some(adapter) = self.adapter.take() else { return Ok(()) };
        let weight = self.weight.dense()?;
        let addition = adapter.scaled(&adapter.b.matmul(&adapter.a)?, &weight)?;
        self.weight.replace(weight.add(addition)?)
    }

    pub(super) fn parameters(&mut self, visit: &mut dyn FnMut(&str, &mut Array)) {
        self.weight.parameters(visit);
        self.others(visit);
    }

    /// All parameters but those of the matrix.
    pub(super) fn others(&mut self, visit: &mut dyn FnMut(&str, &mut Array)) {
        if let Some(bias) = &mut self.bias {
            visit("bias", bias);
        }
        if let Some(adapter) = &mut self.adapter {
            adapter.parameters(visit);
        }
    }
}
