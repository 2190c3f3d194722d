//! The Kullback-Leibler divergence of rows of logits from those of a teacher, and its gradient.

use std::cell::Cell;
use std::ffi::CStr;

use mlx_rs::error::Exception;
use mlx_rs::{Array, Dtype};

use super::cross_entropy::log_sum_exp;
use super::{LANES, isa, math, multiversion, takes};
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
const ROWS: usize = 8;

/// The divergences, `[…]` of `f32`.
///
/// # Shapes
/// - `student`, `teacher`: `[…, V]` of one floating-point type
#[track_caller]
pub(crate) fn divergence(student: &Array, teacher: &Array) -> Result<Option<Array>, Exception> {
    if student.shape() != teacher.shape() || !takes([student, teacher]) {
        return Ok(None);
    }
    let Some((_, shape)) = student.shape().split_last() else { return Ok(None) };
    let rows = (shape, Dtype::Float32);
    let mut results = apply(Divergence, &[student, teacher], &[rows, rows, rows])?;
    results.truncate(1);
    Ok(results.pop())
}

/// Gives the divergences, and the logarithms of the sums of both rows.
#[derive(Debug)]
struct Divergence;

impl Operation for Divergence {
    fn name(&self) -> &'static CStr {
        c"Divergence"
    }

    fn run(&self, inputs: &[View<'_>], outputs: &mut [ViewMut<'_>]) {
        let (mut a, mut b) = (Copies::default(), Copies::default());
        let (student, teacher) = (Values::new(&inputs[0], &mut a), Values::new(&inputs[1], &mut b));
        let [divergences, of_students, of_teachers] = outputs else { unreachable!("there are three outputs") };
        let count = divergences.len();
        let results = [divergences, of_students, of_teachers].map(|out| Shared(out.as_mut_slice::<f32>().as_mut_ptr()));
        let (isa, vocab) = (isa(), student.len() / count.max(1));
        pool::parallel_ranges(count, ROWS, count.div_ceil(ROWS), |from, to| {
            with_scratch(&ROOM, 2 * vocab, |room| {
                let (a, b) = room.split_at_mut(vocab);
                for i in from..to {
                    let student = student.part(isa, i * vocab, (i + 1) * vocab, a);
                    let teacher = teacher.part(isa, i * vocab, (i + 1) * vocab, b);
                    let normalizers = (log_sum_exp(isa, student), log_sum_exp(isa, teacher));
                    let divergence = weighed(isa, student, teacher, normalizers);
                    for (result, value) in results.iter().zip([divergence, normalizers.0, normalizers.1]) {
                        // SAFETY: each row is written by one task.
                        unsafe { *result.get().add(i) = value };
                    }
                }
            });
        });
    }

    fn vjp(&self, at: &Gradient) -> Result<Vec<Array>, Exception> {
        if at.argnums != [0] {
            return Err(Exception::custom("a teacher has no gradient"));
        }
        let (student, teacher) = (&at.primals[0], &at.primals[1]);
        let inputs = [student, teacher, &at.outputs[1], &at.outputs[2], &at.cotangents[0]];
        Ok(vec![apply_one(DivergenceGradient, &inputs, student.shape(), student.dtype())?])
    }
}

#[derive(Debug)]
struct DivergenceGradient;

impl Operation for DivergenceGradient {
    fn name(&self) -> &'static CStr {
        c"DivergenceGradient"
    }

    fn run(&self, inputs: &[View<'_>], outputs: &mut [ViewMut<'_>]) {
        let (mut a, mut b) = (Copies::default(), Copies::default());
        let (student, teacher) = (Values::new(&inputs[0], &mut a), Values::new(&inputs[1], &mut b));
        let mut copies = [const { Vec::new() }; 3];
        let mut rest = inputs[2..].iter().zip(&mut copies).map(|(view, copy)| view.contiguous::<f32>(copy));
        let [of_students, of_teachers, factors]: [&[f32]; 3] = std::array::from_fn(|_| rest.next().unwrap_or_default());
        let (out, isa, count) = (Results::new(&mut outputs[0]), isa(), factors.len());
        let vocab = student.len() / count.max(1);
        pool::parallel_ranges(count, ROWS, count.div_ceil(ROWS), |from, to| {
            with_scratch(&ROOM, 3 * vocab, |room| {
                let (a, rest) = room.split_at_mut(vocab);
                let (b, c) = rest.split_at_mut(vocab);
                for i in from..to {
                    let student = student.part(isa, i * vocab, (i + 1) * vocab, a);
                    let teacher = teacher.part(isa, i * vocab, (i + 1) * vocab, b);
                    let normalizers = (of_students[i], of_teachers[i]);
                    let fill = |row: &mut [f32]| gradient(isa, student, teacher, normalizers, factors[i], row);
                    // SAFETY: each row is written by one task.
                    unsafe { out.part(isa, i * vocab, (i + 1) * vocab, c, fill) };
                }
            });
        });
    }

    fn vjp(&self, _: &Gradient) -> Result<Vec<Array>, Exception> {
        Err(Exception::custom("the gradient of a divergence has no gradient of its own"))
    }
}

multiversion! {
    /// The differences of logarithms, weighed by what the teacher finds likely.
    fn weighed(student: &[f32], teacher: &[f32], normalizers: (f32, f32)) -> f32 {
        let mut sums = [0.0_f32; LANES];
        let (students, teachers) = (student.chunks_exact(LANES), teacher.chunks_exact(LANES));
        let rest = students.remainder().iter().zip(teachers.remainder());
        for (student, teacher) in students.zip(teachers) {
            for l in 0..LANES {
                let (of_student, of_teacher) = (student[l] - normalizers.0, teacher[l] - normalizers.1);
                sums[l] += math::exp(of_teacher) * (of_teacher - of_student);
            }
        }
        for (l, (student, teacher)) in rest.enumerate() {
            let (of_student, of_teacher) = (student - normalizers.0, teacher - normalizers.1);
            sums[l] += math::exp(of_teacher) * (of_teacher - of_student);
        }
        math::sum(&sums)
    }
}

multiversion! {
    fn gradient(student: &[f32], teacher: &[f32], normalizers: (f32, f32), factor: f32, out: &mut [f32]) {
        let (student, teacher) = (&student[..out.len()], &teacher[..out.len()]);
        for i in 0..out.len() {
            out[i] = factor * (math::exp(student[i] - normalizers.0) - math::exp(teacher[i] - normalizers.1));
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
            let teacher: Vec<f32> = x.iter().rev().copied().collect();
            each_level(1, |isa, out| out[0] = weighed(isa, &x, &teacher, (3.0, 2.0)))?;
            each_level(x.len(), |isa, out| gradient(isa, &x, &teacher, (3.0, 2.0), 0.5, out))?;
        }
    }
}
