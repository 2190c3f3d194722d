//! One linear map for each expert, of which every token takes a few.

use mlx_rs::Array;
use mlx_rs::error::Exception;

use super::{LowRankAdapter, Matrix, Worth, watch};
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
    /// How it is cut, and how far it may be packed.
    pub worth: Worth,
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
            worth: w.worth(),
        })
    }

    /// As [`Self::load`], with a bias for each expert if `biased`.
    pub fn load_biased(w: &Weights, experts: i32, output: i32, input: i32, biased: bool) -> Result<Self> {
        let bias = biased.then(|| w.parameter("bias", &[experts, output], Init::Zeros)).transpose()?;
        Ok(Self { bias, ..Self::load(w, experts, output, input)? })
    }

    /// # Shapes
    /// - `x`: `[…, 1, in]`, `indices`: `[…]` of `u32`, ascending if `sorted`; result: `[…, 1, out]`
    #[track_caller]
    pub fn forward(&self, x: &Array, indices: &Array, sorted: bool) -> Result<Array, Exception> {
        watch::heard(self, x, Some(indices), self.mapped(x, indices, sorted)?)
    }

    #[track_caller]
    fn mapped(&self, x: &Array, indices: &Array, sorted: bool) -> Result<Array, Exception> {
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

    pub(super) fn parameters_mut(&mut self, visit: &mut dyn FnMut(&str, &mut Array)) {
        self.weight.parameters(visit);
        self.others_mut(visit);
    }

    /// All parameters but those of the matrix.
    pub(super) fn others(&self) -> Vec<(&'static str, &Array)> {
        let bias = self.bias.iter().map(|bias| ("bias", bias));
        bias.chain(self.adapter.iter().flat_map(LowRankAdapter::parameters)).collect()
    }

    pub(super) fn others_mut(&mut self, visit: &mut dyn FnMut(&str, &mut Array)) {
        if let Some(bias) = &mut self.bias {
            visit("bias", bias);
        }
        if let Some(adapter) = &mut self.adapter {
            adapter.parameters_mut(visit);
        }
    }
}
