//! What training minimizes.

use mlx_rs::Array;
use mlx_rs::error::Exception;

use super::{by_kernel, plain};

/// The cross entropy of the target in each row of logits.
///
/// # Shapes
/// - `logits`: `[…, V]`, `targets`: `[…]` of `i32`, result: `[…]`
#[track_caller]
pub fn cross_entropy(logits: &Array, targets: &Array) -> Result<Array, Exception> {
    by_kernel!(crate::kernels::float::cross_entropy(logits, targets));
    plain::cross_entropy(logits, targets)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{check, normal};
    use super::*;

    #[test]
    fn cross_entropy_is_the_plain_one() {
        let targets = Array::from_slice(&[0, 5, 36, 7, 7, 20], &[2, 3]);
        let inputs = [normal(&[2, 3, 37], 1).multiply(Array::from_f32(5.0)).unwrap()];
        check(&inputs, |x| cross_entropy(&x[0], &targets), |x| plain::cross_entropy(&x[0], &targets));
    }
}
