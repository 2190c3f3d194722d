//! The mixers of PLaMo 2 (arXiv:2509.04897): Mamba-2 with norms inside, and attention whose heads have weights of their own.
//!
//! Ports `mlx_lm/models/plamo2.py` @ 0.32.2.

use crate::prelude::*;

/// A mixer of Mamba-2 whose inputs, outputs and steps are projected from the filtered states.
#[derive(Debug)]
pub(crate) struct PlamoMamba {
    in_proj: Linear,
    conv1d: ShortConv,
    bcdt_proj: Linear,
    dt_norm_weight: Parameter,
    b_norm_weight: Parameter,
    c_norm_weight: Parameter,
    dt_proj: Linear,
    sums: StateSpace,
    out_proj: Linear,
    heads: ScanHeads,
    eps: f32,
}

module!(PlamoMamba {
    in_proj,
    conv1d,
    bcdt_proj,
    dt_norm_weight,
    b_norm_weight as "B_norm_weight",
    c_norm_weight as "C_norm_weight",
    dt_proj,
    sums as "",
    out_proj,
});

impl PlamoMamba {
    pub(crate) fn load(w: &Weights, c: &Common, [count, state, conv]: [i32; 3]) -> Result<Self> {
        let dims = c.hidden_size;
        let heads = ScanHeads { count, dim: c.heads()?.dim, groups: 1, state };
        let (inner, rank) = (heads.width()?, (dims / 16).max(64));
        let weight = |name: &str, dims: i32| Parameter::load(&w.at(name), &[dims], Init::Ones);
        Ok(Self {
            in_proj: Linear::load(&w.at("in_proj"), 2 * inner, dims)?,
            conv1d: ShortConv::load(&w.at("conv1d"), inner, conv, false, Activation::Silu)?,
            bcdt_proj: Linear::load(&w.at("bcdt_proj"), rank + 2 * state, inner)?,
            dt_norm_weight: weight("dt_norm_weight", rank)?,
            b_norm_weight: weight("B_norm_weight", state)?,
            c_norm_weight: weight("C_norm_weight", state)?,
            dt_proj: Linear::load(&w.at("dt_proj"), heads.count, rank)?,
            sums: StateSpace::load(w, heads, StepLimits::USUAL, false)?,
            out_proj: Linear::load(&w.at("out_proj"), dims, inner)?,
            heads,
            eps: c.rms_norm_eps()?,
        })
    }
}

impl Mixer for PlamoMamba {
    fn forward(&self, x: &Array, step: &mut Step) -> Result<Array> {
        let ScanHeads { count, dim, state, .. } = self.heads;
        let (batch, len) = (x.dim(0), x.dim(1));
        // Each head has its gate beside its input.
        let by_head = self.in_proj.forward(x)?.reshape(&[batch, len, count, 2 * dim])?;
        let halves = ops::split_equal(&by_head, 2, -1)?;
        let flat = |x: &Array| x.reshape(&[batch, len, count * dim]);
        let x = self.conv1d.forward(&flat(&halves[1])?, step, 0)?;
        let parts = ops::split_at_indices(self.bcdt_proj.forward(&x)?, &[state, 2 * state], -1)?;
        let norm = |x: &Array, weight: &Array| fast::rms_norm(x, Some(weight), self.eps);
        let (b, c) = (norm(&parts[0], &self.b_norm_weight)?, norm(&parts[1], &self.c_norm_weight)?);
        let dt = self.dt_proj.forward(&norm(&parts[2], &self.dt_norm_weight)?)?;
        let y = self.sums.forward(&x, [&b, &c], &dt, step)?;
        Ok(self.out_proj.forward(&fast::swiglu(&flat(&halves[0])?, &y)?)?)
    }

    fn caches(&self) -> Vec<CacheKind> {
        vec![CacheKind::State { slots: 2 }]
    }
}

/// Attention whose heads are normed and multiplied with weights of their own.
#[derive(Debug)]
pub(crate) struct PlamoAttention {
    qkv_proj: Linear,
    o_proj: Linear,
    q_weight: Parameter,
    k_weight: Parameter,
    counts: HeadCounts,
    rope: Rope,
    how: Attend,
}

module!(PlamoAttention { qkv_proj, o_proj, q_weight, k_weight });

impl PlamoAttention {
    pub(crate) fn load(w: &Weights, c: &Common, window: Option<i32>) -> Result<Self> {
        let counts = c.heads()?;
        let HeadCounts { count, kv_count, dim } = counts;
        let weight = |name: &str, heads: i32| Parameter::load(&w.at(name), &[heads, dim], Init::Ones);
        Ok(Self {
            qkv_proj: Linear::load(&counts.cut(&w.at("qkv_proj")), (count + 2 * kv_count) * dim, c.hidden_size)?,
            o_proj: Linear::load(&counts.cut_out(&w.at("o_proj")), c.hidden_size, count * dim)?,
            q_weight: weight("q_weight", count)?,
            k_weight: weight("k_weight", kv_count)?,
            counts,
            rope: Rope::from(c)?,
            how: Attend { window, ..Attend::scaled((dim as f32).powf(-0.5)) },
        })
    }
}

impl Mixer for PlamoAttention {
    fn forward(&self, x: &Array, step: &mut Step) -> Result<Array> {
        let HeadCounts { count, kv_count, dim } = self.counts;
        let parts = ops::split_at_indices(self.qkv_proj.forward(x)?, &[count * dim, (count + kv_count) * dim], -1)?;
        let heads = |i: usize, count: i32, weight: &Array, step: &Step| {
            let normed = fast::rms_norm(&split_heads(&parts[i], count)?, None, 1e-6)?;
            self.rope.forward(&normed.multiply(weight.expand_dims(1)?)?, &step.offset())
        };
        let (q, k) = (heads(0, count, &self.q_weight, step)?, heads(1, kv_count, &self.k_weight, step)?);
        let out = step.attend(&q, &k, &split_heads(&parts[2], kv_count)?, &self.how)?;
        Ok(self.o_proj.forward(&merge_heads(&out)?)?)
    }

    fn caches(&self) -> Vec<CacheKind> {
        vec![CacheKind::Kv]
    }
}
