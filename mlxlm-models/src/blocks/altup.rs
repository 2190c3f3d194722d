//! Alternating updates (arXiv:2301.13310): a block reads one of several streams, after each is predicted from all, and corrects
//! all by what came of it.

use mlxlm_core::ops::indexing::TryIndexOp;

use super::per_layer::PerLayerInputs;
use crate::prelude::*;

/// How many streams there are, which of them is read, and how they are corrected.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AltUpShape {
    pub(crate) streams: i32,
    pub(crate) active: i32,
    pub(crate) clip: Option<f32>,
    pub(crate) rescales: bool,
}

/// The streams' part of a block. Its two matrices of coefficients are bounded, and so never packed nor adapted.
#[derive(Debug)]
pub(crate) struct AltUp {
    correct_output_scale: Parameter,
    correction_coefs: Parameter,
    prediction_coefs: Parameter,
    modality_router: Linear,
    router_norm: Norm,
    active: i32,
    clip: Option<f32>,
    rescales: bool,
}

module!(AltUp {
    correct_output_scale,
    correction_coefs as "correction_coefs.weight",
    prediction_coefs as "prediction_coefs.weight",
    modality_router,
    router_norm,
});

impl AltUp {
    pub(crate) fn load(w: &Weights, own: AltUpShape, c: &Common) -> Result<Self> {
        let (streams, dims) = (own.streams, c.hidden_size);
        let coefficients = |name: &str, rows: i32| {
            Parameter::load(&w.at(name).at("weight"), &[rows, streams], Init::Normal(1.0 / (streams as f32).sqrt()))
        };
        Ok(Self {
            correct_output_scale: Parameter::load(&w.at("correct_output_scale"), &[dims], Init::Zeros)?,
            correction_coefs: coefficients("correction_coefs", streams)?,
            prediction_coefs: coefficients("prediction_coefs", streams * streams)?,
            modality_router: Linear::load(&w.at("modality_router"), streams, dims)?,
            router_norm: Norm::rms(&w.at("router_norm"), dims, c.rms_norm_eps()?)?,
            active: own.active,
            clip: own.clip,
            rescales: own.rescales,
        })
    }

    /// The stream that is read.
    ///
    /// # Shapes
    /// - `streams`: `[N, B, L, D]`, result: `[B, L, D]`
    pub(crate) fn active(&self, streams: &Array) -> Result<Array> {
        Ok(streams.try_index(self.active)?)
    }

    /// The active stream after its correction, scaled if the configuration says so.
    pub(crate) fn rescaled(&self, active: &Array) -> Result<Array> {
        match self.rescales {
            true => Ok(active.multiply(&self.correct_output_scale.value)?),
            false => Ok(active.clone()),
        }
    }

    /// What `coefficients` make of the kinds of a state, in f32.
    ///
    /// # Shapes
    /// - `x`: `[B, L, D]`, `coefficients`: `[C, N]`, result: `[B, L, C]`
    fn mixed(&self, x: &Array, coefficients: &Array) -> Result<Array> {
        let normed = self.router_norm.forward(x)?;
        let share = Array::from_f32(1.0 / normed.dim(-1) as f32).as_dtype(normed.dtype())?;
        let kinds = self.modality_router.forward(&normed.multiply(share)?)?.as_dtype(Dtype::Float32)?;
        let mut coefficients = coefficients.as_dtype(Dtype::Float32)?;
        if let Some(clip) = self.clip {
            coefficients = ops::clip(&coefficients, (-clip, clip))?;
        }
        Ok(fast::linear(&ops::tanh(kinds)?, &coefficients)?)
    }

    /// Each stream and a mixture of all.
    ///
    /// # Shapes
    /// - `x`: `[N, B, L, D]`, and the same comes back
    pub(crate) fn predict(&self, x: &Array) -> Result<Array> {
        let streams = x.dim(0);
        let mixed = self.mixed(&self.active(x)?, &self.prediction_coefs)?;
        let coefficients = ops::unflatten(mixed, -1, &[streams, streams])?.swap_axes(-1, -2)?;
        let wide = x.as_dtype(Dtype::Float32)?;
        let mixtures = wide.move_axis(0, -1)?.matmul(coefficients)?.move_axis(-1, 0)?;
        Ok(mixtures.add(wide)?.as_dtype(x.dtype())?)
    }

