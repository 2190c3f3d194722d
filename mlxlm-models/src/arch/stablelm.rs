//! StableLM 2: layer norms, a part of each head rotated, and in large models both halves of a block side by side
//! (arXiv:2402.17834).
//!
//! Ports `mlx_lm/models/stablelm.py` @ 0.32.2. Unusual: heads may be normed, each with a weight of its own. Differences:
//! attention is computed in the type of the weights, a tied head is possible, and `rope_scaling` acts, as in transformers.

use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::decoder::<Config>(&["stablelm"]);

/// What StableLM adds to [`Common`].
#[derive(Debug, Deserialize)]
struct Config {
    layer_norm_eps: f32,
    use_qkv_bias: bool,
    #[serde(default)]
    use_parallel_residual: bool,
    #[serde(default)]
    qk_layernorm: bool,
}

impl Config {
    fn norm(&self, w: &Weights, c: &Common) -> Result<Norm> {
        Ok(Norm::layer(w, c.hidden_size, self.layer_norm_eps, true)?)
    }

    fn attention(&self, w: &Weights, c: &Common) -> Result<StableAttention> {
        let HeadCounts { count, kv_count, dim } = c.heads()?;
        let heads = Heads::grouped(c, Rope::partial(c)?)?.bias(Bias::of(self.use_qkv_bias, false));
        let norms = |name: &str, count: i32| HeadNorms::load(&w.at(name), count, dim, self.layer_norm_eps);
        Ok(StableAttention {
            q_layernorm: self.qk_layernorm.then(|| norms("q_layernorm", count)).transpose()?,
            k_layernorm: self.qk_layernorm.then(|| norms("k_layernorm", kv_count)).transpose()?,
            attention: Attention::load(w, heads)?,
        })
    }
}

impl DecoderConfig for Config {
    fn check(&self, _c: &Common) -> Result<()> {
        positive("layer_norm_eps", self.layer_norm_eps)
    }

    fn frame(&self, w: &Weights, c: &Common) -> Result<Frame> {
        Ok(Frame::new(c, self.norm(&w.at(LLAMA.norm), c)?))
    }

    fn block(&self, w: &Weights, c: &Common, _layer: usize) -> Result<Box<dyn Block>> {
        const NAMES: BlockNames = BlockNames::PRE;
        let (attention, mlp) = (self.attention(&w.at(NAMES.mixer), c)?, Mlp::of(&w.at(NAMES.mlp), c)?);
        let pre_mixer = self.norm(&w.at(NAMES.pre_mixer), c)?;
        if self.use_parallel_residual {
            return Ok(Box::new(ParallelBlock::new(NAMES, pre_mixer, None, attention, mlp)));
        }
        let norms = [pre_mixer, self.norm(&w.at(NAMES.pre_mlp), c)?];
        Ok(Box::new(PreNormBlock::new(NAMES, norms, attention, mlp)))
    }
}

/// Attention whose heads may be normed before the rotation.
#[derive(Debug)]
struct StableAttention {
    attention: Attention,
    q_layernorm: Option<HeadNorms>,
    k_layernorm: Option<HeadNorms>,
}

module!(StableAttention { attention as "", q_layernorm, k_layernorm });

impl Mixer for StableAttention {
    fn forward(&self, x: &Array, step: &mut Step) -> Result<Array> {
        let [q, k, v] = self.attention.project(x)?;
        let prepare = |x: Array, norms: Option<&HeadNorms>| {
            let x = norms.map_or(Ok(x.clone()), |norms| norms.forward(&x))?;
            self.attention.rotate(&x, step)
        };
        let (q, k) = (prepare(q, self.q_layernorm.as_ref())?, prepare(k, self.k_layernorm.as_ref())?);
        self.attention.leave(&merge_heads(&step.attend(&q, &k, &v, &self.attention.how())?)?)
    }

    fn caches(&self) -> Vec<CacheKind> {
        self.attention.caches()
    }
}

/// A layer norm for each head.
#[derive(Debug)]
struct HeadNorms {
    norms: Vec<Norm>,
    eps: f32,
}

module!(HeadNorms { norms });

impl HeadNorms {
    fn load(w: &Weights, heads: i32, dim: i32, eps: f32) -> Result<Self> {
        let norm = |head: i32| Norm::layer(&w.at("norms").at(head), dim, eps, false);
        Ok(Self { norms: (0..heads).map(norm).collect::<Result<_, _>>()?, eps })
    }

    /// # Shapes
    /// - `x`: `[B, heads, L, d]`, and the same comes back
    fn forward(&self, x: &Array) -> Result<Array> {
        let weights: Vec<&Array> = self.norms.iter().filter_map(|norm| norm.weight.as_ref()).collect();
        let weights = ops::stack(&weights, 0)?.expand_dims(1)?;
        Ok(fast::layer_norm(x, None, None, self.eps)?.multiply(weights)?)
    }
}
