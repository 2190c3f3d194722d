//! Qwen3-Next: three gated delta nets to one gated attention, each followed by experts (arXiv:2412.06464, arXiv:2505.06708).
//!
//! Ports `mlx_lm/models/qwen3_next.py` @ 0.32.2. Unusual: queries come with a gate for what the heads answer, the projections of a
//! delta net lie side by side for each key head, and files of transformers store norms minus one. Differences: `layer_types` is read
//! where it is there, as in transformers.

use crate::blocks::delta_net::{DeltaNet, InterleavedDelta};
use crate::blocks::gate_in_query::GateInQuery;
use crate::prelude::*;
use crate::rules::matching;

pub(super) const ARCH: Architecture = Architecture::decoder::<Config>(&["qwen3_next"])
    .defaults(|| json!({"norm_topk_prob": false, "attention_bias": false, "full_attention_interval": 4}));

/// What Qwen3-Next adds to [`Common`].
#[derive(Debug, Deserialize)]
struct Config {
    decoder_sparse_step: usize,
    mlp_only_layers: Vec<usize>,
}

/// What Qwen3-Next and Qwen3.5 share.
#[derive(Debug, Deserialize)]
pub(super) struct Hybrid {
    linear_conv_kernel_dim: i32,
    full_attention_interval: usize,
    attention_bias: bool,
    num_experts: i32,
    num_experts_per_tok: i32,
    moe_intermediate_size: i32,
    shared_expert_intermediate_size: i32,
    norm_topk_prob: bool,
    attn_output_gate: Option<bool>,
}

impl Hybrid {
    pub(super) fn check(&self, c: &Common) -> Result<()> {
        c.part::<DeltaHeads>()?.check()?;
        within("full_attention_interval", i32::try_from(self.full_attention_interval).unwrap_or(0), i32::MAX)?;
        within("linear_conv_kernel_dim", self.linear_conv_kernel_dim, MAX_WIDTH)?;
        unsupported(c, "hidden_act", c.activation(Activation::Silu)? != Activation::Silu)?;
        always_on(c, "attn_output_gate", self.attn_output_gate != Some(false))?;
        match self.has_experts() {
            false => Ok(()),
            true => all_within(&[
                ("num_experts", self.num_experts),
                ("moe_intermediate_size", self.moe_intermediate_size),
                ("shared_expert_intermediate_size", self.shared_expert_intermediate_size),
            ]),
        }
    }

    pub(super) fn has_experts(&self) -> bool {
        self.num_experts != 0
    }

    /// Whether a layer is a delta net: what `layer_types` says, or all but the last of each group.
    pub(super) fn is_linear(&self, c: &Common, layer: usize) -> Result<bool> {
        match c.layer_type(layer)? {
            None => Ok((layer + 1) % self.full_attention_interval != 0),
            Some("linear_attention") => Ok(true),
            Some("full_attention") => Ok(false),
            Some(other) => {
                let expected = "expected `full_attention` or `linear_attention`";
                Err(Error::config(format!("`layer_types[{layer}]` is `{other}`; {expected}")))
            }
        }
    }

    pub(super) fn attention(&self, w: &Weights, c: &Common) -> Result<GateInQuery> {
        GateInQuery::load(w, c, self.attention_bias)
    }

    pub(super) fn delta(&self, w: &Weights, c: &Common, pinned: bool) -> Result<DeltaNet> {
        DeltaNet::load(w, c, self.linear_conv_kernel_dim, pinned)
    }

    /// Experts, and an MLP that every token takes a share of.
    pub(super) fn moe(&self, w: &Weights, c: &Common) -> Result<Moe> {
        let routing =
            Routing { normalized: self.norm_topk_prob, ..Routing::top(self.num_experts_per_tok, Score::Softmax) };
        let router = Router::load(w, MoeNames::QWEN, (c.hidden_size, self.num_experts), routing)?;
        let (dims, act) = (c.hidden_size, c.activation(Activation::Silu)?);
        let sizes = (dims, self.moe_intermediate_size);
        let experts = Experts::gated(&w.at(MoeNames::QWEN.experts), self.num_experts, sizes, act, false)?;
        let shared = Mlp::gated(&w.at(MoeNames::QWEN.shared), dims, self.shared_expert_intermediate_size, act)?;
        Moe::new(MoeNames::QWEN, router, experts).shared(Some(shared)).gated(w, dims)
    }

    /// The block of a head that predicts further tokens: attention, and experts if the model has some.
    pub(super) fn mtp_block(w: &Weights, c: &Common) -> Result<Box<dyn Block>> {
        let hybrid: Self = c.part()?;
        let mixer: AnyMixer = ("self_attn", Box::new(hybrid.attention(&w.at("self_attn"), c)?));
        let mlp: Box<dyn FeedForward> = match hybrid.has_experts() {
            true => Box::new(hybrid.moe(&w.at("mlp"), c)?),
            false => Box::new(Mlp::of(&w.at("mlp"), c)?),
        };
        Self::block(w, c, mixer, mlp)
    }

