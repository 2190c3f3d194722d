//! Products with quantized matrices, in every mode and number of bits, for f32, bf16 and f16 activations.
//!
//! A matrix comes in the rows of a file or in panels ([`matrix`]), with the same bits of results. Four ways, all of them
//! batch-invariant as far as they go:
//!
//! - activations meet the codes in integers ([`fixed`]);
//! - codes that are 8-bit floats become f32 in registers ([`mxfp8`]);
//! - more than [`INVARIANT_ROWS`] rows of bf16 meet weights in bf16 in the tiles of AMX ([`halves`]), where there are any;
//! - everything else, gradients above all, unpacks weights into the f32 product of [`super::gemm`], one block at a time.
//!
//! A row's bits may differ between the ways; the choice depends on the number of rows only beyond [`INVARIANT_ROWS`].

use std::cell::Cell;
use std::ffi::CStr;

use mlx_rs::error::Exception;
use mlx_rs::{Array, Dtype, ops};

use super::INVARIANT_ROWS;
use super::convert::{self, Copies, Results, Values};
use super::gemm::{Block, Gemm, Kernels, Shared, gemm};
use super::isa::Isa;
use super::mixed::{self, is_float};
use super::primitive::{Gradient, Operation, View, ViewMut, apply, apply_one, on_cpu};
use super::scratch::{Scratch, with_scratch};
use crate::quant::panels::Layout;
use crate::quant::{Mode, Packed, Panels, Scheme};

mod dense;
mod fixed;
mod gather;
mod halves;
mod matrix;
mod mxfp8;
mod panel;
mod rows;
mod unpack;
mod weights;

pub(crate) use dense::dense;
pub(crate) use gather::{gather_panels_matmul, gather_quantized_matmul};
pub(crate) use matrix::arrange;
use matrix::{Matrix, Stored};
use panel::Part;
pub(crate) use rows::{panels_rows, quantized_rows};
pub(crate) use unpack::unpack;
use weights::Storage;
pub(crate) use weights::{Params, Weights};

/// `x @ w.T` (or `x @ w` without `transpose`) against packed weights, or `None` where MLX's own operation is to be taken: on
/// a GPU, for stacks of matrices, and shapes that MLX will refuse.
pub(crate) fn quantized_matmul(
    x: &Array,
    w: &Packed,
    scheme: Scheme,
    transpose: bool,
) -> Result<Option<Array>, Exception> {
    if !on_cpu() || w.weight.ndim() != 2 || !fits(x, w, scheme, transpose) {
        return Ok(None);
    }
    let Some(x) = mixed::meeting(x, w.scales.dtype())? else { return Ok(None) };
    let columns = w.scales.shape()[1] * scheme.group_size;
    let mut inputs = vec![&x, &w.weight, &w.scales];
    inputs.extend(&w.biases);
    matmul(&inputs, Stored::Rows(scheme), transpose, if transpose { w.weight.shape()[0] } else { columns }).map(Some)
}

/// As [`quantized_matmul`], against panels.
pub(crate) fn panels_matmul(x: &Array, w: &Panels, transpose: bool) -> Result<Option<Array>, Exception> {
    let (rows, columns) = (w.layout.rows as i32, w.layout.columns as i32);
    let (inner, outer) = if transpose { (columns, rows) } else { (rows, columns) };
    if !on_cpu() || w.experts.is_some() || x.shape().last() != Some(&inner) {
        return Ok(None);
    }
    let Some(x) = mixed::meeting(x, w.layout.numbers)? else { return Ok(None) };
    matmul(&[&x, &w.lines], Stored::Panels(w.layout), transpose, outer).map(Some)
}

/// The products of `x` with the transposes of several matrices in one operation, or `None` if they do not go together: rows of the
/// same activations are read once, and threads meet once.
pub(crate) fn panels_matmuls(x: &Array, all: &[&Panels]) -> Result<Option<Vec<Array>>, Exception> {
    let Some(Layout { columns, scheme: Scheme { group_size, .. }, numbers, .. }) = all.first().map(|w| w.layout) else {
        return Ok(None);
    };
    let fits = |w: &&Panels| {
        let Layout { columns: of_w, scheme, numbers: its, .. } = w.layout;
        w.experts.is_none() && of_w == columns && scheme.group_size == group_size && its == numbers
    };
    if !on_cpu() || x.shape().last() != Some(&(columns as i32)) || !all.iter().all(fits) {
        return Ok(None);
    }
    let Some(x) = mixed::meeting(x, numbers)? else { return Ok(None) };
    let isa = Isa::active().map_err(|e| Exception::custom(e.to_string()))?;
    let inputs: Vec<&Array> = [&x].into_iter().chain(all.iter().map(|w| &w.lines)).collect();
    let rows = &x.shape()[..x.ndim() - 1];
    let shapes: Vec<Vec<i32>> = all.iter().map(|w| [rows, &[w.layout.rows as i32]].concat()).collect();
    let outputs: Vec<(&[i32], Dtype)> = shapes.iter().map(|shape| (&shape[..], x.dtype())).collect();
    let layouts = all.iter().map(|w| w.layout).collect();
    apply(QuantizedMatmuls { layouts, isa }, &inputs, &outputs).map(Some)
}

