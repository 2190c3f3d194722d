//! The skeleton of nearly every language model: embedding, a stack of blocks, a norm and a head; generic over the block.

use std::fmt::Debug;

use mlxlm_cache::{Attend, CacheKind, Caches, LayerCache, Masks, Offset, attend_uncached};
use mlxlm_core::nn::{Embedding, Leaf, Linear, Module, Norm, join};
use mlxlm_core::weights::{WeightStore, Weights};
use mlxlm_core::{Array, ops};
use serde::de::DeserializeOwned;

use crate::registry::Built;
use crate::{CausalLm, Common, Error, ModelConfig, ModelInfo, Result};

/// The configuration of an architecture that is a stack of blocks: what it adds to [`Common`], and what it builds.
pub trait DecoderConfig: DeserializeOwned {
    /// What the stack is made of.
    type Block: Block;

    /// Refuses entries from which no model can be built; those of [`Common`] were looked at before.
    fn check(&self, _c: &Common) -> Result<()> {
        Ok(())
    }

    /// The block at `w`, which is rooted at `model.layers.{layer}`.
    fn block(&self, w: &Weights, c: &Common, layer: usize) -> Result<Self::Block>;

    /// What stands around the blocks; `w` is rooted at `model`. Unless said otherwise the final norm is [`Norm::rms`].
    fn skeleton(&self, w: &Weights, c: &Common) -> Result<Skeleton> {
        Ok(Skeleton::new(c, Norm::rms(&w.at("norm"), c.hidden_size, c.rms_norm_eps)?))
    }
}

/// One block of a stack.
pub trait Block: Module + Debug + 'static {
    /// # Shapes
    /// - `x`: `[B, L, D]`, and the same comes back
    fn forward(&self, x: &Array, step: &mut Step) -> Result<Array>;

    /// What the block keeps of a sequence.
    fn cache(&self) -> CacheKind;
}

/// What turns states into logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Head {
    /// A matrix of its own, `lm_head`.
    Own,
    /// The embedding table.
    Tied,
    /// A matrix of its own if the checkpoint has one, and the embedding table otherwise.
    AsStored,
}

/// What stands around the blocks of a decoder.
#[derive(Debug)]
pub struct Skeleton {
    /// The norm before the head.
    pub norm: Norm,
    /// What turns states into logits.
    pub head: Head,
    /// Factor of the embeddings.
    pub embedding_scale: Option<f32>,
    /// Factor of the logits.
    pub logit_scale: Option<f32>,
    /// Bound of the logits: `cap * tanh(logits / cap)`.
    pub logit_softcap: Option<f32>,
}

impl Skeleton {
    /// A final norm and a head, tied if the configuration says so, and nothing else.
    pub fn new(c: &Common, norm: Norm) -> Self {
        let head = if c.tie_word_embeddings { Head::Tied } else { Head::Own };
        Self { norm, head, embedding_scale: None, logit_scale: None, logit_softcap: None }
    }
}

/// What a block is given besides its input.
#[derive(Debug)]
pub struct Step<'a> {
    cache: Option<&'a mut LayerCache>,
    masks: &'a Masks,
}

impl Step<'_> {
    /// The position of the first new token.
    pub fn offset(&self) -> Result<Offset> {
        Ok(match &self.cache {
            Some(cache) => cache.offset(),
            None => Offset::Same(0),
        })
    }

    /// Remembers keys and values, and attends to all that is remembered.
    ///
    /// # Shapes
    /// - `q`: `[B, H, L, d]`, `k`, `v`: `[B, K, L, d]`, result: `[B, H, L, d]`
    pub fn attend(&mut self, q: &Array, k: &Array, v: &Array, how: &Attend) -> Result<Array> {
        Ok(match &mut self.cache {
            Some(cache) => cache.attend(q, k, v, how, self.masks)?,
            None => attend_uncached(q, k, v, how, self.masks)?,
        })
    }
}

/// A decoder of blocks of one kind.
#[derive(Debug)]
struct Decoder<B> {
    embed_tokens: Embedding,
    layers: Vec<B>,
    skeleton: Skeleton,
    lm_head: Option<Linear>,
    info: ModelInfo,
}

