//! Norms over the last axis.

use mlx_rs::Array;
use mlx_rs::error::Exception;

use super::{by_kernel, plain};

/// `x / rms(x) * weight` (arXiv:1910.07467); without a weight, that factor is one.
///
/// # Shapes
/// - `x`: `[…, D]`, `weight`: `[D]`, result: `[…, D]`
#[track_caller]
pub fn rms_norm(x: &Array, weight: Option<&Array>, eps: f32) -> Result<Array, Exception> {
    by_kernel!(crate::kernels::float::rms_norm(x, weight, eps));
    plain::rms_norm(x, weight, eps)
}

/// `x + y`, rounded to their type, and the [`rms_norm`] of that: what a block adds to its input, and what its next part reads.
///
/// # Shapes
/// - `x`, `y`: `[…, D]`, `weight`: `[D]`, results: `[…, D]`
#[track_caller]
pub fn add_rms_norm(x: &Array, y: &Array, weight: Option<&Array>, eps: f32) -> Result<[Array; 2], Exception> {
    by_kernel!(crate::kernels::float::add_rms_norm(x, y, weight, eps));
    plain::add_rms_norm(x, y, weight, eps)
}

/// `(x - mean) / deviation * weight + bias` (arXiv:1607.06450), where weight and bias may be left out.
///
/// # Shapes
/// - `x`: `[…, D]`, `weight`, `bias`: `[D]`, result: `[…, D]`
#[track_caller]
pub fn layer_norm(x: &Array, weight: Option<&Array>, bias: Option<&Array>, eps: f32) -> Result<Array, Exception> {
    by_kernel!(crate::kernels::float::layer_norm(x, weight, bias, eps));
    plain::layer_norm(x, weight, bias, eps)
}

/// [`rms_norm`] of each of `groups` equal parts of a row, times the weight of the whole row (`MambaRMSNormGated` of
/// `mlx_lm/models/nemotron_h.py`).
///
/// # Shapes
/// - `x`: `[…, D]`, `weight`: `[D]`, result: `[…, D]`
///
/// # Errors
/// If rows cannot be cut into so many parts.
#[track_caller]
pub fn group_rms_norm(x: &Array, weight: &Array, groups: i32, eps: f32) -> Result<Array, Exception> {
    if x.ndim() == 0 || groups <= 0 || x.dim(-1) % groups != 0 {
        return Err(Exception::custom(format!("rows of {:?} cannot be cut into {groups} groups", x.shape())));
    }
    if groups == 1 {
        return rms_norm(x, Some(weight), eps);
    }
    let mut shape = x.shape().to_vec();
    let dims = shape.pop().unwrap_or(0);
    shape.extend([groups, dims / groups]);
    rms_norm(&x.reshape(&shape)?, None, eps)?.reshape(x.shape())?.multiply(weight)
}

/// `x / √(Σ x² + eps)`: rows of length one. By way of [`rms_norm`], whose `eps` is that of the mean of squares.
///
/// # Shapes
/// - `x`: `[…, D]`, and the same comes back
#[track_caller]
pub fn l2_norm(x: &Array, eps: f32) -> Result<Array, Exception> {
    if x.ndim() == 0 {
        return Err(Exception::custom("a number has no length: rows [..., D] are needed"));
    }
    let dims = x.dim(-1) as f32;
    let normed = rms_norm(x, None, eps / dims)?;
    normed.multiply(Array::from_f32(dims.sqrt().recip()).as_dtype(normed.dtype())?)
}

#[cfg(test)]
mod tests {
    use mlx_rs::ops::indexing::TryIndexOp;
    use mlx_rs::{Dtype, ops};
    use proptest::prelude::*;

    use super::super::testing::{FLOATS, check, check_narrow, close, copied, layouts, normal, same_bits, same_outcome};
    use super::*;

    #[test]
    fn rms_norm_is_the_plain_one() {
        let inputs = [normal(&[5, 7, 40], 1), normal(&[40], 2)];
        check(&inputs, |x| rms_norm(&x[0], Some(&x[1]), 1e-5), |x| plain::rms_norm(&x[0], Some(&x[1]), 1e-5));
        check(&inputs[..1], |x| rms_norm(&x[0], None, 1e-5), |x| plain::rms_norm(&x[0], None, 1e-5));
    }

