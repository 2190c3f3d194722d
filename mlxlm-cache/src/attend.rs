//! Attention over what a cache holds: where queries may look, handed to [`fast::attend`].
//!
//! Ports `scaled_dot_product_attention` and its quantized twin (`mlx_lm/models/base.py` 0.32.2). Unusual: sinks and soft-caps
//! work with quantized keys too, which the reference refuses.

use std::ops::Range;

use mlxlm_core::fast::{self, Causal, Chunk, Ring, Sight, plain};
use mlxlm_core::ops::indexing::{Ellipsis, TryIndexOp};
use mlxlm_core::{Array, ops};

use crate::buffer::Buffer;
use crate::error::READ_PLAIN;
use crate::format::{rotate, rotated_if};
use crate::mask::{Mask, Masks, Spec};
use crate::quantized::Tensor;
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
    /// What is added to the scores, or `true` where a query sees a key: broadcast to `[B, H, L, S]`, over the keys as they lie.
    pub bias: Option<Array>,
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

/// Keys and values that queries can see, in whatever format: what a layer remembers, to be attended to now or by other layers.
///
/// Rows of a batch that own their caches have keys and values of their own, each as many as it has read.
#[derive(Debug, Clone)]
pub struct Reach {
    /// One for all sequences of a pass, or one for each.
    parts: Vec<Part>,
}

/// What the queries of one sequence see, or of several that have read as much.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    pub kv: Buffer,
    /// Those tokens of the buffer that count.
    pub seen: Range<i32>,
    pub spec: Spec,
}

impl Reach {
    /// Keys and values of a sequence of their own, without a cache.
    ///
    /// # Shapes
    /// - `k`: `[B, K, L, d]`, `v`: `[B, K, L, e]`
    pub fn uncached(k: &Array, v: &Array, how: &Attend) -> Result<Self> {
        how.check()?;
        let kv = Buffer::new(k, v, None)?;
        let chunk = how.chunk.map(|size| Chunk { size, first: 0 });
        let rule = Causal { window: how.window, chunk, ..Causal::default() };
        let spec = Spec { len: kv.len(), before: 0, rule };
        Ok(Self::from(vec![Part { seen: 0..kv.len(), kv, spec }]))
    }

    /// The same of rows that hold several documents each, which begin at these places: a query sees the keys of its own document.
    #[must_use]
    pub fn packed(mut self, documents: &[Vec<i32>]) -> Self {
        self.parts.iter_mut().for_each(|part| part.spec.rule.documents = documents.to_vec());
        self
    }

    /// The same with a window of this many tokens, in place of that which it was remembered with: as far as keys are held.
    #[must_use]
    pub fn windowed(mut self, window: i32) -> Self {
        self.parts.iter_mut().for_each(|part| part.spec.rule.window = Some(window));
        self
    }

    /// How many keys there are: those of the new tokens are the last of them. Rows with fewer have gaps in front.
    pub fn count(&self) -> i32 {
        self.parts.iter().map(Part::len).max().unwrap_or(0)
    }

    /// What `q` makes of it. The windows and chunks are those that it was remembered with.
    ///
    /// # Shapes
    /// - `q`: `[B, H, L, d]`, result: `[B, H, L, e]`
    pub fn attend(&self, q: &Array, how: &Attend, masks: &Masks) -> Result<Array> {
        if q.ndim() != 4 {
            let expected = "[B, H, L, d]".into();
            return Err(Error::Shape { what: "queries", expected, got: q.shape().to_vec() });
        }
        if let [part] = self.parts.as_slice() {
            return part.attend(q, how, how.bias.as_ref(), masks);
        }
        if fast::attends_by_rule() && how.bias.is_none() {
            let views = self.views()?;
            let q = self.turned(q, |kv| &kv.keys)?;
            let attended = fast::attend_rows(&q, &self.lend(&views), &rows_attention(how))?;
            return self.turned(&attended, |kv| &kv.values);
        }
        let (rows, count) = (self.check_rows(q)?, self.count());
        let attended = rows.map(|(row, part)| {
            let q = q.try_index(row..row + 1)?;
            let bias = how.bias.as_ref().map(|bias| own_bias(bias, row, count - part.len())).transpose()?;
            part.attend(&q, how, bias.as_ref(), masks)
        });
        Ok(ops::concatenate(&attended.collect::<Result<Vec<_>>>()?, 0)?)
    }

