//! AFM 7B: the last layers have no keys and values of their own, and read those of the last layer that has (arXiv:2507.13575).
//!
//! Ports `mlx_lm/models/afm7.py` @ 0.32.2. Unusual: keys and values are rounded to 8 bits with a learned scale, neighbouring
//! pairs are rotated before heads are normed, and the head is tied. Differences: in a padded batch the last layers know the
//! position of each row, and fine-tunes lay one addition over the joint projection and not three.

use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::decoder::<Config>(&["afm7"])
    .aliases(&[
        ("hidden_dim", "hidden_size"),
        ("num_heads", "num_attention_heads"),
        ("num_kv_heads", "num_key_value_heads"),
        ("num_layers", "num_hidden_layers"),
    ])
    .defaults(|| json!({"hidden_dim_scale_factor": 3.25, "rope_theta": 5e4, "rms_norm_eps": 1e-5}));

/// What is added to the mean square of heads.
const HEAD_EPS: f32 = 1e-5;

/// What AFM adds to [`Common`].
#[derive(Debug, Deserialize)]
struct Config {
    num_kv_reuse_layers: i32,
    hidden_dim_scale_factor: f64,
}

impl Config {
    fn mlp(&self, w: &Weights, c: &Common) -> Result<Mlp> {
        let width = (f64::from(c.hidden_size) * self.hidden_dim_scale_factor) as i32;
        within("hidden_dim_scale_factor", width, MAX_WIDTH)?;
        Mlp::gated(&w.at("mlp"), c.hidden_size, width, c.activation(Activation::Silu)?)
    }

    fn rope(c: &Common) -> Result<Rope> {
        Rope::over(&c.rope().clone().traditional(), c.heads()?.dim)
    }
}

impl DecoderConfig for Config {
    fn names(&self) -> Names {
        Names { table: "model.embedding", norm: "model.output_norm", ..LLAMA }
    }

    fn check(&self, c: &Common) -> Result<()> {
        match (0..c.num_hidden_layers).contains(&self.num_kv_reuse_layers) {
            true => Ok(()),
            false => Err(Error::config(format!(
                "`num_kv_reuse_layers` is {}, expected 0 to less than `num_layers` {}",
                self.num_kv_reuse_layers, c.num_hidden_layers
            ))),
        }
    }

    fn layers(&self, c: &Common) -> usize {
        (c.num_hidden_layers - self.num_kv_reuse_layers) as usize
    }

    fn frame(&self, w: &Weights, c: &Common) -> Result<Frame> {
        let names = self.names();
        let at = w.at(names.root).at("kv_reuse_layers");
        let load = |layer| {
            let w = at.at(layer);
            PreNormBlock::with(&w, c, ReuseAttention::load(&w.at("self_attn"), c)?, self.mlp(&w, c)?)
        };
        let reuse = ReuseLayers { kv_reuse_layers: (0..self.num_kv_reuse_layers).map(load).collect::<Result<_>>()? };
        let norm = Norm::rms(&w.at(names.norm), c.hidden_size, c.rms_norm_eps()?)?;
        Ok(Frame { head: Head::Tied, exit: Some(Box::new(reuse)), ..Frame::new(c, norm) })
    }

    fn block(&self, w: &Weights, c: &Common, layer: usize) -> Result<Box<dyn Block>> {
        let heads = Heads::grouped(c, Self::rope(c)?)?
            .names(AttentionNames { out: "out_proj", ..AttentionNames::LLAMA })
            .fused()
            .rotated_qk_norm(Norm::rms, HEAD_EPS);
        let at = w.at("self_attn");
        let scale = |name: &str| Parameter::load(&at.at(name), &[], Init::Ones);
        let attention = RoundingAttention {
            quant_key_scale: scale("quant_key_scale")?,
            quant_value_scale: scale("quant_value_scale")?,
            attention: Attention::load(&at, heads)?,
            is_last: layer + 1 == self.layers(c),
        };
        Ok(Box::new(PreNormBlock::with(w, c, attention, self.mlp(w, c)?)?))
    }
}