/// The products of one input with several matrices in panels.
#[derive(Debug)]
struct QuantizedMatmuls {
    layouts: Vec<Layout>,
    isa: Isa,
}

impl Operation for QuantizedMatmuls {
    fn name(&self) -> &'static CStr {
        c"QuantizedMatmuls"
    }

    fn run(&self, inputs: &[View<'_>], outputs: &mut [ViewMut<'_>]) {
        let mut copies = Copies::default();
        let x = Values::new(&inputs[0], &mut copies);
        let rows = x.len().checked_div(self.layouts[0].columns).unwrap_or(0);
        let mut storages: Vec<Storage> = self.layouts.iter().map(|_| Storage::default()).collect();
        let parts = self.layouts.iter().zip(&inputs[1..]).zip(storages.iter_mut().zip(outputs));
        let segment = |((layout, lines), (storage, out)): ((&Layout, _), (_, &mut ViewMut<'_>))| {
            let w = Stored::Panels(*layout).matrix(std::slice::from_ref(lines), storage);
            fixed::Segment { rows: 0..rows, w, out: Results::new(out) }
        };
        products(self.isa, &x, &|row| row, parts.map(segment).collect(), &|row| row);
    }

    fn vjp(&self, at: &Gradient) -> Result<Vec<Array>, Exception> {
        if at.argnums != [0] {
            return Err(Exception::custom("the codes of a quantized matrix have no gradient"));
        }
        let parts = self.layouts.iter().zip(&at.cotangents).zip(&at.primals[1..]);
        let gradients = parts.map(|((layout, cotangent), lines)| {
            matmul(&[cotangent, lines], Stored::Panels(*layout), false, layout.columns as i32)
        });
        let sum = gradients.reduce(|a, b| a?.add(b?));
        Ok(vec![sum.unwrap_or_else(|| Err(Exception::custom("there is no matrix")))?])
    }
}

/// The product of `inputs[0]` with the matrix that the others hold, which gives rows of `outer` values.
fn matmul(inputs: &[&Array], stored: Stored, transpose: bool, outer: i32) -> Result<Array, Exception> {
    let isa = Isa::active().map_err(|e| Exception::custom(e.to_string()))?;
    let mut shape = inputs[0].shape().to_vec();
    *shape.last_mut().ok_or_else(|| Exception::custom("a product needs an axis"))? = outer;
    apply_one(QuantizedMatmul { stored, transpose, isa }, inputs, &shape, inputs[0].dtype())
}

/// Whether the types and the last two axes fit; a stack of matrices has one axis more.
fn fits(x: &Array, w: &Packed, scheme: Scheme, transpose: bool) -> bool {
    let (weight, scales) = (w.weight.shape(), w.scales.shape());
    if weight.len() < 2 || scales.len() != weight.len() || x.ndim() == 0 || w.weight.dtype() != Dtype::Uint32 {
        return false;
    }
    let (weight, groups) = (&weight[weight.len() - 2..], &scales[scales.len() - 2..]);
    let columns = groups[1] * scheme.group_size;
    let params = match (scheme.mode, &w.biases) {
        (Mode::Affine, Some(biases)) => {
            is_float(w.scales.dtype()) && biases.dtype() == w.scales.dtype() && biases.shape() == scales
        }
        (Mode::Affine, None) => false,
        (_, biases) => w.scales.dtype() == Dtype::Uint8 && biases.is_none(),
    };
    let inner = if transpose { columns } else { weight[0] };
    params
        && is_float(x.dtype())
        && Scheme::new(scheme.mode, scheme.bits, scheme.group_size).is_ok()
        && weight[0] == groups[0]
        && weight[1] == scheme.packed_words(columns)
        && x.shape().last() == Some(&inner)
}

