//! Functions of one value that the compiler turns into vector code, and sums in lanes.

use super::LANES;
use crate::kernels::exp::{TANH, TANH_SMALL};

/// The logarithm of 2 in two parts, the first of few bits.
const LN2_HIGH: f32 = 0.693_359_4;
const LN2_LOW: f32 = -2.121_944_4e-4;

/// `e^x` within two units of the last place; 0 below -87.3, and the largest finite power above 88.3.
#[inline(always)]
pub(in crate::kernels) fn exp(x: f32) -> f32 {
    /// Adding and subtracting it rounds to a whole number, which then stands in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    let clamped = if x > 88.3 { 88.3 } else { x };
    let clamped = if clamped < -87.3 { -87.3 } else { clamped };
    let shifted = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = clamped - n * LN2_HIGH - n * LN2_LOW;
    // The polynomial of Cephes' expf.
    let mut p = 1.987_569_1e-4;
    p = p * r + 1.398_199_9e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 0.166_666_65;
    p = p * r + 0.5;
    let e = p * r * r + r + 1.0;
    let power = f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
    if x < -87.3 { 0.0 } else { e * power }
}

/// `1 / (1 + e^-x)`; 0 below -88, where it is no normal number.
#[inline(always)]
pub(in crate::kernels) fn sigmoid(x: f32) -> f32 {
    let y = 1.0 / (1.0 + exp(-x));
    if x < -88.0 { 0.0 } else { y }
}

/// The hyperbolic tangent, within some units of the last place.
#[inline(always)]
pub(in crate::kernels) fn tanh(x: f32) -> f32 {
    let z = x * x;
    let mut p = 0.0;
    for c in TANH {
        p = p * z + c;
    }
    let small = x + x * z * p;
    let large = 1.0 - 2.0 / (exp(2.0 * x.abs()) + 1.0);
    if x.abs() < TANH_SMALL { small } else { large.copysign(x) }
}

/// `ln(1 + e^x)`.
#[inline(always)]
pub(in crate::kernels) fn softplus(x: f32) -> f32 {
    // ln(1 + t) = 2 artanh(t / (2 + t)), whose argument is at most a third.
    let t = exp(-x.abs());
    let s = t / (2.0 + t);
    let z = s * s;
    let mut p = 1.0 / 15.0;
    for divisor in [13.0, 11.0, 9.0, 7.0, 5.0, 3.0, 1.0] {
        p = p * z + 1.0 / divisor;
    }
    let above = if x < 0.0 { 0.0 } else { x };
    above + 2.0 * s * p
}

/// The share of the standard normal distribution below `x`, within 5e-7 of itself for `x` above -5.
///
/// By Chebyshev's approximation of the complementary error function in `Numerical Recipes` (Press and others, section 6.2).
#[inline(always)]
pub(in crate::kernels) fn normal_share(x: f32) -> f32 {
    /// The coefficients, the highest power first.
    const POLYNOMIAL: [f32; 10] = [
        0.170_872_77,
        -0.822_152_23,
        1.488_515_9,
        -1.135_204,
        0.278_868_07,
        -0.186_288_06,
        0.096_784_18,
        0.374_091_96,
        1.000_023_7,
        -1.265_512_2,
    ];
    let z = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let t = 1.0 / (1.0 + 0.5 * z);
    let mut p = 0.0;
    for c in POLYNOMIAL {
        p = p * t + c;
    }
    // The square of z goes in exactly, by way of half of x².
    let tail = 0.5 * t * exp(p - 0.5 * x * x);
    if x > 0.0 { 1.0 - tail } else { tail }
}

/// Folds `map(i, values[i])` into lanes, and the lanes into one value.
#[inline(always)]
fn fold(values: &[f32], start: f32, map: impl Fn(usize, f32) -> f32, join: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [start; LANES];
    let chunks = values.chunks_exact(LANES);
    let (whole, rest) = (values.len() - chunks.remainder().len(), chunks.remainder());
    for (c, chunk) in chunks.enumerate() {
        for l in 0..LANES {
            lanes[l] = join(lanes[l], map(c * LANES + l, chunk[l]));
        }
    }
    for (i, &value) in rest.iter().enumerate() {
        lanes[i] = join(lanes[i], map(whole + i, value));
    }
    join_lanes(lanes, join)
}

