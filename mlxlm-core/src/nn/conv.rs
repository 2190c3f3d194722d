//! A convolution over tokens, each channel by itself.

use mlx_rs::error::Exception;
use mlx_rs::{Array, ops};

use crate::Result;
use crate::weights::{Init, Weights};

/// A depthwise convolution: one filter for each channel.
#[derive(Debug, Clone)]
pub struct Conv1d {
    /// `[D, width, 1]`.
    pub weight: Array,
    /// `[D]`.
    pub bias: Option<Array>,
}

impl Conv1d {
    /// The convolution of `dims` channels with filters of `width` tokens at `w`, with a bias if `biased`.
    pub fn depthwise(w: &Weights, dims: i32, width: i32, biased: bool) -> Result<Self> {
        let init = Init::Normal(1.0 / (width.max(1) as f32).sqrt());
        let weight = w.parameter("weight", &[dims, width, 1], init)?;
        let bias = biased.then(|| w.parameter("bias", &[dims], Init::Zeros)).transpose()?;
        Ok(Self { weight, bias })
    }

    /// # Shapes
    /// - `x`: `[B, L, D]`, result: `[B, L - width + 1, D]`; the caller puts the past in front
    #[track_caller]
    pub fn forward(&self, x: &Array) -> Result<Array, Exception> {
        let y = ops::conv1d(x, &self.weight, None, None, None, self.weight.dim(0))?;
        self.bias.as_ref().map_or(Ok(y.clone()), |bias| y.add(bias))
    }

    pub(super) fn parameters(&self) -> Vec<(&'static str, &Array)> {
        [("weight", &self.weight)].into_iter().chain(self.bias.iter().map(|bias| ("bias", bias))).collect()
    }

    pub(super) fn parameters_mut(&mut self, visit: &mut dyn FnMut(&str, &mut Array)) {
        visit("weight", &mut self.weight);
        if let Some(bias) = &mut self.bias {
            visit("bias", bias);
        }
    }
}
