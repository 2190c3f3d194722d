//! Attention whose result a gate scales before the way out (arXiv:2505.06708).

use mlxlm_cache::CacheKind;
use mlxlm_core::fast::{self, Activation};
use mlxlm_core::nn::Linear;
use mlxlm_core::weights::Weights;
use mlxlm_core::{Array, module};

use super::{Attention, Heads, Mixer};
use crate::Result;
use crate::frame::Step;

/// A gate: a map of a token's state, and what is made of it.
#[derive(Debug, Clone, Copy)]
pub struct Gate {
    /// What the map is called.
    pub name: &'static str,
    /// Whether there is one number for each head, or one for each of its dimensions.
    pub by_head: bool,
    /// What the numbers go through.
    pub activation: Activation,
}

/// An attention block that may have a gate.
#[derive(Debug)]
pub struct GatedAttention {
    attention: Attention,
    gate_proj: Option<Linear>,
    gate: Gate,
}

module!(GatedAttention { attention as "", gate_proj as gate.name });

impl GatedAttention {
    /// The block at `w`, with the gate if `is_gated`.
    pub fn load(w: &Weights, heads: Heads, gate: Gate, is_gated: bool) -> Result<Self> {
        let (hidden, counts) = (heads.hidden, heads.counts);
        let outputs = if gate.by_head { counts.count } else { counts.count * counts.dim };
        let gate_proj = is_gated.then(|| Linear::load(&w.at(gate.name).columns(), outputs, hidden)).transpose()?;
        Ok(Self { attention: Attention::load(w, heads)?, gate_proj, gate })
    }
}

impl Mixer for GatedAttention {
    fn forward(&self, x: &Array, step: &mut Step) -> Result<Array> {
        let mixed = self.attention.mix(x, step)?;
        let Some(gate_proj) = &self.gate_proj else { return self.attention.leave(&mixed) };
        let gate = fast::activate(self.gate.activation, &gate_proj.forward(x)?)?;
        if !self.gate.by_head {
            return self.attention.leave(&mixed.multiply(gate)?);
        }
        let (batch, len, heads) = (x.dim(0), x.dim(1), gate.dim(-1));
        let by_head = mixed.reshape(&[batch, len, heads, -1])?.multiply(gate.expand_dims(-1)?)?;
        self.attention.leave(&by_head.reshape(mixed.shape())?)
    }

    fn caches(&self) -> Vec<CacheKind> {
        self.attention.caches()
    }
}
