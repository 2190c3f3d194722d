//! Layers that remember a sequence as a matrix for each head: the gated delta rule, Mamba-2, RWKV-7, linear attention with decay;
//! and, with a decay for each value of its state, Mamba ([`selective`]).
//!
//! What a token does to the matrix `S` of a head, whose rows belong to values and whose columns to keys, is one recurrence for all:
//!
//! `S ← S diag(w) + v kᵀ + (S a) bᵀ`, `y = S r`
//!
//! What is unusual:
//! - There is one forward kernel, which makes the operands of a token from those of each layer ([`tokens`]), and one gradient, that
//!   of the recurrence ([`gradient`]); the gradient of a layer goes by way of it.
//! - Tokens are taken one after the other, also in prompts. Rows of the matrix do not know of each other, so tasks take some rows of
//!   one head, which stay in the first-level cache for all tokens. That is five multiplications for each value of the state and
//!   token; the products of chunks, which accelerators prefer, are more than that.
//! - A token's result has the same bits whatever stands beside it and however a sequence is cut into calls.

use std::cell::Cell;
use std::ffi::CStr;
use std::ops::Range;

use mlx_rs::error::Exception;
use mlx_rs::{Array, Dtype, transforms};

use super::convert::{self, Results};
use super::heads::Heads;
use super::isa::Isa;
use super::mixed::is_float;
use super::pool;
use super::primitive::{Gradient, Operation, View, ViewMut, apply, on_cpu};
use super::scratch::{Scratch, with_scratch};
use crate::fast::{Scan, Wkv7};

mod general;
mod gradient;
mod selective;
mod steps;
mod tokens;

use gradient::RecurrenceGradient;
pub(crate) use selective::selective_scan;
use steps::{LANES, round, step};
use tokens::{Reader, Room};

/// Rows of a state in one task.
const ROWS: usize = 32;

thread_local! {
    static BUFFER: Scratch = const { Cell::new(Vec::new()) };
}

/// A result for each token, and the state behind the last one; `None` where MLX's own operations are to be taken.
type Outcome = Result<Option<(Array, Array)>, Exception>;

/// Arguments are those of [`crate::fast::gated_delta`], whose shapes were checked there.
#[track_caller]
pub(crate) fn gated_delta(inputs: [&Array; 5], state: Option<&Array>, mask: Option<&Array>) -> Outcome {
    let [q, k, v, ..] = inputs;
    let shape = [v.dim(0), v.dim(1), v.dim(2), v.dim(3)];
    Recurrence::new(Form::Delta, state, mask).apply(&inputs, [state, mask], shape, k.dim(3), q.dtype())
}

/// Arguments are those of [`crate::fast::ssm_scan`], whose shapes were checked there.
#[track_caller]
pub(crate) fn ssm_scan(scan: &Scan<'_>) -> Outcome {
    let &Scan { x, dt, a, b, c, d, state, mask } = scan;
    let inputs: Vec<&Array> = [x, dt, a, b, c].into_iter().chain(d).collect();
    let shape = [x.dim(0), x.dim(1), x.dim(2), x.dim(3)];
    let form = Form::Ssm { skips: d.is_some() };
    Recurrence::new(form, state, mask).apply(&inputs, [state, mask], shape, b.dim(3), x.dtype())
}

/// Arguments are those of [`crate::fast::wkv7`], whose shapes were checked there.
#[track_caller]
pub(crate) fn wkv7(of: &Wkv7<'_>) -> Outcome {
    let shape = [of.v.dim(0), of.v.dim(1), of.v.dim(2), of.v.dim(3)];
    let inputs = [of.r, of.w, of.k, of.v, of.a, of.b];
    let form = Form::General { looks_up: true };
    Recurrence::new(form, of.state, of.mask).apply(&inputs, [of.state, of.mask], shape, of.r.dim(3), of.r.dtype())
}

/// Arguments are those of [`crate::fast::decay_attention`], whose shapes were checked there.
#[track_caller]
pub(crate) fn decay_attention(inputs: [&Array; 4], scale: f32, state: Option<&Array>, mask: Option<&Array>) -> Outcome {
    let [q, _, v, _] = inputs;
    let shape = [v.dim(0), v.dim(2), v.dim(1), v.dim(3)];
    Recurrence::new(Form::Decay { scale }, state, mask).apply(&inputs, [state, mask], shape, q.dim(3), q.dtype())
}

/// What the inputs are, and how the operands of a token come from them.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Form {
    /// `r`, `w`, `k` and `v`, then `a` and `b` if something is looked up in the state.
    General { looks_up: bool },
    /// `q`, `k`, `v`, `g` and `beta`.
    Delta,
    /// `x`, `dt`, `A`, `B` and `C`, then `D` if tokens skip the state too.
    Ssm { skips: bool },
    /// `q`, `k`, `v` and `g`, with heads before tokens and a state whose rows belong to keys.
    Decay { scale: f32 },
}

