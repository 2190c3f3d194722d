//! Exponentials and hyperbolic tangents in vectors, and the rows of an online softmax.

use std::arch::x86_64::*;
use std::f32::consts::{LN_2, LOG2_E};

use half::bf16;

use super::isa::Isa;

const LN2_HIGH: f32 = 0.693_359_4;
const LN2_LOW: f32 = -2.121_944_4e-4;
/// Below this, `e^x` is taken for zero; above [`HIGHEST`], for infinity.
const LOWEST: f32 = -87.336_54;
const HIGHEST: f32 = 88.722_83;
/// Coefficients of `e^r` for `|r| <= ln 2 / 2`, highest power first: Taylor's, adjusted to the interval (as in Cephes' `expf`).
const POLYNOMIAL: [f32; 6] = [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_65, 0.5];

/// `e^x` within two units of the last place; not a number stays so.
pub(crate) fn exp(x: f32) -> f32 {
    if x > HIGHEST {
        return f32::INFINITY;
    }
    if x < LOWEST {
        return 0.0;
    }
    let n = (x * LOG2_E).round_ties_even();
    let r = x - n * LN2_HIGH - n * LN2_LOW;
    let p = POLYNOMIAL.iter().fold(0.0, |p, c| p * r + c);
    let e = p * r * r + r + 1.0;
    // Two factors, because 2^128 is no f32.
    let half = (n as i32) >> 1;
    let power = |n: i32| f32::from_bits(((n + 127) as u32) << 23);
    e * power(half) * power(n as i32 - half)
}

/// [`exp`] of 16 values.
#[target_feature(enable = "avx512f,avx512dq")]
pub(crate) fn exp_lanes(x: __m512) -> __m512 {
    let set = |v: f32| _mm512_set1_ps(v);
    // The second operand comes through when one is not a number.
    let clamped = _mm512_max_ps(set(-100.0), _mm512_min_ps(set(100.0), x));
    let n =
        _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(_mm512_mul_ps(clamped, set(LOG2_E)));
    let r = _mm512_fnmadd_ps(n, set(LN2_LOW), _mm512_fnmadd_ps(n, set(LN2_HIGH), clamped));
    let mut p = set(POLYNOMIAL[0]);
    for c in &POLYNOMIAL[1..] {
        p = _mm512_fmadd_ps(p, r, set(*c));
    }
    let e = _mm512_add_ps(_mm512_fmadd_ps(_mm512_mul_ps(p, r), r, r), set(1.0));
    let scaled = _mm512_scalef_ps(e, n);
    let zero = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(x, set(LOWEST));
    let infinite = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(x, set(HIGHEST));
    let scaled = _mm512_mask_mov_ps(scaled, infinite, set(f32::INFINITY));
    _mm512_mask_mov_ps(scaled, zero, _mm512_setzero_ps())
}

/// Coefficients of `(tanh x - x) / x^3` in `x^2` for `|x| < 0.625`, highest power first (as in Cephes' `tanhf`).
pub(super) const TANH: [f32; 5] = [-5.704_988_7e-3, 2.063_909e-2, -5.373_971_6e-2, 0.133_314_42, -0.333_332_8];
pub(super) const TANH_SMALL: f32 = 0.625;

/// `tanh x` within some units of the last place.
fn tanh(x: f32) -> f32 {
    if x.abs() < TANH_SMALL {
        let z = x * x;
        return TANH.iter().fold(0.0, |p, c| p * z + c) * z * x + x;
    }
    (1.0 - 2.0 / (exp(2.0 * x.abs()) + 1.0)).copysign(x)
}

/// [`tanh`] of 16 values.
#[target_feature(enable = "avx512f,avx512dq")]
fn tanh_lanes(x: __m512) -> __m512 {
    let one = _mm512_set1_ps(1.0);
    let size = _mm512_abs_ps(x);
    let z = _mm512_mul_ps(x, x);
    let mut p = _mm512_set1_ps(TANH[0]);
    for c in &TANH[1..] {
        p = _mm512_fmadd_ps(p, z, _mm512_set1_ps(*c));
    }
    let small = _mm512_fmadd_ps(_mm512_mul_ps(p, z), x, x);
    let e = exp_lanes(_mm512_add_ps(size, size));
    let large = _mm512_sub_ps(one, _mm512_div_ps(_mm512_set1_ps(2.0), _mm512_add_ps(e, one)));
    let sign = _mm512_and_ps(x, _mm512_set1_ps(-0.0));
    let is_small = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(size, _mm512_set1_ps(TANH_SMALL));
    _mm512_mask_mov_ps(_mm512_or_ps(large, sign), is_small, small)
}

