//! Attention of some queries to the keys and values of a cache, read where they lie, whatever their layout and quantization:
//! prefill, decode and speculative checks, with causal rules, windows, masks, sinks and soft-caps.
//!
//! What is unusual:
//! - Scores exist for one block of keys at a time (`FlashAttention`, arXiv:2205.14135): memory does not grow with the product of
//!   lengths, a rule is no array, and keys that no query sees are not read.
//! - Keys are cut into [`job::CHUNK`]s, counted from the first token of the sequence, also where that was dropped long ago, and in
//!   the order of time, also where keys lie in a ring. Each is a softmax of its own; all are
//!   joined in order, by one task or by several (flash-decoding). So a query has the same bits alone, as one of several, in a
//!   padded batch, and on any number of threads.
//! - All sums are f32, also for bf16 and f16.
//!
//! One [`job`], cut into [`tasks`], three ways to compute a chunk: [`tiles`] for bf16 on AMX, [`few`] for a few queries on AVX-512, [`panels`] with the
//! product of [`super::gemm`] for all else. Rows of a [`batch`] that each own their keys are as many jobs, computed together.

use std::ffi::CStr;

use mlx_rs::error::Exception;
use mlx_rs::{Array, Dtype, ops, transforms};

use super::convert::{self, Results};
use super::heads::Heads;
use super::isa::Isa;
use super::mixed::{self, is_float};
use super::primitive::{Gradient, Operation, View, ViewMut, apply_one, on_cpu};
use crate::fast::{self, Causal, Stored, plain};
use crate::quant::{Packed, Scheme};

mod batch;
mod few;
mod gradient;
mod job;
mod lanes;
mod mask;
mod operands;
mod panels;
mod rows;
mod stored;
mod tasks;
mod tiles;

use gradient::AttentionGradient;
use mask::MaskView;
use operands::{Formats, shape};
use stored::{Tensor, parts};

pub(crate) use batch::{attend_latent_rows, attend_rows};

/// Attention by our kernel, or `None` where MLX's own operation is to be taken: on a GPU, and for types and shapes that MLX will
/// refuse. Arguments are those of [`fast::attend`].
#[track_caller]
pub(crate) fn attend(
    q: &Array,
    keys: Stored<'_>,
    values: Stored<'_>,
    how: &fast::Attention<'_>,
) -> Result<Option<Array>, Exception> {
    if !on_cpu() {
        return Ok(None);
    }
    let isa = Isa::active().map_err(|e| Exception::custom(e.to_string()))?;
    let plain = [keys, values].map(|stored| match stored {
        Stored::Plain(array) => array,
        Stored::Packed(..) => q,
    });
    if let Some(wide) = mixed::widened(&[q, plain[0], plain[1]])? {
        let stored = |stored, wide| if let Stored::Plain(_) = stored { Stored::Plain(wide) } else { stored };
        return attend_at(isa, &wide[0], stored(keys, &wide[1]), stored(values, &wide[2]), how);
    }
    attend_at(isa, q, keys, values, how)
}

/// Attention to latents by our kernel, or `None`; arguments are those of [`fast::attend_latent`].
#[track_caller]
pub(crate) fn attend_latent(
    [q_nope, q_pe]: [&Array; 2],
    latent: Stored<'_>,
    k_pe: Stored<'_>,
    how: &fast::Attention<'_>,
) -> Result<Option<Array>, Exception> {
    let same = |x: &Array| x.shape().split_last().map(|(_, shape)| shape.to_vec());
    if !on_cpu() || !is_float(q_nope.dtype()) || q_nope.dtype() != q_pe.dtype() || same(q_nope) != same(q_pe) {
        return Ok(None);
    }
    let isa = Isa::active().map_err(|e| Exception::custom(e.to_string()))?;
    let width = |stored| shape(stored, q_nope.dtype()).map(|shape| shape[3]);
    if width(latent) != Some(q_nope.dim(-1)) || width(k_pe) != Some(q_pe.dim(-1)) {
        return Ok(None);
    }
    let q = ops::concatenate(&[q_nope, q_pe], -1)?;
    attend_joined(isa, &q, &[latent, k_pe], latent, how)
}

