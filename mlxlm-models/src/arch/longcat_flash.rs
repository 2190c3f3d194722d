//! LongCat-Flash: two blocks of latent attention and dense MLPs in one, with a mixture of experts beside them (arXiv:2509.01322).
//!
//! Ports `mlx_lm/models/longcat_flash.py` @ 0.32.2. Unusual:
//! - The experts read the first half's state, and their answer is added at the end of the second.
//! - Some experts are no MLP: what a token sends to them comes back as it is.
//! - Queries and latents are multiplied by the root of the widths that they were narrowed by.
//!
//! Differences: those factors may be left out.

use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::decoder::<Config>(&["longcat_flash"]).aliases(ALIASES);

/// Its own names of what others call otherwise.
pub(super) const ALIASES: &[(&str, &str)] =
    &[("num_layers", "num_hidden_layers"), ("ffn_hidden_size", "intermediate_size")];

/// The norms of latents and narrow queries have this of their own.
const EPS: f32 = 1e-5;

/// What LongCat-Flash adds to [`Common`] and [`LatentConfig`].
#[derive(Debug, Deserialize)]
pub(super) struct Config {
    attention_method: Option<String>,
    zero_expert_type: Option<String>,
    moe_topk: i32,
    expert_ffn_hidden_size: i32,
    n_routed_experts: i32,
    zero_expert_num: i32,
    routed_scaling_factor: f32,
    mla_scale_q_lora: bool,
    mla_scale_kv_lora: bool,
    #[serde(default)]
    norm_topk_prob: bool,
    #[serde(default)]
    router_bias: bool,
}

impl Config {
    /// Attention `i` of a block, whose list of them is at `w`.
    fn attention(&self, w: &Weights, c: &Common, i: usize) -> Result<LatentAttention> {
        let latent = LatentConfig::of(c)?;
        let root = |is_on: bool, width: i32| is_on.then(|| (c.hidden_size as f32 / width as f32).sqrt());
        let queries = latent.q_lora_rank.and_then(|width| root(self.mla_scale_q_lora, width));
        let latents = root(self.mla_scale_kv_lora, latent.kv_lora_rank);
        let rope = latent.rope(c)?;
        LatentAttention::load(&w.at(i), LatentHeads::of(c, latent, rope, EPS)?.factors(queries, latents))
    }

    fn experts(&self, w: &Weights, c: &Common) -> Result<SomeExperts> {
        let routing = Routing {
            corrected: true,
            normalized: self.norm_topk_prob,
            scale: self.routed_scaling_factor,
            biased: self.router_bias,
            ..Routing::top(self.moe_topk, Score::Softmax)
        };
        let sizes = (c.hidden_size, self.expert_ffn_hidden_size);
        let act = c.activation(Activation::Silu)?;
        Ok(SomeExperts {
            router: Router::load(w, NAMES, (c.hidden_size, self.n_routed_experts + self.zero_expert_num), routing)?,
            switch_mlp: Experts::gated(&w.at(NAMES.experts), self.n_routed_experts, sizes, act, false)?,
            count: self.n_routed_experts,
        })
    }
}

impl DecoderConfig for Config {
    fn check(&self, c: &Common) -> Result<()> {
        within("n_routed_experts", self.n_routed_experts, MAX_WIDTH)?;
        within("expert_ffn_hidden_size", self.expert_ffn_hidden_size, MAX_WIDTH)?;
        if self.zero_expert_num != 0 {
            within("zero_expert_num", self.zero_expert_num, MAX_WIDTH)?;
        }
        let is_not = |value: &Option<String>, known: &str| value.as_deref().is_some_and(|value| value != known);
        unsupported(c, "attention_method", is_not(&self.attention_method, "MLA"))?;
        unsupported(c, "zero_expert_type", is_not(&self.zero_expert_type, "identity"))?;
        LatentConfig::of(c).map(drop)
    }