/// Builds the model of a configuration from a store of weights.
pub(crate) fn build<C: DecoderConfig>(config: &ModelConfig, store: &WeightStore) -> Result<Built> {
    let (common, ignored): (Common, _) = config.parse()?;
    let (own, ignored_by_own): (C, Vec<String>) = config.parse()?;
    common.check()?;
    own.check(&common)?;
    let root = store.root();
    let w = root.at("model");
    let skeleton = own.skeleton(&w, &common)?;
    let embed_tokens = Embedding::load(&w.at("embed_tokens"), common.vocab_size, common.hidden_size)?;
    let layers = (0..common.num_hidden_layers as usize)
        .map(|layer| own.block(&w.at("layers").at(layer), &common, layer))
        .collect::<Result<Vec<C::Block>>>()?;
    let head = root.at("lm_head");
    let lm_head = match skeleton.head {
        Head::Tied => {
            // Some checkpoints of tied models repeat the table as a head.
            store.forget("lm_head.weight");
            None
        }
        Head::AsStored if !head.has("weight") => None,
        Head::Own | Head::AsStored => Some(Linear::load(&head, common.vocab_size, common.hidden_size)?),
    };
    let info = ModelInfo {
        model_type: common.model_type.clone(),
        vocab_size: common.vocab_size,
        num_layers: layers.len(),
        context_length: common.context_length(),
    };
    let unread = ignored.into_iter().filter(|key| ignored_by_own.contains(key)).collect();
    Ok((Box::new(Decoder { embed_tokens, layers, skeleton, lm_head, info }), unread))
}

impl<B: Block> CausalLm for Decoder<B> {
    fn forward(&self, tokens: &Array, caches: Option<&mut Caches>) -> Result<Array> {
        let masks = Masks::default();
        let mut x = scaled(self.embed_tokens.forward(tokens)?, self.skeleton.embedding_scale)?;
        match caches {
            None => {
                for layer in &self.layers {
                    x = layer.forward(&x, &mut Step { cache: None, masks: &masks })?;
                }
            }
            Some(caches) => {
                let caches = caches.layers_mut();
                if caches.len() != self.layers.len() {
                    return Err(Error::Caches { expected: self.layers.len(), got: caches.len() });
                }
                for (layer, cache) in self.layers.iter().zip(caches) {
                    x = layer.forward(&x, &mut Step { cache: Some(cache), masks: &masks })?;
                }
            }
        }
        let x = self.skeleton.norm.forward(&x)?;
        let logits = match &self.lm_head {
            Some(head) => head.forward(&x)?,
            None => self.embed_tokens.as_linear(&x)?,
        };
        let logits = scaled(logits, self.skeleton.logit_scale)?;
        match self.skeleton.logit_softcap {
            Some(cap) => scaled(ops::tanh(scaled(logits, Some(1.0 / cap))?)?, Some(cap)),
            None => Ok(logits),
        }
    }

    fn cache_kinds(&self) -> Vec<CacheKind> {
        self.layers.iter().map(Block::cache).collect()
    }

    fn info(&self) -> &ModelInfo {
        &self.info
    }
}

/// `x * scale` in the type of `x`.
fn scaled(x: Array, scale: Option<f32>) -> Result<Array> {
    match scale {
        Some(scale) if scale != 1.0 => Ok(x.multiply(Array::from_f32(scale).as_dtype(x.dtype())?)?),
        _ => Ok(x),
    }
}

impl<B: Block> Module for Decoder<B> {
    fn walk<'a>(&'a mut self, path: &str, visit: &mut dyn FnMut(&str, Leaf<'a>)) {
        let inner = join(path, "model");
        self.embed_tokens.walk(&join(&inner, "embed_tokens"), visit);
        self.layers.walk(&join(&inner, "layers"), visit);
        self.skeleton.norm.walk(&join(&inner, "norm"), visit);
        self.lm_head.walk(&join(path, "lm_head"), visit);
    }
}
