//! RecurrentGemma: two layers with a gated linear recurrence to one of attention with a window (Griffin, arXiv:2402.19427).
//!
//! Ports `mlx_lm/models/recurrent_gemma.py` @ 0.32.2. Unusual: norm weights are stored minus one, and the norms of blocks have an
//! `eps` of 1e-5 whatever the configuration says; the checkpoint says whether the head is tied. Differences, after
//! transformers: `rope_theta`, `partial_rotary_factor`, `attention_bias`, `lru_width` and `conv1d_width` act, and sums of the
//! recurrence are in f32.

use crate::blocks::rg_lru::Recurrence;
use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::decoder::<Config>(&["recurrent_gemma"])
    .aliases(&[("_block_types", "block_types"), ("attention_window_size", "sliding_window")])
    .defaults(|| {
        json!({
            "attention_bias": false, "conv1d_width": 4, "embeddings_scale_by_sqrt_dim": true,
            "partial_rotary_factor": 0.5,
        })
    });

/// What RecurrentGemma adds to [`Common`].
#[derive(Debug, Deserialize)]
struct Config {
    attention_bias: bool,
    block_types: Vec<Kind>,
    conv1d_width: i32,
    embeddings_scale_by_sqrt_dim: bool,
    logits_soft_cap: Option<f32>,
    lru_width: Option<i32>,
}

/// What mixes the tokens of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Recurrent,
    Attention,
}

const NAMES: BlockNames = BlockNames {
    pre_mixer: "temporal_pre_norm",
    mixer: "temporal_block",
    pre_mlp: "channel_pre_norm",
    mlp: "mlp_block",
    ..BlockNames::PRE
};

impl Config {
    fn width(&self, c: &Common) -> i32 {
        self.lru_width.unwrap_or(c.hidden_size)
    }

    fn attention(&self, w: &Weights, c: &Common) -> Result<Attention> {
        let window = c.sliding_window()?.ok_or_else(|| missing("attention_window_size"))?;
        let bias = Bias::of(self.attention_bias, true);
        Attention::load(w, Heads::grouped(c, Rope::partial(c)?)?.bias(bias).window(Some(window)))
    }
}

impl DecoderConfig for Config {
    fn names(&self) -> Names {
        Names { norm: "model.final_norm", ..LLAMA }
    }

    fn check(&self, c: &Common) -> Result<()> {
        within("conv1d_width", self.conv1d_width, 1024)?;
        within("lru_width", self.width(c), MAX_WIDTH)?;
        let (width, heads) = (self.width(c), c.num_attention_heads()?);
        if width % heads != 0 {
            return Err(Error::config(format!(
                "`lru_width` {width} is not a multiple of `num_attention_heads` {heads}"
            )));
        }
        match self.block_types.is_empty() {
            true => Err(Error::config("`block_types` is empty")),
            false => Ok(()),
        }
    }

    fn rules(&self, _c: &Common) -> Result<Vec<Rule>> {
        Ok(vec![Rule::SwapAxes { tensor: "**.conv_1d.weight", axes: (1, 2), unless: (2, 1) }])
    }

    fn frame(&self, w: &Weights, c: &Common) -> Result<Frame> {
        let norm = Norm::rms_plus_one(&w.at(self.names().norm), c.hidden_size, c.rms_norm_eps()?)?;
        Ok(Frame {
            head: Head::AsStored,
            embedding_scale: self.embeddings_scale_by_sqrt_dim.then(|| (c.hidden_size as f32).sqrt()),
            logit_softcap: self.logits_soft_cap.filter(|cap| *cap != 0.0),
            ..Frame::new(c, norm)
        })
    }

    fn block(&self, w: &Weights, c: &Common, layer: usize) -> Result<Box<dyn Block>> {
        let norm = |name: &str| Norm::rms_plus_one(&w.at(name), c.hidden_size, 1e-5);
        let norms = [norm(NAMES.pre_mixer)?, norm(NAMES.pre_mlp)?];
        let (width, act) = (c.intermediate_size()? / 2, c.activation(Activation::GeluApprox)?);
        within("intermediate_size", width, MAX_WIDTH)?;
        let mlp = Mlp::gated_biased(&w.at(NAMES.mlp), c.hidden_size, width, act, true)?;
        let at = w.at(NAMES.mixer);
        Ok(Box::new(match self.block_types[layer % self.block_types.len()] {
            Kind::Recurrent => {
                PreNormBlock::new(NAMES, norms, Recurrence::load(&at, c, (self.width(c), self.conv1d_width))?, mlp)
            }
            Kind::Attention => PreNormBlock::new(NAMES, norms, self.attention(&at, c)?, mlp),
        }))
    }
}
