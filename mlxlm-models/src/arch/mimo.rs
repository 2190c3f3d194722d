//! MiMo: Qwen2 with heads that predict further tokens (arXiv:2505.07608).
//!
//! Ports `mlx_lm/models/mimo.py` @ 0.32.2. Differences: `use_sliding_window` acts, as in Qwen2 of transformers, and the heads are
//! there for those who ask for them.

use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::decoder::<Config>(&["mimo"])
    .defaults(|| json!({"attention_bias": true, "max_position_embeddings": 32768}));

/// What MiMo adds to [`Common`].
#[derive(Debug, Deserialize)]
struct Config {
    attention_bias: bool,
}

impl DecoderConfig for Config {
    fn check(&self, c: &Common) -> Result<()> {
        always_on(c, "attention_bias", self.attention_bias)
    }

    fn block(&self, w: &Weights, c: &Common, layer: usize) -> Result<Box<dyn Block>> {
        let heads = Heads::grouped(c, Rope::from(c)?)?.bias(Bias::Qkv).window(c.window_above(layer)?);
        Ok(Box::new(PreNormBlock::load(w, c, heads)?))
    }

    fn mtp(&self) -> Option<MtpNames> {
        Some(MtpNames {
            place: MtpPlace::List("model.mtp_layers"),
            token_norm: "token_layernorm",
            state_norm: "hidden_layernorm",
            joint: "input_proj",
            block: "",
            norm: "final_layernorm",
            copies: &[],
            state_first: true,
            before_norm: true,
        })
    }
}
