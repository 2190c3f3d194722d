//! Attention over grouped heads (arXiv:2305.13245) with rotary positions.

use mlxlm_cache::{Attend, CacheKind};
use mlxlm_core::nn::{Leaf, Linear, Module, Norm, join};
use mlxlm_core::weights::Weights;
use mlxlm_core::{Array, ops};

use super::Rope;
use crate::decoder::Step;
use crate::{Common, Result};

/// Which norm heads get: [`Norm::rms`], or another that loads as it does.
pub type HeadNorm = fn(&Weights, i32, f32) -> mlxlm_core::Result<Norm>;

/// What an attention block is made of.
#[derive(Debug, Clone)]
pub struct Heads {
    hidden: i32,
    count: i32,
    kv_count: i32,
    dim: i32,
    bias_qkv: bool,
    bias_out: bool,
    fused: bool,
    qk_norm: Option<(HeadNorm, f32)>,
    rope: Rope,
    how: Attend,
}

impl Heads {
    /// The heads of the configuration, without biases, scaled by `d^-1/2`.
    pub fn grouped(c: &Common, rope: Rope) -> Self {
        Self {
            hidden: c.hidden_size,
            count: c.num_attention_heads,
            kv_count: c.kv_heads(),
            dim: c.head_dim(),
            bias_qkv: false,
            bias_out: false,
            fused: false,
            qk_norm: None,
            rope,
            how: Attend::scaled((c.head_dim() as f32).powf(-0.5)),
        }
    }

    /// With biases on the projections of queries, keys and values, and on the output's.
    #[must_use]
    pub fn bias(self, qkv: bool, out: bool) -> Self {
        Self { bias_qkv: qkv, bias_out: out, ..self }
    }

    /// With one projection `qkv_proj` for queries, keys and values.
    #[must_use]
    pub fn fused(self) -> Self {
        Self { fused: true, ..self }
    }

    /// With a norm of this kind over each head of queries and keys, before the rotation.
    #[must_use]
    pub fn qk_norm(self, norm: HeadNorm, eps: f32) -> Self {
        Self { qk_norm: Some((norm, eps)), ..self }
    }

    /// With scores multiplied by `scale`.
    #[must_use]
    pub fn scale(self, scale: f32) -> Self {
        Self { how: Attend { scale, ..self.how }, ..self }
    }

    /// With scores bounded: `cap * tanh(score / cap)`.
    #[must_use]
    pub fn softcap(self, cap: f32) -> Self {
        Self { how: Attend { softcap: Some(cap), ..self.how }, ..self }
    }

    /// With each token seeing only the last `window` tokens, itself included, if there is a window.
    #[must_use]
    pub fn window(self, window: Option<i32>) -> Self {
        Self { how: Attend { window, ..self.how }, ..self }
    }
}

/// How queries, keys and values come out of the input.
#[derive(Debug)]
enum Projections {
    Split { q_proj: Linear, k_proj: Linear, v_proj: Linear },
    Fused { qkv_proj: Linear },
}

/// An attention block.
#[derive(Debug)]
pub struct Attention {
    projections: Projections,
    q_norm: Option<Norm>,
    k_norm: Option<Norm>,
    o_proj: Linear,
    heads: Heads,
}

impl Attention {
    /// The block at `w`.
    pub fn load(w: &Weights, heads: Heads) -> Result<Self> {
        let (queries, keys) = (heads.count * heads.dim, heads.kv_count * heads.dim);
        let project = |name: &str, output: i32| Linear::load_biased(&w.at(name), output, heads.hidden, heads.bias_qkv);
        let projections = match heads.fused {
            true => Projections::Fused { qkv_proj: project("qkv_proj", queries + 2 * keys)? },
            false => Projections::Split {
                q_proj: project("q_proj", queries)?,
                k_proj: project("k_proj", keys)?,
                v_proj: project("v_proj", keys)?,
            },
        };
        let norm = |name: &str| heads.qk_norm.map(|(norm, eps)| norm(&w.at(name), heads.dim, eps)).transpose();
        Ok(Self {
            projections,
            q_norm: norm("q_norm")?,
            k_norm: norm("k_norm")?,
            o_proj: Linear::load_biased(&w.at("o_proj"), heads.hidden, queries, heads.bias_out)?,
            heads,
        })
    }

    /// What the block keeps of a sequence.
    pub fn cache(&self) -> CacheKind {
        self.heads.how.window.map_or(CacheKind::Kv, |max_size| CacheKind::Rotating { max_size, keep: 0 })
    }

    /// # Shapes
    /// - `x`: `[B, L, D]`, and the same comes back
    pub fn forward(&self, x: &Array, step: &mut Step) -> Result<Array> {
        let (batch, len) = (x.dim(0), x.dim(1));
        let Heads { count, kv_count, dim, rope, how, .. } = &self.heads;
        let [q, k, v] = self.project(x)?;
        let by_head = |x: Array, heads: i32, norm: &Option<Norm>| -> Result<Array> {
            // The heads of one token lie as `[B, heads, 1, d]` already: one node less in each step's graph.
            let x = x.reshape(&if len == 1 { [batch, heads, 1, *dim] } else { [batch, len, heads, *dim] })?;
            let x = norm.as_ref().map_or(Ok(x.clone()), |norm| norm.forward(&x))?;
            if len == 1 { Ok(x) } else { Ok(x.transpose_axes(&[0, 2, 1, 3])?) }
        };
        let offset = step.offset()?;
        let q = rope.forward(&by_head(q, *count, &self.q_norm)?, &offset)?;
        let k = rope.forward(&by_head(k, *kv_count, &self.k_norm)?, &offset)?;
        let v = by_head(v, *kv_count, &None)?;
        let out = step.attend(&q, &k, &v, how)?;
        let out = if len == 1 { out } else { out.transpose_axes(&[0, 2, 1, 3])? };
        Ok(self.o_proj.forward(&out.reshape(&[batch, len, count * dim])?)?)
    }

    fn project(&self, x: &Array) -> Result<[Array; 3]> {
        match &self.projections {
            Projections::Split { q_proj, k_proj, v_proj } => Ok(Linear::forward_all([q_proj, k_proj, v_proj], x)?),
            Projections::Fused { qkv_proj } => {
                let Heads { count, kv_count, dim, .. } = self.heads;
                let cuts = [count * dim, (count + kv_count) * dim];
                let parts = ops::split_at_indices(qkv_proj.forward(x)?, &cuts, -1)?;
                Ok([parts[0].clone(), parts[1].clone(), parts[2].clone()])
            }
        }
    }
}

impl Module for Attention {
    fn walk<'a>(&'a mut self, path: &str, visit: &mut dyn FnMut(&str, Leaf<'a>)) {
        match &mut self.projections {
            Projections::Split { q_proj, k_proj, v_proj } => {
                q_proj.walk(&join(path, "q_proj"), visit);
                k_proj.walk(&join(path, "k_proj"), visit);
                v_proj.walk(&join(path, "v_proj"), visit);
            }
            Projections::Fused { qkv_proj } => qkv_proj.walk(&join(path, "qkv_proj"), visit),
        }
        self.q_norm.walk(&join(path, "q_norm"), visit);
        self.k_norm.walk(&join(path, "k_norm"), visit);
        self.o_proj.walk(&join(path, "o_proj"), visit);
    }
}
