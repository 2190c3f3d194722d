//! The vectors of [`super::dot`]: orders of activations, codes to numbers, sums.
//!
//! A chunk is 16 words of codes; field `t` of the words meets a vector of 16 activations.

use std::arch::x86_64::*;

use super::weights::{Params, Weights};
use crate::kernels::convert::bf16_lanes;
use crate::kernels::gemm::avx512::transposed;

/// Words that are fetched ahead of their use; the rows of a matrix follow each other.
const AHEAD: usize = 1024;

/// In which order the activations of a row lie: `[chunk][field][row of the tile][lane]`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Order {
    bits: usize,
}

impl Order {
    pub(super) fn new(bits: usize) -> Self {
        Self { bits }
    }

    /// Columns in a chunk.
    pub(super) fn columns(self) -> usize {
        512 / self.bits
    }

    pub(super) fn chunks(self, columns: usize) -> usize {
        columns.div_ceil(self.columns())
    }

    /// Room for a row.
    pub(super) fn row_floats(self, columns: usize) -> usize {
        self.chunks(columns) * self.columns()
    }
}

/// Some chunks of one row of weights, and a tile of activations from the same chunk on.
pub(super) struct Dot<'a> {
    pub(super) words: &'a [u32],
    pub(super) first_chunk: usize,
    /// All scales of the row, and a vector more.
    pub(super) scales: &'a [f32],
    pub(super) group: usize,
    pub(super) x: &'a [f32],
    pub(super) table: &'a [f32; 16],
    pub(super) scale_of_lane: &'a [i32; 16],
}

/// Adds the products to `sums`, 16 lanes for each row of the tile.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) unsafe fn dot(order: Order, dot: &Dot<'_>, sums: &mut [f32]) {
    macro_rules! rows {
        ($bits:literal) => {
            match sums.len() / 16 {
                1 => products::<$bits, 1>(dot, sums),
                2 => products::<$bits, 2>(dot, sums),
                3 => products::<$bits, 3>(dot, sums),
                4 => products::<$bits, 4>(dot, sums),
                5 => products::<$bits, 5>(dot, sums),
                6 => products::<$bits, 6>(dot, sums),
                7 => products::<$bits, 7>(dot, sums),
                8 => products::<$bits, 8>(dot, sums),
                rows => unreachable!("a tile has 8 rows at most, not {rows}"),
            }
        };
    }
    assert!(dot.x.len() >= dot.words.len().div_ceil(16) * order.columns() * sums.len() / 16);
    assert!(dot.scales.len() >= (dot.first_chunk * 16 + dot.words.len()) * 32 / order.bits / dot.group + 16);
    // SAFETY: the slices were measured.
    unsafe {
        match order.bits {
            2 => rows!(2),
            4 => rows!(4),
            8 => rows!(8),
            bits => unreachable!("no fields of {bits} bits"),
        }
    }
}

/// Which of the scales from a chunk's first on belongs to each lane.
pub(super) fn scale_of_lane(bits: usize, group: usize) -> [i32; 16] {
    std::array::from_fn(|lane| (lane * (32 / bits) / group) as i32)
}