impl Form {
    /// Inputs before the state.
    fn inputs(self) -> usize {
        match self {
            Self::General { looks_up } => {
                if looks_up {
                    6
                } else {
                    4
                }
            }
            Self::Delta => 5,
            Self::Ssm { skips } => 5 + usize::from(skips),
            Self::Decay { .. } => 4,
        }
    }
}

/// The sizes of a call.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    batch: usize,
    tokens: usize,
    heads: usize,
    /// Of a state: the width of values.
    rows: usize,
    /// Of a state: the width of keys.
    columns: usize,
}

impl Sizes {
    /// Vectors of a row of the state.
    fn width(self) -> usize {
        self.columns.div_ceil(LANES)
    }
}

/// The operation: inputs of the form, the state and the mask, if there are any.
#[derive(Debug, Clone, Copy)]
struct Recurrence {
    form: Form,
    has_state: bool,
    has_mask: bool,
    isa: Isa,
}

/// What the inputs are, in their order.
struct Inputs<'a, T> {
    operands: &'a [T],
    state: Option<&'a T>,
    mask: Option<&'a T>,
}

impl Recurrence {
    fn new(form: Form, state: Option<&Array>, mask: Option<&Array>) -> Self {
        let isa = Isa::active().unwrap_or(Isa::Portable);
        Self { form, has_state: state.is_some(), has_mask: mask.is_some(), isa }
    }

    /// `shape` is that of tokens and values: `[B, T, H, rows]`.
    #[track_caller]
    fn apply(
        self,
        operands: &[&Array],
        more: [Option<&Array>; 2],
        shape: [i32; 4],
        columns: i32,
        dtype: Dtype,
    ) -> Outcome {
        let inputs: Vec<&Array> = operands.iter().copied().chain(more.into_iter().flatten()).collect();
        let floats = &inputs[..inputs.len() - usize::from(self.has_mask)];
        if !floats.iter().all(|x| is_float(x.dtype()) && x.size() > 0) || !on_cpu() {
            return Ok(None);
        }
        let [b, t, h, rows] = shape;
        let (of_y, of_state) = match self.form {
            Form::Decay { .. } => ([b, h, t, rows], [b, h, columns, rows]),
            _ => (shape, [b, h, rows, columns]),
        };
        let state_dtype = match (self.form, more[0]) {
            (Form::Delta, Some(state)) if state.dtype() == Dtype::Bfloat16 => Dtype::Bfloat16,
            _ => Dtype::Float32,
        };
        let results = apply(self, &inputs, &[(&of_y, dtype), (&of_state, state_dtype)])?;
        Ok(<[Array; 2]>::try_from(results).ok().map(|[y, state]| (y, state)))
    }

    fn sort<'a, T>(&self, inputs: &'a [T]) -> Inputs<'a, T> {
        let (operands, rest) = inputs.split_at(self.form.inputs());
        let (state, mask) = rest.split_at(usize::from(self.has_state));
        Inputs { operands, state: state.first(), mask: mask.first() }
    }
}

impl Operation for Recurrence {
    fn name(&self) -> &'static CStr {
        c"Recurrence"
    }

    fn run(&self, inputs: &[View<'_>], outputs: &mut [ViewMut<'_>]) {
        let Inputs { operands, state, mask } = self.sort(inputs);
        let (mut copies, mut copy) = ([const { Vec::new() }; 6], Vec::new());
        let reader = Reader::new(self.isa, self.form, operands, &mut copies);
        let job = Job {
            isa: self.isa,
            sizes: reader.sizes,
            state: state.map(|state| Heads::new(state, &mut copy)),
            mask: mask.map(Mask::new),
            reader,
        };
        let [y, state] = outputs else { unreachable!("there are two outputs") };
        let is_narrow = state.dtype == Dtype::Bfloat16;
        job.run(&Results::new(y), &Results::new(state), is_narrow);
    }

    /// The recurrence has a kernel; other forms become a recurrence first.
    fn vjp(&self, at: &Gradient) -> Result<Vec<Array>, Exception> {
        if let Form::General { looks_up } = self.form {
            let gradient =
                RecurrenceGradient { looks_up, has_state: self.has_state, has_mask: self.has_mask, isa: self.isa };
            let gradients = gradient.of(&at.primals, &at.cotangents)?;
            return at.argnums.iter().map(|&i| gradients.get(i).cloned().ok_or_else(no_gradient)).collect();
        }
        let dtypes = [at.outputs[0].dtype(), at.outputs[1].dtype()];
        let general = |given: &[Array]| -> Result<Vec<Array>, Exception> {
            let mut all = at.primals.clone();
            for (&i, array) in at.argnums.iter().zip(given) {
                all[i] = array.clone();
            }
            self.as_general(&all, dtypes)
        };
        let wanted: Vec<Array> = at.argnums.iter().map(|&i| at.primals[i].clone()).collect();
        Ok(transforms::fallible_vjp(general, &wanted, &at.cotangents)?.1)
    }
}

fn no_gradient() -> Exception {
    Exception::custom("a mask has no gradient")
}

/// Which tokens are no padding: `[B, T]`.
#[derive(Clone, Copy)]
struct Mask {
    data: *const u8,
    strides: [isize; 2],
}

