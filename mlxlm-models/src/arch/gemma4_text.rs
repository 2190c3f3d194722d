//! Gemma 4: Gemma 3n's inputs for each layer and borrowed keys and values in a stack of one stream, with experts beside the MLP
//! in the larger ones (Google, 2026).
//!
//! Ports `mlx_lm/models/gemma4_text.py` @ 0.32.2. Unusual:
//! - Full layers have heads of their own width, of which a share is rotated, and their values may be their keys.
//! - Layers that borrow keys and values have no projections for them, and MLPs twice as wide.
//! - The router reads the state as it is, with a norm of its own.

use serde_json::Value;

use crate::blocks::lent::{self, LentAttention, LentHeads};
use crate::blocks::per_layer::{PerLayerGate, PerLayerInputs};
use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::decoder::<Config>(&["gemma4_text"]).defaults(|| {
    json!({
        "attention_k_eq_v": false, "enable_moe_block": false, "final_logit_softcapping": 30.0,
        "global_head_dim": 512, "head_dim": 256, "hidden_size": 1536, "hidden_size_per_layer_input": 256,
        "intermediate_size": 6144, "max_position_embeddings": 131_072, "num_attention_heads": 8,
        "num_hidden_layers": 35, "num_key_value_heads": 1, "num_kv_shared_layers": 20,
        "rope_parameters": {
            "full_attention": {"partial_rotary_factor": 0.25, "rope_theta": 1e6, "rope_type": "proportional"},
            "sliding_attention": {"rope_theta": 1e4, "rope_type": "default"},
        },
        "sliding_window": 512, "sliding_window_pattern": 5, "tie_word_embeddings": true,
        "use_double_wide_mlp": true, "vocab_size": 262_144, "vocab_size_per_layer_input": 262_144,
    })
});

/// What Gemma 4 adds to [`Common`].
#[derive(Debug, Deserialize)]
struct Config {
    attention_k_eq_v: bool,
    enable_moe_block: bool,
    final_logit_softcapping: Option<f32>,
    global_head_dim: i32,
    hidden_size_per_layer_input: i32,
    moe_intermediate_size: Option<i32>,
    num_experts: Option<i32>,
    num_global_key_value_heads: Option<i32>,
    num_kv_shared_layers: i32,
    sliding_window_pattern: i32,
    top_k_experts: Option<i32>,
    /// `vision` changes images only.
    use_bidirectional_attention: Option<Value>,
    use_double_wide_mlp: bool,
    vocab_size_per_layer_input: i32,
}

impl Config {
    /// The last layer of each group attends to everything.
    fn slides(&self, c: &Common, layer: usize) -> Result<bool> {
        c.slides(layer, (layer as i32 + 1) % self.sliding_window_pattern != 0)
    }

    fn borrows(&self, c: &Common, layer: usize) -> bool {
        layer >= lent::first_borrower(c, self.num_kv_shared_layers)
    }

    fn attention(&self, w: &Weights, c: &Common, layer: usize) -> Result<LentAttention> {
        let (usual, slides) = (c.heads()?, self.slides(c, layer)?);
        let dim = if slides || self.global_head_dim == 0 { usual.dim } else { self.global_head_dim };
        let values_are_keys = self.attention_k_eq_v && !slides;
        let kv_count = self.num_global_key_value_heads.filter(|_| values_are_keys).unwrap_or(usual.kv_count);
        let kind = if slides { "sliding_attention" } else { "full_attention" };
        let borrows = self.borrows(c, layer);
        let heads = LentHeads {
            hidden: c.hidden_size,
            counts: HeadCounts::checked(usual.count, kv_count, dim)?,
            eps: c.rms_norm_eps()?,
            rope: Rope::partial_of(&c.rope().of_type(kind), dim)?,
            window: c.window(layer, slides)?,
            borrows,
            has_keys: !borrows,
            values_are_keys,
        };
        LentAttention::load(w, heads)
    }

