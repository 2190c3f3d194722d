//! Causal attention of a sequence to itself, with grouped heads, and its gradient: blocks of queries against all keys that
//! they see, with the scores of a block in cache, after `FlashAttention` (arXiv:2205.14135).
//!
//! Unusual: a block's scores are whole rows, so that no sum has to be rescaled; training rows are short. 16-bit heads are
//! widened first.

use std::cell::Cell;
use std::ffi::CStr;

use mlx_rs::error::Exception;
use mlx_rs::{Array, Dtype};

use super::{isa, math, multiversion, takes};
use crate::kernels::gemm::Shared;
use crate::kernels::gemm::sgemm::{Matrix, Shape, sgemm};
use crate::kernels::isa::Isa;
use crate::kernels::primitive::{Gradient, Operation, View, ViewMut, apply};
use crate::kernels::scratch::{Scratch, with_scratch};
use crate::kernels::{convert, heads, pool};

/// Queries in a block.
const BLOCK: usize = 64;

thread_local! {
    static SCORES: Scratch = const { Cell::new(Vec::new()) };
}

/// # Shapes
/// - `q`: `[B, H, L, d]`, `k`, `v`: `[B, K, L, d]`, of one floating-point type; result: `[B, H, L, d]`
#[track_caller]
pub(crate) fn causal_attention(q: &Array, k: &Array, v: &Array, scale: f32) -> Result<Option<Array>, Exception> {
    if !takes([q, k, v]) || !fits(q, k, v) {
        return Ok(None);
    }
    let shapes = [(q.shape(), q.dtype()), (&q.shape()[..3], Dtype::Float32)];
    let mut results = apply(Causal { scale }, &[q, k, v], &shapes)?;
    results.truncate(1);
    Ok(results.pop())
}

fn fits(q: &Array, k: &Array, v: &Array) -> bool {
    match (q.shape(), k.shape()) {
        (&[batch, heads, len, dims], &[of_batch, kv_heads, of_len, of_dims]) => {
            k.shape() == v.shape() && (batch, len, dims) == (of_batch, of_len, of_dims) && heads % kv_heads == 0
        }
        _ => false,
    }
}

/// An array `[B, H, L, d]` as f32 whose rows of `d` are contiguous, wherever they lie.
#[derive(Clone, Copy)]
struct Heads {
    data: *const f32,
    /// Values between neighbours of each of the first three axes.
    strides: [usize; 3],
}

// SAFETY: the values are only read, and MLX keeps them while the operation runs.
unsafe impl Sync for Heads {}

impl Heads {
    /// The heads of a view: in place if they are f32 whose rows are contiguous and go forward, else copied to `buffer`.
    fn of(view: &View<'_>, buffer: &mut Vec<f32>) -> Self {
        let &[batch, heads, len, dims] = view.shape else { unreachable!("heads have four axes") };
        if let (&[b, h, l, 1], Dtype::Float32) = (view.strides, view.dtype)
            && let [Ok(b), Ok(h), Ok(l)] = [b, h, l].map(usize::try_from)
        {
            return Self { data: view.as_ptr(), strides: [b, h, l] };
        }
        let [batch, heads, len, dims] = [batch, heads, len, dims].map(|n| n as usize);
        buffer.resize(view.len(), 0.0);
        let (mut copy, isa, to) = (Vec::new(), isa(), Shared(buffer.as_mut_ptr()));
        let values = heads::Heads::new(view, &mut copy);
        pool::parallel(batch * heads, |head| {
            for row in 0..len {
                // SAFETY: a task has the rows of one head.
                let out = unsafe { std::slice::from_raw_parts_mut(to.get().add((head * len + row) * dims), dims) };
                values.read(isa, [head / heads, head % heads, row], out);
            }
        });
        Self { data: buffer.as_ptr(), strides: [heads * len * dims, len * dims, dims] }
    }

    /// The rows of one head; two of them lie [`Self::ld`] apart.
    fn head(&self, batch: usize, head: usize) -> *const f32 {
        // SAFETY: the head is inside the view.
        unsafe { self.data.add(batch * self.strides[0] + head * self.strides[1]) }
    }

    fn ld(&self) -> usize {
        self.strides[2]
    }
}

