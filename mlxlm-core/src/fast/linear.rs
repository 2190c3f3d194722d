//! Linear maps.

use mlx_rs::Array;
use mlx_rs::error::Exception;

use super::{by_kernel, plain};

/// `x @ weight.T`.
///
/// # Shapes
/// - `x`: `[…, in]`, `weight`: `[out, in]`, result: `[…, out]`
#[track_caller]
pub fn linear(x: &Array, weight: &Array) -> Result<Array, Exception> {
    by_kernel!(crate::kernels::dense::linear(x, weight));
    plain::linear(x, weight)
}

/// `x @ weight.T + bias`.
///
/// # Shapes
/// - `x`: `[…, in]`, `weight`: `[out, in]`, `bias`: `[out]`, result: `[…, out]`
#[track_caller]
pub fn linear_biased(x: &Array, weight: &Array, bias: &Array) -> Result<Array, Exception> {
    by_kernel!(crate::kernels::dense::linear(x, weight).and_then(|y| y.map(|y| y.add(bias)).transpose()));
    plain::linear_biased(x, weight, bias)
}

/// `x[i] @ weight[indices[i]].T`: each row with the map that is chosen for it from a stack, whatever the order. On a Linux CPU a
/// number that no map has gives a row of NaN, in the result and in the gradient of `x`; the gradient of `weight` passes it over.
/// MLX's own operation has no 16-bit types on a CPU.
///
/// `sorted` tells MLX that the indices ascend.
///
/// # Shapes
/// - `x`: `[…, 1, in]`, `weight`: `[E, out, in]`, `indices`: `[…]` of `u32`, result: `[…, 1, out]`; the axes before the last two of
///   `x` are broadcast to those of `indices`, or the other way round
///
/// # Errors
/// Those of MLX's `gather_mm`, of shapes and types that do not go together.
#[track_caller]
pub fn gather_linear(x: &Array, weight: &Array, indices: &Array, sorted: bool) -> Result<Array, Exception> {
    by_kernel!(crate::kernels::dense::gather_linear(x, weight, indices));
    plain::gather_linear(x, weight, indices, sorted)
}

#[cfg(test)]
mod tests {
    use mlx_rs::{Dtype, ops, random};
    use proptest::prelude::*;

    use super::super::testing::{check, check_narrow, floats, gradients, normal, same_outcome};
    use super::*;

    #[test]
    fn narrow_types_are_rounded_once() {
        check_narrow(&[&[5, 40], &[7, 40]], |x| linear(&x[0], &x[1]));
    }

    #[test]
    fn a_bias_keeps_the_bits_of_the_product() {
        for dtype in [Dtype::Float32, Dtype::Float16, Dtype::Bfloat16] {
            let [x, weight, bias] = [&[5, 40][..], &[7, 40], &[7]]
                .map(|shape| random::normal::<f32>(shape, None, None, None).unwrap().as_dtype(dtype).unwrap());
            let want = linear(&x, &weight).unwrap().add(&bias).unwrap();
            let got = linear_biased(&x, &weight, &bias).unwrap();
            assert_eq!(got.dtype(), dtype);
            let near = if dtype == Dtype::Float32 { 1e-5 } else { 0.0 };
            assert!(got.all_close(&want, 0.0, near, None).unwrap(), "{dtype:?}");
        }
    }

