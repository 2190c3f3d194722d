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

#[cfg(test)]
mod tests {
    use super::super::testing::check_narrow;
    use super::*;

    #[test]
    fn narrow_types_are_rounded_once() {
        check_narrow(&[&[5, 40], &[7, 40]], |x| linear(&x[0], &x[1]));
    }
}
