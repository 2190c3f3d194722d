//! A stack of blocks between an embedding and a head, built from a configuration.

use std::cell::Cell;
use std::rc::Rc;

use mlxlm_cache::{CacheKind, Caches};
use mlxlm_core::nn::{self, Embedding, Leaf, LeafMut, Linear, Module, Parameter, join};
use mlxlm_core::weights::{Init, Weights};
use mlxlm_core::{Array, Exception, fast, module, ops};

use super::mtp::{self, MtpStack};
use super::step::CARRIES;
use super::{Block, DecoderConfig, Frame, Head, Names, Packing, Pass};
use crate::{CausalLm, Common, Error, ModelInfo, MtpHeads, Result, Stages, Underway};

/// A decoder.
#[derive(Debug)]
struct Decoder {
    /// What stands before all names: where a wrapper keeps its text model.
    prefix: String,
    names: Names,
    embed_tokens: Embedding,
    layers: Vec<Box<dyn Block>>,
    frame: Frame,
    head: Option<HeadLeaf>,
    mtp: Option<MtpStack>,
    info: ModelInfo,
}

/// A head that is not the embedding table.
#[derive(Debug)]
enum HeadLeaf {
    Linear(Linear),
    Matrix(Parameter),
}

module!(
    enum HeadLeaf {
        Linear,
        Matrix,
    }
);

/// Builds the model of a configuration from the weights at `w`, the root of all its names.
pub(crate) fn assemble(own: &dyn DecoderConfig, w: &Weights, c: &Common) -> Result<Box<dyn CausalLm>> {
    let names = own.names();
    let (frame, vocab_size) = (own.frame(w, c)?, own.vocabulary(c));
    let embed_tokens = Embedding::load(&w.at(names.table).keep(frame.table_precision), vocab_size, c.hidden_size)?;
    let stack = w.at(names.stack);
    let layers = (0..own.layers(c)).map(|layer| own.block(&stack.at(layer), c, layer)).collect::<Result<Vec<_>>>()?;
    let at = w.at(names.head);
    let linear =
        |biased| Linear::load_biased(&at.columns().keep(frame.head_precision), vocab_size, c.hidden_size, biased);
    let head = match frame.head {
        Head::Tied => {
            // Some checkpoints of tied models repeat the table as a head.
            at.forget();
            None
        }
        Head::AsStored if !at.has("weight") => None,
        Head::OwnUnlessMissing if at.lacks("weight") => None,
        Head::AsStored | Head::OwnUnlessMissing => Some(HeadLeaf::Linear(linear(false)?)),
        Head::Own { biased } => Some(HeadLeaf::Linear(linear(biased)?)),
        Head::Parameter => {
            let init = Init::Normal(1.0 / (c.hidden_size as f32).sqrt());
            Some(HeadLeaf::Matrix(Parameter::load(&at, &[vocab_size, c.hidden_size], init)?))
        }
    };
    let mtp = MtpStack::load(own, w, c)?;
    let info = ModelInfo {
        model_type: c.model_type.clone(),
        vocab_size,
        num_layers: layers.len(),
        context_length: c.context_length(),
    };
    Ok(Box::new(Decoder { prefix: w.path().to_owned(), names, embed_tokens, layers, frame, head, mtp, info }))
}

impl Decoder {
    /// What the first block reads of tokens.
    fn embedded(&self, tokens: &Array) -> Result<Array> {
        scaled(self.embed_tokens.forward(tokens)?, self.frame.embedding_scale)
    }

    /// What the first stage reads.
    fn entered(&self, tokens: &Array, pass: &mut Pass) -> Result<Array> {
        let x = self.embedded(tokens)?;
        match &self.frame.entry {
            Some(entry) => pass.with(0, entry.caches().len(), |step| entry.forward(&x, step)),
            None => Ok(x),
        }
    }

    /// What a stage, a block in one of the passes over the stack, makes of `x`.
    fn passed(&self, stage: usize, x: Array, pass: &mut Pass) -> Result<Array> {
        let (round, layer) = self.place(stage);
        let block = &self.layers[layer];
        pass.begin(round);
        let x = pass.with(layer, block.caches_in(round).len(), |step| block.forward(&x, step))?;
        self.between(stage, x)
    }

    /// The pass over the stack and the layer of a stage.
    fn place(&self, stage: usize) -> (usize, usize) {
        (stage / self.layers.len(), stage % self.layers.len())
    }

    /// What the next stage reads: behind the last layer of a pass there may be a norm.
    fn between(&self, stage: usize, x: Array) -> Result<Array> {
        let (round, layer) = self.place(stage);
        let is_last = layer + 1 == self.layers.len();
        if self.frame.norm_each_pass && is_last && round + 1 < self.frame.passes { self.normed(x) } else { Ok(x) }
    }

