//! Granite 4: mixers of Mamba-2 with attention in a few layers; all layers have experts beside a shared MLP, or all have one MLP.
//!
//! Ports `mlx_lm/models/granitemoehybrid.py` @ 0.32.2. Source: the model cards of Granite 4.0. Unusual: embeddings, scores,
//! branches and logits have multipliers, and positions are rotated or not known at all. Differences: `rope_scaling` and a null for
//! `position_embedding_type` act, as in transformers.

use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::decoder::<Config>(&["granitemoehybrid"])
    .defaults(|| json!({"mlp_bias": false, "position_embedding_type": "rope", "tie_word_embeddings": true}));

const MOE: MoeNames = MoeNames { gate: "router.layer", ..MoeNames::QWEN };
const SHARED: MlpNames = MlpNames { up: "input_linear", down: "output_linear", ..MlpNames::FUSED };

/// What Granite 4 adds to [`Common`].
#[derive(Debug, Deserialize)]
struct Config {
    attention_bias: bool,
    embedding_multiplier: f32,
    attention_multiplier: f32,
    logits_scaling: f32,
    residual_multiplier: f32,
    #[serde(default)]
    num_local_experts: i32,
    #[serde(default)]
    num_experts_per_tok: i32,
    #[serde(default)]
    shared_intermediate_size: i32,
    mlp_bias: bool,
    #[serde(default)]
    mamba_n_heads: i32,
    #[serde(default)]
    mamba_d_head: i32,
    #[serde(default)]
    mamba_proj_bias: bool,
    #[serde(default)]
    mamba_d_state: i32,
    #[serde(default)]
    mamba_d_conv: i32,
    #[serde(default)]
    mamba_n_groups: i32,
    #[serde(default)]
    mamba_conv_bias: bool,
    time_step_limit: Option<StepLimits>,
}

/// What a null means something in.
#[derive(Debug, Deserialize)]
struct Positions {
    position_embedding_type: Option<String>,
}

impl Config {
    fn has_experts(&self) -> bool {
        self.num_local_experts != 0
    }

    fn attention(&self, w: &Weights, c: &Common) -> Result<Attention> {
        let Positions { position_embedding_type } = c.part()?;
        let rope = match position_embedding_type.as_deref() {
            None | Some("nope") => Rope::none_of(c),
            _ => Rope::from(c)?,
        };
        let heads = Heads::grouped(c, rope)?.scale(self.attention_multiplier).bias(Bias::all(self.attention_bias));
        Attention::load(w, heads)
    }

    fn mamba(&self, w: &Weights, c: &Common) -> Result<Mamba2> {
        all_within(&[
            ("mamba_n_heads", self.mamba_n_heads),
            ("mamba_d_head", self.mamba_d_head),
            ("mamba_d_state", self.mamba_d_state),
            ("mamba_d_conv", self.mamba_d_conv),
            ("mamba_n_groups", self.mamba_n_groups),
        ])?;
        let (count, dim) = (self.mamba_n_heads, self.mamba_d_head);
        let config = Mamba2Config {
            hidden: c.hidden_size,
            heads: ScanHeads { count, dim, groups: self.mamba_n_groups, state: self.mamba_d_state },
            conv: self.mamba_d_conv,
            conv_biased: self.mamba_conv_bias,
            in_biased: self.mamba_proj_bias,
            out_biased: self.mamba_proj_bias,
            limits: self.time_step_limit.unwrap_or(StepLimits::USUAL),
            norm: GateNorm::After { eps: c.rms_norm_eps()?, groups: 1 },
            pinned: false,
        };
        Mamba2::load(w, config)
    }

    fn moe(&self, w: &Weights, c: &Common) -> Result<GraniteMoe> {
        let (dims, at) = (c.hidden_size, w.at("block_sparse_moe"));
        let routing = Routing::top(self.num_experts_per_tok, Score::SoftmaxOfChosen);
        let router = Router::load(&at, MOE, (dims, self.num_local_experts), routing)?;
        let act = c.activation(Activation::Silu)?;
        let sizes = (dims, c.intermediate_size()?);
        let experts = Experts::gated(&at.at(MOE.experts), self.num_local_experts, sizes, act, false)?;
        let shared = Mlp::fused(&w.at("shared_mlp"), SHARED, dims, self.shared_intermediate_size, act)?;
        Ok(GraniteMoe { block_sparse_moe: Moe::new(MOE, router, experts), shared_mlp: shared })
    }
}

