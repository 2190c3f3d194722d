//! Gemma 3, the text model: five sliding layers to one full, each kind with its own rotary base (arXiv:2503.19786).
//!
//! Ports `mlx_lm/models/gemma3_text.py` @ 0.32.2. Unusual:
//! - Norm weights are stored minus one, those of queries and keys too.
//! - Embeddings are scaled by √D rounded to bf16, whatever the type of the weights.
//! - `rope_scaling` stretches the full layers only.
//! - In f16 the sums of the residual stream are bounded by what f16 can hold.
//! - `rope_parameters` and `layer_types` of newer configurations are read, which the reference passes over.
//! - The checkpoint and not the configuration says whether the head is tied.

use mlxlm_core::{Dtype, ops};

use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::decoder::<Config>(&["gemma3_text"]).defaults(|| {
    json!({
        "hidden_size": 1152, "head_dim": 256, "num_hidden_layers": 26, "intermediate_size": 6912,
        "num_attention_heads": 4, "num_key_value_heads": 1, "rope_theta": 1e6, "vocab_size": 262_144,
        "max_position_embeddings": 32768,
    })
});

/// What Gemma 3 adds to [`Common`].
#[derive(Debug, Deserialize)]
#[serde(default)]
struct Config {
    rope_local_base_freq: f32,
    query_pre_attn_scalar: f32,
    sliding_window: i32,
    sliding_window_pattern: Option<i32>,
    /// As newer configurations call it.
    #[serde(rename = "_sliding_window_pattern")]
    newer_pattern: Option<i32>,
    layer_types: Vec<String>,
    attention_bias: bool,
    attn_logit_softcapping: Option<f32>,
    final_logit_softcapping: Option<f32>,
    use_bidirectional_attention: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            rope_local_base_freq: 1e4,
            query_pre_attn_scalar: 256.0,
            sliding_window: 512,
            sliding_window_pattern: None,
            newer_pattern: None,
            layer_types: Vec::new(),
            attention_bias: false,
            attn_logit_softcapping: None,
            final_logit_softcapping: None,
            use_bidirectional_attention: false,
        }
    }
}

impl Config {
    fn pattern(&self) -> i32 {
        self.sliding_window_pattern.or(self.newer_pattern).unwrap_or(6)
    }

    /// The last layer of each group attends to everything.
    fn slides(&self, layer: usize) -> bool {
        (layer as i32 + 1) % self.pattern() != 0
    }

    fn layer_type(&self, layer: usize) -> &'static str {
        if self.slides(layer) { "sliding_attention" } else { "full_attention" }
    }

    /// Newer configurations list the layers as well; a list that says something else is of another model.
    fn check_layer_types(&self) -> Result<()> {
        for (layer, listed) in self.layer_types.iter().enumerate() {
            let (own, pattern) = (self.layer_type(layer), self.pattern());
            if listed != own {
                return Err(Error::config(format!(
                    "`layer_types[{layer}]` is `{listed}`, expected `{own}` of a `sliding_window_pattern` of {pattern}"
                )));
            }
        }
        Ok(())
    }

    /// Newer configurations have `rope_parameters` for each type of layer.
    fn rope(&self, c: &Common, layer: usize) -> Result<Rope> {
        let (base, scaling) = match self.slides(layer) {
            true => (self.rope_local_base_freq, None),
            false => (c.rope_theta(), c.rope_scaling.as_ref()),
        };
        let Some(parameters) = &c.rope_parameters else {
            let plain = Rope::plain(c.head_dim(), base, false);
            return scaling.map_or(Ok(plain.clone()), |how| plain.scaled(how, c.max_position_embeddings));
        };
        let own = &parameters[self.layer_type(layer)];
        let name = format!("rope_parameters.{}.rope_theta", self.layer_type(layer));
        let base = own["rope_theta"].as_f64().ok_or_else(|| Error::config(format!("`{name}` is not a number")))? as f32;
        positive(&name, base)?;
        Rope::plain(c.head_dim(), base, false).scaled(own, c.max_position_embeddings)
    }

    fn heads(&self, c: &Common, layer: usize) -> Result<Heads> {
        let heads = Heads::grouped(c, self.rope(c, layer)?).qk_norm(Norm::rms_plus_one, c.rms_norm_eps);
        let window = self.slides(layer).then_some(self.sliding_window);
        Ok(heads.scale(self.query_pre_attn_scalar.powf(-0.5)).window(window))
    }
}

/// A block with four norms.
#[derive(Debug)]
struct Gemma3Block {
    input_layernorm: Norm,
    self_attn: Attention,
    post_attention_layernorm: Norm,
    pre_feedforward_layernorm: Norm,
    mlp: Mlp,
    post_feedforward_layernorm: Norm,
}

module!(Gemma3Block {
    input_layernorm,
    self_attn,
    post_attention_layernorm,
    pre_feedforward_layernorm,
    mlp,
    post_feedforward_layernorm,
});

impl DecoderConfig for Config {
    type Block = Gemma3Block;

    fn check(&self, c: &Common) -> Result<()> {
        positive("rope_local_base_freq", self.rope_local_base_freq)?;
        positive("query_pre_attn_scalar", self.query_pre_attn_scalar)?;
        within("sliding_window", self.sliding_window, i32::MAX)?;
        within("sliding_window_pattern", self.pattern(), i32::MAX)?;
        self.check_layer_types()?;
        unsupported(c, "attention_bias", self.attention_bias)?;
        unsupported(c, "attn_logit_softcapping", self.attn_logit_softcapping.is_some())?;
        unsupported(c, "final_logit_softcapping", self.final_logit_softcapping.is_some())?;
        unsupported(c, "use_bidirectional_attention", self.use_bidirectional_attention)
    }

    fn block(&self, w: &Weights, c: &Common, layer: usize) -> Result<Gemma3Block> {
        let norm = |name: &str| Norm::rms_plus_one(&w.at(name), c.hidden_size, c.rms_norm_eps);
        Ok(Gemma3Block {
            input_layernorm: norm("input_layernorm")?,
            self_attn: Attention::load(&w.at("self_attn"), self.heads(c, layer)?)?,
            post_attention_layernorm: norm("post_attention_layernorm")?,
            pre_feedforward_layernorm: norm("pre_feedforward_layernorm")?,
            mlp: Mlp::gated(&w.at("mlp"), c.hidden_size, c.intermediate_size, Activation::GeluApprox, false)?,
            post_feedforward_layernorm: norm("post_feedforward_layernorm")?,
        })
    }

    fn skeleton(&self, w: &Weights, c: &Common) -> Result<Skeleton> {
        let norm = Norm::rms_plus_one(&w.at("norm"), c.hidden_size, c.rms_norm_eps)?;
        let root = Array::from_f32((c.hidden_size as f32).sqrt()).as_dtype(Dtype::Bfloat16)?;
        let embedding_scale = Some(root.try_item_cast::<f32>().map_err(mlxlm_core::Error::from)?);
        Ok(Skeleton { head: Head::AsStored, embedding_scale, ..Skeleton::new(c, norm) })
    }
}

impl Block for Gemma3Block {
    fn forward(&self, x: &Array, step: &mut Step) -> Result<Array> {
        let r = self.self_attn.forward(&self.input_layernorm.forward(x)?, step)?;
        let h = add_bounded(x, &self.post_attention_layernorm.forward(&r)?)?;
        let r = self.mlp.forward(&self.pre_feedforward_layernorm.forward(&h)?)?;
        add_bounded(&h, &self.post_feedforward_layernorm.forward(&r)?)
    }

    fn cache(&self) -> CacheKind {
        self.self_attn.cache()
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
