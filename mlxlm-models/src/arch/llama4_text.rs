//! MobileLLM-R1: the dense text model of the Llama 4 family (arXiv:2509.24945).
//!
//! Ports `mlx_lm/models/llama4_text.py` @ 0.32.2. Unusual: neighbouring pairs are rotated, in the layers that `no_rope_layers`
//! has a one for; heads are normed before that, without weights, in all layers. Differences: `rope_scaling` acts, as in
//! transformers.

use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::decoder::<Config>(&["llama4_text"])
    .defaults(|| json!({"attention_bias": false, "num_local_experts": 0, "rope_traditional": true}));

/// What it adds to [`Common`].
#[derive(Debug, Deserialize)]
struct Config {
    attention_bias: bool,
    intermediate_size_mlp: i32,
    no_rope_layers: Vec<i32>,
    num_local_experts: i32,
    use_qk_norm: bool,
}

impl DecoderConfig for Config {
    fn names(&self) -> Names {
        Names { head: "output", ..LLAMA }
    }

    fn check(&self, c: &Common) -> Result<()> {
        // The width of experts, of which there are none.
        c.intermediate_size_or(self.intermediate_size_mlp)?;
        within("intermediate_size_mlp", self.intermediate_size_mlp, MAX_WIDTH)?;
        unsupported(c, "num_local_experts", self.num_local_experts > 0)?;
        match self.no_rope_layers.len() >= self.layers(c) {
            true => Ok(()),
            false => Err(Error::config(format!(
                "`no_rope_layers` has {} entries for {} layers",
                self.no_rope_layers.len(),
                self.layers(c)
            ))),
        }
    }

    fn block(&self, w: &Weights, c: &Common, layer: usize) -> Result<Box<dyn Block>> {
        let rope = match self.no_rope_layers.get(layer) {
            None | Some(0) => Rope::none(),
            Some(_) => Rope::from(c)?,
        };
        let mut heads = Heads::grouped(c, rope)?.bias(Bias::all(self.attention_bias));
        if self.use_qk_norm {
            heads = heads.qk_norm(|_, _, eps| Ok(Norm::rms_plain(eps)), c.rms_norm_eps()?);
        }
        let names = BlockNames { mlp: "feed_forward", ..BlockNames::PRE };
        let act = c.activation(Activation::Silu)?;
        let mlp = Mlp::gated(&w.at(names.mlp), c.hidden_size, self.intermediate_size_mlp, act)?;
        Ok(Box::new(PreNormBlock::named(w, c, names, Attention::load(&w.at(names.mixer), heads)?, mlp)?))
    }
}
