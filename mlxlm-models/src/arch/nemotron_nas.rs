//! Llama-Nemotron: Llama of which a search took parts out, or put linear maps in their place (arXiv:2411.19146,
//! arXiv:2505.00949).
//!
//! Ports `mlx_lm/models/nemotron-nas.py` @ 0.32.2. Unusual: each block has its own number of key heads and its own width, and
//! a linear map in place of attention has a cache that stays empty. Differences: `head_dim` acts, and windows and sinks of
//! single blocks are refused, which the reference passes over.

use serde_json::Value;

use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::decoder::<Config>(&["nemotron-nas"]).defaults(|| {
    json!({
        "hidden_size": 8192, "num_hidden_layers": 80, "num_attention_heads": 64, "rms_norm_eps": 1e-5,
        "vocab_size": 128_256, "rope_theta": 5e5, "max_position_embeddings": 131_072,
    })
});

/// What Llama-Nemotron adds to [`Common`].
#[derive(Debug, Deserialize)]
struct Config {
    block_configs: Vec<BlockConfig>,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
}

/// What one block is made of.
#[derive(Debug, Deserialize)]
struct BlockConfig {
    #[serde(default)]
    attention: AttentionConfig,
    #[serde(default)]
    ffn: FfnConfig,
}

/// Its first half.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct AttentionConfig {
    no_op: bool,
    replace_with_linear: bool,
    n_heads_in_group: Option<i32>,
    window_length: Option<i32>,
    num_sink_tokens: Option<i32>,
    /// How weights were thinned out, which zeros among them show.
    #[serde(rename = "sparsify")]
    _sparsify: Option<Value>,
    /// Of windows and sinks.
    #[serde(rename = "use_prefill_window_in_sink_attention")]
    _use_prefill_window_in_sink_attention: bool,
    #[serde(rename = "unshifted_sink")]
    _unshifted_sink: bool,
}

/// Its second half.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct FfnConfig {
    no_op: bool,
    replace_with_linear: bool,
    ffn_mult: Option<f64>,
    #[serde(rename = "sparsify")]
    _sparsify: Option<Value>,
}

impl FfnConfig {
    /// Two thirds of so many times the hidden size, in whole steps of 256.
    fn width(&self, layer: usize, hidden: i32) -> Result<i32> {
        const STEP: i32 = 256;
        let name = format!("block_configs[{layer}].ffn.ffn_mult");
        let times = self.ffn_mult.ok_or_else(|| missing(&name))?;
        positive(&name, times as f32)?;
        let times = (times * 1e6).round() / 1e6;
        // A float beyond the range ends at its edge, and is refused.
        let width = (2.0 * times * f64::from(hidden) / 3.0) as i32;
        within(&name, width, MAX_WIDTH)?;
        Ok((width + STEP - 1) / STEP * STEP)
    }
}

impl Config {
    fn mixer(&self, w: &Weights, c: &Common, layer: usize) -> Result<Option<Box<dyn Mixer>>> {
        let config = self.of(layer, c)?;
        let AttentionConfig { no_op, replace_with_linear, n_heads_in_group, .. } = config.attention;
        if no_op {
            return Ok(None);
        }
        if replace_with_linear {
            return Ok(Some(Box::new(LinearHalf::load(w, c.hidden_size, self.attention_bias)?)));
        }
        let name = format!("block_configs[{layer}].attention.n_heads_in_group");
        let group = n_heads_in_group.ok_or_else(|| missing(&name))?;
        let counts = c.heads()?;
        within(&name, group, counts.count)?;
        if counts.count % group != 0 {
            let count = counts.count;
            return Err(Error::config(format!("`num_attention_heads` {count} is not a multiple of `{name}` {group}")));
        }
        let counts = HeadCounts::checked(counts.count, counts.count / group, counts.dim)?;
        let heads = Heads::of(c.hidden_size, counts, Rope::from(c)?).bias(Bias::all(self.attention_bias));
        Ok(Some(Box::new(Attention::load(w, heads)?)))
    }