    /// What the head reads of tokens; `forgetful` blocks are computed again for their gradients.
    fn through(&self, tokens: &Array, mut pass: Pass, packing: Option<&Packing>, mut forgetful: bool) -> Result<Array> {
        let mut x = self.entered(tokens, &mut pass)?;
        for stage in 0..Stages::count(self) {
            let forgotten = match forgetful && !pass.is_carrying() {
                true => {
                    let (round, layer) = self.place(stage);
                    forgotten(&*self.layers[layer], &x, (tokens, packing), round, layer)?
                }
                false => None,
            };
            forgetful &= forgotten.is_some();
            x = match forgotten {
                Some(made) => self.between(stage, made)?,
                None => self.passed(stage, x, &mut pass)?,
            };
        }
        self.left(x, &mut pass)
    }

    /// What the head reads, after the last stage.
    fn left(&self, x: Array, pass: &mut Pass) -> Result<Array> {
        let x = match &self.frame.exit {
            Some(exit) => pass.with(self.layers.len(), exit.caches().len(), |step| exit.forward(&x, step))?,
            None => x,
        };
        self.normed(x)
    }

    fn normed(&self, x: Array) -> Result<Array> {
        Ok(match &self.frame.norm {
            Some(norm) => norm.forward(&x)?,
            None => x,
        })
    }
}

impl CausalLm for Decoder {
    fn hidden(&self, tokens: &Array, caches: Option<&mut Caches>) -> Result<Array> {
        check_count(caches.as_deref(), self.cache_kinds().len())?;
        let forgetful = caches.is_none() && nn::checkpoints_blocks();
        self.through(tokens, Pass::new(tokens, caches.map(Caches::layers_mut)), None, forgetful)
    }

    fn hidden_packed(&self, tokens: &Array, packing: &Packing) -> Result<Array> {
        let made = match self.cache_kinds().iter().all(CacheKind::keeps_only_kv) {
            true => self.through(tokens, Pass::packed(tokens, packing), Some(packing), nn::checkpoints_blocks()),
            false => Err(Error::packing(CARRIES)),
        };
        made.map_err(|error| error.of_model(&self.info.model_type))
    }

    fn head(&self, hidden: &Array) -> Result<Array> {
        let logits = match &self.head {
            Some(HeadLeaf::Linear(head)) => head.forward(hidden)?,
            Some(HeadLeaf::Matrix(head)) => fast::linear(hidden, head)?,
            None => self.embed_tokens.as_linear(hidden)?,
        };
        let logits = scaled(logits, self.frame.logit_scale)?;
        let logits = match self.frame.logit_softcap {
            Some(cap) => scaled(ops::tanh(scaled(logits, Some(1.0 / cap))?)?, Some(cap))?,
            None => logits,
        };
        match &self.frame.never {
            Some(never) => {
                Ok(ops::select(never, Array::from_f32(f32::NEG_INFINITY).as_dtype(logits.dtype())?, logits)?)
            }
            None => Ok(logits),
        }
    }

    fn head_reads(&self, name: &str) -> bool {
        let part = if self.head.is_some() { self.names.head } else { self.names.table };
        let rest = name.strip_prefix(join(&self.prefix, part).as_str());
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    }

    fn cache_kinds(&self) -> Vec<CacheKind> {
        let of = |block: &Option<Box<dyn Block>>| block.iter().flat_map(|block| block.caches()).collect::<Vec<_>>();
        let of_pass = |pass| self.layers.iter().flat_map(move |block| block.caches_in(pass));
        let stack = (0..self.frame.passes).flat_map(of_pass);
        [of(&self.frame.entry), stack.collect(), of(&self.frame.exit)].concat()
    }

    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn stages(&self) -> Option<&dyn Stages> {
        Some(self)
    }

    fn mtp(&self) -> Option<&dyn MtpHeads> {
        self.mtp.as_ref().map(|_| self as &dyn MtpHeads)
    }
}

impl Stages for Decoder {
    fn count(&self) -> usize {
        self.frame.passes * self.layers.len()
    }

    fn enter<'t>(&self, tokens: &'t Array) -> Result<Underway<'t>> {
        let mut pass = Pass::new(tokens, None);
        let x = self.entered(tokens, &mut pass)?;
        Ok(Underway { stage: 0, x, pass })
    }

    fn advance<'t>(&self, at: &Underway<'t>) -> Result<Underway<'t>> {
        let expected = || Error::Caches { expected: 0, got: 1 };
        let mut pass = at.pass.copy().ok_or_else(expected)?;
        let x = self.passed(at.stage, at.x.clone(), &mut pass)?;
        Ok(Underway { stage: at.stage + 1, x, pass })
    }

    fn leave(&self, at: Underway<'_>) -> Result<Array> {
        let Underway { x, mut pass, .. } = at;
        self.left(x, &mut pass)
    }
}

