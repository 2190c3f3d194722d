//! Talkie: norms without parameters, learned factors of the halves of each block, and the embeddings added to every block
//! (2026).
//!
//! Ports `mlx_lm/models/talkie.py` @ 0.32.2. Unusual: heads are normed after a rotation the other way round, queries have a
//! learned factor for each head, and the head is a bare matrix with a factor, which here multiplies what goes into it.
//! Differences: none.

use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::decoder::<Config>(&["talkie"]).defaults(|| {
    json!({
        "hidden_size": 5120, "num_hidden_layers": 40, "num_attention_heads": 40, "head_dim": 128,
        "intermediate_size": 13696, "vocab_size": 65540, "rope_theta": 1e6, "max_position_embeddings": 2048,
        "rms_norm_eps": f32::EPSILON,
    })
});

const ATTENTION: AttentionNames =
    AttentionNames { q: "attn_query", k: "attn_key", v: "attn_value", out: "attn_resid", ..AttentionNames::LLAMA };
const MLP: MlpNames = MlpNames { gate: "mlp_gate", up: "mlp_linear", down: "mlp_resid" };

/// Talkie adds nothing to [`Common`].
#[derive(Debug, Deserialize)]
struct Config {}

impl DecoderConfig for Config {
    fn names(&self) -> Names {
        // The factor of the head lies beside `model`, so that the root is above it.
        Names { root: "", table: "model.embed", stack: "model.blocks", norm: "model.norm", head: "lm_head" }
    }

    fn rules(&self, _c: &Common) -> Result<Vec<Rule>> {
        Ok(vec![Rule::custom(|tensors| {
            tensors.retain(|name, _| !(name.contains("rotary") || name.ends_with("cos") || name.ends_with("sin")));
            Ok(())
        })])
    }

    fn frame(&self, w: &Weights, c: &Common) -> Result<Frame> {
        let norm = Norm::rms_plain(c.rms_norm_eps()?);
        let lm_head_gain = Parameter::load(&w.at("lm_head_gain.w_g"), &[1], Init::Ones)?;
        Ok(Frame {
            norm: None,
            head: Head::Parameter,
            entry: Some(Box::new(Entry { norm: norm.clone() })),
            exit: Some(Box::new(Exit { norm: norm.clone(), lm_head_gain })),
            ..Frame::new(c, norm)
        })
    }

    fn block(&self, w: &Weights, c: &Common, _layer: usize) -> Result<Box<dyn Block>> {
        let (heads, eps) = (c.heads()?, c.rms_norm_eps()?);
        let heads = HeadCounts::checked(heads.count, heads.count, heads.dim)?;
        let rope = Rope::backwards(heads.dim, c.rope())?;
        let parts = Heads::of(c.hidden_size, heads, rope)
            .names(ATTENTION)
            .rotated_qk_norm(|_, _, eps| Ok(Norm::rms_plain(eps)), eps);
        let attn = w.at("attn");
        let (width, act) = (c.intermediate_size()?, c.activation(Activation::Silu)?);
        let gain = |name: &str, init| Parameter::load(&w.at(name).at("a_g"), &[1], Init::Full(init));
        let start = (2.0 * c.num_hidden_layers as f32).powf(-0.5);
        Ok(Box::new(TalkieBlock {
            norm: Norm::rms_plain(eps),
            attn: TalkieAttention {
                attention: Attention::load(&attn, parts)?,
                head_gain: Parameter::load(&attn.at("head_gain.head_g"), &[heads.count], Init::Ones)?,
            },
            attn_gain: gain("attn_gain", start)?,
            mlp: Mlp::named(&w.at("mlp"), MLP, c.hidden_size, width, act, false)?,
            mlp_gain: gain("mlp_gain", start)?,
            embed_skip: gain("embed_skip", 0.0)?,
        }))
    }
}

/// `x` times a learned factor, in the type of `x`.
fn gained(x: &Array, gain: &Array) -> Result<Array> {
    Ok(x.multiply(gain.as_dtype(x.dtype())?)?)
}

/// The normed embeddings, which every block adds.
#[derive(Debug, Clone, Default)]
struct Embedded(Option<Array>);

/// The norm of the embeddings.
#[derive(Debug)]
struct Entry {
    norm: Norm,
}

module!(Entry {});

impl Block for Entry {
    fn forward(&self, x: &Array, step: &mut Step) -> Result<Array> {
        let x = self.norm.forward(x)?;
        step.carry::<Embedded>().0 = Some(x.clone());
        Ok(x)
    }

    fn caches(&self) -> Vec<CacheKind> {
        Vec::new()
    }
}

/// The last norm, and the factor of the head.
#[derive(Debug)]
struct Exit {
    norm: Norm,
    lm_head_gain: Parameter,
}

module!(Exit { lm_head_gain as "lm_head_gain.w_g" });

impl Block for Exit {
    fn forward(&self, x: &Array, _step: &mut Step) -> Result<Array> {
        gained(&self.norm.forward(x)?, &self.lm_head_gain)
    }

    fn caches(&self) -> Vec<CacheKind> {
        Vec::new()
    }
}

/// Attention with a factor for the queries of each head.
#[derive(Debug)]
struct TalkieAttention {
    attention: Attention,
    head_gain: Parameter,
}

module!(TalkieAttention { attention as "", head_gain as "head_gain.head_g" });

impl Mixer for TalkieAttention {
    fn forward(&self, x: &Array, step: &mut Step) -> Result<Array> {
        let [q, k, v] = self.attention.prepare(x, step)?;
        let q = gained(&q, &self.head_gain.reshape(&[-1, 1, 1])?)?;
        self.attention.leave(&merge_heads(&step.attend(&q, &k, &v, &self.attention.how())?)?)
    }

    fn caches(&self) -> Vec<CacheKind> {
        self.attention.caches()
    }
}

/// A block with learned factors.
#[derive(Debug)]
struct TalkieBlock {
    norm: Norm,
    attn: TalkieAttention,
    attn_gain: Parameter,
    mlp: Mlp,
    mlp_gain: Parameter,
    embed_skip: Parameter,
}

module!(TalkieBlock {
    attn,
    attn_gain as "attn_gain.a_g",
    mlp,
    mlp_gain as "mlp_gain.a_g",
    embed_skip as "embed_skip.a_g",
});

impl Block for TalkieBlock {
    fn forward(&self, x: &Array, step: &mut Step) -> Result<Array> {
        let mixed = gained(&self.attn.forward(&self.norm.forward(x)?, step)?, &self.attn_gain)?;
        let [h, normed] = self.norm.forward_sum(x, &mixed)?;
        let h = h.add(gained(&self.mlp.forward(&normed)?, &self.mlp_gain)?)?;
        match &step.carry::<Embedded>().0 {
            Some(embedded) => Ok(h.add(gained(embedded, &self.embed_skip)?)?),
            None => Ok(h),
        }
    }

    fn caches(&self) -> Vec<CacheKind> {
        self.attn.caches()
    }
}
