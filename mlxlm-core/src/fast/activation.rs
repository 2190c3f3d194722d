//! Gated activations.

use mlx_rs::Array;
use mlx_rs::error::Exception;

use super::{by_kernel, plain};

/// `silu(gate) * up` (arXiv:2002.05202).
///
/// # Shapes
/// - `gate`, `up`: the same, and the same comes back
#[track_caller]
pub fn swiglu(gate: &Array, up: &Array) -> Result<Array, Exception> {
    by_kernel!(crate::kernels::float::gated(crate::kernels::float::Activation::Silu, gate, up));
    plain::swiglu(gate, up)
}

/// `gelu(gate) * up`, with the share of the normal distribution below the gate (arXiv:1606.08415, 2002.05202).
///
/// # Shapes
/// - `gate`, `up`: the same, and the same comes back
#[track_caller]
pub fn geglu(gate: &Array, up: &Array) -> Result<Array, Exception> {
    by_kernel!(crate::kernels::float::gated(crate::kernels::float::Activation::Gelu, gate, up));
    plain::geglu(gate, up)
}

/// [`geglu`] with the approximation `0.5 x (1 + tanh(√(2/π) (x + 0.044715 x³)))`.
///
/// # Shapes
/// - `gate`, `up`: the same, and the same comes back
#[track_caller]
pub fn geglu_approx(gate: &Array, up: &Array) -> Result<Array, Exception> {
    by_kernel!(crate::kernels::float::gated(crate::kernels::float::Activation::GeluApprox, gate, up));
    plain::geglu_approx(gate, up)
}

#[cfg(test)]
mod tests {
    use mlx_rs::{Dtype, ops};
    use proptest::prelude::*;

    use super::super::testing::{FLOATS, check, check_narrow, close, copied, layouts, normal, same_bits, same_outcome};
    use super::*;

    type Gated = fn(&Array, &Array) -> Result<Array, Exception>;
    const PAIRS: [(Gated, Gated); 3] =
        [(swiglu, plain::swiglu), (geglu, plain::geglu), (geglu_approx, plain::geglu_approx)];

    #[test]
    fn they_are_the_plain_ones() {
        let inputs = [normal(&[3, 37], 1), normal(&[3, 37], 2)];
        for (fast, plain) in PAIRS {
            check(&inputs, |x| fast(&x[0], &x[1]), |x| plain(&x[0], &x[1]));
        }
    }

    #[test]
    fn types_that_differ_are_computed_in_f32() {
        for (a, b) in [(Dtype::Bfloat16, Dtype::Float32), (Dtype::Float16, Dtype::Bfloat16)] {
            let inputs = [normal(&[3, 37], 1).as_dtype(a).unwrap(), normal(&[3, 37], 2).as_dtype(b).unwrap()];
            let wide = inputs.each_ref().map(|x| x.as_dtype(Dtype::Float32).unwrap());
            for (fast, plain) in PAIRS {
                close(&fast(&inputs[0], &inputs[1]).unwrap(), &plain(&wide[0], &wide[1]).unwrap(), "value");
                assert_eq!(plain(&inputs[0], &inputs[1]).unwrap().dtype(), Dtype::Float32);
            }
        }
    }

    #[test]
    fn infinities_give_what_the_plain_ones_give() {
        let (inf, nan) = (f32::INFINITY, f32::NAN);
        let (gate, up) =
            (Array::from_slice(&[inf, -inf, nan, 0.0, -200.0], &[5]), Array::from_slice(&[2_f32; 5], &[5]));
        for (fast, plain) in PAIRS {
            let (got, want) = (fast(&gate, &up).unwrap(), plain(&gate, &up).unwrap());
            for (got, want) in got.try_as_slice::<f32>().unwrap().iter().zip(want.try_as_slice::<f32>().unwrap()) {
                assert!(got.total_cmp(want).is_eq() || got.is_nan() && want.is_nan() || got.abs() + want.abs() == 0.0);
            }
        }
    }

    #[test]
    fn narrow_types_are_rounded_once() {
        for (fast, _) in PAIRS {
            check_narrow(&[&[3, 2000], &[3, 2000]], |x| fast(&x[0], &x[1]));
        }
    }

    #[test]
    fn types_that_differ_take_the_plain_version() {
        let x = normal(&[2, 8], 1);
        let half = x.as_dtype(Dtype::Float16).unwrap();
        let got = swiglu(&x, &half).unwrap();
        assert!(got.all_close(plain::swiglu(&x, &half).unwrap(), None, None, None).unwrap());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn any_layout_gives_the_bits_of_a_contiguous_one(
            [of_gate, of_up] in [layouts(3), layouts(3)], shape in [1..5_i32, 1..20_i32, 1..70_i32],
            dtype in prop::sample::select(&FLOATS[..]),
        ) {
            let (gate, up) = (of_gate.normal(&shape, 1, dtype), of_up.normal(&shape, 2, dtype));
            for (i, (fast, _)) in PAIRS.iter().enumerate() {
                let want = fast(&copied(&gate), &copied(&up)).unwrap();
                prop_assert!(same_bits(&fast(&gate, &up).unwrap(), &want), "function {}", i);
            }
        }
    }

    #[test]
    fn nothing_gives_what_mlx_gives() {
        let x = ops::zeros::<f32>(&[2, 0, 8]).unwrap();
        for (fast, plain) in PAIRS {
            same_outcome(fast(&x, &x), plain(&x, &x));
        }
    }
}