/// Each of a multiple of 16 scores becomes `cap · tanh(score / cap)`.
pub(crate) fn soft_cap(isa: Isa, cap: f32, scores: &mut [f32]) {
    assert!(scores.len().is_multiple_of(16) && isa <= Isa::best());
    if isa < Isa::Avx512 {
        for score in scores {
            *score = cap * tanh(*score / cap);
        }
        return;
    }
    // SAFETY: the level was checked.
    unsafe { soft_cap_lanes(cap, scores) };
}

#[target_feature(enable = "avx512f,avx512dq")]
fn soft_cap_lanes(cap: f32, scores: &mut [f32]) {
    let cap = _mm512_set1_ps(cap);
    for scores in scores.chunks_exact_mut(16) {
        // SAFETY: 16 values are read and written of 16.
        unsafe {
            let x = _mm512_div_ps(_mm512_loadu_ps(scores.as_ptr()), cap);
            _mm512_storeu_ps(scores.as_mut_ptr(), _mm512_mul_ps(cap, tanh_lanes(x)));
        }
    }
}

/// Coefficients of `2^r` for `|r| <= 1/2`, highest power first: Taylor's, adjusted to the interval.
const POWERS: [f32; 6] = [1.339_086_3e-3, 9.676_032e-3, 5.550_357e-2, 0.240_221_07, LN_2, 1.0];

/// `2^x` of 16 values of at most about zero, within some units of the last place.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
fn exp2_lanes(x: __m512) -> __m512 {
    let n = _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(x);
    let r = _mm512_sub_ps(x, n);
    let mut p = _mm512_set1_ps(POWERS[0]);
    for c in &POWERS[1..] {
        p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(*c));
    }
    _mm512_scalef_ps(p, n)
}

/// The state of one row of an online softmax (Milakov and Gimelshein, arXiv:1805.02867).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Online {
    /// The largest score so far.
    pub(crate) max: f32,
    /// The sum of `e^(score - max)`.
    pub(crate) sum: f32,
}

impl Online {
    pub(crate) const EMPTY: Self = Self { max: f32::NEG_INFINITY, sum: 0.0 };

    /// What sums under the old maximum are multiplied with.
    fn factor(self, max: f32) -> f32 {
        // It mostly stays what it was.
        if self.max.to_bits() == max.to_bits() { 1.0 } else { exp(self.max - max) }
    }

    /// Turns a multiple of 16 scores, which are multiplied with `scale` first, into weights relative to the new maximum, and
    /// returns the factor for what was summed up under the old one. Scores of minus infinity weigh nothing.
    pub(crate) fn step(&mut self, isa: Isa, scale: f32, scores: &mut [f32]) -> f32 {
        assert!(scores.len().is_multiple_of(16) && isa <= Isa::best());
        if isa >= Isa::Avx512 {
            // SAFETY: the level was checked.
            return unsafe { self.step_lanes::<false>(scale, scores, &mut []) };
        }
        for score in scores.iter_mut() {
            *score *= scale;
        }
        let max = scores.iter().fold(self.max, |max, &s| if s > max || s.is_nan() { s } else { max });
        if max == f32::NEG_INFINITY {
            scores.fill(0.0);
            return 1.0;
        }
        let factor = self.factor(max);
        let mut lanes = [0.0_f32; 16];
        for scores in scores.chunks_exact_mut(16) {
            for (lane, score) in lanes.iter_mut().zip(scores) {
                *score = exp(*score - max);
                *lane += *score;
            }
        }
        for width in [8, 4, 2, 1] {
            for l in 0..width {
                lanes[l] += lanes[l + width];
            }
        }
        *self = Self { max, sum: self.sum * factor + lanes[0] };
        factor
    }

    /// [`step`](Self::step) with AVX-512 and BF16, with the weights in bf16; the scores keep no value.
    pub(crate) fn step_narrow(&mut self, scale: f32, scores: &mut [f32], weights: &mut [bf16]) -> f32 {
        assert!(scores.len().is_multiple_of(16) && weights.len() == scores.len() && Isa::best() >= Isa::Avx512);
        // SAFETY: the level was checked.
        unsafe { self.step_lanes::<true>(scale, scores, weights) }
    }

