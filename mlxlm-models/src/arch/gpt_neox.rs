//! GPT-NeoX and Pythia: attention and MLP side by side, each behind its own layer norm (arXiv:2204.06745).
//!
//! Ports `mlx_lm/models/gpt_neox.py` @ 0.32.2. Unusual: the projection for queries, keys and values holds all three of a head
//! together; halves may follow each other instead; a part of each head is rotated. Differences: `intermediate_size`,
//! `hidden_act`, `attention_bias` and `rope_scaling` act, as in transformers.

use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::decoder::<Config>(&["gpt_neox"])
    .aliases(&[("rotary_emb_base", "rope_theta"), ("rotary_pct", "partial_rotary_factor")])
    .defaults(|| json!({"attention_bias": true, "layer_norm_eps": 1e-5, "use_parallel_residual": true}));

/// What GPT-NeoX adds to [`Common`].
#[derive(Debug, Deserialize)]
struct Config {
    attention_bias: bool,
    layer_norm_eps: f32,
    use_parallel_residual: bool,
}

impl DecoderConfig for Config {
    fn names(&self) -> Names {
        Names {
            root: "model",
            table: "model.embed_in",
            stack: "model.h",
            norm: "model.final_layer_norm",
            head: "model.embed_out",
        }
    }

    fn check(&self, c: &Common) -> Result<()> {
        positive("layer_norm_eps", self.layer_norm_eps)?;
        unsupported(c, "tie_word_embeddings", c.tie_word_embeddings)
    }

    fn rules(&self, _c: &Common) -> Result<Vec<Rule>> {
        Ok(vec![
            Rule::Drop("**.attention.bias"),
            Rule::Drop("**.attention.masked_bias"),
            Rule::Rename("gpt_neox.layers", "model.h"),
            Rule::Rename("gpt_neox", "model"),
            Rule::Rename("embed_out", "model.embed_out"),
        ])
    }

    fn frame(&self, w: &Weights, c: &Common) -> Result<Frame> {
        Ok(Frame::new(c, Norm::layer(&w.at(self.names().norm), c.hidden_size, self.layer_norm_eps, true)?))
    }

    fn block(&self, w: &Weights, c: &Common, _layer: usize) -> Result<Box<dyn Block>> {
        let counts = c.heads()?;
        let counts = HeadCounts::checked(counts.count, counts.count, counts.dim)?;
        let parts = AttentionNames { qkv: "query_key_value", out: "dense", ..AttentionNames::LLAMA };
        let heads = Heads::of(c.hidden_size, counts, Rope::partial(c)?).fused_by_group().names(parts);
        let names = BlockNames { mixer: "attention", ..BlockNames::PRE };
        let attention = Attention::load(&w.at(names.mixer), heads.bias(Bias::all(self.attention_bias)))?;
        let parts = MlpNames { gate: "", up: "dense_h_to_4h", down: "dense_4h_to_h" };
        let (width, act) = (c.intermediate_size_or(4 * c.hidden_size)?, c.activation(Activation::GeluApprox)?);
        let mlp = Mlp::plain(&w.at(names.mlp), parts, c.hidden_size, width, act, true)?;
        if !self.use_parallel_residual {
            return Ok(Box::new(PreNormBlock::layer_normed(w, c, names, self.layer_norm_eps, attention, mlp)?));
        }
        let norm = |name: &str| Norm::layer(&w.at(name), c.hidden_size, self.layer_norm_eps, true);
        Ok(Box::new(ParallelBlock::new(names, norm(names.pre_mixer)?, Some(norm(names.pre_mlp)?), attention, mlp)))
    }
}
