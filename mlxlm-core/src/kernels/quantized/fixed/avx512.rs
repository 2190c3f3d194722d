//! Bytes times bytes by VNNI: each instruction adds four products to each of 16 sums, a lane for each row of weights.
//!
//! Codes go from the lines of a panel to registers. One row needs 4 such instructions for each 64 bytes of weights of 4 bits,
//! and some 12 in all: memory is slower than that.

use std::arch::x86_64::*;

use mlx_rs::Dtype;

use super::{Block, CENTRE, E2M1, HALF, LANES};
use crate::kernels::convert::bf16_lanes;
use crate::kernels::isa::fetches_ahead;
use crate::quant::Mode;
use crate::quant::panels::{Layout, UNIT};

/// Columns whose products one instruction adds up, and such quads in a unit.
const QUAD: usize = 4;
const QUADS: usize = UNIT / QUAD;

/// Columns from which on one row passes two panels side by side. A row's bytes leave the first-level cache while so long a panel
/// goes through it, and fetching them back for each panel slows the stream of weights down: on Zen 4 by a fifth at 8192 columns.
/// Shorter panels are read faster one by one.
const LONG: usize = 4096;

/// Words ahead of its use that a line is asked for, see [`fetches_ahead`].
const AHEAD: usize = 256;

/// See [`Block::by_vectors`].
///
/// # Safety
/// The machine must have the level, and the block must have been checked.
pub(super) unsafe fn multiply(block: &Block<'_>, lines: &[u32], sums: &mut [f32]) {
    let pairs = if block.layout.columns < LONG { 0 } else { lines.len() / block.layout.panel_words() / 2 * 2 };
    let (paired, single) = lines.split_at(pairs * block.layout.panel_words());
    for (at, height) in block.runs() {
        let (row, sums) = (block.first + at, sums[at * block.stride..].as_mut_ptr());
        // SAFETY: passed on from the caller; the rows are the block's.
        unsafe {
            match height {
                1 => {
                    of_codes!(block.layout, rows_of::<1, 2>(block, paired, row, sums));
                    of_codes!(block.layout, rows_of::<1, 1>(block, single, row, sums.add(pairs * LANES)));
                }
                2 => of_codes!(block.layout, rows_of::<2, 1>(block, lines, row, sums)),
                4 => of_codes!(block.layout, rows_of::<4, 1>(block, lines, row, sums)),
                _ => of_codes!(block.layout, rows_of::<8, 1>(block, lines, row, sums)),
            }
        }
    }
}

/// `R` rows against panels, `P` of them side by side.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn rows_of<const BITS: usize, const FLOAT: bool, const R: usize, const P: usize>(
    block: &Block<'_>,
    lines: &[u32],
    row: usize,
    sums: *mut f32,
) {
    let (layout, rows) = (block.layout, block.rows);
    let (group, groups, width, stripe) =
        (layout.group(), layout.groups(), layout.stripe_groups(), layout.stripe_words());
    let (line, next) = (rows.line(row), layout.panel_words());
    // More rows than these have more to compute than to wait for.
    let ahead = R <= 2 && fetches_ahead();
    // SAFETY: `Block::check` saw that panels have all stripes, rows all columns and groups, and sums all panels and rows.
    unsafe {
        for (panels, lines) in lines.chunks_exact(P * next).enumerate() {
            let mut totals = [[_mm512_setzero_ps(); R]; P];
            for (first, lines) in (0..groups).step_by(width).zip(lines[..next].chunks_exact(stripe)) {
                let lines = lines.as_ptr();
                let mut codes = lines.add(LANES);
                for which in 0..width.min(groups - first) {
                    let g = first + which;
                    let mut dots = [Dots([[_mm512_setzero_si512(); R]; 2]); P];
                    let columns = g * group..(g + 1) * group;
                    if ahead {
                        for panel in 0..P {
                            fetch(lines.add(panel * next), 1);
                            fetch(codes.add(panel * next), group * BITS / UNIT);
                        }
                    }
                    if group < UNIT {
                        for (panel, dots) in dots.iter_mut().enumerate() {
                            let codes = codes.add(panel * next);
                            dots.add::<BITS, FLOAT, { QUADS / 2 }>(line.at(columns.start), block, codes);
                        }
                        codes = codes.add(BITS * LANES / 2);
                    } else {
                        for column in columns.step_by(UNIT) {
                            for (panel, dots) in dots.iter_mut().enumerate() {
                                let codes = codes.add(panel * next);
                                dots.add::<BITS, FLOAT, QUADS>(line.at(column), block, codes);
                            }
                            codes = codes.add(BITS * LANES);
                        }
                    }
                    for (panel, totals) in totals.iter_mut().enumerate() {
                        let numbers = numbers::<FLOAT>(layout, lines.add(panel * next), which);
                        for (r, total) in totals.iter_mut().enumerate() {
                            let at = (row + r) * groups + g;
                            let x = (*rows.steps.get_unchecked(at), *rows.sums.get_unchecked(at));
                            *total = with_group(*total, dots[panel].of(r), numbers, x);
                        }
                    }
                }
            }
            for (panel, totals) in totals.into_iter().enumerate() {
                for (r, total) in totals.into_iter().enumerate() {
                    _mm512_storeu_ps(sums.add(r * block.stride + (panels * P + panel) * LANES), total);
                }
            }
        }
    }
}