    #[test]
    fn add_rms_norm_is_the_plain_one() {
        type AddNorm = fn(&Array, &Array, Option<&Array>, f32) -> Result<[Array; 2], Exception>;
        type Part = fn([Array; 2]) -> Result<Array, Exception>;
        let inputs = [normal(&[5, 7, 40], 1), normal(&[5, 7, 40], 2), normal(&[40], 3)];
        // Each result alone, and both, so that gradients of either come back.
        let parts: [Part; 3] = [|[sum, _]| Ok(sum), |[_, normed]| Ok(normed), |[sum, normed]| sum.multiply(normed)];
        for part in parts {
            let of = |f: AddNorm| move |x: &[Array]| part(f(&x[0], &x[1], x.get(2), 1e-5)?);
            check(&inputs, of(add_rms_norm), of(plain::add_rms_norm));
            check(&inputs[..2], of(add_rms_norm), of(plain::add_rms_norm));
        }
    }

    #[test]
    fn a_sum_has_the_bits_that_its_norm_is_of() {
        for dtype in [Dtype::Float32, Dtype::Float16, Dtype::Bfloat16] {
            let [x, y, w] = [(&[70, 40][..], 1), (&[70, 40], 2), (&[40], 3)]
                .map(|(shape, seed)| normal(shape, seed).as_dtype(dtype).unwrap());
            let [sum, normed] = add_rms_norm(&x, &y, Some(&w), 1e-5).unwrap();
            assert!(sum.eq_values(x.add(&y).unwrap()).unwrap(), "{dtype:?}");
            assert!(normed.eq_values(rms_norm(&sum, Some(&w), 1e-5).unwrap()).unwrap(), "{dtype:?}");
        }
    }

    #[test]
    fn groups_of_a_row_are_normed_by_themselves() {
        let inputs = [normal(&[5, 7, 40], 1), normal(&[40], 2)];
        let by_hand = |x: &[Array]| {
            let parts = x[0].reshape(&[5, 7, 4, 10])?;
            let mean = parts.square()?.mean_axes(&[-1], true)?.add(Array::from_f32(1e-5))?;
            parts.multiply(mean.rsqrt()?)?.reshape(&[5, 7, 40])?.multiply(&x[1])
        };
        check(&inputs, |x| group_rms_norm(&x[0], &x[1], 4, 1e-5), by_hand);
        let one = group_rms_norm(&inputs[0], &inputs[1], 1, 1e-5).unwrap();
        assert!(same_bits(&one, &rms_norm(&inputs[0], Some(&inputs[1]), 1e-5).unwrap()));
        for groups in [0, -1, 3] {
            let error = group_rms_norm(&inputs[0], &inputs[1], groups, 1e-5).unwrap_err().to_string();
            assert!(error.contains(&format!("{groups} groups")), "{error}");
        }
    }

    #[test]
    fn rows_get_the_length_of_one() {
        let by_hand = |eps: f32| {
            move |x: &[Array]| {
                let squares = x[0].square()?.sum_axis(-1, true)?.add(Array::from_f32(eps))?;
                x[0].multiply(squares.rsqrt()?)
            }
        };
        for eps in [1e-6, 2.0] {
            check(&[normal(&[5, 7, 40], 1)], |x| l2_norm(&x[0], eps), by_hand(eps));
        }
        let zero = ops::zeros::<f32>(&[2, 8]).unwrap();
        assert!(same_bits(&l2_norm(&zero, 1e-14).unwrap(), &zero));
        assert!(l2_norm(&Array::from_f32(1.0), 1e-6).is_err());
    }

    #[test]
    fn layer_norm_is_the_plain_one() {
        let inputs = [normal(&[5, 7, 40], 1).add(Array::from_f32(2.0)).unwrap(), normal(&[40], 2), normal(&[40], 3)];
        let (both, one) =
            (|x: &[Array]| (x.get(1).cloned(), x.get(2).cloned()), |x: &[Array]| (None, x.get(1).cloned()));
        for (count, split) in [(3, both as Split), (2, both), (2, one), (1, both)] {
            let with = |f: Norm| {
                move |x: &[Array]| {
                    let (weight, bias) = split(x);
                    f(&x[0], weight.as_ref(), bias.as_ref(), 1e-5)
                }
            };
            check(&inputs[..count], with(layer_norm), with(plain::layer_norm));
        }
    }

    type Split = fn(&[Array]) -> (Option<Array>, Option<Array>);
    type Norm = fn(&Array, Option<&Array>, Option<&Array>, f32) -> Result<Array, Exception>;

