//! Blocks on a stream in `f32` that gated branches are added to, with gated attention and experts in a narrower space: the parts of
//! Muse Spark.
//!
//! Ports `mlx_lm/models/muse_spark.py` @ 0.32.2.

use mlxlm_core::ops::indexing::{Ellipsis, TryIndexOp};

use crate::prelude::*;

/// What is added to the sum of the chosen scores.
pub(crate) const SCORE_EPS: f32 = 1e-15;

/// What Muse Spark adds to [`Common`].
#[derive(Debug, Deserialize)]
pub(crate) struct Config {
    pub(crate) post_norm_eps: f32,
    /// Zero for a layer that knows no positions.
    pub(crate) layer_rope_theta: Vec<f32>,
    pub(crate) final_logit_softcapping: f32,
    pub(crate) output_multiplier: f32,
    pub(crate) num_local_experts: i32,
    pub(crate) num_experts_per_tok: i32,
    pub(crate) moe_hidden_size: i32,
    pub(crate) moe_intermediate_size: i32,
    pub(crate) qk_scale_factor: f32,
    pub(crate) routed_scaling_factor: f32,
    pub(crate) num_shared_experts: i32,
    pub(crate) mlp_layer_types: Option<Vec<String>>,
}

/// The type of the embeddings, in which branches compute.
#[derive(Debug, Clone, Default)]
pub(crate) struct Narrow(Option<Dtype>);

pub(crate) fn narrow(x: &Array, step: &mut Step) -> Result<Array> {
    match step.carry::<Narrow>().0 {
        Some(dtype) => Ok(x.as_dtype(dtype)?),
        None => Ok(x.clone()),
    }
}

/// As [`narrow`], rounded to the type of the published weights before.
pub(crate) fn as_published(x: &Array, step: &mut Step) -> Result<Array> {
    narrow(&x.as_dtype(Dtype::Bfloat16)?, step)
}

/// What stands between embeddings and the stream.
#[derive(Debug)]
pub(crate) struct StreamEntry {
    pub(crate) norm: Norm,
}

module!(StreamEntry {});

impl Block for StreamEntry {
    fn forward(&self, x: &Array, step: &mut Step) -> Result<Array> {
        step.carry::<Narrow>().0 = Some(x.dtype());
        Ok(self.norm.forward(x)?.as_dtype(Dtype::Float32)?)
    }

    fn caches(&self) -> Vec<CacheKind> {
        Vec::new()
    }
}

/// The norm at the end of the stream.
#[derive(Debug)]
pub(crate) struct StreamExit {
    pub(crate) norm: Norm,
}

module!(StreamExit { norm });

impl Block for StreamExit {
    fn forward(&self, x: &Array, step: &mut Step) -> Result<Array> {
        as_published(&self.norm.forward(x)?, step)
    }

    fn caches(&self) -> Vec<CacheKind> {
        Vec::new()
    }
}

/// A block of the stream.
#[derive(Debug)]
pub(crate) struct StreamBlock {
    input_layernorm: Norm,
    self_attn: GatedHeads,
    pre_feedforward_layernorm: Norm,
    mlp: StreamMoe,
    post_feedforward_layernorm: Parameter,
    add_attn_alpha: Parameter,
    add_attn_beta: Parameter,
    add_ffn_alpha: Parameter,
    add_ffn_beta: Parameter,
    post_norm_eps: f32,
}

module!(StreamBlock {
    input_layernorm,
    self_attn,
    pre_feedforward_layernorm,
    mlp,
    post_feedforward_layernorm as "post_feedforward_layernorm.weight",
    add_attn_alpha,
    add_attn_beta,
    add_ffn_alpha,
    add_ffn_beta,
});

impl StreamBlock {
    pub(crate) fn load(w: &Weights, c: &Common, own: &Config, layer: usize) -> Result<Self> {
        let eps = c.rms_norm_eps()?;
        let norm = |name: &str| Norm::rms(&w.at(name), c.hidden_size, eps);
        let share = |name: &str| Parameter::load(&w.at(name).pinned(), &[c.hidden_size], Init::Ones);
        let post = w.at("post_feedforward_layernorm.weight");
        let is_packed = layer > 0 && layer + 1 < c.num_hidden_layers as usize;
        Ok(Self {
            input_layernorm: norm("input_layernorm")?,
            self_attn: GatedHeads::load(&w.at("self_attn"), c, own, layer)?,
            pre_feedforward_layernorm: norm("pre_feedforward_layernorm")?,
            mlp: StreamMoe::load(&w.at("mlp"), c, own, is_packed)?,
            post_feedforward_layernorm: Parameter::load(&post, &[c.hidden_size], Init::Ones)?,
            add_attn_alpha: share("add_attn_alpha")?,
            add_attn_beta: share("add_attn_beta")?,
            add_ffn_alpha: share("add_ffn_alpha")?,
            add_ffn_beta: share("add_ffn_beta")?,
            post_norm_eps: own.post_norm_eps,
        })
    }

