//! Attention of some queries to the keys and values of a cache, read where they lie, whatever their layout: prefill, decode and
//! speculative checks, with causal rules, windows, masks, sinks and soft-caps.
//!
//! What is unusual:
//! - Scores exist for one block of keys at a time (`FlashAttention`, arXiv:2205.14135): memory does not grow with the product of
//!   lengths, and a causal rule is no array.
//! - Blocks begin at multiples of [`block::KEYS`], and a row passes over those that it sees in order. So a query has the same bits
//!   alone and as one of several.
//! - All sums are f32, also for bf16 and f16.

use std::ffi::CStr;

use mlx_rs::error::Exception;
use mlx_rs::{Array, Dtype, transforms};

use super::convert::{self, Results};
use super::heads::Heads;
use super::isa::Isa;
use super::pool;
use super::primitive::{Gradient, Operation, View, ViewMut, apply_one, on_cpu};

mod block;
mod mask;
mod plain;

use mask::MaskView;

/// Which keys a query sees, beside a mask array.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rule {
    /// All.
    All,
    /// The last query sees all keys, each one before it one key less.
    Causal,
}

/// How to attend.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Spec {
    pub(crate) scale: f32,
    pub(crate) rule: Rule,
    /// Scores become `cap · tanh(score / cap)`.
    pub(crate) softcap: Option<f32>,
}

/// Attention by our kernel, or `None` where MLX's own operation is to be taken: on a GPU, for types that differ, and for shapes
/// that MLX will refuse.
///
/// # Shapes
/// - `q`: `[B, H, L, d]`, `k`: `[B, K, S, d]`, `v`: `[B, K, S, e]`, `mask`: broadcast to `[B, H, L, S]`, `sinks`: `[H]`;
///   result: `[B, H, L, e]`
pub(crate) fn attend(
    q: &Array,
    k: &Array,
    v: &Array,
    spec: Spec,
    mask: Option<&Array>,
    sinks: Option<&Array>,
) -> Result<Option<Array>, Exception> {
    if !on_cpu() || !fits(q, k, v, spec, mask, sinks) {
        return Ok(None);
    }
    let isa = Isa::active().map_err(|e| Exception::custom(e.to_string()))?;
    let shape = [q.dim(0), q.dim(1), q.dim(2), v.dim(3)];
    let inputs: Vec<&Array> = [q, k, v].into_iter().chain(mask).chain(sinks).collect();
    let operation = Attention { spec, isa, has_mask: mask.is_some() };
    apply_one(operation, &inputs, &shape, q.dtype()).map(Some)
}

fn fits(q: &Array, k: &Array, v: &Array, spec: Spec, mask: Option<&Array>, sinks: Option<&Array>) -> bool {
    let (&[b, h, l, d], &[kb, kh, s, kd], &[vb, vh, vs, _]) = (q.shape(), k.shape(), v.shape()) else { return false };
    let float = |dtype| matches!(dtype, Dtype::Float32 | Dtype::Float16 | Dtype::Bfloat16);
    let mask_fits = mask.is_none_or(|mask| {
        let wanted = [b, h, l, s];
        let shape = mask.shape();
        (float(mask.dtype()) || mask.dtype() == Dtype::Bool)
            && shape.len() <= 4
            && shape.iter().rev().zip(wanted.iter().rev()).all(|(have, want)| have == want || *have == 1)
    });
    float(q.dtype())
        && q.dtype() == k.dtype()
        && q.dtype() == v.dtype()
        && (kb, vb, kh, s, d) == (b, b, vh, vs, kd)
        && [b, h, l, d, s, kh, v.dim(3)].iter().all(|&size| size > 0)
        && h % kh == 0
        && (spec.rule == Rule::All || l <= s)
        && mask_fits
        && sinks.is_none_or(|sinks| float(sinks.dtype()) && sinks.shape() == [h])
}

#[derive(Debug)]
struct Attention {
    spec: Spec,
    isa: Isa,
    has_mask: bool,
}

impl Operation for Attention {
    fn name(&self) -> &'static CStr {
        c"Attention"
    }

    fn run(&self, inputs: &[View<'_>], outputs: &mut [ViewMut<'_>]) {
        let mut copies = [Vec::new(), Vec::new(), Vec::new()];
        let [a, b, c] = &mut copies;
        let (q, k, v) = (Heads::new(&inputs[0], a), Heads::new(&inputs[1], b), Heads::new(&inputs[2], c));
        let mask = self.has_mask.then(|| MaskView::new(&inputs[3]));
        let sinks = inputs.get(3 + usize::from(self.has_mask)).map(|view| {
            let mut sinks = vec![0.0; view.len()];
            convert::read(self.isa, view, &mut sinks);
            sinks
        });
        let job = block::Job { isa: self.isa, spec: self.spec, q, k, v, mask, sinks };
        let out = Results::new(&mut outputs[0]);
        pool::parallel(job.tasks(), |task| job.run(task, &out));
    }

    /// By way of MLX's own operations: training has a kernel of its own, this one is for what it does not cover.
    fn vjp(&self, at: &Gradient) -> Result<Vec<Array>, Exception> {
        let attend = |inputs: &[Array]| -> Result<Vec<Array>, Exception> {
            let mask = self.has_mask.then(|| &inputs[3]);
            let sinks = inputs.get(3 + usize::from(self.has_mask));
            Ok(vec![plain::attend(&inputs[0], &inputs[1], &inputs[2], self.spec, mask, sinks)?])
        };
        let (_, gradients) = transforms::fallible_vjp(attend, &at.primals, &at.cotangents)?;
        Ok(at.argnums.iter().map(|&i| gradients[i].clone()).collect())
    }
}

#[cfg(test)]
mod tests;
