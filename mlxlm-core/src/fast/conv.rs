//! Short convolutions over tokens.

use mlx_rs::Array;
use mlx_rs::error::Exception;

use super::{Activation, by_kernel, plain};

/// Each channel convolved with its own filter over the last `width` tokens, then an activation: `activation(Σ weight[c, i] ·
/// x[t - width + 1 + i, c] + bias[c])`; and the last `width - 1` tokens, which the next call begins with.
///
/// Sources: arXiv:2312.00752, `mlx_lm/models/mamba2.py` and `lfm2.py`. Tokens that are padding must be zero.
///
/// # Shapes
/// - `x`: `[B, T, C]`, `weight`: `[C, width, 1]` or `[C, 1, width]`, `bias`: `[C]`, `state`: `[B, width - 1, C]`, zeros without one;
///   results: `[B, T, C]` and `[B, width - 1, C]`, in the type of `x`
///
/// # Errors
/// Of shapes that do not go together, and of an activation of pairs.
#[track_caller]
pub fn short_conv(
    x: &Array,
    weight: &Array,
    bias: Option<&Array>,
    state: Option<&Array>,
    activation: Activation,
) -> Result<(Array, Array), Exception> {
    let (&[batch, _, channels], &[of_weight, a, b]) = (x.shape(), weight.shape()) else {
        return Err(Exception::custom(format!(
            "a short convolution needs tokens [B, T, C] and a weight [C, width, 1], not {:?} and {:?}",
            x.shape(),
            weight.shape()
        )));
    };
    let width = a.max(b);
    let state_fits = state.is_none_or(|state| state.shape() == [batch, width - 1, channels]);
    if of_weight != channels || a.min(b) != 1 || bias.is_some_and(|bias| bias.shape() != [channels]) || !state_fits {
        return Err(Exception::custom(format!(
            "a short convolution of {channels} channels has a weight {:?}, a bias {:?} and a state {:?}",
            weight.shape(),
            bias.map(Array::shape),
            state.map(Array::shape)
        )));
    }
    let weight = weight.reshape(&[channels, width])?;
    by_kernel!(crate::kernels::float::short_conv(x, &weight, bias, state, activation));
    plain::short_conv(x, &weight, bias, state, activation)
}

#[cfg(test)]
mod tests {
    use mlx_rs::ops::indexing::TryIndexOp;
    use mlx_rs::{Dtype, ops};
    use proptest::prelude::*;

    use super::super::testing::{
        FLOATS, check, check_narrow, copied, floats, layouts, normal, same_bits, same_outcome,
    };
    use super::*;

    /// The kernel, or the plain version.
    type Door = fn(&Array, &Array, Option<&Array>, Option<&Array>, Activation) -> Result<(Array, Array), Exception>;

    fn inputs(batch: i32, tokens: i32, channels: i32, width: i32) -> [Array; 4] {
        [
            normal(&[batch, tokens, channels], 1),
            normal(&[channels, width], 2),
            normal(&[channels], 3),
            normal(&[batch, width - 1, channels], 4),
        ]
    }

    /// Both results, one after the other.
    fn all(door: Door, x: &[Array], [biased, has_state]: [bool; 2], then: Activation) -> Result<Array, Exception> {
        let (bias, state) = (biased.then(|| &x[2]), has_state.then(|| &x[x.len() - 1]));
        let (y, kept) = door(&x[0], &x[1], bias, state, then)?;
        ops::concatenate(&[y.flatten(None, None)?, kept.flatten(None, None)?], 0)
    }

    #[test]
    fn it_is_the_plain_one() {
        for (tokens, channels, width) in [(5, 7, 4), (1, 150, 4), (70, 19, 2), (2, 9, 5)] {
            let [x, weight, bias, state] = inputs(2, tokens, channels, width);
            for then in [Activation::Identity, Activation::Silu] {
                for (given, what) in [
                    (vec![x.clone(), weight.clone()], [false, false]),
                    (vec![x.clone(), weight.clone(), bias.clone()], [true, false]),
                    (vec![x.clone(), weight.clone(), state.clone()], [false, true]),
                    (vec![x.clone(), weight.clone(), bias.clone(), state.clone()], [true, true]),
                ] {
                    let of = |door: Door| move |x: &[Array]| all(door, x, what, then);
                    check(&given, of(short_conv_of_matrix), of(plain::short_conv));
                }
            }
        }
    }

    /// With the weight as the kernels have it.
    fn short_conv_of_matrix(
        x: &Array,
        weight: &Array,
        bias: Option<&Array>,
        state: Option<&Array>,
        then: Activation,
    ) -> Result<(Array, Array), Exception> {
        short_conv(x, &weight.expand_dims(-1)?, bias, state, then)
    }

