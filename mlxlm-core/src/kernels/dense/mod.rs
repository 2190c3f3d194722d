//! Products with bf16 and f16 matrices, which MLX does not give to BLAS, with few rows of f32, for which BLAS would write a matrix
//! before it reads it, and of matrices that are chosen from a stack ([`gather`]), which MLX has in f32 only and reads anew for each
//! row. Sums are f32, results are rounded once.
//!
//! Up to [`INVARIANT_ROWS`] rows against a matrix whose rows are read whole (every linear layer) stream the matrix once, from
//! AVX2 on ([`dot`]); beyond, bf16 is multiplied in pairs from AVX-512 on ([`tiles`]); everything else widens panels into the f32 product of [`super::gemm`]. All are
//! batch-invariant as far as they go; the choice depends on the number of rows only beyond [`INVARIANT_ROWS`].

use std::cell::Cell;
use std::ffi::CStr;
use std::ops::Range;

use mlx_rs::error::Exception;
use mlx_rs::{Array, Dtype};

use super::INVARIANT_ROWS;
use super::convert::{Copies, Results, Values};
use super::gemm::{Block, Gemm, Kernels, Shared, gemm};
use super::isa::Isa;
use super::mixed::{self, is_float};
use super::pool;
use super::primitive::{Gradient, Operation, View, ViewMut, apply_one, on_cpu};
use super::scratch::{Scratch, with_scratch};

mod dot;
mod gather;
mod tiles;

pub(crate) use gather::gather_linear;

thread_local! {
    static WIDE: Scratch = const { Cell::new(Vec::new()) };
    static RESULTS: Scratch = const { Cell::new(Vec::new()) };
}

/// `x @ w.T`, or `None` where MLX's own operation is to be taken: many rows of f32 go to BLAS, which is ours too.
///
/// # Shapes
/// - `x`: `[…, in]`, `w`: `[out, in]`, result: `[…, out]`
pub(crate) fn linear(x: &Array, w: &Array) -> Result<Option<Array>, Exception> {
    let fits = is_float(w.dtype()) && w.ndim() == 2 && x.ndim() > 0 && x.dim(-1) == w.dim(1) && on_cpu();
    if !fits {
        return Ok(None);
    }
    let Some(x) = mixed::meeting(x, w.dtype())? else { return Ok(None) };
    let mut shape = x.shape().to_vec();
    if w.dtype() == Dtype::Float32 && x.size() > INVARIANT_ROWS * w.dim(1) as usize {
        return Ok(None);
    }
    if let Some(last) = shape.last_mut() {
        *last = w.dim(0);
    }
    Product { transpose_a: false, transpose_b: true, isa: isa()? }.apply(&x, w, &shape, x.dtype()).map(Some)
}

fn isa() -> Result<Isa, Exception> {
    Isa::active().map_err(|e| Exception::custom(e.to_string()))
}

/// `op(A) @ op(B)` of two matrices; leading axes of one that is not transposed count as rows.
#[derive(Debug, Clone, Copy)]
struct Product {
    transpose_a: bool,
    transpose_b: bool,
    isa: Isa,
}

impl Product {
    fn apply(self, a: &Array, b: &Array, shape: &[i32], dtype: Dtype) -> Result<Array, Exception> {
        apply_one(self, &[a, b], shape, dtype)
    }
}

impl Operation for Product {
    fn name(&self) -> &'static CStr {
        c"Product"
    }

    fn run(&self, inputs: &[View<'_>], outputs: &mut [ViewMut<'_>]) {
        let (mut copy_a, mut copy_b) = (Copies::default(), Copies::default());
        let (a, b) = (Values::new(&inputs[0], &mut copy_a), Values::new(&inputs[1], &mut copy_b));
        let n = if self.transpose_b { inputs[1].shape.first() } else { inputs[1].shape.last() };
        let n = n.map_or(1, |&size| size as usize);
        if outputs[0].len() > 0 {
            let rows = 0..outputs[0].len() / n;
            self.multiply(&[Part { a, b, rows }], n, &Results::new(&mut outputs[0]), &|row| row);
        }
    }

    fn vjp(&self, at: &Gradient) -> Result<Vec<Array>, Exception> {
        let flat = |array: &Array| array.reshape(&[-1, array.dim(-1)]);
        let (a, b, g) = (flat(&at.primals[0])?, &at.primals[1], flat(&at.cotangents[0])?);
        let (shape_a, shape_b) = (at.primals[0].shape(), b.shape());
        let product = |transpose_a, transpose_b| Self { transpose_a, transpose_b, isa: self.isa };
        let (ta, tb) = (self.transpose_a, self.transpose_b);
        let gradient = |&of: &usize| match (of, ta, tb) {
            (0, false, _) => product(false, !tb).apply(&g, b, shape_a, a.dtype()),
            (0, true, _) => product(tb, true).apply(b, &g, shape_a, a.dtype()),
            (_, _, false) => product(!ta, false).apply(&a, &g, shape_b, b.dtype()),
            (_, _, true) => product(true, ta).apply(&g, &a, shape_b, b.dtype()),
        };
        at.argnums.iter().map(gradient).collect()
    }
}