    /// The stream with the normed branch: `alpha * stream + beta * norm(branch)`.
    ///
    /// # Shapes
    /// - `stream`: `[B, L, D]` of `f32`, `branch`: `[B, L, D]`, `alpha`, `beta`: `[D]`; result: `[B, L, D]` of `f32`
    pub(crate) fn sum(&self, stream: &Array, branch: &Array, alpha: &Array, beta: &Array) -> Result<Array> {
        let normed = fast::rms_norm(branch, None, self.post_norm_eps)?;
        Ok(wide(alpha)?.multiply(stream)?.add(wide(beta)?.multiply(wide(&normed)?)?)?)
    }
}

pub(crate) fn wide(x: &Array) -> Result<Array> {
    Ok(x.as_dtype(Dtype::Float32)?)
}

impl Block for StreamBlock {
    fn forward(&self, x: &Array, step: &mut Step) -> Result<Array> {
        let normed = self.input_layernorm.forward(x)?;
        let normed = if step.layer() == 0 { as_published(&normed, step)? } else { narrow(&normed, step)? };
        let branch = self.self_attn.forward(&normed, step)?;
        let h = self.sum(x, &branch, &self.add_attn_alpha, &self.add_attn_beta)?;
        let normed = narrow(&self.pre_feedforward_layernorm.forward(&h)?, step)?;
        let branch = self.mlp.forward(&normed)?;
        let branch = wide(&branch)?.multiply(wide(&self.post_feedforward_layernorm)?)?.as_dtype(branch.dtype())?;
        self.sum(&h, &branch, &self.add_ffn_alpha, &self.add_ffn_beta)
    }

    fn caches(&self) -> Vec<CacheKind> {
        self.self_attn.caches()
    }
}

/// Attention over normed heads, whose normed results a gate scales: one projection for queries, keys, values and gates.
#[derive(Debug)]
pub(crate) struct GatedHeads {
    qkvg_proj: Linear,
    o_proj: Linear,
    counts: HeadCounts,
    rope: Rope,
    eps: f32,
    query_scale: f32,
    how: Attend,
}

module!(GatedHeads { qkvg_proj, o_proj });

impl GatedHeads {
    pub(crate) fn load(w: &Weights, c: &Common, own: &Config, layer: usize) -> Result<Self> {
        let HeadCounts { count, kv_count, dim } = c.heads()?;
        let rope = match of_layer("layer_rope_theta", &own.layer_rope_theta, layer)? {
            0.0 => Rope::none(),
            _ => Rope::over(&c.rope().clone().traditional(), dim)?,
        };
        let (queries, keys) = (count * dim, kv_count * dim);
        let at = w.at("qkvg_proj").columns_of(&[queries, keys, keys, queries]);
        Ok(Self {
            qkvg_proj: Linear::load(&at, 2 * (queries + keys), c.hidden_size)?,
            o_proj: Linear::load(&w.at("o_proj").rows(), c.hidden_size, queries)?,
            counts: c.heads()?,
            rope,
            eps: c.rms_norm_eps()?,
            query_scale: own.qk_scale_factor,
            how: Attend { window: c.window(layer, false)?, ..Attend::scaled((dim as f32).powf(-0.5)) },
        })
    }
}

impl Mixer for GatedHeads {
    fn forward(&self, x: &Array, step: &mut Step) -> Result<Array> {
        let HeadCounts { count, kv_count, dim } = self.counts;
        let all = self.qkvg_proj.forward(x)?;
        let (queries, keys) = (count * dim, kv_count * dim);
        let at = |from: i32, to: i32| all.try_index((Ellipsis, from..to));
        let q = split_heads(&at(0, queries)?, count)?;
        let k = split_heads(&at(queries, queries + keys)?, kv_count)?;
        let v = split_heads(&at(queries + keys, queries + 2 * keys)?, kv_count)?;
        let gate = at(queries + 2 * keys, 2 * (queries + keys))?;
        let q = fast::rms_norm(&q, None, self.eps)?;
        let q = q.multiply(Array::from_f32(self.query_scale).as_dtype(q.dtype())?)?;
        let offset = step.offset();
        let q = self.rope.forward(&q, &offset)?;
        let k = self.rope.forward(&fast::rms_norm(&k, None, self.eps)?, &offset)?;
        let out = wide(&step.attend(&q, &k, &v, &self.how)?)?;
        let out = merge_heads(&fast::rms_norm(&out, None, self.eps)?)?;
        let out = out.multiply(ops::sigmoid(wide(&gate)?)?)?.as_dtype(x.dtype())?;
        Ok(self.o_proj.forward(&out)?)
    }