fn attend_at(
    isa: Isa,
    q: &Array,
    keys: Stored<'_>,
    values: Stored<'_>,
    how: &fast::Attention<'_>,
) -> Result<Option<Array>, Exception> {
    attend_joined(isa, q, &[keys], values, how)
}

/// Attention to keys in one part or two, which make a row together.
fn attend_joined(
    isa: Isa,
    q: &Array,
    keys: &[Stored<'_>],
    values: Stored<'_>,
    how: &fast::Attention<'_>,
) -> Result<Option<Array>, Exception> {
    let (Some(k), Some(v)) = (operands::joined_shape(keys, q.dtype()), shape(values, q.dtype())) else {
        return Ok(None);
    };
    if !fits(q, k, v, how) {
        return Ok(None);
    }
    let mut inputs = vec![q];
    for stored in keys.iter().chain([&values]) {
        operands::push(&mut inputs, *stored);
    }
    let fast::Sight { rule, bias } = &how.sight;
    inputs.extend(bias.iter().copied().chain(how.sinks));
    let spec = Spec {
        scale: how.scale,
        softcap: how.softcap,
        rule: rule.clone(),
        formats: Formats::new(keys, values),
        has_mask: bias.is_some(),
    };
    apply_one(Attention { spec, isa }, &inputs, &[q.dim(0), q.dim(1), q.dim(2), v[3]], q.dtype()).map(Some)
}

fn fits(q: &Array, k: [i32; 4], v: [i32; 4], how: &fast::Attention<'_>) -> bool {
    let &[b, h, l, d] = q.shape() else { return false };
    let wanted = [b, h, l, k[2]];
    let broadcasts = |mask: &Array| {
        let shape = mask.shape();
        (is_float(mask.dtype()) || mask.dtype() == Dtype::Bool)
            && shape.len() <= 4
            && shape.iter().rev().zip(wanted.iter().rev()).all(|(have, want)| have == want || *have == 1)
    };
    let sight_fits = how.sight.rule.as_ref().is_none_or(|rule| l <= k[2] && rule.fits(b, k[2]))
        && how.sight.bias.is_none_or(broadcasts);
    is_float(q.dtype()) && operands::fit([b, h, l, d], k, v) && sight_fits && operands::sinks_fit(how.sinks, h)
}

/// All about a call that is no array.
#[derive(Debug, Clone)]
struct Spec {
    scale: f32,
    softcap: Option<f32>,
    /// `None`: a query sees all keys, or those that the mask shows.
    rule: Option<Causal>,
    formats: Formats,
    has_mask: bool,
}

/// What the inputs of the operation are, in their order.
struct Inputs<'a, T> {
    q: &'a T,
    stored: [&'a [T]; 2],
    mask: Option<&'a T>,
    sinks: Option<&'a T>,
}

impl Spec {
    fn sort<'a, T>(&self, inputs: &'a [T]) -> Inputs<'a, T> {
        let (stored, rest) = self.formats.split(&inputs[1..]);
        let (mask, rest) = rest.split_at(usize::from(self.has_mask));
        Inputs { q: &inputs[0], stored, mask: mask.first(), sinks: rest.first() }
    }
}

fn read_sinks(isa: Isa, view: &View<'_>) -> Vec<f32> {
    let mut sinks = vec![0.0; view.len()];
    convert::read(isa, view, &mut sinks);
    sinks
}

#[derive(Debug)]
struct Attention {
    spec: Spec,
    isa: Isa,
}