#[derive(Debug)]
struct QuantizedMatmul {
    stored: Stored,
    transpose: bool,
    isa: Isa,
}

impl Operation for QuantizedMatmul {
    fn name(&self) -> &'static CStr {
        c"QuantizedMatmul"
    }

    fn run(&self, inputs: &[View<'_>], outputs: &mut [ViewMut<'_>]) {
        let mut storage = Storage::default();
        let w = self.stored.matrix(&inputs[1..], &mut storage);
        multiply(self.isa, &inputs[0], &w, self.transpose, &mut outputs[0]);
    }

    fn vjp(&self, at: &Gradient) -> Result<Vec<Array>, Exception> {
        let (x, cotangent) = (&at.primals[0], &at.cotangents[0]);
        let of_params = match self.stored {
            Stored::Rows(scheme) if scheme.mode == Mode::Affine && at.argnums.iter().any(|&of| of > 1) => {
                self.params_gradients(x, cotangent, &at.primals[1..], scheme)?
            }
            _ => Vec::new(),
        };
        let gradient = |&of: &usize| match of {
            0 => {
                let inputs: Vec<&Array> = [cotangent].into_iter().chain(&at.primals[1..]).collect();
                matmul(&inputs, self.stored, !self.transpose, x.dim(-1))
            }
            _ => match of.checked_sub(2).and_then(|of| of_params.get(of)) {
                Some(gradient) => gradient.as_dtype(at.primals[of].dtype()),
                None => Err(Exception::custom("the codes of a quantized matrix have no gradient")),
            },
        };
        at.argnums.iter().map(gradient).collect()
    }
}

impl QuantizedMatmul {
    /// The gradients of scales and biases, in f32.
    fn params_gradients(
        &self,
        x: &Array,
        cotangent: &Array,
        matrix: &[Array],
        scheme: Scheme,
    ) -> Result<Vec<Array>, Exception> {
        let [weight, _, _] = matrix else { return Err(Exception::custom("a matrix lacks its biases")) };
        // In f32, since MLX's product of narrow types is a plain loop.
        let flat = |a: &Array| a.reshape(&[-1, a.dim(-1)])?.as_dtype(Dtype::Float32);
        let (x, cotangent) = (flat(x)?, flat(cotangent)?);
        let (left, right) = if self.transpose { (&cotangent, &x) } else { (&x, &cotangent) };
        dense::gradients(weight, &ops::matmul(left.t(), right)?, scheme, self.isa)
    }
}

thread_local! {
    static ACTIVATIONS: Scratch = const { Cell::new(Vec::new()) };
    static RESULTS: Scratch = const { Cell::new(Vec::new()) };
    static UNPACKED: Scratch = const { Cell::new(Vec::new()) };
}

/// `x` is `[…, columns]` and the result `[…, rows]`; without `transpose`, the other way round.
fn multiply(isa: Isa, x: &View<'_>, w: &Matrix<'_>, transpose: bool, out: &mut ViewMut<'_>) {
    let (k, n) = if transpose { (w.columns(), w.rows()) } else { (w.rows(), w.columns()) };
    let Some(m) = out.len().checked_div(n) else { return };
    if transpose && k > 0 {
        let mut copies = Copies::default();
        let x = Values::new(x, &mut copies);
        let segment = fixed::Segment { rows: 0..m, w: *w, out: Results::new(out) };
        return products(isa, &x, &|row| row, vec![segment], &|row| row);
    }
    with_scratch(&ACTIVATIONS, m * k, |activations| {
        convert::read(isa, x, activations);
        if out.dtype == Dtype::Float32 {
            by_blocks(isa, activations, m, w, transpose, out.as_mut_slice());
        } else {
            with_scratch(&RESULTS, m * n, |results| {
                by_blocks(isa, activations, m, w, transpose, results);
                convert::write(isa, results, out);
            });
        }
    });
}

