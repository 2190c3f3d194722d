//! Lille 130M: a small Llama whose halves have their norms in them (Nikita Kutsokon, 2025).
//!
//! Ports `mlx_lm/models/lille-130m.py` @ 0.32.2. Unusual: the width of MLPs follows from that of the model, neighbouring pairs
//! are rotated, and the head is always tied. Differences: none.

use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::decoder::<Config>(&["lille-130m"]).aliases(&[
    ("block_size", "max_position_embeddings"),
    ("layer_norm_eps", "rms_norm_eps"),
    ("n_embd", "hidden_size"),
    ("n_head", "num_attention_heads"),
    ("n_kv_heads", "num_key_value_heads"),
    ("n_layer", "num_hidden_layers"),
]);

const BLOCK: BlockNames = BlockNames {
    pre_mixer: "attention.norm",
    mixer: "attention",
    pre_mlp: "feed_forward.norm",
    mlp: "feed_forward",
    ..BlockNames::PRE
};

/// Lille adds nothing to [`Common`].
#[derive(Debug, Deserialize)]
struct Config {}

/// Eight thirds of the model's width, in whole steps of 256.
fn width(c: &Common) -> Result<i32> {
    const STEP: f64 = 256.0;
    let width = STEP * ((8.0 * f64::from(c.hidden_size) / 3.0).trunc() / STEP).round_ties_even();
    match width as i32 {
        width @ 1.. => Ok(width),
        _ => Err(Error::config(format!("`n_embd` is {}, too small for an MLP", c.hidden_size))),
    }
}

impl DecoderConfig for Config {
    fn names(&self) -> Names {
        Names {
            root: "transformer",
            table: "transformer.tok_embeddings",
            stack: "transformer.layers",
            norm: "transformer.norm",
            head: "lm_head",
        }
    }

    fn rules(&self, _c: &Common) -> Result<Vec<Rule>> {
        Ok(vec![Rule::Drop("**.rotary_emb")])
    }

    fn frame(&self, w: &Weights, c: &Common) -> Result<Frame> {
        let norm = Norm::rms(&w.at(self.names().norm), c.hidden_size, c.rms_norm_eps()?)?;
        Ok(Frame { head: Head::Tied, ..Frame::new(c, norm) })
    }

    fn block(&self, w: &Weights, c: &Common, _layer: usize) -> Result<Box<dyn Block>> {
        let heads = Heads::grouped(c, Rope::over(&c.rope().clone().traditional(), c.heads()?.dim)?)?
            .names(AttentionNames { out: "out_proj", ..AttentionNames::LLAMA })
            .fused();
        let mlp = Mlp::gated(&w.at(BLOCK.mlp), c.hidden_size, width(c)?, c.activation(Activation::Silu)?)?;
        Ok(Box::new(PreNormBlock::named(w, c, BLOCK, Attention::load(&w.at(BLOCK.mixer), heads)?, mlp)?))
    }
}