    #[test]
    fn both_layouts_of_a_weight_are_the_same() {
        let [x, weight, bias, state] = inputs(2, 6, 10, 4);
        let [(a, of_a), (b, of_b)] = [-1, 1].map(|axis| {
            short_conv(&x, &weight.expand_dims(axis).unwrap(), Some(&bias), Some(&state), Activation::Silu).unwrap()
        });
        assert!(same_bits(&a, &b) && same_bits(&of_a, &of_b));
    }

    #[test]
    fn a_sequence_may_be_cut_anywhere() {
        let [x, weight, bias, _] = inputs(2, 70, 600, 4);
        let conv = |x: &Array, state: Option<&Array>| {
            short_conv_of_matrix(x, &weight, Some(&bias), state, Activation::Silu).unwrap()
        };
        let (whole, last) = conv(&x, None);
        for at in [1, 2, 33, 69] {
            let (first, state) = conv(&x.try_index((.., ..at)).unwrap(), None);
            let (second, state) = conv(&x.try_index((.., at..)).unwrap(), Some(&state));
            assert!(same_bits(&ops::concatenate(&[first, second], 1).unwrap(), &whole), "{at}");
            assert!(same_bits(&state, &last), "{at}");
        }
    }

    #[test]
    fn narrow_types_are_rounded_once() {
        let shapes: [&[i32]; 4] = [&[2, 5, 30], &[30, 3], &[30], &[2, 2, 30]];
        check_narrow(
            &shapes,
            |x| Ok(short_conv_of_matrix(&x[0], &x[1], Some(&x[2]), Some(&x[3]), Activation::Silu)?.0),
        );
    }

    #[test]
    fn a_filter_of_one_token_keeps_nothing() {
        let (x, weight) = (normal(&[2, 3, 4], 1), normal(&[4, 1, 1], 2));
        let (y, state) = short_conv(&x, &weight, None, None, Activation::Identity).unwrap();
        let want = x.multiply(weight.reshape(&[4]).unwrap()).unwrap();
        assert!(y.all_close(&want, None, None, None).unwrap());
        assert_eq!(state.shape(), [2, 0, 4]);
    }

    #[test]
    fn what_does_not_go_together_is_an_error() {
        let [x, weight, bias, state] = inputs(2, 5, 7, 4);
        let fails = |x: &Array, weight: &Array, bias: &Array, state: &Array| {
            short_conv(x, weight, Some(bias), Some(state), Activation::Silu).unwrap_err().to_string()
        };
        let three = weight.expand_dims(-1).unwrap();
        assert!(fails(&bias, &three, &bias, &state).contains("[B, T, C]"));
        assert!(fails(&x, &weight, &bias, &state).contains("[C, width, 1]"));
        assert!(fails(&x, &three, &state, &state).contains("7 channels"));
        assert!(fails(&x, &three, &bias, &x).contains("a state Some([2, 5, 7])"));
        assert!(short_conv(&x, &three, None, None, Activation::Situ { beta: 1.0, linear_beta: None }).is_err());
    }

    #[test]
    fn no_tokens_keep_the_state() {
        let (x, weight, state) = (normal(&[2, 0, 4], 1), normal(&[4, 3, 1], 2), normal(&[2, 2, 4], 3));
        let (y, kept) = short_conv(&x, &weight, None, Some(&state), Activation::Silu).unwrap();
        same_outcome(Ok(y), ops::zeros::<f32>(&[2, 0, 4]));
        assert_eq!(floats(&kept), floats(&state));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(30))]

        #[test]
        fn any_layout_gives_the_bits_of_a_contiguous_one(
            [of_x, of_state] in [layouts(3), layouts(3)], of_weight in layouts(2),
            (b, t, c, k) in (1..3_i32, 1..70_i32, 1..40_i32, 2..6_i32), dtype in prop::sample::select(&FLOATS[..]),
        ) {
            let (x, state) = (of_x.normal(&[b, t, c], 1, dtype), of_state.normal(&[b, k - 1, c], 2, dtype));
            let weight = of_weight.normal(&[c, k], 3, Dtype::Float32);
            let conv = |x: &Array, weight: &Array, state: &Array| {
                short_conv_of_matrix(x, weight, None, Some(state), Activation::Silu).unwrap()
            };
            let (got, want) = (conv(&x, &weight, &state), conv(&copied(&x), &copied(&weight), &copied(&state)));
            prop_assert!(same_bits(&got.0, &want.0) && same_bits(&got.1, &want.1));
        }
    }
}