impl MtpHeads for Decoder {
    fn count(&self) -> usize {
        self.mtp.as_ref().map_or(0, MtpStack::len)
    }

    fn cache_kinds_of(&self, head: usize) -> Vec<CacheKind> {
        self.mtp.iter().filter_map(|mtp| mtp.get(head).ok()).flat_map(|head| head.block.caches()).collect()
    }

    fn entry(&self, hidden: &Array) -> Result<Array> {
        match (&self.mtp, &self.frame.norm) {
            (Some(mtp), Some(norm)) if mtp.names.before_norm => mtp::before(norm, hidden),
            _ => Ok(hidden.clone()),
        }
    }

    fn states(&self, head: usize, states: &Array, tokens: &Array, caches: Option<&mut Caches>) -> Result<Array> {
        let expected = self.cache_kinds_of(head).len();
        check_count(caches.as_deref(), expected)?;
        let found = self.mtp.as_ref().ok_or(Error::MtpHead { head, count: 0 })?.get(head)?;
        let embedded = self.embedded(tokens)?;
        let mut pass = Pass::new(tokens, caches.map(Caches::layers_mut));
        pass.with(self.layers.len() + head, expected, |step| found.forward(states, &embedded, step))
    }

    fn owns(&self, path: &str) -> bool {
        let mut is_own = false;
        self.mtp.walk(&self.prefix, &mut |own, _| is_own |= own == path);
        is_own
    }
}

/// What a block makes of `x`, without keeping what it computes on the way: that is computed again for its gradient. Nothing if the
/// block hands something on to others, which would be lost.
fn forgotten(
    block: &(dyn Block + 'static),
    x: &Array,
    (tokens, packing): (&Array, Option<&Packing>),
    round: usize,
    layer: usize,
) -> Result<Option<Array>> {
    let (carries, tokens, packing) = (Rc::new(Cell::new(false)), tokens.clone(), packing.cloned());
    let said = Rc::clone(&carries);
    let made = nn::checkpoint(
        block,
        |_| true,
        std::slice::from_ref(x),
        move |block: &(dyn Block + 'static), inputs| {
            let mut pass = match &packing {
                Some(packing) => Pass::packed(&tokens, packing),
                None => Pass::new(&tokens, None),
            };
            pass.begin(round);
            let made = inputs.iter().map(|x| pass.with(layer, 0, |step| block.forward(x, step)));
            let made = made.collect::<Result<Vec<_>>>().map_err(|error| Exception::custom(error.to_string()))?;
            said.set(said.get() || pass.is_carrying());
            Ok(made)
        },
    )?;
    Ok(made.into_iter().next().filter(|_| !carries.get()))
}

/// Refuses another number of caches than this.
fn check_count(caches: Option<&Caches>, expected: usize) -> Result<()> {
    match caches {
        Some(caches) if caches.len() != expected => Err(Error::Caches { expected, got: caches.len() }),
        _ => Ok(()),
    }
}

/// `x * scale` in the type of `x`.
fn scaled(x: Array, scale: Option<f32>) -> Result<Array> {
    match scale {
        Some(scale) if scale != 1.0 => Ok(x.multiply(Array::from_f32(scale).as_dtype(x.dtype())?)?),
        _ => Ok(x),
    }
}

/// Both walks are the same but for the kind of reference.
macro_rules! walks {
    ($walk:ident, $leaf:ident $(, $mut:tt)?) => {
        fn $walk<'a>(&'a $($mut)? self, path: &str, visit: &mut dyn FnMut(&str, $leaf<'a>)) {
            let at = |name: &str| join(&join(path, &self.prefix), name);
            let Names { root, table, stack, norm, head } = self.names;
            let [root, table, stack, norm, head] = [root, table, stack, norm, head].map(at);
            self.embed_tokens.$walk(&table, visit);
            self.frame.entry.$walk(&root, visit);
            self.layers.$walk(&stack, visit);
            self.frame.exit.$walk(&root, visit);
            self.frame.norm.$walk(&norm, visit);
            self.head.$walk(&head, visit);
            self.mtp.$walk(&join(path, &self.prefix), visit);
        }
    };
}

impl Module for Decoder {
    walks!(walk, Leaf);
    walks!(walk_mut, LeafMut, mut);
}
