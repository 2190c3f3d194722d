//! Bytes times bytes by VNNI: each instruction adds four products to each of 16 sums, a lane for each row of weights.
//!
//! Codes go from the lines of a panel to registers. One row needs 4 such instructions for each 64 bytes of weights of 4 bits,
//! and some 12 in all: memory is slower than that.

use std::arch::x86_64::*;

use mlx_rs::Dtype;

use super::{Block, E2M1, FLOAT_PLANES, HALF, HALF_PLANES, LANES, WIDTH, ZERO};
use crate::kernels::convert::bf16_lanes;
use crate::kernels::isa::fetches_ahead;
use crate::quant::Mode;
use crate::quant::panels::{Band, Layout, UNIT};

/// Columns whose products one instruction adds up, and such quads in a unit.
const QUAD: usize = 4;
const QUADS: usize = UNIT / QUAD;

/// Words ahead of its use that a line is asked for, see [`fetches_ahead`].
const AHEAD: usize = 256;

/// See [`Block::multiply`].
///
/// # Safety
/// The machine must have the level, and the block must have been checked.
pub(super) unsafe fn multiply(block: &Block<'_>, band: &Band<'_>, sums: &mut [f32]) {
    let float = block.rows.planes.len() == FLOAT_PLANES;
    // More than four rows of four bytes would not have their sums in registers.
    let runs = block.runs().flat_map(|(at, height)| {
        let most = if float { height.min(4) } else { height };
        (at..at + height).step_by(most).map(move |at| (at, most))
    });
    for (at, height) in runs {
        let (row, sums) = (block.first + at, sums[at * WIDTH..].as_mut_ptr());
        // SAFETY: passed on from the caller; the rows are the block's.
        unsafe {
            match (block.rows.planes.len(), height) {
                (HALF_PLANES, 1) => of_codes!(band.layout, rows_of::<HALF_PLANES, 1>(block, band, row, sums)),
                (HALF_PLANES, 2) => of_codes!(band.layout, rows_of::<HALF_PLANES, 2>(block, band, row, sums)),
                (HALF_PLANES, 4) => of_codes!(band.layout, rows_of::<HALF_PLANES, 4>(block, band, row, sums)),
                (HALF_PLANES, _) => of_codes!(band.layout, rows_of::<HALF_PLANES, 8>(block, band, row, sums)),
                (_, 1) => of_codes!(band.layout, rows_of::<FLOAT_PLANES, 1>(block, band, row, sums)),
                (_, 2) => of_codes!(band.layout, rows_of::<FLOAT_PLANES, 2>(block, band, row, sums)),
                _ => of_codes!(band.layout, rows_of::<FLOAT_PLANES, 4>(block, band, row, sums)),
            }
        }
    }
}

