//! Norms over the last axis.

use mlx_rs::Array;
use mlx_rs::error::Exception;

use super::{by_kernel, plain};

/// `x / rms(x) * weight` (arXiv:1910.07467).
///
/// # Shapes
/// - `x`: `[…, D]`, `weight`: `[D]`, result: `[…, D]`
#[track_caller]
pub fn rms_norm(x: &Array, weight: Option<&Array>, eps: f32) -> Result<Array, Exception> {
    by_kernel!(crate::kernels::float::rms_norm(x, weight, eps));
    plain::rms_norm(x, weight, eps)
}

/// `(x - mean) / deviation * weight + bias` (arXiv:1607.06450).
///
/// # Shapes
/// - `x`: `[…, D]`, `weight`, `bias`: `[D]`, result: `[…, D]`
#[track_caller]
pub fn layer_norm(x: &Array, weight: Option<&Array>, bias: Option<&Array>, eps: f32) -> Result<Array, Exception> {
    plain::layer_norm(x, weight, bias, eps)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{check, check_narrow, normal};
    use super::*;

    #[test]
    fn rms_norm_is_the_plain_one() {
        let inputs = [normal(&[5, 7, 40], 1), normal(&[40], 2)];
        check(&inputs, |x| rms_norm(&x[0], Some(&x[1]), 1e-5), |x| plain::rms_norm(&x[0], Some(&x[1]), 1e-5));
    }

    #[test]
    fn narrow_types_are_rounded_once() {
        check_narrow(&[&[5, 40], &[40]], |x| rms_norm(&x[0], Some(&x[1]), 1e-5));
    }
}
