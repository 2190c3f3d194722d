//! OLMo Hybrid: three gated delta nets to one attention (arXiv:2412.06464). A block with a delta net norms what goes in, one with
//! attention what comes out.
//!
//! Ports `mlx_lm/models/olmo_hybrid.py` @ 0.32.2. Source: the model cards of OLMo Hybrid. Unusual: queries, keys and values have
//! filters of their own, and states may be turned around (`linear_allow_neg_eigval`). Differences: a null for `rope_parameters`, as
//! for `rope_theta`, means no positions, and `rope_scaling` acts, as in transformers; padding does not reach the filters.

use crate::blocks::delta_net::FilteredDelta;
use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::decoder::<Config>(&["olmo_hybrid"])
    .defaults(|| json!({"layer_norm_epsilon": 1e-5, "rope_theta": 1e4, "rope_parameters": {}}));

/// What OLMo Hybrid adds to [`Common`].
#[derive(Debug, Deserialize)]
struct Config {
    linear_conv_kernel_dim: i32,
    linear_allow_neg_eigval: bool,
    attention_bias: bool,
    layer_norm_epsilon: f32,
}

/// What a null means something in.
#[derive(Debug, Deserialize)]
struct Positions {
    rope_parameters: Option<serde_json::Value>,
    rope_theta: Option<f64>,
}

impl Positions {
    fn are_known(&self) -> bool {
        let Some(parameters) = &self.rope_parameters else { return false };
        parameters.get("rope_theta").map_or(self.rope_theta.is_some(), |theta| !theta.is_null())
    }
}

impl Config {
    fn is_linear(c: &Common, layer: usize) -> Result<bool> {
        match c.layer_type(layer)? {
            None => Ok(layer % 4 != 3),
            Some("linear_attention") => Ok(true),
            Some("full_attention") => Ok(false),
            Some(other) => {
                let expected = "expected `full_attention` or `linear_attention`";
                Err(Error::config(format!("`layer_types[{layer}]` is `{other}`; {expected}")))
            }
        }
    }

    fn attention(&self, w: &Weights, c: &Common) -> Result<Attention> {
        let rope = if c.part::<Positions>()?.are_known() { Rope::from(c)? } else { Rope::none() };
        let heads = Heads::grouped(c, rope)?.whole_qk_norm(Norm::rms, c.rms_norm_eps()?);
        Attention::load(w, heads.bias(Bias::all(self.attention_bias)))
    }
}

impl DecoderConfig for Config {
    fn check(&self, c: &Common) -> Result<()> {
        c.part::<DeltaHeads>()?.check()?;
        within("linear_conv_kernel_dim", self.linear_conv_kernel_dim, MAX_WIDTH)?;
        positive("layer_norm_epsilon", self.layer_norm_epsilon)
    }

    fn rules(&self, _c: &Common) -> Result<Vec<Rule>> {
        let filters = ["**.q_conv1d.weight", "**.k_conv1d.weight", "**.v_conv1d.weight"];
        Ok(filters.map(Rule::depthwise).into())
    }

    fn block(&self, w: &Weights, c: &Common, layer: usize) -> Result<Box<dyn Block>> {
        let mlp = Mlp::of(&w.at("mlp"), c)?;
        Ok(match Self::is_linear(c, layer)? {
            true => {
                let names = BlockNames { mixer: "linear_attn", ..BlockNames::PRE };
                let (conv, eps, is_turned) =
                    (self.linear_conv_kernel_dim, self.layer_norm_epsilon, self.linear_allow_neg_eigval);
                let net = FilteredDelta::load(&w.at(names.mixer), c, conv, eps, is_turned)?;
                Box::new(PreNormBlock::named(w, c, names, net, mlp)?)
            }
            false => Box::new(PostNormBlock::with(w, c, self.attention(&w.at("self_attn"), c)?, mlp)?),
        })
    }
}
