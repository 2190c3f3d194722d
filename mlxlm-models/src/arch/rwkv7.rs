//! RWKV-7: no attention; each token is mixed with the one before it, and each head keeps a matrix that every token changes
//! (arXiv:2503.14456).
//!
//! Ports `mlx_lm/models/rwkv7.py` @ 0.32.2. Unusual: values of later layers are mixed with those of the first, and the embeddings and
//! the second halves of low-rank maps are packed to 8 bits at most. The state has three slots: the last input of the time mixing, the
//! matrices, and the last input of the channel mixing. Differences: padding changes no state, which the reference lets it do.

use crate::blocks::rwkv7::{ChannelMixing, Ranks, TimeMixing};
use crate::prelude::*;
use crate::rules::matching;

pub(super) const ARCH: Architecture =
    Architecture::decoder::<Config>(&["rwkv7"]).defaults(|| json!({"norm_first": true, "norm_bias": true}));

const NAMES: Names = Names { table: "model.embeddings", ..LLAMA };

/// What RWKV-7 adds to [`Common`].
#[derive(Debug, Deserialize)]
struct Config {
    norm_eps: f32,
    head_dim: i32,
    a_low_rank_dim: i32,
    v_low_rank_dim: i32,
    gate_low_rank_dim: i32,
    decay_low_rank_dim: i32,
    norm_first: bool,
    norm_bias: bool,
    hidden_act: Option<String>,
    /// Only say how widths came about.
    #[serde(default, rename = "hidden_ratio")]
    _hidden_ratio: serde_json::Value,
    #[serde(default, rename = "value_dim")]
    _value_dim: serde_json::Value,
}

impl Config {
    fn norm(&self, w: &Weights, c: &Common) -> Result<Norm> {
        Ok(Norm::layer(w, c.hidden_size, self.norm_eps, true)?)
    }
}

impl DecoderConfig for Config {
    fn names(&self) -> Names {
        NAMES
    }

    fn check(&self, c: &Common) -> Result<()> {
        all_within(&[
            ("head_dim", self.head_dim),
            ("a_low_rank_dim", self.a_low_rank_dim),
            ("v_low_rank_dim", self.v_low_rank_dim),
            ("gate_low_rank_dim", self.gate_low_rank_dim),
            ("decay_low_rank_dim", self.decay_low_rank_dim),
        ])?;
        positive("norm_eps", self.norm_eps)?;
        always_on(c, "norm_first", self.norm_first)?;
        always_on(c, "norm_bias", self.norm_bias)?;
        let known = |act: &String| matches!(act.as_str(), "sqrelu" | "relu2" | "relu_squared");
        unsupported(c, "hidden_act", self.hidden_act.as_ref().is_some_and(|act| !known(act)))?;
        match c.hidden_size % self.head_dim {
            0 => Ok(()),
            _ => Err(Error::config(format!(
                "`hidden_size` {} is not a multiple of `head_dim` {}",
                c.hidden_size, self.head_dim
            ))),
        }
    }

    /// Files of transformers have one axis for heads and their dimensions.
    fn rules(&self, c: &Common) -> Result<Vec<Rule>> {
        let shape = [c.hidden_size / self.head_dim, self.head_dim];
        let by_head = move |tensors: &mut Tensors| {
            for pattern in ["**.k_k", "**.k_a", "**.r_k", "**.g_norm.weight", "**.g_norm.bias"] {
                let flat = |array: &Array| {
                    array.ndim() != 2 && array.size() as i64 == shape.map(i64::from).iter().product::<i64>()
                };
                for (_, array) in matching(tensors, pattern).filter(|(_, array)| flat(array)) {
                    *array = array.reshape(&shape)?;
                }
            }
            Ok(())
        };
        Ok(vec![Rule::custom(by_head)])
    }

    fn frame(&self, w: &Weights, c: &Common) -> Result<Frame> {
        Ok(Frame { table_precision: Precision::Eight, ..Frame::new(c, self.norm(&w.at(NAMES.norm), c)?) })
    }

    fn block(&self, w: &Weights, c: &Common, layer: usize) -> Result<Box<dyn Block>> {
        let norm = |name: &str| self.norm(&w.at(name), c);
        let ranks = Ranks {
            head_dim: self.head_dim,
            rates: self.a_low_rank_dim,
            values: self.v_low_rank_dim,
            gate: self.gate_low_rank_dim,
            decay: self.decay_low_rank_dim,
        };
        Ok(Box::new(RwkvBlock {
            pre_norm: (layer == 0).then(|| norm("pre_norm")).transpose()?,
            attn_norm: norm("attn_norm")?,
            attn: TimeMixing::load(&w.at("attn"), c, ranks, layer)?,
            ffn_norm: norm("ffn_norm")?,
            ffn: ChannelMixing::load(&w.at("ffn"), c)?,
        }))
    }
}

/// A block.
#[derive(Debug)]
struct RwkvBlock {
    pre_norm: Option<Norm>,
    attn_norm: Norm,
    attn: TimeMixing,
    ffn_norm: Norm,
    ffn: ChannelMixing,
}

module!(RwkvBlock { pre_norm, attn_norm, attn, ffn_norm, ffn });

impl Block for RwkvBlock {
    fn forward(&self, x: &Array, step: &mut Step) -> Result<Array> {
        let normed = self.pre_norm.as_ref().map(|norm| norm.forward(x)).transpose()?;
        let x = normed.as_ref().unwrap_or(x);
        let h = x.add(self.attn.forward(&self.attn_norm.forward(x)?, step)?)?;
        Ok(h.add(self.ffn.forward(&self.ffn_norm.forward(&h)?, step)?)?)
    }

    fn caches(&self) -> Vec<CacheKind> {
        vec![CacheKind::State { slots: 3 }]
    }
}
