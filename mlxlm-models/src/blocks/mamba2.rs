//! The state-space mixer of Mamba-2, whose heads decay as one (arXiv:2405.21060).
//!
//! Ports what `mlx_lm/models/{mamba2,falcon_h1,granitemoehybrid,nemotron_h}.py` @ 0.32.2 have in common, and `ssm_update` of `ssm.py`.
//! The state has two slots: the inputs of the last tokens, and the sums.

use mlxlm_cache::CacheKind;
use mlxlm_core::fast::{self, Activation};
use mlxlm_core::nn::{Linear, Norm, Parameter};
use mlxlm_core::weights::{Init, Weights};
use mlxlm_core::{Array, Dtype, module, ops};
use serde::Deserialize;

use super::mamba::{STATE, scanned};
use super::{Mixer, ShortConv};
use crate::config::product;
use crate::frame::Step;
use crate::{Error, Result};

/// `time_step_limit`: what the steps of Mamba-2 are cut to.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(try_from = "[Bound; 2]")]
pub struct StepLimits {
    least: f32,
    most: f32,
}

impl StepLimits {
    /// Any positive step.
    pub const NONE: Self = Self { least: 0.0, most: f32::INFINITY };
    /// What the reference cuts to where a configuration says nothing.
    pub const USUAL: Self = Self { least: 1e-3, most: 100.0 };
}

/// A number, or one that JSON does not have, as Python and transformers write it.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Bound {
    Number(f64),
    Word(String),
    Tagged {
        #[serde(rename = "__float__")]
        word: String,
    },
}

impl TryFrom<[Bound; 2]> for StepLimits {
    type Error = String;

    fn try_from(bounds: [Bound; 2]) -> Result<Self, String> {
        let number = |bound: &Bound| match bound {
            Bound::Number(number) => Ok(*number as f32),
            Bound::Word(word) | Bound::Tagged { word } => {
                word.parse::<f32>().map_err(|_| format!("`{word}` is no number"))
            }
        };
        let (least, most) = (number(&bounds[0])?, number(&bounds[1])?);
        match least <= most {
            true => Ok(Self { least, most }),
            false => Err(format!("the limits {least} and {most} leave no steps")),
        }
    }
}

/// The heads of a state-space model of Mamba-2.
#[derive(Debug, Clone, Copy)]
pub struct ScanHeads {
    /// Heads.
    pub count: i32,
    /// The width of a head.
    pub dim: i32,
    /// Groups of heads with the same inputs and outputs.
    pub groups: i32,
    /// Dimensions of the state for each one of a head.
    pub state: i32,
}

impl ScanHeads {
    /// The width of all heads.
    pub fn width(&self) -> Result<i32> {
        product(self.count, self.dim)
    }

    /// The width of the inputs of all groups, and of the outputs.
    pub fn group_width(&self) -> Result<i32> {
        product(self.groups, self.state)
    }
}

/// The sums of Mamba-2.
#[derive(Debug)]
pub struct StateSpace {
    a_log: Parameter,
    dt_bias: Parameter,
    d: Parameter,
    heads: ScanHeads,
    limits: StepLimits,
}

module!(StateSpace { dt_bias, a_log as "A_log", d as "D" });

impl StateSpace {
    /// The sums at `w`; `pinned` speeds of decay keep their type when a model is cast.
    pub fn load(w: &Weights, heads: ScanHeads, limits: StepLimits, pinned: bool) -> Result<Self> {
        let ScanHeads { count, groups, .. } = heads;
        if groups < 1 || count % groups != 0 {
            return Err(Error::config(format!("{count} heads cannot be put into {groups} groups of the same size")));
        }
        let a_log = if pinned { w.at("A_log").pinned() } else { w.at("A_log") };
        Ok(Self {
            a_log: Parameter::load(&a_log, &[count], Init::LogCounts)?,
            dt_bias: Parameter::load(&w.at("dt_bias"), &[count], Init::Ones)?,
            d: Parameter::load(&w.at("D"), &[count], Init::Ones)?,
            heads,
            limits,
        })
    }

    /// What all heads make of the tokens; the sums are kept in slot 1.
    ///
    /// # Shapes
    /// - `x`: `[B, L, heads · d]`, `b`, `c`: `[B, L, groups · state]`, `dt`: `[B, L, heads]`, result: as `x`
    pub fn forward(&self, x: &Array, [b, c]: [&Array; 2], dt: &Array, step: &mut Step) -> Result<Array> {
        let ScanHeads { count, dim, groups, state } = self.heads;
        let (batch, len) = (x.dim(0), x.dim(1));
        let by_group = |x: &Array| x.reshape(&[batch, len, groups, state]);
        let (b, c) = (by_group(b)?, by_group(c)?);
        let dt = dt.as_dtype(Dtype::Float32)?.add(self.dt_bias.as_dtype(Dtype::Float32)?)?;
        let dt = ops::clip(&fast::activate(Activation::Softplus, &dt)?, (self.limits.least, self.limits.most))?;
        let heads = x.reshape(&[batch, len, count, dim])?;
        let y = scanned(fast::ssm_scan, [&heads, &dt, &self.a_log.value, &b, &c, &self.d.value], step)?;
        Ok(y.reshape(x.shape())?)
    }
}

