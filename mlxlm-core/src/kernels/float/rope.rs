//! Rotary positions (arXiv:2104.09864) in all forms of MLX: pairs that are halves of a head or neighbours, part of a head,
//! frequencies from a base or a table, one offset or one for each sequence. The gradient turns the other way.
//!
//! Unusual: cosines and sines are kept between calls. All layers of a step turn their queries and keys by the same angles.

use std::cell::{Cell, RefCell};
use std::ffi::CStr;
use std::rc::Rc;

use mlx_rs::error::Exception;
use mlx_rs::{Array, Dtype};

use super::{isa, multiversion, takes};
use crate::kernels::convert::{self, Results};
use crate::kernels::heads::Heads;
use crate::kernels::isa::Isa;
use crate::kernels::pool;
use crate::kernels::primitive::{Gradient, Operation, View, ViewMut, apply_one};
use crate::kernels::scratch::{Scratch, with_scratch};

/// Values that a task turns at least.
const CHUNK: usize = 1 << 14;

thread_local! {
    static ROOM: Scratch = const { Cell::new(Vec::new()) };
    /// The angles of the last call on this thread.
    static LAST: RefCell<Option<(Angles, Rc<Table>)>> = const { RefCell::new(None) };
}

/// The numbers of a rotation.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rotation {
    /// How many dimensions of a head are turned; even.
    pub(crate) dims: i32,
    /// Whether pairs are neighbours, and not the two halves of the dimensions.
    pub(crate) neighbours: bool,
    /// Pair `i` of `n` turns by `base^(-i/n)` for each position; there is either this or a table.
    pub(crate) base: Option<f32>,
    /// Factor of positions.
    pub(crate) scale: f32,
    /// Position of the first token, unless there are offsets.
    pub(crate) offset: i32,
}

impl Rotation {
    /// # Shapes
    /// - `x`: `[B, H, L, d]` of a floating-point type, and the same comes back
    /// - `offsets`: positions of the first tokens, one `i32` or one for each of `B`
    /// - `table`: `[dims / 2]` of `f32`, the reciprocals of frequencies
    #[track_caller]
    pub(crate) fn apply(
        self,
        x: &Array,
        offsets: Option<&Array>,
        table: Option<&Array>,
    ) -> Result<Option<Array>, Exception> {
        if !takes([x]) || !self.fits(x, offsets, table) {
            return Ok(None);
        }
        let operation =
            Turn { rotation: self, has_offsets: offsets.is_some(), has_table: table.is_some(), direction: 1 };
        let inputs: Vec<&Array> = [x].into_iter().chain(offsets).chain(table).collect();
        apply_one(operation, &inputs, x.shape(), x.dtype()).map(Some)
    }

    fn fits(&self, x: &Array, offsets: Option<&Array>, table: Option<&Array>) -> bool {
        x.ndim() == 4
            && self.base.is_some() != table.is_some()
            && self.dims > 0
            && self.dims % 2 == 0
            && self.dims <= x.dim(-1)
            && offsets.is_none_or(|o| o.dtype() == Dtype::Int32 && (o.size() == 1 || o.shape() == [x.dim(0)]))
            && table.is_none_or(|t| t.dtype() == Dtype::Float32 && t.shape() == [self.dims / 2])
    }
}

#[derive(Debug, Clone, Copy)]
struct Turn {
    rotation: Rotation,
    has_offsets: bool,
    has_table: bool,
    /// 1, or -1 to turn back.
    direction: i8,
}

/// What angles depend on.
#[derive(Debug, Clone, PartialEq)]
struct Angles {
    frequencies: Vec<f32>,
    scale: f32,
    /// The first positions, one or one for each sequence.
    offsets: Vec<i32>,
    len: usize,
}

/// Cosines and sines, `[offsets, L, dims / 2]` each.
struct Table {
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl Angles {
    /// Angles are computed as MLX's CPU path does, in `f32`.
    fn table(&self) -> Table {
        let angles = self.offsets.iter().flat_map(|offset| {
            (0..self.len).flat_map(move |position| {
                // Files of caches may begin anywhere: a sequence that goes beyond 32 bits is no overflow.
                let position = (position as i64 + i64::from(*offset)) as f32 * self.scale;
                self.frequencies.iter().map(move |frequency| position * frequency)
            })
        });
        let (cos, sin) = angles.map(|angle| (angle.cos(), angle.sin())).unzip();
        Table { cos, sin }
    }

    /// The table of the last call, if that had the same angles, or a new one.
    fn kept(self) -> Rc<Table> {
        LAST.with_borrow_mut(|last| match last {
            Some((angles, table)) if *angles == self => Rc::clone(table),
            _ => {
                let table = Rc::new(self.table());
                *last = Some((self, Rc::clone(&table)));
                table
            }
        })
    }
}

impl Turn {
    fn angles(&self, inputs: &[View<'_>]) -> Angles {
        let Rotation { dims, base, scale, offset, .. } = self.rotation;
        let half = dims as usize / 2;
        let offsets = if self.has_offsets { inputs[1].contiguous(&mut Vec::new()).to_vec() } else { vec![offset] };
        let frequencies = if self.has_table {
            let mut table = vec![0.0; half];
            convert::read(isa(), &inputs[1 + usize::from(self.has_offsets)], &mut table);
            table.iter().map(|t| 1.0 / t).collect()
        } else {
            let step = -base.unwrap_or(1.0).ln() / half as f32;
            (0..half).map(|i| (i as f32 * step).exp()).collect()
        };
        Angles { frequencies, scale, offsets, len: inputs[0].shape[2] as usize }
    }
}

impl Operation for Turn {
    fn name(&self) -> &'static CStr {
        c"Rotation"
    }

