//! The ways in which a block adds its two halves, a mixer of tokens and a function of each token, to its input.

use mlxlm_cache::CacheKind;
use mlxlm_core::fast::Activation;
use mlxlm_core::nn::Norm;
use mlxlm_core::weights::Weights;
use mlxlm_core::{Array, module};

use super::{Attention, FeedForward, Heads, Mixer, Mlp};
use crate::frame::{Block, Step};
use crate::{Common, Result};

/// What the parts of a block are called.
#[derive(Debug, Clone, Copy)]
pub struct BlockNames {
    /// The norm of the mixer's input.
    pub pre_mixer: &'static str,
    /// What mixes tokens.
    pub mixer: &'static str,
    /// The norm of the mixer's output.
    pub post_mixer: &'static str,
    /// The norm of the MLP's input.
    pub pre_mlp: &'static str,
    /// What follows.
    pub mlp: &'static str,
    /// The norm of the MLP's output.
    pub post_mlp: &'static str,
}

impl BlockNames {
    /// Llama and most others that norm what goes in.
    pub const PRE: Self = Self {
        pre_mixer: "input_layernorm",
        mixer: "self_attn",
        post_mixer: "",
        pre_mlp: "post_attention_layernorm",
        mlp: "mlp",
        post_mlp: "",
    };
    /// Gemma and others that norm what goes in and what comes out.
    pub const SANDWICH: Self = Self {
        post_mixer: "post_attention_layernorm",
        pre_mlp: "pre_feedforward_layernorm",
        post_mlp: "post_feedforward_layernorm",
        ..Self::PRE
    };
    /// `OLMo` 2 and others that norm what comes out.
    pub const POST: Self = Self {
        pre_mixer: "",
        post_mixer: "post_attention_layernorm",
        pre_mlp: "",
        post_mlp: "post_feedforward_layernorm",
        ..Self::PRE
    };
}

/// `h = x + mixer(norm(x))`, `h + mlp(norm(h))`: Llama and its many kin.
#[derive(Debug)]
pub struct PreNormBlock {
    pre_mixer: Norm,
    mixer: Box<dyn Mixer>,
    pre_mlp: Norm,
    mlp: Box<dyn FeedForward>,
    names: BlockNames,
    branch_scale: Option<f32>,
}

module!(PreNormBlock {
    pre_mixer as names.pre_mixer,
    mixer as names.mixer,
    pre_mlp as names.pre_mlp,
    mlp as names.mlp,
});

impl PreNormBlock {
    /// The block of the configuration at `w`: root-mean-square norms, these heads, and its gated MLP.
    pub fn load(w: &Weights, c: &Common, heads: Heads) -> Result<Self> {
        let mlp = Mlp::of(&w.at("mlp"), c)?;
        Self::with(w, c, Attention::load(&w.at("self_attn"), heads)?, mlp)
    }

    /// As [`load`](Self::load), with biases in the MLP if `biased`.
    pub fn biased(w: &Weights, c: &Common, heads: Heads, biased: bool) -> Result<Self> {
        let act = c.activation(Activation::Silu)?;
        let mlp = Mlp::gated_biased(&w.at("mlp"), c.hidden_size, c.intermediate_size()?, act, biased)?;
        Self::with(w, c, Attention::load(&w.at("self_attn"), heads)?, mlp)
    }

    /// Root-mean-square norms of the configuration around these halves, under the usual names.
    pub fn with(w: &Weights, c: &Common, mixer: impl Mixer + 'static, mlp: impl FeedForward + 'static) -> Result<Self> {
        Self::named(w, c, BlockNames::PRE, mixer, mlp)
    }

    /// As [`with`](Self::with), under other names.
    pub fn named(
        w: &Weights,
        c: &Common,
        names: BlockNames,
        mixer: impl Mixer + 'static,
        mlp: impl FeedForward + 'static,
    ) -> Result<Self> {
        let norm = |name: &str| Ok::<_, crate::Error>(Norm::rms(&w.at(name), c.hidden_size, c.rms_norm_eps()?)?);
        Ok(Self::new(names, [norm(names.pre_mixer)?, norm(names.pre_mlp)?], mixer, mlp))
    }