impl Operation for Attention {
    fn name(&self) -> &'static CStr {
        c"Attention"
    }

    fn run(&self, inputs: &[View<'_>], outputs: &mut [ViewMut<'_>]) {
        let Inputs { q, stored: [keys, values], mask, sinks } = self.spec.sort(inputs);
        let mut copies = [const { Vec::new() }; 10];
        let [copy, rest @ ..] = &mut copies;
        let (of_keys, of_values) = rest.split_at_mut(6);
        let sinks = sinks.map(|view| read_sinks(self.isa, view));
        let job = job::Job {
            isa: self.isa,
            scale: self.spec.scale,
            softcap: self.spec.softcap,
            rule: self.spec.rule.as_ref(),
            q: Heads::new(q, copy),
            keys: Tensor::joined(&self.spec.formats.keys, keys, of_keys),
            values: Tensor::new(self.spec.formats.values, values, of_values),
            mask: mask.map(MaskView::new),
            sinks: sinks.as_deref(),
            out: Results::new(&mut outputs[0]),
        };
        tasks::run(std::slice::from_ref(&job));
    }

    /// By rules, a kernel's; under masks in memory, from rings and from quantized caches, that of MLX's own operations.
    fn vjp(&self, at: &Gradient) -> Result<Vec<Array>, Exception> {
        let Spec { scale, softcap, rule, formats, has_mask } = &self.spec;
        let ring = rule.as_ref().is_some_and(|rule| rule.ring.is_some());
        if !has_mask && !ring && formats.plain() == Some(1) {
            let how = AttentionGradient { isa: self.isa, scale: *scale, softcap: *softcap, rule: rule.clone() };
            let gradients = how.of(&at.primals, &at.cotangents[0])?;
            return Ok(at.argnums.iter().map(|&i| gradients[i].clone()).collect());
        }
        let attend = |given: &[Array]| -> Result<Vec<Array>, Exception> {
            let mut all = at.primals.clone();
            for (&i, array) in at.argnums.iter().zip(given) {
                all[i] = array.clone();
            }
            Ok(vec![self.spec.attend_by_hand(&all)?])
        };
        let wanted: Vec<Array> = at.argnums.iter().map(|&i| at.primals[i].clone()).collect();
        Ok(transforms::fallible_vjp(attend, &wanted, &at.cotangents)?.1)
    }
}

impl Spec {
    /// The same by MLX's own operations; parts of keys that are not quantized are joined first, which has a kernel for the gradient.
    fn attend_by_hand(&self, inputs: &[Array]) -> Result<Array, Exception> {
        let Inputs { q, stored: [keys, values], mask, sinks } = self.sort(inputs);
        let sight = fast::Sight { rule: self.rule.clone(), bias: mask };
        let how = fast::Attention { scale: self.scale, softcap: self.softcap, sight, sinks };
        if self.formats.plain() == Some(2) {
            let keys = ops::concatenate(keys, -1)?;
            return fast::attend(q, Stored::Plain(&keys), Stored::Plain(&values[0]), &how);
        }
        let mut rest = keys;
        let mut next = |scheme: Option<Scheme>| {
            let (own, others) = rest.split_at(parts(scheme));
            rest = others;
            Lent::new(scheme, own)
        };
        let keys: Vec<Lent<'_>> = self.formats.keys.iter().map(|scheme| next(*scheme)).collect();
        let (values, keys) = (Lent::new(self.formats.values, values), keys.iter().map(Lent::lend).collect::<Vec<_>>());
        if let &[latent, k_pe] = keys.as_slice() {
            let width = values.lend().width();
            let [q_nope, q_pe] = <[Array; 2]>::try_from(ops::split_at_indices(q, &[width], -1)?)
                .map_err(|_| Exception::custom("queries have two parts"))?;
            return plain::attend_latent(&q_nope, &q_pe, latent, k_pe, &how);
        }
        plain::attend_by_hand(q, keys[0], values.lend(), &how)
    }
}

/// Keys or values of some inputs.
enum Lent<'a> {
    Plain(&'a Array),
    Packed(Packed, Scheme),
}

impl<'a> Lent<'a> {
    fn new(scheme: Option<Scheme>, parts: &'a [Array]) -> Self {
        match (scheme, parts) {
            (Some(scheme), [weight, scales, biases @ ..]) => {
                let biases = biases.first().cloned();
                Self::Packed(Packed { weight: weight.clone(), scales: scales.clone(), biases }, scheme)
            }
            _ => Self::Plain(&parts[0]),
        }
    }

    fn lend(&self) -> Stored<'_> {
        match self {
            Self::Plain(array) => Stored::Plain(array),
            Self::Packed(packed, scheme) => Stored::Packed(packed, *scheme),
        }
    }
}

#[cfg(test)]
mod tests;
