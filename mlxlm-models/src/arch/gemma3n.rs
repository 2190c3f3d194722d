//! Gemma 3n, the text model: several streams of states that take turns (AltUp, arXiv:2301.13310), an embedding for each layer,
//! and last layers that attend to the keys and values of earlier ones (Google, 2025).
//!
//! Ports `mlx_lm/models/gemma3n.py` @ 0.32.2. Unusual:
//! - Between the first block and the last one states are `[N, B, L, D]`: all streams, of which one is active.
//! - Scores are not scaled; values are normed.
//! - Some MLPs let only the largest of their gates through.
//! - Layers that borrow keys and values have projections for them that nothing uses.
//!
//! Differences: without a cache, too, such layers borrow; `rope_scaling` and newer spellings of it act; and magnitudes have a
//! lower bound, all as in transformers.

use mlxlm_core::ops::indexing::TryIndexOp;

use crate::blocks::altup::{AltUp, AltUpShape, Gather, Laurel, Spread};
use crate::blocks::lent::{self, LentAttention, LentHeads};
use crate::blocks::per_layer::{PerLayerGate, PerLayerInputs};
use crate::prelude::*;

pub(super) const ARCH: Architecture =
    Architecture::text_of(&["gemma3n"], "model.language_model", |_| Ok(&TEXT), Rule::text_only);

/// The text model, which has no files of its own.
static TEXT: Architecture = Architecture::decoder::<Config>(&["gemma3n_text"]);

/// What Gemma 3n adds to [`Common`].
#[derive(Debug, Deserialize)]
struct Config {
    activation_sparsity_pattern: Option<PerLayer<f32>>,
    altup_active_idx: i32,
    altup_coef_clip: Option<f32>,
    altup_correct_scale: bool,
    altup_num_inputs: i32,
    final_logit_softcapping: Option<f32>,
    hidden_size_per_layer_input: i32,
    intermediate_size: PerLayer<i32>,
    laurel_rank: i32,
    num_kv_shared_layers: i32,
    rope_local_base_freq: f32,
    vocab_size_per_layer_input: i32,
}

/// A number for each layer, or one for all.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum PerLayer<T> {
    All(T),
    Each(Vec<T>),
}

impl<T: Copy> PerLayer<T> {
    fn of(&self, name: &str, layer: usize) -> Result<T> {
        match self {
            Self::All(number) => Ok(*number),
            Self::Each(numbers) => numbers.get(layer).copied().ok_or_else(|| {
                Error::config(format!("`{name}` has {} entries, and none for layer {layer}", numbers.len()))
            }),
        }
    }
}

impl Config {
    /// Every fifth layer attends to everything, unless the file says otherwise.
    fn slides(c: &Common, layer: usize) -> Result<bool> {
        c.slides(layer, (layer + 1) % 5 != 0)
    }

    fn attention(&self, w: &Weights, c: &Common, layer: usize) -> Result<LentAttention> {
        let (counts, slides) = (c.heads()?, Self::slides(c, layer)?);
        let heads = LentHeads {
            hidden: c.hidden_size,
            counts,
            eps: c.rms_norm_eps()?,
            rope: Rope::of_kind(c, counts.dim, slides, self.rope_local_base_freq)?,
            window: c.window(layer, slides)?,
            borrows: layer >= lent::first_borrower(c, self.num_kv_shared_layers),
            has_keys: true,
            values_are_keys: false,
        };
        LentAttention::load(w, heads)
    }

    fn mlp(&self, w: &Weights, c: &Common, layer: usize) -> Result<Box<dyn FeedForward>> {
        let width = self.intermediate_size.of("intermediate_size", layer)?;
        within("intermediate_size", width, MAX_WIDTH)?;
        let act = c.activation(Activation::GeluApprox)?;
        let sparsity = self.activation_sparsity_pattern.as_ref();
        let sparsity = sparsity.map_or(Ok(0.0), |each| each.of("activation_sparsity_pattern", layer))?;
        if sparsity <= 0.0 {
            return Ok(Box::new(Mlp::gated(w, c.hidden_size, width, act)?));
        }
        if sparsity >= 1.0 {
            return Err(Error::config(format!(
                "`activation_sparsity_pattern` has a {sparsity}, expected numbers from 0 to below 1"
            )));
        }
        Ok(Box::new(SparseMlp {
            gate_proj: Linear::load(&w.at("gate_proj"), width, c.hidden_size)?,
            up_proj: Linear::load(&w.at("up_proj"), width, c.hidden_size)?,
            down_proj: Linear::load(&w.at("down_proj"), c.hidden_size, width)?,
            activation: act,
            deviations: ops::erfinv(Array::from_f32(2.0 * sparsity - 1.0))?
                .multiply(Array::from_f32(std::f32::consts::SQRT_2))?,
        }))
    }
}

impl DecoderConfig for Config {
    fn names(&self) -> Names {
        Names { root: "", table: "embed_tokens", stack: "layers", norm: "norm", head: "lm_head" }
    }

    fn check(&self, c: &Common) -> Result<()> {
        const MAX_STREAMS: i32 = 64;
        within("altup_num_inputs", self.altup_num_inputs, MAX_STREAMS)?;
        below("altup_active_idx", self.altup_active_idx, self.altup_num_inputs)?;
        within("laurel_rank", self.laurel_rank, MAX_WIDTH)?;
        positive("rope_local_base_freq", self.rope_local_base_freq)?;
        lent::check(c, self.num_kv_shared_layers, |layer| Self::slides(c, layer))
    }

