//! The cross entropy of one target in each row of logits, and its gradient.

use std::cell::Cell;
use std::ffi::CStr;

use mlx_rs::error::Exception;
use mlx_rs::{Array, Dtype};

use super::{isa, math, multiversion, takes};
use crate::kernels::convert::{Copies, Results, Values};
use crate::kernels::gemm::Shared;
use crate::kernels::isa::Isa;
use crate::kernels::pool;
use crate::kernels::primitive::{Gradient, Operation, View, ViewMut, apply, apply_one};
use crate::kernels::scratch::{Scratch, with_scratch};

thread_local! {
    /// Rows of 16-bit types as f32.
    static ROOM: Scratch = const { Cell::new(Vec::new()) };
}

/// Rows that a task computes.
const ROWS: usize = 16;

/// The cross entropies, `[…]` of `f32`. A target that is no column counts as one whose logit is minus infinity.
///
/// # Shapes
/// - `logits`: `[…, V]` of a floating-point type, `targets`: `[…]` of `i32`
#[track_caller]
pub(crate) fn cross_entropy(logits: &Array, targets: &Array) -> Result<Option<Array>, Exception> {
    let fits =
        targets.dtype() == Dtype::Int32 && logits.shape().split_last().is_some_and(|(_, rows)| rows == targets.shape());
    if !fits || !takes([logits]) {
        return Ok(None);
    }
    let rows = (targets.shape(), Dtype::Float32);
    let mut results = apply(CrossEntropy, &[logits, targets], &[rows, rows])?;
    results.truncate(1);
    Ok(results.pop())
}

#[derive(Debug)]
struct CrossEntropy;

impl Operation for CrossEntropy {
    fn name(&self) -> &'static CStr {
        c"CrossEntropy"
    }

    fn run(&self, inputs: &[View<'_>], outputs: &mut [ViewMut<'_>]) {
        let (mut a, mut b) = (Copies::default(), Vec::new());
        let (logits, targets) = (Values::new(&inputs[0], &mut a), inputs[1].contiguous::<i32>(&mut b));
        let [losses, normalizers] = outputs else { unreachable!("there are two outputs") };
        let (losses, normalizers, isa) = (losses.as_mut_slice::<f32>(), normalizers.as_mut_slice::<f32>(), isa());
        let vocab = logits.len() / targets.len().max(1);
        let (losses, normalizers) = (Shared(losses.as_mut_ptr()), Shared(normalizers.as_mut_ptr()));
        pool::parallel_ranges(targets.len(), ROWS, targets.len().div_ceil(ROWS), |from, to| {
            with_scratch(&ROOM, vocab, |room| {
                for (i, &target) in (from..).zip(&targets[from..to]) {
                    let row = logits.part(isa, i * vocab, (i + 1) * vocab, room);
                    let normalizer = log_sum_exp(isa, row);
                    let chosen = usize::try_from(target).ok().and_then(|t| row.get(t)).copied();
                    // SAFETY: each row is written by one task.
                    unsafe {
                        *normalizers.get().add(i) = normalizer;
                        *losses.get().add(i) = normalizer - chosen.unwrap_or(f32::NEG_INFINITY);
                    }
                }
            });
        });
    }

    fn vjp(&self, at: &Gradient) -> Result<Vec<Array>, Exception> {
        if at.argnums != [0] {
            return Err(Exception::custom("targets have no gradient"));
        }
        let inputs = [&at.primals[0], &at.primals[1], &at.outputs[1], &at.cotangents[0]];
        Ok(vec![apply_one(CrossEntropyGradient, &inputs, at.primals[0].shape(), at.primals[0].dtype())?])
    }
}

#[derive(Debug)]
struct CrossEntropyGradient;

impl Operation for CrossEntropyGradient {
    fn name(&self) -> &'static CStr {
        c"CrossEntropyGradient"
    }

    fn run(&self, inputs: &[View<'_>], outputs: &mut [ViewMut<'_>]) {
        let (mut a, mut b, mut c, mut d) = (Copies::default(), Vec::new(), Vec::new(), Vec::new());
        let (logits, targets) = (Values::new(&inputs[0], &mut a), inputs[1].contiguous::<i32>(&mut b));
        let (normalizers, factors) = (inputs[2].contiguous::<f32>(&mut c), inputs[3].contiguous::<f32>(&mut d));
        let (out, isa) = (Results::new(&mut outputs[0]), isa());
        let vocab = logits.len() / targets.len().max(1);
        pool::parallel_ranges(targets.len(), ROWS, targets.len().div_ceil(ROWS), |from, to| {
            with_scratch(&ROOM, 2 * vocab, |room| {
                let (a, b) = room.split_at_mut(vocab);
                for (i, &target) in (from..).zip(&targets[from..to]) {
                    let logits = logits.part(isa, i * vocab, (i + 1) * vocab, a);
                    let fill = |row: &mut [f32]| {
                        scaled_softmax(isa, logits, normalizers[i], factors[i], row);
                        if let Some(chosen) = usize::try_from(target).ok().and_then(|t| row.get_mut(t)) {
                            *chosen -= factors[i];
                        }
                    };
                    // SAFETY: each row is written by one task.
                    unsafe { out.part(isa, i * vocab, (i + 1) * vocab, b, fill) };
                }
            });
        });
    }

    fn vjp(&self, _: &Gradient) -> Result<Vec<Array>, Exception> {
        Err(Exception::custom("the gradient of a cross entropy has no gradient of its own"))
    }
}

multiversion! {
    /// Infinite where the largest value is.
    fn log_sum_exp(row: &[f32]) -> f32 {
        let largest = math::max(row);
        if largest.is_infinite() && !row.iter().any(|value| value.is_nan()) {
            return largest;
        }
        let mut sums = [0.0_f32; super::LANES];
        let chunks = row.chunks_exact(super::LANES);
        let rest = chunks.remainder();
        for chunk in chunks {
            for l in 0..super::LANES {
                sums[l] += math::exp(chunk[l] - largest);
            }
        }
        for (l, &value) in rest.iter().enumerate() {
            sums[l] += math::exp(value - largest);
        }
        largest + math::sum(&sums).ln()
    }
}

multiversion! {
    fn scaled_softmax(row: &[f32], normalizer: f32, factor: f32, out: &mut [f32]) {
        let row = &row[..out.len()];
        for i in 0..out.len() {
            out[i] = factor * math::exp(row[i] - normalizer);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::{each_level, numbers};
    use super::*;

    proptest! {
        #[test]
        fn every_level_gives_the_same_bits(x in numbers(1..600)) {
            each_level(1, |isa, out| out[0] = log_sum_exp(isa, &x))?;
            each_level(x.len(), |isa, out| scaled_softmax(isa, &x, 3.0, x[0], out))?;
        }
    }
}
