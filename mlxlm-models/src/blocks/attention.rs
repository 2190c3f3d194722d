//! Attention over grouped heads (arXiv:2305.13245) with rotary positions.

use std::fmt::Debug;

use mlxlm_cache::{Attend, CacheKind};
use mlxlm_core::nn::{Linear, Module, Norm, Parameter, Precision};
use mlxlm_core::ops::indexing::{Ellipsis, TryIndexOp};
use mlxlm_core::weights::{Init, Weights};
use mlxlm_core::{Array, module, ops};

use super::{Rope, merge_heads, split_heads};
use crate::frame::Step;
use crate::{Common, Error, HeadCounts, Result};

/// What mixes the states of different tokens in a block: attention, a convolution, a recurrence.
pub trait Mixer: Module + Debug {
    /// # Shapes
    /// - `x`: `[B, L, D]`, and the same comes back
    fn forward(&self, x: &Array, step: &mut Step) -> Result<Array>;

    /// What it keeps of a sequence.
    fn caches(&self) -> Vec<CacheKind>;
}

impl<M: Mixer + ?Sized> Mixer for Box<M> {
    fn forward(&self, x: &Array, step: &mut Step) -> Result<Array> {
        (**self).forward(x, step)
    }

    fn caches(&self) -> Vec<CacheKind> {
        (**self).caches()
    }
}

/// Which norm heads get: [`Norm::rms`], or another that loads as it does.
pub type HeadNorm = fn(&Weights, i32, f32) -> mlxlm_core::Result<Norm>;

/// Which norm heads with weights of their own get: [`Norm::rms_shaped`] or [`Norm::layer_shaped`].
pub type SpreadNorm = fn(&Weights, &[i32], f32) -> mlxlm_core::Result<Norm>;

/// Which projections have biases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bias {
    /// None has.
    None,
    /// Those of queries, keys and values.
    Qkv,
    /// That of the way out.
    Out,
    /// All four.
    All,
}

impl Bias {
    /// All or none.
    pub fn all(biased: bool) -> Self {
        Self::of(biased, biased)
    }

    /// Those of queries, keys and values, and that of the way out.
    pub fn of(qkv: bool, out: bool) -> Self {
        match (qkv, out) {
            (false, false) => Self::None,
            (true, false) => Self::Qkv,
            (false, true) => Self::Out,
            (true, true) => Self::All,
        }
    }
}

/// How queries, keys and values come out of the projections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layout {
    /// Each has its own.
    Split,
    /// One for all, which lie in this order.
    Fused,
    /// One for all: for each key head its query heads, the key and the value.
    Grouped,
}

/// What the parts of an attention block are called.
#[derive(Debug, Clone, Copy)]
pub struct AttentionNames {
    /// Queries.
    pub q: &'static str,
    /// Keys.
    pub k: &'static str,
    /// Values.
    pub v: &'static str,
    /// Queries, keys and values in one.
    pub qkv: &'static str,
    /// The way out.
    pub out: &'static str,
    /// The norm of queries.
    pub q_norm: &'static str,
    /// The norm of keys.
    pub k_norm: &'static str,
}

impl AttentionNames {
    /// The names of Llama and most others.
    pub const LLAMA: Self = Self {
        q: "q_proj",
        k: "k_proj",
        v: "v_proj",
        qkv: "qkv_proj",
        out: "o_proj",
        q_norm: "q_norm",
        k_norm: "k_norm",
    };
}

/// How queries and keys are normed.
#[derive(Debug, Clone, Copy)]
enum QkNorm {
    /// Not at all.
    None,
    /// Each head by itself, before or after the rotation.
    Heads { norm: HeadNorm, eps: f32, rotated: bool },
    /// All heads of a token together, before the rotation.
    Whole { norm: HeadNorm, eps: f32 },
    /// Each head by itself with weights of its own, before the rotation.
    Spread { norm: SpreadNorm, eps: f32 },
}

/// What an attention block is made of.
#[derive(Debug, Clone)]
pub struct Heads {
    pub(super) hidden: i32,
    pub(super) counts: HeadCounts,
    bias: Bias,
    layout: Layout,
    qk_norm: QkNorm,
    has_sinks: bool,
    is_whole: bool,
    clip: Option<f32>,
    rope: Rope,
    how: Attend,
    names: AttentionNames,
}

impl Heads {
    /// The heads of the configuration, without biases, scaled by `d^-1/2`.
    pub fn grouped(c: &Common, rope: Rope) -> Result<Self> {
        Ok(Self::of(c.hidden_size, c.heads()?, rope))
    }

