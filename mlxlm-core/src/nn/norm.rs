//! Normalization over the last axis.

use mlx_rs::Array;
use mlx_rs::error::Exception;

use super::watch;
use crate::weights::{Init, Weights};
use crate::{Result, fast};

/// The kind of normalization.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// `x / rms(x) * weight` (arXiv:1910.07467).
    Rms,
    /// As `Rms`, with a weight that is spread over the axes before the last.
    RmsSpread,
    /// As `Layer`, with a weight that is spread over the axes before the last.
    LayerSpread,
    /// `(x - mean) / deviation * weight + bias` (arXiv:1607.06450).
    Layer,
}

/// A norm with its trained parameters.
#[derive(Debug, Clone)]
pub struct Norm {
    kind: Kind,
    /// `[D]`; a plain norm has none.
    pub weight: Option<Array>,
    /// `[D]`, of a layer norm.
    pub bias: Option<Array>,
    eps: f32,
    /// What is added to the weight: norms may be stored less a number.
    offset: f32,
}

impl Norm {
    fn new(kind: Kind, weight: Option<Array>, bias: Option<Array>, eps: f32) -> Self {
        Self { kind, weight, bias, eps, offset: 0.0 }
    }

    /// A root-mean-square norm over `dims`.
    pub fn rms(w: &Weights, dims: i32, eps: f32) -> Result<Self> {
        Ok(Self::new(Kind::Rms, Some(w.parameter("weight", &[dims], Init::Ones)?), None, eps))
    }

    /// A root-mean-square norm whose weight is stored minus one, as in Gemma.
    pub fn rms_plus_one(w: &Weights, dims: i32, eps: f32) -> Result<Self> {
        Self::rms_plus(w, dims, eps, 1.0)
    }

    /// A root-mean-square norm whose weight is stored less `offset`: `x / rms(x) * (weight + offset)`.
    pub fn rms_plus(w: &Weights, dims: i32, eps: f32, offset: f32) -> Result<Self> {
        let weight = Some(w.parameter("weight", &[dims], Init::Zeros)?);
        Ok(Self { offset, ..Self::new(Kind::Rms, weight, None, eps) })
    }

    /// A root-mean-square norm without parameters.
    pub fn rms_plain(eps: f32) -> Self {
        Self::new(Kind::Rms, None, None, eps)
    }

    /// A layer norm without parameters.
    pub fn layer_plain(eps: f32) -> Self {
        Self::new(Kind::Layer, None, None, eps)
    }

    /// As [`Self::rms`] over other dimensions: `weight` has this shape, and is spread over `[…, heads, d]` for one of `[heads, d]`.
    pub fn rms_shaped(w: &Weights, shape: &[i32], eps: f32) -> Result<Self> {
        Ok(Self::new(Kind::RmsSpread, Some(w.parameter("weight", shape, Init::Ones)?), None, eps))
    }

    /// As [`Self::rms_shaped`], a layer norm without a bias.
    pub fn layer_shaped(w: &Weights, shape: &[i32], eps: f32) -> Result<Self> {
        Ok(Self::new(Kind::LayerSpread, Some(w.parameter("weight", shape, Init::Ones)?), None, eps))
    }

    /// A layer norm, with a bias if `biased`.
    pub fn layer(w: &Weights, dims: i32, eps: f32, biased: bool) -> Result<Self> {
        let weight = Some(w.parameter("weight", &[dims], Init::Ones)?);
        let bias = biased.then(|| w.parameter("bias", &[dims], Init::Zeros)).transpose()?;
        Ok(Self::new(Kind::Layer, weight, bias, eps))
    }

    /// A layer norm with a bias, whose weight is stored minus one, as in Nemotron.
    pub fn layer_plus_one(w: &Weights, dims: i32, eps: f32) -> Result<Self> {
        let weight = Some(w.parameter("weight", &[dims], Init::Zeros)?);
        let bias = Some(w.parameter("bias", &[dims], Init::Zeros)?);
        Ok(Self { offset: 1.0, ..Self::new(Kind::Layer, weight, bias, eps) })
    }

    /// # Shapes
    /// - `x`: `[…, D]`, and the same comes back
    #[track_caller]
    pub fn forward(&self, x: &Array) -> Result<Array, Exception> {
        watch::heard(self, x, None, self.normed(x)?)
    }

    /// Divides what the norm makes by `scales`, `[D]`, for whoever reads it to multiply with: whether it can is said, and what it
    /// makes stays as it is if it cannot.
    pub fn divide(&mut self, scales: &Array) -> Result<bool, Exception> {
        let Some(weight) = self.weight.as_mut().filter(|weight| weight.shape() == scales.shape()) else {
            return Ok(false);
        };
        let dtype = weight.dtype();
        let offset = Array::from_f32(self.offset);
        let factor = weight.as_dtype(mlx_rs::Dtype::Float32)?.add(&offset)?.divide(scales)?;
        *weight = factor.subtract(&offset)?.as_dtype(dtype)?;
        if let Some(bias) = &mut self.bias {
            *bias = bias.divide(scales.as_dtype(bias.dtype())?)?;
        }
        Ok(true)
    }

    #[track_caller]
    fn normed(&self, x: &Array) -> Result<Array, Exception> {
        match (self.kind, &self.weight) {
            (Kind::Rms, _) => fast::rms_norm(x, self.factor()?.as_ref(), self.eps),
            (Kind::RmsSpread, Some(weight)) => fast::rms_norm(x, None, self.eps)?.multiply(weight),
            (Kind::RmsSpread, None) => fast::rms_norm(x, None, self.eps),
            (Kind::LayerSpread, Some(weight)) => fast::layer_norm(x, None, None, self.eps)?.multiply(weight),
            (Kind::LayerSpread, None) => fast::layer_norm(x, None, None, self.eps),
            (Kind::Layer, _) => fast::layer_norm(x, self.factor()?.as_ref(), self.bias.as_ref(), self.eps),
        }
    }

    /// `x + y`, and the norm of that.
    ///
    /// # Shapes
    /// - `x`, `y`: `[…, D]`, and the same comes back twice
    #[track_caller]
    pub fn forward_sum(&self, x: &Array, y: &Array) -> Result<[Array; 2], Exception> {
        match self.kind {
            Kind::Rms if !watch::is_watched() => fast::add_rms_norm(x, y, self.factor()?.as_ref(), self.eps),
            _ => {
                let sum = x.add(y)?;
                let normed = self.forward(&sum)?;
                Ok([sum, normed])
            }
        }
    }

    /// What rows are multiplied with.
    fn factor(&self) -> Result<Option<Array>, Exception> {
        match &self.weight {
            Some(weight) if self.offset != 0.0 => {
                Ok(Some(weight.add(Array::from_f32(self.offset).as_dtype(weight.dtype())?)?))
            }
            weight => Ok(weight.clone()),
        }
    }

    pub(super) fn parameters(&self) -> Vec<(&'static str, &Array)> {
        let weight = self.weight.iter().map(|weight| ("weight", weight));
        weight.chain(self.bias.iter().map(|bias| ("bias", bias))).collect()
    }

    pub(super) fn parameters_mut(&mut self, visit: &mut dyn FnMut(&str, &mut Array)) {
        if let Some(weight) = &mut self.weight {
            visit("weight", weight);
        }
        if let Some(bias) = &mut self.bias {
            visit("bias", bias);
        }
    }
}
