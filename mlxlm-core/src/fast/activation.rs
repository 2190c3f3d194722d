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
    by_kernel!(crate::kernels::float::swiglu(gate, up));
    plain::swiglu(gate, up)
}

#[cfg(test)]
mod tests {
    use mlx_rs::Dtype;

    use super::super::testing::{check, check_narrow, normal};
    use super::*;

    #[test]
    fn swiglu_is_the_plain_one() {
        let inputs = [normal(&[3, 37], 1), normal(&[3, 37], 2)];
        check(&inputs, |x| swiglu(&x[0], &x[1]), |x| plain::swiglu(&x[0], &x[1]));
    }

    #[test]
    fn narrow_types_are_rounded_once() {
        check_narrow(&[&[3, 2000], &[3, 2000]], |x| swiglu(&x[0], &x[1]));
    }

    #[test]
    fn types_that_differ_take_the_plain_version() {
        let x = normal(&[2, 8], 1);
        let half = x.as_dtype(Dtype::Float16).unwrap();
        let got = swiglu(&x, &half).unwrap();
        assert!(got.all_close(plain::swiglu(&x, &half).unwrap(), None, None, None).unwrap());
    }
}
