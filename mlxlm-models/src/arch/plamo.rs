//! PLaMo: attention and MLP side by side behind one norm (Preferred Networks, 2023).
//!
//! Ports `mlx_lm/models/plamo.py` @ 0.32.2. Unusual: the query heads of a key head do not lie together; head `i` of `K` key
//! heads has the queries `i`, `i + K`, `i + 2K` and so on. Differences: a tied head is possible, and `rope_scaling` acts.

use crate::prelude::*;

pub(super) const ARCH: Architecture =
    Architecture::decoder::<Config>(&["plamo"]).defaults(|| json!({"n_shared_head": 8}));

const BLOCK: BlockNames = BlockNames { pre_mixer: "norm", ..BlockNames::PRE };

/// What PLaMo adds to [`Common`].
#[derive(Debug, Deserialize)]
struct Config {
    /// Query heads of each key head.
    n_shared_head: i32,
}

impl Config {
    fn heads(&self, c: &Common) -> Result<HeadCounts> {
        let (HeadCounts { count, dim, .. }, shared) = (c.heads()?, self.n_shared_head);
        within("n_shared_head", shared, count)?;
        match count % shared {
            0 => HeadCounts::checked(count, count / shared, dim),
            _ => Err(Error::config(format!(
                "`num_attention_heads` {count} is not a multiple of `n_shared_head` {shared}"
            ))),
        }
    }
}

impl DecoderConfig for Config {
    fn names(&self) -> Names {
        Names { stack: "model.layers.layers", ..LLAMA }
    }

    fn block(&self, w: &Weights, c: &Common, _layer: usize) -> Result<Box<dyn Block>> {
        let counts = self.heads(c)?;
        let heads = Heads::of(c.hidden_size, counts, Rope::from(c)?).whole();
        let attention = StridedAttention {
            attention: Attention::load(&w.at(BLOCK.mixer), heads)?,
            groups: counts.kv_count,
            shared: self.n_shared_head,
        };
        let norm = Norm::rms(&w.at(BLOCK.pre_mixer), c.hidden_size, c.rms_norm_eps()?)?;
        Ok(Box::new(ParallelBlock::new(BLOCK, norm, None, attention, Mlp::of(&w.at(BLOCK.mlp), c)?)))
    }
}

/// Attention over groups of query heads that do not lie together.
#[derive(Debug)]
struct StridedAttention {
    attention: Attention,
    groups: i32,
    shared: i32,
}

module!(StridedAttention { attention as "" });

/// The heads of `x` as `rows` times `columns`, turned around.
fn turned(x: &Array, rows: i32, columns: i32) -> Result<Array> {
    let (batch, len, dim) = (x.dim(0), x.dim(2), x.dim(3));
    let turned = x.reshape(&[batch, rows, columns, len, dim])?.transpose_axes(&[0, 2, 1, 3, 4])?;
    Ok(turned.reshape(x.shape())?)
}

impl Mixer for StridedAttention {
    fn forward(&self, x: &Array, step: &mut Step) -> Result<Array> {
        let [q, k, v] = self.attention.prepare(x, step)?;
        let q = turned(&q, self.shared, self.groups)?;
        let mixed = step.attend(&q, &k, &v, &self.attention.how())?;
        self.attention.leave(&merge_heads(&turned(&mixed, self.groups, self.shared)?)?)
    }

    fn caches(&self) -> Vec<CacheKind> {
        self.attention.caches()
    }
}