/// Where a result is computed: in place if it is f32, else in `buffer`, from which [`finish`] rounds it.
fn begin(out: &mut ViewMut<'_>, buffer: &mut Vec<f32>) -> Shared<f32> {
    if out.dtype == Dtype::Float32 {
        return Shared(out.as_mut_slice::<f32>().as_mut_ptr());
    }
    buffer.resize(out.len(), 0.0);
    Shared(buffer.as_mut_ptr())
}

fn finish(out: &mut ViewMut<'_>, buffer: &[f32]) {
    if out.dtype != Dtype::Float32 {
        convert::write(isa(), buffer, out);
    }
}

/// The sizes of a call.
#[derive(Clone, Copy)]
struct Sizes {
    heads: usize,
    kv_heads: usize,
    len: usize,
    dims: usize,
}

impl Sizes {
    fn of(q: &View<'_>, k: &View<'_>) -> (usize, Self) {
        let (&[batch, heads, len, dims], &[_, kv_heads, _, _]) = (q.shape, k.shape) else {
            unreachable!("heads have four axes")
        };
        let [batch, heads, len, dims, kv_heads] = [batch, heads, len, dims, kv_heads].map(|n| n as usize);
        (batch, Self { heads, kv_heads, len, dims })
    }

    /// Query heads for each kv-head.
    fn group(self) -> usize {
        self.heads / self.kv_heads
    }

    /// The blocks of queries: first, and how many keys the last of them sees.
    fn blocks(self) -> impl Iterator<Item = (usize, usize)> {
        (0..self.len).step_by(BLOCK).map(move |first| (first, (first + BLOCK).min(self.len)))
    }
}

/// `c = alpha * a @ b + beta * c`; a matrix is its first value, the distance of its rows, and whether it is transposed.
///
/// # Safety
/// As for [`sgemm`].
unsafe fn product(
    [m, n, k]: [usize; 3],
    [alpha, beta]: [f32; 2],
    a: (*const f32, usize, bool),
    b: (*const f32, usize, bool),
    c: (*mut f32, usize),
) {
    let matrix = |(data, ld, transposed)| Matrix { data, ld, transposed };
    // SAFETY: passed on from the caller.
    unsafe { sgemm(isa(), Shape { m, n, k, alpha, beta }, matrix(a), matrix(b), c.0, c.1) };
}

#[derive(Debug)]
struct Causal {
    scale: f32,
}

impl Operation for Causal {
    fn name(&self) -> &'static CStr {
        c"CausalAttention"
    }

    fn run(&self, inputs: &[View<'_>], outputs: &mut [ViewMut<'_>]) {
        let mut buffers = [const { Vec::new() }; 3];
        let [a, b, c] = &mut buffers;
        let (q, k, v) = (Heads::of(&inputs[0], a), Heads::of(&inputs[1], b), Heads::of(&inputs[2], c));
        let (batch, sizes) = Sizes::of(&inputs[0], &inputs[1]);
        let Sizes { heads, len, dims, .. } = sizes;
        let [out, normalizers] = outputs else { unreachable!("there are two outputs") };
        let mut wide = Vec::new();
        let at = begin(out, &mut wide);
        let normalizers = Shared(normalizers.as_mut_slice::<f32>().as_mut_ptr());
        let isa = isa();
        pool::parallel(batch * heads, |task| {
            let (row, head) = (task / heads, task % heads);
            let (q, k, v) = ((q.head(row, head), q.ld()), head_of(k, row, head, sizes), head_of(v, row, head, sizes));
            with_scratch(&SCORES, BLOCK * len, |scores| {
                for (first, seen) in sizes.blocks() {
                    let rows = seen - first;
                    let s = scores.as_mut_ptr();
                    // SAFETY: blocks are inside the heads, and one task writes each head of the outputs.
                    unsafe {
                        let block = q.0.add(first * q.1);
                        let to_scores = [self.scale, 0.0];
                        product([rows, seen, dims], to_scores, (block, q.1, false), (k.0, k.1, true), (s, seen));
                        let normalizers =
                            std::slice::from_raw_parts_mut(normalizers.get().add(task * len + first), rows);
                        softmax(isa, &mut scores[..rows * seen], seen, first, normalizers);
                        let out = at.get().add((task * len + first) * dims);
                        product([rows, dims, seen], [1.0, 0.0], (s, seen, false), (v.0, v.1, false), (out, dims));
                    }
                }
            });
        });
        finish(out, &wide);
    }

    fn vjp(&self, at: &Gradient) -> Result<Vec<Array>, Exception> {
        let [q, k, v] = [0, 1, 2].map(|i| &at.primals[i]);
        let inputs = [q, k, v, &at.outputs[0], &at.outputs[1], &at.cotangents[0]];
        let shapes = [q, k, v].map(|array| (array.shape(), array.dtype()));
        let gradients = apply(CausalGradient { scale: self.scale }, &inputs, &shapes)?;
        Ok(at.argnums.iter().map(|&i| gradients[i].clone()).collect())
    }
}

