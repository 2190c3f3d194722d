//! Rotary positions.

use mlx_rs::Array;
use mlx_rs::error::Exception;

use super::by_kernel;

/// Rotary positions (arXiv:2104.09864) on the first `dims` of each head, from position `offset` on.
///
/// `traditional` pairs neighbours, and not the halves; `freqs`, the reciprocals of frequencies, stands for a `base`.
///
/// # Shapes
/// - `x`: `[…, L, d]`, `freqs`: `[dims / 2]`, and the shape of `x` comes back
#[track_caller]
pub fn rope(
    x: &Array,
    dims: i32,
    traditional: bool,
    base: Option<f32>,
    scale: f32,
    offset: i32,
    freqs: Option<&Array>,
) -> Result<Array, Exception> {
    by_kernel!({
        crate::kernels::float::Rotation { dims, neighbours: traditional, base, scale, offset }.apply(x, None, freqs)
    });
    mlx_rs::fast::rope(x, dims, traditional, base, scale, offset, freqs)
}

/// [`rope`] with the position of the first token in an array.
///
/// # Shapes
/// - `offset`: a scalar, or `[B]`
#[track_caller]
pub fn rope_dynamic(
    x: &Array,
    dims: i32,
    traditional: bool,
    base: Option<f32>,
    scale: f32,
    offset: &Array,
    freqs: Option<&Array>,
) -> Result<Array, Exception> {
    by_kernel!({
        let rotation = crate::kernels::float::Rotation { dims, neighbours: traditional, base, scale, offset: 0 };
        rotation.apply(x, Some(offset), freqs)
    });
    mlx_rs::fast::rope_dynamic(x, dims, traditional, base, scale, offset, freqs)
}

#[cfg(test)]
mod tests {
    use mlx_rs::{Dtype, ops};
    use proptest::prelude::*;

    use super::super::testing::{FLOATS, check, check_narrow, copied, layouts, normal, same_bits, same_outcome};
    use super::*;

    fn close(got: &Array, want: &Array, tolerance: f64) {
        assert_eq!((got.shape(), got.dtype()), (want.shape(), want.dtype()));
        assert!(got.all_close(want, tolerance, tolerance, None).unwrap(), "{got} is not {want}");
    }

    #[test]
    fn rotations_agree_with_mlx() {
        let x = normal(&[2, 3, 5, 16], 1);
        let freqs = Array::from_slice(&[1.0_f32, 3.0, 10.0, 50.0, 70.0, 90.0, 200.0, 900.0], &[8]);
        let offsets = Array::from_slice(&[3, 9], &[2]);
        let one = Array::from_int(7);
        for (dtype, tolerance) in [(Dtype::Float32, 1e-5), (Dtype::Float16, 4e-3), (Dtype::Bfloat16, 3e-2)] {
            let x = x.as_dtype(dtype).unwrap();
            for traditional in [false, true] {
                let theirs = mlx_rs::fast::rope(&x, 16, traditional, 1000.0, 0.5, 4, None).unwrap();
                close(&rope(&x, 16, traditional, Some(1000.0), 0.5, 4, None).unwrap(), &theirs, tolerance);
                let theirs = mlx_rs::fast::rope(&x, 8, traditional, 1000.0, 1.0, 0, None).unwrap();
                close(&rope(&x, 8, traditional, Some(1000.0), 1.0, 0, None).unwrap(), &theirs, tolerance);
                let theirs = mlx_rs::fast::rope(&x, 16, traditional, None, 1.0, 4, &freqs).unwrap();
                close(&rope(&x, 16, traditional, None, 1.0, 4, Some(&freqs)).unwrap(), &theirs, tolerance);
                for offset in [&offsets, &one] {
                    let theirs = mlx_rs::fast::rope_dynamic(&x, 16, traditional, None, 1.0, offset, &freqs).unwrap();
                    let ours = rope_dynamic(&x, 16, traditional, None, 1.0, offset, Some(&freqs)).unwrap();
                    close(&ours, &theirs, tolerance);
                }
            }
        }
    }

