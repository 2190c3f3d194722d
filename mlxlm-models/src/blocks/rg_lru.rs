//! The real-gated linear recurrent unit between a short convolution and a gate of the input (Griffin, arXiv:2402.19427).
//!
//! Ports the mixer of `mlx_lm/models/recurrent_gemma.py` @ 0.32.2. Differences: sums of the recurrence are in f32, as in transformers.

use mlxlm_core::Exception;

use crate::prelude::*;

/// A short convolution and a gated linear recurrence, multiplied by a gate of the input.
#[derive(Debug)]
pub(crate) struct Recurrence {
    linear_y: Linear,
    linear_x: Linear,
    linear_out: Linear,
    conv_1d: Conv1d,
    rg_lru: RgLru,
}

module!(Recurrence { linear_y, linear_x, linear_out, conv_1d, rg_lru });

/// The slots of the state, `[B, width - 1, W]` and `[B, W]`.
pub(crate) const CONV: usize = 0;
pub(crate) const SUM: usize = 1;

impl Recurrence {
    pub(crate) fn load(w: &Weights, c: &Common, (width, conv): (i32, i32)) -> Result<Self> {
        let dims = c.hidden_size;
        Ok(Self {
            linear_y: Linear::load_biased(&w.at("linear_y").columns(), width, dims, true)?,
            linear_x: Linear::load_biased(&w.at("linear_x").columns(), width, dims, true)?,
            linear_out: Linear::load_biased(&w.at("linear_out").rows(), dims, width, true)?,
            conv_1d: Conv1d::depthwise(&w.at("conv_1d"), width, conv, true)?,
            rg_lru: RgLru::load(&w.at("rg_lru"), width, c.num_attention_heads()?)?,
        })
    }
}

impl Mixer for Recurrence {
    fn forward(&self, x: &Array, step: &mut Step) -> Result<Array> {
        let gate = fast::activate(Activation::GeluApprox, &self.linear_y.forward(x)?)?;
        let x = self.linear_x.forward(x)?;
        let x = convolve(&x, &self.conv_1d, Activation::Identity, step, CONV)?;
        let y = self.rg_lru.forward(&x, step, SUM)?;
        Ok(self.linear_out.forward(&y.multiply(gate)?)?)
    }

    fn caches(&self) -> Vec<CacheKind> {
        vec![CacheKind::State { slots: 2 }]
    }
}

/// The real-gated linear recurrent unit: `h ← a h + √(1 - a²) (i x)`, with gates `i` and `a = e^(-8 r softplus(p))` of the input.
#[derive(Debug)]
pub(crate) struct RgLru {
    recurrent_param: Parameter,
    input_gate_weight: Parameter,
    input_gate_bias: Parameter,
    recurrent_gate_weight: Parameter,
    recurrent_gate_bias: Parameter,
}

module!(RgLru { recurrent_param, input_gate_weight, input_gate_bias, recurrent_gate_weight, recurrent_gate_bias });

impl RgLru {
    pub(crate) fn load(w: &Weights, width: i32, heads: i32) -> Result<Self> {
        let dim = width / heads;
        let weight =
            |name: &str| Parameter::load(&w.at(name), &[heads, dim, dim], Init::Normal(1.0 / (dim as f32).sqrt()));
        let bias = |name: &str| Parameter::load(&w.at(name), &[heads, dim], Init::Zeros);
        Ok(Self {
            recurrent_param: Parameter::load(&w.at("recurrent_param"), &[width], Init::Zeros)?,
            input_gate_weight: weight("input_gate_weight")?,
            input_gate_bias: bias("input_gate_bias")?,
            recurrent_gate_weight: weight("recurrent_gate_weight")?,
            recurrent_gate_bias: bias("recurrent_gate_bias")?,
        })
    }

    /// What comes out; the sum after the last token, `[B, W]`, is kept in `slot` of the block's state.
    ///
    /// # Shapes
    /// - `x`: `[B, L, W]`, and the same comes back
    pub(crate) fn forward(&self, x: &Array, step: &mut Step, slot: usize) -> Result<Array> {
        let sum = step.recall(slot)?;
        let wide = |array: &Array| array.as_dtype(Dtype::Float32);
        let number = Array::from_f32;
        let input = gate(x, &self.input_gate_weight, &self.input_gate_bias)?;
        let decay = wide(&gate(x, &self.recurrent_gate_weight, &self.recurrent_gate_bias)?)?;
        let speed = fast::activate(Activation::Softplus, &wide(&self.recurrent_param)?)?;
        // -ln a, which is a step of a state-space model with one dimension for each channel.
        let pace = ops::maximum(decay.multiply(speed)?.multiply(number(8.0))?, number(1e-30))?;
        let loss = number(1.0).subtract(pace.multiply(number(-2.0))?.exp()?)?.sqrt()?;
        let loss = ops::select(begins(x, sum.as_ref())?.expand_dims(-1)?, number(1.0), loss)?;
        let taken = wide(&x.multiply(input)?)?.multiply(loss)?.divide(&pace)?;
        let (batch, len, width) = (x.dim(0), x.dim(1), x.dim(2));
        let ones = ops::ones::<f32>(&[batch, len, 1])?;
        let a = ops::full::<f32>(&[width, 1], number(-1.0))?;
        let scan = move |[taken, pace, ones]: [&Array; 3], sum: Option<Array>| {
            let state = sum.map(|sum| wide(&sum)?.expand_dims(-1)).transpose()?;
            let (b, c, state) = (ones, ones, state.as_ref());
            let scan = fast::Scan { x: taken, dt: pace, a: &a, b, c, d: None, state, mask: None };
            let (y, sum) = fast::selective_scan(&scan)?;
            Ok::<_, Exception>((y, sum.squeeze_axes(&[-1])?))
        };
        let (y, after) = scan([&taken, &pace, &ones], sum.clone())?;
        step.keep(slot, after, move |beginning| {
            let [taken, pace, ones] = [&taken, &pace, &ones].map(|x| beginning.of(x));
            let sum = beginning.before(sum.as_ref())?;
            Ok(scan([&taken?, &pace?, &ones?], sum)?.1)
        })?;
        Ok(y.as_dtype(x.dtype())?)
    }
}

/// The sigmoid of a linear map of each head.
///
/// # Shapes
/// - `x`: `[B, L, W]`, `weight`: `[H, d, d]`, `bias`: `[H, d]`, and the shape of `x` comes back
pub(crate) fn gate(x: &Array, weight: &Array, bias: &Array) -> Result<Array> {
    let heads = split_heads(x, weight.dim(0))?.matmul(weight)?.add(bias.expand_dims(1)?)?;
    Ok(ops::sigmoid(merge_heads(&heads)?)?)
}

/// Which tokens are the first of their sequence: `[B, L]`.
///
/// # Shapes
/// - `x`: `[B, L, W]`, `sum`: `[B, W]` or none
pub(crate) fn begins(x: &Array, sum: Option<&Array>) -> Result<Array> {
    let (batch, len) = (x.dim(0), x.dim(1));
    // A sum that is zero everywhere has seen no token.
    let fresh = match sum {
        None => ops::ones::<bool>(&[batch, 1])?,
        Some(sum) => sum.eq(Array::from_f32(0.0).as_dtype(sum.dtype())?)?.all_axis(-1, true)?,
    };
    Ok(ops::concatenate(&[fresh, ops::zeros::<bool>(&[batch, len - 1])?], 1)?)
}
