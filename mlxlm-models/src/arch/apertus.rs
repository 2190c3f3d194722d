//! Apertus: Llama with normed heads and an MLP without a gate, whose activation is learned (arXiv:2509.14233, arXiv:2411.13010).
//!
//! Ports `mlx_lm/models/apertus.py` @ 0.32.2. Unusual: the activation's constants are stored too, and heads are normed
//! whatever `qk_norm` says. Differences: with `attention_bias` the biases of attention are taken where a checkpoint has them,
//! which the reference refuses.

use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::decoder::<Config>(&["apertus"]);

const BLOCK: BlockNames =
    BlockNames { pre_mixer: "attention_layernorm", pre_mlp: "feedforward_layernorm", ..BlockNames::PRE };

/// What Apertus adds to [`Common`].
#[derive(Debug, Deserialize)]
struct Config {
    #[serde(default)]
    mlp_bias: bool,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    post_norm: bool,
    hidden_act: Option<String>,
    #[serde(default, rename = "qk_norm")]
    _qk_norm: bool,
}

impl DecoderConfig for Config {
    fn check(&self, c: &Common) -> Result<()> {
        unsupported(c, "post_norm", self.post_norm)?;
        unsupported(c, "hidden_act", self.hidden_act.as_ref().is_some_and(|name| name != "xielu"))
    }

    fn rules(&self, _c: &Common) -> Result<Vec<Rule>> {
        Ok(vec![Rule::custom(|tensors| {
            for (_, array) in
                tensors.iter_mut().filter(|(name, _)| name.ends_with(".alpha_p") || name.ends_with(".alpha_n"))
            {
                *array = array.squeeze()?;
            }
            Ok(())
        })])
    }

    fn block(&self, w: &Weights, c: &Common, _layer: usize) -> Result<Box<dyn Block>> {
        let at = w.at(BLOCK.mixer);
        let biased = self.attention_bias && at.at("q_proj").has("bias");
        let heads = Heads::grouped(c, Rope::from(c)?)?.bias(Bias::all(biased)).qk_norm(Norm::rms, c.rms_norm_eps()?);
        let mlp = XieluMlp::load(&w.at(BLOCK.mlp), c, self.mlp_bias)?;
        Ok(Box::new(PreNormBlock::named(w, c, BLOCK, Attention::load(&at, heads)?, mlp)?))
    }
}

/// An MLP without a gate.
#[derive(Debug)]
struct XieluMlp {
    up_proj: Linear,
    act_fn: Xielu,
    down_proj: Linear,
}

module!(XieluMlp { up_proj, act_fn, down_proj });

impl XieluMlp {
    fn load(w: &Weights, c: &Common, biased: bool) -> Result<Self> {
        let (dims, width) = (c.hidden_size, c.intermediate_size()?);
        Ok(Self {
            up_proj: Linear::load_biased(&w.at("up_proj").columns(), width, dims, biased)?,
            act_fn: Xielu::load(&w.at("act_fn"))?,
            down_proj: Linear::load_biased(&w.at("down_proj").rows(), dims, width, biased)?,
        })
    }
}

impl FeedForward for XieluMlp {
    fn forward(&self, x: &Array) -> Result<Array> {
        Ok(self.down_proj.forward(&self.act_fn.forward(&self.up_proj.forward(x)?)?)?)
    }
}

/// `p x² + b x` above zero, and `n (e^x - 1 - x) + b x` below, with learned `p` and `n` (arXiv:2411.13010).
#[derive(Debug)]
struct Xielu {
    alpha_p: Parameter,
    alpha_n: Parameter,
    beta: Parameter,
    eps: Parameter,
}

module!(Xielu { alpha_p, alpha_n, beta, eps });

impl Xielu {
    fn load(w: &Weights) -> Result<Self> {
        let number = |name: &str, init| Parameter::load(&w.at(name), &[], Init::Full(init));
        // Both slopes begin at 0.8: the softplus of the one, and that of the other and `beta`.
        Ok(Self {
            alpha_p: number("alpha_p", 0.8_f32.exp_m1().ln())?,
            alpha_n: number("alpha_n", 0.3_f32.exp_m1().ln())?,
            beta: number("beta", 0.5)?,
            eps: number("eps", -1e-6)?,
        })
    }

    /// # Shapes
    /// - the shape of `x` comes back
    fn forward(&self, x: &Array) -> Result<Array> {
        let number = |parameter: &Parameter| parameter.as_dtype(x.dtype());
        let (beta, eps) = (number(&self.beta)?, number(&self.eps)?);
        let slope = |parameter: &Parameter| fast::activate(Activation::Softplus, &number(parameter)?);
        let (alpha_p, alpha_n) = (slope(&self.alpha_p)?, slope(&self.alpha_n)?.add(&beta)?);
        let zero = Array::from_f32(0.0).as_dtype(x.dtype())?;
        let above = x.square()?.multiply(alpha_p)?;
        let below = ops::expm1(&ops::minimum(x, &eps)?)?.subtract(x)?.multiply(alpha_n)?;
        Ok(ops::select(&x.gt(&zero)?, &above, &below)?.add(x.multiply(beta)?)?)
    }
}