// SAFETY: values are only read, and MLX keeps them while the task runs.
unsafe impl Sync for Mask {}

impl Mask {
    fn new(view: &View<'_>) -> Self {
        let &[b, t] = view.strides else { unreachable!("a mask has two axes") };
        Self { data: view.as_ptr::<bool>().cast(), strides: [b as isize, t as isize] }
    }

    fn shows(&self, batch: usize, token: usize) -> bool {
        let [b, t] = self.strides;
        // Foreign bytes may be neither 0 nor 1.
        // SAFETY: the mask has a byte for each token.
        unsafe { *self.data.offset(batch as isize * b + token as isize * t) != 0 }
    }
}

/// What all tasks share.
struct Job {
    isa: Isa,
    sizes: Sizes,
    reader: Reader,
    state: Option<Heads>,
    mask: Option<Mask>,
}

impl Job {
    /// A state that is narrow is rounded to bf16 after each token, so that a sequence may be cut anywhere.
    fn run(&self, y: &Results, state: &Results, is_narrow: bool) {
        let Sizes { batch, heads, rows, .. } = self.sizes;
        let parts = rows.div_ceil(ROWS);
        pool::parallel(batch * heads * parts, |task| {
            let (head, first) = (task / parts, task % parts * ROWS);
            self.part([head / heads, head % heads], first..rows.min(first + ROWS), [y, state], is_narrow);
        });
    }

    /// Some rows of one head's state, through all tokens.
    fn part(&self, [batch, head]: [usize; 2], part: Range<usize>, [y, state]: [&Results; 2], is_narrow: bool) {
        let Sizes { tokens, rows, .. } = self.sizes;
        let (width, first, count) = (self.sizes.width(), part.start, part.len());
        let of_state = count * width * LANES;
        with_scratch(&BUFFER, of_state + Room::floats(self.sizes) + ROWS, |buffer| {
            let (matrix, rest) = buffer.split_at_mut(of_state);
            let (room, result) = rest.split_at_mut(Room::floats(self.sizes));
            let (mut room, result) = (Room::new(room, self.sizes), &mut result[..count]);
            self.read_state([batch, head], first, matrix);
            for token in 0..tokens {
                if self.mask.as_ref().is_some_and(|mask| !mask.shows(batch, token)) {
                    result.fill(0.0);
                } else {
                    let lookup = self.reader.read(self.isa, [batch, token, head], &mut room);
                    step(self.isa, lookup, room.vectors(), &room.values[part.clone()], matrix, result);
                    if is_narrow && token + 1 < tokens {
                        round(self.isa, matrix);
                    }
                    if self.reader.skips() {
                        let skipped = &room.skipped[part.clone()];
                        result.iter_mut().zip(skipped).for_each(|(y, skipped)| *y += skipped);
                    }
                }
                let at = self.reader.place([batch, token, head]) * rows + first;
                // SAFETY: these rows of this head are of one task.
                unsafe { y.write(self.isa, at, result) };
            }
            self.write_state([batch, head], first, matrix, state);
        });
    }

    /// Reads rows of a state from `first` on, or zeros, with zeros behind the last column.
    fn read_state(&self, [batch, head]: [usize; 2], first: usize, matrix: &mut [f32]) {
        let Sizes { rows, columns, .. } = self.sizes;
        let pitch = self.sizes.width() * LANES;
        matrix.fill(0.0);
        let Some(state) = &self.state else { return };
        if !self.reader.is_turned() {
            for (row, to) in matrix.chunks_exact_mut(pitch).enumerate() {
                state.read(self.isa, [batch, head, first + row], &mut to[..columns]);
            }
            return;
        }
        let mut values = vec![0.0; rows];
        for column in 0..columns {
            state.read(self.isa, [batch, head, column], &mut values);
            for (to, value) in matrix.chunks_exact_mut(pitch).zip(&values[first..]) {
                to[column] = *value;
            }
        }
    }

    fn write_state(&self, [batch, head]: [usize; 2], first: usize, matrix: &mut [f32], to: &Results) {
        let Sizes { rows, columns, heads, .. } = self.sizes;
        let (pitch, index) = (self.sizes.width() * LANES, batch * heads + head);
        if !self.reader.is_turned() {
            for (row, values) in matrix.chunks_exact_mut(pitch).enumerate() {
                let at = (index * rows + first + row) * columns;
                // SAFETY: these rows of this head are of one task.
                unsafe { to.write(self.isa, at, &mut values[..columns]) };
            }
            return;
        }
        let mut values = vec![0.0; matrix.len() / pitch];
        for column in 0..columns {
            for (value, row) in values.iter_mut().zip(matrix.chunks_exact(pitch)) {
                *value = row[column];
            }
            // SAFETY: as above.
            unsafe { to.write(self.isa, (index * columns + column) * rows + first, &mut values) };
        }
    }
}

/// A view of floats in row-major order as f32.
fn numbers(isa: Isa, view: &View<'_>) -> Vec<f32> {
    let mut values = vec![0.0; view.len()];
    convert::read(isa, view, &mut values);
    values
}