/// The kv-head of a query head.
fn head_of(heads: Heads, row: usize, head: usize, sizes: Sizes) -> (*const f32, usize) {
    (heads.head(row, head / sizes.group()), heads.ld())
}

#[derive(Debug)]
struct CausalGradient {
    scale: f32,
}

impl Operation for CausalGradient {
    fn name(&self) -> &'static CStr {
        c"CausalAttentionGradient"
    }

    fn run(&self, inputs: &[View<'_>], outputs: &mut [ViewMut<'_>]) {
        let mut buffers = [const { Vec::new() }; 6];
        let [a, b, c, d, e, f] = &mut buffers;
        let (q, k, v) = (Heads::of(&inputs[0], a), Heads::of(&inputs[1], b), Heads::of(&inputs[2], c));
        let (out, d_out) = (Heads::of(&inputs[3], d), Heads::of(&inputs[5], e));
        let normalizers = inputs[4].contiguous::<f32>(f);
        let (batch, sizes) = Sizes::of(&inputs[0], &inputs[1]);
        let Sizes { heads, kv_heads, len, dims } = sizes;
        let mut wide = [const { Vec::new() }; 3];
        let mut gradients = outputs.iter_mut().zip(&mut wide).map(|(out, wide)| begin(out, wide));
        let [Some(dq), Some(dk), Some(dv)] = [gradients.next(), gradients.next(), gradients.next()] else {
            unreachable!("there are three outputs")
        };
        // One task for each kv-head, whose gradients it alone adds up.
        pool::parallel(batch * kv_heads, |task| {
            let (row, kv_head) = (task / kv_heads, task % kv_heads);
            let of_kv = |all: Shared<f32>| {
                // SAFETY: one task has each kv-head.
                let head = unsafe { std::slice::from_raw_parts_mut(all.get().add(task * len * dims), len * dims) };
                head.fill(0.0);
                head.as_mut_ptr()
            };
            let (dk, dv) = (of_kv(dk), of_kv(dv));
            for head in kv_head * sizes.group()..(kv_head + 1) * sizes.group() {
                let index = row * heads + head;
                let backward = HeadGradient {
                    scale: self.scale,
                    sizes,
                    q: (q.head(row, head), q.ld()),
                    k: (k.head(row, kv_head), k.ld()),
                    v: (v.head(row, kv_head), v.ld()),
                    out: (out.head(row, head), out.ld()),
                    d_out: (d_out.head(row, head), d_out.ld()),
                    normalizers: &normalizers[index * len..][..len],
                };
                // SAFETY: one task has each kv-head and its query heads.
                unsafe { backward.run(dq.get().add(index * len * dims), dk, dv) };
            }
        });
        outputs.iter_mut().zip(&wide).for_each(|(out, wide)| finish(out, wide));
    }

    fn vjp(&self, _: &Gradient) -> Result<Vec<Array>, Exception> {
        Err(Exception::custom("the gradient of attention has no gradient of its own"))
    }
}

/// What the gradient of one query head needs: matrices of `L` rows as first value and distance of rows.
struct HeadGradient<'a> {
    scale: f32,
    sizes: Sizes,
    q: (*const f32, usize),
    k: (*const f32, usize),
    v: (*const f32, usize),
    out: (*const f32, usize),
    d_out: (*const f32, usize),
    normalizers: &'a [f32],
}

