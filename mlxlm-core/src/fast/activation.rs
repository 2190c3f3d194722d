//! Activations: functions of one value, and those that stand between the halves of a gated MLP (arXiv:2002.05202).

use mlx_rs::error::Exception;
use mlx_rs::{Array, Dtype};

use super::{by_kernel, plain};

/// A function of each value, or of a gate and what it is multiplied with.
///
/// The last four are of pairs only: [`gated`] takes them, [`activate`] does not.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Activation {
    /// `x · sigmoid(x)` (arXiv:1702.03118).
    Silu,
    /// `x · Φ(x)`, with the share of the normal distribution below `x` (arXiv:1606.08415).
    Gelu,
    /// The approximation `0.5 x (1 + tanh(√(2/π) (x + 0.044715 x³)))` of the same paper.
    GeluApprox,
    /// The approximation `x · sigmoid(1.702 x)` of the same paper, also called `gelu_fast`.
    QuickGelu,
    /// `max(x, 0)`.
    Relu,
    /// `max(x, 0)²` (arXiv:2109.08668).
    Relu2,
    /// `1 / (1 + e^-x)`.
    Sigmoid,
    /// The hyperbolic tangent.
    Tanh,
    /// `ln(1 + e^x)`.
    Softplus,
    /// `x`.
    Identity,
    /// `g · sigmoid(alpha g) · (u + 1)` with `g = min(gate, limit)` and `u` cut to `±limit` (`gpt_oss`, `minimax_m3_vl`).
    SwigluOai {
        /// The slope of the sigmoid, 1.702.
        alpha: f32,
        /// Where gate and linear part are cut off, 7.
        limit: f32,
    },
    /// `min(silu(gate), limit) · u`, with `u` cut to `±limit` (`step3p5`).
    SwigluClamped {
        /// Where the activation and the linear part are cut off.
        limit: f32,
    },
    /// `silu(min(gate, limit)) · u`, with `u` cut to `±limit` (`deepseek_v41`).
    SwigluLimited {
        /// Where gate and linear part are cut off, 10.
        limit: f32,
    },
    /// `beta · tanh(gate / beta) · sigmoid(gate) · u`, with `linear_beta · tanh(up / linear_beta)` for `u` (`kimi_k3`).
    Situ {
        /// The largest value of the gate.
        beta: f32,
        /// The largest value of the linear part, which stays as it is without one.
        linear_beta: Option<f32>,
    },
}

impl Activation {
    /// Whether it is defined for a gate and a linear part only.
    pub fn is_pair(self) -> bool {
        matches!(
            self,
            Self::SwigluOai { .. } | Self::SwigluClamped { .. } | Self::SwigluLimited { .. } | Self::Situ { .. }
        )
    }
}

/// `activation(x)`.
///
/// # Shapes
/// - the shape and the type of `x` come back
///
/// # Errors
/// Of an activation of pairs.
#[track_caller]
pub fn activate(activation: Activation, x: &Array) -> Result<Array, Exception> {
    if activation.is_pair() {
        return Err(Exception::custom(format!(
            "{activation:?} is a function of a gate and a linear part: use `gated`"
        )));
    }
    by_kernel!(crate::kernels::float::activated(activation, x));
    plain::activate(activation, x)
}

/// `activation(gate) * up`, or an activation of pairs.
///
/// # Shapes
/// - `gate`, `up`: the same, and the same comes back; in f32 if their types differ
#[track_caller]
pub fn gated(activation: Activation, gate: &Array, up: &Array) -> Result<Array, Exception> {
    by_kernel!(crate::kernels::float::gated(activation, gate, up));
    plain::gated(activation, gate, up)
}

/// `silu(gate) * up`.
///
/// # Shapes
/// - `gate`, `up`: the same, and the same comes back
#[track_caller]
pub fn swiglu(gate: &Array, up: &Array) -> Result<Array, Exception> {
    gated(Activation::Silu, gate, up)
}

/// [`swiglu`] computed in f32, whatever the types, and rounded once to `dtype` (`precise_swiglu` of
/// `mlx_lm/models/activations.py`). Where there is a kernel all activations are computed so.
///
/// # Shapes
/// - `gate`, `up`: the same, and the same comes back
#[track_caller]
pub fn precise_swiglu(gate: &Array, up: &Array, dtype: Dtype) -> Result<Array, Exception> {
    if gate.dtype() == dtype && up.dtype() == dtype {
        by_kernel!(crate::kernels::float::gated(Activation::Silu, gate, up));
    }
    let [gate, up] = [gate, up].map(|x| x.as_dtype(Dtype::Float32));
    swiglu(&gate?, &up?)?.as_dtype(dtype)
}

#[cfg(test)]
mod tests {
    use mlx_rs::ops;
    use proptest::prelude::*;

    use super::super::testing::{
        ACTIVATIONS, FLOATS, check, check_narrow, close, copied, layouts, normal, same_bits, same_outcome,
    };
    use super::*;

    /// Without those whose slope has a jump, which a step would meet.
    fn smooth() -> impl Iterator<Item = Activation> {
        let cut = |activation: &Activation| {
            matches!(
                activation,
                Activation::SwigluOai { .. } | Activation::SwigluClamped { .. } | Activation::SwigluLimited { .. }
            )
        };
        ACTIVATIONS.into_iter().filter(move |activation| !cut(activation) && *activation != Activation::Relu)
    }

