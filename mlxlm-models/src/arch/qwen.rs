//! Qwen, the first: Llama with biases on queries, keys and values, which come out of one projection (arXiv:2309.16609).
//!
//! Ports `mlx_lm/models/qwen.py` @ 0.32.2. Unusual: `intermediate_size` is that of both halves of the MLP together, and the gate
//! is its second part.

use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::decoder::<Config>(&["qwen"])
    .aliases(&[
        ("layer_norm_epsilon", "rms_norm_eps"),
        ("rotary_emb_base", "rope_theta"),
        ("rotary_pct", "partial_rotary_factor"),
    ])
    .defaults(|| {
        json!({
            "hidden_size": 2048, "intermediate_size": 11008, "kv_channels": 128, "max_position_embeddings": 8192,
            "no_bias": true, "num_attention_heads": 16, "num_hidden_layers": 24, "vocab_size": 151_936,
        })
    });

/// What Qwen adds to [`Common`].
#[derive(Debug, Deserialize)]
struct Config {
    kv_channels: i32,
    no_bias: bool,
}

impl DecoderConfig for Config {
    fn names(&self) -> Names {
        Names {
            root: "transformer",
            table: "transformer.wte",
            stack: "transformer.h",
            norm: "transformer.ln_f",
            head: "lm_head",
        }
    }

    fn check(&self, c: &Common) -> Result<()> {
        let dim = c.heads()?.dim;
        match self.kv_channels == dim {
            true => unsupported(c, "tie_word_embeddings", c.tie_word_embeddings),
            false => Err(Error::config(format!(
                "`kv_channels` is {}, expected {dim}: `hidden_size` divided among `num_attention_heads`",
                self.kv_channels
            ))),
        }
    }

    fn frame(&self, w: &Weights, c: &Common) -> Result<Frame> {
        let norm = Norm::rms(&w.at(self.names().norm), c.hidden_size, c.rms_norm_eps()?)?;
        Ok(Frame { head: Head::Own { biased: !self.no_bias }, ..Frame::new(c, norm) })
    }

    fn block(&self, w: &Weights, c: &Common, _layer: usize) -> Result<Box<dyn Block>> {
        let names = BlockNames { pre_mixer: "ln_1", mixer: "attn", pre_mlp: "ln_2", ..BlockNames::PRE };
        let parts = AttentionNames { qkv: "c_attn", out: "c_proj", ..AttentionNames::LLAMA };
        let heads = Heads::grouped(c, Rope::partial(c)?)?.fused().bias(Bias::of(true, !self.no_bias)).names(parts);
        let parts = MlpNames { gate: "w2", up: "w1", down: "c_proj" };
        let (width, act) = (c.intermediate_size()? / 2, c.activation(Activation::Silu)?);
        within("intermediate_size", width, MAX_WIDTH)?;
        let mlp = Mlp::named(&w.at(names.mlp), parts, c.hidden_size, width, act, !self.no_bias)?;
        Ok(Box::new(PreNormBlock::named(w, c, names, Attention::load(&w.at(names.mixer), heads)?, mlp)?))
    }
}