/// What the last layer with keys and values hands on.
#[derive(Debug, Clone, Default)]
struct Remembered(Option<(Reach, Offset)>);

/// Attention with keys and values in 8 bits.
#[derive(Debug)]
struct RoundingAttention {
    attention: Attention,
    quant_key_scale: Parameter,
    quant_value_scale: Parameter,
    is_last: bool,
}

module!(RoundingAttention { attention as "", quant_key_scale, quant_value_scale });

/// The nearest of 256 multiples of `scale`, in the type of `x`.
fn rounded(x: &Array, scale: &Array) -> Result<Array> {
    let codes = ops::round(&x.as_dtype(Dtype::Float32)?.divide(scale)?, None)?;
    Ok(ops::clip(&codes, (-128.0, 127.0))?.multiply(scale)?.as_dtype(x.dtype())?)
}

impl Mixer for RoundingAttention {
    fn forward(&self, x: &Array, step: &mut Step) -> Result<Array> {
        let ([q, k, v], how) = (self.attention.prepare(x, step)?, self.attention.how());
        let (k, v) = (rounded(&k, &self.quant_key_scale)?, rounded(&v, &self.quant_value_scale)?);
        let offset = step.offset();
        let reach = step.remember(&k, &v, &how)?;
        let mixed = step.look(&reach, &q, &how)?;
        if self.is_last {
            step.carry::<Remembered>().0 = Some((reach, offset));
        }
        self.attention.leave(&merge_heads(&mixed)?)
    }

    fn caches(&self) -> Vec<CacheKind> {
        self.attention.caches()
    }
}

/// The layers without keys and values of their own.
#[derive(Debug)]
struct ReuseLayers {
    kv_reuse_layers: Vec<PreNormBlock>,
}

module!(ReuseLayers { kv_reuse_layers });

impl Block for ReuseLayers {
    fn forward(&self, x: &Array, step: &mut Step) -> Result<Array> {
        self.kv_reuse_layers.iter().try_fold(x.clone(), |x, layer| layer.forward(&x, step))
    }

    fn caches(&self) -> Vec<CacheKind> {
        Vec::new()
    }
}

/// Attention to the keys and values of another layer.
#[derive(Debug)]
struct ReuseAttention {
    q_proj: Linear,
    q_norm: Norm,
    out_proj: Linear,
    heads: HeadCounts,
    rope: Rope,
}

module!(ReuseAttention { q_proj, q_norm, out_proj });

impl ReuseAttention {
    fn load(w: &Weights, c: &Common) -> Result<Self> {
        let heads = c.heads()?;
        let width = heads.count * heads.dim;
        Ok(Self {
            q_proj: Linear::load(&w.at("q_proj").columns(), width, c.hidden_size)?,
            q_norm: Norm::rms(&w.at("q_norm"), heads.dim, HEAD_EPS)?,
            out_proj: Linear::load(&w.at("out_proj").rows(), c.hidden_size, width)?,
            heads,
            rope: Config::rope(c)?,
        })
    }
}

impl Mixer for ReuseAttention {
    fn forward(&self, x: &Array, step: &mut Step) -> Result<Array> {
        let Some((reach, offset)) = step.carry::<Remembered>().0.clone() else {
            return Err(Error::Caches { expected: 1, got: 0 });
        };
        let q = split_heads(&self.q_proj.forward(x)?, self.heads.count)?;
        let q = self.q_norm.forward(&self.rope.forward(&q, &offset)?)?;
        let mixed = step.look(&reach, &q, &Attend::scaled((self.heads.dim as f32).powf(-0.5)))?;
        Ok(self.out_proj.forward(&merge_heads(&mixed)?)?)
    }

    fn caches(&self) -> Vec<CacheKind> {
        Vec::new()
    }
}