    fn single() -> impl Iterator<Item = Activation> {
        ACTIVATIONS.into_iter().filter(|activation| !activation.is_pair())
    }

    #[test]
    fn they_are_the_plain_ones() {
        let inputs = [normal(&[3, 37], 1), normal(&[3, 37], 2)];
        for activation in smooth() {
            check(&inputs, |x| gated(activation, &x[0], &x[1]), |x| plain::gated(activation, &x[0], &x[1]));
            if !activation.is_pair() {
                check(&inputs[..1], |x| activate(activation, &x[0]), |x| plain::activate(activation, &x[0]));
            }
        }
    }

    #[test]
    fn those_with_limits_are_the_plain_ones_on_both_sides_of_them() {
        use super::super::testing::gradients;

        let inputs = [normal(&[3, 500], 1), normal(&[3, 500], 2)];
        for activation in ACTIVATIONS {
            close(
                &gated(activation, &inputs[0], &inputs[1]).unwrap(),
                &plain::gated(activation, &inputs[0], &inputs[1]).unwrap(),
                "value",
            );
            let of = |x: &[Array]| gated(activation, &x[0], &x[1])?.square()?.sum(None);
            let of_plain = |x: &[Array]| plain::gated(activation, &x[0], &x[1])?.square()?.sum(None);
            for (got, want) in gradients(of, &inputs).iter().zip(&gradients(of_plain, &inputs)) {
                close(got, want, &format!("{activation:?}"));
            }
        }
    }

    #[test]
    fn a_function_of_pairs_is_refused_for_one_value() {
        for activation in ACTIVATIONS.into_iter().filter(|activation| activation.is_pair()) {
            let error = activate(activation, &normal(&[2], 1)).unwrap_err().to_string();
            assert!(error.contains("gate"), "{error}");
        }
    }

    #[test]
    fn types_that_differ_are_computed_in_f32() {
        for (a, b) in [(Dtype::Bfloat16, Dtype::Float32), (Dtype::Float16, Dtype::Bfloat16)] {
            let inputs = [normal(&[3, 37], 1).as_dtype(a).unwrap(), normal(&[3, 37], 2).as_dtype(b).unwrap()];
            let wide = inputs.each_ref().map(|x| x.as_dtype(Dtype::Float32).unwrap());
            for activation in ACTIVATIONS {
                let want = plain::gated(activation, &wide[0], &wide[1]).unwrap();
                close(&gated(activation, &inputs[0], &inputs[1]).unwrap(), &want, "value");
                assert_eq!(plain::gated(activation, &inputs[0], &inputs[1]).unwrap().dtype(), Dtype::Float32);
            }
            let want = plain::gated(Activation::Silu, &wide[0], &wide[1]).unwrap().as_dtype(a).unwrap();
            let got = precise_swiglu(&inputs[0], &inputs[1], a).unwrap();
            assert!(got.all_close(&want, 0.01, 1e-3, None).unwrap());
            assert_eq!(got.dtype(), a);
        }
    }

    #[test]
    fn infinities_give_what_the_plain_ones_give() {
        let (inf, nan) = (f32::INFINITY, f32::NAN);
        let (gate, up) =
            (Array::from_slice(&[inf, -inf, nan, 0.0, -200.0], &[5]), Array::from_slice(&[2_f32; 5], &[5]));
        for activation in ACTIVATIONS {
            let (got, want) = (gated(activation, &gate, &up).unwrap(), plain::gated(activation, &gate, &up).unwrap());
            for (got, want) in got.try_as_slice::<f32>().unwrap().iter().zip(want.try_as_slice::<f32>().unwrap()) {
                let same = got.is_nan() && want.is_nan() || got.total_cmp(want).is_eq() || (got - want).abs() < 1e-6;
                assert!(same, "{activation:?}: {got} is not {want}");
            }
        }
    }

    #[test]
    fn narrow_types_are_rounded_once() {
        for activation in smooth() {
            check_narrow(&[&[3, 2000], &[3, 2000]], |x| gated(activation, &x[0], &x[1]));
        }
        for activation in single() {
            check_narrow(&[&[3, 2000]], |x| activate(activation, &x[0]));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn any_layout_gives_the_bits_of_a_contiguous_one(
            [of_gate, of_up] in [layouts(3), layouts(3)], shape in [1..5_i32, 1..20_i32, 1..70_i32],
            dtype in prop::sample::select(&FLOATS[..]), activation in prop::sample::select(&ACTIVATIONS[..]),
        ) {
            let (gate, up) = (of_gate.normal(&shape, 1, dtype), of_up.normal(&shape, 2, dtype));
            let want = gated(activation, &copied(&gate), &copied(&up)).unwrap();
            prop_assert!(same_bits(&gated(activation, &gate, &up).unwrap(), &want));
            if !activation.is_pair() {
                let want = activate(activation, &copied(&gate)).unwrap();
                prop_assert!(same_bits(&activate(activation, &gate).unwrap(), &want));
            }
        }
    }

    #[test]
    fn nothing_gives_what_mlx_gives() {
        let x = ops::zeros::<f32>(&[2, 0, 8]).unwrap();
        for activation in ACTIVATIONS {
            same_outcome(gated(activation, &x, &x), plain::gated(activation, &x, &x));
        }
    }
}
