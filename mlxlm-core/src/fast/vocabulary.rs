//! What is asked of rows of logits.

use mlx_rs::Array;
use mlx_rs::error::Exception;

use super::{by_kernel, plain};

/// The logarithm of the sum of exponentials of each row.
///
/// # Shapes
/// - `x`: `[…, V]`, result: `[…, 1]`
#[track_caller]
pub fn logsumexp(x: &Array) -> Result<Array, Exception> {
    by_kernel!(crate::kernels::float::logsumexp(x));
    plain::logsumexp(x)
}

/// The index of the largest entry of each row, the first of equals.
///
/// # Shapes
/// - `x`: `[…, V]`, result: `[…]` of `u32`
#[track_caller]
pub fn argmax(x: &Array) -> Result<Array, Exception> {
    by_kernel!(crate::kernels::float::argmax(x));
    plain::argmax(x)
}

#[cfg(test)]
mod tests {
    use mlx_rs::Dtype;

    use super::super::testing::{check, normal};
    use super::*;

    #[test]
    fn logsumexp_is_the_plain_one() {
        check(&[normal(&[3, 37], 1)], |x| logsumexp(&x[0]), |x| plain::logsumexp(&x[0]));
        let (inf, nan) = (f32::INFINITY, f32::NAN);
        let rows = Array::from_slice(&[-inf, -inf, inf, 1.0, nan, inf, -inf, 2.0], &[4, 2]);
        let got = logsumexp(&rows).unwrap();
        let got = got.try_as_slice::<f32>().unwrap();
        assert!(got[0] == -inf && got[1] == inf && got[2].is_nan() && got[3] == 2.0, "{got:?}");
    }

    #[test]
    fn argmax_is_the_plain_one() {
        let x = normal(&[2, 5, 100], 1);
        for dtype in [Dtype::Float32, Dtype::Float16, Dtype::Bfloat16] {
            // In 16 bits there are equal entries.
            let x = x.as_dtype(dtype).unwrap().round(0).unwrap();
            let (got, want) = (argmax(&x).unwrap(), plain::argmax(&x).unwrap());
            assert_eq!((got.shape(), got.dtype()), (want.shape(), want.dtype()));
            assert_eq!(got.try_as_slice::<u32>().unwrap(), want.try_as_slice::<u32>().unwrap());
        }
    }
}
