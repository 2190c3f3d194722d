//! The gradient of the recurrence. A task has a head; of a few rows at a time all states are computed again and kept, then tokens
//! are taken backwards. What rows share, the gradients of the vectors of tokens, is added up in the order of the rows.

use std::cell::Cell;
use std::ffi::CStr;

use mlx_rs::error::Exception;
use mlx_rs::{Array, Dtype};

use super::steps::{Back, LANES, Lookup, TOGETHER, look_up, step, step_back};
use super::tokens::{Reader, Room, VECTORS};
use super::{Form, Mask, Sizes};
use crate::kernels::convert::Results;
use crate::kernels::heads::Heads;
use crate::kernels::isa::Isa;
use crate::kernels::pool;
use crate::kernels::primitive::{Gradient, Operation, View, ViewMut, apply};
use crate::kernels::scratch::{Scratch, with_scratch};

thread_local! {
    static BUFFER: Scratch = const { Cell::new(Vec::new()) };
}

/// The operation: inputs of [`Form::General`], the state and the mask, if there are any, and the gradients of the results and of
/// the last state; outputs are the gradients of all inputs but the mask.
#[derive(Debug, Clone, Copy)]
pub(super) struct RecurrenceGradient {
    pub(super) looks_up: bool,
    pub(super) has_state: bool,
    pub(super) has_mask: bool,
    pub(super) isa: Isa,
}

impl RecurrenceGradient {
    pub(super) fn of(self, primals: &[Array], cotangents: &[Array]) -> Result<Vec<Array>, Exception> {
        let inputs: Vec<&Array> = primals.iter().chain(cotangents).collect();
        let floats = &primals[..primals.len() - usize::from(self.has_mask)];
        let shapes: Vec<(&[i32], Dtype)> = floats.iter().map(|array| (array.shape(), array.dtype())).collect();
        apply(self, &inputs, &shapes)
    }
}

impl Operation for RecurrenceGradient {
    fn name(&self) -> &'static CStr {
        c"RecurrenceGradient"
    }

    fn run(&self, inputs: &[View<'_>], outputs: &mut [ViewMut<'_>]) {
        let form = Form::General { looks_up: self.looks_up };
        let (operands, rest) = inputs.split_at(form.inputs());
        let (state, rest) = rest.split_at(usize::from(self.has_state));
        let (mask, cotangents) = rest.split_at(usize::from(self.has_mask));
        let [of_results, of_state] = cotangents else { unreachable!("there are gradients of two results") };
        let (mut copies, mut more) = ([const { Vec::new() }; 6], [const { Vec::new() }; 3]);
        let [a, b, c] = &mut more;
        let reader = Reader::new(self.isa, form, operands, &mut copies);
        let job = Job {
            isa: self.isa,
            looks_up: self.looks_up,
            sizes: reader.sizes,
            reader,
            state: state.first().map(|state| Heads::new(state, a)),
            mask: mask.first().map(Mask::new),
            of_results: Heads::new(of_results, b),
            of_state: Heads::new(of_state, c),
        };
        let outputs: Vec<Results> = outputs.iter_mut().map(Results::new).collect();
        let Sizes { batch, heads, .. } = job.sizes;
        pool::parallel(batch * heads, |task| job.head([task / heads, task % heads], &outputs));
    }

    fn vjp(&self, _: &Gradient) -> Result<Vec<Array>, Exception> {
        Err(Exception::custom("the gradient of a recurrence has no gradient of its own"))
    }
}

/// What all tasks share.
struct Job {
    isa: Isa,
    looks_up: bool,
    sizes: Sizes,
    reader: Reader,
    state: Option<Heads>,
    mask: Option<Mask>,
    of_results: Heads,
    of_state: Heads,
}

/// What a task keeps of all tokens of its head.
struct Kept<'a> {
    /// [`VECTORS`] of each token, and their gradients.
    vectors: &'a mut [f32],
    gradients: &'a mut [f32],
    /// For each token a number for each row: values, gradients of results, and gradients of values.
    values: &'a mut [f32],
    cotangents: &'a mut [f32],
    of_values: &'a mut [f32],
    /// Of the rows in hand: the state before the first token and behind each, what each found, and the gradient of the state.
    states: &'a mut [f32],
    found: &'a mut [f32],
    slope: &'a mut [f32],
}

impl Job {
    fn head(&self, head: [usize; 2], outputs: &[Results]) {
        let Sizes { tokens, rows, .. } = self.sizes;
        let pitch = self.sizes.width() * LANES;
        // Rows are taken together, if need be with some that are zero.
        let whole = rows.next_multiple_of(TOGETHER);
        let few = TOGETHER * pitch;
        let sizes = [
            tokens * VECTORS * pitch,
            tokens * VECTORS * pitch,
            tokens * whole,
            tokens * whole,
            tokens * whole,
            (tokens + 1) * few,
            tokens * TOGETHER,
            few,
        ];
        let room = Room::floats(self.sizes);
        with_scratch(&BUFFER, sizes.iter().sum::<usize>() + room, |buffer| {
            let (room, mut rest) = buffer.split_at_mut(room);
            let mut parts = sizes.map(|size| {
                let (part, others) = std::mem::take(&mut rest).split_at_mut(size);
                rest = others;
                part.fill(0.0);
                Some(part)
            });
            let mut part = |i: usize| parts[i].take().unwrap_or_default();
            let mut kept = Kept {
                vectors: part(0),
                gradients: part(1),
                values: part(2),
                cotangents: part(3),
                of_values: part(4),
                states: part(5),
                found: part(6),
                slope: part(7),
            };
            self.read(head, &mut Room::new(room, self.sizes), &mut kept, whole);
            for first in (0..rows).step_by(TOGETHER) {
                let count = TOGETHER.min(rows - first);
                self.forth(head, first, count, whole, &mut kept);
                self.back(head, first, count, whole, &mut kept);
                if let (Some(out), Some(_)) = (outputs.last(), &self.state) {
                    self.write_rows(head, first, count, kept.slope, out);
                }
            }
            self.write(head, &mut kept, whole, outputs);
        });
    }

