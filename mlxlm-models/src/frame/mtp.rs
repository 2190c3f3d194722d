//! Heads that predict further tokens (multi-token prediction, MTP: arXiv:2412.19437, section 2.2).
//!
//! The first head joins the state of token `i` and the embedding of token `i + 1`, runs a block of its own over that, and norms it:
//! the model's head then says what token `i + 2` may be. The next head does the same with the states of the first, one token
//! further on. Python mlx-lm drops these heads.
//!
//! Which state of the model the first head reads differs. That of Qwen, DeepSeek and GLM reads the state after the model's last norm:
//! vLLM's and SGLang's models hand it out so, DeepSeek's own code of a checkpoint with heads does (ROCm/ATOM #1764), and for Qwen it was
//! measured (ggml-org/llama.cpp #24025). That of `MiMo` reads the state before that norm (`MiMoModel` of vLLM, written by its makers). A
//! head that reads states of a head gets them after that head's norm, in all of them (vllm-project/vllm #47448).

use mlxlm_core::nn::{Leaf, LeafMut, Linear, Module, Norm, Precision, join};
use mlxlm_core::weights::Weights;
use mlxlm_core::{Array, module, ops};
use serde::Deserialize;

use super::{Block, DecoderConfig, Names, Step};
use crate::config::within;
use crate::{Common, Error, Result, Rule};

/// Where the heads of a model lie in its checkpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MtpPlace {
    /// In the stack, by number after its last block.
    Stack,
    /// In a list of their own, by number.
    List(&'static str),
    /// There is one, at this path.
    One(&'static str),
}

/// What the parts of a head are called, below its own path, and what differs between families.
#[derive(Debug, Clone, Copy)]
pub struct MtpNames {
    /// Where the heads lie.
    pub place: MtpPlace,
    /// The norm of the embedding of the next token.
    pub token_norm: &'static str,
    /// The norm of the state.
    pub state_norm: &'static str,
    /// The map of both, side by side, to one state.
    pub joint: &'static str,
    /// The block.
    pub block: &'static str,
    /// The norm of what comes out.
    pub norm: &'static str,
    /// Copies of the model's embedding table and head that checkpoints have; they are not loaded.
    pub copies: &'static [&'static str],
    /// Whether the state stands before the embedding.
    pub state_first: bool,
    /// Whether the first head reads states from before the model's last norm.
    pub before_norm: bool,
}

impl MtpNames {
    /// DeepSeek and GLM.
    pub const DEEPSEEK: Self = Self {
        place: MtpPlace::Stack,
        token_norm: "enorm",
        state_norm: "hnorm",
        joint: "eh_proj",
        block: "",
        norm: "shared_head.norm",
        copies: &["embed_tokens", "shared_head.head"],
        state_first: false,
        before_norm: false,
    };

    /// The rule that drops the heads from the checkpoints of a model with these names and so many layers.
    pub(crate) fn drop_rule(&self, names: &Names, layers: usize) -> Rule {
        match self.place {
            MtpPlace::Stack => Rule::DropFrom { stack: names.stack, first: layers },
            MtpPlace::List(path) | MtpPlace::One(path) => Rule::Drop(path),
        }
    }
}

/// How many heads a configuration says that there are.
#[derive(Debug, Deserialize)]
struct Said {
    num_nextn_predict_layers: Option<i32>,
    mtp_num_hidden_layers: Option<i32>,
}

impl Said {
    /// The entry and its number, if it is there.
    fn count(&self) -> Option<(&'static str, i32)> {
        let nextn = self.num_nextn_predict_layers.map(|count| ("num_nextn_predict_layers", count));
        nextn.or(self.mtp_num_hidden_layers.map(|count| ("mtp_num_hidden_layers", count)))
    }
}

/// No model has more heads than this.
const MOST: i32 = 16;

/// The heads of a model.
#[derive(Debug)]
pub(super) struct MtpStack {
    heads: Vec<(String, Head)>,
    pub(super) names: MtpNames,
}

