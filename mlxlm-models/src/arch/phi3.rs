//! Phi-3: Llama with fused projections and a stretched rotation of a part of each head (arXiv:2404.14219).
//!
//! Ports `mlx_lm/models/phi3.py` @ 0.32.2. Unusual: the long factors are always taken, and the original length stands beside
//! `rope_scaling` and not in it.

use crate::prelude::*;

pub(super) const ARCH: Architecture =
    Architecture::decoder::<Config>(&["phi3"]).defaults(|| json!({"max_position_embeddings": 131_072}));

/// What Phi-3 adds to [`Common`].
#[derive(Debug, Deserialize)]
struct Config {
    #[serde(default = "one")]
    partial_rotary_factor: f32,
    #[serde(default = "original")]
    original_max_position_embeddings: f32,
}

fn one() -> f32 {
    1.0
}

fn original() -> f32 {
    4096.0
}

impl Config {
    fn rope(&self, c: &Common) -> Result<Rope> {
        let dims = (c.head_dim() as f32 * self.partial_rotary_factor) as i32;
        let plain = Rope::plain(dims, c.rope_theta(), c.rope_traditional);
        let Some(scaling) = &c.rope_scaling else { return Ok(plain) };
        match scaling["type"].as_str() {
            Some("longrope" | "su") => {
                plain.longrope(scaling, self.original_max_position_embeddings.into(), c.max_position_embeddings)
            }
            _ => plain.scaled(scaling, c.max_position_embeddings),
        }
    }
}

impl DecoderConfig for Config {
    type Block = PreNormBlock;

    fn check(&self, _c: &Common) -> Result<()> {
        positive("original_max_position_embeddings", self.original_max_position_embeddings)?;
        match self.partial_rotary_factor > 0.0 && self.partial_rotary_factor <= 1.0 {
            true => Ok(()),
            false => Err(Error::config("`partial_rotary_factor` must be above 0 and at most 1")),
        }
    }

    fn block(&self, w: &Weights, c: &Common, _layer: usize) -> Result<PreNormBlock> {
        let mlp = Mlp::fused(&w.at("mlp"), c.hidden_size, c.intermediate_size, Activation::Silu)?;
        PreNormBlock::with(w, c, Heads::grouped(c, self.rope(c)?).fused(), mlp)
    }
}
