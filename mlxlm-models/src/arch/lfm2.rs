//! LFM2: gated short convolutions with attention in a few layers (arXiv:2511.23404).
//!
//! Ports `mlx_lm/models/lfm2.py` @ 0.32.2. Unusual: a convolution remembers the inputs of the last tokens and nothing else, and the
//! width of the MLPs may be computed from another one. Differences: a checkpoint with a head of its own is read, and the widths
//! that files of transformers leave out are those of transformers.

use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::decoder::<Config>(&["lfm2"])
    .aliases(&[("norm_eps", "rms_norm_eps"), ("block_ff_dim", "intermediate_size")])
    .defaults(|| {
        json!({
            "rope_theta": 1e6, "rms_norm_eps": 1e-5, "conv_bias": false, "conv_L_cache": 3, "block_multiple_of": 256,
            "block_ffn_dim_multiplier": 1.0, "block_auto_adjust_ff_dim": true,
        })
    });

pub(super) const NAMES: Names = Names { norm: "model.embedding_norm", ..LLAMA };
const MLP: MlpNames = MlpNames { gate: "w1", up: "w3", down: "w2" };
const ATTENTION: AttentionNames =
    AttentionNames { out: "out_proj", q_norm: "q_layernorm", k_norm: "k_layernorm", ..AttentionNames::LLAMA };

/// What LFM2 adds to [`Common`].
#[derive(Debug, Deserialize)]
struct Config {
    block_dim: Option<i32>,
    block_multiple_of: i32,
    block_ffn_dim_multiplier: f64,
    block_auto_adjust_ff_dim: bool,
}

/// The mixers of LFM2, with and without experts.
#[derive(Debug, Deserialize)]
pub(super) struct Mixers {
    conv_bias: bool,
    #[serde(rename = "conv_L_cache")]
    conv_length: i32,
    full_attn_idxs: Option<Vec<usize>>,
}

impl Mixers {
    /// The mixer of a layer, and its name.
    pub(super) fn load(w: &Weights, c: &Common, layer: usize) -> Result<(&'static str, Box<dyn Mixer>)> {
        let own: Self = c.part()?;
        let attends = match (&own.full_attn_idxs, c.layer_type(layer)?) {
            (Some(layers), _) => layers.contains(&layer),
            (None, Some("full_attention")) => true,
            (None, Some("conv")) => false,
            (None, Some(other)) => {
                let expected = "expected `full_attention` or `conv`";
                return Err(Error::config(format!("`layer_types[{layer}]` is `{other}`; {expected}")));
            }
            (None, None) => return Err(missing("full_attn_idxs` or `layer_types")),
        };
        if attends {
            let heads = Heads::grouped(c, Rope::from(c)?)?.qk_norm(Norm::rms, c.rms_norm_eps()?).names(ATTENTION);
            return Ok(("self_attn", Box::new(Attention::load(&w.at("self_attn"), heads)?)));
        }
        let (at, dims, biased) = (w.at("conv"), c.hidden_size, own.conv_bias);
        within("conv_L_cache", own.conv_length, MAX_WIDTH)?;
        let conv = GatedConv {
            in_proj: Linear::load_biased(&at.at("in_proj"), product(3, dims)?, dims, biased)?,
            conv: ShortConv::load(&at.at("conv"), dims, own.conv_length, biased, Activation::Identity)?,
            out_proj: Linear::load_biased(&at.at("out_proj"), dims, dims, biased)?,
        };
        Ok(("conv", Box::new(conv)))
    }
}

/// The names of the parts of a block with this mixer.
pub(super) fn block_names(mixer: &'static str) -> BlockNames {
    BlockNames { pre_mixer: "operator_norm", mixer, pre_mlp: "ffn_norm", mlp: "feed_forward", ..BlockNames::PRE }
}

/// A norm under its own name, and the table as the head unless the checkpoint has one.
pub(super) fn frame(w: &Weights, c: &Common) -> Result<Frame> {
    let norm = Norm::rms(&w.at(NAMES.norm), c.hidden_size, c.rms_norm_eps()?)?;
    Ok(Frame { head: Head::AsStored, ..Frame::new(c, norm) })
}

/// A convolution between two gates: `out(c · conv(b · x))`, where `b`, `c` and `x` are projected from what comes in.
#[derive(Debug)]
struct GatedConv {
    in_proj: Linear,
    conv: ShortConv,
    out_proj: Linear,
}

module!(GatedConv { in_proj, conv, out_proj });

impl Mixer for GatedConv {
    fn forward(&self, x: &Array, step: &mut Step) -> Result<Array> {
        let parts = ops::split_equal(self.in_proj.forward(x)?, 3, -1)?;
        let y = self.conv.forward(&parts[0].multiply(&parts[2])?, step, 0)?;
        Ok(self.out_proj.forward(&parts[1].multiply(y)?)?)
    }

    fn caches(&self) -> Vec<CacheKind> {
        vec![CacheKind::State { slots: 1 }]
    }
}

impl Config {
    /// Two thirds of the width that is named, times a factor, rounded up; or the width itself.
    fn width(&self, c: &Common) -> Result<i32> {
        let width = c.intermediate_size()?;
        if !self.block_auto_adjust_ff_dim {
            return Ok(width);
        }
        let (two_thirds, multiple) = ((2.0 * f64::from(width) / 3.0).floor(), f64::from(self.block_multiple_of));
        // A float beyond the range ends at its edge.
        let width = (multiple * ((self.block_ffn_dim_multiplier * two_thirds).floor() / multiple).ceil()) as i32;
        within("intermediate_size", width, MAX_WIDTH).map(|()| width)
    }
}

impl DecoderConfig for Config {
    fn names(&self) -> Names {
        NAMES
    }

    fn check(&self, c: &Common) -> Result<()> {
        within("block_multiple_of", self.block_multiple_of, MAX_WIDTH)?;
        positive("block_ffn_dim_multiplier", self.block_ffn_dim_multiplier as f32)?;
        match self.block_dim.filter(|dim| *dim != c.hidden_size) {
            None => Ok(()),
            Some(dim) => Err(Error::config(format!("`block_dim` is {dim}, and `hidden_size` {}", c.hidden_size))),
        }
    }

    fn rules(&self, _c: &Common) -> Result<Vec<Rule>> {
        Ok(vec![Rule::depthwise("**.conv.conv.weight")])
    }

    fn frame(&self, w: &Weights, c: &Common) -> Result<Frame> {
        frame(w, c)
    }

    fn block(&self, w: &Weights, c: &Common, layer: usize) -> Result<Box<dyn Block>> {
        let (name, mixer) = Mixers::load(w, c, layer)?;
        let names = block_names(name);
        let act = c.activation(Activation::Silu)?;
        let mlp = Mlp::named(&w.at(names.mlp), MLP, c.hidden_size, self.width(c)?, act, false)?;
        Ok(Box::new(PreNormBlock::named(w, c, names, mixer, mlp)?))
    }
}
