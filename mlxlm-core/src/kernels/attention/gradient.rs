//! The gradients of attention by rules: blocks of queries against all keys that they see, with the scores of a block in cache,
//! after `FlashAttention` (arXiv:2205.14135).
//!
//! Unusual: a block's scores are whole rows, so that no sum has to be rescaled and nothing is kept from the way forward; training
//! rows are short. 16-bit heads are widened first. Which task adds up what depends on sizes alone, not on the threads.

use std::cell::Cell;
use std::ffi::CStr;

use mlx_rs::error::Exception;
use mlx_rs::{Array, Dtype};

use super::rows;
use crate::fast::Causal;
use crate::kernels::exp::soft_cap;
use crate::kernels::float::{math, multiversion};
use crate::kernels::gemm::Shared;
use crate::kernels::gemm::sgemm::{Matrix, Shape, sgemm};
use crate::kernels::isa::Isa;
use crate::kernels::primitive::{Gradient, Operation, View, ViewMut, apply};
use crate::kernels::scratch::{Scratch, with_scratch};
use crate::kernels::{convert, heads, pool};

/// Queries in a block.
const BLOCK: usize = 64;
/// Tasks below which the query heads of one kv-head are given to several, which add up for themselves.
const BALANCED: usize = 16;

thread_local! {
    static SCORES: Scratch = const { Cell::new(Vec::new()) };
}

/// The operation, for queries that attend so.
#[derive(Debug, Clone)]
pub(super) struct AttentionGradient {
    pub(super) isa: Isa,
    pub(super) scale: f32,
    pub(super) softcap: Option<f32>,
    /// `None`: a query sees all keys.
    pub(super) rule: Option<Causal>,
}

impl AttentionGradient {
    /// The gradients of queries `[B, H, L, d]`, keys `[B, K, S, d]`, values `[B, K, S, e]` and, if there are any, sinks `[H]`,
    /// which `primals` are, from that of the result `[B, H, L, e]`.
    pub(super) fn of(self, primals: &[Array], cotangent: &Array) -> Result<Vec<Array>, Exception> {
        let inputs: Vec<&Array> = primals.iter().chain([cotangent]).collect();
        let shapes: Vec<(&[i32], Dtype)> = primals.iter().map(|array| (array.shape(), array.dtype())).collect();
        apply(self, &inputs, &shapes)
    }
}

/// An array `[B, H, L, d]` as f32 whose rows of `d` are contiguous, wherever they lie.
#[derive(Clone, Copy)]
struct Wide {
    data: *const f32,
    /// Values between neighbours of each of the first three axes.
    strides: [usize; 3],
}

// SAFETY: the values are only read, and MLX keeps them while the operation runs.
unsafe impl Sync for Wide {}

impl Wide {
    /// The heads of a view: in place if they are f32 whose rows are contiguous and go forward, else copied to `buffer`.
    fn of(isa: Isa, view: &View<'_>, buffer: &mut Vec<f32>) -> Self {
        let &[batch, heads, len, dims] = view.shape else { unreachable!("heads have four axes") };
        if let (&[b, h, l, 1], Dtype::Float32) = (view.strides, view.dtype)
            && let [Ok(b), Ok(h), Ok(l)] = [b, h, l].map(usize::try_from)
        {
            return Self { data: view.as_ptr(), strides: [b, h, l] };
        }
        let [batch, heads, len, dims] = [batch, heads, len, dims].map(|n| n as usize);
        buffer.resize(view.len(), 0.0);
        let (mut copy, to) = (Vec::new(), Shared(buffer.as_mut_ptr()));
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

    /// The rows of one head.
    fn head(&self, batch: usize, head: usize) -> Rows {
        // SAFETY: the head is inside the view.
        Rows { data: unsafe { self.data.add(batch * self.strides[0] + head * self.strides[1]) }, ld: self.strides[2] }
    }
}

/// Rows of a matrix: the first value, and the distance of rows.
#[derive(Clone, Copy)]
struct Rows {
    data: *const f32,
    ld: usize,
}

impl Rows {
    fn new(values: &[f32], ld: usize) -> Self {
        Self { data: values.as_ptr(), ld }
    }