    fn sparse(&self, w: &Weights, c: &Common) -> Result<Sparse> {
        let entry = |name: &str, value: Option<i32>| {
            let number = value.ok_or_else(|| missing(name))?;
            within(name, number, MAX_WIDTH).map(|()| number)
        };
        let (count, chosen) = (entry("num_experts", self.num_experts)?, entry("top_k_experts", self.top_k_experts)?);
        let sizes = (c.hidden_size, entry("moe_intermediate_size", self.moe_intermediate_size)?);
        let norm = |name: &str| Ok::<_, Error>(Norm::rms(&w.at(name), c.hidden_size, c.rms_norm_eps()?)?);
        let (router, act) = (w.at("router"), c.activation(Activation::GeluApprox)?);
        let names = MoeNames { gate: "proj", ..MoeNames::QWEN };
        let routing = Routing::top(chosen, Score::SoftmaxOfChosen);
        Ok(Sparse {
            router: ScaledRouter {
                map: Router::load(&router, names, (c.hidden_size, count), routing)?,
                scale: Parameter::load(&router.at("scale"), &[c.hidden_size], Init::Ones)?,
                per_expert_scale: Parameter::load(&router.at("per_expert_scale"), &[count], Init::Ones)?,
                eps: c.rms_norm_eps()?,
            },
            experts: Experts::gated(&w.at("experts.switch_glu"), count, sizes, act, false)?,
            post_feedforward_layernorm_1: norm("post_feedforward_layernorm_1")?,
            post_feedforward_layernorm_2: norm("post_feedforward_layernorm_2")?,
            pre_feedforward_layernorm_2: norm("pre_feedforward_layernorm_2")?,
        })
    }
}

impl DecoderConfig for Config {
    fn check(&self, c: &Common) -> Result<()> {
        within("sliding_window_pattern", self.sliding_window_pattern, i32::MAX)?;
        let sees_ahead = self.use_bidirectional_attention.as_ref();
        let sees_ahead = sees_ahead.is_some_and(|value| *value == json!("all") || *value == json!(true));
        unsupported(c, "use_bidirectional_attention", sees_ahead)?;
        lent::check(c, self.num_kv_shared_layers, |layer| self.slides(c, layer))
    }

    fn rules(&self, c: &Common) -> Result<Vec<Rule>> {
        const UNUSED: [&str; 5] =
            ["**.input_max", "**.input_min", "**.output_max", "**.output_min", "**.self_attn.rotary_emb"];
        let borrowers = lent::first_borrower(c, self.num_kv_shared_layers)..self.layers(c);
        let unused = Rule::custom(move |tensors| {
            for layer in borrowers.clone() {
                for part in ["k_norm", "k_proj", "v_proj"] {
                    let start = format!("model.layers.{layer}.self_attn.{part}.");
                    tensors.retain(|name, _| !name.starts_with(&start));
                }
            }
            Ok(())
        });
        let cut = Rule::CutExperts { from: "**.experts", to: "**.experts.switch_glu", transposed: false };
        Ok(UNUSED.map(Rule::Drop).into_iter().chain([unused, cut]).collect())
    }

    fn frame(&self, w: &Weights, c: &Common) -> Result<Frame> {
        let names = self.names();
        let norm = Norm::rms(&w.at(names.norm), c.hidden_size, c.rms_norm_eps()?)?;
        let sizes = (self.vocab_size_per_layer_input, self.hidden_size_per_layer_input);
        let entry = match self.hidden_size_per_layer_input {
            0 => None,
            _ => Some(Box::new(PerLayerInputs::load(&w.at(names.root), c, sizes)?) as Box<dyn Block>),
        };
        Ok(Frame {
            entry,
            embedding_scale: Some((c.hidden_size as f32).sqrt()),
            logit_softcap: self.final_logit_softcapping,
            ..Frame::new(c, norm)
        })
    }

    fn block(&self, w: &Weights, c: &Common, layer: usize) -> Result<Box<dyn Block>> {
        let norm = |name: &str| Ok::<_, Error>(Norm::rms(&w.at(name), c.hidden_size, c.rms_norm_eps()?)?);
        let is_wide = self.use_double_wide_mlp && self.borrows(c, layer);
        let width = c.intermediate_size()? * if is_wide { 2 } else { 1 };
        let act = c.activation(Activation::GeluApprox)?;
        let inputs = Some(self.hidden_size_per_layer_input).filter(|width| *width != 0);
        Ok(Box::new(Gemma4Block {
            input_layernorm: norm("input_layernorm")?,
            self_attn: self.attention(&w.at("self_attn"), c, layer)?,
            post_attention_layernorm: norm("post_attention_layernorm")?,
            pre_feedforward_layernorm: norm("pre_feedforward_layernorm")?,
            mlp: Mlp::gated(&w.at("mlp"), c.hidden_size, width, act)?,
            sparse: self.enable_moe_block.then(|| self.sparse(w, c)).transpose()?,
            post_feedforward_layernorm: norm("post_feedforward_layernorm")?,
            per_layer: inputs.map(|width| PerLayerGate::load(w, c, width)).transpose()?,
            layer_scalar: Parameter::load(&w.at("layer_scalar"), &[1], Init::Ones)?,
        }))
    }
}

