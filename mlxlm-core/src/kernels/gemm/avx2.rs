//! The microkernel for AVX2 and FMA: 6 × 16, which fills 12 of the 16 registers with sums.

use std::arch::x86_64::{
    __m256, __m256i, _mm256_cmpgt_epi32, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_maskload_ps, _mm256_maskstore_ps,
    _mm256_mul_ps, _mm256_permute2f128_ps, _mm256_set1_epi32, _mm256_set1_ps, _mm256_setr_epi32, _mm256_setzero_ps,
    _mm256_shuffle_ps, _mm256_storeu_ps, _mm256_unpackhi_ps, _mm256_unpacklo_ps,
};

use super::{Kernels, Tile, portable};

const MR: usize = 6;
const NR: usize = 16;

pub(super) const KERNELS: Kernels = Kernels { mr: MR, nr: NR, tile, pack_rows, pack_cols: portable::pack_cols };

unsafe fn tile(t: &Tile) {
    // SAFETY: the level was checked when these kernels were chosen; `rows` is at most MR.
    unsafe {
        match t.rows {
            1 => tile_of::<1>(t),
            2 => tile_of::<2>(t),
            3 => tile_of::<3>(t),
            4 => tile_of::<4>(t),
            5 => tile_of::<5>(t),
            _ => tile_of::<6>(t),
        }
    }
}

/// All ones in the first `lanes` lanes.
#[target_feature(enable = "avx2")]
fn mask(lanes: usize) -> __m256i {
    _mm256_cmpgt_epi32(_mm256_set1_epi32(lanes as i32), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7))
}

#[target_feature(enable = "avx2,fma")]
unsafe fn tile_of<const R: usize>(t: &Tile) {
    let mut sums = [[_mm256_setzero_ps(); 2]; R];
    let (mut a, mut b) = (t.a, t.b);
    for _ in 0..t.kc {
        // SAFETY: packed operands hold R and NR values for each k.
        unsafe {
            let (b0, b1) = (_mm256_loadu_ps(b), _mm256_loadu_ps(b.add(8)));
            for (i, sums) in sums.iter_mut().enumerate() {
                let a = _mm256_set1_ps(*a.add(i));
                sums[0] = _mm256_fmadd_ps(a, b0, sums[0]);
                sums[1] = _mm256_fmadd_ps(a, b1, sums[1]);
            }
            a = a.add(R);
            b = b.add(NR);
        }
    }
    let (alpha, beta) = (_mm256_set1_ps(t.alpha), _mm256_set1_ps(t.beta));
    let masks = [mask(t.cols), mask(t.cols.saturating_sub(8))];
    for (i, sums) in sums.iter().enumerate() {
        for (half, mask) in masks.iter().enumerate() {
            // SAFETY: masked lanes are the tile's columns; the others are neither read nor written.
            unsafe {
                let c = t.c.wrapping_add(i * t.ldc + half * 8);
                let sum = _mm256_mul_ps(alpha, sums[half]);
                let sum = if t.beta == 0.0 { sum } else { _mm256_fmadd_ps(beta, _mm256_maskload_ps(c, *mask), sum) };
                _mm256_maskstore_ps(c, *mask, sum);
            }
        }
    }
}

unsafe fn pack_rows(src: *const f32, ld: usize, lanes: usize, width: usize, kc: usize, dst: *mut f32) {
    // SAFETY: the level was checked when these kernels were chosen.
    unsafe { transpose(src, ld, lanes, width, kc, dst) }
}

#[target_feature(enable = "avx2")]
unsafe fn transpose(src: *const f32, ld: usize, lanes: usize, width: usize, kc: usize, dst: *mut f32) {
    for lane in (0..width).step_by(8) {
        let (real, stored) = (lanes.saturating_sub(lane).min(8), (width - lane).min(8));
        let store = mask(stored);
        for k in (0..kc).step_by(8) {
            let depth = (kc - k).min(8);
            let load = mask(depth);
            let mut rows = [_mm256_setzero_ps(); 8];
            // SAFETY: masked loads stay inside the `kc` values of each of the `lanes` rows, masked stores inside the destination.
            unsafe {
                for (i, row) in rows.iter_mut().enumerate().take(real) {
                    let at = src.add((lane + i) * ld + k);
                    *row = if depth == 8 { _mm256_loadu_ps(at) } else { _mm256_maskload_ps(at, load) };
                }
                for (i, column) in transposed(rows).iter().enumerate().take(depth) {
                    let at = dst.add((k + i) * width + lane);
                    if stored == 8 { _mm256_storeu_ps(at, *column) } else { _mm256_maskstore_ps(at, store, *column) }
                }
            }
        }
    }
}

#[target_feature(enable = "avx2")]
fn transposed(r: [__m256; 8]) -> [__m256; 8] {
    let mut pairs = [_mm256_setzero_ps(); 8];
    for i in 0..4 {
        pairs[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
        pairs[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
    }
    let mut fours = [_mm256_setzero_ps(); 8];
    for i in 0..2 {
        for j in 0..2 {
            fours[4 * i + 2 * j] = _mm256_shuffle_ps::<0x44>(pairs[4 * i + j], pairs[4 * i + j + 2]);
            fours[4 * i + 2 * j + 1] = _mm256_shuffle_ps::<0xEE>(pairs[4 * i + j], pairs[4 * i + j + 2]);
        }
    }
    let mut columns = [_mm256_setzero_ps(); 8];
    for i in 0..4 {
        columns[i] = _mm256_permute2f128_ps::<0x20>(fours[i], fours[i + 4]);
        columns[i + 4] = _mm256_permute2f128_ps::<0x31>(fours[i], fours[i + 4]);
    }
    columns
}
