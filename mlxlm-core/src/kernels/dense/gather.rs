//! Products whose matrix is chosen for each row from a stack: mixtures of experts that are not quantized, and adapters of experts.
//!
//! The rows of one expert are multiplied together as [`Product`] does it, so a row has the bits that [`super::linear`] gives it
//! with that expert's matrix, alone and beside up to 64 others, whatever their experts. The few rows of each expert that decoding
//! has are all one job.

use std::ffi::CStr;

use mlx_rs::error::Exception;
use mlx_rs::{Array, Dtype};

use super::{Part, Product, isa};
use crate::kernels::chosen::{self, Chosen, broadcast, sum_to};
use crate::kernels::convert::{Copies, Results, Values};
use crate::kernels::isa::Isa;
use crate::kernels::mixed::{self, is_float};
use crate::kernels::primitive::{Gradient, Operation, View, ViewMut, apply_one, on_cpu};

/// `x[i] @ w[indices[i]].T` in bf16, f16 or f32, or `None` where MLX's own operation is to be taken. An expert that is not in the
/// stack gives NaN.
///
/// # Shapes
/// - `x`: `[…, 1, in]`, `w`: `[E, out, in]`, `indices`: `[…]` of `u32`, result: `[…, 1, out]`; the axes before the last two are
///   broadcast to those of `indices`, or the other way round
pub(crate) fn gather_linear(x: &Array, w: &Array, indices: &Array) -> Result<Option<Array>, Exception> {
    if !is_float(w.dtype()) || w.ndim() != 3 || x.shape().last() != Some(&w.dim(2)) || !on_cpu() {
        return Ok(None);
    }
    let (Some(x), Some(shape)) = (mixed::meeting(x, w.dtype())?, chosen::shape(x, indices, w.dim(1))) else {
        return Ok(None);
    };
    Gather { transpose: true, isa: isa()? }.apply(&x, w, indices, &shape, x.dtype()).map(Some)
}

/// `x[i] @ op(w[indices[i]])`, where `op` transposes or not.
#[derive(Debug, Clone, Copy)]
struct Gather {
    transpose: bool,
    isa: Isa,
}

impl Gather {
    fn apply(self, x: &Array, w: &Array, indices: &Array, shape: &[i32], dtype: Dtype) -> Result<Array, Exception> {
        apply_one(self, &[x, w, indices], shape, dtype)
    }

    /// The product of rows that may have been broadcast from those of `to`, summed up again.
    fn apply_to(self, x: &Array, w: &Array, indices: &Array, to: &Array) -> Result<Array, Exception> {
        let outer = w.dim(if self.transpose { 1 } else { 2 });
        let Some(whole) = chosen::shape(x, indices, outer) else {
            return Err(Exception::custom("the gradient of a gathered product has another shape than the product"));
        };
        sum_to(&self.apply(x, w, indices, &whole, to.dtype())?, to.shape())
    }
}

impl Operation for Gather {
    fn name(&self) -> &'static CStr {
        c"GatherLinear"
    }

    fn run(&self, inputs: &[View<'_>], outputs: &mut [ViewMut<'_>]) {
        let (x, w, out) = (&inputs[0], &inputs[1], &mut outputs[0]);
        if out.len() == 0 {
            return;
        }
        let [experts, rows, columns] = [0, 1, 2].map(|axis| w.shape[axis] as usize);
        let (k, n) = if self.transpose { (columns, rows) } else { (rows, columns) };
        let chosen = Chosen::new(&inputs[2], &out.shape[..out.shape.len() - 2]);
        let (mut copy_x, mut copy_w, mut room) = (Copies::default(), Copies::default(), Copies::default());
        let x = Values::new(x, &mut copy_x).rows(k, &chosen.sources(x), &mut room);
        let w = Values::new(w, &mut copy_w);
        let results = Results::new(out);
        let mut parts = Vec::new();
        for (expert, rows) in chosen.runs() {
            if expert < experts {
                let a = x.slice(rows.start * k..rows.end * k);
                parts.push(Part { a, b: w.slice(expert * n * k..(expert + 1) * n * k), rows });
            } else {
                // No such expert: not a number, rather than what lies behind the stack.
                for &row in &chosen.order()[rows] {
                    // SAFETY: no task is running.
                    unsafe { results.write(self.isa, row * n, &mut vec![f32::NAN; n]) };
                }
            }
        }
        let product = Product { transpose_a: false, transpose_b: self.transpose, isa: self.isa };
        product.multiply(&parts, n, &results, &|i| chosen.order()[i]);
    }

    fn vjp(&self, at: &Gradient) -> Result<Vec<Array>, Exception> {
        let [x, w, indices] = &at.primals[..] else {
            return Err(Exception::custom("a gathered product has three inputs"));
        };
        let g = &at.cotangents[0];
        let gradient = |&of: &usize| match (of, self.transpose) {
            (0, _) => Self { transpose: !self.transpose, isa: self.isa }.apply_to(g, w, indices, x),
            (1, true) => GatherOuter { isa: self.isa }.apply(g, x, indices, w.shape(), w.dtype()),
            (1, false) => GatherOuter { isa: self.isa }.apply(x, g, indices, w.shape(), w.dtype()),
            _ => Err(Exception::custom("the numbers of experts have no gradient")),
        };
        at.argnums.iter().map(gradient).collect()
    }
}

