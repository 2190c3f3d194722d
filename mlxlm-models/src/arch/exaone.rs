//! EXAONE 3: Llama under the names of GPT-2 (arXiv:2408.03541).
//!
//! Ports `mlx_lm/models/exaone.py` @ 0.32.2. Unusual: the head is tied unless the configuration says otherwise.
//! Differences: none.

use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::decoder::<Config>(&["exaone"])
    .aliases(&[("num_layers", "num_hidden_layers"), ("layer_norm_epsilon", "rms_norm_eps")])
    .defaults(|| json!({"tie_word_embeddings": true}));

const BLOCK: BlockNames = BlockNames { pre_mixer: "ln_1", mixer: "attn.attention", pre_mlp: "ln_2", ..BlockNames::PRE };

/// What EXAONE adds to [`Common`].
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Config {
    attention_bias: bool,
    mlp_bias: bool,
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

    fn block(&self, w: &Weights, c: &Common, _layer: usize) -> Result<Box<dyn Block>> {
        let heads = Heads::grouped(c, Rope::from(c)?)?
            .names(AttentionNames { out: "out_proj", ..AttentionNames::LLAMA })
            .bias(Bias::all(self.attention_bias));
        let names = MlpNames { gate: "c_fc_0", up: "c_fc_1", down: "c_proj" };
        let (width, act) = (c.intermediate_size()?, c.activation(Activation::Silu)?);
        let mlp = Mlp::named(&w.at(BLOCK.mlp), names, c.hidden_size, width, act, self.mlp_bias)?;
        Ok(Box::new(PreNormBlock::named(w, c, BLOCK, Attention::load(&w.at(BLOCK.mixer), heads)?, mlp)?))
    }
}
