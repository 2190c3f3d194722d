//! Gated delta nets (arXiv:2412.06464) of Qwen3-Next, Qwen3.5 and OLMo Hybrid, which differ in how their inputs are projected and
//! filtered.
//!
//! Ports the mixers of `mlx_lm/models/qwen3_next.py`, `qwen3_5.py` and `olmo_hybrid.py` @ 0.32.2.

use super::delta::{decay, delta_rule, unit_length};
use crate::prelude::*;

/// A gated delta net without the projections that go in.
#[derive(Debug)]
pub(crate) struct DeltaNet {
    conv1d: ShortConv,
    a_log: Parameter,
    dt_bias: Parameter,
    norm: Norm,
    out_proj: Linear,
    heads: DeltaHeads,
}

module!(DeltaNet { conv1d, dt_bias, a_log as "A_log", norm, out_proj });

impl DeltaNet {
    pub(crate) fn load(w: &Weights, c: &Common, conv: i32, pinned: bool) -> Result<Self> {
        let heads: DeltaHeads = c.part()?;
        let (keys, values) = (heads.key_width()?, heads.value_width()?);
        let a_log = if pinned { w.at("A_log").pinned() } else { w.at("A_log") };
        Ok(Self {
            conv1d: ShortConv::load(&w.at("conv1d"), 2 * keys + values, conv, false, Activation::Silu)?,
            a_log: Parameter::load(&a_log, &[heads.values], Init::LogCounts)?,
            dt_bias: Parameter::load(&w.at("dt_bias"), &[heads.values], Init::Ones)?,
            norm: Norm::rms(&w.at("norm"), heads.value_dim, c.rms_norm_eps()?)?,
            out_proj: Linear::load(&w.at("out_proj"), c.hidden_size, values)?,
            heads,
        })
    }

    pub(crate) fn heads(&self) -> DeltaHeads {
        self.heads
    }

    /// # Shapes
    /// - `qkv`: `[B, L, 2 · keys · d + values · e]`, `z`: `[B, L, values · e]`, `b`, `a`: `[B, L, values]`, result: `[B, L, D]`
    pub(crate) fn forward(&self, qkv: &Array, z: &Array, [b, a]: [&Array; 2], step: &mut Step) -> Result<Array> {
        let keys = self.heads.key_width()?;
        let parts = ops::split_at_indices(&self.conv1d.forward(qkv, step, 0)?, &[keys, 2 * keys], -1)?;
        let [q, k, v] = self.heads.split([&parts[0], &parts[1], &parts[2]])?;
        let [q, k] = unit_length(&q, &k)?;
        let g = decay(&self.a_log, a, &self.dt_bias, None)?;
        let y = delta_rule([&q, &k, &v], &g, &ops::sigmoid(b)?, step, 1)?;
        let gated = fast::precise_swiglu(&z.reshape(y.shape())?, &self.norm.forward(&y)?, y.dtype())?;
        Ok(self.out_proj.forward(&gated.reshape(z.shape())?)?)
    }

    pub(crate) fn caches() -> Vec<CacheKind> {
        vec![CacheKind::State { slots: 2 }]
    }
}

/// A delta net whose queries, keys, values and gates are projected at once, those of each key head side by side.
#[derive(Debug)]
pub(crate) struct InterleavedDelta {
    in_proj_qkvz: Linear,
    in_proj_ba: Linear,
    net: DeltaNet,
}

module!(InterleavedDelta { in_proj_qkvz, in_proj_ba, net as "" });

impl InterleavedDelta {
    pub(crate) fn load(w: &Weights, c: &Common, net: DeltaNet) -> Result<Self> {
        let heads = net.heads();
        let (keys, values) = (heads.key_width()?, heads.value_width()?);
        Ok(Self {
            in_proj_qkvz: Linear::load(&w.at("in_proj_qkvz"), 2 * (keys + values), c.hidden_size)?,
            in_proj_ba: Linear::load(&w.at("in_proj_ba"), 2 * heads.values, c.hidden_size)?,
            net,
        })
    }
}

impl Mixer for InterleavedDelta {
    fn forward(&self, x: &Array, step: &mut Step) -> Result<Array> {
        let DeltaHeads { keys, values, key_dim, value_dim } = self.net.heads();
        let (batch, len, each) = (x.dim(0), x.dim(1), values / keys);
        let by_key = |x: Array| x.reshape(&[batch, len, keys, -1]);
        let flat = |x: &Array| x.reshape(&[batch, len, -1]);
        let qkvz = by_key(self.in_proj_qkvz.forward(x)?)?;
        let ends = [key_dim, 2 * key_dim, 2 * key_dim + each * value_dim];
        let parts = ops::split_at_indices(&qkvz, &ends, -1)?;
        let ba = ops::split_equal(by_key(self.in_proj_ba.forward(x)?)?, 2, -1)?;
        let qkv = ops::concatenate(&[flat(&parts[0])?, flat(&parts[1])?, flat(&parts[2])?], -1)?;
        self.net.forward(&qkv, &flat(&parts[3])?, [&flat(&ba[0])?, &flat(&ba[1])?], step)
    }

    fn caches(&self) -> Vec<CacheKind> {
        DeltaNet::caches()
    }
}