    /// As [`named`](Self::named), with layer norms with biases.
    pub fn layer_normed(
        w: &Weights,
        c: &Common,
        names: BlockNames,
        eps: f32,
        mixer: impl Mixer + 'static,
        mlp: impl FeedForward + 'static,
    ) -> Result<Self> {
        let norm = |name: &str| Norm::layer(&w.at(name), c.hidden_size, eps, true);
        Ok(Self::new(names, [norm(names.pre_mixer)?, norm(names.pre_mlp)?], mixer, mlp))
    }

    /// The block of these parts.
    pub fn new(
        names: BlockNames,
        [pre_mixer, pre_mlp]: [Norm; 2],
        mixer: impl Mixer + 'static,
        mlp: impl FeedForward + 'static,
    ) -> Self {
        Self { pre_mixer, mixer: Box::new(mixer), pre_mlp, mlp: Box::new(mlp), names, branch_scale: None }
    }

    /// With each half multiplied by `scale` before it is added.
    #[must_use]
    pub fn branch_scale(self, scale: f32) -> Self {
        Self { branch_scale: (scale != 1.0).then_some(scale), ..self }
    }
}

impl Block for PreNormBlock {
    fn forward(&self, x: &Array, step: &mut Step) -> Result<Array> {
        let scaled = |branch: Array| -> Result<Array> {
            match self.branch_scale {
                None => Ok(branch),
                Some(scale) => Ok(branch.multiply(Array::from_f32(scale).as_dtype(branch.dtype())?)?),
            }
        };
        let mixed = scaled(self.mixer.forward(&self.pre_mixer.forward(x)?, step)?)?;
        let [h, normed] = self.pre_mlp.forward_sum(x, &mixed)?;
        Ok(h.add(scaled(self.mlp.forward(&normed)?)?)?)
    }

    fn caches(&self) -> Vec<CacheKind> {
        self.mixer.caches()
    }
}

/// `h = x + norm(mixer(norm(x)))`, `h + norm(mlp(norm(h)))`: Gemma 2 and others.
#[derive(Debug)]
pub struct SandwichBlock {
    pre_mixer: Norm,
    mixer: Box<dyn Mixer>,
    post_mixer: Norm,
    pre_mlp: Norm,
    mlp: Box<dyn FeedForward>,
    post_mlp: Norm,
    names: BlockNames,
}

module!(SandwichBlock {
    pre_mixer as names.pre_mixer,
    mixer as names.mixer,
    post_mixer as names.post_mixer,
    pre_mlp as names.pre_mlp,
    mlp as names.mlp,
    post_mlp as names.post_mlp,
});

impl SandwichBlock {
    /// The block at `w` of these halves, with norms that `norm` loads.
    pub fn load(
        w: &Weights,
        names: BlockNames,
        norm: impl Fn(&Weights) -> Result<Norm>,
        mixer: impl Mixer + 'static,
        mlp: impl FeedForward + 'static,
    ) -> Result<Self> {
        let norm = |name: &str| norm(&w.at(name));
        let norms = [norm(names.pre_mixer)?, norm(names.post_mixer)?, norm(names.pre_mlp)?, norm(names.post_mlp)?];
        Ok(Self::new(names, norms, mixer, mlp))
    }

    /// The block of these parts.
    pub fn new(
        names: BlockNames,
        [pre_mixer, post_mixer, pre_mlp, post_mlp]: [Norm; 4],
        mixer: impl Mixer + 'static,
        mlp: impl FeedForward + 'static,
    ) -> Self {
        Self { pre_mixer, mixer: Box::new(mixer), post_mixer, pre_mlp, mlp: Box::new(mlp), post_mlp, names }
    }

    /// What the mixer adds to `x`.
    pub fn mix(&self, x: &Array, step: &mut Step) -> Result<Array> {
        Ok(self.post_mixer.forward(&self.mixer.forward(&self.pre_mixer.forward(x)?, step)?)?)
    }

    /// What the MLP adds, given its normed input.
    pub fn think(&self, normed: &Array) -> Result<Array> {
        Ok(self.post_mlp.forward(&self.mlp.forward(normed)?)?)
    }

    /// The norm of the MLP's input.
    pub fn pre_mlp(&self) -> &Norm {
        &self.pre_mlp
    }
}

impl Block for SandwichBlock {
    fn forward(&self, x: &Array, step: &mut Step) -> Result<Array> {
        let [h, normed] = self.pre_mlp.forward_sum(x, &self.mix(x, step)?)?;
        Ok(h.add(self.think(&normed)?)?)
    }

