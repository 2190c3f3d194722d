//! Norms over the last axis, and their gradients: by the root of the mean square (arXiv:1910.07467), and of a layer, which is
//! the same of what the mean is taken from (arXiv:1607.06450).

use std::cell::Cell;
use std::ffi::CStr;

use mlx_rs::error::Exception;
use mlx_rs::{Array, Dtype};

use super::{isa, math, multiversion, takes, widened};
use crate::kernels::convert::{self, Copies, Results, Values};
use crate::kernels::gemm::Shared;
use crate::kernels::isa::Isa;
use crate::kernels::mixed;
use crate::kernels::pool;
use crate::kernels::primitive::{Gradient, Operation, View, ViewMut, apply, apply_one};
use crate::kernels::scratch::{Scratch, with_scratch};

thread_local! {
    /// Rows of 16-bit types as f32.
    static ROOM: Scratch = const { Cell::new(Vec::new()) };
}

/// Rows that a task of the forward pass computes.
const ROWS: usize = 64;
/// Into how many parts the rows go whose gradients for the weight are summed apart: a constant, so that the sum is one too.
const PARTS: usize = 16;

/// `x / rms(x) * weight`.
///
/// # Shapes
/// - `x`: `[…, D]`, `weight`: `[D]`, result: `[…, D]`
#[track_caller]
pub(crate) fn rms_norm(x: &Array, weight: Option<&Array>, eps: f32) -> Result<Option<Array>, Exception> {
    Norm { eps, centered: false, weighted: weight.is_some(), biased: false, isa: isa() }.apply(x, weight, None)
}

/// `x + y`, rounded to their type, and the root-mean-square norm of that.
///
/// # Shapes
/// - `x`, `y`: `[…, D]`, `weight`: `[D]`, results: `[…, D]`
#[track_caller]
pub(crate) fn add_rms_norm(
    x: &Array,
    y: &Array,
    weight: Option<&Array>,
    eps: f32,
) -> Result<Option<[Array; 2]>, Exception> {
    let norm = Norm { eps, centered: false, weighted: weight.is_some(), biased: false, isa: isa() };
    let inputs: Vec<&Array> = [x, y].into_iter().chain(weight).collect();
    if mixed::widened(&inputs)?.is_some() {
        // Each result has its own type.
        let sum = x.add(y)?;
        return Ok(rms_norm(&sum, weight, eps)?.map(|normed| [sum, normed]));
    }
    if x.shape() != y.shape() || !fits(&inputs, &inputs[2..]) {
        return Ok(None);
    }
    let shape = (x.shape(), x.dtype());
    let results = apply(AddNorm(norm), &inputs, &[shape, shape])?;
    Ok(results.try_into().ok())
}

/// `(x - mean) / deviation * weight + bias`.
///
/// # Shapes
/// - `x`: `[…, D]`, `weight`, `bias`: `[D]`, result: `[…, D]`
#[track_caller]
pub(crate) fn layer_norm(
    x: &Array,
    weight: Option<&Array>,
    bias: Option<&Array>,
    eps: f32,
) -> Result<Option<Array>, Exception> {
    Norm { eps, centered: true, weighted: weight.is_some(), biased: bias.is_some(), isa: isa() }.apply(x, weight, bias)
}

#[derive(Debug, Clone, Copy)]
struct Norm {
    eps: f32,
    /// Whether the mean is taken away first.
    centered: bool,
    weighted: bool,
    biased: bool,
    isa: Isa,
}

impl Norm {
    #[track_caller]
    fn apply(self, x: &Array, weight: Option<&Array>, bias: Option<&Array>) -> Result<Option<Array>, Exception> {
        let inputs: Vec<&Array> = [x].into_iter().chain(weight).chain(bias).collect();
        let wide = mixed::widened(&inputs)?;
        let inputs = wide.as_ref().map_or(inputs, |wide| wide.iter().collect());
        if !fits(&inputs, &inputs[1..]) {
            return Ok(None);
        }
        apply_one(self, &inputs, x.shape(), inputs[0].dtype()).map(Some)
    }