/// Operands of one product among several. Its rows have numbers of their own among those of all.
#[derive(Debug)]
struct Part<'a> {
    a: Values<'a>,
    b: Values<'a>,
    rows: Range<usize>,
}

impl Part<'_> {
    /// The sizes, with `n` columns.
    fn sizes(&self, n: usize) -> Sizes {
        let m = self.rows.len();
        Sizes { m, n, k: self.a.len().checked_div(m).unwrap_or(0) }
    }
}

/// Which row of the result a row is.
type Place<'a> = &'a (dyn Fn(usize) -> usize + Sync);

/// `C` is `m` × `n`, sums run over `k`.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    m: usize,
    n: usize,
    k: usize,
}

impl Product {
    /// `out[place(row)] = (op(A) @ op(B))[row]` for each part and each of its rows. All products have `n` columns.
    fn multiply(self, parts: &[Part<'_>], n: usize, out: &Results, place: Place<'_>) {
        let (few, many): (Vec<_>, Vec<_>) = parts.iter().partition(|part| dot::takes(self, part));
        for part in many {
            let place = |row| place(part.rows.start + row);
            if let Some(operands) = tiles::takes(self.isa, part) {
                tiles::multiply(self, operands, part.sizes(n), out, &place);
                continue;
            }
            with_scratch(&RESULTS, part.rows.len() * n, |results| {
                self.by_panels(&part.a, &part.b, part.sizes(n), results);
                self.write(results, n, out, &place);
            });
        }
        let rows: Vec<usize> = few.iter().flat_map(|part| part.rows.clone()).collect();
        with_scratch(&RESULTS, rows.len() * n, |results| {
            dot::multiply(self.isa, &few, n, results);
            self.write(results, n, out, &|row| place(rows[row]));
        });
    }

    /// Writes rows of `n` results to their places, each of which one row has.
    fn write(self, results: &mut [f32], n: usize, out: &Results, place: Place<'_>) {
        let len = results.len();
        let results = Shared(results.as_mut_ptr());
        pool::parallel_ranges(len, 64, len.div_ceil(1 << 15), |from, to| {
            let mut at = from;
            while at < to {
                let (row, column) = (at / n, at % n);
                let end = to.min((row + 1) * n);
                // SAFETY: ranges are disjoint, and each is written by one task.
                unsafe {
                    let part = std::slice::from_raw_parts_mut(results.get().add(at), end - at);
                    out.write(self.isa, place(row) * n + column, part);
                }
                at = end;
            }
        });
    }

    fn by_panels(&self, a: &Values<'_>, b: &Values<'_>, Sizes { m, n, k }: Sizes, out: &mut [f32]) {
        assert!(a.len() == m * k && b.len() == k * n && out.len() == m * n);
        let (isa, kernels) = (self.isa, Kernels::of(self.isa));
        // Lanes that are rows in memory are widened and transposed, those that are neighbours are widened in place.
        let pack = |values: &Values<'_>, by_rows: bool, ld: usize, block: Block, dst: *mut f32| {
            let Block { lane, lanes, width, k, kc } = block;
            // SAFETY: `gemm` made room for the packed block.
            let packed = unsafe { std::slice::from_raw_parts_mut(dst, width * kc) };
            if !by_rows {
                for (i, packed) in packed.chunks_exact_mut(width).enumerate() {
                    let from = (k + i) * ld + lane;
                    values.read(isa, from, &mut packed[..lanes]);
                    packed[lanes..].fill(0.0);
                }
                return;
            }
            if let Values::F32(values) = values {
                // SAFETY: the block lies inside the matrix.
                unsafe { (kernels.pack_rows)(values[lane * ld + k..].as_ptr(), ld, lanes, width, kc, dst) };
                return;
            }
            with_scratch(&WIDE, lanes * kc, |rows| {
                for (i, row) in rows.chunks_exact_mut(kc).enumerate() {
                    values.read(isa, (lane + i) * ld + k, row);
                }
                // SAFETY: `rows` holds `lanes` rows of `kc` values.
                unsafe { (kernels.pack_rows)(rows.as_ptr(), kc, lanes, width, kc, dst) };
            });
        };
        let (ta, tb) = (self.transpose_a, self.transpose_b);
        let pack_a = |block: Block, dst: *mut f32| pack(a, !ta, if ta { m } else { k }, block, dst);
        let pack_b = |block: Block, dst: *mut f32| pack(b, tb, if tb { k } else { n }, block, dst);
        let c = Shared(out.as_mut_ptr());
        let product = Gemm { m, n, k, pack_a: &pack_a, pack_b: &pack_b, alpha: 1.0, beta: 0.0, c, ldc: n };
        // SAFETY: `out` has m rows of n values, and the packing functions cover all blocks.
        unsafe { gemm(isa, &product) };
    }
}

#[cfg(test)]
mod tests;
