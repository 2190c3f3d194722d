//! LongCat-Flash with a table for each length of n-grams beside the embeddings (arXiv:2601.21204).
//!
//! Ports `mlx_lm/models/longcat_flash_ngram.py` @ 0.32.2. Unusual: a token's embedding is a mean of its own and of those of the
//! n-grams that it ends, found by their hash in tables of different lengths; a cache holds the latest tokens. Differences:
//! padding in a batch counts as nothing before a sequence.

use mlxlm_core::ops::indexing::TryIndexOp;

use super::longcat_flash::{self, ALIASES};
use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::decoder::<Config>(&["longcat_flash_ngram"])
    .aliases(ALIASES)
    .defaults(|| json!({"ngram_vocab_size_ratio": 78, "emb_neighbor_num": 4, "emb_split_num": 4}));

/// The entries of n-grams.
#[derive(Debug, Clone, Deserialize)]
struct Config {
    ngram_vocab_size_ratio: i32,
    emb_neighbor_num: i32,
    emb_split_num: i32,
}

/// What else there is, is LongCat-Flash's.
fn rest(c: &Common) -> Result<longcat_flash::Config> {
    c.part()
}

impl Config {
    fn tables(&self) -> i32 {
        self.emb_split_num * (self.emb_neighbor_num - 1)
    }

    /// The rows of table `i`.
    fn rows(&self, c: &Common, i: i32) -> i32 {
        self.ngram_vocab_size_ratio * c.vocab_size + 2 * i + 1
    }
}

impl DecoderConfig for Config {
    fn names(&self) -> Names {
        Names { table: "model.ngram_embeddings.word_embeddings", ..LLAMA }
    }

    fn check(&self, c: &Common) -> Result<()> {
        within("ngram_vocab_size_ratio", self.ngram_vocab_size_ratio, (i32::MAX >> 1) / c.vocab_size)?;
        within("emb_split_num", self.emb_split_num, c.hidden_size)?;
        within("emb_neighbor_num - 1", self.emb_neighbor_num.saturating_sub(1), c.hidden_size / self.emb_split_num)?;
        rest(c)?.check(c)
    }

    fn rules(&self, c: &Common) -> Result<Vec<Rule>> {
        let mut rules = rest(c)?.rules(c)?;
        rules.push(Rule::Rename("model.embed_tokens", "model.ngram_embeddings.word_embeddings"));
        Ok(rules)
    }

    fn frame(&self, w: &Weights, c: &Common) -> Result<Frame> {
        let norm = Norm::rms(&w.at(LLAMA.norm), c.hidden_size, c.rms_norm_eps()?)?;
        let grams = NgramEmbeddings::load(&w.at(LLAMA.root).at("ngram_embeddings"), self, c)?;
        Ok(Frame { entry: Some(Box::new(Entry { ngram_embeddings: grams })), ..Frame::new(c, norm) })
    }

    fn block(&self, w: &Weights, c: &Common, layer: usize) -> Result<Box<dyn Block>> {
        rest(c)?.block(w, c, layer)
    }
}

/// What stands before the first block.
#[derive(Debug)]
struct Entry {
    ngram_embeddings: NgramEmbeddings,
}

module!(Entry { ngram_embeddings });

/// Tables of n-grams and their ways into states.
#[derive(Debug)]
struct NgramEmbeddings {
    embedders: Vec<Embedding>,
    post_projs: Vec<Linear>,
    config: Config,
    vocab_size: i32,
}

module!(NgramEmbeddings { embedders, post_projs });

impl NgramEmbeddings {
    fn load(w: &Weights, own: &Config, c: &Common) -> Result<Self> {
        let width = c.hidden_size / own.tables();
        let (tables, ways) = (w.at("embedders"), w.at("post_projs"));
        let each = || 0..own.tables();
        let embedders = each().map(|i| Ok(Embedding::load(&tables.at(i), own.rows(c, i), width)?));
        let post_projs = each().map(|i| Ok(Linear::load(&ways.at(i), c.hidden_size, width)?));
        Ok(Self {
            embedders: embedders.collect::<Result<_>>()?,
            post_projs: post_projs.collect::<Result<_>>()?,
            config: own.clone(),
            vocab_size: c.vocab_size,
        })
    }

    /// The tokens of the step with the `n - 1` before them, zeros where there are none: `[B, n - 1 + L]`.
    fn context(&self, step: &mut Step) -> Result<Array> {
        let before = self.config.emb_neighbor_num - 1;
        let tokens = step.tokens().as_dtype(Dtype::Int64)?;
        let past = match step.recall(0)? {
            Some(past) => past.as_dtype(Dtype::Int64)?,
            None => ops::zeros_dtype(&[tokens.dim(0), 0], Dtype::Int64)?,
        };
        // A file may hold fewer tokens, at the start of a sequence.
        let gap = ops::zeros_dtype(&[tokens.dim(0), (before - past.dim(1)).max(0)], Dtype::Int64)?;
        let context = ops::concatenate(&[gap, past, tokens.clone()], 1)?;
        let context = context.try_index((.., -(before + tokens.dim(1))..))?;
        let earlier = context.try_index((.., ..before))?;
        step.keep(0, context.try_index((.., -before..))?, move |beginning| {
            let read = ops::concatenate(&[beginning.row(&earlier)?, beginning.of(&tokens)?], 1)?;
            Ok(read.try_index((.., -before..))?)
        })?;
        Ok(context)
    }

    /// The rows of table `i`, of n-grams of `length` tokens, that end at each token of the step.
    fn places(&self, context: &Array, len: i32, i: usize, length: i32) -> Result<Array> {
        let back = |n: i32| {
            let end = context.dim(1) - n;
            context.try_index((.., end - len..end))
        };
        let modulus = i64::from(self.config.ngram_vocab_size_ratio) * i64::from(self.vocab_size) + 2 * i as i64 + 1;
        let (mut power, mut hash) = (1_i64, back(0)?);
        for n in 1..length {
            power = power * i64::from(self.vocab_size) % modulus;
            hash = hash.add(back(n)?.multiply(Array::from_slice(&[power], &[]))?)?;
        }
        Ok(hash.remainder(Array::from_slice(&[modulus], &[]))?.as_dtype(Dtype::Uint32)?)
    }
}

impl Block for Entry {
    fn forward(&self, x: &Array, step: &mut Step) -> Result<Array> {
        let grams = &self.ngram_embeddings;
        let (context, len) = (grams.context(step)?, x.dim(1));
        let mut sum = x.clone();
        for (i, (table, way)) in grams.embedders.iter().zip(&grams.post_projs).enumerate() {
            let length = 2 + i as i32 / grams.config.emb_split_num;
            let places = grams.places(&context, len, i, length)?;
            sum = sum.add(way.forward(&table.forward(&places)?)?)?;
        }
        let count = Array::from_f32((1 + grams.config.tables()) as f32).as_dtype(sum.dtype())?;
        Ok(sum.divide(count)?)
    }

    fn caches(&self) -> Vec<CacheKind> {
        vec![CacheKind::State { slots: 1 }]
    }
}