impl MtpStack {
    /// The heads in a checkpoint, if there are any: as many as the configuration says, or as there are if it does not say.
    pub(super) fn load(own: &dyn DecoderConfig, w: &Weights, c: &Common) -> Result<Option<Self>> {
        let Some(names) = own.mtp() else { return Ok(None) };
        let path = |head: usize| match names.place {
            MtpPlace::Stack => format!("{}.{}", own.names().stack, own.layers(c) + head),
            MtpPlace::List(list) => format!("{list}.{head}"),
            MtpPlace::One(path) => path.to_owned(),
        };
        let is_there = |head: &usize| w.at(path(*head)).at(names.joint).has("weight");
        if !is_there(&0) {
            return Ok(None);
        }
        let most = if matches!(names.place, MtpPlace::One(_)) { 1 } else { MOST };
        let count = match c.part::<Said>()?.count() {
            Some((entry, count)) => within(entry, count, most).map(|()| count as usize)?,
            None => (0..most as usize).take_while(is_there).count(),
        };
        let heads = (0..count).map(|head| {
            let path = path(head);
            Ok((path.clone(), Head::load(own, &w.at(path), c, (head, names))?))
        });
        Ok(Some(Self { heads: heads.collect::<Result<_>>()?, names }))
    }

    pub(super) fn len(&self) -> usize {
        self.heads.len()
    }

    /// A head by its number.
    pub(super) fn get(&self, head: usize) -> Result<&Head> {
        let found = self.heads.get(head).map(|(_, found)| found);
        found.ok_or(Error::MtpHead { head, count: self.heads.len() })
    }
}

/// Both walks are the same but for the kind of reference.
macro_rules! walks {
    ($walk:ident, $leaf:ident, $iter:ident $(, $mut:tt)?) => {
        fn $walk<'a>(&'a $($mut)? self, path: &str, visit: &mut dyn FnMut(&str, $leaf<'a>)) {
            for (own, head) in self.heads.$iter() {
                head.$walk(&join(path, own), visit);
            }
        }
    };
}

impl Module for MtpStack {
    walks!(walk, Leaf, iter);
    walks!(walk_mut, LeafMut, iter_mut, mut);
}

/// One head.
#[derive(Debug)]
pub(super) struct Head {
    token_norm: Norm,
    state_norm: Norm,
    joint: Linear,
    pub(super) block: Box<dyn Block>,
    norm: Norm,
    names: MtpNames,
}

module!(Head {
    token_norm as names.token_norm,
    state_norm as names.state_norm,
    joint as names.joint,
    block as names.block,
    norm as names.norm,
});

impl Head {
    fn load(own: &dyn DecoderConfig, w: &Weights, c: &Common, (head, names): (usize, MtpNames)) -> Result<Self> {
        let dims = c.hidden_size;
        let norm = |name: &str| Ok::<_, Error>(Norm::rms(&w.at(name), dims, c.rms_norm_eps()?)?);
        names.copies.iter().for_each(|copy| w.at(copy).forget());
        let mut block = own.mtp_block(&w.at(names.block), c, head)?;
        // What elsewhere keeps eight bits is not packed at all here: so small maps decide on all that a head says.
        block.walk_mut("", &mut |_, leaf| match leaf {
            LeafMut::Linear(leaf) if leaf.worth.precision == Precision::Eight => {
                leaf.worth.precision = Precision::Dense;
            }
            _ => {}
        });
        Ok(Self {
            token_norm: norm(names.token_norm)?,
            state_norm: norm(names.state_norm)?,
            joint: Linear::load(&w.at(names.joint).keep(Precision::Dense), dims, 2 * dims)?,
            block,
            norm: norm(names.norm)?,
            names,
        })
    }

    /// # Shapes
    /// - `states`, `embedded`: `[B, L, D]`, and the same comes back
    pub(super) fn forward(&self, states: &Array, embedded: &Array, step: &mut Step) -> Result<Array> {
        let (state, token) = (self.state_norm.forward(states)?, self.token_norm.forward(embedded)?);
        let pair = if self.names.state_first { [state, token] } else { [token, state] };
        let x = self.joint.forward(&ops::concatenate(&pair, -1)?)?;
        Ok(self.norm.forward(&self.block.forward(&x, step)?)?)
    }
}

/// States as they were before a root-mean-square norm, but for the length of each: what another norm of this kind makes the same of.
///
/// # Shapes
/// - `normed`: `[…, D]`, and the same comes back
pub(super) fn before(norm: &Norm, normed: &Array) -> Result<Array> {
    let Some(weight) = &norm.weight else { return Ok(normed.clone()) };
    // What a weight of zero has erased stays erased.
    let zero = Array::from_f32(0.0).as_dtype(weight.dtype())?;
    let one = Array::from_f32(1.0).as_dtype(weight.dtype())?;
    Ok(normed.divide(ops::select(weight.eq(zero)?, one, weight)?)?)
}
