//! PLaMo 3: sliding layers with every eighth full, four norms in each block (Preferred Networks, 2025).
//!
//! Ports `mlx_lm/models/plamo3.py` @ 0.32.2. Unusual:
//! - Norm weights are stored less 1, 1/5, 1 and 1/5^1.5, in the order of the block.
//! - Sliding layers have a rotary base of their own.
//! - Several tokens at once see a window that is wider by one than that of single ones, which is as long as the cache. A
//!   text is generated as the reference generates it, and reading it token by token is not the same as at once.
//!
//! Differences: `rope_scaling` acts on the full layers.

use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::decoder::<Config>(&["plamo3"]).defaults(|| {
    json!({
        "hidden_size": 4096, "num_hidden_layers": 32, "tie_word_embeddings": true, "num_attention_heads": 32,
        "num_key_value_heads": 4, "head_dim": 128, "max_position_embeddings": 2048, "window_size": 2048,
        "sliding_window_pattern": 8, "rope_theta": 1e6, "rope_local_theta": 1e4, "intermediate_size": 13312,
        "vocab_size": 32000, "linear_type": "normal",
    })
});

const BLOCK: BlockNames = BlockNames {
    pre_mixer: "pre_mixer_norm",
    mixer: "mixer",
    post_mixer: "post_mixer_norm",
    pre_mlp: "pre_mlp_norm",
    mlp: "mlp",
    post_mlp: "post_mlp_norm",
};

/// What PLaMo 3 adds to [`Common`].
#[derive(Debug, Deserialize)]
struct Config {
    /// What stands where `sliding_window` is missing.
    window_size: i32,
    sliding_window_pattern: i32,
    rope_local_theta: f32,
    linear_type: String,
}

impl Config {
    /// The tokens that a sliding layer keeps; the last layer of each group is full.
    fn window(&self, c: &Common, layer: usize) -> Result<Option<i32>> {
        let window = c.sliding_window()?.unwrap_or(self.window_size);
        Ok(((layer as i32 + 1) % self.sliding_window_pattern != 0).then_some(window))
    }
}

impl DecoderConfig for Config {
    fn names(&self) -> Names {
        Names { stack: "model.layers.layers", ..LLAMA }
    }

    fn check(&self, c: &Common) -> Result<()> {
        within("window_size", self.window_size, MAX_WIDTH)?;
        within("sliding_window", c.sliding_window()?.unwrap_or(1), MAX_WIDTH)?;
        within("sliding_window_pattern", self.sliding_window_pattern, i32::MAX)?;
        positive("rope_local_theta", self.rope_local_theta)?;
        unsupported(c, "linear_type", self.linear_type != "normal")
    }

    fn frame(&self, w: &Weights, c: &Common) -> Result<Frame> {
        Ok(Frame::new(c, Norm::rms_plus_one(&w.at(LLAMA.norm), c.hidden_size, c.rms_norm_eps()?)?))
    }

    fn block(&self, w: &Weights, c: &Common, layer: usize) -> Result<Box<dyn Block>> {
        let (eps, window) = (c.rms_norm_eps()?, self.window(c, layer)?);
        let rope = match window {
            None => Rope::from(c)?,
            Some(_) => Rope::plain(c.heads()?.dim, self.rope_local_theta, false),
        };
        let heads = Heads::grouped(c, rope)?.fused().qk_norm(Norm::rms_plus_one, eps).window(window);
        let attention = WideningAttention { attention: Attention::load(&w.at(BLOCK.mixer), heads)?, window };
        let (width, act) = (c.intermediate_size()?, c.activation(Activation::Silu)?);
        let mlp = Mlp::fused(&w.at(BLOCK.mlp), MlpNames::FUSED, c.hidden_size, width, act)?;
        let norm = |name: &str, offset| Norm::rms_plus(&w.at(name), c.hidden_size, eps, offset);
        let norms = [
            norm(BLOCK.pre_mixer, 1.0)?,
            norm(BLOCK.post_mixer, 1.0 / 5.0)?,
            norm(BLOCK.pre_mlp, 1.0)?,
            norm(BLOCK.post_mlp, 5_f32.powf(-1.5))?,
        ];
        Ok(Box::new(SandwichBlock::new(BLOCK, norms, attention, mlp)))
    }
}

/// Attention through a window that is wider by one where several tokens are read at once.
#[derive(Debug)]
struct WideningAttention {
    attention: Attention,
    window: Option<i32>,
}

module!(WideningAttention { attention as "" });

impl Mixer for WideningAttention {
    fn forward(&self, x: &Array, step: &mut Step) -> Result<Array> {
        let ([q, k, v], how) = (self.attention.prepare(x, step)?, self.attention.how());
        let mut reach = step.remember(&k, &v, &how)?;
        if let (Some(window), true) = (self.window, x.dim(1) > 1) {
            reach = reach.windowed(window + 1);
        }
        self.attention.leave(&merge_heads(&step.look(&reach, &q, &how)?)?)
    }

    fn caches(&self) -> Vec<CacheKind> {
        self.attention.caches()
    }
}
