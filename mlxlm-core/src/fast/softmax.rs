//! The softmax.

use mlx_rs::Array;
use mlx_rs::error::Exception;

use super::{by_kernel, plain};

/// `e^x / Σ e^x` over an axis, with sums in `f32`.
///
/// # Shapes
/// - the shape of `x` comes back
#[track_caller]
pub fn softmax(x: &Array, axis: i32) -> Result<Array, Exception> {
    if axis == -1 || axis + 1 == x.ndim() as i32 {
        by_kernel!(crate::kernels::float::softmax(x));
    }
    plain::softmax(x, axis)
}

#[cfg(test)]
mod tests {
    use mlx_rs::ops;
    use proptest::prelude::*;

    use super::super::testing::{FLOATS, check, check_narrow, copied, layouts, normal, same_bits, same_outcome};
    use super::*;

    #[test]
    fn it_is_the_plain_one_over_every_axis() {
        let inputs = [normal(&[3, 5, 37], 1)];
        for axis in [-1, 2, 1, 0, -3] {
            check(&inputs, |x| softmax(&x[0], axis), |x| plain::softmax(&x[0], axis));
        }
        assert!(softmax(&inputs[0], 3).is_err());
    }

    #[test]
    fn infinities_give_what_the_plain_one_gives() {
        let (inf, nan) = (f32::INFINITY, f32::NAN);
        let x = Array::from_slice(&[inf, 1.0, -inf, -inf, -inf, 0.0, nan, 1.0], &[4, 2]);
        let (got, want) = (softmax(&x, -1).unwrap(), plain::softmax(&x, -1).unwrap());
        for (got, want) in got.try_as_slice::<f32>().unwrap().iter().zip(want.try_as_slice::<f32>().unwrap()) {
            assert!(got.total_cmp(want).is_eq() || got.is_nan() && want.is_nan(), "{got} is not {want}");
        }
    }

    #[test]
    fn narrow_types_are_rounded_once() {
        check_narrow(&[&[5, 40]], |x| softmax(&x[0], -1));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn any_layout_gives_the_bits_of_a_contiguous_one(
            layout in layouts(3), shape in [1..5_i32, 1..20_i32, 1..70_i32], dtype in prop::sample::select(&FLOATS[..]),
        ) {
            let x = layout.normal(&shape, 1, dtype);
            prop_assert!(same_bits(&softmax(&x, -1).unwrap(), &softmax(&copied(&x), -1).unwrap()));
        }
    }

    #[test]
    fn no_rows_give_what_mlx_gives() {
        for shape in [[0, 3, 8], [2, 0, 8], [2, 3, 0]] {
            let x = ops::zeros::<f32>(&shape).unwrap();
            same_outcome(softmax(&x, -1), plain::softmax(&x, -1));
        }
    }
}
