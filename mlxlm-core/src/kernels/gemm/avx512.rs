//! The microkernel for AVX-512: 12 × 32, which fills 24 of the 32 registers with sums.

use std::arch::x86_64::{
    __m512, _MM_HINT_T0, _mm_prefetch, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps,
    _mm512_mul_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_shuffle_f32x4, _mm512_shuffle_ps, _mm512_storeu_ps,
    _mm512_unpackhi_ps, _mm512_unpacklo_ps,
};

use super::{Kernels, Tile};

const MR: usize = 12;
const NR: usize = 32;

pub(super) const KERNELS: Kernels = Kernels { mr: MR, nr: NR, tile, pack_rows, pack_cols };

unsafe fn tile(t: &Tile) {
    // SAFETY: the level was checked when these kernels were chosen; `rows` is at most MR.
    unsafe {
        match t.rows {
            1 => tile_of::<1>(t),
            2 => tile_of::<2>(t),
            3 => tile_of::<3>(t),
            4 => tile_of::<4>(t),
            5 => tile_of::<5>(t),
            6 => tile_of::<6>(t),
            7 => tile_of::<7>(t),
            8 => tile_of::<8>(t),
            9 => tile_of::<9>(t),
            10 => tile_of::<10>(t),
            11 => tile_of::<11>(t),
            _ => tile_of::<12>(t),
        }
    }
}

/// Ones for the first `lanes` of 16 lanes.
fn mask(lanes: usize) -> u16 {
    ((1_u32 << lanes.min(16)) - 1) as u16
}

#[target_feature(enable = "avx512f")]
unsafe fn tile_of<const R: usize>(t: &Tile) {
    let mut sums = [[_mm512_setzero_ps(); 2]; R];
    let (mut a, mut b) = (t.a, t.b);
    for i in 0..R {
        _mm_prefetch::<_MM_HINT_T0>(t.c.wrapping_add(i * t.ldc).cast());
        _mm_prefetch::<_MM_HINT_T0>(t.c.wrapping_add(i * t.ldc + 16).cast());
    }
    for _ in 0..t.kc {
        // SAFETY: packed operands hold R and NR values for each k.
        unsafe {
            let (b0, b1) = (_mm512_loadu_ps(b), _mm512_loadu_ps(b.add(16)));
            for (i, sums) in sums.iter_mut().enumerate() {
                let a = _mm512_set1_ps(*a.add(i));
                sums[0] = _mm512_fmadd_ps(a, b0, sums[0]);
                sums[1] = _mm512_fmadd_ps(a, b1, sums[1]);
            }
            a = a.add(R);
            b = b.add(NR);
        }
    }
    let (alpha, beta) = (_mm512_set1_ps(t.alpha), _mm512_set1_ps(t.beta));
    if t.cols == NR {
        for (i, sums) in sums.iter().enumerate() {
            for (half, sum) in sums.iter().enumerate() {
                // SAFETY: all columns are the tile's.
                unsafe {
                    let c = t.c.add(i * t.ldc + half * 16);
                    let sum = _mm512_mul_ps(alpha, *sum);
                    let sum = if t.beta == 0.0 { sum } else { _mm512_fmadd_ps(beta, _mm512_loadu_ps(c), sum) };
                    _mm512_storeu_ps(c, sum);
                }
            }
        }
        return;
    }
    // Masked loads and stores are slow on some machines.
    let masks = [mask(t.cols), mask(t.cols.saturating_sub(16))];
    for (i, sums) in sums.iter().enumerate() {
        for (half, mask) in masks.iter().enumerate() {
            // SAFETY: masked lanes are the tile's columns; the others are neither read nor written.
            unsafe {
                let c = t.c.wrapping_add(i * t.ldc + half * 16);
                let sum = _mm512_mul_ps(alpha, sums[half]);
                let sum = if t.beta == 0.0 { sum } else { _mm512_fmadd_ps(beta, _mm512_maskz_loadu_ps(*mask, c), sum) };
                _mm512_mask_storeu_ps(c, *mask, sum);
            }
        }
    }
}

unsafe fn pack_rows(src: *const f32, ld: usize, lanes: usize, width: usize, kc: usize, dst: *mut f32) {
    // SAFETY: the level was checked when these kernels were chosen.
    unsafe { transpose(src, ld, lanes, width, kc, dst) }
}