/// 16 words of a row; at its end zeros, which meet activations of zero.
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn words(all: &[u32], chunk: usize) -> __m512i {
    let at = all.as_ptr().wrapping_add(16 * chunk);
    _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(AHEAD).cast());
    let left = all.len() - 16 * chunk;
    // SAFETY: whole vectors and masked lanes lie inside the slice.
    unsafe {
        if left >= 16 { _mm512_loadu_epi32(at.cast()) } else { _mm512_maskz_loadu_epi32((1 << left) - 1, at.cast()) }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
#[inline]
unsafe fn products<const BITS: usize, const R: usize>(dot: &Dot<'_>, sums: &mut [f32]) {
    let columns = 512 / BITS;
    let group_shift = dot.group.trailing_zeros();
    // SAFETY: `dot` measured the slices: every chunk has its activations, scales and 16 sums for each row.
    unsafe {
        let lane_scales = _mm512_loadu_epi32(dot.scale_of_lane.as_ptr());
        let table = _mm512_loadu_ps(dot.table.as_ptr());
        let mut total = [_mm512_setzero_ps(); R];
        for (r, total) in total.iter_mut().enumerate() {
            *total = _mm512_loadu_ps(sums.as_ptr().add(16 * r));
        }
        let mut x = dot.x.as_ptr();
        for chunk in 0..dot.words.len().div_ceil(16) {
            let mut shifted = words(dot.words, chunk);
            let mut group = [_mm512_setzero_ps(); R];
            for _ in 0..32 / BITS {
                let weights = if BITS == 8 {
                    let codes = _mm512_and_si512(shifted, _mm512_set1_epi32(255));
                    _mm512_cvtepi32_ps(_mm512_sub_epi32(codes, _mm512_set1_epi32(128)))
                } else {
                    _mm512_permutexvar_ps(shifted, table)
                };
                for (r, group) in group.iter_mut().enumerate() {
                    *group = _mm512_fmadd_ps(weights, _mm512_loadu_ps(x.add(16 * r)), *group);
                }
                x = x.add(16 * R);
                shifted = match BITS {
                    2 => _mm512_srli_epi32::<2>(shifted),
                    4 => _mm512_srli_epi32::<4>(shifted),
                    _ => _mm512_srli_epi32::<8>(shifted),
                };
            }
            let first = ((dot.first_chunk + chunk) * columns) >> group_shift;
            let scales = _mm512_permutexvar_ps(lane_scales, _mm512_loadu_ps(dot.scales.as_ptr().add(first)));
            for (total, group) in total.iter_mut().zip(&group) {
                *total = _mm512_fmadd_ps(scales, *group, *total);
            }
        }
        for (r, total) in total.iter().enumerate() {
            _mm512_storeu_ps(sums.as_mut_ptr().add(16 * r), *total);
        }
    }
}

/// Puts a row into its place in a tile of `height` rows.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) unsafe fn arrange(x: &[f32], order: Order, tile: *mut f32, height: usize, place: usize) {
    let fields = 32 / order.bits;
    let steps: [i32; 16] = std::array::from_fn(|lane| (lane * fields) as i32);
    // SAFETY: lanes beyond the row's end are masked; the tile has room for all its rows.
    unsafe {
        let steps = _mm512_loadu_epi32(steps.as_ptr());
        let gather = |from: usize| {
            let left = x.len().saturating_sub(from).div_ceil(fields);
            let mask = if left < 16 { (1 << left) - 1 } else { u16::MAX };
            _mm512_mask_i32gather_ps::<4>(_mm512_setzero_ps(), mask, steps, x.as_ptr().wrapping_add(from).cast())
        };
        for chunk in 0..order.chunks(x.len()) {
            for field in 0..fields {
                let from = chunk * order.columns() + field;
                let to = tile.add(((chunk * fields + field) * height + place) * 16);
                _mm512_storeu_ps(to, gather(from));
            }
        }
    }
}

/// The sum of each group; what is left of `sums` is zero.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn group_sums(x: &[f32], group: usize, sums: &mut [f32]) {
    sums.fill(0.0);
    for (group, sum) in x.chunks_exact(group).zip(sums) {
        let mut total = _mm512_setzero_ps();
        for lanes in group.chunks_exact(16) {
            // SAFETY: 16 values are read of 16.
            total = _mm512_add_ps(total, unsafe { _mm512_loadu_ps(lanes.as_ptr()) });
        }
        *sum = _mm512_reduce_add_ps(total);
    }
}

/// The scales of a row, and its biases moved by `centre` scales; zeros where there are no more groups.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) unsafe fn params(w: &Weights<'_>, row: usize, centre: f32, scales: &mut [f32], biases: &mut [f32]) {
    let groups = w.groups();
    for (at, (scales, biases)) in scales.chunks_exact_mut(16).zip(biases.chunks_exact_mut(16)).enumerate() {
        let left = groups.saturating_sub(16 * at).min(16);
        let first = row * groups + 16 * at;
        // SAFETY: these are groups of this row.
        unsafe {
            let scale = load_params(&w.scales, first, left);
            let bias = w.biases.map_or(_mm512_setzero_ps(), |biases| load_params(&biases, first, left));
            _mm512_storeu_ps(scales.as_mut_ptr(), scale);
            _mm512_storeu_ps(biases.as_mut_ptr(), _mm512_fmadd_ps(_mm512_set1_ps(centre), scale, bias));
        }
    }
}

