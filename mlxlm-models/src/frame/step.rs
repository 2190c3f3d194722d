//! What a block is given besides its input: its caches, and what the blocks of one forward pass share.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::fmt::Debug;

use mlxlm_cache::{Attend, Beginning, CompressedCache, LayerCache, Masks, Offset, Reach, Replay, Seen};
use mlxlm_core::{Array, Dtype};

use super::Packing;
use crate::{Error, Result};

/// Why a block with a recurrent state refuses rows of several documents.
pub(super) const CARRIES: &str = "its blocks carry a state from token to token";

/// One forward pass: the tokens, the caches that are not dealt out yet, and what blocks hand on to each other.
#[derive(Debug)]
pub struct Pass<'a> {
    caches: Option<&'a mut [LayerCache]>,
    shared: Shared<'a>,
}

/// What blocks hand on to each other, which can be copied with the pass.
trait Carried: Any {
    fn copy(&self) -> Box<dyn Carried>;
}

impl<T: Any + Clone> Carried for T {
    fn copy(&self) -> Box<dyn Carried> {
        Box::new(self.clone())
    }
}

impl Debug for dyn Carried {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Carried")
    }
}

#[derive(Debug)]
struct Shared<'a> {
    tokens: &'a Array,
    masks: Masks,
    pass: usize,
    position: Offset,
    /// Where documents begin, if rows hold several.
    packing: Option<Packing>,
    carried: HashMap<TypeId, Box<dyn Carried>>,
}

impl<'a> Pass<'a> {
    /// A pass over `tokens` `[B, L]`, with these caches or, without any, over a sequence of their own.
    pub fn new(tokens: &'a Array, caches: Option<&'a mut [LayerCache]>) -> Self {
        let counting = caches.as_deref().and_then(|caches| caches.iter().find(|cache| cache.keeps_kv()));
        let position = counting.map_or(Offset::Same(0), LayerCache::offset);
        Self::at(tokens, caches, position, None)
    }

    /// A pass over rows that hold several documents each, without caches.
    pub fn packed(tokens: &'a Array, packing: &Packing) -> Self {
        Self::at(tokens, None, Offset::Tokens(packing.places().clone()), Some(packing.clone()))
    }

    fn at(tokens: &'a Array, caches: Option<&'a mut [LayerCache]>, position: Offset, packing: Option<Packing>) -> Self {
        let (masks, carried) = (Masks::default(), HashMap::new());
        Self { caches, shared: Shared { tokens, masks, pass: 0, position, packing, carried } }
    }

    /// The same pass once more, to try what comes next several times; nothing for one with caches, which are changed in place.
    pub fn copy(&self) -> Option<Self> {
        if self.caches.is_some() {
            return None;
        }
        let Shared { tokens, pass, ref position, ref packing, ref carried, .. } = self.shared;
        let carried = carried.iter().map(|(&key, value)| (key, (**value).copy())).collect();
        let mut copy = Self::at(tokens, None, position.clone(), packing.clone());
        (copy.shared.pass, copy.shared.carried) = (pass, carried);
        Some(copy)
    }

    /// Begins a pass over the stack, by number, of a model that [runs it several times](super::Frame::passes).
    pub(super) fn begin(&mut self, pass: usize) {
        self.shared.pass = pass;
    }

    /// Whether blocks have handed something on to each other.
    pub(crate) fn is_carrying(&self) -> bool {
        !self.shared.carried.is_empty()
    }

    /// Deals the next `count` caches to the block `layer`, and runs `f` with them.
    pub fn with<T>(&mut self, layer: usize, count: usize, f: impl FnOnce(&mut Step) -> Result<T>) -> Result<T> {
        let own = match self.caches.take() {
            None => None,
            Some(caches) if caches.len() < count => {
                return Err(Error::Caches { expected: count, got: caches.len() });
            }
            Some(caches) => {
                let (own, rest) = caches.split_at_mut(count);
                self.caches = Some(rest);
                Some(own)
            }
        };
        let mut step = Step { caches: own, shared: &mut self.shared, layer };
        f(&mut step)
    }
}