/// A block with norms before and after each half, which ends in a factor.
#[derive(Debug)]
struct Gemma4Block {
    input_layernorm: Norm,
    self_attn: LentAttention,
    post_attention_layernorm: Norm,
    pre_feedforward_layernorm: Norm,
    mlp: Mlp,
    sparse: Option<Sparse>,
    post_feedforward_layernorm: Norm,
    per_layer: Option<PerLayerGate>,
    layer_scalar: Parameter,
}

module!(Gemma4Block {
    input_layernorm,
    self_attn,
    post_attention_layernorm,
    pre_feedforward_layernorm,
    mlp,
    sparse as "",
    post_feedforward_layernorm,
    per_layer as "",
    layer_scalar,
});

impl Block for Gemma4Block {
    fn forward(&self, x: &Array, step: &mut Step) -> Result<Array> {
        let attended = self.self_attn.forward(&self.input_layernorm.forward(x)?, step)?;
        let attended = self.post_attention_layernorm.forward(&attended)?;
        let [h, normed] = self.pre_feedforward_layernorm.forward_sum(x, &attended)?;
        let mut thought = self.mlp.forward(&normed)?;
        if let Some(sparse) = &self.sparse {
            thought = sparse.join(&thought, &h)?;
        }
        let mut h = h.add(self.post_feedforward_layernorm.forward(&thought)?)?;
        if let Some(gate) = &self.per_layer {
            h = h.add(gate.forward(&h, step)?)?;
        }
        Ok(h.multiply(&self.layer_scalar.value)?)
    }

    fn caches(&self) -> Vec<CacheKind> {
        self.self_attn.caches()
    }
}

/// Experts beside an MLP.
#[derive(Debug)]
struct Sparse {
    router: ScaledRouter,
    experts: Experts,
    post_feedforward_layernorm_1: Norm,
    post_feedforward_layernorm_2: Norm,
    pre_feedforward_layernorm_2: Norm,
}

module!(Sparse {
    router,
    experts as "experts.switch_glu",
    post_feedforward_layernorm_1,
    post_feedforward_layernorm_2,
    pre_feedforward_layernorm_2,
});

impl Sparse {
    /// What the MLP and the experts make of the state `h`, each normed.
    fn join(&self, of_mlp: &Array, h: &Array) -> Result<Array> {
        let (chosen, shares) = self.router.forward(h)?;
        let answers = self.experts.forward(&self.pre_feedforward_layernorm_2.forward(h)?, &chosen)?;
        let answer = answers.multiply(shares.expand_dims(-1)?)?.sum_axis(-2, false)?;
        let of_mlp = self.post_feedforward_layernorm_1.forward(of_mlp)?;
        Ok(of_mlp.add(self.post_feedforward_layernorm_2.forward(&answer)?)?)
    }
}

/// A router with a norm of its own, and a factor for each expert.
#[derive(Debug)]
struct ScaledRouter {
    map: Router,
    scale: Parameter,
    per_expert_scale: Parameter,
    eps: f32,
}

module!(ScaledRouter { map as "", scale, per_expert_scale });

impl ScaledRouter {
    /// The chosen experts and their shares.
    ///
    /// # Shapes
    /// - `x`: `[B, L, D]`, results: `[B, L, chosen]` each
    fn forward(&self, x: &Array) -> Result<(Array, Array)> {
        let root = Array::from_f32((x.dim(-1) as f32).powf(-0.5)).as_dtype(self.scale.dtype())?;
        let normed = fast::rms_norm(x, Some(&self.scale.multiply(root)?), self.eps)?;
        let (chosen, shares) = self.map.forward(&normed)?;
        let factors = self.per_expert_scale.take_axis(&chosen, 0)?;
        Ok((chosen, shares.multiply(factors)?))
    }
}