    /// What latent queries make of it (arXiv:2405.04434): the keys remembered are latents `[B, 1, S, r]`, and the values the
    /// rotated part of keys `[B, 1, S, p]`.
    ///
    /// # Shapes
    /// - `q_nope`: `[B, H, L, r]`, `q_pe`: `[B, H, L, p]`, result: `[B, H, L, r]`
    pub fn attend_latent(&self, q_nope: &Array, q_pe: &Array, how: &Attend) -> Result<Array> {
        if let [part] = self.parts.as_slice() {
            return part.attend_latent(q_nope, q_pe, how, how.bias.as_ref());
        }
        if fast::attends_by_rule() && how.bias.is_none() {
            let views = self.views()?;
            let (q_nope, q_pe) = (self.turned(q_nope, |kv| &kv.keys)?, self.turned(q_pe, |kv| &kv.values)?);
            let attended = fast::attend_latent_rows(&q_nope, &q_pe, &self.lend(&views), &rows_attention(how))?;
            return self.turned(&attended, |kv| &kv.keys);
        }
        let (rows, count) = (self.check_rows(q_nope)?, self.count());
        let attended = rows.map(|(row, part)| {
            let [q_nope, q_pe] = [q_nope, q_pe].map(|q| q.try_index(row..row + 1));
            let bias = how.bias.as_ref().map(|bias| own_bias(bias, row, count - part.len())).transpose()?;
            part.attend_latent(&q_nope?, &q_pe?, how, bias.as_ref())
        });
        Ok(ops::concatenate(&attended.collect::<Result<Vec<_>>>()?, 0)?)
    }

    /// The keys and values as plain arrays, with a mask: for architectures that compute attention themselves.
    pub fn seen(&self, masks: &Masks) -> Result<Seen> {
        let (kv, mask) = match self.parts.as_slice() {
            [part] => {
                let Part { kv, seen, spec } = part.cut();
                (kv.view(seen.start, seen.end)?, masks.mask(&spec)?)
            }
            _ => (self.padded()?, Mask::Array(self.padded_mask()?)),
        };
        match (kv.keys, kv.values) {
            (Tensor::Plain(keys), Tensor::Plain(values)) => Ok(Seen { keys, values, mask }),
            _ => Err(Error::Kind { action: READ_PLAIN, kind: "quantized" }),
        }
    }

    /// Which keys each query sees, `true` where it does: `[L, S]`, or `[B, 1, L, S]` where rows have their own; nothing where all
    /// see all.
    pub fn shown(&self, masks: &Masks) -> Result<Option<Array>> {
        let [part] = self.parts.as_slice() else { return self.padded_mask().map(Some) };
        match masks.mask(&part.spec)? {
            Mask::None => Ok(None),
            Mask::Causal => masks.array(&part.spec).map(Some),
            Mask::Array(array) => Ok(Some(array)),
        }
    }

    /// The keys as plain numbers, in whatever format they are.
    pub fn keys(&self) -> Result<Array> {
        match self.parts.as_slice() {
            [part] => part.view()?.keys.to_plain(),
            _ => self.padded()?.keys.to_plain(),
        }
    }

    /// Keys and values as they lie; nothing if they are quantized, or if rows have their own.
    pub fn plain(&self) -> Result<Option<[Array; 2]>> {
        let [part] = self.parts.as_slice() else { return Ok(None) };
        match part.view()? {
            Buffer { keys: Tensor::Plain(keys), values: Tensor::Plain(values) } => Ok(Some([keys, values])),
            _ => Ok(None),
        }
    }

