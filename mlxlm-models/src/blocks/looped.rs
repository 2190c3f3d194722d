//! Blocks that run twice: the second time they mix what they see of the first run with a window of the second (IQuest-Coder Loop).
//!
//! Ports `mlx_lm/models/iquestloopcoder.py` @ 0.32.2.

use crate::prelude::*;

/// A map from a query head to its share of the first run.
#[derive(Debug)]
pub(crate) struct ShareGate {
    weight: Parameter,
    bias: Parameter,
}

module!(ShareGate { weight, bias });

impl ShareGate {
    pub(crate) fn load(w: &Weights, HeadCounts { count, dim, .. }: HeadCounts) -> Result<Self> {
        Ok(Self {
            weight: Parameter::load(&w.at("weight"), &[count, dim], Init::Zeros)?,
            bias: Parameter::load(&w.at("bias"), &[count], Init::Zeros)?,
        })
    }
}

/// The gates of all layers, which lie beside the stack.
#[derive(Debug)]
pub(crate) struct Gates {
    pub(crate) gate_projections: Vec<ShareGate>,
}

module!(Gates { gate_projections });

/// What the layers of the second run take from elsewhere.
#[derive(Clone, Default)]
pub(crate) struct FirstRun {
    gates: Vec<[Array; 2]>,
    reaches: Vec<Reach>,
}

impl Block for Gates {
    fn forward(&self, x: &Array, step: &mut Step) -> Result<Array> {
        let gates = self.gate_projections.iter().map(|gate| [gate.weight.value.clone(), gate.bias.value.clone()]);
        step.carry::<FirstRun>().gates = gates.collect();
        Ok(x.clone())
    }

    fn caches(&self) -> Vec<CacheKind> {
        Vec::new()
    }
}

/// A block that runs twice.
#[derive(Debug)]
pub(crate) struct LoopBlock {
    pub(crate) input_layernorm: Norm,
    pub(crate) self_attn: Attention,
    pub(crate) post_attention_layernorm: Norm,
    pub(crate) mlp: Mlp,
    pub(crate) window: i32,
}

module!(LoopBlock { input_layernorm, self_attn, post_attention_layernorm, mlp });

impl LoopBlock {
    /// The first time: attention to everything, which is kept for the second time.
    pub(crate) fn first(&self, x: &Array, step: &mut Step) -> Result<Array> {
        let ([q, k, v], how) = (self.self_attn.prepare(x, step)?, self.self_attn.how());
        let reach = step.remember(&k, &v, &how)?;
        let mixed = step.look(&reach, &q, &how)?;
        step.carry::<FirstRun>().reaches.push(reach);
        Ok(mixed)
    }

    /// The second time: a share of attention to the keys of the first run, and the rest of attention through a window.
    pub(crate) fn second(&self, x: &Array, step: &mut Step) -> Result<Array> {
        let ([q, k, v], how) = (self.self_attn.prepare(x, step)?, self.self_attn.how());
        let (layer, first) = (step.layer(), step.carry::<FirstRun>());
        let (Some(reach), Some([weight, bias])) = (first.reaches.get(layer).cloned(), first.gates.get(layer).cloned())
        else {
            return Err(Error::config("`loop_num` is 2, and the stack ran once"));
        };
        let global = step.look(&reach, &q, &how)?;
        let local = step.attend(&q, &k, &v, &Attend { window: Some(self.window), ..how })?;
        let share = q.matmul(weight.expand_dims(-1)?)?.add(bias.reshape(&[-1, 1, 1])?)?;
        let share = ops::sigmoid(&share)?;
        Ok(local.add(global.subtract(&local)?.multiply(share)?)?)
    }
}

impl Block for LoopBlock {
    fn forward(&self, x: &Array, step: &mut Step) -> Result<Array> {
        let normed = self.input_layernorm.forward(x)?;
        let mixed = if step.pass() == 0 { self.first(&normed, step)? } else { self.second(&normed, step)? };
        let mixed = self.self_attn.leave(&merge_heads(&mixed)?)?;
        let [h, normed] = self.post_attention_layernorm.forward_sum(x, &mixed)?;
        Ok(h.add(self.mlp.forward(&normed)?)?)
    }

    fn caches(&self) -> Vec<CacheKind> {
        self.self_attn.caches()
    }

    fn caches_in(&self, pass: usize) -> Vec<CacheKind> {
        match pass {
            0 => self.caches(),
            _ => vec![CacheKind::Rotating { max_size: self.window, keep: 0 }],
        }
    }
}
