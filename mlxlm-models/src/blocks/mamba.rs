//! The selective state-space mixer of Mamba (arXiv:2312.00752).
//!
//! Ports what `mlx_lm/models/{mamba,jamba}.py` @ 0.32.2 have in common. The state has two slots: the inputs of the last tokens,
//! and the sums. Differences: padding changes no state, which the reference lets it do.

use mlxlm_cache::CacheKind;
use mlxlm_core::fast::{self, Activation, Scan};
use mlxlm_core::nn::{Linear, Norm, Parameter};
use mlxlm_core::weights::{Init, Weights};
use mlxlm_core::{Array, Dtype, Exception, module, ops};
use serde::Deserialize;

use super::{Mixer, ShortConv};
use crate::config::{product, within};
use crate::frame::Step;
use crate::{Error, Result};

/// What mixers with a state space keep: the inputs of the last tokens, and the sums.
pub(super) const STATE: CacheKind = CacheKind::State { slots: 2 };

/// The rank of the steps of Mamba: a number, or `"auto"` for a sixteenth of the hidden size, rounded up.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum Rank {
    /// The rank itself.
    Number(i32),
    /// `auto`.
    Word(String),
}

impl Rank {
    /// The rank for states of `hidden` dimensions; `key` names the entry.
    pub fn of(&self, key: &str, hidden: i32) -> Result<i32> {
        match self {
            Self::Number(rank) => within(key, *rank, hidden.max(1)).map(|()| *rank),
            Self::Word(word) if word == "auto" => Ok(hidden.div_euclid(16) + i32::from(hidden % 16 != 0)),
            Self::Word(word) => Err(Error::config(format!("`{key}` is `{word}`, expected a number or `auto`"))),
        }
    }
}

/// How steps, inputs and outputs of Mamba are normed.
#[derive(Debug, Clone, Copy)]
pub enum StepNorm {
    /// Not at all.
    None,
    /// Without weights.
    Plain(f32),
    /// With weights (Jamba).
    Trained(f32),
}

/// The sizes of a mixer of Mamba.
#[derive(Debug, Clone, Copy)]
pub struct MambaConfig {
    /// `D`, dimensions of what comes in and goes out.
    pub hidden: i32,
    /// Channels.
    pub inner: i32,
    /// Dimensions of each channel's state.
    pub state: i32,
    /// The rank of the steps.
    pub rank: i32,
    /// Tokens that a filter spans.
    pub conv: i32,
    /// Whether filters have biases.
    pub conv_biased: bool,
    /// Whether the ways in and out have biases.
    pub biased: bool,
    /// How steps, inputs and outputs are normed.
    pub norm: StepNorm,
}

/// A mixer of Mamba.
#[derive(Debug)]
pub struct Mamba {
    in_proj: Linear,
    conv1d: ShortConv,
    x_proj: Linear,
    dt_layernorm: Option<Norm>,
    b_layernorm: Option<Norm>,
    c_layernorm: Option<Norm>,
    dt_proj: Linear,
    a_log: Parameter,
    d: Parameter,
    out_proj: Linear,
    c: MambaConfig,
}

module!(Mamba {
    in_proj,
    conv1d,
    x_proj,
    dt_layernorm,
    b_layernorm,
    c_layernorm,
    dt_proj,
    a_log as "A_log",
    d as "D",
    out_proj,
});

impl Mamba {
    /// The mixer at `w`.
    pub fn load(w: &Weights, c: MambaConfig) -> Result<Self> {
        let MambaConfig { hidden, inner, state, rank, conv, conv_biased, biased, norm } = c;
        let norm = |name: &str, dims: i32| match norm {
            StepNorm::None => Ok(None),
            StepNorm::Plain(eps) => Ok(Some(Norm::rms_plain(eps))),
            StepNorm::Trained(eps) => Norm::rms(&w.at(name), dims, eps).map(Some),
        };
        Ok(Self {
            in_proj: Linear::load_biased(&w.at("in_proj"), product(inner, 2)?, hidden, biased)?,
            conv1d: ShortConv::load(&w.at("conv1d"), inner, conv, conv_biased, Activation::Silu)?,
            x_proj: Linear::load(&w.at("x_proj"), rank + 2 * state, inner)?,
            dt_layernorm: norm("dt_layernorm", rank)?,
            b_layernorm: norm("b_layernorm", state)?,
            c_layernorm: norm("c_layernorm", state)?,
            dt_proj: Linear::load_biased(&w.at("dt_proj"), inner, rank, true)?,
            a_log: Parameter::load(&w.at("A_log"), &[inner, state], Init::LogCounts)?,
            d: Parameter::load(&w.at("D"), &[inner], Init::Ones)?,
            out_proj: Linear::load_biased(&w.at("out_proj"), hidden, inner, biased)?,
            c,
        })
    }
}

impl Mixer for Mamba {
    fn forward(&self, x: &Array, step: &mut Step) -> Result<Array> {
        let MambaConfig { state, rank, .. } = self.c;
        let halves = ops::split_equal(self.in_proj.forward(x)?, 2, -1)?;
        let x = self.conv1d.forward(&halves[0], step, 0)?;
        let parts = ops::split_at_indices(self.x_proj.forward(&x)?, &[rank, rank + state], -1)?;
        let part = |i: usize, norm: &Option<Norm>| norm.as_ref().map_or(Ok(parts[i].clone()), |n| n.forward(&parts[i]));
        let (dt, b, c) = (part(0, &self.dt_layernorm)?, part(1, &self.b_layernorm)?, part(2, &self.c_layernorm)?);
        let dt = fast::activate(Activation::Softplus, &self.dt_proj.forward(&dt)?)?;
        let y = scanned(fast::selective_scan, [&x, &dt, &self.a_log.value, &b, &c, &self.d.value], step)?;
        Ok(self.out_proj.forward(&fast::swiglu(&halves[1], &y)?)?)
    }

    fn caches(&self) -> Vec<CacheKind> {
        vec![STATE]
    }
}

/// What a scan makes of tokens after those before, whose state is kept in slot 1; states decay by `-exp(a_log)`.
pub(super) fn scanned(
    scan: fn(&Scan<'_>) -> Result<(Array, Array), Exception>,
    [x, dt, a_log, b, c, d]: [&Array; 6],
    step: &mut Step,
) -> Result<Array> {
    let (a, state) = (a_log.as_dtype(Dtype::Float32)?.exp()?.negative()?, step.recall(1)?);
    let (y, after) = scan(&Scan { x, dt, a: &a, b, c, d: Some(d), state: state.as_ref(), mask: None })?;
    let operands = [x, dt, b, c].map(Array::clone);
    step.keep(1, after, move |beginning| {
        let [x, dt, b, c] = operands.each_ref().map(|x| beginning.of(x));
        let state = beginning.before(state.as_ref())?;
        let (x, dt, b, c) = (&x?, &dt?, &b?, &c?);
        Ok(scan(&Scan { x, dt, a: &a, b, c, d: None, state: state.as_ref(), mask: None })?.1)
    })?;
    Ok(y)
}