    /// These heads over states of `hidden` dimensions, without biases, scaled by `d^-1/2`.
    pub fn of(hidden: i32, counts: HeadCounts, rope: Rope) -> Self {
        Self {
            hidden,
            counts,
            bias: Bias::None,
            layout: Layout::Split,
            qk_norm: QkNorm::None,
            has_sinks: false,
            is_whole: false,
            clip: None,
            rope,
            how: Attend::scaled((counts.dim as f32).powf(-0.5)),
            names: AttentionNames::LLAMA,
        }
    }

    /// With other names of its parts.
    #[must_use]
    pub fn names(self, names: AttentionNames) -> Self {
        Self { names, ..self }
    }

    /// With biases.
    #[must_use]
    pub fn bias(self, bias: Bias) -> Self {
        Self { bias, ..self }
    }

    /// With one projection for queries, keys and values, which lie in this order.
    #[must_use]
    pub fn fused(self) -> Self {
        Self { layout: Layout::Fused, ..self }
    }

    /// With one projection for queries, keys and values, in which each key head follows its query heads and comes before its
    /// values.
    #[must_use]
    pub fn fused_by_group(self) -> Self {
        Self { layout: Layout::Grouped, ..self }
    }

    /// With a norm of this kind over each head of queries and keys, before the rotation.
    #[must_use]
    pub fn qk_norm(self, norm: HeadNorm, eps: f32) -> Self {
        Self { qk_norm: QkNorm::Heads { norm, eps, rotated: false }, ..self }
    }

    /// As [`qk_norm`](Self::qk_norm), after the rotation.
    #[must_use]
    pub fn rotated_qk_norm(self, norm: HeadNorm, eps: f32) -> Self {
        Self { qk_norm: QkNorm::Heads { norm, eps, rotated: true }, ..self }
    }

    /// With a norm of this kind over all query heads of a token together, and one over all key heads.
    #[must_use]
    pub fn whole_qk_norm(self, norm: HeadNorm, eps: f32) -> Self {
        Self { qk_norm: QkNorm::Whole { norm, eps }, ..self }
    }

    /// As [`qk_norm`](Self::qk_norm), with weights of its own for each head.
    #[must_use]
    pub fn spread_qk_norm(self, norm: SpreadNorm, eps: f32) -> Self {
        Self { qk_norm: QkNorm::Spread { norm, eps }, ..self }
    }

    /// With a score for each head that takes part in the softmax and has no value, `sinks`.
    #[must_use]
    pub fn sinks(self) -> Self {
        Self { has_sinks: true, ..self }
    }

    /// With every device having all of them: heads that share keys do not lie together.
    #[must_use]
    pub fn whole(self) -> Self {
        Self { is_whole: true, ..self }
    }

    /// With queries, keys and values bounded by `±clip`, if there is a bound.
    #[must_use]
    pub fn clip(self, clip: Option<f32>) -> Self {
        Self { clip, ..self }
    }

    /// With scores multiplied by `scale`.
    #[must_use]
    pub fn scale(self, scale: f32) -> Self {
        Self { how: Attend { scale, ..self.how }, ..self }
    }

    /// With scores bounded, if there is a bound: `cap * tanh(score / cap)`.
    #[must_use]
    pub fn softcap(self, softcap: Option<f32>) -> Self {
        Self { how: Attend { softcap, ..self.how }, ..self }
    }

    /// With each token seeing only those of its own chunk of so many tokens, if there are chunks.
    #[must_use]
    pub fn chunk(self, chunk: Option<i32>) -> Self {
        Self { how: Attend { chunk, ..self.how }, ..self }
    }

    /// With each token seeing only the last `window` tokens, itself included, if there is a window.
    #[must_use]
    pub fn window(self, window: Option<i32>) -> Self {
        Self { how: Attend { window, ..self.how }, ..self }
    }
}

impl Heads {
    /// Whether heads can be computed on different devices: not those that are normed together, and in one projection not those
    /// that share a single head of keys.
    fn are_apart(&self) -> bool {
        let is_whole = matches!(self.qk_norm, QkNorm::Whole { .. });
        !is_whole && !self.is_whole && (self.layout == Layout::Split || self.counts.kv_count > 1)
    }

    /// How a projection into heads is cut.
    fn cut<'a>(&self, w: &Weights<'a>, is_keys: bool) -> Weights<'a> {
        match self.layout {
            _ if !self.are_apart() => w.clone(),
            Layout::Fused => self.counts.cut(w),
            Layout::Split if is_keys => self.counts.cut_keys(w),
            Layout::Split | Layout::Grouped => w.columns(),
        }
    }

    /// How the way out is cut.
    fn cut_out<'a>(&self, w: &Weights<'a>) -> Weights<'a> {
        if self.are_apart() { w.rows() } else { w.clone() }
    }
}