/// `out[place(i)] = x[source(i)] @ w.T` for each segment and each row `i` of it. All matrices have the same columns, and at least
/// one.
fn products(
    isa: Isa,
    x: &Values<'_>,
    source: &(dyn Fn(usize) -> usize + Sync),
    segments: Vec<fixed::Segment<'_>>,
    place: &(dyn Fn(usize) -> usize + Sync),
) {
    let (many, few): (Vec<_>, Vec<_>) = segments.into_iter().partition(|segment| halves::takes(isa, x, segment));
    for segment in many {
        halves::multiply(isa, x, source, &segment, place);
    }
    let (floats, integers): (Vec<_>, Vec<_>) = few.into_iter().partition(|segment| segment.w.is_mxfp8());
    mxfp8::multiply(isa, x, source, &floats, place);
    let mut odd = fixed::multiply(isa, x, source, &integers, place);
    if !odd.is_empty() && !matches!(x, Values::F32(_)) {
        odd = in_f32(isa, x, source, &integers, place, odd);
    }
    // What is too large or not finite is no integer.
    for row in odd {
        for fixed::Segment { w, out, .. } in integers.iter().filter(|segment| segment.rows.contains(&row)) {
            with_scratch(&ACTIVATIONS, w.columns(), |activations| {
                x.read(isa, source(row) * w.columns(), activations);
                with_scratch(&RESULTS, w.rows(), |results| {
                    by_blocks(isa, activations, 1, w, true, results);
                    // SAFETY: no task is running any more.
                    unsafe { out.write(isa, place(row) * w.rows(), results) };
                });
            });
        }
    }
}

/// The products of `odd` rows of 16-bit activations as if these had 32; returns the rows that are no integers then either.
fn in_f32(
    isa: Isa,
    x: &Values<'_>,
    source: &(dyn Fn(usize) -> usize + Sync),
    segments: &[fixed::Segment<'_>],
    place: &(dyn Fn(usize) -> usize + Sync),
    mut odd: Vec<usize>,
) -> Vec<usize> {
    odd.sort_unstable();
    odd.dedup();
    let columns = segments[0].w.columns();
    let mut wide = vec![0.0; odd.len() * columns];
    for (&row, to) in odd.iter().zip(wide.chunks_exact_mut(columns)) {
        x.read(isa, source(row) * columns, to);
    }
    let from = |row: usize| odd.partition_point(|odd| *odd < row);
    let segments = segments.iter().map(|segment| {
        let rows = from(segment.rows.start)..from(segment.rows.end);
        fixed::Segment { rows, ..*segment }
    });
    let segments: Vec<_> = segments.filter(|segment| !segment.rows.is_empty()).collect();
    let left = fixed::multiply(isa, &Values::F32(&wide), &|row| row, &segments, &|row| place(odd[row]));
    left.into_iter().map(|row| odd[row]).collect()
}

/// The product by way of blocks of unpacked weights.
fn by_blocks(isa: Isa, x: &[f32], m: usize, w: &Matrix<'_>, transpose: bool, out: &mut [f32]) {
    let kernels = Kernels::of(isa);
    let (k, n) = if transpose { (w.columns(), w.rows()) } else { (w.rows(), w.columns()) };
    assert!(x.len() == m * k && out.len() == m * n);
    // SAFETY: `gemm` asks for blocks inside `m` × `k` only, with room for them.
    let pack_a = |b: Block, dst: *mut f32| unsafe {
        (kernels.pack_rows)(x.as_ptr().add(b.lane * k + b.k), k, b.lanes, b.width, b.kc, dst);
    };
    let pack_b = |b: Block, dst: *mut f32| {
        let (lanes, depth) = (b.lane..b.lane + b.lanes, b.k..b.k + b.kc);
        if transpose {
            with_scratch(&UNPACKED, b.lanes * b.kc, |rows| {
                w.unpack(isa, &Part { rows: lanes, columns: depth, width: b.kc }, rows);
                // SAFETY: `rows` holds `lanes` rows of `kc` values, and `gemm` made room for the packed block.
                unsafe { (kernels.pack_rows)(rows.as_ptr(), b.kc, b.lanes, b.width, b.kc, dst) };
            });
        } else {
            // SAFETY: `gemm` made room for `kc` rows of `width` values.
            let packed = unsafe { std::slice::from_raw_parts_mut(dst, b.kc * b.width) };
            w.unpack(isa, &Part { rows: depth, columns: lanes, width: b.width }, packed);
            for row in packed.chunks_exact_mut(b.width) {
                row[b.lanes..].fill(0.0);
            }
        }
    };
    let c = Shared(out.as_mut_ptr());
    let product = Gemm { m, n, k, pack_a: &pack_a, pack_b: &pack_b, alpha: 1.0, beta: 0.0, c, ldc: n };
    // SAFETY: `out` has m rows of n values, and the packing functions cover all blocks.
    unsafe { gemm(isa, &product) };
}

#[cfg(test)]
mod tests;
