//! Muse Glimmer, the text model: three sliding layers to one full, four norms in each block, and a gate on attention (Meta,
//! 2026).
//!
//! Ports `mlx_lm/models/muse_glimmer.py` @ 0.32.2. Unusual:
//! - Norm weights of blocks are stored minus one, and the norms of what comes out have an epsilon of their own.
//! - Embeddings are normed; so are heads, and the scores of queries have a factor.
//! - Full layers know no positions.
//! - The configuration may be flat or in `text_config`.
//!
//! Differences: `rope_scaling` acts.

use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::text_of(
    &["muse_glimmer"],
    "",
    |_| Ok(&TEXT),
    || {
        vec![
            Rule::Drop("vision_tower"),
            Rule::Drop("vision_adapter"),
            Rule::Drop("vision_projection"),
            Rule::Rename("language_model.model", "model"),
            Rule::Rename("language_model.lm_head", "lm_head"),
            Rule::Rename("model.language_model", "model"),
        ]
    },
);

static TEXT: Architecture = Architecture::decoder::<Config>(&["muse_glimmer"]).defaults(|| {
    json!({
        "hidden_size": 6656, "num_hidden_layers": 52, "intermediate_size": 19968, "num_attention_heads": 32,
        "num_key_value_heads": 2, "head_dim": 128, "vocab_size": 202_048, "rms_norm_eps": 1e-5, "post_norm_eps": 1e-8,
        "sliding_window": 2048, "qk_scale_factor": 3.87, "max_position_embeddings": 131_072, "rope_theta": 5e5,
        "final_logit_softcapping": 20.0, "output_multiplier": 0.196_116_135_138_184_04,
    })
});

/// What Muse Glimmer adds to [`Common`].
#[derive(Debug, Deserialize)]
struct Config {
    post_norm_eps: f32,
    qk_scale_factor: f32,
    final_logit_softcapping: f32,
    output_multiplier: f32,
    /// Zero for layers that know no positions.
    layer_rope_theta: Option<Vec<f64>>,
}

impl Config {
    fn rope(&self, c: &Common, layer: usize, slides: bool) -> Result<Rope> {
        let knows_positions = match &self.layer_rope_theta {
            None => slides,
            Some(list) => {
                *list.get(layer).ok_or_else(|| {
                    let (got, layers) = (list.len(), c.num_hidden_layers);
                    Error::config(format!("`layer_rope_theta` has {got} entries for {layers} layers"))
                })? != 0.0
            }
        };
        if knows_positions { Rope::from(c) } else { Ok(Rope::none()) }
    }
}

impl DecoderConfig for Config {
    fn check(&self, _c: &Common) -> Result<()> {
        positive("post_norm_eps", self.post_norm_eps)?;
        positive("qk_scale_factor", self.qk_scale_factor)?;
        positive("final_logit_softcapping", self.final_logit_softcapping)?;
        positive("output_multiplier", self.output_multiplier)
    }

    fn frame(&self, w: &Weights, c: &Common) -> Result<Frame> {
        let eps = c.rms_norm_eps()?;
        Ok(Frame {
            entry: Some(Box::new(Norm::rms_plain(eps))),
            logit_scale: Some(self.output_multiplier),
            logit_softcap: Some(self.final_logit_softcapping),
            ..Frame::new(c, Norm::rms(&w.at(LLAMA.norm), c.hidden_size, eps)?)
        })
    }

    fn block(&self, w: &Weights, c: &Common, layer: usize) -> Result<Box<dyn Block>> {
        const NAMES: BlockNames = BlockNames::SANDWICH;
        let (counts, slides, eps) = (c.heads()?, c.slides(layer, (layer + 1) % 4 != 0)?, c.rms_norm_eps()?);
        let heads = Heads::grouped(c, self.rope(c, layer, slides)?)?
            .qk_norm(|_, _, eps| Ok(Norm::rms_plain(eps)), eps)
            .scale(self.qk_scale_factor * (counts.dim as f32).powf(-0.5))
            .window(c.window(layer, slides)?);
        let at = w.at(NAMES.mixer);
        let gate = at.at("gate_proj").columns();
        let attention = GatedAttention {
            attention: Attention::load(&at, heads)?,
            gate_proj: Linear::load(&gate, counts.count * counts.dim, c.hidden_size)?,
        };
        let norm = |name: &str, eps| Norm::rms_plus_one(&w.at(name), c.hidden_size, eps);
        let norms = [
            norm(NAMES.pre_mixer, eps)?,
            norm(NAMES.post_mixer, self.post_norm_eps)?,
            norm(NAMES.pre_mlp, eps)?,
            norm(NAMES.post_mlp, self.post_norm_eps)?,
        ];
        Ok(Box::new(SandwichBlock::new(NAMES, norms, attention, Mlp::of(&w.at(NAMES.mlp), c)?)))
    }
}

/// Attention with a gate for each dimension of each head.
#[derive(Debug)]
struct GatedAttention {
    attention: Attention,
    gate_proj: Linear,
}

module!(GatedAttention { attention as "", gate_proj });

impl Mixer for GatedAttention {
    fn forward(&self, x: &Array, step: &mut Step) -> Result<Array> {
        let mixed = self.attention.mix(x, step)?;
        self.attention.leave(&fast::gated(Activation::Sigmoid, &self.gate_proj.forward(x)?, &mixed)?)
    }

    fn caches(&self) -> Vec<CacheKind> {
        self.attention.caches()
    }
}