unsafe fn pack_cols(src: *const f32, ld: usize, lanes: usize, width: usize, kc: usize, dst: *mut f32) {
    // SAFETY: the level was checked when these kernels were chosen.
    unsafe { copy(src, ld, lanes, width, kc, dst) }
}

#[target_feature(enable = "avx512f")]
unsafe fn copy(src: *const f32, ld: usize, lanes: usize, width: usize, kc: usize, dst: *mut f32) {
    for lane in (0..width).step_by(16) {
        let (load, store) = (mask(lanes.saturating_sub(lane)), mask(width - lane));
        if load == u16::MAX && store == u16::MAX {
            for k in 0..kc {
                // SAFETY: 16 lanes are inside the source's and the destination's rows.
                unsafe { _mm512_storeu_ps(dst.add(k * width + lane), _mm512_loadu_ps(src.add(k * ld + lane))) };
            }
            continue;
        }
        for k in 0..kc {
            // SAFETY: masked lanes are inside the source's and the destination's rows.
            unsafe {
                let row = _mm512_maskz_loadu_ps(load, src.wrapping_add(k * ld + lane));
                _mm512_mask_storeu_ps(dst.add(k * width + lane), store, row);
            }
        }
    }
}

#[target_feature(enable = "avx512f")]
unsafe fn transpose(src: *const f32, ld: usize, lanes: usize, width: usize, kc: usize, dst: *mut f32) {
    for lane in (0..width).step_by(16) {
        let (real, store) = (lanes.saturating_sub(lane).min(16), mask(width - lane));
        for k in (0..kc).step_by(16) {
            let depth = (kc - k).min(16);
            let load = mask(depth);
            let mut rows = [_mm512_setzero_ps(); 16];
            // SAFETY: masked loads stay inside the `kc` values of each of the `lanes` rows, masked stores inside the destination.
            unsafe {
                for (i, row) in rows.iter_mut().enumerate().take(real) {
                    let at = src.add((lane + i) * ld + k);
                    _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(128).cast());
                    *row = if depth == 16 { _mm512_loadu_ps(at) } else { _mm512_maskz_loadu_ps(load, at) };
                }
                for (i, column) in transposed(&rows).iter().enumerate().take(depth) {
                    let at = dst.add((k + i) * width + lane);
                    // A narrow row may run into the next one, which is written later; masked stores are slow.
                    if store == u16::MAX || (width < 16 && k + i + 2 < kc && width >= 8) {
                        _mm512_storeu_ps(at, *column);
                    } else {
                        _mm512_mask_storeu_ps(at, store, *column);
                    }
                }
            }
        }
    }
}

#[target_feature(enable = "avx512f")]
pub(in crate::kernels) fn transposed(r: &[__m512; 16]) -> [__m512; 16] {
    let zero = _mm512_setzero_ps();
    let (mut t, mut f, mut columns) = ([zero; 16], [zero; 16], [zero; 16]);
    for i in 0..8 {
        t[2 * i] = _mm512_unpacklo_ps(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_ps(r[2 * i], r[2 * i + 1]);
    }
    // f[4i + j] holds, in its four quarters, rows 4i..4i+4 of columns j, j + 4, j + 8 and j + 12.
    for i in 0..4 {
        for j in 0..2 {
            f[4 * i + 2 * j] = _mm512_shuffle_ps::<0x44>(t[4 * i + j], t[4 * i + j + 2]);
            f[4 * i + 2 * j + 1] = _mm512_shuffle_ps::<0xEE>(t[4 * i + j], t[4 * i + j + 2]);
        }
    }
    for j in 0..4 {
        let low = [_mm512_shuffle_f32x4::<0x88>(f[j], f[4 + j]), _mm512_shuffle_f32x4::<0xDD>(f[j], f[4 + j])];
        let high =
            [_mm512_shuffle_f32x4::<0x88>(f[8 + j], f[12 + j]), _mm512_shuffle_f32x4::<0xDD>(f[8 + j], f[12 + j])];
        columns[j] = _mm512_shuffle_f32x4::<0x88>(low[0], high[0]);
        columns[j + 8] = _mm512_shuffle_f32x4::<0xDD>(low[0], high[0]);
        columns[j + 4] = _mm512_shuffle_f32x4::<0x88>(low[1], high[1]);
        columns[j + 12] = _mm512_shuffle_f32x4::<0xDD>(low[1], high[1]);
    }
    columns
}