/// `R` rows of `B` planes of bytes against a band.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn rows_of<const BITS: usize, const FLOAT: bool, const B: usize, const R: usize>(
    block: &Block<'_>,
    band: &Band<'_>,
    row: usize,
    sums: *mut f32,
) {
    let (layout, rows) = (&band.layout, block.rows);
    let (group, groups, width, each) = (layout.group(), layout.groups(), layout.stripe_groups(), layout.stripe_words());
    let line = rows.line(row);
    let planes: [*const u8; B] = std::array::from_fn(|p| rows.planes[p].as_ptr());
    // More rows than these have more to compute than to wait for.
    let ahead = R <= 2 && fetches_ahead();
    // SAFETY: `Block::multiply` saw that the band has all stripes, rows all columns and groups, and sums all panels and rows.
    unsafe {
        for (first, stripes) in (0..groups).step_by(width).zip(band.stripes()) {
            for (panel, lines) in stripes.chunks_exact(each).enumerate() {
                let lines = lines.as_ptr();
                let mut codes = lines.add(layout.number_lines() * LANES);
                if ahead {
                    fetch(lines, each / LANES);
                }
                for which in 0..width.min(groups - first) {
                    let g = first + which;
                    let mut dots = Dots([[[_mm512_setzero_si512(); R]; B]; 2]);
                    if group < UNIT {
                        dots.add::<BITS, FLOAT, { QUADS / 2 }>(&planes, line.at(g * group), codes);
                        codes = codes.add(BITS * LANES / 2);
                    } else {
                        for column in (g * group..(g + 1) * group).step_by(UNIT) {
                            dots.add::<BITS, FLOAT, QUADS>(&planes, line.at(column), codes);
                            codes = codes.add(BITS * LANES);
                        }
                    }
                    let numbers = numbers::<FLOAT>(layout, lines, which);
                    for r in 0..R {
                        let (at, to) = ((row + r) * groups + g, sums.add(r * WIDTH + panel * LANES));
                        let x = (*rows.steps.get_unchecked(at), *rows.sums.get_unchecked(at));
                        let zero = if FLOAT { *rows.integers.get_unchecked(at) } else { [0; 2] };
                        let (total, dots) = (_mm512_loadu_ps(to), dots.of(r, zero));
                        let total = match B {
                            HALF_PLANES => with_group(total, dots, numbers, x),
                            _ => _mm512_add_ps(total, group_of(dots, numbers, x)),
                        };
                        _mm512_storeu_ps(to, total);
                    }
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

/// The integer sums of a group, for each plane of bytes. One or two rows have those of every other quad apart: each instruction
/// waits for the one before it that adds to the same sums.
#[derive(Clone, Copy)]
struct Dots<const R: usize, const B: usize>([[[__m512i; R]; B]; 2]);

impl<const R: usize, const B: usize> Dots<R, B> {
    /// Adds the first `N` quads of a unit; `first` is where in the planes the bytes of the first row and column lie.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    #[inline]
    unsafe fn add<const BITS: usize, const FLOAT: bool, const N: usize>(
        &mut self,
        planes: &[*const u8; B],
        first: usize,
        codes: *const u32,
    ) {
        // SAFETY: passed on from the caller.
        unsafe {
            let four = |bytes: *const u8| _mm512_set1_epi32(bytes.cast::<i32>().read_unaligned());
            for q in 0..N {
                let codes = quad::<BITS, FLOAT>(codes, q);
                let apart = if R <= 2 { q % 2 } else { 0 };
                for r in 0..R {
                    let at = r * super::rows::COLUMNS + QUAD * q;
                    for (sums, plane) in self.0[apart].iter_mut().zip(planes) {
                        sums[r] = _mm512_dpbusd_epi32(sums[r], codes, four(plane.add(first + at)));
                    }
                }
            }
        }
    }

    /// The sum of the products, less [`ZERO`] times what high and low bytes are together, and what the two below are.
    #[target_feature(enable = "avx512f")]
    #[inline]
    fn of(&self, r: usize, [whole, below]: [i32; 2]) -> __m512 {
        let plane = |p: usize| match R {
            1 | 2 => _mm512_add_epi32(self.0[0][p][r], self.0[1][p][r]),
            _ => self.0[0][p][r],
        };
        let high = of_planes(plane(0), plane(1), whole);
        match B {
            HALF_PLANES => high,
            _ => _mm512_fmadd_ps(high, _mm512_set1_ps(65536.0), of_planes(plane(2), plane(3), below)),
        }
    }
}

/// The sum of high and low bytes' products, less [`ZERO`] times `whole`.
#[target_feature(enable = "avx512f")]
#[inline]
pub(super) fn of_planes(high: __m512i, low: __m512i, whole: i32) -> __m512 {
    let low = _mm512_sub_epi32(low, _mm512_set1_epi32(ZERO * whole));
    _mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_slli_epi32::<8>(high), low))
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

/// Scale and bias of a group in each lane, from the lines that begin a stripe.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
#[inline]
pub(in super::super) unsafe fn numbers<const FLOAT: bool>(
    layout: &Layout,
    line: *const u32,
    which: usize,
) -> (__m512, __m512) {
    // SAFETY: the caller's line has 64 bytes, of which a group has 16 if there are four in it, and another line follows if numbers
    // have 32 bits.
    unsafe {
        if FLOAT {
            let bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128(line.cast::<__m128i>().add(which)));
            let scale = match layout.scheme.mode {
                Mode::Nvfp4 => e4m3(bytes),
                _ => {
                    let smallest = _mm512_cmpeq_epi32_mask(bytes, _mm512_setzero_si512());
                    let powers = _mm512_slli_epi32::<23>(bytes);
                    _mm512_castsi512_ps(_mm512_mask_mov_epi32(powers, smallest, _mm512_set1_epi32(1 << 22)))
                }
            };
            // 8-bit floats are no halves.
            let half = if layout.scheme.mode == Mode::Mxfp8 { 1.0 } else { HALF };
            return (_mm512_mul_ps(scale, _mm512_set1_ps(half)), _mm512_setzero_ps());
        }
        if layout.numbers == Dtype::Float32 {
            return (_mm512_loadu_ps(line.cast()), _mm512_loadu_ps(line.add(LANES).cast()));
        }
        let halves = [_mm256_loadu_si256(line.cast()), _mm256_loadu_si256(line.add(LANES / 2).cast())];
        match layout.numbers {
            Dtype::Float16 => (_mm512_cvtph_ps(halves[0]), _mm512_cvtph_ps(halves[1])),
            _ => (bf16_lanes(halves[0]), bf16_lanes(halves[1])),
        }
    }
}

/// 8-bit floats, one in each lane: see `weights::e4m3`.
#[target_feature(enable = "avx512f")]
#[inline]
pub(in super::super) fn e4m3(bytes: __m512i) -> __m512 {
    let sign = _mm512_slli_epi32::<24>(_mm512_and_si512(bytes, _mm512_set1_epi32(0x80)));
    let magnitude = _mm512_slli_epi32::<20>(_mm512_and_si512(bytes, _mm512_set1_epi32(0x7F)));
    let scaled = _mm512_mul_ps(_mm512_castsi512_ps(magnitude), _mm512_set1_ps(f32::from_bits((120 + 127) << 23)));
    _mm512_castsi512_ps(_mm512_or_si512(_mm512_castps_si512(scaled), sign))
}

/// The sums with one more group: its integer sum times step and scale, and the sum of its activations times the bias.
#[target_feature(enable = "avx512f")]
#[inline]
pub(super) fn with_group(
    total: __m512,
    dots: __m512,
    (scale, bias): (__m512, __m512),
    (step, sum): (f32, f32),
) -> __m512 {
    let scaled = _mm512_mul_ps(dots, _mm512_set1_ps(step));
    _mm512_fmadd_ps(bias, _mm512_set1_ps(sum), _mm512_fmadd_ps(scaled, scale, total))
}

/// What [`with_group`] adds, rounded by itself: sums of biases and of products that nearly cancel each other do not meet the larger
/// total one by one.
#[target_feature(enable = "avx512f")]
#[inline]
fn group_of(dots: __m512, (scale, bias): (__m512, __m512), (step, sum): (f32, f32)) -> __m512 {
    let scaled = _mm512_mul_ps(dots, _mm512_set1_ps(step));
    _mm512_fmadd_ps(scaled, scale, _mm512_mul_ps(bias, _mm512_set1_ps(sum)))
}
