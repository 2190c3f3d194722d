//! Attention over what a cache holds: where queries may look, handed to [`fast::attend`].
//!
//! Ports `scaled_dot_product_attention` and its quantized twin (`mlx_lm/models/base.py` 0.32.2). Unusual: sinks and soft-caps
//! work with quantized keys too, which the reference refuses.

use mlxlm_core::Array;
use mlxlm_core::fast::{self, Causal, Chunk, Sight};

use crate::buffer::Buffer;
use crate::mask::{Mask, Masks, Spec};
use crate::{Error, Result};

/// How a layer attends.
#[derive(Debug, Clone, Default)]
pub struct Attend {
    /// What scores are multiplied with, as in `1 / sqrt(d)`.
    pub scale: f32,
    /// Scores become `cap * tanh(score / cap)`.
    pub softcap: Option<f32>,
    /// A score for each head that takes part in the softmax and has no value: `[H]`.
    pub sinks: Option<Array>,
    /// A token sees this many tokens, itself the last of them.
    pub window: Option<i32>,
    /// A token sees those of its own chunk, of this many tokens, only. A chunked cache brings this with it.
    pub chunk: Option<i32>,
}

impl Attend {
    /// Attention to all earlier tokens.
    pub fn scaled(scale: f32) -> Self {
        Self { scale, ..Self::default() }
    }

    /// Checks that a token sees at least itself.
    pub(crate) fn check(&self) -> Result<()> {
        match (self.window, self.chunk) {
            (Some(window @ ..=0), _) => Err(Error::Window { window }),
            (_, Some(chunk_size @ ..=0)) => Err(Error::Chunk { chunk_size }),
            _ => Ok(()),
        }
    }
}

/// What the queries of a step see, for architectures that compute attention themselves.
#[derive(Debug, Clone)]
pub struct Seen {
    /// `[B, K, S, d]`
    pub keys: Array,
    /// `[B, K, S, e]`
    pub values: Array,
    /// Which of the keys each query sees.
    pub mask: Mask,
}

/// Attention of each token to those before it, without a cache.
///
/// # Shapes
/// - `q`: `[B, H, L, d]`, `k`: `[B, K, L, d]`, `v`: `[B, K, L, e]`, result: `[B, H, L, e]`
pub fn attend_uncached(q: &Array, k: &Array, v: &Array, how: &Attend, masks: &Masks) -> Result<Array> {
    how.check()?;
    let kv = Buffer::new(k, v, None)?;
    let chunk = how.chunk.map(|size| Chunk { size, first: 0 });
    let rule = Causal { window: how.window, chunk, ..Causal::default() };
    let spec = Spec { len: kv.len(), before: 0, rule };
    Reach { kv, spec }.attend(q, how, masks)
}

/// The part of a cache that queries can see, in whatever format.
#[derive(Debug)]
pub(crate) struct Reach {
    pub kv: Buffer,
    pub spec: Spec,
}

impl Reach {
    /// What `q` makes of it.
    pub(crate) fn attend(&self, q: &Array, how: &Attend, masks: &Masks) -> Result<Array> {
        if q.ndim() != 4 {
            let expected = "[B, H, L, d]".into();
            return Err(Error::Shape { what: "queries", expected, got: q.shape().to_vec() });
        }
        if fast::attends_by_rule() {
            return self.by_sight(q, how, Sight::Causal(self.spec.rule.clone()));
        }
        let seen = self.cut()?;
        match masks.mask(&seen.spec)? {
            Mask::None => seen.by_sight(q, how, Sight::All),
            Mask::Causal => seen.by_sight(q, how, Sight::Causal(Causal::default())),
            Mask::Array(mask) => seen.by_sight(q, how, Sight::Mask(&mask)),
        }
    }

    fn by_sight(&self, q: &Array, how: &Attend, sight: Sight<'_>) -> Result<Array> {
        let how = fast::Attention { scale: how.scale, softcap: how.softcap, sight, sinks: how.sinks.as_ref() };
        Ok(fast::attend(q, self.kv.keys.lend(), self.kv.values.lend(), &how)?)
    }

    /// The same without the first keys that no query's window reaches.
    pub(crate) fn cut(&self) -> Result<Self> {
        let first = match (self.spec.rule.window, self.spec.rule.ring) {
            (Some(window), None) => (self.spec.before - (window - 1)).max(0),
            _ => 0,
        };
        let mut spec = self.spec.clone();
        spec.before -= first;
        spec.rule.padding.iter_mut().for_each(|padding| *padding = padding.saturating_sub(first));
        if let Some(chunk) = &mut spec.rule.chunk {
            chunk.first += first;
        }
        Ok(Self { kv: self.kv.view(first, self.kv.len())?, spec })
    }
}