/// An attention block.
#[derive(Debug)]
pub struct Attention {
    q_proj: Option<Linear>,
    k_proj: Option<Linear>,
    v_proj: Option<Linear>,
    qkv_proj: Option<Linear>,
    q_norm: Option<Norm>,
    k_norm: Option<Norm>,
    o_proj: Linear,
    sinks: Option<Parameter>,
    heads: Heads,
    names: AttentionNames,
}

module!(Attention {
    q_proj as names.q,
    k_proj as names.k,
    v_proj as names.v,
    qkv_proj as names.qkv,
    q_norm as names.q_norm,
    k_norm as names.k_norm,
    o_proj as names.out,
    sinks,
});

impl Attention {
    /// The block at `w`.
    pub fn load(w: &Weights, heads: Heads) -> Result<Self> {
        let (names, HeadCounts { count, kv_count, dim }) = (heads.names, heads.counts);
        let (queries, keys) = (count * dim, kv_count * dim);
        let project = |name: &str, output: i32| {
            let biased = matches!(heads.bias, Bias::Qkv | Bias::All);
            Linear::load_biased(&heads.cut(&w.at(name), output == keys), output, heads.hidden, biased)
        };
        let is_split = heads.layout == Layout::Split;
        let split = |name: &str, output: i32| is_split.then(|| project(name, output)).transpose();
        let norm = |name: &str, count: i32| match heads.qk_norm {
            QkNorm::None => Ok(None),
            QkNorm::Heads { norm, eps, .. } => norm(&w.at(name), dim, eps).map(Some),
            QkNorm::Whole { norm, eps } => norm(&w.at(name), count * dim, eps).map(Some),
            QkNorm::Spread { norm, eps } => norm(&w.at(name), &[count, dim], eps).map(Some),
        };
        let sinks = heads.has_sinks.then(|| Parameter::load(&w.at("sinks"), &[count], Init::Zeros)).transpose()?;
        let out_biased = matches!(heads.bias, Bias::Out | Bias::All);
        Ok(Self {
            q_proj: split(names.q, queries)?,
            k_proj: split(names.k, keys)?,
            v_proj: split(names.v, keys)?,
            qkv_proj: (!is_split).then(|| project(names.qkv, queries + 2 * keys)).transpose()?,
            q_norm: norm(names.q_norm, count)?,
            k_norm: norm(names.k_norm, kv_count)?,
            o_proj: Linear::load_biased(&heads.cut_out(&w.at(names.out)), heads.hidden, queries, out_biased)?,
            sinks,
            names,
            heads,
        })
    }

    /// With a way out that is packed no further than this.
    #[must_use]
    pub fn keep_out(mut self, precision: Precision) -> Self {
        self.o_proj.worth.precision = precision;
        self
    }

    /// How scores are made.
    pub fn how(&self) -> Attend {
        let sinks = self.sinks.as_ref().map(|sinks| sinks.value.clone());
        Attend { sinks, ..self.heads.how.clone() }
    }

    /// The heads of queries, keys and values as the projections give them, neither normed by heads nor rotated.
    ///
    /// # Shapes
    /// - `x`: `[B, L, D]`, results: `[B, H, L, d]`, `[B, K, L, d]` and `[B, K, L, d]`
    pub fn project(&self, x: &Array) -> Result<[Array; 3]> {
        let HeadCounts { count, kv_count, dim } = self.heads.counts;
        let [mut q, mut k, mut v] = self.project_flat(x)?;
        if let Some(clip) = self.heads.clip {
            for part in [&mut q, &mut k, &mut v] {
                // In the type of the values, which bounds of another would widen.
                let [least, most] = [-clip, clip].map(|bound| Array::from_f32(bound).as_dtype(part.dtype()));
                *part = ops::clip(&*part, (least?, most?))?;
            }
        }
        match self.heads.qk_norm {
            QkNorm::None | QkNorm::Heads { .. } => {}
            QkNorm::Whole { .. } => {
                q = normed(self.q_norm.as_ref(), q)?;
                k = normed(self.k_norm.as_ref(), k)?;
            }
            QkNorm::Spread { .. } => {
                let spread = |norm: Option<&Norm>, x: Array, heads: i32| {
                    Ok::<_, Error>(normed(norm, ops::unflatten(&x, -1, &[heads, dim])?)?.reshape(x.shape())?)
                };
                q = spread(self.q_norm.as_ref(), q, count)?;
                k = spread(self.k_norm.as_ref(), k, kv_count)?;
            }
        }
        Ok([split_heads(&q, count)?, split_heads(&k, kv_count)?, split_heads(&v, kv_count)?])
    }