    /// The rows from `row` on.
    ///
    /// # Safety
    /// There must be so many.
    unsafe fn from(self, row: usize) -> Self {
        // SAFETY: passed on from the caller.
        Self { data: unsafe { self.data.add(row * self.ld) }, ..self }
    }

    fn plain(self) -> Matrix {
        Matrix { data: self.data, ld: self.ld, transposed: false }
    }

    fn transposed(self) -> Matrix {
        Matrix { transposed: true, ..self.plain() }
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

fn finish(isa: Isa, out: &mut ViewMut<'_>, buffer: &[f32]) {
    if out.dtype != Dtype::Float32 {
        convert::write(isa, buffer, out);
    }
}

/// The sizes of a call.
#[derive(Clone, Copy)]
struct Sizes {
    batch: usize,
    heads: usize,
    kv_heads: usize,
    queries: usize,
    keys: usize,
    /// Dimensions of queries and keys, and of values.
    d: usize,
    e: usize,
}

impl Sizes {
    fn of(q: &View<'_>, v: &View<'_>) -> Self {
        let size = |view: &View<'_>, axis: usize| view.shape[axis] as usize;
        let [batch, heads, queries, d] = [0, 1, 2, 3].map(|axis| size(q, axis));
        let [kv_heads, keys, e] = [1, 2, 3].map(|axis| size(v, axis));
        Self { batch, heads, kv_heads, queries, keys, d, e }
    }

    /// Into how many tasks the query heads of one kv-head are divided.
    fn pieces(self) -> usize {
        let group = self.heads / self.kv_heads;
        let wanted = BALANCED.div_ceil(self.batch * self.kv_heads);
        (1..=group).find(|pieces| *pieces >= wanted && group.is_multiple_of(*pieces)).unwrap_or(group)
    }
}

impl Operation for AttentionGradient {
    fn name(&self) -> &'static CStr {
        c"AttentionGradient"
    }

    fn run(&self, inputs: &[View<'_>], outputs: &mut [ViewMut<'_>]) {
        let isa = self.isa;
        let mut buffers = [const { Vec::new() }; 4];
        let [a, b, c, d] = &mut buffers;
        let (Some((cotangent, [q, k, v, sinks @ ..])), Some(sizes)) =
            (inputs.split_last(), inputs.get(2).map(|v| Sizes::of(&inputs[0], v)))
        else {
            unreachable!("there are queries, keys, values and the gradient of the result")
        };
        let (q, k, v, d_out) =
            (Wide::of(isa, q, a), Wide::of(isa, k, b), Wide::of(isa, v, c), Wide::of(isa, cotangent, d));
        let sinks = sinks.first().map(|view| {
            let mut sinks = vec![0.0; view.len()];
            convert::read(isa, view, &mut sinks);
            sinks
        });
        let Sizes { batch, heads, kv_heads, queries, keys, d, e } = sizes;
        let pieces = sizes.pieces();
        let mut of_sinks = vec![0.0; batch * heads];
        let mut wide = [const { Vec::new() }; 3];
        let mut parts = [const { Vec::new() }; 2];
        let mut gradients = outputs.iter_mut().zip(&mut wide).map(|(out, wide)| begin(out, wide));
        let [Some(dq), Some(dk), Some(dv)] = [gradients.next(), gradients.next(), gradients.next()] else {
            unreachable!("there are three outputs at least")
        };
        // What pieces add up lies apart, and is joined below.
        let whole = [(dk, keys * d), (dv, keys * e)];
        let of_piece = if pieces == 1 {
            [dk, dv]
        } else {
            for (part, (_, len)) in parts.iter_mut().zip(whole) {
                part.resize(batch * kv_heads * pieces * len, 0.0_f32);
            }
            let [dk, dv] = &mut parts;
            [Shared(dk.as_mut_ptr()), Shared(dv.as_mut_ptr())]
        };
        let sink_sums = Shared(of_sinks.as_mut_ptr());
        pool::parallel(batch * kv_heads * pieces, |task| {
            let (row, kv_head) = (task / pieces / kv_heads, task / pieces % kv_heads);
            // SAFETY: each task has its own.
            let [dk, dv] = [(of_piece[0], keys * d), (of_piece[1], keys * e)].map(|(all, len)| unsafe {
                let part = std::slice::from_raw_parts_mut(all.get().add(task * len), len);
                part.fill(0.0);
                part
            });
            let in_piece = heads / kv_heads / pieces;
            let first = kv_head * (heads / kv_heads) + task % pieces * in_piece;
            for head in first..first + in_piece {
                let index = row * heads + head;
                let backward = HeadGradient {
                    how: self,
                    sizes,
                    batch: row,
                    q: q.head(row, head),
                    k: k.head(row, kv_head),
                    v: v.head(row, kv_head),
                    d_out: d_out.head(row, head),
                    sink: sinks.as_ref().map_or(f32::NEG_INFINITY, |sinks| sinks[head]),
                };
                // SAFETY: each task has its query heads; matrices have the rows that `sizes` says.
                unsafe {
                    let dq = std::slice::from_raw_parts_mut(dq.get().add(index * queries * d), queries * d);
                    *sink_sums.get().add(index) = backward.run(dq, dk, dv);
                }
            }
        });
        if pieces > 1 {
            pool::parallel(batch * kv_heads, |task| {
                for ((to, len), parts) in whole.into_iter().zip(&parts) {
                    // SAFETY: each task has its kv-head.
                    let to = unsafe { std::slice::from_raw_parts_mut(to.get().add(task * len), len) };
                    let mut parts = parts[task * pieces * len..][..pieces * len].chunks_exact(len);
                    parts.by_ref().take(1).for_each(|part| to.copy_from_slice(part));
                    parts.for_each(|part| to.iter_mut().zip(part).for_each(|(to, part)| *to += part));
                }
            });
        }
        outputs.iter_mut().zip(&wide).for_each(|(out, wide)| finish(isa, out, wide));
        if let Some(out) = outputs.get_mut(3) {
            let sums: Vec<f32> = (0..heads).map(|head| of_sinks.iter().skip(head).step_by(heads).sum()).collect();
            convert::write(isa, &sums, out);
        }
    }

    fn vjp(&self, _: &Gradient) -> Result<Vec<Array>, Exception> {
        Err(Exception::custom("the gradient of attention has no gradient of its own"))
    }
}

/// What the gradient of one query head needs.
struct HeadGradient<'a> {
    how: &'a AttentionGradient,
    sizes: Sizes,
    batch: usize,
    q: Rows,
    k: Rows,
    v: Rows,
    d_out: Rows,
    sink: f32,
}

impl HeadGradient<'_> {
    /// Writes `dq` `[L, d]`, adds to `dk` `[S, d]` and `dv` `[S, e]`, and returns the gradient of the sink.
    ///
    /// # Safety
    /// All matrices have the rows that the sizes say.
    unsafe fn run(&self, dq: &mut [f32], dk: &mut [f32], dv: &mut [f32]) -> f32 {
        let Self { how, sizes, q, k, v, d_out, .. } = *self;
        let Sizes { queries, keys, d, e, .. } = sizes;
        let product =
            |[m, n, k]: [usize; 3], [alpha, beta]: [f32; 2], a: Matrix, b: Matrix, c: &mut [f32], ldc: usize| {
                // SAFETY: the caller vouches for the operands, and those below are cut to fit.
                unsafe { sgemm(how.isa, Shape { m, n, k, alpha, beta }, a, b, c.as_mut_ptr(), ldc) };
            };
        let mut of_sink = 0.0;
        for first in (0..queries).step_by(BLOCK) {
            let count = BLOCK.min(queries - first);
            let seen = |row: usize| {
                rows::seen(how.rule.as_ref(), self.batch, (keys + first + row).saturating_sub(queries), keys)
            };
            // Later queries see nothing before what earlier ones see.
            let (from, end) = (seen(0).start, seen(count - 1).end);
            let (width, ld) = (end - from, (end - from).next_multiple_of(16));
            // SAFETY: the block and the keys that it sees are inside the matrices.
            let (q, d_out, k, v) = unsafe { (q.from(first), d_out.from(first), k.from(from), v.from(from)) };
            with_scratch(&SCORES, (2 * count + 1) * ld, |scratch| {
                let (p, rest) = scratch.split_at_mut(count * ld);
                let (ds, slopes) = rest.split_at_mut(count * ld);
                product([count, width, d], [how.scale, 0.0], q.plain(), k.transposed(), p, ld);
                product([count, width, e], [1.0, 0.0], d_out.plain(), v.transposed(), ds, ld);
                for (row, (p, ds)) in p.chunks_exact_mut(ld).zip(ds.chunks_exact_mut(ld)).enumerate() {
                    let seen = seen(row).start - from..seen(row).end - from;
                    let slopes = how.softcap.map(|cap| {
                        soft_cap(how.isa, cap, p);
                        cap_slopes(how.isa, cap, &p[seen.clone()], &mut slopes[seen.clone()]);
                        &slopes[seen.clone()]
                    });
                    for hidden in [0..seen.start, seen.end..ld] {
                        p[hidden.clone()].fill(0.0);
                        ds[hidden].fill(0.0);
                    }
                    let (p, ds) = (&mut p[seen.clone()], &mut ds[seen]);
                    let of_this = softmax(how.isa, p, self.sink);
                    let along = score_gradients(how.isa, p, ds, slopes.unwrap_or_default());
                    of_sink -= of_this * along;
                }
                let (p, ds) = (Rows::new(p, ld), Rows::new(ds, ld));
                let dq = &mut dq[first * d..];
                product([count, d, width], [how.scale, 0.0], ds.plain(), k.plain(), dq, d);
                product([width, d, count], [how.scale, 1.0], ds.transposed(), q.plain(), &mut dk[from * d..], d);
                product([width, e, count], [1.0, 1.0], p.transposed(), d_out.plain(), &mut dv[from * e..], e);
            });
        }
        of_sink
    }
}