/// Joins lanes to one value, halves first.
#[inline(always)]
fn join_lanes(mut lanes: [f32; LANES], join: impl Fn(f32, f32) -> f32) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for l in 0..width {
            lanes[l] = join(lanes[l], lanes[l + width]);
        }
        width /= 2;
    }
    lanes[0]
}

/// The sum of all lanes.
#[inline(always)]
pub(in crate::kernels) fn fold_lanes(lanes: [f32; LANES]) -> f32 {
    join_lanes(lanes, |a, b| a + b)
}

/// The largest value; minus infinity of none.
#[inline(always)]
pub(in crate::kernels) fn max(values: &[f32]) -> f32 {
    fold(values, f32::NEG_INFINITY, |_, value| value, |a, b| if b > a { b } else { a })
}

/// The sum.
#[inline(always)]
pub(in crate::kernels) fn sum(values: &[f32]) -> f32 {
    fold(values, 0.0, |_, value| value, |a, b| a + b)
}

/// The sum of the squares of the distances from `center`.
#[inline(always)]
pub(in crate::kernels) fn spread(values: &[f32], center: f32) -> f32 {
    fold(values, 0.0, |_, value| (value - center) * (value - center), |a, b| a + b)
}

/// The sum of the products; `b` is at least as long as `a`.
#[inline(always)]
pub(in crate::kernels) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let b = &b[..a.len()];
    fold(a, 0.0, |i, value| value * b[i], |a, b| a + b)
}

#[cfg(test)]
#[allow(clippy::float_cmp, reason = "small whole numbers, which are added exactly")]
mod tests {
    use super::*;

    #[test]
    fn exp_is_exact_to_the_last_places() {
        for i in -9000..=9000_i16 {
            let x = f32::from(i) / 100.0;
            let (got, want) = (f64::from(exp(x)), f64::from(x.clamp(-100.0, 88.3)).exp());
            let bound = if x < -87.3 { 1.5e-38 } else { want * 3e-7 };
            assert!((got - want).abs() <= bound, "{x}: {got}, expected {want}");
        }
        assert_eq!((exp(0.0), exp(f32::NEG_INFINITY)), (1.0, 0.0));
        assert!(exp(f32::INFINITY).is_finite());
    }

    #[test]
    fn tangents_and_softplus_are_exact_to_the_last_places() {
        for i in -9000..=9000_i16 {
            let x = f32::from(i) / 100.0;
            for (got, want) in [(tanh(x), f64::from(x).tanh()), (softplus(x), f64::from(x).exp().ln_1p())] {
                // Below the least normal number is zero.
                let bound = want.abs() * 5e-7 + 1.5e-38;
                assert!((f64::from(got) - want).abs() <= bound, "{x}: {got}, expected {want}");
            }
        }
        assert_eq!((tanh(f32::INFINITY), tanh(f32::NEG_INFINITY)), (1.0, -1.0));
        assert_eq!((softplus(f32::INFINITY), softplus(f32::NEG_INFINITY)), (f32::INFINITY, 0.0));
        assert!(tanh(f32::NAN).is_nan() && softplus(f32::NAN).is_nan());
    }

    #[test]
    fn shares_of_the_normal_distribution_are_right() {
        // Φ of these, to 10 places.
        let known = [
            (-5.0, 2.866_515_718_8e-7),
            (-3.0, 1.349_898_031_6e-3),
            (-1.5, 6.680_720_126_9e-2),
            (-0.5, 0.308_537_538_7),
            (0.0, 0.5),
            (0.5, 0.691_462_461_3),
            (2.0, 0.977_249_868_1),
            (6.0, 1.0),
        ];
        for (x, want) in known {
            let got = f64::from(normal_share(x));
            assert!((got - want).abs() <= 1e-6 * want, "{x}: {got}, expected {want}");
        }
        assert_eq!((normal_share(f32::INFINITY), normal_share(f32::NEG_INFINITY)), (1.0, 0.0));
        assert!(normal_share(f32::NAN).is_nan());
    }

    #[test]
    fn reductions_take_every_length() {
        for len in 0..70_u8 {
            let values: Vec<f32> = (0..len).map(|i| f32::from(i * 3 % 64) - 20.0).collect();
            assert_eq!(sum(&values), values.iter().sum::<f32>(), "{len}");
            assert_eq!(max(&values), values.iter().copied().fold(f32::NEG_INFINITY, f32::max), "{len}");
            assert_eq!(dot(&values, &values), values.iter().map(|v| v * v).sum::<f32>(), "{len}");
        }
    }
}
