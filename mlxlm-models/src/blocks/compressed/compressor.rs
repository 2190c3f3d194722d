//! Groups of tokens made into one row each: a mean with a weight for each token and dimension.

use mlxlm_cache::{CompressedCache, appended};
use mlxlm_core::ops::indexing::TryIndexOp;

use super::Config;
use crate::prelude::*;

/// What compresses the tokens of a layer.
#[derive(Debug)]
pub(crate) struct Compressor {
    kv_proj: Linear,
    gate_proj: Option<Linear>,
    /// The norm of what comes out. It stays in `f32` with the rest, as no [`Norm`] does.
    kv_norm: Parameter,
    ratio: i32,
    eps: f32,
}

module!(Compressor { kv_proj, gate_proj, kv_norm as "kv_norm.weight" });

impl Compressor {
    pub(crate) fn load(w: &Weights, own: &Config, c: &Common, layer: usize) -> Result<Self> {
        let (w, ratio) = (w.pinned(), own.ratio(layer));
        let project = |name: &str| Linear::load(&w.at(name), own.head_dim, c.hidden_size);
        Ok(Self {
            kv_proj: project("kv_proj")?,
            gate_proj: (ratio > 1).then(|| project("gate_proj")).transpose()?,
            kv_norm: Parameter::load(&w.at("kv_norm.weight"), &[own.head_dim], Init::Ones)?,
            ratio,
            eps: c.rms_norm_eps()?,
        })
    }

    /// The rows of the groups that are full with the tokens of `x`, which begin at `start`, and the number of the first one.
    ///
    /// # Shapes
    /// - `x`: `[B, L, D]`, result: `[B, groups, d]`
    pub(crate) fn rows(&self, x: &Array, start: i32, cache: &mut CompressedCache) -> Result<(Option<Array>, i32)> {
        let Some(gate_proj) = &self.gate_proj else {
            return Ok((Some(self.normed(&self.kv_proj.forward(x)?)?), start));
        };
        let wide = x.as_dtype(Dtype::Float32)?;
        let pending = cache.pending_rows.as_ref().map_or(0, |rows| rows.dim(1));
        let rows = appended(cache.pending_rows.as_ref(), &self.kv_proj.forward(&wide)?)?;
        let gates = appended(cache.pending_gates.as_ref(), &gate_proj.forward(&wide)?)?;
        let full = rows.dim(1) - rows.dim(1) % self.ratio;
        cache.pending_rows = Some(rows.try_index((.., full.., ..))?);
        cache.pending_gates = Some(gates.try_index((.., full.., ..))?);
        let first = (start - pending) / self.ratio;
        if full == 0 {
            return Ok((None, first));
        }
        let shape = [rows.dim(0), full / self.ratio, self.ratio, rows.dim(2)];
        let grouped = |all: &Array| all.try_index((.., ..full, ..))?.reshape(&shape);
        let weights = ops::softmax_axis(grouped(&gates)?, 2, true)?;
        let means = grouped(&rows)?.multiply(weights)?.sum_axis(2, false)?;
        Ok((Some(self.normed(&means.as_dtype(x.dtype())?)?), first))
    }

    fn normed(&self, rows: &Array) -> Result<Array> {
        Ok(fast::rms_norm(rows, Some(&self.kv_norm.value), self.eps)?)
    }
}