    fn rules(&self, c: &Common) -> Result<Vec<Rule>> {
        let mut rules = vec![Rule::Drop("model.mtp")];
        rules.extend(Rule::stack_experts("**.mlp.experts.*", "**.mlp.switch_mlp", &SAME));
        rules.push(LatentConfig::of(c)?.rule(c)?);
        Ok(rules)
    }

    fn block(&self, w: &Weights, c: &Common, _layer: usize) -> Result<Box<dyn Block>> {
        let eps = c.rms_norm_eps()?;
        let both = |load: &dyn Fn(usize) -> Result<Norm>| -> Result<Vec<Norm>> { Ok(vec![load(0)?, load(1)?]) };
        let norms = |name: &str| both(&|i| Ok(Norm::rms(&w.at(name).at(i), c.hidden_size, eps)?));
        let (attention, mlps) = (w.at("self_attn"), w.at("mlps"));
        Ok(Box::new(LongcatBlock {
            input_layernorm: norms("input_layernorm")?,
            self_attn: vec![self.attention(&attention, c, 0)?, self.attention(&attention, c, 1)?],
            post_attention_layernorm: norms("post_attention_layernorm")?,
            mlps: vec![Mlp::of(&mlps.at(0), c)?, Mlp::of(&mlps.at(1), c)?],
            mlp: self.experts(&w.at("mlp"), c)?,
        }))
    }
}

/// Two blocks in one.
#[derive(Debug)]
struct LongcatBlock {
    input_layernorm: Vec<Norm>,
    self_attn: Vec<LatentAttention>,
    post_attention_layernorm: Vec<Norm>,
    mlps: Vec<Mlp>,
    mlp: SomeExperts,
}

module!(LongcatBlock { input_layernorm, self_attn, post_attention_layernorm, mlps, mlp });

impl Block for LongcatBlock {
    fn forward(&self, x: &Array, step: &mut Step) -> Result<Array> {
        let (mut x, mut beside) = (x.clone(), None);
        let halves =
            self.input_layernorm.iter().zip(&self.self_attn).zip(&self.post_attention_layernorm).zip(&self.mlps);
        for (i, (((before, attention), after), mlp)) in halves.enumerate() {
            let mixed = attention.forward(&before.forward(&x)?, &mut step.part(i)?)?;
            let [h, normed] = after.forward_sum(&x, &mixed)?;
            if beside.is_none() {
                beside = Some(self.mlp.forward(&normed)?);
            }
            x = h.add(mlp.forward(&normed)?)?;
        }
        match beside {
            Some(beside) => Ok(x.add(beside)?),
            None => Ok(x),
        }
    }

    fn caches(&self) -> Vec<CacheKind> {
        vec![CacheKind::List(vec![CacheKind::Kv, CacheKind::Kv])]
    }
}

const NAMES: MoeNames =
    MoeNames { gate: "router.classifier", correction: "router.e_score_correction_bias", ..MoeNames::QWEN };

/// Experts of which those from `count` on give back what they get.
#[derive(Debug)]
struct SomeExperts {
    router: Router,
    switch_mlp: Experts,
    count: i32,
}

module!(SomeExperts { router as "", switch_mlp });

impl FeedForward for SomeExperts {
    fn forward(&self, x: &Array) -> Result<Array> {
        let (indices, shares) = self.router.forward(x)?;
        let shares = shares.as_dtype(x.dtype())?;
        let gives_back = indices.ge(Array::from_int(self.count).as_dtype(indices.dtype())?)?;
        let none = Array::from_f32(0.0).as_dtype(x.dtype())?;
        let first = Array::from_int(0).as_dtype(indices.dtype())?;
        let answers = self.switch_mlp.forward(x, &ops::select(&gives_back, first, &indices)?)?;
        let asked = ops::select(&gives_back, &none, &shares)?;
        let y = answers.multiply(asked.expand_dims(-1)?)?.sum_axis(-2, false)?;
        let back = ops::select(&gives_back, &shares, &none)?.sum_axis(-1, true)?;
        Ok(y.add(x.multiply(back)?)?)
    }
}
