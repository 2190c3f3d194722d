//! Linear maps.

use mlx_rs::Array;
use mlx_rs::error::Exception;

use super::{by_kernel, plain};

/// `x @ weight.T`, in `f32` by way of BLAS, which is ours too.
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

#[cfg(test)]
mod tests {
    use mlx_rs::{Dtype, random};

    use super::super::testing::check_narrow;
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
}
