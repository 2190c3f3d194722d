//! The addition that LoRA and DoRA make to a leaf (arXiv:2106.09685, arXiv:2402.09353).
//!
//! Ports `mlx_lm/tuner/{lora,dora}.py` @ 0.32.2. Unusual: `scale` is taken as it is, not divided by the rank.

use mlx_rs::error::Exception;
use mlx_rs::{Array, ops, random};

use crate::weights::{LoraParameters, LowRank};

/// A trained addition of low rank to one leaf.
#[derive(Debug, Clone)]
pub struct LowRankAdapter {
    /// The factor on the side of the input: `[in, r]`, `[V, r]` of an embedding, `[E, r, in]` of experts.
    pub a: Array,
    /// The factor on the side of the output: `[r, out]`, `[r, D]` of an embedding, `[E, out, r]` of experts.
    pub b: Array,
    /// The magnitude of each row, `[out]`, if this is DoRA.
    pub m: Option<Array>,
    /// Factor of the addition.
    pub scale: f32,
    /// Share of the inputs that are dropped while training.
    pub dropout: f32,
}

impl LowRankAdapter {
    pub(super) fn new((LowRank { a, b, m }, parameters): (LowRank, LoraParameters)) -> Self {
        Self { a, b, m, scale: parameters.scale, dropout: parameters.dropout }
    }

    /// Drops a share of the inputs while training, and scales the rest so that the mean stays.
    #[track_caller]
    pub(super) fn drop(&self, x: &Array) -> Result<Array, Exception> {
        if !super::is_training() || self.dropout == 0.0 {
            return Ok(x.clone());
        }
        let keep = 1.0 - self.dropout;
        let kept = random::bernoulli(&Array::from_f32(keep), x.shape(), None)?;
        x.multiply(kept.as_dtype(x.dtype())?)?.multiply(Array::from_f32(1.0 / keep).as_dtype(x.dtype())?)
    }

    /// `scale * z` in the type of `like`.
    #[track_caller]
    pub(super) fn scaled(&self, z: &Array, like: &Array) -> Result<Array, Exception> {
        z.multiply(Array::from_f32(self.scale))?.as_dtype(like.dtype())
    }

    /// `y` with its rows (or its columns, for a linear map) brought to the trained magnitude: `y * m / norm`.
    #[track_caller]
    pub(super) fn magnified(&self, y: &Array, adapted: &Array) -> Result<Array, Exception> {
        let Some(m) = &self.m else { return Ok(y.clone()) };
        let norm = ops::sqrt(&ops::sum_axis(&ops::square(adapted)?, -1, false)?)?;
        m.divide(mlx_rs::stop_gradient(&norm)?)?.as_dtype(y.dtype())?.multiply(y)
    }

    pub(super) fn parameters(&self) -> Vec<(&'static str, &Array)> {
        let factors = [("lora_a", &self.a), ("lora_b", &self.b)];
        factors.into_iter().chain(self.m.iter().map(|m| ("m", m))).collect()
    }

    pub(super) fn parameters_mut(&mut self, visit: &mut dyn FnMut(&str, &mut Array)) {
        visit("lora_a", &mut self.a);
        visit("lora_b", &mut self.b);
        if let Some(m) = &mut self.m {
            visit("m", m);
        }
    }
}