    fn caches(&self) -> Vec<CacheKind> {
        self.mixer.caches()
    }
}

/// `h = x + norm(mixer(x))`, `h + norm(mlp(h))`: `OLMo` 2 and others.
#[derive(Debug)]
pub struct PostNormBlock {
    mixer: Box<dyn Mixer>,
    post_mixer: Norm,
    mlp: Box<dyn FeedForward>,
    post_mlp: Norm,
    names: BlockNames,
}

module!(PostNormBlock {
    mixer as names.mixer,
    post_mixer as names.post_mixer,
    mlp as names.mlp,
    post_mlp as names.post_mlp,
});

impl PostNormBlock {
    /// The block at `w` of these halves, with the configuration's root-mean-square norms under the usual names.
    pub fn with(w: &Weights, c: &Common, mixer: impl Mixer + 'static, mlp: impl FeedForward + 'static) -> Result<Self> {
        let names = BlockNames::POST;
        let norm = |name: &str| Ok::<_, crate::Error>(Norm::rms(&w.at(name), c.hidden_size, c.rms_norm_eps()?)?);
        Ok(Self {
            mixer: Box::new(mixer),
            post_mixer: norm(names.post_mixer)?,
            mlp: Box::new(mlp),
            post_mlp: norm(names.post_mlp)?,
            names,
        })
    }
}

impl Block for PostNormBlock {
    fn forward(&self, x: &Array, step: &mut Step) -> Result<Array> {
        let h = x.add(self.post_mixer.forward(&self.mixer.forward(x, step)?)?)?;
        Ok(h.add(self.post_mlp.forward(&self.mlp.forward(&h)?)?)?)
    }

    fn caches(&self) -> Vec<CacheKind> {
        self.mixer.caches()
    }
}

/// `x + mixer(norm(x)) + mlp(norm(x))`, with one norm for both halves or two: Command R, Phi-2, GPT-J and others.
#[derive(Debug)]
pub struct ParallelBlock {
    pre_mixer: Norm,
    mixer: Box<dyn Mixer>,
    pre_mlp: Option<Norm>,
    mlp: Box<dyn FeedForward>,
    names: BlockNames,
}

module!(ParallelBlock {
    pre_mixer as names.pre_mixer,
    mixer as names.mixer,
    pre_mlp as names.pre_mlp,
    mlp as names.mlp,
});

impl ParallelBlock {
    /// The block of these parts; without a second norm both halves read the first one's.
    pub fn new(
        names: BlockNames,
        pre_mixer: Norm,
        pre_mlp: Option<Norm>,
        mixer: impl Mixer + 'static,
        mlp: impl FeedForward + 'static,
    ) -> Self {
        Self { pre_mixer, mixer: Box::new(mixer), pre_mlp, mlp: Box::new(mlp), names }
    }
}

impl Block for ParallelBlock {
    fn forward(&self, x: &Array, step: &mut Step) -> Result<Array> {
        let h = self.pre_mixer.forward(x)?;
        let own = self.pre_mlp.as_ref().map(|norm| norm.forward(x)).transpose()?;
        let mixed = self.mixer.forward(&h, step)?;
        Ok(mixed.add(self.mlp.forward(own.as_ref().unwrap_or(&h))?)?.add(x)?)
    }

    fn caches(&self) -> Vec<CacheKind> {
        self.mixer.caches()
    }
}

/// `x + mixer(norm(x))`: Mamba and others whose blocks have no second half.
#[derive(Debug)]
pub struct SingleBlock {
    norm: Norm,
    mixer: Box<dyn Mixer>,
}

module!(SingleBlock { norm, mixer });

impl SingleBlock {
    /// The block at `w` of this mixer, with a root-mean-square norm.
    pub fn load(w: &Weights, c: &Common, eps: f32, mixer: impl Mixer + 'static) -> Result<Self> {
        Ok(Self { norm: Norm::rms(&w.at("norm"), c.hidden_size, eps)?, mixer: Box::new(mixer) })
    }
}

impl Block for SingleBlock {
    fn forward(&self, x: &Array, step: &mut Step) -> Result<Array> {
        Ok(x.add(self.mixer.forward(&self.norm.forward(x)?, step)?)?)
    }

    fn caches(&self) -> Vec<CacheKind> {
        self.mixer.caches()
    }
}
