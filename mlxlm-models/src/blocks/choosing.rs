//! Blocks whose halves read a mixture of the states that earlier blocks stored, and of the running sum (Kimi K3's attention residuals).
//!
//! Ports `mlx_lm/models/kimi_k3.py` @ 0.32.2.

use crate::prelude::*;

/// The states that blocks of one pass have stored, `[K, B, L, D]`, and one over the root of their mean squares, `[K, B, L]`.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stored(Option<[Array; 2]>);

impl Stored {
    pub(crate) fn push(&mut self, x: &Array, eps: f32) -> Result<()> {
        let (state, root) = (x.expand_dims(0)?, inverse_root(x, eps)?.expand_dims(0)?);
        self.0 = Some(match self.0.take() {
            None => [state, root],
            Some([states, roots]) => [ops::concatenate(&[states, state], 0)?, ops::concatenate(&[roots, root], 0)?],
        });
        Ok(())
    }
}

/// `1 / √(mean(x²) + eps)` over the last axis, in f32.
pub(crate) fn inverse_root(x: &Array, eps: f32) -> Result<Array> {
    let squares = x.as_dtype(Dtype::Float32)?.square()?.mean_axis(-1, false)?;
    Ok(squares.add(Array::from_f32(eps))?.rsqrt()?)
}

/// A mixture of what is stored and the running sum, by a softmax over the products of their normed states with one vector.
#[derive(Debug)]
pub(crate) struct Choice {
    proj: Parameter,
    norm: Parameter,
    eps: f32,
    names: ChoiceNames,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct ChoiceNames {
    pub(crate) proj: &'static str,
    pub(crate) norm: &'static str,
}

module!(Choice { proj as names.proj, norm as names.norm });

impl Choice {
    pub(crate) fn load(w: &Weights, names: ChoiceNames, c: &Common) -> Result<Self> {
        Ok(Self {
            proj: Parameter::load(&w.at(names.proj), &[1, c.hidden_size], Init::Zeros)?,
            norm: Parameter::load(&w.at(names.norm), &[c.hidden_size], Init::Ones)?,
            eps: c.rms_norm_eps()?,
            names,
        })
    }

    /// # Shapes
    /// - `sum`: `[B, L, D]`, and the same comes back
    pub(crate) fn forward(&self, sum: &Array, stored: &Stored) -> Result<Array> {
        let Some([states, roots]) = &stored.0 else { return Ok(sum.clone()) };
        let wide = Dtype::Float32;
        let vector = self.norm.as_dtype(wide)?.multiply(self.proj.reshape(&[-1])?)?;
        let of_sum = sum.as_dtype(wide)?.matmul(&vector)?.multiply(inverse_root(sum, self.eps)?)?;
        let of_states = states.as_dtype(wide)?.matmul(&vector)?.multiply(roots)?;
        let shares = fast::softmax(&ops::concatenate(&[of_states, of_sum.expand_dims(0)?], 0)?, 0)?.expand_dims(-1)?;
        let parts = ops::split_at_indices(&shares, &[states.dim(0)], 0)?;
        let mixed = parts[0].multiply(states)?.sum_axis(0, false)?.add(parts[1].squeeze_axes(&[0])?.multiply(sum)?)?;
        Ok(mixed.as_dtype(sum.dtype())?)
    }
}

/// A block whose halves read mixtures.
#[derive(Debug)]
pub(crate) struct ChoosingBlock {
    pub(crate) input_layernorm: Norm,
    pub(crate) self_attn: Box<dyn Mixer>,
    pub(crate) post_attention_layernorm: Norm,
    pub(crate) mlp: Box<dyn FeedForward>,
    pub(crate) of_mixer: Choice,
    pub(crate) of_mlp: Choice,
    /// Whether it stores its input and begins the sum anew.
    pub(crate) begins: bool,
}

module!(ChoosingBlock {
    input_layernorm,
    self_attn,
    post_attention_layernorm,
    mlp,
    of_mixer as "",
    of_mlp as "",
});

impl Block for ChoosingBlock {
    fn forward(&self, x: &Array, step: &mut Step) -> Result<Array> {
        let h = self.of_mixer.forward(x, step.carry::<Stored>())?;
        if self.begins {
            step.carry::<Stored>().push(x, self.of_mixer.eps)?;
        }
        let mixed = self.self_attn.forward(&self.input_layernorm.forward(&h)?, step)?;
        let sum = if self.begins { mixed } else { x.add(mixed)? };
        let h = self.of_mlp.forward(&sum, step.carry::<Stored>())?;
        Ok(sum.add(self.mlp.forward(&self.post_attention_layernorm.forward(&h)?)?)?)
    }

    fn caches(&self) -> Vec<CacheKind> {
        self.self_attn.caches()
    }
}

/// The mixture that the final norm reads.
#[derive(Debug)]
pub(crate) struct LastChoice {
    pub(crate) choice: Choice,
}

module!(LastChoice { choice as "" });

impl Block for LastChoice {
    fn forward(&self, x: &Array, step: &mut Step) -> Result<Array> {
        self.choice.forward(x, step.carry::<Stored>())
    }

    fn caches(&self) -> Vec<CacheKind> {
        Vec::new()
    }
}
