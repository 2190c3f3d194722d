//! Gemma 3, the text model: five sliding layers to one full, each kind with its own rotary base (arXiv:2503.19786).
//!
//! Ports `mlx_lm/models/gemma3_text.py` @ 0.32.2. Unusual:
//! - Norm weights are stored minus one, those of queries and keys too.
//! - Embeddings are scaled by √D rounded to bf16, whatever the type of the weights.
//! - `rope_scaling` stretches the full layers only.
//! - In f16 the sums of the residual stream are bounded by what f16 can hold.
//! - The checkpoint and not the configuration says whether the head is tied.
//!
//! Differences: `rope_parameters` and `layer_types` of newer configurations are read, which the reference passes over.

use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::decoder::<Config>(&["gemma3_text"])
    .aliases(&[("_sliding_window_pattern", "sliding_window_pattern")])
    .defaults(|| {
        json!({
            "hidden_size": 1152, "head_dim": 256, "num_hidden_layers": 26, "intermediate_size": 6912,
            "num_attention_heads": 4, "num_key_value_heads": 1, "rope_theta": 1e6, "vocab_size": 262_144,
            "max_position_embeddings": 32768, "rope_local_base_freq": 1e4, "query_pre_attn_scalar": 256.0,
            "sliding_window": 512, "sliding_window_pattern": 6,
        })
    });

/// What Gemma 3 adds to [`Common`].
#[derive(Debug, Deserialize)]
struct Config {
    rope_local_base_freq: f32,
    query_pre_attn_scalar: f32,
    sliding_window_pattern: i32,
    attn_logit_softcapping: Option<f32>,
    final_logit_softcapping: Option<f32>,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    use_bidirectional_attention: bool,
}

impl Config {
    /// The last layer of each group attends to everything.
    fn slides(&self, c: &Common, layer: usize) -> Result<bool> {
        c.slides(layer, (layer as i32 + 1) % self.sliding_window_pattern != 0)
    }
}

/// A block with four norms, whose sums are bounded in f16.
#[derive(Debug)]
struct Gemma3Block {
    parts: SandwichBlock,
}

module!(Gemma3Block { parts as "" });

impl DecoderConfig for Config {
    fn check(&self, c: &Common) -> Result<()> {
        positive("rope_local_base_freq", self.rope_local_base_freq)?;
        positive("query_pre_attn_scalar", self.query_pre_attn_scalar)?;
        within("sliding_window_pattern", self.sliding_window_pattern, i32::MAX)?;
        unsupported(c, "attention_bias", self.attention_bias)?;
        unsupported(c, "attn_logit_softcapping", self.attn_logit_softcapping.is_some())?;
        unsupported(c, "final_logit_softcapping", self.final_logit_softcapping.is_some())?;
        unsupported(c, "use_bidirectional_attention", self.use_bidirectional_attention)
    }

    fn frame(&self, w: &Weights, c: &Common) -> Result<Frame> {
        let norm = Norm::rms_plus_one(&w.at("model.norm"), c.hidden_size, c.rms_norm_eps()?)?;
        let root = half::bf16::from_f32((c.hidden_size as f32).sqrt()).to_f32();
        Ok(Frame { head: Head::AsStored, embedding_scale: Some(root), ..Frame::new(c, norm) })
    }

    fn block(&self, w: &Weights, c: &Common, layer: usize) -> Result<Box<dyn Block>> {
        let slides = self.slides(c, layer)?;
        let rope = Rope::of_kind(c, c.heads()?.dim, slides, self.rope_local_base_freq)?;
        let heads = Heads::grouped(c, rope)?
            .qk_norm(Norm::rms_plus_one, c.rms_norm_eps()?)
            .scale(self.query_pre_attn_scalar.powf(-0.5))
            .window(c.window(layer, slides)?);
        let norm = |w: &Weights| Ok(Norm::rms_plus_one(w, c.hidden_size, c.rms_norm_eps()?)?);
        let act = c.activation(Activation::GeluApprox)?;
        let mlp = Mlp::gated(&w.at("mlp"), c.hidden_size, c.intermediate_size()?, act)?;
        let attention = Attention::load(&w.at("self_attn"), heads)?;
        let parts = SandwichBlock::load(w, BlockNames::SANDWICH, norm, attention, mlp)?;
        Ok(Box::new(Gemma3Block { parts }))
    }
}

impl Block for Gemma3Block {
    fn forward(&self, x: &Array, step: &mut Step) -> Result<Array> {
        let h = add_bounded(x, &self.parts.mix(x, step)?)?;
        let normed = self.parts.pre_mlp().forward(&h)?;
        add_bounded(&h, &self.parts.think(&normed)?)
    }

    fn caches(&self) -> Vec<CacheKind> {
        self.parts.caches()
    }
}

/// `x + r`; a sum that f16 cannot hold becomes the largest number that it can.
///
/// # Shapes
/// - `x`, `r`: `[B, L, D]`, and the same comes back
fn add_bounded(x: &Array, r: &Array) -> Result<Array> {
    const MOST: f32 = 65504.0;
    if x.dtype() != Dtype::Float16 {
        return Ok(x.add(r)?);
    }
    let sum = x.as_dtype(Dtype::Float32)?.add(r.as_dtype(Dtype::Float32)?)?;
    Ok(ops::clip(&sum, (-MOST, MOST))?.as_dtype(Dtype::Float16)?)
}