    /// Other keys and values of the same tokens, in the same places: queries see them as they see these.
    ///
    /// # Shapes
    /// - `k`: `[B, K, S, d]`, `v`: `[B, K, S, e]`
    pub fn with(&self, k: &Array, v: &Array) -> Result<Self> {
        let kv = Buffer::new(k, v, None)?;
        let [part] = self.parts.as_slice() else {
            return Err(Error::Kind { action: "be replaced", kind: "rows'" });
        };
        if kv.len() != part.len() {
            let expected = format!("[B, K, {}, d]", part.len());
            return Err(Error::Shape { what: "keys", expected, got: k.shape().to_vec() });
        }
        Ok(Self::from(vec![Part { seen: 0..kv.len(), kv, spec: part.spec.clone() }]))
    }

    /// The keys and values that count, of each row.
    fn views(&self) -> Result<Vec<Buffer>> {
        self.parts.iter().map(Part::view).collect()
    }

    fn lend<'a>(&self, views: &'a [Buffer]) -> Vec<fast::Row<'a>> {
        let row = |(part, view): (&Part, &'a Buffer)| fast::Row {
            keys: view.keys.lend(),
            values: view.values.lend(),
            rule: part.spec.rule.clone(),
        };
        self.parts.iter().zip(views).map(row).collect()
    }

    /// `x` with those of its rows rotated that meet a tensor that is: queries that meet keys, and what was made of values.
    fn turned(&self, x: &Array, of: impl Fn(&Buffer) -> &Tensor) -> Result<Array> {
        let turned: Vec<bool> = self.parts.iter().map(|part| of(&part.kv).is_rotated()).collect();
        if turned.iter().all(|turned| !turned) || self.check_rows(x).is_err() {
            return Ok(x.clone());
        }
        if turned.iter().all(|&turned| turned) {
            return rotate(x);
        }
        let row = |(turned, row): (&bool, i32)| rotated_if(*turned, &x.try_index(row..row + 1)?);
        let rows = turned.iter().zip(0..).map(row).collect::<Result<Vec<_>>>()?;
        Ok(ops::concatenate(&rows, 0)?)
    }

    /// The parts with their rows of `q`.
    fn check_rows(&self, q: &Array) -> Result<impl Iterator<Item = (i32, &Part)>> {
        let rows = self.parts.len();
        if q.dim(0) as usize != rows {
            let expected = format!("[{rows}, H, L, d]");
            return Err(Error::Shape { what: "queries", expected, got: q.shape().to_vec() });
        }
        Ok((0..).zip(&self.parts))
    }

    /// Plain keys and values of all rows, in the order of time, aligned at their ends.
    fn padded(&self) -> Result<Buffer> {
        let count = self.count();
        let rows = self.parts.iter().map(|part| part.in_order()?.with_format(None)?.padded(count - part.len()));
        Buffer::concat(&rows.collect::<Result<Vec<_>>>()?.iter().collect::<Vec<_>>(), 0)
    }

    /// The masks of all rows over [`padded`](Self::padded) keys: `[B, 1, L, S]`.
    fn padded_mask(&self) -> Result<Array> {
        let count = self.count();
        let rows = self.parts.iter().map(|part| {
            let mut spec = part.spec.clone();
            spec.rule.ring = None;
            let mask = plain::seen(&spec.rule, spec.len, spec.keys())?.reshape(&[1, 1, spec.len, spec.keys()])?;
            let gap = ops::zeros::<bool>(&[1, 1, spec.len, count - spec.keys()])?;
            Ok(ops::concatenate(&[gap, mask], -1)?)
        });
        Ok(ops::concatenate(&rows.collect::<Result<Vec<_>>>()?, 0)?)
    }
}

impl From<Vec<Part>> for Reach {
    fn from(parts: Vec<Part>) -> Self {
        Self { parts }
    }
}

impl Part {
    /// How many keys count.
    fn len(&self) -> i32 {
        self.seen.end - self.seen.start
    }