    #[test]
    fn gradients_agree_with_mlx() {
        let inputs = [normal(&[2, 3, 9, 32], 1)];
        let transposed = |x: &[Array]| x[0].transpose_axes(&[0, 2, 1, 3]);
        let ours = |x: &Array, scale| rope(x, 32, false, Some(10000.0), scale, 3, None);
        let theirs = |x: &Array, scale| mlx_rs::fast::rope(x, 32, false, 10000.0, scale, 3, None);
        check(&inputs, |x| ours(&x[0], 0.5), |x| theirs(&x[0], 0.5));
        check(&inputs, |x| ours(&transposed(x)?, 1.0), |x| theirs(&transposed(x)?, 1.0));
    }

    #[test]
    fn narrow_types_are_rounded_once() {
        check_narrow(&[&[2, 3, 5, 16]], |x| rope(&x[0], 16, false, Some(10000.0), 1.0, 3, None));
    }

    #[test]
    fn what_has_no_kernel_is_left_to_mlx() {
        let x = normal(&[3, 5, 16], 1);
        let theirs = mlx_rs::fast::rope(&x, 16, false, 1000.0, 1.0, 4, None).unwrap();
        close(&rope(&x, 16, false, Some(1000.0), 1.0, 4, None).unwrap(), &theirs, 1e-6);
        assert!(rope(&x, 18, false, Some(1000.0), 1.0, 4, None).is_err() || cfg!(target_os = "macos"));
    }

    #[test]
    fn gradients_of_every_form_are_what_steps_make() {
        let inputs = [normal(&[2, 3, 5, 20], 1)];
        let table = Array::from_slice(&[1.0_f32, 3.0, 10.0, 50.0, 70.0, 90.0, 200.0, 900.0], &[8]);
        let offsets = [Array::from_slice(&[3, 9], &[2]), Array::from_int(7)];
        for traditional in [false, true] {
            for (dims, base, freqs) in [(20, Some(1000.0), None), (8, Some(1000.0), None), (16, None, Some(&table))] {
                for scale in [1.0, 0.5] {
                    check(
                        &inputs,
                        |x| rope(&x[0], dims, traditional, base, scale, 3, freqs),
                        |x| mlx_rs::fast::rope(&x[0], dims, traditional, base, scale, 3, freqs),
                    );
                    for offset in &offsets {
                        check(
                            &inputs,
                            |x| rope_dynamic(&x[0], dims, traditional, base, scale, offset, freqs),
                            |x| mlx_rs::fast::rope_dynamic(&x[0], dims, traditional, base, scale, offset, freqs),
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn the_gradient_of_one_pair_is_what_a_step_makes() {
        // That of MLX is not, if the pair are neighbours.
        for traditional in [false, true] {
            let turned = |x: &[Array]| rope(&x[0], 2, traditional, Some(10.0), 0.5, 3, None);
            check(&[normal(&[2, 3, 5, 20], 1)], turned, turned);
        }
    }

    #[test]
    fn no_tokens_give_what_mlx_gives() {
        for shape in [[0, 3, 5, 16], [2, 0, 5, 16], [2, 3, 0, 16]] {
            let x = ops::zeros::<f32>(&shape).unwrap();
            let want = mlx_rs::fast::rope(&x, 16, false, 1000.0, 1.0, 4, None);
            same_outcome(rope(&x, 16, false, Some(1000.0), 1.0, 4, None), want);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn any_layout_gives_the_bits_of_a_contiguous_one(
            of_x in layouts(4), (of_table, of_offsets) in (layouts(1), layouts(1)), len in 1..9_i32,
            traditional: bool, by_table: bool, dtype in prop::sample::select(&FLOATS[..]),
        ) {
            let x = of_x.normal(&[2, 3, len, 10], 1, dtype);
            let table = of_table.normal(&[4], 2, Dtype::Float32);
            let offsets = of_offsets.of(&[2], |room| ops::arange::<i32, i32>(0, room[0], None).unwrap());
            let turned = |x: &Array, table: &Array, offsets: &Array| {
                let (base, freqs) = if by_table { (None, Some(table)) } else { (Some(100.0), None) };
                rope_dynamic(x, 8, traditional, base, 1.0, offsets, freqs).unwrap()
            };
            let want = turned(&copied(&x), &copied(&table), &copied(&offsets));
            prop_assert!(same_bits(&turned(&x, &table, &offsets), &want));
        }
    }
}