/// What the gate of Mamba-2 is multiplied with.
#[derive(Debug, Clone, Copy)]
pub enum GateNorm {
    /// The sums as they are.
    None,
    /// The sums, and the product is normed: each of so many groups by itself.
    After {
        /// What is added to the mean square.
        eps: f32,
        /// Groups of dimensions.
        groups: i32,
    },
    /// The sums normed.
    Before {
        /// What is added to the mean square.
        eps: f32,
    },
}

/// The sizes of a mixer of Mamba-2.
#[derive(Debug, Clone, Copy)]
pub struct Mamba2Config {
    /// `D`, dimensions of what comes in and goes out.
    pub hidden: i32,
    /// The heads.
    pub heads: ScanHeads,
    /// Tokens that a filter spans.
    pub conv: i32,
    /// Whether filters have biases.
    pub conv_biased: bool,
    /// Whether the way in has a bias.
    pub in_biased: bool,
    /// Whether the way out has a bias.
    pub out_biased: bool,
    /// What steps are cut to.
    pub limits: StepLimits,
    /// What the gate is multiplied with.
    pub norm: GateNorm,
    /// Whether the speeds of decay keep their type when a model is cast.
    pub pinned: bool,
}

/// A mixer of Mamba-2.
#[derive(Debug)]
pub struct Mamba2 {
    in_proj: Linear,
    conv1d: ShortConv,
    sums: StateSpace,
    norm: Option<Norm>,
    out_proj: Linear,
    gate_norm: GateNorm,
    /// The widths of all heads and of the inputs of all groups.
    widths: (i32, i32),
}

module!(Mamba2 { in_proj, conv1d, sums as "", norm, out_proj });

impl Mamba2 {
    /// The mixer at `w`.
    pub fn load(w: &Weights, c: Mamba2Config) -> Result<Self> {
        let (inner, of_groups) = (c.heads.width()?, c.heads.group_width()?);
        let mixed = inner + 2 * of_groups;
        let norm = |eps: f32| Norm::rms(&w.at("norm"), inner, eps).map(Some);
        let norm = match c.norm {
            GateNorm::None => None,
            GateNorm::After { groups, .. } if inner % groups.max(1) != 0 => {
                return Err(Error::config(format!("{inner} dimensions cannot be cut into {groups} groups")));
            }
            GateNorm::After { eps, .. } | GateNorm::Before { eps } => norm(eps)?,
        };
        Ok(Self {
            in_proj: Linear::load_biased(&w.at("in_proj"), inner + mixed + c.heads.count, c.hidden, c.in_biased)?,
            conv1d: ShortConv::load(&w.at("conv1d"), mixed, c.conv, c.conv_biased, Activation::Silu)?,
            sums: StateSpace::load(w, c.heads, c.limits, c.pinned)?,
            norm,
            out_proj: Linear::load_biased(&w.at("out_proj"), c.hidden, inner, c.out_biased)?,
            gate_norm: c.norm,
            widths: (inner, of_groups),
        })
    }

    fn gated(&self, gate: &Array, y: &Array) -> Result<Array> {
        Ok(match (self.gate_norm, &self.norm) {
            (GateNorm::Before { .. }, Some(norm)) => fast::swiglu(gate, &norm.forward(y)?)?,
            (GateNorm::After { eps, groups }, Some(Norm { weight: Some(weight), .. })) => {
                fast::group_rms_norm(&fast::swiglu(gate, y)?, weight, groups, eps)?
            }
            _ => fast::swiglu(gate, y)?,
        })
    }
}

impl Mixer for Mamba2 {
    fn forward(&self, x: &Array, step: &mut Step) -> Result<Array> {
        let (inner, of_groups) = self.widths;
        let mixed = inner + 2 * of_groups;
        let parts = ops::split_at_indices(self.in_proj.forward(x)?, &[inner, inner + mixed], -1)?;
        let (gate, dt) = (&parts[0], &parts[2]);
        let mixed = self.conv1d.forward(&parts[1], step, 0)?;
        let parts = ops::split_at_indices(&mixed, &[inner, inner + of_groups], -1)?;
        let y = self.sums.forward(&parts[0], [&parts[1], &parts[2]], dt, step)?;
        Ok(self.out_proj.forward(&self.gated(gate, &y)?)?)
    }

    fn caches(&self) -> Vec<CacheKind> {
        vec![STATE]
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn limits_may_be_infinite_in_every_spelling() {
        let most = |value| serde_json::from_value::<StepLimits>(json!([0.1, value])).map(|limits| limits.most);
        assert_eq!(most(json!(0.5)).unwrap(), 0.5);
        for infinite in [json!("Infinity"), json!("inf"), json!({"__float__": "Infinity"})] {
            assert_eq!(most(infinite).unwrap(), f32::INFINITY);
        }
        for nonsense in [json!(0.01), json!("NaN"), json!("many"), json!([])] {
            assert!(most(nonsense).is_err());
        }
    }
}