    /// The block of these halves.
    pub(super) fn block(w: &Weights, c: &Common, mixer: AnyMixer, mlp: Box<dyn FeedForward>) -> Result<Box<dyn Block>> {
        let (mixer, mixes) = mixer;
        let names = BlockNames { mixer, ..BlockNames::PRE };
        Ok(Box::new(PreNormBlock::named(w, c, names, mixes, mlp)?))
    }
}

/// The names of a head that predicts further tokens.
pub(super) const MTP: MtpNames = MtpNames {
    place: MtpPlace::One("mtp"),
    token_norm: "pre_fc_norm_embedding",
    state_norm: "pre_fc_norm_hidden",
    joint: "fc",
    block: "layers.0",
    norm: "norm",
    copies: &[],
    state_first: false,
    before_norm: false,
};

/// A mixer and its name.
pub(super) type AnyMixer = (&'static str, Box<dyn Mixer>);

/// What has to be done to files of transformers, which are known by their filters or by experts that are not stacked: norms, which are
/// stored minus one, are completed. A head that predicts further tokens may have come from another file than the rest, and is known by
/// its own experts too.
pub(super) fn rules() -> Vec<Rule> {
    const FILTERS: &str = "**.linear_attn.conv1d.weight";
    const NORMS: [&str; 5] = [
        "model.layers.*.input_layernorm.weight",
        "model.layers.*.post_attention_layernorm.weight",
        "model.norm.weight",
        "model.layers.*.self_attn.q_norm.weight",
        "model.layers.*.self_attn.k_norm.weight",
    ];
    const NORMS_OF_HEAD: [&str; 7] = [
        "mtp.pre_fc_norm_embedding.weight",
        "mtp.pre_fc_norm_hidden.weight",
        "mtp.layers.*.input_layernorm.weight",
        "mtp.layers.*.post_attention_layernorm.weight",
        "mtp.norm.weight",
        "mtp.layers.*.self_attn.q_norm.weight",
        "mtp.layers.*.self_attn.k_norm.weight",
    ];
    let complete = |tensors: &mut Tensors| {
        let mut has = |pattern: &str| matching(tensors, pattern).next().is_some();
        let (is_single, is_single_in_head) =
            (has("model.layers.*.mlp.experts.0.up_proj.weight"), has("mtp.layers.*.mlp.experts.0.up_proj.weight"));
        let is_fused_in_head = has("mtp.layers.*.mlp.experts.gate_up_proj");
        let is_original = is_single || matching(tensors, FILTERS).any(|(_, filters)| filters.dim(-1) != 1);
        let add_one = |norms: &[&'static str], tensors: &mut Tensors| {
            norms.iter().try_for_each(|norm| Rule::AddOne(norm).apply(tensors))
        };
        if is_original {
            add_one(&NORMS, tensors)?;
        }
        if is_original || is_single_in_head || is_fused_in_head {
            add_one(&NORMS_OF_HEAD, tensors)?;
        }
        Ok(())
    };
    let mut rules = vec![Rule::custom(complete), Rule::depthwise(FILTERS)];
    rules.extend(Rule::stack_experts("**.mlp.experts.*", "**.mlp.switch_mlp", &SAME));
    rules
}

impl DecoderConfig for Config {
    fn check(&self, c: &Common) -> Result<()> {
        within("decoder_sparse_step", i32::try_from(self.decoder_sparse_step).unwrap_or(0), i32::MAX)?;
        c.part::<Hybrid>()?.check(c)
    }

    fn rules(&self, _c: &Common) -> Result<Vec<Rule>> {
        Ok(rules())
    }

    fn block(&self, w: &Weights, c: &Common, layer: usize) -> Result<Box<dyn Block>> {
        let hybrid: Hybrid = c.part()?;
        let mixer: AnyMixer = match hybrid.is_linear(c, layer)? {
            true => {
                let at = w.at("linear_attn");
                ("linear_attn", Box::new(InterleavedDelta::load(&at, c, hybrid.delta(&at, c, false)?)?))
            }
            false => ("self_attn", Box::new(hybrid.attention(&w.at("self_attn"), c)?)),
        };
        let is_sparse = (layer + 1) % self.decoder_sparse_step == 0 && !self.mlp_only_layers.contains(&layer);
        let mlp: Box<dyn FeedForward> = match is_sparse && hybrid.has_experts() {
            true => Box::new(hybrid.moe(&w.at("mlp"), c)?),
            false => Box::new(Mlp::of(&w.at("mlp"), c)?),
        };
        Hybrid::block(w, c, mixer, mlp)
    }

    fn mtp(&self) -> Option<MtpNames> {
        Some(MTP)
    }

    fn mtp_block(&self, w: &Weights, c: &Common, _head: usize) -> Result<Box<dyn Block>> {
        Hybrid::mtp_block(w, c)
    }
}
