//! The Walsh-Hadamard rotation of the last axis, in blocks; it is its own gradient.

use std::ffi::CStr;

use mlx_rs::Array;
use mlx_rs::error::Exception;

use super::softmax::each_row;
use super::{multiversion, takes};
use crate::kernels::isa::Isa;
use crate::kernels::primitive::{Gradient, Operation, View, ViewMut, apply_one};

/// Each block of the last axis times the Walsh-Hadamard matrix over the root of its size, in f32 and rounded once.
///
/// # Shapes
/// - `x`: `[…, D]` of a floating-point type, `block`: a power of two that divides `D`; the shape of `x` comes back
#[track_caller]
pub(crate) fn hadamard(x: &Array, block: usize) -> Result<Option<Array>, Exception> {
    if x.ndim() == 0 || !takes([x]) {
        return Ok(None);
    }
    apply_one(Hadamard { block }, &[x], x.shape(), x.dtype()).map(Some)
}

#[derive(Debug)]
struct Hadamard {
    block: usize,
}

impl Operation for Hadamard {
    fn name(&self) -> &'static CStr {
        c"Hadamard"
    }

    fn run(&self, inputs: &[View<'_>], outputs: &mut [ViewMut<'_>]) {
        each_row(inputs, &mut outputs[0], |isa, [x], out| rotate(isa, x, self.block, out));
    }

    fn vjp(&self, at: &Gradient) -> Result<Vec<Array>, Exception> {
        let dy = &at.cotangents[0];
        Ok(vec![apply_one(Self { block: self.block }, &[dy], dy.shape(), dy.dtype())?])
    }
}

multiversion! {
    fn rotate(x: &[f32], block: usize, out: &mut [f32]) {
        let factor = 1.0 / (block as f32).sqrt();
        for (out, x) in out.iter_mut().zip(x) {
            *out = x * factor;
        }
        let mut half = 1;
        while half < block {
            for pair in out.chunks_exact_mut(2 * half) {
                let (a, b) = pair.split_at_mut(half);
                for (a, b) in a.iter_mut().zip(b) {
                    (*a, *b) = (*a + *b, *a - *b);
                }
            }
            half *= 2;
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
        fn every_level_gives_the_same_bits(x in numbers(64..65), log in 0..7_u32) {
            each_level(x.len(), |isa, out| rotate(isa, &x, 1 << log, out))?;
        }
    }
}
