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
//! One [`job`], three ways to compute a chunk: [`tiles`] for bf16 on AMX, [`few`] for a few queries on AVX-512, [`panels`] with the
//! product of [`super::gemm`] for all else.

use std::ffi::CStr;

use mlx_rs::error::Exception;
use mlx_rs::{Array, Dtype, transforms};

use super::convert::{self, Results};
use super::heads::Heads;
use super::isa::Isa;
use super::mixed::{self, is_float};
use super::primitive::{Gradient, Operation, View, ViewMut, apply_one, on_cpu};
use crate::fast::{self, Causal, Sight, Stored, plain};
use crate::quant::{Mode, Packed, Scheme};

mod few;
mod gradient;
mod job;
mod lanes;
mod mask;
mod panels;
mod rows;
mod stored;
mod tiles;

use gradient::AttentionGradient;
use mask::MaskView;
use stored::Tensor;

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

fn attend_at(
    isa: Isa,
    q: &Array,
    keys: Stored<'_>,
    values: Stored<'_>,
    how: &fast::Attention<'_>,
) -> Result<Option<Array>, Exception> {
    let (Some(k), Some(v)) = (shape(keys, q.dtype()), shape(values, q.dtype())) else { return Ok(None) };
    if !fits(q, k, v, how) {
        return Ok(None);
    }
    let (rule, mask) = match &how.sight {
        Sight::All => (None, None),
        Sight::Causal(rule) => (Some(rule.clone()), None),
        Sight::Mask(mask) => (None, Some(*mask)),
    };
    let mut inputs = vec![q];
    for stored in [keys, values] {
        match stored {
            Stored::Plain(array) => inputs.push(array),
            Stored::Packed(packed, _) => {
                inputs.extend([&packed.weight, &packed.scales].into_iter().chain(&packed.biases));
            }
        }
    }
    inputs.extend(mask.into_iter().chain(how.sinks));
    let schemes = [keys, values].map(|stored| match stored {
        Stored::Plain(_) => None,
        Stored::Packed(_, scheme) => Some(scheme),
    });
    let spec = Spec { scale: how.scale, softcap: how.softcap, rule, schemes, has_mask: mask.is_some() };
    apply_one(Attention { spec, isa }, &inputs, &[q.dim(0), q.dim(1), q.dim(2), v[3]], q.dtype()).map(Some)
}

/// `[B, K, S, d]` of keys or values that the kernels can read.
fn shape(stored: Stored<'_>, dtype: Dtype) -> Option<[i32; 4]> {
    match stored {
        Stored::Plain(array) => (array.dtype() == dtype).then(|| array.shape().try_into().ok()).flatten(),
        Stored::Packed(Packed { weight, scales, biases }, scheme) => {
            let [b, h, s, words]: [i32; 4] = weight.shape().try_into().ok()?;
            let width = scales.dim(-1) * scheme.group_size;
            let params = match (scheme.mode, biases) {
                (Mode::Affine, Some(biases)) => {
                    is_float(scales.dtype()) && scales.dtype() == biases.dtype() && biases.shape() == scales.shape()
                }
                (Mode::Affine, None) => false,
                (_, biases) => scales.dtype() == Dtype::Uint8 && biases.is_none(),
            };
            let fits = params
                && weight.dtype() == Dtype::Uint32
                && Scheme::new(scheme.mode, scheme.bits, scheme.group_size).is_ok()
                && scales.shape() == [b, h, s, scales.dim(-1)]
                && words == scheme.packed_words(width);
            fits.then_some([b, h, s, width])
        }
    }
}

fn fits(q: &Array, k: [i32; 4], v: [i32; 4], how: &fast::Attention<'_>) -> bool {
    let &[b, h, l, d] = q.shape() else { return false };
    let [_, kv_heads, s, _] = k;
    let sight_fits = match &how.sight {
        Sight::All => true,
        Sight::Causal(rule) => l <= s && rule.fits(b, s),
        Sight::Mask(mask) => {
            let wanted = [b, h, l, s];
            let shape = mask.shape();
            (is_float(mask.dtype()) || mask.dtype() == Dtype::Bool)
                && shape.len() <= 4
                && shape.iter().rev().zip(wanted.iter().rev()).all(|(have, want)| have == want || *have == 1)
        }
    };
    is_float(q.dtype())
        && k == [b, kv_heads, s, d]
        && v[..3] == k[..3]
        && [b, h, l, d, s, kv_heads, v[3]].iter().all(|&size| size > 0)
        && h % kv_heads == 0
        && sight_fits
        && how.sinks.is_none_or(|sinks| is_float(sinks.dtype()) && sinks.shape() == [h])
}