    fn mlp(&self, w: &Weights, c: &Common, layer: usize) -> Result<Option<Box<dyn FeedForward>>> {
        let config = &self.of(layer, c)?.ffn;
        let act = c.activation(Activation::Silu)?;
        Ok(match (config.no_op, config.replace_with_linear) {
            (true, _) => None,
            (false, true) => Some(Box::new(LinearHalf::load(w, c.hidden_size, self.mlp_bias)?)),
            (false, false) => {
                let width = config.width(layer, c.hidden_size)?;
                Some(Box::new(Mlp::gated_biased(w, c.hidden_size, width, act, self.mlp_bias)?))
            }
        })
    }

    fn of(&self, layer: usize, c: &Common) -> Result<&BlockConfig> {
        self.block_configs.get(layer).ok_or_else(|| {
            let (got, layers) = (self.block_configs.len(), c.num_hidden_layers);
            Error::config(format!("`block_configs` has {got} entries, and `num_hidden_layers` is {layers}"))
        })
    }
}

impl DecoderConfig for Config {
    fn check(&self, c: &Common) -> Result<()> {
        self.of((c.num_hidden_layers - 1) as usize, c)?;
        for block in &self.block_configs {
            let AttentionConfig { no_op, replace_with_linear, window_length, num_sink_tokens, .. } = block.attention;
            let attends = !no_op && !replace_with_linear;
            unsupported(c, "block_configs.attention.window_length", attends && window_length.is_some())?;
            unsupported(c, "block_configs.attention.num_sink_tokens", attends && num_sink_tokens.is_some())?;
        }
        Ok(())
    }

    fn block(&self, w: &Weights, c: &Common, layer: usize) -> Result<Box<dyn Block>> {
        let norm = |name: &str| Norm::rms(&w.at(name), c.hidden_size, c.rms_norm_eps()?).map_err(Error::from);
        let self_attn = self.mixer(&w.at("self_attn"), c, layer)?;
        let mlp = self.mlp(&w.at("mlp"), c, layer)?;
        Ok(Box::new(ThinnedBlock {
            input_layernorm: self_attn.is_some().then(|| norm("input_layernorm")).transpose()?,
            self_attn,
            post_attention_layernorm: mlp.is_some().then(|| norm("post_attention_layernorm")).transpose()?,
            mlp,
        }))
    }
}

/// A block that may lack either half.
#[derive(Debug)]
struct ThinnedBlock {
    input_layernorm: Option<Norm>,
    self_attn: Option<Box<dyn Mixer>>,
    post_attention_layernorm: Option<Norm>,
    mlp: Option<Box<dyn FeedForward>>,
}

module!(ThinnedBlock { input_layernorm, self_attn, post_attention_layernorm, mlp });

impl Block for ThinnedBlock {
    fn forward(&self, x: &Array, step: &mut Step) -> Result<Array> {
        let mut h = x.clone();
        if let (Some(norm), Some(mixer)) = (&self.input_layernorm, &self.self_attn) {
            h = h.add(mixer.forward(&norm.forward(&h)?, step)?)?;
        }
        if let (Some(norm), Some(mlp)) = (&self.post_attention_layernorm, &self.mlp) {
            h = h.add(mlp.forward(&norm.forward(&h)?)?)?;
        }
        Ok(h)
    }

    fn caches(&self) -> Vec<CacheKind> {
        self.self_attn.iter().flat_map(|mixer| mixer.caches()).collect()
    }
}

/// A linear map in place of a half.
#[derive(Debug)]
struct LinearHalf {
    linear: Linear,
}

module!(LinearHalf { linear });

impl LinearHalf {
    fn load(w: &Weights, hidden: i32, biased: bool) -> Result<Self> {
        Ok(Self { linear: Linear::load_biased(&w.at("linear"), hidden, hidden, biased)? })
    }
}

impl Mixer for LinearHalf {
    fn forward(&self, x: &Array, _step: &mut Step) -> Result<Array> {
        Ok(self.linear.forward(x)?)
    }

    fn caches(&self) -> Vec<CacheKind> {
        vec![CacheKind::Kv]
    }
}

impl FeedForward for LinearHalf {
    fn forward(&self, x: &Array) -> Result<Array> {
        Ok(self.linear.forward(x)?)
    }
}