    /// The gradients of rows and parameters.
    fn gradients(self, primals: &[&Array], cotangent: &Array) -> Result<Vec<Array>, Exception> {
        let inputs: Vec<&Array> = primals.iter().copied().chain([cotangent]).collect();
        let shapes: Vec<(&[i32], Dtype)> = primals.iter().map(|p| (p.shape(), p.dtype())).collect();
        apply(NormGradient(self), &inputs, &shapes)
    }

    /// Weight and bias as f32, empty where there is none.
    fn parameters<'a>(self, isa: Isa, inputs: &[View<'a>], room: &'a mut Room) -> (&'a [f32], &'a [f32]) {
        let [(a, b), (c, d)] = room;
        let weight = self.weighted.then(|| widened(isa, Values::new(&inputs[1], a), b));
        let bias = self.biased.then(|| widened(isa, Values::new(&inputs[1 + usize::from(self.weighted)], c), d));
        (weight.unwrap_or_default(), bias.unwrap_or_default())
    }
}

/// Whether inputs, of which the first are rows, have one type, and parameters the length of a row.
fn fits(inputs: &[&Array], parameters: &[&Array]) -> bool {
    let x = inputs[0];
    x.ndim() > 0 && parameters.iter().all(|p| p.shape() == [x.dim(-1)]) && takes(inputs.iter().copied())
}

/// Room for the parameters.
type Room = [(Copies, Vec<f32>); 2];

/// The length of a row, and how many there are.
fn sizes(x: &View<'_>) -> (usize, usize) {
    let dims = x.shape.last().map_or(1, |&size| size as usize);
    (dims, x.len() / dims.max(1))
}

impl Operation for Norm {
    fn name(&self) -> &'static CStr {
        if self.centered { c"LayerNorm" } else { c"RmsNorm" }
    }

    fn run(&self, inputs: &[View<'_>], outputs: &mut [ViewMut<'_>]) {
        let (mut copies, mut room, isa) = (Copies::default(), Room::default(), self.isa);
        let ((dims, rows), x) = (sizes(&inputs[0]), Values::new(&inputs[0], &mut copies));
        let (weight, bias) = self.parameters(isa, inputs, &mut room);
        let out = Results::new(&mut outputs[0]);
        pool::parallel_ranges(rows, ROWS, rows.div_ceil(ROWS), |from, to| {
            with_scratch(&ROOM, 2 * dims, |room| {
                let (a, b) = room.split_at_mut(dims);
                for row in from..to {
                    let (from, to) = (row * dims, (row + 1) * dims);
                    let x = x.part(isa, from, to, a);
                    let fill = |out: &mut [f32]| forward(isa, self.centered, x, weight, bias, self.eps, out);
                    // SAFETY: rows are written by one task each.
                    unsafe { out.part(isa, from, to, b, fill) };
                }
            });
        });
    }

    fn vjp(&self, at: &Gradient) -> Result<Vec<Array>, Exception> {
        let gradients = self.gradients(&at.primals.iter().collect::<Vec<_>>(), &at.cotangents[0])?;
        Ok(at.argnums.iter().map(|&i| gradients[i].clone()).collect())
    }
}

/// Two inputs' sum and its norm.
#[derive(Debug)]
struct AddNorm(Norm);

impl Operation for AddNorm {
    fn name(&self) -> &'static CStr {
        c"AddRmsNorm"
    }

    fn run(&self, inputs: &[View<'_>], outputs: &mut [ViewMut<'_>]) {
        let Norm { eps, centered, isa, .. } = self.0;
        let (mut a, mut b, mut room) = (Copies::default(), Copies::default(), Room::default());
        let (x, y) = (Values::new(&inputs[0], &mut a), Values::new(&inputs[1], &mut b));
        let (dims, rows) = sizes(&inputs[0]);
        let (weight, bias) = self.0.parameters(isa, &inputs[1..], &mut room);
        let [sums, out] = outputs else { unreachable!("there are two results") };
        let (sums, out) = (Results::new(sums), Results::new(out));
        pool::parallel_ranges(rows, ROWS, rows.div_ceil(ROWS), |from, to| {
            with_scratch(&ROOM, 3 * dims, |room| {
                let (sum, room) = room.split_at_mut(dims);
                let (a, b) = room.split_at_mut(dims);
                for row in from..to {
                    let (from, to) = (row * dims, (row + 1) * dims);
                    x.read(isa, from, sum);
                    add(isa, y.part(isa, from, to, a), sum);
                    // SAFETY: rows are written by one task each.
                    unsafe {
                        sums.write_back(isa, from, sum);
                        out.part(isa, from, to, b, |out| forward(isa, centered, sum, weight, bias, eps, out));
                    }
                }
            });
        });
    }

    fn vjp(&self, at: &Gradient) -> Result<Vec<Array>, Exception> {
        let primals: Vec<&Array> = [&at.outputs[0]].into_iter().chain(&at.primals[2..]).collect();
        let gradients = self.0.gradients(&primals, &at.cotangents[1])?;
        // Both inputs have that of the sum.
        let of_sum = gradients[0].add(&at.cotangents[0])?;
        let gradient = |&i: &usize| if i < 2 { of_sum.clone() } else { gradients[i - 1].clone() };
        Ok(at.argnums.iter().map(gradient).collect())
    }
}