    /// The sum of all products.
    fn along(x: &Array, direction: &Array) -> f32 {
        floats(x).iter().zip(floats(direction)).map(|(x, d)| x * d).sum()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn narrow_gradients_are_those_of_mlx_and_what_steps_make(
            (b, m, n, k) in (1_i32..3, 1_i32..50, 1_i32..60, 1_i32..200), lone in any::<bool>(),
            dtype in prop::sample::select(vec![Dtype::Float16, Dtype::Bfloat16]),
        ) {
            let shape = if lone { vec![k] } else { vec![b, m, k] };
            let narrow = |shape: &[i32], seed| normal(shape, seed).as_dtype(dtype).unwrap();
            let inputs = [narrow(&shape, 1), narrow(&[n, k], 2)];
            let wide = inputs.clone().map(|x| x.as_dtype(Dtype::Float32).unwrap());
            let factors = narrow(linear(&inputs[0], &inputs[1]).unwrap().shape(), 3).as_dtype(Dtype::Float32).unwrap();
            let loss = |y: Array| y.as_dtype(Dtype::Float32)?.multiply(&factors)?.sum(None);
            let got = gradients(|x| loss(linear(&x[0], &x[1])?), &inputs);
            let want = gradients(|x| loss(plain::linear(&x[0], &x[1])?), &wide);
            let rounding = if dtype == Dtype::Float16 { 1.0 / 1024.0 } else { 1.0 / 128.0 };
            for (i, (got, want)) in got.iter().zip(&want).enumerate() {
                prop_assert_eq!((got.shape(), got.dtype()), (want.shape(), dtype));
                let most = floats(want).iter().fold(0.0_f32, |most, v| most.max(v.abs()));
                for (got, want) in floats(got).iter().zip(floats(want)) {
                    prop_assert!((got - want).abs() <= rounding * (want.abs() + 0.1 * most), "{}: {} is not {}", i, got, want);
                }
                // The product is linear in each: a step may be as long as the input.
                let direction = narrow(inputs[i].shape(), 4);
                let mut moved = inputs.clone();
                moved[i] = direction.clone();
                let step = loss(linear(&moved[0], &moved[1]).unwrap()).unwrap().try_item_exact::<f32>().unwrap();
                let length = along(got, got).sqrt();
                prop_assert!((step - along(got, &direction)).abs() <= 4.0 * rounding * (length + 1.0), "{}", i);
            }
        }
    }

    #[test]
    fn no_rows_and_no_columns_give_what_mlx_gives() {
        for dtype in [Dtype::Float16, Dtype::Bfloat16, Dtype::Float32] {
            for (x, w) in [([0, 3, 40], [7, 40]), ([2, 3, 0], [7, 0]), ([2, 3, 40], [0, 40])] {
                let [x, w] = [&x[..], &w].map(|shape| ops::zeros_dtype(shape, dtype).unwrap());
                same_outcome(linear(&x, &w), plain::linear(&x, &w));
            }
        }
    }

    #[test]
    fn chosen_maps_are_rounded_once() {
        let indices = Array::from_slice(&[2_u32, 0, 2, 1, 2], &[5]);
        check_narrow(&[&[5, 1, 40], &[3, 7, 40]], |x| gather_linear(&x[0], &x[1], &indices, false));
    }

    #[test]
    fn chosen_maps_agree_with_the_plain_version() {
        let (x, weight) = (normal(&[2, 3, 1, 1, 40], 1), normal(&[3, 7, 40], 2));
        let indices = Array::from_slice(&[2_u32, 0, 2, 1, 0, 2, 2, 1, 1, 0, 0, 2], &[2, 3, 2]);
        let fast = |x: &[Array]| gather_linear(&x[0], &x[1], &indices, false);
        check(&[x.clone(), weight.clone()], fast, |x| plain::gather_linear(&x[0], &x[1], &indices, false));
    }

    #[test]
    fn what_does_not_go_together_is_an_error_of_mlx() {
        let (x, weight) = (normal(&[2, 1, 40], 1), normal(&[3, 7, 41], 2));
        let indices = Array::from_slice(&[2_u32, 0], &[2]);
        let error = gather_linear(&x, &weight, &indices, false).unwrap_err().to_string();
        assert!(error.contains("gather_mm"), "{error}");
        let floats = indices.as_dtype(Dtype::Float32).unwrap();
        assert!(gather_linear(&x, &normal(&[3, 7, 40], 2), &floats, false).is_err());
    }
}