/// Experts and the MLP that every token takes, which stands beside them.
#[derive(Debug)]
struct GraniteMoe {
    block_sparse_moe: Moe,
    shared_mlp: Mlp,
}

module!(GraniteMoe { block_sparse_moe, shared_mlp });

impl FeedForward for GraniteMoe {
    fn forward(&self, x: &Array) -> Result<Array> {
        Ok(self.block_sparse_moe.forward(x)?.add(self.shared_mlp.forward(x)?)?)
    }
}

impl DecoderConfig for Config {
    fn check(&self, _c: &Common) -> Result<()> {
        positive("logits_scaling", self.logits_scaling)?;
        match self.has_experts() {
            false => Ok(()),
            true => all_within(&[
                ("num_local_experts", self.num_local_experts),
                ("shared_intermediate_size", self.shared_intermediate_size),
            ]),
        }
    }

    fn rules(&self, _c: &Common) -> Result<Vec<Rule>> {
        let mut rules = vec![Rule::depthwise("**.conv1d.weight")];
        rules.extend(match self.has_experts() {
            true => [
                Rule::Halve { leaf: "**.block_sparse_moe.input_linear", into: ["gate_proj", "up_proj"] },
                Rule::Rename("**.block_sparse_moe.gate_proj", "**.block_sparse_moe.switch_mlp.gate_proj"),
                Rule::Rename("**.block_sparse_moe.up_proj", "**.block_sparse_moe.switch_mlp.up_proj"),
                Rule::Rename("**.block_sparse_moe.output_linear", "**.block_sparse_moe.switch_mlp.down_proj"),
            ],
            false => [
                Rule::Halve { leaf: "**.shared_mlp.input_linear", into: ["gate_proj", "up_proj"] },
                Rule::Rename("**.shared_mlp.gate_proj", "**.mlp.gate_proj"),
                Rule::Rename("**.shared_mlp.up_proj", "**.mlp.up_proj"),
                Rule::Rename("**.shared_mlp.output_linear", "**.mlp.down_proj"),
            ],
        });
        Ok(rules)
    }

    fn frame(&self, w: &Weights, c: &Common) -> Result<Frame> {
        let norm = Norm::rms(&w.at(LLAMA.norm), c.hidden_size, c.rms_norm_eps()?)?;
        let (embedding_scale, logit_scale) = (Some(self.embedding_multiplier), Some(1.0 / self.logits_scaling));
        Ok(Frame { embedding_scale, logit_scale, ..Frame::new(c, norm) })
    }

    fn block(&self, w: &Weights, c: &Common, layer: usize) -> Result<Box<dyn Block>> {
        let (mixer, mixes): (_, Box<dyn Mixer>) = match c.layer_type(layer)? {
            Some("mamba") => ("mamba", Box::new(self.mamba(&w.at("mamba"), c)?)),
            Some("attention") => ("self_attn", Box::new(self.attention(&w.at("self_attn"), c)?)),
            Some(other) => {
                let expected = "expected `attention` or `mamba`";
                return Err(Error::config(format!("`layer_types[{layer}]` is `{other}`; {expected}")));
            }
            None => return Err(missing("layer_types")),
        };
        let block = match self.has_experts() {
            true => {
                let names = BlockNames { mixer, mlp: "", ..BlockNames::PRE };
                PreNormBlock::named(w, c, names, mixes, self.moe(w, c)?)?
            }
            false => {
                let (width, act) = (c.intermediate_size()?, c.activation(Activation::Silu)?);
                let mlp = Mlp::gated_biased(&w.at("mlp"), c.hidden_size, width, act, self.mlp_bias)?;
                PreNormBlock::named(w, c, BlockNames { mixer, ..BlockNames::PRE }, mixes, mlp)?
            }
        };
        Ok(Box::new(block.branch_scale(self.residual_multiplier)))
    }
}
