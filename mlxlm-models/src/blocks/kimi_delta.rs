//! Kimi's delta attention (arXiv:2510.26692): the gated delta rule with a gate for each dimension of the keys, behind short
//! convolutions, and a sigmoid gate before the way out.
//!
//! Ports `KimiDeltaAttention` of `mlx_lm/models/kimi_linear.py`, its twin of `kimi_k3.py` and `BailingKDA` of `bailing_moe_v3.py`
//! @ 0.32.2. Unusual: gates are computed in f32, whatever the type of the weights.

use mlxlm_cache::CacheKind;
use mlxlm_core::fast::Activation;
use mlxlm_core::nn::{Linear, Norm, Parameter, Precision};
use mlxlm_core::weights::{Init, Tensors, Weights};
use mlxlm_core::{Array, Dtype, module, ops};
use serde::Deserialize;
use serde_json::Value;

use super::{Mixer, ShortConv, delta};
use crate::Result;
use crate::config::{all_within, positive, product, within};
use crate::frame::Step;

/// The object `linear_attn_config` of Kimi's files.
#[derive(Debug, Clone, Deserialize)]
pub struct KimiDeltaConfig {
    /// Heads.
    pub num_heads: i32,
    /// The width of a head.
    pub head_dim: i32,
    /// The width of the filters.
    #[serde(default = "four")]
    pub short_conv_kernel_size: i32,
    /// The lower bound of the exponent of the decay.
    pub gate_lower_bound: Option<f32>,
    /// Whether the gate before the way out is one map, and not two through a narrow width.
    #[serde(default)]
    pub use_full_rank_gate: bool,
    kda_layers: Vec<usize>,
    /// The layers that `kda_layers` leaves out.
    #[serde(rename = "full_attn_layers")]
    _full_attn_layers: Option<Value>,
}

fn four() -> i32 {
    4
}

impl KimiDeltaConfig {
    /// Whether a layer, counted from zero, has delta attention; the file counts from one.
    pub fn is_delta(&self, layer: usize) -> bool {
        self.kda_layers.contains(&(layer + 1))
    }
}

/// What a block of delta attention is made of.
#[derive(Debug, Clone, Copy)]
pub struct KimiDeltaShape {
    /// `D`, the width of a token's state.
    pub hidden: i32,
    /// `H`, heads.
    pub heads: i32,
    /// `d`, the width of a head.
    pub dim: i32,
    /// The width of the filters.
    pub filter: i32,
    /// What the norm of heads adds to the mean square.
    pub eps: f32,
    /// The lower bound of the exponent of the decay, if there is one.
    pub lower_bound: Option<f32>,
    /// Whether queries, keys and values share one projection and one convolution.
    pub is_fused: bool,
    /// Whether the decay goes through a narrow width, that of a head.
    pub narrow_decay: bool,
    /// Whether the gate before the way out does.
    pub narrow_gate: bool,
    /// The paths of the convolutions of queries, keys and values, or of the one of all.
    pub convs: [&'static str; 3],
    /// Whether the rates of the decay lie as `[1, 1, H, 1]`, and not as `[H]`.
    pub deep_rates: bool,
    /// How far the map to the strengths of writing may be packed.
    pub strengths: Precision,
}

impl KimiDeltaShape {
    /// The sizes of the configuration; filters of Kimi Linear.
    pub fn of(config: &KimiDeltaConfig, hidden: i32, eps: f32) -> Self {
        Self {
            hidden,
            heads: config.num_heads,
            dim: config.head_dim,
            filter: config.short_conv_kernel_size,
            eps,
            lower_bound: config.gate_lower_bound,
            is_fused: false,
            narrow_decay: true,
            narrow_gate: !config.use_full_rank_gate,
            convs: ["q_conv.conv", "k_conv.conv", "v_conv.conv"],
            deep_rates: false,
            strengths: Precision::Any,
        }
    }

    /// Refuses sizes that no model has.
    pub fn check(&self) -> Result<()> {
        all_within(&[("num_heads", self.heads), ("head_dim", self.dim)])?;
        within("short_conv_kernel_size", self.filter, 1 << 10)?;
        product(3 * i32::from(self.is_fused).max(1), product(self.heads, self.dim)?)?;
        self.lower_bound.map_or(Ok(()), |bound| positive("the negative of the lower bound of the decay", -bound))
    }

