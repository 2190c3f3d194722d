//! Normalization over the last axis.

use mlx_rs::Array;
use mlx_rs::error::Exception;

use crate::weights::{Init, Weights};
use crate::{Result, fast};

/// The kind of normalization.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// `x / rms(x) * weight` (arXiv:1910.07467).
    Rms,
    /// `x / rms(x) * (1 + weight)`, as in Gemma.
    RmsPlusOne,
    /// `(x - mean) / deviation * weight + bias` (arXiv:1607.06450).
    Layer,
}

/// A norm with its trained parameters.
#[derive(Debug, Clone)]
pub struct Norm {
    kind: Kind,
    /// `[D]`.
    pub weight: Array,
    /// `[D]`, of a layer norm.
    pub bias: Option<Array>,
    eps: f32,
}

impl Norm {
    /// A root-mean-square norm over `dims`.
    pub fn rms(w: &Weights, dims: i32, eps: f32) -> Result<Self> {
        Ok(Self { kind: Kind::Rms, weight: w.parameter("weight", &[dims], Init::Ones)?, bias: None, eps })
    }

    /// A root-mean-square norm whose weight is stored minus one.
    pub fn rms_plus_one(w: &Weights, dims: i32, eps: f32) -> Result<Self> {
        Ok(Self { kind: Kind::RmsPlusOne, weight: w.parameter("weight", &[dims], Init::Zeros)?, bias: None, eps })
    }

    /// A layer norm, with a bias if `biased`.
    pub fn layer(w: &Weights, dims: i32, eps: f32, biased: bool) -> Result<Self> {
        let weight = w.parameter("weight", &[dims], Init::Ones)?;
        let bias = biased.then(|| w.parameter("bias", &[dims], Init::Zeros)).transpose()?;
        Ok(Self { kind: Kind::Layer, weight, bias, eps })
    }

    /// # Shapes
    /// - `x`: `[…, D]`, and the same comes back
    #[track_caller]
    pub fn forward(&self, x: &Array) -> Result<Array, Exception> {
        match self.kind {
            Kind::Rms | Kind::RmsPlusOne => fast::rms_norm(x, Some(&self.factor()?), self.eps),
            Kind::Layer => fast::layer_norm(x, Some(&self.weight), self.bias.as_ref(), self.eps),
        }
    }

    /// `x + y`, and the norm of that.
    ///
    /// # Shapes
    /// - `x`, `y`: `[…, D]`, and the same comes back twice
    #[track_caller]
    pub fn forward_sum(&self, x: &Array, y: &Array) -> Result<[Array; 2], Exception> {
        match self.kind {
            Kind::Rms | Kind::RmsPlusOne => fast::add_rms_norm(x, y, Some(&self.factor()?), self.eps),
            Kind::Layer => {
                let sum = x.add(y)?;
                let normed = self.forward(&sum)?;
                Ok([sum, normed])
            }
        }
    }

    /// What rows are multiplied with.
    fn factor(&self) -> Result<Array, Exception> {
        match self.kind {
            Kind::RmsPlusOne => self.weight.add(Array::from_f32(1.0).as_dtype(self.weight.dtype())?),
            _ => Ok(self.weight.clone()),
        }
    }

    pub(super) fn parameters(&mut self, visit: &mut dyn FnMut(&str, &mut Array)) {
        visit("weight", &mut self.weight);
        if let Some(bias) = &mut self.bias {
            visit("bias", bias);
        }
    }
}
