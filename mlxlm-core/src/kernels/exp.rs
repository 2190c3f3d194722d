//! Exponentials in vectors, and the rows of an online softmax.

use std::arch::x86_64::*;

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
    let n = (x * std::f32::consts::LOG2_E).round_ties_even();
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
    let n = _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(_mm512_mul_ps(
        clamped,
        set(std::f32::consts::LOG2_E),
    ));
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

    /// Turns a multiple of 16 scores into weights relative to the new maximum, and returns the factor for what was summed up
    /// under the old one. Scores of minus infinity weigh nothing.
    pub(crate) fn step(&mut self, isa: Isa, scores: &mut [f32]) -> f32 {
        assert!(scores.len().is_multiple_of(16) && isa <= Isa::best());
        if isa >= Isa::Avx512 {
            // SAFETY: the level was checked.
            return unsafe { self.step_lanes(scores) };
        }
        let max = scores.iter().fold(self.max, |max, &s| if s > max || s.is_nan() { s } else { max });
        if max == f32::NEG_INFINITY {
            scores.fill(0.0);
            return 1.0;
        }
        let factor = exp(self.max - max);
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

    #[target_feature(enable = "avx512f,avx512dq")]
    fn step_lanes(&mut self, scores: &mut [f32]) -> f32 {
        let mut largest = _mm512_set1_ps(f32::NEG_INFINITY);
        let mut unordered = 0;
        for scores in scores.chunks_exact(16) {
            // SAFETY: 16 values are read of 16.
            let scores = unsafe { _mm512_loadu_ps(scores.as_ptr()) };
            unordered |= _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(scores, scores);
            largest = _mm512_max_ps(largest, scores);
        }
        let max = if unordered != 0 { f32::NAN } else { self.max.max(_mm512_reduce_max_ps(largest)) };
        if max == f32::NEG_INFINITY {
            scores.fill(0.0);
            return 1.0;
        }
        let factor = exp(self.max - max);
        let mut sum = _mm512_setzero_ps();
        for scores in scores.chunks_exact_mut(16) {
            // SAFETY: 16 values are read and written of 16.
            unsafe {
                let weights = exp_lanes(_mm512_sub_ps(_mm512_loadu_ps(scores.as_ptr()), _mm512_set1_ps(max)));
                _mm512_storeu_ps(scores.as_mut_ptr(), weights);
                sum = _mm512_add_ps(sum, weights);
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
    fn a_softmax_in_steps_is_the_whole_one() {
        let scores: Vec<f32> = (0..64).map(|i| ((i * 37) % 64) as f32 / 5.0 - 6.0).collect();
        let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let want: f64 = scores.iter().map(|s| f64::from(s - largest).exp()).sum();
        for isa in Isa::available() {
            let mut state = Online::EMPTY;
            for part in scores.chunks(16) {
                let mut part = part.to_vec();
                let before = state;
                let factor = state.step(isa, &mut part);
                assert!((factor - (before.max - state.max).exp()).abs() < 1e-6);
            }
            assert_eq!(state.max, largest);
            assert!((f64::from(state.sum) / want - 1.0).abs() < 1e-6, "{isa}");
            let unchanged = state.step(isa, &mut [f32::NEG_INFINITY; 16]);
            assert_eq!(unchanged, 1.0);
            let mut nothing = Online::EMPTY;
            let mut hidden = [f32::NEG_INFINITY; 32];
            assert_eq!(nothing.step(isa, &mut hidden), 1.0);
            assert_eq!((hidden, nothing.sum), ([0.0; 32], 0.0));
            assert!({
                state.step(isa, &mut [f32::NAN; 16]);
                state.sum.is_nan()
            });
        }
    }
}