    fn caches(&self) -> Vec<CacheKind> {
        vec![cache_of(self.how.window)]
    }
}

/// Experts between two projections, one into a narrower space and one out of it.
#[derive(Debug)]
pub(crate) struct StreamMoe {
    gate: Parameter,
    correction: Parameter,
    pre_expert_proj: Linear,
    pre_expert_norm: Norm,
    experts: Experts,
    post_expert_norm: Parameter,
    post_expert_proj: Linear,
    chosen: i32,
    logit_scale: f32,
    scale: f32,
    post_norm_eps: f32,
}

module!(StreamMoe {
    gate as "gate.weight",
    correction as "gate.e_score_correction_bias",
    pre_expert_proj,
    pre_expert_norm,
    experts,
    post_expert_norm as "experts.post_expert_norm.weight",
    post_expert_proj,
});

impl StreamMoe {
    pub(crate) fn load(w: &Weights, c: &Common, own: &Config, is_packed: bool) -> Result<Self> {
        let (dims, dim, experts) = (c.hidden_size, own.moe_hidden_size, own.num_local_experts);
        let sizes = (dim, own.moe_intermediate_size);
        let at = w.at("experts").keep(if is_packed { Precision::Any } else { Precision::Dense });
        let init = Init::Normal((dims as f32).powf(-0.5));
        let correction = w.at("gate.e_score_correction_bias").pinned();
        Ok(Self {
            gate: Parameter::load(&w.at("gate.weight"), &[experts, dims], init)?,
            correction: Parameter::load(&correction, &[experts], Init::Zeros)?,
            pre_expert_proj: Linear::load(&w.at("pre_expert_proj"), dim, dims)?,
            pre_expert_norm: Norm::rms(&w.at("pre_expert_norm"), dim, c.rms_norm_eps()?)?,
            experts: Experts::gated(&at, experts, sizes, Activation::Silu, false)?,
            post_expert_norm: Parameter::load(&w.at("experts.post_expert_norm.weight"), &[dim], Init::Ones)?,
            post_expert_proj: Linear::load(&w.at("post_expert_proj"), dims, dim)?,
            chosen: own.num_experts_per_tok,
            logit_scale: own.output_multiplier,
            scale: own.routed_scaling_factor,
            post_norm_eps: own.post_norm_eps,
        })
    }

    /// The chosen experts and their shares, in `f32`: `[B, L, chosen]` each.
    pub(crate) fn route(&self, x: &Array) -> Result<[Array; 2]> {
        let logits = fast::linear(&wide(x)?, &wide(&self.gate)?)?;
        let scores = ops::sigmoid(logits.multiply(Array::from_f32(self.logit_scale))?)?;
        let worth = scores.add(wide(&self.correction)?)?.negative()?;
        let best = ops::argpartition_axis(worth, self.chosen - 1, -1)?.try_index((Ellipsis, ..self.chosen))?;
        let best = mlxlm_core::stop_gradient(&best)?;
        let shares = scores.take_along_axis(&best, -1)?;
        let sum = shares.sum_axis(-1, true)?.add(Array::from_f32(SCORE_EPS))?;
        Ok([best, shares.divide(sum)?.multiply(Array::from_f32(self.scale))?])
    }
}

impl FeedForward for StreamMoe {
    fn forward(&self, x: &Array) -> Result<Array> {
        let [best, shares] = self.route(x)?;
        let h = self.pre_expert_norm.forward(&self.pre_expert_proj.forward(x)?)?.as_dtype(x.dtype())?;
        let answers = wide(&self.experts.forward(&h, &best)?)?.multiply(wide(&self.post_expert_norm)?)?;
        let answers = fast::rms_norm(&answers, None, self.post_norm_eps)?;
        let y = answers.multiply(shares.expand_dims(-1)?)?.sum_axis(-2, false)?.as_dtype(x.dtype())?;
        Ok(self.post_expert_proj.forward(&y)?)
    }
}