/// Asks for lines [`AHEAD`] of these.
#[inline]
fn fetch(from: *const u32, lines: usize) {
    for line in 0..lines {
        // SAFETY: any address may be asked for.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(from.wrapping_add(AHEAD + line * LANES).cast()) };
    }
}

/// The integer sums of a group: of the high and of the low bytes.
#[derive(Clone, Copy)]
struct Dots<const R: usize>([[__m512i; R]; 2]);

impl<const R: usize> Dots<R> {
    /// Adds the first `N` quads of a unit; `at` is where the bytes of the first row and column lie.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    #[inline]
    unsafe fn add<const BITS: usize, const FLOAT: bool, const N: usize>(
        &mut self,
        at: usize,
        block: &Block<'_>,
        codes: *const u32,
    ) {
        let [high, low] = &mut self.0;
        let (h, l) = (block.rows.high.as_ptr().wrapping_add(at), block.rows.low.as_ptr().wrapping_add(at));
        // SAFETY: passed on from the caller.
        unsafe {
            let four = |bytes: *const u8| _mm512_set1_epi32(bytes.cast::<i32>().read_unaligned());
            for q in 0..N {
                let codes = quad::<BITS, FLOAT>(codes, q);
                for r in 0..R {
                    let at = r * super::rows::COLUMNS + QUAD * q;
                    high[r] = _mm512_dpbusd_epi32(high[r], codes, four(h.add(at)));
                    low[r] = _mm512_dpbusd_epi32(low[r], codes, four(l.add(at)));
                }
            }
        }
    }

    #[target_feature(enable = "avx512f")]
    #[inline]
    fn of(&self, r: usize) -> __m512i {
        _mm512_add_epi32(_mm512_slli_epi32::<8>(self.0[0][r]), self.0[1][r])
    }
}

/// The codes of columns `4 q .. 4 q + 4` of a unit, four bytes in each lane. `q` is known where this is compiled.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
pub(in super::super) unsafe fn quad<const BITS: usize, const FLOAT: bool>(unit: *const u32, q: usize) -> __m512i {
    let ones = |bits: usize| _mm512_set1_epi8(((1_u32 << bits) - 1) as i8);
    let part = |line: usize, shift: usize, bits: usize| {
        // SAFETY: the caller's unit has this line.
        let words = unsafe { _mm512_loadu_epi32(unit.add(line * LANES).cast()) };
        _mm512_and_si512(_mm512_srl_epi32(words, _mm_cvtsi32_si128(shift as i32)), ones(bits))
    };
    let crumbs = |line: usize| part(line + q / 4, 2 * (q % 4), 2);
    let nibbles = || part(q / 2, 4 * (q % 2), 4);
    match BITS {
        2 => crumbs(0),
        3 => _mm512_or_si512(crumbs(0), _mm512_slli_epi32::<2>(part(2, q, 1))),
        4 if FLOAT => {
            // SAFETY: the table has 16 bytes.
            let table = unsafe { _mm512_broadcast_i32x4(_mm_loadu_si128(E2M1.as_ptr().cast())) };
            _mm512_shuffle_epi8(table, nibbles())
        }
        4 => nibbles(),
        5 => _mm512_or_si512(nibbles(), _mm512_slli_epi32::<4>(part(4, q, 1))),
        6 => _mm512_or_si512(nibbles(), _mm512_slli_epi32::<4>(crumbs(4))),
        // SAFETY: the caller's unit has this line.
        _ => unsafe { _mm512_loadu_epi32(unit.add(q * LANES).cast()) },
    }
}

/// Scale and bias of a group in each lane, from the line that begins a stripe.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
#[inline]
pub(in super::super) unsafe fn numbers<const FLOAT: bool>(
    layout: &Layout,
    line: *const u32,
    which: usize,
) -> (__m512, __m512) {
    // SAFETY: the caller's line has 64 bytes, of which a group has 16 if there are four in it.
    unsafe {
        if FLOAT {
            let bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128(line.cast::<__m128i>().add(which)));
            let scale = match layout.scheme.mode {
                Mode::Nvfp4 => {
                    let sign = _mm512_slli_epi32::<24>(_mm512_and_si512(bytes, _mm512_set1_epi32(0x80)));
                    let magnitude = _mm512_slli_epi32::<20>(_mm512_and_si512(bytes, _mm512_set1_epi32(0x7F)));
                    let up = _mm512_set1_ps(f32::from_bits(247 << 23));
                    let scaled = _mm512_mul_ps(_mm512_castsi512_ps(magnitude), up);
                    _mm512_castsi512_ps(_mm512_or_si512(_mm512_castps_si512(scaled), sign))
                }
                _ => {
                    let smallest = _mm512_cmpeq_epi32_mask(bytes, _mm512_setzero_si512());
                    let powers = _mm512_slli_epi32::<23>(bytes);
                    _mm512_castsi512_ps(_mm512_mask_mov_epi32(powers, smallest, _mm512_set1_epi32(1 << 22)))
                }
            };
            return (_mm512_mul_ps(scale, _mm512_set1_ps(HALF)), _mm512_mul_ps(scale, _mm512_set1_ps(CENTRE)));
        }
        let halves = [_mm256_loadu_si256(line.cast()), _mm256_loadu_si256(line.add(LANES / 2).cast())];
        match layout.numbers {
            Dtype::Float16 => (_mm512_cvtph_ps(halves[0]), _mm512_cvtph_ps(halves[1])),
            _ => (bf16_lanes(halves[0]), bf16_lanes(halves[1])),
        }
    }
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