    /// Each predicted stream and its share of what was not predicted of the active one.
    ///
    /// # Shapes
    /// - `predicted`: `[N, B, L, D]`, `active`: `[B, L, D]`, result: `[N, B, L, D]`
    pub(crate) fn correct(&self, predicted: &Array, active: &Array) -> Result<Array> {
        let shares = self.mixed(active, &self.correction_coefs)?.add(Array::from_f32(1.0))?;
        let news = active.subtract(self.active(predicted)?)?;
        let corrections = shares.move_axis(-1, 0)?.expand_dims(-1)?.multiply(news)?;
        Ok(corrections.add(predicted)?.as_dtype(active.dtype())?)
    }
}

/// A low-rank map beside the residual stream (LAuReL, arXiv:2411.07501).
#[derive(Debug)]
pub(crate) struct Laurel {
    pub(crate) linear_left: Linear,
    pub(crate) linear_right: Linear,
    pub(crate) post_laurel_norm: Norm,
}

module!(Laurel { linear_left, linear_right, post_laurel_norm });

impl Laurel {
    pub(crate) fn forward(&self, x: &Array) -> Result<Array> {
        let y = self.linear_right.forward(&self.linear_left.forward(x)?)?;
        Ok(x.add(self.post_laurel_norm.forward(&y)?)?)
    }
}

/// The entry: the inputs of each layer, and a stream for each map of the embeddings.
#[derive(Debug)]
pub(crate) struct Spread {
    pub(crate) inputs: PerLayerInputs,
    pub(crate) altup_projections: Vec<Linear>,
}

module!(Spread { inputs as "", altup_projections });

impl Block for Spread {
    fn forward(&self, x: &Array, step: &mut Step) -> Result<Array> {
        self.inputs.forward(x, step)?;
        let size = magnitude(x)?;
        let others = self.altup_projections.iter().map(|map| sized(&map.forward(x)?, &size));
        let streams = std::iter::once(Ok(x.clone())).chain(others).collect::<Result<Vec<_>>>()?;
        Ok(ops::stack(&streams, 0)?)
    }

    fn caches(&self) -> Vec<CacheKind> {
        Vec::new()
    }
}

/// The exit: the mean of all streams.
#[derive(Debug)]
pub(crate) struct Gather {
    pub(crate) altup_unembed_projections: Vec<Linear>,
}

module!(Gather { altup_unembed_projections });

impl Block for Gather {
    fn forward(&self, x: &Array, _step: &mut Step) -> Result<Array> {
        let first = x.try_index(0)?;
        let size = magnitude(&first)?;
        let others = (1..).zip(&self.altup_unembed_projections);
        let others = others.map(|(i, map)| sized(&map.forward(&x.try_index(i)?)?, &size));
        let streams = std::iter::once(Ok(first.clone())).chain(others).collect::<Result<Vec<_>>>()?;
        Ok(ops::stack(&streams, 0)?.mean_axis(0, false)?)
    }

    fn caches(&self) -> Vec<CacheKind> {
        Vec::new()
    }
}

/// The root of the mean square of each state, with a lower bound.
///
/// # Shapes
/// - `x`: `[…, D]`, result: `[…, 1]`
pub(crate) fn magnitude(x: &Array) -> Result<Array> {
    let mean = x.square()?.mean_axis(-1, true)?;
    Ok(ops::maximum(&mean, Array::from_f32(1e-5).as_dtype(mean.dtype())?)?.sqrt()?)
}

/// `x` brought to this magnitude.
pub(crate) fn sized(x: &Array, size: &Array) -> Result<Array> {
    Ok(x.multiply(size.divide(magnitude(x)?)?)?)
}