/// What a block is given besides its input.
#[derive(Debug)]
pub struct Step<'a, 'p> {
    caches: Option<&'a mut [LayerCache]>,
    shared: &'a mut Shared<'p>,
    layer: usize,
}

impl<'p> Step<'_, 'p> {
    /// The number of the block.
    pub fn layer(&self) -> usize {
        self.layer
    }

    /// Which of the [passes](super::Frame::passes) over the stack this is, from zero on.
    pub fn pass(&self) -> usize {
        self.shared.pass
    }

    /// The tokens of the pass, `[B, L]`.
    pub fn tokens(&self) -> &'p Array {
        self.shared.tokens
    }

    /// Whether the pass is one of training.
    pub fn is_training(&self) -> bool {
        mlxlm_core::nn::is_training()
    }

    /// Whether the pass continues what caches hold.
    pub fn has_caches(&self) -> bool {
        self.caches.is_some()
    }

    /// The position of the first new token, from the block's first cache; zero without one. Where rows hold several documents, the
    /// position of each token in its own.
    pub fn offset(&self) -> Offset {
        if self.shared.packing.is_some() {
            return self.shared.position.clone();
        }
        self.caches.as_deref().and_then(<[LayerCache]>::first).map_or(Offset::Same(0), LayerCache::offset)
    }

    /// The position of the first new token, from the first cache of the model that keeps keys and values: for blocks whose own
    /// state does not count tokens. Zero without caches.
    pub fn position(&self) -> &Offset {
        &self.shared.position
    }

    /// Refuses rows of several documents, for a block that would mix them.
    pub fn refuse_packing(&self, why: &'static str) -> Result<()> {
        if self.shared.packing.is_some() { Err(Error::packing(why)) } else { Ok(()) }
    }

    /// Remembers keys and values, and attends to all that is remembered.
    ///
    /// # Shapes
    /// - `q`: `[B, H, L, d]`, `k`: `[B, K, L, d]`, `v`: `[B, K, L, e]`, result: `[B, H, L, e]`
    pub fn attend(&mut self, q: &Array, k: &Array, v: &Array, how: &Attend) -> Result<Array> {
        let reach = self.remember(k, v, how)?;
        if let Some([first, ..]) = self.caches.as_deref_mut() {
            first.note_queries(q, how)?;
        }
        self.look(&reach, q, how)
    }

    /// Remembers keys and values, and hands out all that is remembered: to be attended to now, or by other blocks.
    ///
    /// # Shapes
    /// - `k`: `[B, K, L, d]`, `v`: `[B, K, L, e]`
    pub fn remember(&mut self, k: &Array, v: &Array, how: &Attend) -> Result<Reach> {
        match self.caches.as_deref_mut() {
            None => {
                let reach = Reach::uncached(k, v, how)?;
                match &self.shared.packing {
                    None => Ok(reach),
                    Some(_) if how.chunk.is_some() => {
                        Err(Error::packing("its tokens see chunks that are counted from the first token"))
                    }
                    Some(packing) => Ok(reach.packed(packing.starts())),
                }
            }
            Some([first, ..]) => Ok(first.remember(k, v, how)?),
            Some([]) => Err(Error::Caches { expected: 1, got: 0 }),
        }
    }

    /// Attends to what [`remember`](Self::remember) handed out.
    ///
    /// # Shapes
    /// - `q`: `[B, H, L, d]`, result: `[B, H, L, e]`
    pub fn look(&self, reach: &Reach, q: &Array, how: &Attend) -> Result<Array> {
        Ok(reach.attend(q, how, &self.shared.masks)?)
    }

    /// Attends to remembered latent vectors (arXiv:2405.04434): `reach` holds latents `[B, 1, S, r]` as keys and the rotated
    /// part of keys `[B, 1, S, p]` as values.
    ///
    /// # Shapes
    /// - `q_nope`: `[B, H, L, r]`, `q_pe`: `[B, H, L, p]`, result: `[B, H, L, r]`
    pub fn look_latent(&self, reach: &Reach, q_nope: &Array, q_pe: &Array, how: &Attend) -> Result<Array> {
        Ok(reach.attend_latent(q_nope, q_pe, how)?)
    }

    /// What [`remember`](Self::remember) handed out, as plain arrays with a mask, for blocks that compute attention themselves.
    pub fn seen(&self, reach: &Reach) -> Result<Seen> {
        self.refuse_packing("it computes attention in a way of its own")?;
        Ok(reach.seen(&self.shared.masks)?)
    }

    /// Which keys each query sees, `true` where it does: `[L, S]`, or `[B, 1, L, S]` where rows have caches of their own; nothing where all see all.
    pub fn shown(&self, reach: &Reach) -> Result<Option<Array>> {
        self.refuse_packing("it chooses among all tokens of a row")?;
        Ok(reach.shown(&self.shared.masks)?)
    }

    /// An array of the recurrent state, as it was kept after the last tokens; nothing at the start of a sequence.
    pub fn recall(&mut self, slot: usize) -> Result<Option<Array>> {
        self.refuse_packing(CARRIES)?;
        match self.caches.as_deref_mut() {
            None => Ok(None),
            Some([first, ..]) => Ok(first.recall(slot)?),
            Some([]) => Err(Error::Caches { expected: 1, got: 0 }),
        }
    }

    /// Keeps an array of the recurrent state for the next tokens; the first axis is the batch. `replay` makes it again from the
    /// first tokens of this pass only, for a row whose other tokens turn out wrong.
    pub fn keep(
        &mut self,
        slot: usize,
        array: Array,
        replay: impl Fn(Beginning) -> mlxlm_core::Result<Array> + 'static,
    ) -> Result<()> {
        self.refuse_packing(CARRIES)?;
        match self.caches.as_deref_mut() {
            None => Ok(()),
            Some([first, ..]) => Ok(first.keep(slot, array, Some(&Replay::new(replay)))?),
            Some([]) => Err(Error::Caches { expected: 1, got: 0 }),
        }
    }

    /// The type that a matrix of the recurrent state is to be kept in.
    pub fn matrix_dtype(&self) -> Dtype {
        self.caches.as_deref().and_then(<[LayerCache]>::first).map_or(Dtype::Float32, LayerCache::matrix_dtype)
    }

    /// The latest rows and the groups of a layer that compresses; nothing without a cache.
    pub fn compressed(&mut self) -> Result<Option<&mut CompressedCache>> {
        self.refuse_packing("it reads tokens in groups")?;
        match self.caches.as_deref_mut() {
            None => Ok(None),
            Some([first, ..]) => Ok(Some(first.compressed_mut()?)),
            Some([]) => Err(Error::Caches { expected: 1, got: 0 }),
        }
    }

    /// The part of a block that has its `i`-th cache: of several, or of a list.
    pub fn part(&mut self, i: usize) -> Result<Step<'_, 'p>> {
        let caches = match self.caches.as_deref_mut() {
            None => None,
            Some([only]) => Some(only.list_mut()?),
            Some(several) => Some(several),
        };
        let caches = match caches {
            None => None,
            Some(caches) => {
                let got = caches.len();
                Some(caches.get_mut(i..=i).ok_or(Error::Caches { expected: i + 1, got })?)
            }
        };
        Ok(Step { caches, shared: self.shared, layer: self.layer })
    }

    /// What blocks hand on to each other within one pass, by its type: the first to ask finds the default.
    pub fn carry<T: Default + Clone + 'static>(&mut self) -> &mut T {
        let slot = self.shared.carried.entry(TypeId::of::<T>()).or_insert_with(|| Box::new(T::default()));
        let slot: &mut dyn Any = &mut **slot;
        slot.downcast_mut().unwrap_or_else(|| unreachable!("a slot holds what its key says"))
    }
}