/// `left` numbers from `at` on, then zeros.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) unsafe fn load_params(params: &Params<'_>, at: usize, left: usize) -> __m512 {
    if left == 0 {
        return _mm512_setzero_ps();
    }
    let mask = (((1_u32 << left) - 1) & 0xFFFF) as u16;
    // Masked loads are slow on some machines, so they are left for the end of the array.
    let whole = at + 16 <= params.len();
    // SAFETY: whole vectors lie inside the array, and the caller vouches for the lanes in `mask`.
    let values = unsafe {
        match params {
            Params::F32(v) if whole => _mm512_loadu_ps(v.as_ptr().add(at)),
            Params::F32(v) => _mm512_maskz_loadu_ps(mask, v.as_ptr().add(at)),
            Params::F16(v) => _mm512_cvtph_ps(load_halves(v.as_ptr().add(at).cast(), mask, whole)),
            Params::Bf16(v) => bf16_lanes(load_halves(v.as_ptr().add(at).cast(), mask, whole)),
            Params::E8m0(v) => {
                let bytes = load_bytes(v.as_ptr().add(at), mask, whole);
                let smallest = _mm512_cmpeq_epi32_mask(bytes, _mm512_setzero_si512());
                let powers = _mm512_slli_epi32::<23>(bytes);
                _mm512_castsi512_ps(_mm512_mask_mov_epi32(powers, smallest, _mm512_set1_epi32(1 << 22)))
            }
            Params::E4m3(v) => {
                let bytes = load_bytes(v.as_ptr().add(at), mask, whole);
                let sign = _mm512_slli_epi32::<24>(_mm512_and_si512(bytes, _mm512_set1_epi32(0x80)));
                let magnitude = _mm512_slli_epi32::<20>(_mm512_and_si512(bytes, _mm512_set1_epi32(0x7F)));
                let scaled = _mm512_mul_ps(_mm512_castsi512_ps(magnitude), _mm512_set1_ps(f32::from_bits(247 << 23)));
                _mm512_castsi512_ps(_mm512_or_si512(_mm512_castps_si512(scaled), sign))
            }
        }
    };
    _mm512_maskz_mov_ps(mask, values)
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn load_halves(at: *const i16, mask: u16, whole: bool) -> __m256i {
    // SAFETY: passed on from the caller.
    unsafe { if whole { _mm256_loadu_si256(at.cast()) } else { _mm256_maskz_loadu_epi16(mask, at) } }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn load_bytes(at: *const u8, mask: u16, whole: bool) -> __m512i {
    // SAFETY: passed on from the caller.
    let bytes = unsafe { if whole { _mm_loadu_si128(at.cast()) } else { _mm_maskz_loadu_epi8(mask, at.cast()) } };
    _mm512_cvtepu8_epi32(bytes)
}

/// What [`finish`] works on: the sums of a block of at most 16 rows of weights.
pub(super) struct Block<'a> {
    /// `[rows of weights][rows of x][16]`.
    pub(super) sums: &'a [f32],
    pub(super) m: usize,
    /// `[rows of weights][scales and biases]`, of which the second half are biases.
    pub(super) params: &'a [f32],
    /// Numbers of a row of weights in `params`.
    pub(super) stride: usize,
}

/// The results of one row of `x` and up to 16 rows of weights: the lanes' sums and the biases times the groups' sums.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn finish(block: &Block<'_>, row: usize, group_sums: &[f32], out: &mut [f32]) {
    let mut totals = [_mm512_setzero_ps(); 16];
    for (i, total) in totals.iter_mut().enumerate().take(out.len()) {
        let sums = &block.sums[(i * block.m + row) * 16..][..16];
        let biases = &block.params[i * block.stride + block.stride / 2..][..group_sums.len()];
        // SAFETY: 16 values are read of 16.
        unsafe {
            *total = _mm512_loadu_ps(sums.as_ptr());
            for (biases, group_sums) in biases.chunks_exact(16).zip(group_sums.chunks_exact(16)) {
                *total =
                    _mm512_fmadd_ps(_mm512_loadu_ps(biases.as_ptr()), _mm512_loadu_ps(group_sums.as_ptr()), *total);
            }
        }
    }
    let mut lanes = transposed(&totals);
    for width in [8, 4, 2, 1] {
        for i in 0..width {
            lanes[i] = _mm512_add_ps(lanes[i], lanes[i + width]);
        }
    }
    // SAFETY: as many values are written as there are, at most 16.
    unsafe {
        match out.len() {
            16 => _mm512_storeu_ps(out.as_mut_ptr(), lanes[0]),
            some => _mm512_mask_storeu_ps(out.as_mut_ptr(), (1 << some) - 1, lanes[0]),
        }
    }
}