    /// Queries, keys and values with the heads of each one behind the other.
    fn project_flat(&self, x: &Array) -> Result<[Array; 3]> {
        if let (Some(q), Some(k), Some(v)) = (&self.q_proj, &self.k_proj, &self.v_proj) {
            return Ok(Linear::forward_all([q, k, v], x)?);
        }
        let HeadCounts { count, kv_count, dim } = self.heads.counts;
        let all = self.qkv_proj.iter().map(|qkv| qkv.forward(x)).next().transpose()?.unwrap_or_else(|| x.clone());
        if self.heads.layout == Layout::Grouped {
            let (batch, len, group) = (x.dim(0), x.dim(1), count / kv_count);
            let all = all.reshape(&[batch, len, kv_count, group + 2, dim])?;
            let flat = |part: Array, heads: i32| part.reshape(&[batch, len, heads * dim]);
            return Ok([
                flat(all.try_index((Ellipsis, ..group, ..))?, count)?,
                flat(all.try_index((Ellipsis, group, ..))?, kv_count)?,
                flat(all.try_index((Ellipsis, group + 1, ..))?, kv_count)?,
            ]);
        }
        let parts = ops::split_at_indices(&all, &[count * dim, (count + kv_count) * dim], -1)?;
        Ok([parts[0].clone(), parts[1].clone(), parts[2].clone()])
    }

    /// Heads at the positions of their tokens.
    ///
    /// # Shapes
    /// - `x`: `[B, heads, L, d]`, and the same comes back
    pub fn rotate(&self, x: &Array, step: &Step) -> Result<Array> {
        self.heads.rope.forward(x, &step.offset())
    }

    /// The heads of queries, keys and values as they are attended with: normed and rotated.
    ///
    /// # Shapes
    /// - `x`: `[B, L, D]`, results: `[B, H, L, d]`, `[B, K, L, d]` and `[B, K, L, d]`
    pub fn prepare(&self, x: &Array, step: &Step) -> Result<[Array; 3]> {
        let [q, k, v] = self.project(x)?;
        let prepare = |x: Array, norm: Option<&Norm>| match self.heads.qk_norm {
            QkNorm::Heads { rotated: false, .. } => self.rotate(&normed(norm, x)?, step),
            QkNorm::Heads { rotated: true, .. } => normed(norm, self.rotate(&x, step)?),
            QkNorm::None | QkNorm::Whole { .. } | QkNorm::Spread { .. } => self.rotate(&x, step),
        };
        Ok([prepare(q, self.q_norm.as_ref())?, prepare(k, self.k_norm.as_ref())?, v])
    }

    /// What attention makes of `x`, before the way out.
    ///
    /// # Shapes
    /// - `x`: `[B, L, D]`, result: `[B, L, H · d]`
    pub fn mix(&self, x: &Array, step: &mut Step) -> Result<Array> {
        let [q, k, v] = self.prepare(x, step)?;
        merge_heads(&step.attend(&q, &k, &v, &self.how())?)
    }

    /// The way out.
    ///
    /// # Shapes
    /// - `mixed`: `[B, L, H · d]`, result: `[B, L, D]`
    pub fn leave(&self, mixed: &Array) -> Result<Array> {
        Ok(self.o_proj.forward(mixed)?)
    }
}

/// What attention through a window keeps, or attention to everything.
pub fn cache_of(window: Option<i32>) -> CacheKind {
    window.map_or(CacheKind::Kv, |max_size| CacheKind::Rotating { max_size, keep: 0 })
}

fn normed(norm: Option<&Norm>, x: Array) -> Result<Array> {
    match norm {
        Some(norm) => Ok(norm.forward(&x)?),
        None => Ok(x),
    }
}

impl Mixer for Attention {
    fn forward(&self, x: &Array, step: &mut Step) -> Result<Array> {
        self.leave(&self.mix(x, step)?)
    }

    fn caches(&self) -> Vec<CacheKind> {
        vec![match (self.heads.how.window, self.heads.how.chunk) {
            (window @ Some(_), _) => cache_of(window),
            (None, Some(chunk_size)) => CacheKind::Chunked { chunk_size },
            (None, None) => CacheKind::Kv,
        }]
    }
}
