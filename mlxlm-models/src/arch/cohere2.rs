//! Command R7B: attention and MLP side by side behind one norm, three sliding layers to one full (arXiv:2504.00698).
//!
//! Ports `mlx_lm/models/cohere2.py` @ 0.32.2. Unusual: only the sliding layers know positions, the norm is a layer norm, and
//! the logits are scaled.

use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::decoder::<Config>(&["cohere2"]).defaults(|| {
    json!({
        "hidden_size": 4096, "head_dim": 128, "num_hidden_layers": 32, "intermediate_size": 14336,
        "num_attention_heads": 32, "num_key_value_heads": 8, "rope_theta": 5e4, "vocab_size": 256_000,
    })
});

/// What Cohere 2 adds to [`Common`].
#[derive(Debug, Deserialize)]
#[serde(default)]
struct Config {
    layer_norm_eps: f32,
    layer_norm_bias: bool,
    logit_scale: f32,
    attention_bias: bool,
    sliding_window: i32,
    sliding_window_pattern: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            layer_norm_eps: 1e-5,
            layer_norm_bias: false,
            logit_scale: 0.0625,
            attention_bias: false,
            sliding_window: 4096,
            sliding_window_pattern: 4,
        }
    }
}

impl Config {
    /// The last layer of each group attends to everything, and knows no positions.
    fn slides(&self, layer: usize) -> bool {
        !(layer + 1).is_multiple_of(self.sliding_window_pattern)
    }

    fn norm(&self, w: &Weights, c: &Common) -> Result<Norm> {
        Ok(Norm::layer(w, c.hidden_size, self.layer_norm_eps, self.layer_norm_bias)?)
    }
}

/// A block whose halves read the same input.
#[derive(Debug)]
struct Cohere2Block {
    input_layernorm: Norm,
    self_attn: Attention,
    mlp: Mlp,
}

module!(Cohere2Block { input_layernorm, self_attn, mlp });

impl DecoderConfig for Config {
    type Block = Cohere2Block;

    fn check(&self, _c: &Common) -> Result<()> {
        within("sliding_window", self.sliding_window, i32::MAX)?;
        positive("logit_scale", self.logit_scale)
    }

    fn block(&self, w: &Weights, c: &Common, layer: usize) -> Result<Cohere2Block> {
        let (rope, window) = match self.slides(layer) {
            true => (Rope::plain(c.head_dim(), c.rope_theta(), true), Some(self.sliding_window)),
            false => (Rope::none(), None),
        };
        let heads = Heads::grouped(c, rope).bias(self.attention_bias, self.attention_bias).window(window);
        Ok(Cohere2Block {
            input_layernorm: self.norm(&w.at("input_layernorm"), c)?,
            self_attn: Attention::load(&w.at("self_attn"), heads)?,
            mlp: Mlp::gated(&w.at("mlp"), c.hidden_size, c.intermediate_size, Activation::Silu, false)?,
        })
    }

    fn skeleton(&self, w: &Weights, c: &Common) -> Result<Skeleton> {
        let norm = self.norm(&w.at("norm"), c)?;
        Ok(Skeleton { head: Head::Tied, logit_scale: Some(self.logit_scale), ..Skeleton::new(c, norm) })
    }
}

impl Block for Cohere2Block {
    fn forward(&self, x: &Array, step: &mut Step) -> Result<Array> {
        let h = self.input_layernorm.forward(x)?;
        Ok(self.self_attn.forward(&h, step)?.add(self.mlp.forward(&h)?)?.add(x)?)
    }

    fn cache(&self) -> CacheKind {
        self.self_attn.cache()
    }
}