    /// `H · d`.
    fn width(&self) -> i32 {
        self.heads * self.dim
    }
}

/// How queries, keys and values are made.
#[derive(Debug)]
enum Input {
    Split(Split),
    Fused(Fused),
}

#[derive(Debug)]
struct Split {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    q_conv: ShortConv,
    k_conv: ShortConv,
    v_conv: ShortConv,
    names: ConvNames,
}

#[derive(Debug)]
struct Fused {
    qkv_proj: Linear,
    qkv_conv: ShortConv,
    names: ConvNames,
}

/// The paths of the convolutions.
#[derive(Debug, Clone, Copy)]
struct ConvNames {
    q: &'static str,
    k: &'static str,
    v: &'static str,
}

/// A map, or two through a narrow width.
#[derive(Debug)]
enum Map {
    Whole(Whole),
    Narrow(Narrow),
}

#[derive(Debug)]
struct Whole {
    map: Linear,
    names: MapNames,
}

#[derive(Debug)]
struct Narrow {
    into: Linear,
    out: Linear,
    names: MapNames,
}

#[derive(Debug, Clone, Copy)]
struct MapNames {
    whole: &'static str,
    into: &'static str,
    out: &'static str,
}

const DECAY: MapNames = MapNames { whole: "f_proj", into: "f_a_proj", out: "f_b_proj" };
const GATE: MapNames = MapNames { whole: "g_proj", into: "g_a_proj", out: "g_b_proj" };

module!(Split { q_proj, k_proj, v_proj, q_conv as names.q, k_conv as names.k, v_conv as names.v });
module!(Fused { qkv_proj, qkv_conv as names.q });
module!(
    enum Input {
        Split,
        Fused,
    }
);
module!(Whole { map as names.whole });
module!(Narrow { into as names.into, out as names.out });
module!(
    enum Map {
        Whole,
        Narrow,
    }
);

impl Input {
    fn load(w: &Weights, shape: &KimiDeltaShape) -> Result<Self> {
        let (width, [q, k, v]) = (shape.width(), shape.convs);
        let names = ConvNames { q, k, v };
        let project = |name, width| Linear::load(&w.at(name).columns(), width, shape.hidden);
        let conv = |name, width| ShortConv::load(&w.at(name), width, shape.filter, false, Activation::Silu);
        Ok(match shape.is_fused {
            true => {
                let at = w.at("qkv_proj").columns_of(&[width; 3]);
                let qkv_proj = Linear::load(&at, 3 * width, shape.hidden)?;
                Self::Fused(Fused { qkv_proj, qkv_conv: conv(q, 3 * width)?, names })
            }
            false => Self::Split(Split {
                q_proj: project("q_proj", width)?,
                k_proj: project("k_proj", width)?,
                v_proj: project("v_proj", width)?,
                q_conv: conv(q, width)?,
                k_conv: conv(k, width)?,
                v_conv: conv(v, width)?,
                names,
            }),
        })
    }

    /// How many slots of the state the convolutions take.
    fn slots(&self) -> usize {
        match self {
            Self::Split(_) => 3,
            Self::Fused(_) => 1,
        }
    }

    /// Queries, keys and values, `[B, L, H · d]` each.
    fn forward(&self, x: &Array, step: &mut Step) -> Result<[Array; 3]> {
        match self {
            Self::Split(parts) => {
                let [q, k, v] = Linear::forward_all([&parts.q_proj, &parts.k_proj, &parts.v_proj], x)?;
                Ok([
                    parts.q_conv.forward(&q, step, 0)?,
                    parts.k_conv.forward(&k, step, 1)?,
                    parts.v_conv.forward(&v, step, 2)?,
                ])
            }
            Self::Fused(parts) => {
                let all = parts.qkv_conv.forward(&parts.qkv_proj.forward(x)?, step, 0)?;
                let parts = ops::split_equal(&all, 3, -1)?;
                Ok([parts[0].clone(), parts[1].clone(), parts[2].clone()])
            }
        }
    }
}

impl Map {
    fn load(w: &Weights, names: MapNames, shape: &KimiDeltaShape, is_narrow: bool) -> Result<Self> {
        let columns = |name, input| Linear::load(&w.at(name).columns(), shape.width(), input);
        Ok(match is_narrow {
            false => Self::Whole(Whole { map: columns(names.whole, shape.hidden)?, names }),
            true => Self::Narrow(Narrow {
                into: Linear::load(&w.at(names.into), shape.dim, shape.hidden)?,
                out: columns(names.out, shape.dim)?,
                names,
            }),
        })
    }

