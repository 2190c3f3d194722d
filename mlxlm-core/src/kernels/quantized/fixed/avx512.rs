//! Bytes times bytes by VNNI: each instruction adds four products to each of 16 sums.

use std::arch::x86_64::*;

use super::{LANES, PAIR, Tile};

/// Rows that are multiplied together: with two panels, 24 vectors of sums.
const ROWS: usize = 6;

/// See [`Tile::add`].
///
/// # Safety
/// The machine must have the level, and the tile must have been checked.
pub(super) unsafe fn add(tile: &Tile<'_>, panels: usize, sums: &mut [f32]) {
    let rows = sums.len() / (PAIR * LANES);
    for (from, to) in (0..rows).step_by(super::rows::ROWS).flat_map(|first| blocks(first, rows)) {
        let sums = sums[from * PAIR * LANES..].as_mut_ptr();
        macro_rules! rows {
            ($($rows:literal / $chains:literal),*) => {
                match (to - from, panels) {
                    // SAFETY: passed on from the caller; the rows are the tile's.
                    $(($rows, 1) => unsafe { block_of::<1, $rows, $chains>(tile, tile.first + from, sums) },
                    ($rows, _) => unsafe { block_of::<2, $rows, $chains>(tile, tile.first + from, sums) },)*
                    (rows, _) => unreachable!("a block has {ROWS} rows at most, not {rows}"),
                }
            };
        }
        // Few rows need several chains of sums each, as one instruction takes five cycles.
        rows!(1 / 2, 2 / 2, 3 / 1, 4 / 1, 5 / 1, 6 / 1);
    }
}

/// Blocks of nearly the same height of the rows of a tile.
fn blocks(first: usize, rows: usize) -> impl Iterator<Item = (usize, usize)> {
    let some = super::rows::ROWS.min(rows - first);
    let blocks = some.div_ceil(ROWS);
    (0..blocks).map(move |i| (first + i * some / blocks, first + (i + 1) * some / blocks))
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn block_of<const P: usize, const R: usize, const C: usize>(tile: &Tile<'_>, row: usize, sums: *mut f32) {
    let rows = tile.rows;
    let zero = _mm512_setzero_si512();
    // SAFETY: `Tile::add` checked that these rows, columns, groups and panels exist.
    unsafe {
        let byte = |bytes: &[u8], r: usize, column: usize| {
            let at = bytes.as_ptr().add(column + r * super::rows::COLUMNS);
            _mm512_set1_epi32(at.cast::<i32>().read_unaligned())
        };
        for group in tile.groups() {
            let begin = group * rows.group;
            let codes = tile.codes.as_ptr().add((begin - tile.from) * LANES);
            let (mut high, mut low) = ([[[zero; C]; P]; R], [[[zero; C]; P]; R]);
            for column in (0..rows.group).step_by(4 * C) {
                for c in 0..C {
                    let at = column + 4 * c;
                    let codes: [__m512i; P] =
                        std::array::from_fn(|p| _mm512_loadu_epi32(codes.add(p * tile.plane + at * LANES).cast()));
                    let place = rows.at(row, begin + at);
                    for r in 0..R {
                        let (h, l) = (byte(rows.high, r, place), byte(rows.low, r, place));
                        for p in 0..P {
                            high[r][p][c] = _mm512_dpbusd_epi32(high[r][p][c], codes[p], h);
                            low[r][p][c] = _mm512_dpbusd_epi32(low[r][p][c], codes[p], l);
                        }
                    }
                }
            }
            for p in 0..P {
                let at = (p * rows.groups + group) * LANES;
                let params = Params { scale: tile.scales.as_ptr().add(at), bias: tile.biases.as_ptr().add(at) }.load();
                for r in 0..R {
                    let total =
                        |parts: &[__m512i; C]| parts.iter().skip(1).fold(parts[0], |a, b| _mm512_add_epi32(a, *b));
                    let at = (row + r) * rows.groups + group;
                    let activations = (*rows.steps.get_unchecked(at), *rows.sums.get_unchecked(at));
                    let to = sums.add((r * PAIR + p) * LANES);
                    accumulate(to, total(&high[r][p]), total(&low[r][p]), params, activations);
                }
            }
        }
    }
}

/// Where a group's scales and biases lie.
struct Params {
    scale: *const f32,
    bias: *const f32,
}

impl Params {
    #[target_feature(enable = "avx512f")]
    #[inline]
    unsafe fn load(self) -> (__m512, __m512) {
        // SAFETY: passed on from the caller.
        unsafe { (_mm512_loadu_ps(self.scale), _mm512_loadu_ps(self.bias)) }
    }
}

/// Adds a group to the sums of a row in memory.
///
/// # Safety
/// The machine must have AVX-512, and there must be 16 sums.
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn accumulate(to: *mut f32, high: __m512i, low: __m512i, params: (__m512, __m512), x: (f32, f32)) {
    let dots = _mm512_add_epi32(_mm512_slli_epi32::<8>(high), low);
    // SAFETY: passed on from the caller.
    unsafe { _mm512_storeu_ps(to, with_group(_mm512_loadu_ps(to), dots, params, x)) };
}

/// The sums with one more group: its integer sum times step and scale, and the sum of its activations times the bias.
#[target_feature(enable = "avx512f")]
#[inline]
pub(super) fn with_group(
    total: __m512,
    dots: __m512i,
    (scale, bias): (__m512, __m512),
    (step, sum): (f32, f32),
) -> __m512 {
    let scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(dots), _mm512_set1_ps(step));
    _mm512_fmadd_ps(bias, _mm512_set1_ps(sum), _mm512_fmadd_ps(scaled, scale, total))
}