/// For each expert, the sum of the outer products of its rows: the gradient of its matrix, zero where it has no row. Rows of experts
/// that are not there are passed over.
///
/// # Shapes
/// - `a`: `[…, 1, n]`, `b`: `[…, 1, k]`, `indices`: `[…]`, result: `[E, n, k]`
#[derive(Debug, Clone, Copy)]
struct GatherOuter {
    isa: Isa,
}

impl GatherOuter {
    fn apply(self, a: &Array, b: &Array, indices: &Array, shape: &[i32], dtype: Dtype) -> Result<Array, Exception> {
        apply_one(self, &[a, b, indices], shape, dtype)
    }
}

impl Operation for GatherOuter {
    fn name(&self) -> &'static CStr {
        c"GatherOuter"
    }

    fn run(&self, inputs: &[View<'_>], outputs: &mut [ViewMut<'_>]) {
        let out = &mut outputs[0];
        if out.len() == 0 {
            return;
        }
        let [experts, n, k] = [0, 1, 2].map(|axis| out.shape[axis] as usize);
        let before = |view: &View<'_>| view.shape[..view.shape.len() - 2].to_vec();
        let batch = [before(&inputs[1]), inputs[2].shape.to_vec()]
            .iter()
            .try_fold(before(&inputs[0]), |batch, other| broadcast(&batch, other))
            .expect("shapes of a product");
        let chosen = Chosen::new(&inputs[2], &batch);
        let (mut copies, mut rooms) = (<[Copies; 2]>::default(), <[Copies; 2]>::default());
        let ([copy_a, copy_b], [room_a, room_b]) = (&mut copies, &mut rooms);
        let a = Values::new(&inputs[0], copy_a).rows(n, &chosen.sources(&inputs[0]), room_a);
        let b = Values::new(&inputs[1], copy_b).rows(k, &chosen.sources(&inputs[1]), room_b);
        let mut rows_of = vec![0..0; experts];
        for (expert, rows) in chosen.runs().filter(|(expert, _)| *expert < experts) {
            rows_of[expert] = rows;
        }
        let part = |(expert, rows): (usize, &std::ops::Range<usize>)| Part {
            a: a.slice(rows.start * n..rows.end * n),
            b: b.slice(rows.start * k..rows.end * k),
            rows: expert * n..(expert + 1) * n,
        };
        let parts: Vec<Part<'_>> = rows_of.iter().enumerate().map(part).collect();
        let product = Product { transpose_a: true, transpose_b: false, isa: self.isa };
        product.multiply(&parts, k, &Results::new(out), &|row| row);
    }

    fn vjp(&self, at: &Gradient) -> Result<Vec<Array>, Exception> {
        let [a, b, indices] = &at.primals[..] else {
            return Err(Exception::custom("outer products have three inputs"));
        };
        let g = &at.cotangents[0];
        let gradient = |&of: &usize| match of {
            0 => Gather { transpose: true, isa: self.isa }.apply_to(b, g, indices, a),
            1 => Gather { transpose: false, isa: self.isa }.apply_to(a, g, indices, b),
            _ => Err(Exception::custom("the numbers of experts have no gradient")),
        };
        at.argnums.iter().map(gradient).collect()
    }
}

#[cfg(test)]
mod tests;
