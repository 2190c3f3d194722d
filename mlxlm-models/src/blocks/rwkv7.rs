//! The mixers of RWKV-7 (arXiv:2503.14456): one over tokens, with a matrix for each head that every token changes, and one over
//! channels; both mix a token with the one before it.
//!
//! Ports `mlx_lm/models/rwkv7.py` @ 0.32.2.

use mlxlm_core::ops::indexing::TryIndexOp;

use crate::prelude::*;

/// What each token adds to the one before it: `x`, and the difference between its predecessor and itself.
pub(crate) struct Shifted {
    x: Array,
    to_last: Array,
}

impl Shifted {
    /// Of `x` `[B, L, D]`, whose last token is kept in `slot`.
    pub(crate) fn new(x: &Array, step: &mut Step, slot: usize) -> Result<Self> {
        let (past, len) = (step.recall(slot)?, x.dim(1));
        let first = match &past {
            Some(past) => past.as_dtype(x.dtype())?,
            None => ops::zeros_dtype(&[x.dim(0), 1, x.dim(2)], x.dtype())?,
        };
        let all = x.clone();
        step.keep(slot, x.try_index((.., len - 1.., ..))?, move |beginning| {
            Ok(beginning.of(&all)?.try_index((.., -1.., ..))?)
        })?;
        let last = match len {
            1 => first,
            _ => ops::concatenate(&[first, x.try_index((.., ..len - 1, ..))?], 1)?,
        };
        Ok(Self { to_last: last.subtract(x)?, x: x.clone() })
    }

    /// `x` with this share of the way to its predecessor.
    pub(crate) fn by(&self, share: &Parameter) -> Result<Array> {
        Ok(self.x.add(self.to_last.multiply(&share.value)?)?)
    }
}

/// A low-rank map, with an activation between its halves.
#[derive(Debug)]
pub(crate) struct LowRank {
    down: Linear,
    up: Linear,
    activation: Activation,
}

module!(LowRank { down as "lora.0", up as "lora.2" });

impl LowRank {
    pub(crate) fn load(w: &Weights, dims: i32, rank: i32, activation: Activation, biased: bool) -> Result<Self> {
        Ok(Self {
            down: Linear::load(&w.at("lora.0"), rank, dims)?,
            up: Linear::load_biased(&w.at("lora.2").keep(Precision::Eight), dims, rank, biased)?,
            activation,
        })
    }

    pub(crate) fn forward(&self, x: &Array) -> Result<Array> {
        Ok(self.up.forward(&fast::activate(self.activation, &self.down.forward(x)?)?)?)
    }
}

/// The values of the first layer, which all others mix with their own.
#[derive(Debug, Clone, Default)]
pub(crate) struct FirstValues(Option<Array>);

/// The width of heads, and the ranks of the low-rank maps.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ranks {
    pub(crate) head_dim: i32,
    pub(crate) rates: i32,
    pub(crate) values: i32,
    pub(crate) gate: i32,
    pub(crate) decay: i32,
}

/// What mixes tokens.
#[derive(Debug)]
pub(crate) struct TimeMixing {
    x_r: Parameter,
    x_w: Parameter,
    x_k: Parameter,
    x_v: Parameter,
    x_a: Parameter,
    x_g: Parameter,
    k_k: Parameter,
    k_a: Parameter,
    r_k: Parameter,
    r_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    o_proj: Linear,
    norm_weight: Parameter,
    norm_bias: Parameter,
    w_lora: LowRank,
    v_lora: Option<LowRank>,
    a_lora: LowRank,
    g_lora: LowRank,
    /// Heads, and the width of each.
    heads: (i32, i32),
}

module!(TimeMixing {
    x_r,
    x_w,
    x_k,
    x_v,
    x_a,
    x_g,
    k_k,
    k_a,
    r_k,
    r_proj,
    k_proj,
    v_proj,
    o_proj,
    norm_weight as "g_norm.weight",
    norm_bias as "g_norm.bias",
    w_lora,
    v_lora,
    a_lora,
    g_lora,
});

impl TimeMixing {
    pub(crate) fn load(w: &Weights, c: &Common, ranks: Ranks, layer: usize) -> Result<Self> {
        let (dims, dim) = (c.hidden_size, ranks.head_dim);
        let count = dims / dim;
        let share = |name: &str| Parameter::load(&w.at(name), &[1, 1, dims], Init::Zeros);
        let of_heads = |name: &str, init: Init| Parameter::load(&w.at(name), &[count, dim], init);
        let project = |name: &str| Linear::load(&w.at(name), dims, dims);
        let low_rank = |name: &str, rank: i32, activation: Activation, biased: bool| {
            LowRank::load(&w.at(name), dims, rank, activation, biased)
        };
        let mixes_values = (layer > 0).then(|| low_rank("v_lora", ranks.values, Activation::Identity, true));
        Ok(Self {
            x_r: share("x_r")?,
            x_w: share("x_w")?,
            x_k: share("x_k")?,
            x_v: share("x_v")?,
            x_a: share("x_a")?,
            x_g: share("x_g")?,
            k_k: of_heads("k_k", Init::Ones)?,
            k_a: of_heads("k_a", Init::Ones)?,
            r_k: of_heads("r_k", Init::Zeros)?,
            r_proj: project("r_proj")?,
            k_proj: project("k_proj")?,
            v_proj: project("v_proj")?,
            o_proj: project("o_proj")?,
            norm_weight: of_heads("g_norm.weight", Init::Ones)?,
            norm_bias: of_heads("g_norm.bias", Init::Zeros)?,
            w_lora: low_rank("w_lora", ranks.decay, Activation::Tanh, true)?,
            v_lora: mixes_values.transpose()?,
            a_lora: low_rank("a_lora", ranks.rates, Activation::Identity, true)?,
            g_lora: low_rank("g_lora", ranks.gate, Activation::Sigmoid, false)?,
            heads: (count, dim),
        })
    }

