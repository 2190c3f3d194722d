//! A few rows against a matrix at memory speed, with AVX-512 ([`avx512`]) or AVX2 ([`avx2`]).
//!
//! Lanes go along a row of the matrix. Each result has one chain of sums, whatever tile it falls into, in f32.

use super::{INVARIANT_ROWS, Part, Product, Sizes};
use crate::kernels::convert::Values;
use crate::kernels::gemm::Shared;
use crate::kernels::isa::Isa;
use crate::kernels::pool;

mod avx2;
mod avx512;

/// Rows of the matrix in a tile.
const ROWS: usize = 4;
/// Numbers of a row that are fetched before they are needed, see [`crate::kernels::isa::fetches_ahead`].
const AHEAD: usize = 512;
/// Below this many multiply-adds another core is not worth waking.
const SERIAL: usize = 100_000;

/// Types of numbers, as parameters of loops.
const F32: u8 = 0;
const F16: u8 = 1;
const BF16: u8 = 2;

/// Numbers of one of the types.
#[derive(Clone, Copy)]
struct Operand {
    data: *const u8,
    kind: u8,
}

impl Operand {
    fn new(values: &Values<'_>) -> Self {
        match values {
            Values::F32(v) => Self { data: v.as_ptr().cast(), kind: F32 },
            Values::F16(v) => Self { data: v.as_ptr().cast(), kind: F16 },
            Values::Bf16(v) => Self { data: v.as_ptr().cast(), kind: BF16 },
        }
    }
}

/// Where the number with this index lies.
#[inline(always)]
const fn at<const KIND: u8>(from: *const u8, index: usize) -> *const u8 {
    let size = if KIND == F32 { size_of::<f32>() } else { size_of::<u16>() };
    from.wrapping_add(index * size)
}

/// A matrix and some rows, both with `k` columns.
struct Job {
    x: Operand,
    w: Operand,
    sizes: Sizes,
    out: Shared<f32>,
}

// SAFETY: operands are only read, and tasks write different columns of the result.
unsafe impl Sync for Job {}

/// Whether this way is made for the operands.
pub(super) fn takes(how: Product, part: &Part<'_>) -> bool {
    part.rows.len() <= INVARIANT_ROWS && !how.transpose_a && how.transpose_b && how.isa >= Isa::Avx2
}

/// `out = x @ w.T` for all parts in one job. Each part's rows of `n` results come behind those of the part before it.
pub(super) fn multiply(isa: Isa, parts: &[&Part<'_>], n: usize, out: &mut [f32]) {
    // Rows of the matrix's own type are multiplied as they are; so are wide ones. With AVX2 all are wide.
    let wide: Vec<Vec<f32>> = parts.iter().map(|part| widened(isa, part)).collect();
    let mut results = &mut *out;
    let job = |(part, wide): (&&Part<'_>, &Vec<f32>)| {
        let (Part { a: x, b: w, .. }, sizes) = (part, part.sizes(n));
        let Sizes { m, k, .. } = sizes;
        assert!(isa <= Isa::best() && x.len() == m * k && w.len() == n * k);
        let own = results.split_off_mut(..m * n).expect("room for each part");
        let x = if wide.is_empty() { Operand::new(x) } else { Operand { data: wide.as_ptr().cast(), kind: F32 } };
        Job { x, w: Operand::new(w), sizes, out: Shared(own.as_mut_ptr()) }
    };
    let jobs: Vec<Job> = parts.iter().zip(&wide).map(job).collect();
    let work: usize = jobs.iter().map(|job| job.sizes.m * n * job.sizes.k).sum();
    // Steps of columns, of one job after the other.
    let each = n.div_ceil(ROWS);
    let parts = if work < SERIAL { 1 } else { 4 * pool::threads() };
    pool::parallel_ranges(jobs.len() * each, 1, parts, |from, to| {
        for (i, job) in jobs.iter().enumerate().take(to.div_ceil(each)).skip(from / each) {
            let (from, to) = (from.saturating_sub(i * each), (to - i * each).min(each));
            let columns = from * ROWS..(to * ROWS).min(n);
            // SAFETY: the level and the sizes were checked.
            unsafe {
                match isa {
                    Isa::Avx512 | Isa::Amx => avx512::multiply(job, columns),
                    _ => avx2::multiply(job, columns),
                }
            }
        }
    });
}

/// The rows of a part as f32, if the loops want them so and they are not.
fn widened(isa: Isa, part: &Part<'_>) -> Vec<f32> {
    if matches!(part.a, Values::F32(_)) || isa >= Isa::Avx512 && part.a.is_like(&part.b) {
        return Vec::new();
    }
    let mut wide = vec![0.0; part.a.len()];
    part.a.read(isa, 0, &mut wide);
    wide
}
