//! MiMo-V2-Flash: sliding layers with sinks and heads of their own between full ones, values narrower than keys, and experts
//! chosen by a corrected sigmoid (arXiv:2601.02780).
//!
//! Ports `mlx_lm/models/mimo_v2_flash.py` @ 0.32.2. Unusual: values are scaled before they are remembered. Blocks that predict
//! further tokens are dropped. Differences: `rope_scaling` acts, as in transformers.

use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::decoder::<Config>(&["mimo_v2_flash"])
    .aliases(&[("layernorm_epsilon", "rms_norm_eps"), ("sliding_window_size", "sliding_window")]);

/// What `MiMo` adds to [`Common`].
#[derive(Debug, Deserialize)]
struct Config {
    num_experts_per_tok: i32,
    hybrid_layer_pattern: Vec<i32>,
    moe_layer_freq: Vec<i32>,
    add_swa_attention_sink_bias: bool,
    add_full_attention_sink_bias: bool,
    moe_intermediate_size: i32,
    n_shared_experts: Option<i32>,
    n_routed_experts: Option<i32>,
    routed_scaling_factor: Option<f32>,
    topk_method: String,
    scoring_func: String,
    norm_topk_prob: bool,
    n_group: i32,
    topk_group: i32,
    swa_rope_theta: f32,
    swa_num_attention_heads: i32,
    swa_num_key_value_heads: i32,
    v_head_dim: i32,
    swa_head_dim: i32,
    swa_v_head_dim: i32,
    attention_value_scale: Option<f32>,
    /// The window once more.
    attention_chunk_size: Option<i32>,
}

impl Config {
    fn slides(&self, layer: usize) -> Result<bool> {
        Ok(of_layer("hybrid_layer_pattern", &self.hybrid_layer_pattern, layer)? == 1)
    }

    fn experts(&self) -> Result<i32> {
        self.n_routed_experts.ok_or_else(|| missing("n_routed_experts"))
    }

    fn moe(&self, w: &Weights, c: &Common) -> Result<Moe> {
        let routing = Routing {
            normalized: self.norm_topk_prob && self.num_experts_per_tok > 1,
            scale: self.routed_scaling_factor.unwrap_or(1.0),
            precision: Precision::Dense,
            ..Routing::balanced(self.num_experts_per_tok, Groups::by_two(self.n_group, self.topk_group))
        };
        let shape = ExpertShape::of(c, self.moe_intermediate_size)?;
        let moe = Moe::load(w, MoeNames::DEEPSEEK, self.experts()?, shape, routing)?;
        moe.with_shared(w, self.n_shared_experts.unwrap_or(0), shape)
    }
}

impl DecoderConfig for Config {
    fn check(&self, c: &Common) -> Result<()> {
        within("moe_intermediate_size", self.moe_intermediate_size, MAX_WIDTH)?;
        if let Some(experts) = self.n_routed_experts {
            within("n_routed_experts", experts, MAX_WIDTH)?;
        }
        for (name, dim) in [("v_head_dim", self.v_head_dim), ("swa_v_head_dim", self.swa_v_head_dim)] {
            let heads = c.num_attention_heads()?.max(self.swa_num_attention_heads).max(1);
            within(name, dim, MAX_WIDTH / heads)?;
        }
        let is_other = self.attention_chunk_size.is_some() && self.attention_chunk_size != c.sliding_window()?;
        unsupported(c, "attention_chunk_size", is_other)?;
        unsupported(c, "topk_method", self.topk_method != "noaux_tc")?;
        unsupported(c, "scoring_func", self.scoring_func != "sigmoid")
    }

    fn rules(&self, _c: &Common) -> Result<Vec<Rule>> {
        let mut rules = vec![Rule::Drop("model.mtp")];
        rules.extend(Rule::stack_experts("**.mlp.experts.*", "**.mlp.switch_mlp", &SAME));
        Ok(rules)
    }