/// A delta net with a projection for queries, keys and values, and one for each of its gates.
#[derive(Debug)]
pub(crate) struct SplitDelta {
    in_proj_qkv: Linear,
    in_proj_z: Linear,
    in_proj_b: Linear,
    in_proj_a: Linear,
    net: DeltaNet,
}

module!(SplitDelta { in_proj_qkv, in_proj_z, in_proj_b, in_proj_a, net as "" });

impl SplitDelta {
    pub(crate) fn load(w: &Weights, c: &Common, net: DeltaNet) -> Result<Self> {
        let heads = net.heads();
        let (keys, values) = (heads.key_width()?, heads.value_width()?);
        let project = |name: &str, output: i32| Linear::load(&w.at(name), output, c.hidden_size);
        Ok(Self {
            in_proj_qkv: project("in_proj_qkv", 2 * keys + values)?,
            in_proj_z: project("in_proj_z", values)?,
            in_proj_b: project("in_proj_b", heads.values)?,
            in_proj_a: project("in_proj_a", heads.values)?,
            net,
        })
    }
}

impl Mixer for SplitDelta {
    fn forward(&self, x: &Array, step: &mut Step) -> Result<Array> {
        let Self { in_proj_qkv, in_proj_z, in_proj_b, in_proj_a, net } = self;
        let [qkv, z, b, a] = Linear::forward_all([in_proj_qkv, in_proj_z, in_proj_b, in_proj_a], x)?;
        net.forward(&qkv, &z, [&b, &a], step)
    }

    fn caches(&self) -> Vec<CacheKind> {
        DeltaNet::caches()
    }
}

/// A gated delta net whose queries, keys and values have filters of their own.
#[derive(Debug)]
pub(crate) struct FilteredDelta {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    a_proj: Linear,
    b_proj: Linear,
    g_proj: Linear,
    o_proj: Linear,
    q_conv1d: ShortConv,
    k_conv1d: ShortConv,
    v_conv1d: ShortConv,
    a_log: Parameter,
    dt_bias: Parameter,
    o_norm: Norm,
    heads: DeltaHeads,
    is_turned: bool,
}

module!(FilteredDelta {
    q_proj,
    k_proj,
    v_proj,
    a_proj,
    b_proj,
    g_proj,
    o_proj,
    q_conv1d,
    k_conv1d,
    v_conv1d,
    a_log as "A_log",
    dt_bias,
    o_norm,
});

impl FilteredDelta {
    pub(crate) fn load(w: &Weights, c: &Common, conv: i32, eps: f32, is_turned: bool) -> Result<Self> {
        let heads: DeltaHeads = c.part()?;
        let (keys, values) = (heads.key_width()?, heads.value_width()?);
        let project = |name: &str, output: i32| Linear::load(&w.at(name), output, c.hidden_size);
        let filter = |name: &str, channels: i32| ShortConv::load(&w.at(name), channels, conv, false, Activation::Silu);
        Ok(Self {
            q_proj: project("q_proj", keys)?,
            k_proj: project("k_proj", keys)?,
            v_proj: project("v_proj", values)?,
            a_proj: project("a_proj", heads.values)?,
            b_proj: project("b_proj", heads.values)?,
            g_proj: project("g_proj", values)?,
            o_proj: Linear::load(&w.at("o_proj"), c.hidden_size, values)?,
            q_conv1d: filter("q_conv1d", keys)?,
            k_conv1d: filter("k_conv1d", keys)?,
            v_conv1d: filter("v_conv1d", values)?,
            a_log: Parameter::load(&w.at("A_log"), &[heads.values], Init::LogCounts)?,
            dt_bias: Parameter::load(&w.at("dt_bias"), &[heads.values], Init::Zeros)?,
            o_norm: Norm::rms(&w.at("o_norm"), heads.value_dim, eps)?,
            heads,
            is_turned,
        })
    }
}

impl Mixer for FilteredDelta {
    fn forward(&self, x: &Array, step: &mut Step) -> Result<Array> {
        let [q, k, v] = Linear::forward_all([&self.q_proj, &self.k_proj, &self.v_proj], x)?;
        let (q, k) = (self.q_conv1d.forward(&q, step, 0)?, self.k_conv1d.forward(&k, step, 1)?);
        let v = self.v_conv1d.forward(&v, step, 2)?;
        let [q, k, v] = self.heads.split([&q, &k, &v])?;
        let [q, k] = unit_length(&q, &k)?;
        let [a, b, gate] = Linear::forward_all([&self.a_proj, &self.b_proj, &self.g_proj], x)?;
        let mut beta = ops::sigmoid(b)?;
        if self.is_turned {
            beta = beta.add(&beta)?;
        }
        let g = decay(&self.a_log, &a, &self.dt_bias, None)?;
        let y = delta_rule([&q, &k, &v], &g, &beta, step, 3)?;
        let gated = fast::precise_swiglu(&gate.reshape(y.shape())?, &self.o_norm.forward(&y)?, y.dtype())?;
        Ok(self.o_proj.forward(&gated.reshape(gate.shape())?)?)
    }

    fn caches(&self) -> Vec<CacheKind> {
        vec![CacheKind::State { slots: 4 }]
    }
}
