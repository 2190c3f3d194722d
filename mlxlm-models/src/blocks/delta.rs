//! Parts of gated delta nets (arXiv:2412.06464) and of Kimi's delta attention (arXiv:2510.26692), whose gates are those of single
//! dimensions.
//!
//! Ports `mlx_lm/models/gated_delta.py` @ 0.32.2. Unusual: gates are computed in f32, whatever the type of the weights.

use mlxlm_core::fast::{self, Activation};
use mlxlm_core::{Array, Dtype, ops};
use serde::Deserialize;

use crate::config::{all_within, product};
use crate::frame::Step;
use crate::{Error, Result};

/// The heads of a gated delta net, as entries of `config.json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct DeltaHeads {
    /// Heads of queries and keys.
    #[serde(rename = "linear_num_key_heads")]
    pub keys: i32,
    /// Heads of values and gates; a key head serves several.
    #[serde(rename = "linear_num_value_heads")]
    pub values: i32,
    /// The width of a key head.
    #[serde(rename = "linear_key_head_dim")]
    pub key_dim: i32,
    /// The width of a value head.
    #[serde(rename = "linear_value_head_dim")]
    pub value_dim: i32,
}

impl DeltaHeads {
    /// Refuses heads that no layer can have.
    pub fn check(&self) -> Result<()> {
        let &Self { keys, values, key_dim, value_dim } = self;
        all_within(&[
            ("linear_num_key_heads", keys),
            ("linear_num_value_heads", values),
            ("linear_key_head_dim", key_dim),
            ("linear_value_head_dim", value_dim),
        ])?;
        if values % keys != 0 {
            return Err(Error::config(format!(
                "`linear_num_value_heads` {values} is not a multiple of `linear_num_key_heads` {keys}"
            )));
        }
        Ok(())
    }

    /// The width of all key heads.
    pub fn key_width(&self) -> Result<i32> {
        product(self.keys, self.key_dim)
    }

    /// The width of all value heads.
    pub fn value_width(&self) -> Result<i32> {
        product(self.values, self.value_dim)
    }

    /// The heads of queries, keys and values of each token.
    ///
    /// # Shapes
    /// - `q`, `k`: `[B, L, keys · d]`, `v`: `[B, L, values · e]`, results: `[B, L, keys, d]`, the same, and `[B, L, values, e]`
    pub fn split(&self, [q, k, v]: [&Array; 3]) -> Result<[Array; 3]> {
        let by = |x: &Array, count: i32, dim: i32| x.reshape(&[x.dim(0), x.dim(1), count, dim]);
        Ok([by(q, self.keys, self.key_dim)?, by(k, self.keys, self.key_dim)?, by(v, self.values, self.value_dim)?])
    }
}

/// Queries and keys of length one, queries divided by the root of their width besides.
///
/// # Shapes
/// - `q`, `k`: `[…, d]`, and the same come back
pub fn unit_length(q: &Array, k: &Array) -> Result<[Array; 2]> {
    const EPS: f32 = 1e-6;
    let scale = Array::from_f32((q.dim(-1) as f32).powf(-0.5)).as_dtype(q.dtype())?;
    Ok([fast::l2_norm(q, EPS)?.multiply(scale)?, fast::l2_norm(k, EPS)?])
}

/// How much of the state each token leaves: `exp(-exp(a_log) · softplus(a + bias))` or, with a lower bound of the exponent,
/// `exp(lower · sigmoid(exp(a_log) · (a + bias)))`; in f32.
///
/// # Shapes
/// - `a`: `[B, L, heads]` or `[B, L, heads, d]`, `a_log` and `bias` are broadcast to it, result: as `a`
pub fn decay(a_log: &Array, a: &Array, bias: &Array, lower: Option<f32>) -> Result<Array> {
    let [a_log, a, bias] = [a_log, a, bias].map(|x| x.as_dtype(Dtype::Float32));
    let (rate, a) = (a_log?.exp()?, a?.add(bias?)?);
    let exponent = match lower {
        None => rate.multiply(fast::activate(Activation::Softplus, &a)?)?.negative()?,
        Some(lower) => ops::sigmoid(rate.multiply(a)?)?.multiply(Array::from_f32(lower))?,
    };
    Ok(exponent.exp()?)
}

/// The gated delta rule over what `slot` of the block's state holds, in f32 or in bf16; see [`fast::gated_delta`].
///
/// # Shapes
/// - `q`, `k`: `[B, L, keys, d]`, `v`: `[B, L, values, e]`, `g`: `[B, L, values]` or `[B, L, values, d]`, `beta`: `[B, L, values]`, result:
///   as `v`
pub fn delta_rule([q, k, v]: [&Array; 3], g: &Array, beta: &Array, step: &mut Step, slot: usize) -> Result<Array> {
    let dtype = step.matrix_dtype();
    let state = match step.recall(slot)? {
        Some(state) => Some(state.as_dtype(dtype)?),
        None if dtype == Dtype::Float32 => None,
        None => Some(ops::zeros_dtype(&[v.dim(0), v.dim(2), v.dim(3), k.dim(3)], dtype)?),
    };
    let (y, after) = fast::gated_delta(q, k, v, g, beta, state.as_ref(), None)?;
    let operands = [q, k, v, g, beta].map(Array::clone);
    step.keep(slot, after, move |beginning| {
        let [q, k, v, g, beta] = operands.each_ref().map(|x| beginning.of(x));
        let state = beginning.before(state.as_ref())?;
        Ok(fast::gated_delta(&q?, &k?, &v?, &g?, &beta?, state.as_ref(), None)?.1)
    })?;
    Ok(y)
}
