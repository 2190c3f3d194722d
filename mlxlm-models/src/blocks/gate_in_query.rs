//! Attention whose answers are multiplied with the sigmoid of a gate, which comes out of the projection of the queries (Qwen3-Next).

use crate::prelude::*;

/// Attention whose answers are multiplied with the sigmoid of a gate, which comes out of the projection of the queries.
#[derive(Debug)]
pub(crate) struct GateInQuery {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    q_norm: Norm,
    k_norm: Norm,
    o_proj: Linear,
    counts: HeadCounts,
    rope: Rope,
}

module!(GateInQuery { q_proj, k_proj, v_proj, q_norm, k_norm, o_proj });

impl GateInQuery {
    pub(crate) fn load(w: &Weights, c: &Common, biased: bool) -> Result<Self> {
        let (dims, eps, counts) = (c.hidden_size, c.rms_norm_eps()?, c.heads()?);
        let HeadCounts { count, kv_count, dim } = counts;
        let project = |name: &str, heads: i32| Linear::load_biased(&w.at(name).columns(), heads * dim, dims, biased);
        Ok(Self {
            q_proj: project("q_proj", product(2, count)?)?,
            k_proj: project("k_proj", kv_count)?,
            v_proj: project("v_proj", kv_count)?,
            q_norm: Norm::rms(&w.at("q_norm"), dim, eps)?,
            k_norm: Norm::rms(&w.at("k_norm"), dim, eps)?,
            o_proj: Linear::load_biased(&w.at("o_proj").rows(), dims, count * dim, biased)?,
            counts,
            rope: Rope::partial(c)?,
        })
    }
}

impl Mixer for GateInQuery {
    fn forward(&self, x: &Array, step: &mut Step) -> Result<Array> {
        let HeadCounts { count, kv_count, dim } = self.counts;
        let (batch, len) = (x.dim(0), x.dim(1));
        let [q, k, v] = Linear::forward_all([&self.q_proj, &self.k_proj, &self.v_proj], x)?;
        let halves = ops::split_equal(q.reshape(&[batch, len, count, 2 * dim])?, 2, -1)?;
        let flat = |x: &Array| x.reshape(&[batch, len, count * dim]);
        let rotated = |x: &Array, heads: i32, norm: &Norm, step: &Step| {
            self.rope.forward(&norm.forward(&split_heads(x, heads)?)?, &step.offset())
        };
        let q = rotated(&flat(&halves[0])?, count, &self.q_norm, step)?;
        let k = rotated(&k, kv_count, &self.k_norm, step)?;
        let how = Attend::scaled((dim as f32).powf(-0.5));
        let out = merge_heads(&step.attend(&q, &k, &split_heads(&v, kv_count)?, &how)?)?;
        Ok(self.o_proj.forward(&out.multiply(ops::sigmoid(&flat(&halves[1])?)?)?)?)
    }

    fn caches(&self) -> Vec<CacheKind> {
        vec![CacheKind::Kv]
    }
}