    fn frame(&self, w: &Weights, c: &Common) -> Result<Frame> {
        let norm = Norm::rms(&w.at("norm"), c.hidden_size, c.rms_norm_eps()?)?;
        let maps = |name: &str| {
            let map = |i: i32| Linear::load(&w.at(name).at(i - 1), c.hidden_size, c.hidden_size);
            (1..self.altup_num_inputs).map(map).collect::<mlxlm_core::Result<Vec<_>>>()
        };
        let sizes = (self.vocab_size_per_layer_input, self.hidden_size_per_layer_input);
        let entry =
            Spread { inputs: PerLayerInputs::load(w, c, sizes)?, altup_projections: maps("altup_projections")? };
        let exit = Gather { altup_unembed_projections: maps("altup_unembed_projections")? };
        Ok(Frame {
            head: Head::Tied,
            entry: Some(Box::new(entry)),
            exit: Some(Box::new(exit)),
            embedding_scale: Some((c.hidden_size as f32).sqrt()),
            logit_softcap: self.final_logit_softcapping,
            ..Frame::new(c, norm)
        })
    }

    fn block(&self, w: &Weights, c: &Common, layer: usize) -> Result<Box<dyn Block>> {
        let norm = |name: &str| Ok::<_, Error>(Norm::rms(&w.at(name), c.hidden_size, c.rms_norm_eps()?)?);
        let laurel = w.at("laurel");
        let altup = AltUpShape {
            streams: self.altup_num_inputs,
            active: self.altup_active_idx,
            clip: self.altup_coef_clip,
            rescales: self.altup_correct_scale,
        };
        Ok(Box::new(Gemma3nBlock {
            altup: AltUp::load(&w.at("altup"), altup, c)?,
            laurel: Laurel {
                linear_left: Linear::load(&laurel.at("linear_left"), self.laurel_rank, c.hidden_size)?,
                linear_right: Linear::load(&laurel.at("linear_right"), c.hidden_size, self.laurel_rank)?,
                post_laurel_norm: norm("laurel.post_laurel_norm")?,
            },
            input_layernorm: norm("input_layernorm")?,
            self_attn: self.attention(&w.at("self_attn"), c, layer)?,
            post_attention_layernorm: norm("post_attention_layernorm")?,
            pre_feedforward_layernorm: norm("pre_feedforward_layernorm")?,
            mlp: self.mlp(&w.at("mlp"), c, layer)?,
            post_feedforward_layernorm: norm("post_feedforward_layernorm")?,
            per_layer: PerLayerGate::load(w, c, self.hidden_size_per_layer_input)?,
        }))
    }
}

/// A block over several streams: the active one is read, and all are corrected by what comes of it.
#[derive(Debug)]
struct Gemma3nBlock {
    altup: AltUp,
    laurel: Laurel,
    input_layernorm: Norm,
    self_attn: LentAttention,
    post_attention_layernorm: Norm,
    pre_feedforward_layernorm: Norm,
    mlp: Box<dyn FeedForward>,
    post_feedforward_layernorm: Norm,
    per_layer: PerLayerGate,
}

module!(Gemma3nBlock {
    altup,
    laurel,
    input_layernorm,
    self_attn,
    post_attention_layernorm,
    pre_feedforward_layernorm,
    mlp,
    post_feedforward_layernorm,
    per_layer as "",
});

impl Block for Gemma3nBlock {
    fn forward(&self, x: &Array, step: &mut Step) -> Result<Array> {
        let predicted = self.altup.predict(x)?;
        let active = self.altup.active(&predicted)?;
        let normed = self.input_layernorm.forward(&active)?;
        let attended = self.post_attention_layernorm.forward(&self.self_attn.forward(&normed, step)?)?;
        let both = active.add(attended)?.add(self.laurel.forward(&normed)?)?;
        let h = both.multiply(Array::from_f32(std::f32::consts::FRAC_1_SQRT_2).as_dtype(both.dtype())?)?;
        let thought = self.mlp.forward(&self.pre_feedforward_layernorm.forward(&h)?)?;
        let h = h.add(self.post_feedforward_layernorm.forward(&thought)?)?;
        let corrected = self.altup.correct(&predicted, &h)?;
        let active = self.altup.rescaled(&self.altup.active(&corrected)?)?;
        let added = self.per_layer.forward(&active, step)?;
        let [first, others] = [corrected.try_index(..1)?, corrected.try_index(1..)?];
        Ok(ops::concatenate(&[first, others.add(added)?], 0)?)
    }

    fn caches(&self) -> Vec<CacheKind> {
        self.self_attn.caches()
    }
}

/// A gated MLP of which only the gates far above their mean get through.
#[derive(Debug)]
struct SparseMlp {
    gate_proj: Linear,
    up_proj: Linear,
    down_proj: Linear,
    activation: Activation,
    /// How many deviations above the mean a gate has to be.
    deviations: Array,
}

module!(SparseMlp { gate_proj, up_proj, down_proj });

impl FeedForward for SparseMlp {
    fn forward(&self, x: &Array) -> Result<Array> {
        let [gate, up] = Linear::forward_all([&self.gate_proj, &self.up_proj], x)?;
        let far = ops::std_axis(&gate, -1, true, 0)?.multiply(self.deviations.as_dtype(gate.dtype())?)?;
        let above = gate.subtract(gate.mean_axis(-1, true)?.add(far)?)?;
        let kept = ops::maximum(&above, Array::from_f32(0.0).as_dtype(above.dtype())?)?;
        Ok(self.down_proj.forward(&fast::gated(self.activation, &kept, &up)?)?)
    }
}