    fn frame(&self, w: &Weights, c: &Common) -> Result<Frame> {
        Frame::untied(w, c)
    }

    fn block(&self, w: &Weights, c: &Common, layer: usize) -> Result<Box<dyn Block>> {
        let attention = NarrowValues::load(&w.at("self_attn"), c, self, self.slides(layer)?)?;
        let mlp = w.at("mlp");
        Ok(Box::new(match of_layer("moe_layer_freq", &self.moe_layer_freq, layer)? == 1 {
            true => PreNormBlock::with(w, c, attention, self.moe(&mlp, c)?)?,
            false => PreNormBlock::with(w, c, attention, Mlp::of(&mlp, c)?)?,
        }))
    }
}

/// Attention whose values have a width of their own.
#[derive(Debug)]
struct NarrowValues {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    o_proj: Linear,
    attention_sink_bias: Option<Parameter>,
    counts: HeadCounts,
    rope: Rope,
    value_scale: Option<f32>,
    how: Attend,
}

module!(NarrowValues { q_proj, k_proj, v_proj, o_proj, attention_sink_bias });

impl NarrowValues {
    fn load(w: &Weights, c: &Common, own: &Config, slides: bool) -> Result<Self> {
        let (rope, full) = (c.rope().clone(), c.heads()?);
        let (counts, value_dim, has_sinks, rope) = match slides {
            true => (
                HeadCounts::checked(own.swa_num_attention_heads, own.swa_num_key_value_heads, own.swa_head_dim)?,
                own.swa_v_head_dim,
                own.add_swa_attention_sink_bias,
                rope.with_theta(own.swa_rope_theta),
            ),
            false => (full, own.v_head_dim, own.add_full_attention_sink_bias, rope),
        };
        let HeadCounts { count, kv_count, dim } = counts;
        let load = |w: &Weights, heads: i32| Linear::load(w, heads, c.hidden_size);
        let window = slides.then(|| c.sliding_window()?.ok_or_else(|| missing("sliding_window_size"))).transpose()?;
        let sinks = || Parameter::load(&w.at("attention_sink_bias"), &[count], Init::Ones);
        Ok(Self {
            q_proj: load(&w.at("q_proj").columns(), count * dim)?,
            k_proj: load(&counts.cut_keys(&w.at("k_proj")), kv_count * dim)?,
            v_proj: load(&counts.cut_keys(&w.at("v_proj")), kv_count * value_dim)?,
            o_proj: Linear::load(&w.at("o_proj").rows(), c.hidden_size, count * value_dim)?,
            attention_sink_bias: has_sinks.then(sinks).transpose()?,
            counts,
            rope: Rope::partial_of(&rope, dim)?,
            value_scale: own.attention_value_scale,
            how: Attend { window, ..Attend::scaled((dim as f32).powf(-0.5)) },
        })
    }
}

impl Mixer for NarrowValues {
    fn forward(&self, x: &Array, step: &mut Step) -> Result<Array> {
        let HeadCounts { count, kv_count, .. } = self.counts;
        let [q, k, mut v] = Linear::forward_all([&self.q_proj, &self.k_proj, &self.v_proj], x)?;
        if let Some(scale) = self.value_scale {
            v = v.multiply(Array::from_f32(scale).as_dtype(v.dtype())?)?;
        }
        let offset = step.offset();
        let q = self.rope.forward(&split_heads(&q, count)?, &offset)?;
        let k = self.rope.forward(&split_heads(&k, kv_count)?, &offset)?;
        let sinks = self.attention_sink_bias.as_ref().map(|sinks| sinks.value.clone());
        let out = step.attend(&q, &k, &split_heads(&v, kv_count)?, &Attend { sinks, ..self.how.clone() })?;
        Ok(self.o_proj.forward(&merge_heads(&out)?)?)
    }

    fn caches(&self) -> Vec<CacheKind> {
        vec![cache_of(self.how.window)]
    }
}
