//! Spark 2.5: three sliding layers to one full, each kind with its own rotation, and a gate for each head (iFLYTEK, 2026).
//!
//! Ports `mlx_lm/models/spark2_5.py` @ 0.32.2. Unusual: MLPs have the exact GELU, the gate is computed in f32 and its map
//! never packed, and the head is tied unless the configuration says otherwise. Differences: other activations and stretched
//! rotations act.

use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::decoder::<Config>(&["spark2_5"]).defaults(|| {
    json!({
        "max_position_embeddings": 8192, "tie_word_embeddings": true, "gate_attn_act_mode": "sigmoid",
        "headwise_attn_output_gate": true,
    })
});

/// What Spark adds to [`Common`].
#[derive(Debug, Deserialize)]
struct Config {
    gate_attn_act_mode: String,
    headwise_attn_output_gate: bool,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
}

impl DecoderConfig for Config {
    fn names(&self) -> Names {
        Names { table: "model.embedding", ..LLAMA }
    }

    fn check(&self, c: &Common) -> Result<()> {
        unsupported(c, "gate_attn_act_mode", self.gate_attn_act_mode != "sigmoid")?;
        unsupported(c, "headwise_attn_output_gate", !self.headwise_attn_output_gate)
    }

    fn rules(&self, _c: &Common) -> Result<Vec<Rule>> {
        Ok(vec![Rule::Rename("model.embed_tokens", "model.embedding")])
    }

    fn block(&self, w: &Weights, c: &Common, layer: usize) -> Result<Box<dyn Block>> {
        let (counts, slides) = (c.heads()?, c.slides(layer, (layer + 1) % 4 != 0)?);
        let rope = c.rope().of_type(if slides { "sliding_attention" } else { "full_attention" });
        let heads = Heads::grouped(c, Rope::partial_of(&rope, counts.dim)?)?
            .names(AttentionNames { qkv: "q_k_v_proj", out: "out_proj", ..AttentionNames::LLAMA })
            .fused()
            .bias(Bias::all(self.attention_bias))
            .window(c.window(layer, slides)?);
        let at = w.at("self_attn");
        let gate = at.at("g_proj").columns().keep(Precision::Dense);
        let attention = SparkAttention {
            attention: Attention::load(&at, heads)?,
            g_proj: Linear::load_biased(&gate, counts.count, c.hidden_size, self.attention_bias)?,
        };
        let (width, act) = (c.intermediate_size()?, c.activation(Activation::Gelu)?);
        let mlp = Mlp::gated_biased(&w.at("mlp"), c.hidden_size, width, act, self.mlp_bias)?;
        Ok(Box::new(PreNormBlock::with(w, c, attention, mlp)?))
    }
}

/// Attention with a gate for each head.
#[derive(Debug)]
struct SparkAttention {
    attention: Attention,
    g_proj: Linear,
}

module!(SparkAttention { attention as "", g_proj });

impl Mixer for SparkAttention {
    fn forward(&self, x: &Array, step: &mut Step) -> Result<Array> {
        let gate = ops::sigmoid(self.g_proj.forward(x)?.as_dtype(Dtype::Float32)?)?;
        let mixed = self.attention.mix(x, step)?;
        let (batch, len, heads) = (x.dim(0), x.dim(1), gate.dim(-1));
        let by_head = mixed.reshape(&[batch, len, heads, -1])?;
        let gated = by_head.multiply(gate.as_dtype(mixed.dtype())?.expand_dims(-1)?)?;
        self.attention.leave(&gated.reshape(mixed.shape())?)
    }

    fn caches(&self) -> Vec<CacheKind> {
        self.attention.caches()
    }
}
