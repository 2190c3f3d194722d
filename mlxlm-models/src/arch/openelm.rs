//! OpenELM: layers that grow with depth, each with its own numbers of heads and its own width (arXiv:2404.14619).
//!
//! Ports `mlx_lm/models/openelm.py` @ 0.32.2. Unusual: the head is tied unless the configuration says otherwise.
//! Differences: MLPs without a gate are refused, which the reference builds with one.

use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::decoder::<Config>(&["openelm"])
    .aliases(&[
        ("activation_fn_name", "hidden_act"),
        ("max_context_length", "max_position_embeddings"),
        ("model_dim", "hidden_size"),
        ("num_transformer_layers", "num_hidden_layers"),
        ("rope_freq_constant", "rope_theta"),
        ("share_input_output_layers", "tie_word_embeddings"),
    ])
    .defaults(|| json!({"ffn_with_glu": true, "normalize_qk_projections": true, "tie_word_embeddings": true}));

const BLOCK: BlockNames =
    BlockNames { pre_mixer: "attn_norm", mixer: "attn", pre_mlp: "ffn_norm", mlp: "ffn", ..BlockNames::PRE };

/// What OpenELM adds to [`Common`].
#[derive(Debug, Deserialize)]
struct Config {
    head_dim: i32,
    ffn_dim_divisor: i32,
    num_query_heads: Vec<i32>,
    num_kv_heads: Vec<i32>,
    ffn_multipliers: Vec<f64>,
    ffn_with_glu: bool,
    normalize_qk_projections: bool,
}

/// What a layer has of a list with one entry for each.
fn entry<T: Copy>(name: &str, list: &[T], layer: usize) -> Result<T> {
    let got = list.len();
    list.get(layer)
        .copied()
        .ok_or_else(|| Error::config(format!("`{name}` has {got} entries, and none for layer {layer}")))
}

impl Config {
    fn heads(&self, layer: usize) -> Result<HeadCounts> {
        let count = entry("num_query_heads", &self.num_query_heads, layer)?;
        HeadCounts::checked(count, entry("num_kv_heads", &self.num_kv_heads, layer)?, self.head_dim)
    }

    /// The multiple of the divisor that is nearest, or the next one if that is less by more than a tenth.
    fn width(&self, c: &Common, layer: usize) -> Result<i32> {
        let times = entry("ffn_multipliers", &self.ffn_multipliers, layer)?;
        positive("ffn_multipliers", times as f32)?;
        let (wanted, divisor) = (times * f64::from(c.hidden_size), f64::from(self.ffn_dim_divisor));
        let mut width = (((wanted + divisor / 2.0).trunc() / divisor).floor() * divisor).max(divisor);
        if width < 0.9 * wanted {
            width += divisor;
        }
        // A float beyond the range ends at its edge, and is refused.
        within("ffn_multipliers", width as i32, MAX_WIDTH)?;
        Ok(width as i32)
    }
}

impl DecoderConfig for Config {
    fn names(&self) -> Names {
        Names {
            root: "transformer",
            table: "transformer.token_embeddings",
            stack: "transformer.layers",
            norm: "transformer.norm",
            head: "lm_head",
        }
    }

    fn check(&self, c: &Common) -> Result<()> {
        within("ffn_dim_divisor", self.ffn_dim_divisor, MAX_WIDTH)?;
        unsupported(c, "ffn_with_glu", !self.ffn_with_glu)
    }

    fn block(&self, w: &Weights, c: &Common, layer: usize) -> Result<Box<dyn Block>> {
        let counts = self.heads(layer)?;
        let mut heads = Heads::of(c.hidden_size, counts, Rope::over(c.rope(), counts.dim)?)
            .names(AttentionNames { out: "out_proj", ..AttentionNames::LLAMA })
            .fused();
        if self.normalize_qk_projections {
            heads = heads.qk_norm(Norm::rms, c.rms_norm_eps()?);
        }
        let names = MlpNames { up: "proj_1", down: "proj_2", ..MlpNames::FUSED };
        let (width, act) = (self.width(c, layer)?, c.activation(Activation::Silu)?);
        let mlp = Mlp::fused(&w.at(BLOCK.mlp), names, c.hidden_size, width, act)?;
        Ok(Box::new(PreNormBlock::named(w, c, BLOCK, Attention::load(&w.at(BLOCK.mixer), heads)?, mlp)?))
    }
}