    #[test]
    fn rows_are_the_same_alone_and_together() {
        let (x, w) = (normal(&[64, 100], 1), normal(&[100], 2));
        let layer = |x: &Array, w: &Array| layer_norm(x, Some(w), Some(w), 1e-5);
        for norm in [layer, |x: &Array, w: &Array| rms_norm(x, Some(w), 1e-5)] {
            let all = norm(&x, &w).unwrap();
            for row in [0, 31, 63] {
                let alone = norm(&x.try_index(row..row + 1).unwrap(), &w).unwrap();
                assert_eq!(
                    alone.try_as_slice::<f32>().unwrap(),
                    all.try_index(row).unwrap().try_as_slice::<f32>().unwrap()
                );
            }
        }
    }

    #[test]
    fn parameters_that_do_not_fit_are_refused_as_mlx_refuses_them() {
        let (x, w) = (normal(&[2, 8], 1), normal(&[7], 2));
        assert!(rms_norm(&x, Some(&w), 1e-5).is_err());
        assert!(layer_norm(&x, Some(&w), None, 1e-5).is_err());
    }

    #[test]
    fn narrow_types_are_rounded_once() {
        check_narrow(&[&[5, 40], &[40]], |x| rms_norm(&x[0], Some(&x[1]), 1e-5));
        check_narrow(&[&[5, 40], &[40], &[40]], |x| layer_norm(&x[0], Some(&x[1]), Some(&x[2]), 1e-5));
    }

    #[test]
    fn types_that_differ_give_what_mlx_gives() {
        let of = |dtype, shape: &[i32], seed| normal(shape, seed).as_dtype(dtype).unwrap();
        for (a, b) in
            [(Dtype::Bfloat16, Dtype::Float32), (Dtype::Float32, Dtype::Float16), (Dtype::Float16, Dtype::Bfloat16)]
        {
            let (x, y, w) = (of(a, &[3, 40], 1), of(b, &[3, 40], 2), of(b, &[40], 3));
            close(&rms_norm(&x, Some(&w), 1e-5).unwrap(), &plain::rms_norm(&x, Some(&w), 1e-5).unwrap(), "rms");
            let layer = |f: Norm| f(&x, Some(&w), None, 1e-5).unwrap();
            close(&layer(layer_norm), &layer(plain::layer_norm), "layer");
            for (x, y) in [(&x, &y), (&x, &x)] {
                let [sum, normed] = add_rms_norm(x, y, Some(&w), 1e-5).unwrap();
                let [plain_sum, plain_normed] = plain::add_rms_norm(x, y, Some(&w), 1e-5).unwrap();
                close(&sum, &plain_sum, "sum");
                close(&normed, &plain_normed, "norm of the sum");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn any_layout_gives_the_bits_of_a_contiguous_one(
            [of_x, of_y] in [layouts(3), layouts(3)], [of_weight, of_bias] in [layouts(1), layouts(1)],
            shape in [1..5_i32, 1..20_i32, 1..70_i32], dtype in prop::sample::select(&FLOATS[..]),
        ) {
            let inputs = [
                of_x.normal(&shape, 1, dtype), of_y.normal(&shape, 2, dtype),
                of_weight.normal(&shape[2..], 3, dtype), of_bias.normal(&shape[2..], 4, dtype),
            ];
            let all = |[x, y, weight, bias]: &[Array; 4]| {
                let mut all = add_rms_norm(x, y, Some(weight), 1e-5).unwrap().to_vec();
                all.push(rms_norm(x, Some(weight), 1e-5).unwrap());
                all.push(layer_norm(x, Some(weight), Some(bias), 1e-5).unwrap());
                all
            };
            for (i, (got, want)) in all(&inputs).iter().zip(all(&inputs.each_ref().map(copied))).enumerate() {
                prop_assert!(same_bits(got, &want), "result {}", i);
            }
        }
    }

    #[test]
    fn no_rows_give_what_mlx_gives() {
        for shape in [[0, 3, 8], [2, 0, 8], [2, 3, 0]] {
            let (x, w) = (ops::zeros::<f32>(&shape).unwrap(), ops::zeros::<f32>(&shape[2..]).unwrap());
            same_outcome(rms_norm(&x, Some(&w), 1e-5), plain::rms_norm(&x, Some(&w), 1e-5));
            same_outcome(layer_norm(&x, Some(&w), Some(&w), 1e-5), plain::layer_norm(&x, Some(&w), Some(&w), 1e-5));
            for part in 0..2 {
                let of = |results: Result<[Array; 2], Exception>| results.map(|results| results[part].clone());
                same_outcome(of(add_rms_norm(&x, &x, Some(&w), 1e-5)), of(plain::add_rms_norm(&x, &x, Some(&w), 1e-5)));
            }
        }
    }
}
