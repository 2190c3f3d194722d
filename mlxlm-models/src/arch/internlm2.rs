//! InternLM2: Llama with one projection for queries, keys and values, sorted by key heads (arXiv:2403.17297).
//!
//! Ports `mlx_lm/models/internlm2.py` @ 0.32.2. Unusual: names of its own. Differences: every kind of `rope_scaling` acts.

use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::decoder::<Config>(&["internlm2"])
    .defaults(|| json!({"bias": true, "max_position_embeddings": 32768}));

const BLOCK: BlockNames = BlockNames {
    pre_mixer: "attention_norm",
    mixer: "attention",
    pre_mlp: "ffn_norm",
    mlp: "feed_forward",
    ..BlockNames::PRE
};

/// What InternLM2 adds to [`Common`].
#[derive(Debug, Deserialize)]
struct Config {
    bias: bool,
}

impl DecoderConfig for Config {
    fn names(&self) -> Names {
        Names { table: "model.tok_embeddings", head: "output", ..LLAMA }
    }

    fn rules(&self, _c: &Common) -> Result<Vec<Rule>> {
        Ok(vec![Rule::Drop("**.attention.rope.inv_freq")])
    }

    fn block(&self, w: &Weights, c: &Common, _layer: usize) -> Result<Box<dyn Block>> {
        let heads = Heads::grouped(c, Rope::from(c)?)?
            .names(AttentionNames { qkv: "wqkv", out: "wo", ..AttentionNames::LLAMA })
            .fused_by_group()
            .bias(Bias::all(self.bias));
        let names = MlpNames { gate: "w1", up: "w3", down: "w2" };
        let (width, act) = (c.intermediate_size()?, c.activation(Activation::Silu)?);
        let mlp = Mlp::named(&w.at(BLOCK.mlp), names, c.hidden_size, width, act, false)?;
        Ok(Box::new(PreNormBlock::named(w, c, BLOCK, Attention::load(&w.at(BLOCK.mixer), heads)?, mlp)?))
    }
}