/// The gradients of all inputs of a norm.
#[derive(Debug)]
struct NormGradient(Norm);

impl Operation for NormGradient {
    fn name(&self) -> &'static CStr {
        if self.0.centered { c"LayerNormGradient" } else { c"RmsNormGradient" }
    }

    fn run(&self, inputs: &[View<'_>], outputs: &mut [ViewMut<'_>]) {
        let Norm { eps, centered, weighted, isa, .. } = self.0;
        let Some((dy, inputs)) = inputs.split_last() else { unreachable!("there is a cotangent") };
        let (mut a, mut b, mut room) = (Copies::default(), Copies::default(), Room::default());
        let ((dims, rows), x) = (sizes(&inputs[0]), Values::new(&inputs[0], &mut a));
        let (weight, _) = self.0.parameters(isa, inputs, &mut room);
        let dy = Values::new(dy, &mut b);
        let Some((dx, parameters)) = outputs.split_first_mut() else { unreachable!("x has a gradient") };
        let dx = Results::new(dx);
        // The sums for the weight and the bias, in parts.
        let mut partial = vec![0.0_f32; PARTS * 2 * dims];
        let sums = Shared(partial.as_mut_ptr());
        pool::parallel(PARTS, |part| {
            // SAFETY: partial sums are written by one task each.
            let sums = unsafe { std::slice::from_raw_parts_mut(sums.get().add(part * 2 * dims), 2 * dims) };
            with_scratch(&ROOM, 4 * dims, |room| {
                let (a, room) = room.split_at_mut(dims);
                let (b, room) = room.split_at_mut(dims);
                let (c, normal) = room.split_at_mut(dims);
                for row in part * rows / PARTS..(part + 1) * rows / PARTS {
                    let (from, to) = (row * dims, (row + 1) * dims);
                    let (x, dy) = (x.part(isa, from, to, a), dy.part(isa, from, to, b));
                    let fill = |dx: &mut [f32]| backward(isa, centered, x, weight, dy, eps, normal, dx, sums);
                    // SAFETY: rows are written by one task each.
                    unsafe { dx.part(isa, from, to, c, fill) };
                }
            });
        });
        let mut total = vec![0.0_f32; 2 * dims];
        for part in partial.chunks(total.len().max(1)) {
            total.iter_mut().zip(part).for_each(|(sum, value)| *sum += value);
        }
        let (weight, bias) = total.split_at(dims);
        let present = if weighted { [weight, bias] } else { [bias, weight] };
        for (sum, out) in present.into_iter().zip(parameters) {
            convert::write(isa, sum, out);
        }
    }

    fn vjp(&self, _: &Gradient) -> Result<Vec<Array>, Exception> {
        Err(Exception::custom("the gradient of a norm has no gradient of its own"))
    }
}

/// The mean of a row that is to be centered.
#[inline(always)]
fn mean(centered: bool, x: &[f32]) -> f32 {
    if centered { math::sum(x) / x.len() as f32 } else { 0.0 }
}

multiversion! {
    fn add(x: &[f32], sum: &mut [f32]) {
        sum.iter_mut().zip(x).for_each(|(sum, x)| *sum += x);
    }
}

