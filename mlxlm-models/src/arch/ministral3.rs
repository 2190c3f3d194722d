//! Ministral 3: Llama with queries that grow with their position (arXiv:2601.08584).
//!
//! Ports `mlx_lm/models/ministral3.py` @ 0.32.2. Unusual: the growth stands among the entries of the rotation. Differences:
//! all layers slide if there is a `sliding_window` and no `layer_types`, and without `llama_4_scaling_beta` nothing grows, as
//! in transformers.

use crate::prelude::*;

pub(super) const ARCH: Architecture =
    Architecture::decoder::<Config>(&["ministral3"]).defaults(|| json!({"tie_word_embeddings": true}));

/// Ministral 3 adds nothing to [`Common`].
#[derive(Debug, Deserialize)]
struct Config {}

/// How much queries grow, and from which length on.
fn growth(c: &Common) -> Result<Option<(f32, f32)>> {
    let (Some(beta), original) = c.rope().query_growth() else { return Ok(None) };
    let name = "rope_parameters.original_max_position_embeddings";
    let original = original.ok_or_else(|| missing(name))? as f32;
    positive(name, original)?;
    Ok(Some((beta as f32, original)))
}

impl DecoderConfig for Config {
    fn check(&self, c: &Common) -> Result<()> {
        growth(c).map(drop)
    }

    fn block(&self, w: &Weights, c: &Common, layer: usize) -> Result<Box<dyn Block>> {
        let heads = Heads::grouped(c, Rope::from(c)?)?.window(c.window(layer, true)?);
        let attention = GrowingAttention { attention: Attention::load(&w.at("self_attn"), heads)?, growth: growth(c)? };
        Ok(Box::new(PreNormBlock::with(w, c, attention, Mlp::of(&w.at("mlp"), c)?)?))
    }
}

/// Attention whose queries grow with their position.
#[derive(Debug)]
struct GrowingAttention {
    attention: Attention,
    growth: Option<(f32, f32)>,
}

module!(GrowingAttention { attention as "" });

impl Mixer for GrowingAttention {
    fn forward(&self, x: &Array, step: &mut Step) -> Result<Array> {
        let [mut q, k, v] = self.attention.prepare(x, step)?;
        if let Some((beta, original)) = self.growth {
            q = grown(&q, &step.offset(), beta, original)?;
        }
        self.attention.leave(&merge_heads(&step.attend(&q, &k, &v, &self.attention.how())?)?)
    }

    fn caches(&self) -> Vec<CacheKind> {
        self.attention.caches()
    }
}
