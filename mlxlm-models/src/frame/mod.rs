//! The frame of nearly every language model, as data: what its parts are called, and what stands around its blocks.

mod decoder;
mod mtp;
mod packing;
mod step;

use std::fmt::Debug;

use mlxlm_cache::CacheKind;
use mlxlm_core::Array;
use mlxlm_core::nn::{Module, Norm, Precision};
use mlxlm_core::weights::Weights;

use crate::{Common, Result, Rule};

pub(crate) use decoder::assemble;
pub use mtp::{MtpNames, MtpPlace};
pub use packing::Packing;
pub use step::{Pass, Step};

/// The paths of a model's parts in its checkpoints. A model is saved under the names that Python knows.
#[derive(Debug, Clone, Copy)]
pub struct Names {
    /// Where the stack and what stands around it lie: entry and exit load from here.
    pub root: &'static str,
    /// The embedding table.
    pub table: &'static str,
    /// The blocks, by number below this.
    pub stack: &'static str,
    /// The norm before the head.
    pub norm: &'static str,
    /// The head.
    pub head: &'static str,
}

/// The names of Llama and most others.
pub const LLAMA: Names =
    Names { root: "model", table: "model.embed_tokens", stack: "model.layers", norm: "model.norm", head: "lm_head" };

/// What turns states into logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Head {
    /// A linear map of its own.
    Own {
        /// With a bias.
        biased: bool,
    },
    /// The embedding table.
    Tied,
    /// A linear map of its own if the checkpoint has one, and the embedding table otherwise.
    AsStored,
    /// The embedding table if a checkpoint has no map of its own, and such a map otherwise, also where there is no checkpoint.
    OwnUnlessMissing,
    /// A bare matrix: the head's path is the tensor's whole name, and it is never packed.
    Parameter,
}

impl Head {
    /// The embedding table, for architectures that the reference always ties; where the configuration says that they are not
    /// tied, a head of the checkpoint counts.
    pub fn tied_unless_stored(c: &Common) -> Self {
        if c.tie_word_embeddings { Self::Tied } else { Self::AsStored }
    }

    /// A linear map of its own, as the reference of some architectures has one whatever the configuration says; where that
    /// says that the head is tied, the checkpoint decides.
    pub fn own(c: &Common) -> Self {
        if c.tie_word_embeddings { Self::AsStored } else { Self::Own { biased: false } }
    }
}

/// What stands around the blocks of a decoder.
#[derive(Debug)]
pub struct Frame {
    /// The norm before the head, if there is one.
    pub norm: Option<Norm>,
    /// What turns states into logits.
    pub head: Head,
    /// How far the embedding table may be packed.
    pub table_precision: Precision,
    /// How far a head of its own may be packed.
    pub head_precision: Precision,
    /// What happens to the embeddings before the first block, loaded from the root: positions, norms, further tables.
    pub entry: Option<Box<dyn Block>>,
    /// What happens after the last block and before the norm, loaded from the root.
    pub exit: Option<Box<dyn Block>>,
    /// How often the stack is run, each time with caches of its own.
    pub passes: usize,
    /// Whether the norm comes after each pass, and not only after the last.
    pub norm_each_pass: bool,
    /// Factor of the embeddings.
    pub embedding_scale: Option<f32>,
    /// Factor of the logits.
    pub logit_scale: Option<f32>,
    /// Bound of the logits: `cap * tanh(logits / cap)`.
    pub logit_softcap: Option<f32>,
    /// Tokens that are never chosen: `true` for those, `[V]`.
    pub never: Option<Array>,
}

impl Frame {
    /// A final norm and a head, tied if the configuration says so, and nothing else.
    pub fn new(c: &Common, norm: Norm) -> Self {
        Self {
            norm: Some(norm),
            head: if c.tie_word_embeddings { Head::Tied } else { Head::Own { biased: false } },
            table_precision: Precision::Any,
            head_precision: Precision::Any,
            entry: None,
            exit: None,
            passes: 1,
            norm_each_pass: false,
            embedding_scale: None,
            logit_scale: None,
            logit_softcap: None,
            never: None,
        }
    }

    /// As [`new`](Self::new), with Llama's final norm and a [head of its own](Head::own).
    pub fn untied(w: &Weights, c: &Common) -> Result<Self> {
        let norm = Norm::rms(&w.at(LLAMA.norm), c.hidden_size, c.rms_norm_eps()?)?;
        Ok(Self { head: Head::own(c), ..Self::new(c, norm) })
    }
}

/// The configuration of an architecture that is a stack of blocks: what it adds to [`Common`], and what it builds.
pub trait DecoderConfig: Debug {
    /// What its parts are called.
    fn names(&self) -> Names {
        LLAMA
    }

    /// Refuses entries from which no model can be built.
    fn check(&self, _c: &Common) -> Result<()> {
        Ok(())
    }

    /// What has to be done to its checkpoints, in this order.
    fn rules(&self, _c: &Common) -> Result<Vec<Rule>> {
        Ok(Vec::new())
    }

    /// How many rows the embedding table and the head have.
    fn vocabulary(&self, c: &Common) -> i32 {
        c.vocab_size
    }

    /// How many blocks there are.
    fn layers(&self, c: &Common) -> usize {
        c.num_hidden_layers as usize
    }

    /// What stands around the blocks; `w` is the root of all names. Unless said otherwise the final norm is [`Norm::rms`].
    fn frame(&self, w: &Weights, c: &Common) -> Result<Frame> {
        Ok(Frame::new(c, Norm::rms(&w.at(self.names().norm), c.hidden_size, c.rms_norm_eps()?)?))
    }

    /// The block `layer`, at `w`.
    fn block(&self, w: &Weights, c: &Common, layer: usize) -> Result<Box<dyn Block>>;

    /// What the parts of its heads that predict further tokens are called, if models of its kind have such heads. They are dropped
    /// from checkpoints where nobody asks for them, and absent where a checkpoint has none.
    fn mtp(&self) -> Option<MtpNames> {
        None
    }

    /// The block of such a head, by number, at `w`: unless said otherwise one more of the stack.
    fn mtp_block(&self, w: &Weights, c: &Common, head: usize) -> Result<Box<dyn Block>> {
        self.block(w, c, self.layers(c) + head)
    }
}

/// One block of a stack.
pub trait Block: Module + Debug {
    /// # Shapes
    /// - `x`: `[B, L, D]`, and the same comes back
    fn forward(&self, x: &Array, step: &mut Step) -> Result<Array>;

    /// What the block keeps of a sequence: a cache, several, or none.
    fn caches(&self) -> Vec<CacheKind>;

    /// What it keeps in one of the [passes](Frame::passes) over the stack, by number, if that differs.
    fn caches_in(&self, _pass: usize) -> Vec<CacheKind> {
        self.caches()
    }
}

/// A norm without parameters around the stack, such as one of the embeddings.
impl Block for Norm {
    fn forward(&self, x: &Array, _step: &mut Step) -> Result<Array> {
        Ok(self.forward(x)?)
    }

    fn caches(&self) -> Vec<CacheKind> {
        Vec::new()
    }
}