    /// # Shapes
    /// - `x`: `[B, L, D]`, normed; the same comes back
    pub(crate) fn forward(&self, x: &Array, step: &mut Step) -> Result<Array> {
        let shifted = Shifted::new(x, step, 0)?;
        let by_head = |x: Array| x.reshape(&[x.dim(0), x.dim(1), self.heads.0, self.heads.1]);
        let one = |x: &Array| Array::from_f32(1.0).as_dtype(x.dtype());
        let r = by_head(self.r_proj.forward(&shifted.by(&self.x_r)?)?)?;
        let key = by_head(self.k_proj.forward(&shifted.by(&self.x_k)?)?)?;
        let of_values = shifted.by(&self.x_v)?;
        let value = self.mixed_values(by_head(self.v_proj.forward(&of_values)?)?, &of_values, step)?;
        // How much of what is found under a key is replaced.
        let rate = by_head(ops::sigmoid(self.a_lora.forward(&shifted.by(&self.x_a)?)?)?)?;
        let decay = by_head(self.w_lora.forward(&shifted.by(&self.x_w)?)?)?.as_dtype(Dtype::Float32)?;
        let decay = ops::sigmoid(decay)?.multiply(Array::from_f32(-0.606_531))?.exp()?.as_dtype(r.dtype())?;
        let found = unit(&key.multiply(&self.k_k.value)?)?;
        let key = key.multiply(rate.subtract(one(&rate)?)?.multiply(&self.k_a.value)?.add(one(&rate)?)?)?;
        let (a, b) = (found.negative()?, found.multiply(&rate)?);
        let state = step.recall(1)?;
        let (y, after) = fast::wkv7(&fast::Wkv7 {
            r: &r,
            w: &decay,
            k: &key,
            v: &value,
            a: &a,
            b: &b,
            state: state.as_ref(),
            mask: None,
        })?;
        let operands = [&r, &decay, &key, &value, &a, &b].map(Array::clone);
        step.keep(1, after, move |beginning| {
            let [r, w, k, v, a, b] = operands.each_ref().map(|x| beginning.of(x));
            let state = beginning.before(state.as_ref())?;
            let (r, w, k, v, a, b) = (&r?, &w?, &k?, &v?, &a?, &b?);
            Ok(fast::wkv7(&fast::Wkv7 { r, w, k, v, a, b, state: state.as_ref(), mask: None })?.1)
        })?;
        let normed = fast::layer_norm(&y, None, None, 64e-5)?.multiply(&self.norm_weight.value)?;
        let of_now = r.multiply(&key)?.multiply(&self.r_k.value)?.sum_axis(-1, true)?.multiply(value)?;
        let out = normed.add(&self.norm_bias.value)?.add(of_now)?.reshape(x.shape())?;
        Ok(self.o_proj.forward(&out.multiply(self.g_lora.forward(&shifted.by(&self.x_g)?)?)?)?)
    }

    /// Values, of which those of later layers take a share of the first layer's.
    pub(crate) fn mixed_values(&self, value: Array, x: &Array, step: &mut Step) -> Result<Array> {
        let first = step.carry::<FirstValues>();
        let (Some(lora), Some(first)) = (&self.v_lora, &first.0) else {
            first.0 = Some(value.clone());
            return Ok(value);
        };
        let share = ops::sigmoid(lora.forward(x)?)?.reshape(value.shape())?;
        Ok(value.add(first.subtract(&value)?.multiply(share)?)?)
    }
}

/// Rows of length one.
pub(crate) fn unit(x: &Array) -> Result<Array> {
    let length = x.square()?.sum_axis(-1, true)?.sqrt()?;
    let least = Array::from_f32(1e-7).as_dtype(length.dtype())?;
    Ok(x.divide(ops::maximum(&length, &least)?)?)
}

/// A function of each token and the one before it.
#[derive(Debug)]
pub(crate) struct ChannelMixing {
    key: Linear,
    value: Linear,
    x_k: Parameter,
}

module!(ChannelMixing { key, value, x_k });

impl ChannelMixing {
    pub(crate) fn load(w: &Weights, c: &Common) -> Result<Self> {
        let (dims, width) = (c.hidden_size, c.intermediate_size()?);
        Ok(Self {
            key: Linear::load(&w.at("key").columns(), width, dims)?,
            value: Linear::load(&w.at("value").rows(), dims, width)?,
            x_k: Parameter::load(&w.at("x_k"), &[dims], Init::Zeros)?,
        })
    }

    /// # Shapes
    /// - `x`: `[B, L, D]`, normed; the same comes back
    pub(crate) fn forward(&self, x: &Array, step: &mut Step) -> Result<Array> {
        let mixed = Shifted::new(x, step, 2)?.by(&self.x_k)?;
        Ok(self.value.forward(&fast::activate(Activation::Relu2, &self.key.forward(&mixed)?)?)?)
    }
}
