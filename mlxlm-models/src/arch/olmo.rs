//! OLMo: layer norms without parameters, and projections that are one (arXiv:2402.00838).
//!
//! Ports `mlx_lm/models/olmo.py` @ 0.32.2. Unusual: the gate is the second half of its projection, and the parts of a block
//! lie side by side. Differences: more than one token can be read at a time, heads may be tied, and `clip_qkv` acts, as in the
//! authors' code; of what else that code can do, all that changes the mathematics is refused.

use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::decoder::<Config>(&["olmo"])
    .aliases(&[
        ("d_model", "hidden_size"),
        ("max_sequence_length", "max_position_embeddings"),
        ("n_heads", "num_attention_heads"),
        ("n_kv_heads", "num_key_value_heads"),
        ("n_layers", "num_hidden_layers"),
        ("weight_tying", "tie_word_embeddings"),
    ])
    .defaults(|| json!({"mlp_ratio": 4}));

const BLOCK: BlockNames =
    BlockNames { pre_mixer: "att_norm", mixer: "", pre_mlp: "ff_norm", mlp: "", ..BlockNames::PRE };

/// What OLMo adds to [`Common`].
#[derive(Debug, Deserialize)]
struct Config {
    embedding_size: Option<i32>,
    mlp_hidden_size: Option<i32>,
    mlp_ratio: i32,
    clip_qkv: Option<f32>,
    rope: Option<bool>,
    #[serde(default)]
    alibi: bool,
    #[serde(default)]
    attention_layer_norm: bool,
    #[serde(default)]
    include_bias: bool,
    #[serde(default)]
    layer_norm_with_affine: bool,
    #[serde(default)]
    multi_query_attention: bool,
    #[serde(default)]
    scale_logits: bool,
}

impl Config {
    /// The width of gate and values together.
    fn width(&self, c: &Common) -> Result<i32> {
        let width = self.mlp_hidden_size.unwrap_or(self.mlp_ratio.saturating_mul(c.hidden_size));
        within("mlp_hidden_size", width, MAX_WIDTH)?;
        match width % 2 {
            0 => Ok(width),
            _ => Err(Error::config(format!("`mlp_hidden_size` is {width}, expected an even number"))),
        }
    }
}

impl DecoderConfig for Config {
    fn names(&self) -> Names {
        Names {
            root: "model.transformer",
            table: "model.transformer.wte",
            stack: "model.transformer.blocks",
            norm: "model.transformer.norm",
            head: "model.transformer.ff_out",
        }
    }

    fn check(&self, c: &Common) -> Result<()> {
        within("embedding_size", self.vocabulary(c), MAX_WIDTH)?;
        self.clip_qkv.map_or(Ok(()), |clip| positive("clip_qkv", clip))?;
        self.width(c)?;
        unsupported(c, "rope", self.rope == Some(false))?;
        unsupported(c, "alibi", self.alibi)?;
        unsupported(c, "attention_layer_norm", self.attention_layer_norm)?;
        unsupported(c, "include_bias", self.include_bias)?;
        unsupported(c, "layer_norm_with_affine", self.layer_norm_with_affine)?;
        unsupported(c, "multi_query_attention", self.multi_query_attention)?;
        unsupported(c, "scale_logits", self.scale_logits)
    }

    fn vocabulary(&self, c: &Common) -> i32 {
        self.embedding_size.unwrap_or(c.vocab_size)
    }

    fn frame(&self, _w: &Weights, c: &Common) -> Result<Frame> {
        Ok(Frame::new(c, Norm::layer_plain(EPS)))
    }

    fn block(&self, w: &Weights, c: &Common, _layer: usize) -> Result<Box<dyn Block>> {
        let heads = Heads::grouped(c, Rope::from(c)?)?
            .names(AttentionNames { qkv: "att_proj", out: "attn_out", ..AttentionNames::LLAMA })
            .fused()
            .clip(self.clip_qkv);
        let mlp = OlmoMlp::load(w, c.hidden_size, self.width(c)?)?;
        let norms = [Norm::layer_plain(EPS), Norm::layer_plain(EPS)];
        Ok(Box::new(PreNormBlock::new(BLOCK, norms, Attention::load(w, heads)?, mlp)))
    }
}

/// What is added to the variance in norms.
const EPS: f32 = 1e-5;

/// A gated MLP whose ways in are one projection, gate last.
#[derive(Debug)]
struct OlmoMlp {
    ff_proj: Linear,
    ff_out: Linear,
}

module!(OlmoMlp { ff_proj, ff_out });

impl OlmoMlp {
    fn load(w: &Weights, dims: i32, width: i32) -> Result<Self> {
        Ok(Self {
            ff_proj: Linear::load(&w.at("ff_proj").columns_of(&[width / 2; 2]), width, dims)?,
            ff_out: Linear::load(&w.at("ff_out").rows(), dims, width / 2)?,
        })
    }
}

impl FeedForward for OlmoMlp {
    fn forward(&self, x: &Array) -> Result<Array> {
        let halves = ops::split_equal(self.ff_proj.forward(x)?, 2, -1)?;
        Ok(self.ff_out.forward(&fast::swiglu(&halves[1], &halves[0])?)?)
    }
}
