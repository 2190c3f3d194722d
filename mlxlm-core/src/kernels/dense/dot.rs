//! A few rows against a 16-bit matrix at memory speed, with AVX-512.
//!
//! Lanes go along a row of the matrix. bf16 numbers are multiplied in pairs and summed up in f32 by one instruction; f16 numbers
//! are widened. Each result has one chain of sums, whatever tile it falls into.

use std::arch::x86_64::*;

use super::{FEW, Part, Product, Sizes};
use crate::kernels::convert::Values;
use crate::kernels::gemm::Shared;
use crate::kernels::isa::{Isa, fetches_ahead};
use crate::kernels::pool;

/// Rows of `x` in a tile, and of the matrix: 24 sums.
const TILE: usize = 6;
const ROWS: usize = 4;
/// Numbers of a row that are fetched before they are needed, see [`fetches_ahead`].
const AHEAD: usize = 512;
/// Below this many multiply-adds another core is not worth waking.
const SERIAL: usize = 100_000;

/// A 16-bit matrix and some rows, both with `k` columns.
struct Job {
    x: *const u16,
    w: *const u16,
    sizes: Sizes,
    out: Shared<f32>,
    half: bool,
}

// SAFETY: operands are only read, and tasks write different columns of the result.
unsafe impl Sync for Job {}

/// Whether this way is made for the operands.
pub(super) fn takes(how: Product, part: &Part<'_>) -> bool {
    let wide = matches!(part.a, Values::F32(_)) || !part.a.is_like(&part.b);
    part.rows.len() <= FEW && !how.transpose_a && how.transpose_b && how.isa >= Isa::Avx512 && !wide
}

/// `out = x @ w.T` for all parts in one job. Each part's rows of `n` results come behind those of the part before it.
pub(super) fn multiply(parts: &[&Part<'_>], n: usize, out: &mut [f32]) {
    let bits = |values: &Values<'_>| match values {
        Values::F16(v) => v.as_ptr().cast(),
        Values::Bf16(v) => v.as_ptr().cast(),
        Values::F32(_) => unreachable!("f32 matrices go to panels"),
    };
    let mut results = &mut *out;
    let job = |part: &&Part<'_>| {
        let (Part { a: x, b: w, .. }, sizes) = (part, part.sizes(n));
        let Sizes { m, k, .. } = sizes;
        assert!(Isa::best() >= Isa::Avx512 && x.len() == m * k && w.len() == n * k);
        let own = results.split_off_mut(..m * n).expect("room for each part");
        let half = matches!(x, Values::Bf16(_));
        Job { x: bits(x), w: bits(w), sizes, out: Shared(own.as_mut_ptr()), half }
    };
    let jobs: Vec<Job> = parts.iter().map(job).collect();
    let work: usize = jobs.iter().map(|job| job.sizes.m * n * job.sizes.k).sum();
    // Steps of columns, of one job after the other.
    let each = n.div_ceil(ROWS);
    let parts = if work < SERIAL { 1 } else { 4 * pool::threads() };
    pool::parallel_ranges(jobs.len() * each, 1, parts, |from, to| {
        for (i, job) in jobs.iter().enumerate().take(to.div_ceil(each)).skip(from / each) {
            let (from, to) = (from.saturating_sub(i * each), (to - i * each).min(each));
            // SAFETY: the level and the sizes were checked.
            unsafe { job.columns(from * ROWS, (to * ROWS).min(n)) };
        }
    });
}

impl Job {
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    unsafe fn columns(&self, from: usize, to: usize) {
        let tiles = self.sizes.m.div_ceil(TILE);
        for column in (from..to).step_by(ROWS) {
            let rows = ROWS.min(to - column);
            for tile in 0..tiles {
                let (first, end) = (tile * self.sizes.m / tiles, (tile + 1) * self.sizes.m / tiles);
                // SAFETY: rows and columns are inside the operands.
                unsafe {
                    if rows == ROWS {
                        self.tile_of::<ROWS>(first, end, column);
                    } else {
                        for column in column..to {
                            self.tile_of::<1>(first, end, column);
                        }
                    }
                }
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    unsafe fn tile_of<const N: usize>(&self, first: usize, end: usize, column: usize) {
        macro_rules! rows {
            ($($rows:literal)*) => {
                match (end - first, self.half) {
                    // SAFETY: passed on from the caller.
                    $(($rows, true) => unsafe { self.tile::<N, $rows, true>(first, column) },
                    ($rows, false) => unsafe { self.tile::<N, $rows, false>(first, column) },)*
                    (rows, _) => unreachable!("a tile has 6 rows at most, not {rows}"),
                }
            };
        }
        rows!(1 2 3 4 5 6);
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    unsafe fn tile<const N: usize, const M: usize, const HALF: bool>(&self, first: usize, column: usize) {
        let Sizes { n, k, .. } = self.sizes;
        let step = if HALF { 32 } else { 16 };
        let ahead = fetches_ahead();
        let mut sums = [[_mm512_setzero_ps(); N]; M];
        // SAFETY: whole vectors and the masked rest lie inside the rows.
        unsafe {
            let (x, w) = (self.x.add(first * k), self.w.add(column * k));
            let mut add = |at: usize, mask: u32| {
                let load = |row: *const u16| {
                    if HALF {
                        _mm512_maskz_loadu_epi16(mask, row.wrapping_add(at).cast())
                    } else {
                        let halves = _mm256_maskz_loadu_epi16(mask as u16, row.wrapping_add(at).cast());
                        _mm512_castps_si512(_mm512_cvtph_ps(halves))
                    }
                };
                if ahead {
                    for j in 0..N {
                        _mm_prefetch::<_MM_HINT_T0>(w.wrapping_add(j * k + at + AHEAD).cast());
                    }
                }
                // A loop rather than `from_fn`, which is compiled without these instructions and called.
                let mut weights = [_mm512_setzero_si512(); N];
                for (j, weights) in weights.iter_mut().enumerate() {
                    *weights = load(w.wrapping_add(j * k));
                }
                for (i, sums) in sums.iter_mut().enumerate() {
                    let x = load(x.wrapping_add(i * k));
                    for (sum, w) in sums.iter_mut().zip(&weights) {
                        *sum = if HALF {
                            let pairs = |v: __m512i| std::mem::transmute::<__m512i, __m512bh>(v);
                            _mm512_dpbf16_ps(*sum, pairs(*w), pairs(x))
                        } else {
                            _mm512_fmadd_ps(_mm512_castsi512_ps(*w), _mm512_castsi512_ps(x), *sum)
                        };
                    }
                }
            };
            for at in (0..k / step * step).step_by(step) {
                add(at, u32::MAX);
            }
            if k % step != 0 {
                add(k / step * step, (1 << (k % step)) - 1);
            }
            for (i, sums) in sums.iter().enumerate() {
                for (j, sum) in sums.iter().enumerate() {
                    *self.out.get().add((first + i) * n + column + j) = _mm512_reduce_add_ps(*sum);
                }
            }
        }
    }
}
