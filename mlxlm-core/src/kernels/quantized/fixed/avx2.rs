//! Bytes times bytes by AVX2: pairs of products are summed up in 16 bits, then in 32.

use std::arch::x86_64::*;

use super::{LANES, PAIR, Tile};

/// See [`Tile::add`].
///
/// # Safety
/// The machine must have the level, and the tile must have been checked.
pub(super) unsafe fn add(tile: &Tile<'_>, panels: usize, sums: &mut [f32]) {
    // A pair of products of bytes must fit 16 bits; codes that are too wide for that go in two halves.
    let wide = tile.rows.wide;
    for (row, sums) in (tile.first..).zip(sums.chunks_exact_mut(PAIR * LANES)) {
        for panel in 0..panels {
            for half in 0..2 {
                let sums = sums[panel * LANES + 8 * half..].as_mut_ptr();
                // SAFETY: passed on from the caller.
                unsafe {
                    match wide {
                        true => lanes_of::<true>(tile, row, panel, half, sums),
                        false => lanes_of::<false>(tile, row, panel, half, sums),
                    }
                }
            }
        }
    }
}

/// Eight lanes of a panel.
#[target_feature(enable = "avx2,fma")]
unsafe fn lanes_of<const WIDE: bool>(tile: &Tile<'_>, row: usize, panel: usize, half: usize, sums: *mut f32) {
    let rows = tile.rows;
    let ones = _mm256_set1_epi16(1);
    let nibble = _mm256_set1_epi8(15);
    // SAFETY: `Tile::add` checked that this row, these columns, groups and panels exist.
    unsafe {
        let byte = |bytes: &[u8], column: usize| {
            _mm256_set1_epi32(bytes.as_ptr().add(rows.at(row, column)).cast::<i32>().read_unaligned())
        };
        let dot = |sum: __m256i, codes: __m256i, x: __m256i| {
            _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(codes, x), ones))
        };
        let mut total = _mm256_loadu_ps(sums);
        for group in tile.groups() {
            let begin = group * rows.group;
            let (mut high, mut low, mut upper) =
                ([_mm256_setzero_si256(); 2], [_mm256_setzero_si256(); 2], _mm256_setzero_si256());
            for (i, column) in (begin..begin + rows.group).step_by(4).enumerate() {
                let at = panel * tile.plane + (column - tile.from) * LANES + 32 * half;
                let codes = _mm256_loadu_si256(tile.codes.as_ptr().add(at).cast());
                let (h, l) = (byte(rows.high, column), byte(rows.low, column));
                high[i % 2] = dot(high[i % 2], codes, h);
                if WIDE {
                    low[i % 2] = dot(low[i % 2], _mm256_and_si256(codes, nibble), l);
                    upper = dot(upper, _mm256_and_si256(_mm256_srli_epi16::<4>(codes), nibble), l);
                } else {
                    low[i % 2] = dot(low[i % 2], codes, l);
                }
            }
            let (high, low) = (_mm256_add_epi32(high[0], high[1]), _mm256_add_epi32(low[0], low[1]));
            let low = _mm256_add_epi32(low, _mm256_slli_epi32::<4>(upper));
            let dots = _mm256_cvtepi32_ps(_mm256_add_epi32(_mm256_slli_epi32::<8>(high), low));
            let params = (panel * rows.groups + group) * LANES + 8 * half;
            let at = row * rows.groups + group;
            let scaled = _mm256_mul_ps(dots, _mm256_set1_ps(*rows.steps.get_unchecked(at)));
            total = _mm256_fmadd_ps(scaled, _mm256_loadu_ps(tile.scales.as_ptr().add(params)), total);
            let bias = _mm256_loadu_ps(tile.biases.as_ptr().add(params));
            total = _mm256_fmadd_ps(bias, _mm256_set1_ps(*rows.sums.get_unchecked(at)), total);
        }
        _mm256_storeu_ps(sums, total);
    }
}