multiversion! {
    /// Scores become weights, and a score that has no value takes part; returns its weight.
    fn softmax(scores: &mut [f32], sink: f32) -> f32 {
        let largest = math::max(scores);
        let largest = if sink > largest { sink } else { largest };
        for score in scores.iter_mut() {
            *score = math::exp(*score - largest);
        }
        let of_sink = math::exp(sink - largest);
        let factor = 1.0 / (math::sum(scores) + of_sink);
        for score in scores.iter_mut() {
            *score *= factor;
        }
        of_sink * factor
    }
}

multiversion! {
    /// The derivative of `cap · tanh(x / cap)` where it is `y`.
    fn cap_slopes(cap: f32, y: &[f32], slopes: &mut [f32]) {
        let slopes = &mut slopes[..y.len()];
        let by = 1.0 / cap;
        for i in 0..y.len() {
            slopes[i] = 1.0 - y[i] * by * (y[i] * by);
        }
    }
}

multiversion! {
    /// Gradients of weights `p` become those of the scores, times the `slopes` of their caps if there are any. Returns the sum of
    /// the products of weights and gradients.
    fn score_gradients(p: &[f32], ds: &mut [f32], slopes: &[f32]) -> f32 {
        let ds = &mut ds[..p.len()];
        let along = math::dot(p, ds);
        for i in 0..p.len() {
            ds[i] = p[i] * (ds[i] - along);
        }
        for (ds, slope) in ds.iter_mut().zip(slopes) {
            *ds *= slope;
        }
        along
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::kernels::float::tests::{each_level, numbers};

    proptest! {
        #[test]
        fn rows_have_the_same_bits_at_every_level(x in numbers(64..600), sink in prop::option::of(-20.0..20.0_f32)) {
            let (sink, (x, y)) = (sink.unwrap_or(f32::NEG_INFINITY), x.split_at(x.len() / 2));
            each_level(x.len() + 1, |isa, out| {
                out[..x.len()].copy_from_slice(x);
                let (scores, of_sink) = out.split_at_mut(x.len());
                of_sink[0] = softmax(isa, scores, sink);
            })?;
            each_level(x.len(), |isa, out| cap_slopes(isa, 30.0, x, out))?;
            for slopes in [x, &[]] {
                each_level(x.len() + 1, |isa, out| {
                    let (ds, along) = out.split_at_mut(x.len());
                    ds.copy_from_slice(&y[..x.len()]);
                    along[0] = score_gradients(isa, x, ds, slopes);
                })?;
            }
        }
    }
}
