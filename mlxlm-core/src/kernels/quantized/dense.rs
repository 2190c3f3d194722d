//! A dense matrix as a function of scales and biases, with gradients of both.

use std::cell::Cell;
use std::ffi::CStr;

use mlx_rs::error::Exception;
use mlx_rs::{Array, Dtype};

use super::unpack;
use super::weights::{Params, Weights};
use crate::kernels::float::{math, multiversion};
use crate::kernels::gemm::Shared;
use crate::kernels::isa::Isa;
use crate::kernels::pool;
use crate::kernels::primitive::{Gradient, Operation, View, ViewMut, apply, apply_one, on_cpu};
use crate::kernels::scratch::{Scratch, with_scratch};
use crate::quant::{Mode, Packed, Scheme};

thread_local! {
    /// The codes of a row as f32.
    static CODES: Scratch = const { Cell::new(Vec::new()) };
}

/// Values that a task computes at least, in whole rows.
const CHUNK: usize = 1 << 15;

/// `scale · code + bias` in f32, or `None` where the scales are not in f32 or the scheme is not affine.
///
/// # Shapes
/// - `weight`: `[…, words]`, `scales` and `biases`: `[…, groups]`, result: `[…, columns]`
pub(crate) fn dense(w: &Packed, scheme: Scheme) -> Result<Option<Array>, Exception> {
    let (weight, scales) = (&w.weight, &w.scales);
    let (Some(biases), Some((&groups, rows)), true) = (&w.biases, scales.shape().split_last(), on_cpu()) else {
        return Ok(None);
    };
    let columns = groups * scheme.group_size;
    let fits = scheme.mode == Mode::Affine
        && weight.dtype() == Dtype::Uint32
        && [scales, biases].iter().all(|array| array.dtype() == Dtype::Float32 && array.shape() == scales.shape())
        && weight.shape() == [rows, &[scheme.packed_words(columns)]].concat()
        && weight.size() > 0;
    if !fits {
        return Ok(None);
    }
    let isa = Isa::active().map_err(|e| Exception::custom(e.to_string()))?;
    let shape = [rows, &[columns]].concat();
    apply_one(Dense { scheme, isa }, &[weight, scales, biases], &shape, Dtype::Float32).map(Some)
}

/// Calls `f` for every row, on all threads.
fn each_row(rows: usize, columns: usize, f: impl Fn(usize) + Sync) {
    let step = CHUNK.div_ceil(columns.max(1));
    pool::parallel_ranges(rows, step, rows.div_ceil(step), |from, to| (from..to).for_each(&f));
}

#[derive(Debug)]
struct Dense {
    scheme: Scheme,
    isa: Isa,
}

impl Operation for Dense {
    fn name(&self) -> &'static CStr {
        c"Dense"
    }

    fn run(&self, inputs: &[View<'_>], outputs: &mut [ViewMut<'_>]) {
        let (mut a, mut b, mut c) = (Vec::new(), Vec::new(), Vec::new());
        let words = inputs[0].contiguous::<u32>(&mut a);
        let (scales, biases) = (inputs[1].contiguous::<f32>(&mut b), inputs[2].contiguous::<f32>(&mut c));
        let columns = inputs[1].shape.last().map_or(0, |&groups| groups as usize) * self.scheme.group_size as usize;
        let out = outputs[0].as_mut_slice::<f32>();
        let rows = out.len() / columns.max(1);
        let (scales, biases) = (Params::F32(scales), Some(Params::F32(biases)));
        let w = Weights { scheme: self.scheme, rows, columns, words, scales, biases };
        let out = Shared(out.as_mut_ptr());
        each_row(rows, columns, |row| {
            // SAFETY: each row is written by one task.
            let out = unsafe { std::slice::from_raw_parts_mut(out.get().add(row * columns), columns) };
            unpack(self.isa, &w, row, 0, out);
        });
    }

    fn vjp(&self, at: &Gradient) -> Result<Vec<Array>, Exception> {
        let both = gradients(&at.primals[0], &at.cotangents[0], self.scheme, self.isa)?;
        let of = |&of: &usize| match of.checked_sub(1).and_then(|of| both.get(of)) {
            Some(gradient) => Ok(gradient.clone()),
            None => Err(Exception::custom("the codes of a quantized matrix have no gradient")),
        };
        at.argnums.iter().map(of).collect()
    }
}

/// The gradients of scales and biases, from that of the dense matrix: of `scale · code + bias`, summed over each group.
///
/// # Shapes
/// - `weight`: `[…, words]`, `above`: `[…, columns]`, results: `[…, groups]`
pub(super) fn gradients(weight: &Array, above: &Array, scheme: Scheme, isa: Isa) -> Result<Vec<Array>, Exception> {
    let mut shape = above.shape().to_vec();
    if let Some(last) = shape.last_mut() {
        *last /= scheme.group_size;
    }
    let both = [(&shape[..], Dtype::Float32), (&shape[..], Dtype::Float32)];
    apply(DenseGradient { scheme, isa }, &[weight, above], &both)
}

#[derive(Debug)]
struct DenseGradient {
    scheme: Scheme,
    isa: Isa,
}

impl Operation for DenseGradient {
    fn name(&self) -> &'static CStr {
        c"DenseGradient"
    }

    fn run(&self, inputs: &[View<'_>], outputs: &mut [ViewMut<'_>]) {
        let (mut a, mut b) = (Vec::new(), Vec::new());
        let (words, above) = (inputs[0].contiguous::<u32>(&mut a), inputs[1].contiguous::<f32>(&mut b));
        let columns = inputs[1].shape.last().map_or(0, |&columns| columns as usize);
        let group = self.scheme.group_size as usize;
        let (rows, groups) = (above.len() / columns.max(1), columns / group);
        let length = columns * self.scheme.bits as usize / 32;
        let ones = vec![1.0; groups];
        let [scales, biases] = outputs else { unreachable!("there are two outputs") };
        let results = [scales, biases].map(|out| Shared(out.as_mut_slice::<f32>().as_mut_ptr()));
        each_row(rows, columns, |row| {
            // SAFETY: each row is written by one task.
            let [scales, biases] = results
                .each_ref()
                .map(|out| unsafe { std::slice::from_raw_parts_mut(out.get().add(row * groups), groups) });
            let words = &words[row * length..(row + 1) * length];
            let w = Weights { scheme: self.scheme, rows: 1, columns, words, scales: Params::F32(&ones), biases: None };
            with_scratch(&CODES, columns, |codes| {
                unpack(self.isa, &w, 0, 0, codes);
                sums(self.isa, codes, &above[row * columns..(row + 1) * columns], group, scales, biases);
            });
        });
    }

    fn vjp(&self, _: &Gradient) -> Result<Vec<Array>, Exception> {
        Err(Exception::custom("the gradient of a dense matrix has no gradient of its own"))
    }
}

multiversion! {
    fn sums(codes: &[f32], above: &[f32], group: usize, scales: &mut [f32], biases: &mut [f32]) {
        let groups = codes.chunks_exact(group).zip(above.chunks_exact(group));
        for ((codes, above), (scale, bias)) in groups.zip(scales.iter_mut().zip(biases)) {
            *scale = math::dot(codes, above);
            *bias = math::sum(above);
        }
    }
}
