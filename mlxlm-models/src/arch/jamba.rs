//! Jamba: mixers of Mamba with attention every few layers, and experts in place of some MLPs (arXiv:2403.19887).
//!
//! Ports `mlx_lm/models/jamba.py` @ 0.32.2. Unusual: attention knows no positions, and steps, inputs and outputs of the mixers are
//! normed. Differences: which layers have experts is what the checkpoint says; without one they are those of transformers, where
//! the reference counts the offset from the wrong side.

use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::decoder::<Config>(&["jamba"]).defaults(
    || json!({"tie_word_embeddings": true, "mamba_dt_rank": "auto", "mamba_proj_bias": false, "mamba_conv_bias": true}),
);

const NAMES: Names = Names { norm: "model.final_layernorm", ..LLAMA };
const MOE: MoeNames = MoeNames { gate: "router", ..MoeNames::QWEN };

/// What Jamba adds to [`Common`].
#[derive(Debug, Deserialize)]
struct Config {
    attn_layer_offset: usize,
    attn_layer_period: usize,
    expert_layer_offset: usize,
    expert_layer_period: usize,
    mamba_d_conv: i32,
    mamba_d_state: i32,
    mamba_expand: i32,
    mamba_dt_rank: Rank,
    mamba_proj_bias: bool,
    mamba_conv_bias: bool,
    num_experts: i32,
    num_experts_per_tok: i32,
    layers_block_type: Option<Vec<String>>,
}

impl Config {
    fn attends(&self, layer: usize) -> Result<bool> {
        match self.layers_block_type.as_ref().map(|types| types.get(layer).map(String::as_str)) {
            None => Ok(layer % self.attn_layer_period == self.attn_layer_offset),
            Some(Some("attention")) => Ok(true),
            Some(Some("mamba")) => Ok(false),
            Some(other) => {
                let got = other.map_or("missing".into(), |name| format!("`{name}`"));
                Err(Error::config(format!("`layers_block_type[{layer}]` is {got}; expected `attention` or `mamba`")))
            }
        }
    }

    /// Whether the layer with its MLP at `w` has experts.
    fn is_sparse(&self, w: &Weights, layer: usize) -> bool {
        if self.num_experts <= 1 || w.at("gate_proj").has("weight") {
            return false;
        }
        w.at("router").has("weight") || layer % self.expert_layer_period == self.expert_layer_offset
    }

    fn mixer(&self, w: &Weights, c: &Common, layer: usize) -> Result<(&'static str, Box<dyn Mixer>)> {
        if self.attends(layer)? {
            let heads = Heads::grouped(c, Rope::none())?;
            return Ok(("self_attn", Box::new(Attention::load(&w.at("self_attn"), heads)?)));
        }
        let config = MambaConfig {
            hidden: c.hidden_size,
            inner: product(self.mamba_expand, c.hidden_size)?,
            state: self.mamba_d_state,
            rank: self.mamba_dt_rank.of("mamba_dt_rank", c.hidden_size)?,
            conv: self.mamba_d_conv,
            conv_biased: self.mamba_conv_bias,
            biased: self.mamba_proj_bias,
            norm: StepNorm::Trained(c.rms_norm_eps()?),
        };
        Ok(("mamba", Box::new(Mamba::load(&w.at("mamba"), config)?)))
    }

    fn feed_forward(&self, w: &Weights, c: &Common, layer: usize) -> Result<Box<dyn FeedForward>> {
        if !self.is_sparse(w, layer) {
            return Ok(Box::new(Mlp::of(w, c)?));
        }
        let routing = Routing::top(self.num_experts_per_tok, Score::SoftmaxOfChosen);
        let router = Router::load(w, MOE, (c.hidden_size, self.num_experts), routing)?;
        let (sizes, act) = ((c.hidden_size, c.intermediate_size()?), c.activation(Activation::Silu)?);
        let experts = Experts::gated(&w.at(MOE.experts), self.num_experts, sizes, act, false)?;
        Ok(Box::new(Moe::new(MOE, router, experts)))
    }
}

impl DecoderConfig for Config {
    fn names(&self) -> Names {
        NAMES
    }

    fn check(&self, c: &Common) -> Result<()> {
        unsupported(c, "sliding_window", c.sliding_window()?.is_some())?;
        for (key, period) in
            [("attn_layer_period", self.attn_layer_period), ("expert_layer_period", self.expert_layer_period)]
        {
            within(key, i32::try_from(period).unwrap_or(0), i32::MAX)?;
        }
        all_within(&[
            ("mamba_d_conv", self.mamba_d_conv),
            ("mamba_d_state", self.mamba_d_state),
            ("mamba_expand", self.mamba_expand),
            ("num_experts", self.num_experts),
        ])
    }

    fn rules(&self, _c: &Common) -> Result<Vec<Rule>> {
        let mut rules = vec![Rule::depthwise("**.conv1d.weight")];
        rules.extend(Rule::stack_experts("**.feed_forward.experts.*", "**.feed_forward.switch_mlp", &SAME));
        Ok(rules)
    }

    fn layers(&self, c: &Common) -> usize {
        self.layers_block_type.as_ref().map_or(c.num_hidden_layers as usize, Vec::len)
    }

    fn block(&self, w: &Weights, c: &Common, layer: usize) -> Result<Box<dyn Block>> {
        let (mixer, mixes) = self.mixer(w, c, layer)?;
        let names = BlockNames { mixer, pre_mlp: "pre_ff_layernorm", mlp: "feed_forward", ..BlockNames::PRE };
        Ok(Box::new(PreNormBlock::named(w, c, names, mixes, self.feed_forward(&w.at(names.mlp), c, layer)?)?))
    }
}