    fn shows(&self, batch: usize, token: usize) -> bool {
        self.mask.as_ref().is_none_or(|mask| mask.shows(batch, token))
    }

    /// Reads all tokens.
    fn read(&self, [batch, head]: [usize; 2], room: &mut Room<'_>, to: &mut Kept<'_>, whole: usize) {
        let (len, rows) = (room.vectors().len(), self.sizes.rows);
        for token in 0..self.sizes.tokens {
            let at = [batch, token, head];
            self.reader.read(self.isa, at, room);
            to.vectors[token * len..][..len].copy_from_slice(room.vectors());
            to.values[token * whole..][..rows].copy_from_slice(room.values);
            self.of_results.read(self.isa, at, &mut to.cotangents[token * whole..][..rows]);
        }
    }

    /// Computes the states of some rows behind all tokens.
    fn forth(&self, [batch, head]: [usize; 2], first: usize, count: usize, whole: usize, kept: &mut Kept<'_>) {
        let Sizes { tokens, columns, .. } = self.sizes;
        let pitch = self.sizes.width() * LANES;
        let (few, len) = (TOGETHER * pitch, VECTORS * pitch);
        kept.states[..few].fill(0.0);
        if let Some(state) = &self.state {
            for row in 0..count {
                state.read(self.isa, [batch, head, first + row], &mut kept.states[row * pitch..][..columns]);
            }
        }
        let (lookup, mut results) = (if self.looks_up { Lookup::Add } else { Lookup::None }, [0.0; TOGETHER]);
        for token in 0..tokens {
            let (before, after) = kept.states[token * few..][..2 * few].split_at_mut(few);
            after.copy_from_slice(before);
            if !self.shows(batch, token) {
                continue;
            }
            let vectors = &kept.vectors[token * len..][..len];
            if self.looks_up {
                look_up(self.isa, vectors, before, &mut kept.found[token * TOGETHER..][..TOGETHER]);
            }
            step(self.isa, lookup, vectors, &kept.values[token * whole + first..][..TOGETHER], after, &mut results);
        }
    }

    /// Takes some rows backwards.
    fn back(&self, [batch, head]: [usize; 2], first: usize, count: usize, whole: usize, kept: &mut Kept<'_>) {
        let Sizes { tokens, columns, .. } = self.sizes;
        let pitch = self.sizes.width() * LANES;
        let (few, len) = (TOGETHER * pitch, VECTORS * pitch);
        kept.slope.fill(0.0);
        for row in 0..count {
            self.of_state.read(self.isa, [batch, head, first + row], &mut kept.slope[row * pitch..][..columns]);
        }
        for token in (0..tokens).rev().filter(|&token| self.shows(batch, token)) {
            let (before, after) = kept.states[token * few..][..2 * few].split_at(few);
            let four = |from: &[f32], at: usize| std::array::from_fn(|row| from[at + row]);
            let at = Back {
                vectors: &kept.vectors[token * len..][..len],
                gradients: &mut kept.gradients[token * len..][..len],
                before,
                after,
                values: four(kept.values, token * whole + first),
                found: four(kept.found, token * TOGETHER),
                cotangents: four(kept.cotangents, token * whole + first),
            };
            let mut of_values = [0.0; TOGETHER];
            step_back(self.isa, self.looks_up, at, kept.slope, &mut of_values);
            kept.of_values[token * whole + first..][..TOGETHER].copy_from_slice(&of_values);
        }
    }

    /// Writes the gradient of some rows of the first state.
    fn write_rows(&self, [batch, head]: [usize; 2], first: usize, count: usize, slope: &mut [f32], out: &Results) {
        let Sizes { heads, rows, columns, .. } = self.sizes;
        for (row, values) in slope.chunks_exact_mut(self.sizes.width() * LANES).enumerate().take(count) {
            let at = ((batch * heads + head) * rows + first + row) * columns;
            // SAFETY: a task has its head.
            unsafe { out.write(self.isa, at, &mut values[..columns]) };
        }
    }

    /// Writes the gradients of all tokens.
    fn write(&self, [batch, head]: [usize; 2], kept: &mut Kept<'_>, whole: usize, outputs: &[Results]) {
        let Sizes { tokens, rows, columns, .. } = self.sizes;
        let (pitch, values) = (self.sizes.width() * LANES, 3);
        // Where the vectors `w`, `k`, `r`, `a` and `b` are among the inputs.
        let order = [1, 2, 0, 4, 5];
        for token in 0..tokens {
            let number = self.reader.place([batch, token, head]);
            let vectors = kept.gradients[token * VECTORS * pitch..][..VECTORS * pitch].chunks_exact_mut(pitch);
            for (&output, vector) in order.iter().zip(vectors).take(if self.looks_up { 5 } else { 3 }) {
                // SAFETY: a task has its head.
                unsafe { outputs[output].write(self.isa, number * columns, &mut vector[..columns]) };
            }
            let of_values = &mut kept.of_values[token * whole..][..rows];
            // SAFETY: as above.
            unsafe { outputs[values].write(self.isa, number * rows, of_values) };
        }
    }
}