    #[target_feature(enable = "avx512f,avx512dq,avx512bf16")]
    fn step_lanes<const NARROW: bool>(&mut self, scale: f32, scores: &mut [f32], narrow: &mut [bf16]) -> f32 {
        let by = _mm512_set1_ps(scale);
        let mut largest = _mm512_set1_ps(f32::NEG_INFINITY);
        let mut unordered = 0;
        for scores in scores.chunks_exact(16) {
            // SAFETY: 16 values are read of 16.
            let scores = unsafe { _mm512_mul_ps(by, _mm512_loadu_ps(scores.as_ptr())) };
            unordered |= _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(scores, scores);
            largest = _mm512_max_ps(largest, scores);
        }
        let max = if unordered != 0 { f32::NAN } else { self.max.max(_mm512_reduce_max_ps(largest)) };
        if max == f32::NEG_INFINITY {
            scores.fill(0.0);
            narrow.fill(bf16::ZERO);
            return 1.0;
        }
        let factor = self.factor(max);
        let (most, log2_e, lowest) = (_mm512_set1_ps(max), _mm512_set1_ps(LOG2_E), _mm512_set1_ps(-150.0));
        let mut sum = _mm512_setzero_ps();
        for (i, scores) in scores.chunks_exact_mut(16).enumerate() {
            // SAFETY: 16 values are read and written of 16.
            unsafe {
                // The lowest number less itself is zero, its multiple would be infinite.
                let below = _mm512_fmsub_ps(_mm512_loadu_ps(scores.as_ptr()), by, most);
                // The second operand comes through when one is not a number.
                let weights = exp2_lanes(_mm512_max_ps(lowest, _mm512_mul_ps(below, log2_e)));
                sum = _mm512_add_ps(sum, weights);
                if NARROW {
                    let weights = std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(weights));
                    _mm256_storeu_si256(narrow[i * 16..][..16].as_mut_ptr().cast(), weights);
                } else {
                    _mm512_storeu_ps(scores.as_mut_ptr(), weights);
                }
            }
        }
        *self = Self { max, sum: self.sum * factor + _mm512_reduce_add_ps(sum) };
        factor
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by_lanes(x: f32) -> f32 {
        let mut out = [0.0; 16];
        // SAFETY: callers checked the level; 16 values are written to 16.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), exp_lanes(_mm512_set1_ps(x))) };
        assert!(out.iter().all(|v| v.to_bits() == out[0].to_bits()));
        out[0]
    }

    #[test]
    fn exponentials_are_right_to_the_last_places() {
        let mut versions: Vec<fn(f32) -> f32> = vec![exp];
        if Isa::best() >= Isa::Avx512 {
            versions.push(by_lanes);
        }
        for version in versions {
            for i in -8733..=8872 {
                let x = i as f32 / 100.0;
                let (got, want) = (f64::from(version(x)), f64::from(x).exp());
                assert!((got - want).abs() <= 2.5e-7 * want, "{x}: {got} is not {want}");
            }
            assert_eq!((version(0.0), version(-0.0)), (1.0, 1.0));
            assert_eq!((version(f32::NEG_INFINITY), version(-200.0)), (0.0, 0.0));
            assert_eq!((version(f32::INFINITY), version(100.0)), (f32::INFINITY, f32::INFINITY));
            assert!(version(f32::NAN).is_nan());
        }
    }

    #[test]
    fn soft_caps_are_right_to_the_last_places() {
        let scores: Vec<f32> =
            (-4000..4000).map(|i| i as f32 / 100.0).chain([f32::INFINITY, f32::NEG_INFINITY]).collect();
        for isa in Isa::available() {
            let mut capped = scores.clone();
            capped.resize(scores.len().next_multiple_of(16), f32::NAN);
            soft_cap(isa, 5.0, &mut capped);
            for (got, score) in capped.iter().zip(&scores) {
                let want = 5.0 * (f64::from(*score) / 5.0).tanh();
                assert!((f64::from(*got) - want).abs() <= 3e-7 * want.abs(), "{isa} {score}: {got} is not {want}");
            }
            assert!(capped[scores.len()..].iter().all(|v| v.is_nan()), "{isa}");
        }
    }

    #[test]
    fn a_softmax_in_steps_is_the_whole_one() {
        let scores: Vec<f32> = (0..64).map(|i| ((i * 37) % 64) as f32 / 5.0 - 6.0).collect();
        let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let want: f64 = scores.iter().map(|s| f64::from(s - largest).exp()).sum();
        for isa in Isa::available() {
            let mut state = Online::EMPTY;
            for part in scores.chunks(16) {
                let mut part = part.to_vec();
                let before = state;
                let factor = state.step(isa, 1.0, &mut part);
                assert!((factor - (before.max - state.max).exp()).abs() < 1e-6);
            }
            assert_eq!(state.max, largest);
            assert!((f64::from(state.sum) / want - 1.0).abs() < 1e-6, "{isa}");
            let unchanged = state.step(isa, 1.0, &mut [f32::NEG_INFINITY; 16]);
            assert_eq!(unchanged, 1.0);
            let mut nothing = Online::EMPTY;
            let mut hidden = [f32::NEG_INFINITY; 32];
            assert_eq!(nothing.step(isa, 1.0, &mut hidden), 1.0);
            assert_eq!((hidden, nothing.sum), ([0.0; 32], 0.0));
            assert!({
                state.step(isa, 1.0, &mut [f32::NAN; 16]);
                state.sum.is_nan()
            });
        }
    }
}