impl HeadGradient<'_> {
    /// Writes `dq` and adds to `dk` and `dv`, contiguous `[L, d]`.
    ///
    /// # Safety
    /// All matrices have `L` rows of `d`, and nobody else uses the gradients.
    unsafe fn run(&self, dq: *mut f32, dk: *mut f32, dv: *mut f32) {
        let Self { scale, sizes, q, k, v, out, d_out, normalizers } = *self;
        let Sizes { len, dims, .. } = sizes;
        let isa = isa();
        with_scratch(&SCORES, 2 * BLOCK * len, |scratch| {
            let (p, ds) = scratch.split_at_mut(BLOCK * len);
            for (first, seen) in sizes.blocks() {
                let rows = seen - first;
                let (p, ds) = (&mut p[..rows * seen], &mut ds[..rows * seen]);
                let (p_at, ds_at) = (p.as_mut_ptr(), ds.as_mut_ptr());
                // SAFETY: blocks are inside the matrices.
                unsafe {
                    let (q, d_out) = ((q.0.add(first * q.1), q.1), (d_out.0.add(first * d_out.1), d_out.1));
                    let out = (out.0.add(first * out.1), out.1);
                    let rows_of = |m: (*const f32, usize), i: usize| std::slice::from_raw_parts(m.0.add(i * m.1), dims);
                    let (scaled, fresh, adding) = ([scale, 0.0], [1.0, 0.0], [1.0, 1.0]);
                    product([rows, seen, dims], scaled, (q.0, q.1, false), (k.0, k.1, true), (p_at, seen));
                    product([rows, seen, dims], fresh, (d_out.0, d_out.1, false), (v.0, v.1, true), (ds_at, seen));
                    for i in 0..rows {
                        let (p, ds) = (&mut p[i * seen..][..seen], &mut ds[i * seen..][..seen]);
                        let along = rows_of(d_out, i).iter().zip(rows_of(out, i)).map(|(a, b)| a * b).sum();
                        softmax_gradient(isa, p, ds, first + i + 1, normalizers[first + i], along, scale);
                    }
                    let dq = dq.add(first * dims);
                    product([rows, dims, seen], fresh, (ds_at, seen, false), (k.0, k.1, false), (dq, dims));
                    product([seen, dims, rows], adding, (ds_at, seen, true), (q.0, q.1, false), (dk, dims));
                    product([seen, dims, rows], adding, (p_at, seen, true), (d_out.0, d_out.1, false), (dv, dims));
                }
            }
        });
    }
}

multiversion! {
    /// Rows of `seen` scores become weights; row `i` sees `first + i + 1` keys.
    fn softmax(scores: &mut [f32], seen: usize, first: usize, normalizers: &mut [f32]) {
        for (i, row) in scores.chunks_exact_mut(seen).enumerate() {
            let (visible, hidden) = row.split_at_mut(first + i + 1);
            let largest = math::max(visible);
            for value in visible.iter_mut() {
                *value = math::exp(*value - largest);
            }
            let sum = math::sum(visible);
            let factor = 1.0 / sum;
            for value in visible.iter_mut() {
                *value *= factor;
            }
            hidden.fill(0.0);
            normalizers[i] = largest + sum.ln();
        }
    }
}

multiversion! {
    /// `p` from scores to weights, `ds` from the gradient of weights to that of the products of queries and keys.
    fn softmax_gradient(p: &mut [f32], ds: &mut [f32], visible: usize, normalizer: f32, along: f32, scale: f32) {
        let (p, p_hidden) = p.split_at_mut(visible);
        let (ds, ds_hidden) = ds.split_at_mut(visible);
        let ds = &mut ds[..p.len()];
        for i in 0..p.len() {
            p[i] = math::exp(p[i] - normalizer);
            ds[i] = p[i] * (ds[i] - along) * scale;
        }
        p_hidden.fill(0.0);
        ds_hidden.fill(0.0);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::{each_level, numbers};
    use super::*;

    proptest! {
        #[test]
        fn every_level_gives_the_same_bits(x in numbers(64..600), seen in 1..20_usize) {
            let rows = seen.min(x.len() / seen);
            let scores = &x[..rows * seen];
            each_level(scores.len() + rows, |isa, out| {
                let (out, normalizers) = out.split_at_mut(scores.len());
                out.copy_from_slice(scores);
                softmax(isa, out, seen, seen - rows, normalizers);
            })?;
            each_level(2 * x.len(), |isa, out| {
                let (p, ds) = out.split_at_mut(x.len());
                p.copy_from_slice(&x);
                ds.copy_from_slice(&x);
                softmax_gradient(isa, p, ds, x.len() / 2, 3.0, 0.5, 0.25);
            })?;
        }
    }
}