    fn run(&self, inputs: &[View<'_>], outputs: &mut [ViewMut<'_>]) {
        let mut copy = Vec::new();
        let x = Heads::new(&inputs[0], &mut copy);
        let [batch, heads, len, dims] = x.shape;
        let angles = self.angles(inputs);
        let offsets = angles.offsets.len();
        let table = angles.kept();
        let (cos, sin) = (&table.cos[..], &table.sin[..]);
        let (out, isa) = (Results::new(&mut outputs[0]), isa());
        let (turned, half) = (self.rotation.dims as usize, self.rotation.dims as usize / 2);
        let rows = batch * heads * len;
        pool::parallel_ranges(rows, 1, (rows * dims).div_ceil(CHUNK), |from, to| {
            with_scratch(&ROOM, 3 * dims, |room| {
                let (row_of, room) = room.split_at_mut(dims);
                let (copy, result) = room.split_at_mut(dims);
                for row in from..to {
                    let (sequence, head, position) = (row / (heads * len), row / len % heads, row % len);
                    x.read(isa, [sequence, head, position], row_of);
                    let angle = (if offsets == 1 { 0 } else { sequence } * len + position) * half;
                    let (cos, sin) = (&cos[angle..][..half], &sin[angle..][..half]);
                    let direction = f32::from(self.direction);
                    copy.copy_from_slice(row_of);
                    if self.rotation.neighbours {
                        rotate_neighbours(isa, &row_of[..turned], cos, sin, direction, &mut copy[..turned]);
                    } else {
                        rotate_halves(isa, &row_of[..turned], cos, sin, direction, &mut copy[..turned]);
                    }
                    // SAFETY: rows are written by one task each.
                    unsafe { out.part(isa, row * dims, (row + 1) * dims, result, |out| out.copy_from_slice(copy)) };
                }
            });
        });
    }

    fn vjp(&self, at: &Gradient) -> Result<Vec<Array>, Exception> {
        if at.argnums != [0] {
            return Err(Exception::custom("positions have no gradient"));
        }
        let back = Self { direction: -self.direction, ..*self };
        let inputs: Vec<&Array> = at.cotangents.iter().chain(&at.primals[1..]).collect();
        Ok(vec![apply_one(back, &inputs, at.primals[0].shape(), at.primals[0].dtype())?])
    }
}

multiversion! {
    fn rotate_halves(x: &[f32], cos: &[f32], sin: &[f32], direction: f32, out: &mut [f32]) {
        let half = cos.len();
        let ((x, y), (u, v)) = (x.split_at(half), out.split_at_mut(half));
        let (x, y, u, v, sin) = (&x[..half], &y[..half], &mut u[..half], &mut v[..half], &sin[..half]);
        for i in 0..half {
            let sin = direction * sin[i];
            u[i] = x[i] * cos[i] - y[i] * sin;
            v[i] = x[i] * sin + y[i] * cos[i];
        }
    }
}

multiversion! {
    fn rotate_neighbours(x: &[f32], cos: &[f32], sin: &[f32], direction: f32, out: &mut [f32]) {
        for (i, (x, out)) in x.chunks_exact(2).zip(out.chunks_exact_mut(2)).enumerate() {
            let sin = direction * sin[i];
            out[0] = x[0] * cos[i] - x[1] * sin;
            out[1] = x[0] * sin + x[1] * cos[i];
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::{each_level, numbers};
    use super::*;

    #[test]
    fn positions_beyond_32_bits_are_no_overflow() {
        let angles = Angles { frequencies: vec![1e-9], scale: 1.0, offsets: vec![i32::MAX, i32::MIN], len: 2 };
        let table = angles.table();
        assert!(table.cos.len() == 4 && table.cos.iter().chain(&table.sin).all(|value| value.is_finite()));
    }

    proptest! {
        #[test]
        fn every_level_gives_the_same_bits(x in numbers(8..300), direction in prop::sample::select(vec![1.0_f32, -1.0])) {
            let half = x.len() / 4;
            let (cos, sin) = (&x[..half], &x[half..2 * half]);
            each_level(2 * half, |isa, out| rotate_halves(isa, &x[..2 * half], cos, sin, direction, out))?;
            each_level(2 * half, |isa, out| rotate_neighbours(isa, &x[..2 * half], cos, sin, direction, out))?;
        }
    }
}