multiversion! {
    fn forward(centered: bool, x: &[f32], weight: &[f32], bias: &[f32], eps: f32, out: &mut [f32]) {
        let dims = x.len();
        let (mean, out) = (mean(centered, x), &mut out[..dims]);
        let r = 1.0 / (math::spread(x, mean) / dims as f32 + eps).sqrt();
        match (weight.len() == dims, bias.len() == dims) {
            (false, false) => (0..dims).for_each(|i| out[i] = (x[i] - mean) * r),
            (true, false) => (0..dims).for_each(|i| out[i] = (x[i] - mean) * r * weight[i]),
            (false, true) => (0..dims).for_each(|i| out[i] = (x[i] - mean) * r + bias[i]),
            (true, true) => (0..dims).for_each(|i| out[i] = (x[i] - mean) * r * weight[i] + bias[i]),
        }
    }
}

multiversion! {
    /// `normal` is room for the row before weight and bias; `sums` are those for the weight and then those for the bias.
    fn backward(
        centered: bool, x: &[f32], weight: &[f32], dy: &[f32], eps: f32, normal: &mut [f32], dx: &mut [f32],
        sums: &mut [f32],
    ) {
        let dims = x.len();
        let (mean_x, dy, dx, normal) = (mean(centered, x), &dy[..dims], &mut dx[..dims], &mut normal[..dims]);
        let (d_weight, d_bias) = sums.split_at_mut(dims);
        let r = 1.0 / (math::spread(x, mean_x) / dims as f32 + eps).sqrt();
        dx.copy_from_slice(dy);
        for i in 0..dims {
            normal[i] = (x[i] - mean_x) * r;
            d_weight[i] += dy[i] * normal[i];
            d_bias[i] += dy[i];
        }
        dx.iter_mut().zip(weight).for_each(|(dx, weight)| *dx *= weight);
        let (along, mean) = (math::dot(dx, normal) / dims as f32, mean(centered, dx));
        for i in 0..dims {
            dx[i] = r * (dx[i] - mean - along * normal[i]);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::{each_level, numbers};
    use super::*;
    use crate::fast::testing::{FLOATS, normal, same_bits};

    /// Both norms of `x` and the norm of `x + y`, with that sum, at a level.
    fn all(isa: Isa, x: &Array, y: &Array, weight: &Array) -> Vec<Array> {
        let norm = |centered| Norm { eps: 1e-5, centered, weighted: true, biased: centered, isa };
        let row = (x.shape(), x.dtype());
        let mut all = apply(AddNorm(norm(false)), &[x, y, weight], &[row, row]).unwrap();
        all.extend(norm(false).apply(x, Some(weight), None).unwrap());
        all.extend(norm(true).apply(x, Some(weight), Some(weight)).unwrap());
        all
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn a_row_has_the_same_bits_alone_and_in_company(
            rows in 1_i32..=65, (blocks, rest) in (0_i32..30, 1_i32..16), row in any::<prop::sample::Index>(),
            dtype in prop::sample::select(&FLOATS[..]),
        ) {
            let width = 16 * blocks + rest;
            let [x, y, weight] = [(&[rows, width][..], 1), (&[rows, width], 2), (&[width], 3)]
                .map(|(shape, seed)| normal(shape, seed).as_dtype(dtype).unwrap());
            let row = Array::from_slice(&[row.index(rows as usize) as i32], &[1]);
            let only = |of: &Array| of.take_axis(&row, 0).unwrap();
            for isa in Isa::available() {
                let together = all(isa, &x, &y, &weight);
                let alone = all(isa, &only(&x), &only(&y), &weight);
                prop_assert_eq!(together.len(), 4);
                for (alone, together) in alone.iter().zip(&together) {
                    prop_assert!(same_bits(alone, &only(together)), "{} {:?} {} of {}", isa, dtype, row, rows);
                }
            }
        }
    }

    proptest! {
        #[test]
        fn every_level_gives_the_same_bits(x in numbers(1..600), centered: bool, weighted: bool) {
            let weight = if weighted { &x[..] } else { &[] };
            each_level(x.len(), |isa, out| add(isa, &x, out))?;
            each_level(x.len(), |isa, out| forward(isa, centered, &x, weight, weight, 1e-5, out))?;
            each_level(4 * x.len(), |isa, out| {
                let (normal, out) = out.split_at_mut(x.len());
                let (dx, sums) = out.split_at_mut(x.len());
                backward(isa, centered, &x, weight, &x, 1e-5, normal, dx, sums);
            })?;
        }
    }
}