    /// The keys and values that count.
    fn view(&self) -> Result<Buffer> {
        self.kv.view(self.seen.start, self.seen.end)
    }

    /// The same in the order of time.
    fn in_order(&self) -> Result<Buffer> {
        let held = self.view()?;
        let Some(Ring { keep, newest }) = self.spec.rule.ring else { return Ok(held) };
        let parts = [(0, keep), (newest + 1, held.len()), (keep, newest + 1)];
        let parts = parts.into_iter().filter(|(from, to)| to > from).map(|(from, to)| held.view(from, to));
        Buffer::concat(&parts.collect::<Result<Vec<_>>>()?.iter().collect::<Vec<_>>(), 2)
    }

    fn attend(&self, q: &Array, how: &Attend, bias: Option<&Array>, masks: &Masks) -> Result<Array> {
        if fast::attends_by_rule() || bias.is_some() {
            return self.by_sight(q, how, Sight { rule: Some(self.spec.rule.clone()), bias });
        }
        let seen = self.cut();
        match masks.mask(&seen.spec)? {
            Mask::None => seen.by_sight(q, how, Sight::all()),
            Mask::Causal => seen.by_sight(q, how, Sight::causal(Causal::default())),
            Mask::Array(mask) => seen.by_sight(q, how, Sight::biased(&mask)),
        }
    }

    fn attend_latent(&self, q_nope: &Array, q_pe: &Array, how: &Attend, bias: Option<&Array>) -> Result<Array> {
        let sight = Sight { rule: Some(self.spec.rule.clone()), bias };
        let kv = self.view()?;
        let [latent, pe] = [kv.keys.is_rotated(), kv.values.is_rotated()];
        let (q_nope, q_pe) = (rotated_if(latent, q_nope)?, rotated_if(pe, q_pe)?);
        let attended = fast::attend_latent(&q_nope, &q_pe, kv.keys.lend(), kv.values.lend(), &attention(how, sight))?;
        rotated_if(latent, &attended)
    }

    fn by_sight(&self, q: &Array, how: &Attend, sight: Sight<'_>) -> Result<Array> {
        let kv = self.view()?;
        let q = rotated_if(kv.keys.is_rotated(), q)?;
        let attended = fast::attend(&q, kv.keys.lend(), kv.values.lend(), &attention(how, sight))?;
        rotated_if(kv.values.is_rotated(), &attended)
    }

    /// The same without the first keys that no query's window reaches.
    fn cut(&self) -> Self {
        let first = match (self.spec.rule.window, self.spec.rule.ring) {
            (Some(window), None) => (self.spec.before - (window - 1)).max(0),
            _ => 0,
        };
        let mut part = self.clone();
        part.seen.start += first;
        part.spec.before -= first;
        part.spec.rule.padding.iter_mut().for_each(|padding| *padding = padding.saturating_sub(first));
        part.spec.rule.documents.iter_mut().flatten().for_each(|start| *start = start.saturating_sub(first));
        if let Some(chunk) = &mut part.spec.rule.chunk {
            chunk.first += first;
        }
        part
    }
}

fn rows_attention(how: &Attend) -> fast::RowsAttention<'_> {
    fast::RowsAttention { scale: how.scale, softcap: how.softcap, sinks: how.sinks.as_ref() }
}

/// One row's part of a bias over keys that are aligned at their ends, of which the row has no first `gap`.
fn own_bias(bias: &Array, row: i32, gap: i32) -> Result<Array> {
    let rows = if bias.ndim() == 4 && bias.dim(0) > 1 { bias.try_index(row..row + 1)? } else { bias.clone() };
    let keys = rows.shape().last().copied().unwrap_or(1);
    if gap == 0 || keys == 1 { Ok(rows) } else { Ok(rows.try_index((Ellipsis, gap..))?) }
}

fn attention<'a>(how: &'a Attend, sight: Sight<'a>) -> fast::Attention<'a> {
    fast::Attention { scale: how.scale, softcap: how.softcap, sight, sinks: how.sinks.as_ref() }
}