/// All about a call that is no array.
#[derive(Debug, Clone)]
struct Spec {
    scale: f32,
    softcap: Option<f32>,
    /// `None`: a query sees all keys, or those of the mask.
    rule: Option<Causal>,
    /// How keys and values are quantized, if they are.
    schemes: [Option<Scheme>; 2],
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
        let parts = |scheme: Option<Scheme>| match scheme {
            None => 1,
            Some(scheme) if scheme.mode == Mode::Affine => 3,
            Some(_) => 2,
        };
        let (q, rest) = (&inputs[0], &inputs[1..]);
        let (keys, rest) = rest.split_at(parts(self.schemes[0]));
        let (values, rest) = rest.split_at(parts(self.schemes[1]));
        let (mask, rest) = rest.split_at(usize::from(self.has_mask));
        Inputs { q, stored: [keys, values], mask: mask.first(), sinks: rest.first() }
    }
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
        let mut copies = [const { Vec::new() }; 7];
        let [copy, rest @ ..] = &mut copies;
        let (of_keys, of_values) = rest.split_at_mut(3);
        let sinks = sinks.map(|view| {
            let mut sinks = vec![0.0; view.len()];
            convert::read(self.isa, view, &mut sinks);
            sinks
        });
        let job = job::Job {
            isa: self.isa,
            scale: self.spec.scale,
            softcap: self.spec.softcap,
            rule: self.spec.rule.as_ref(),
            q: Heads::new(q, copy),
            keys: Tensor::new(self.spec.schemes[0], keys, of_keys),
            values: Tensor::new(self.spec.schemes[1], values, of_values),
            mask: mask.map(MaskView::new),
            sinks,
        };
        job.run(&Results::new(&mut outputs[0]));
    }

    /// By rules, a kernel's; under masks in memory, from rings and from quantized caches, that of MLX's own operations.
    fn vjp(&self, at: &Gradient) -> Result<Vec<Array>, Exception> {
        let Spec { scale, softcap, rule, schemes, has_mask } = &self.spec;
        let ring = rule.as_ref().is_some_and(|rule| rule.ring.is_some());
        if !has_mask && !ring && schemes.iter().all(Option::is_none) {
            let how = AttentionGradient { isa: self.isa, scale: *scale, softcap: *softcap, rule: rule.clone() };
            let gradients = how.of(&at.primals, &at.cotangents[0])?;
            return Ok(at.argnums.iter().map(|&i| gradients[i].clone()).collect());
        }
        let attend = |given: &[Array]| -> Result<Vec<Array>, Exception> {
            let mut all = at.primals.clone();
            for (&i, array) in at.argnums.iter().zip(given) {
                all[i] = array.clone();
            }
            let Inputs { q, stored: [keys, values], mask, sinks } = self.spec.sort(&all);
            let packed = [keys, values].map(|parts| match parts {
                [weight, scales, biases @ ..] => {
                    let biases = biases.first().cloned();
                    Some(Packed { weight: weight.clone(), scales: scales.clone(), biases })
                }
                _ => None,
            });
            let stored = |i: usize, plain| match (&packed[i], self.spec.schemes[i]) {
                (Some(packed), Some(scheme)) => Stored::Packed(packed, scheme),
                _ => Stored::Plain(plain),
            };
            let sight = match (&self.spec.rule, mask) {
                (Some(rule), _) => Sight::Causal(rule.clone()),
                (None, Some(mask)) => Sight::Mask(mask),
                (None, None) => Sight::All,
            };
            let how = fast::Attention { scale: self.spec.scale, softcap: self.spec.softcap, sight, sinks };
            Ok(vec![plain::attend_by_hand(q, stored(0, &keys[0]), stored(1, &values[0]), &how)?])
        };
        let wanted: Vec<Array> = at.argnums.iter().map(|&i| at.primals[i].clone()).collect();
        Ok(transforms::fallible_vjp(attend, &wanted, &at.cotangents)?.1)
    }
}

#[cfg(test)]
mod tests;