    fn forward(&self, x: &Array) -> Result<Array> {
        Ok(match self {
            Self::Whole(maps) => maps.map.forward(x)?,
            Self::Narrow(maps) => maps.out.forward(&maps.into.forward(x)?)?,
        })
    }
}

/// A block of delta attention.
#[derive(Debug)]
pub struct KimiDelta {
    input: Input,
    decay: Map,
    b_proj: Linear,
    gate: Map,
    rates: Parameter,
    dt_bias: Parameter,
    o_norm: Norm,
    o_proj: Linear,
    shape: KimiDeltaShape,
}

module!(KimiDelta { input as "", decay as "", b_proj, gate as "", rates as "A_log", dt_bias, o_norm, o_proj });

impl KimiDelta {
    /// The block at `w`.
    pub fn load(w: &Weights, shape: KimiDeltaShape) -> Result<Self> {
        let heads = shape.heads;
        let rates: &[i32] = if shape.deep_rates { &[1, 1, heads, 1] } else { &[heads] };
        let strengths = w.at("b_proj").columns().keep(shape.strengths);
        Ok(Self {
            input: Input::load(w, &shape)?,
            decay: Map::load(w, DECAY, &shape, shape.narrow_decay)?,
            b_proj: Linear::load(&strengths, heads, shape.hidden)?,
            gate: Map::load(w, GATE, &shape, shape.narrow_gate)?,
            rates: Parameter::load(&w.at("A_log").pinned(), rates, Init::Zeros)?,
            dt_bias: Parameter::load(&w.at("dt_bias").pinned(), &[shape.width()], Init::Zeros)?,
            o_norm: Norm::rms(&w.at("o_norm"), shape.dim, shape.eps)?,
            o_proj: Linear::load(&w.at("o_proj").rows(), shape.hidden, shape.width())?,
            shape,
        })
    }
}

impl Mixer for KimiDelta {
    fn forward(&self, x: &Array, step: &mut Step) -> Result<Array> {
        let KimiDeltaShape { heads, dim, lower_bound, .. } = self.shape;
        let by_heads = |x: &Array| x.reshape(&[x.dim(0), x.dim(1), heads, dim]);
        let [q, k, v] = self.input.forward(x, step)?;
        let [q, k] = delta::unit_length(&by_heads(&q)?, &by_heads(&k)?)?;
        let (rates, bias) = (self.rates.reshape(&[heads, 1])?, self.dt_bias.reshape(&[heads, dim])?);
        let left = delta::decay(&rates, &by_heads(&self.decay.forward(x)?)?, &bias, lower_bound)?;
        let strength = ops::sigmoid(self.b_proj.forward(x)?.as_dtype(Dtype::Float32)?)?;
        let found = delta::delta_rule([&q, &k, &by_heads(&v)?], &left, &strength, step, self.input.slots())?;
        let share = ops::sigmoid(by_heads(&self.gate.forward(x)?)?.as_dtype(Dtype::Float32)?)?;
        let gated = self.o_norm.forward(&found)?.multiply(share.as_dtype(found.dtype())?)?;
        Ok(self.o_proj.forward(&gated.reshape(&[x.dim(0), x.dim(1), heads * dim])?)?)
    }

    fn caches(&self) -> Vec<CacheKind> {
        vec![CacheKind::State { slots: self.input.slots() + 1 }]
    }
}

/// Makes rows of the tensors `name` that have more axes: biases of the decay as files of transformers have them.
pub fn flatten(tensors: &mut Tensors, name: &str) -> Result<()> {
    for (path, array) in tensors.iter_mut() {
        if path.rsplit('.').next() == Some(name) && array.ndim() > 1 {
            *array = array.flatten(None, None)?;
        }
    }
    Ok(())
}
