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

/// The index of the largest entry of each row, the first of equals; what is not a number counts as larger than all.
///
/// # Shapes
/// - `x`: `[…, V]`, result: `[…]` of `u32`
#[track_caller]
pub fn argmax(x: &Array) -> Result<Array, Exception> {
    by_kernel!(crate::kernels::float::argmax(x));
    plain::argmax(x)
}

/// Sets all but the `count` largest of each row to minus infinity; of equal entries at the border, the first stay.
///
/// # Shapes
/// - `x`: `[…, V]`, and the same comes back
#[track_caller]
pub fn top_k(x: &Array, count: usize) -> Result<Array, Exception> {
    by_kernel!(crate::kernels::float::keep(x, crate::kernels::float::Keep::Top(count)));
    plain::top_k(x, count)
}

/// Sets all to minus infinity but the fewest of the most likely entries whose probabilities add up to a share of all
/// (arXiv:1904.09751), `share` being between 0 and 1. An entry goes if those that are *larger* have the share already: all that
/// equal the least that stays do so too.
///
/// # Shapes
/// - `x`: log-probabilities `[…, V]`, and the same comes back
#[track_caller]
pub fn top_p(x: &Array, share: f64) -> Result<Array, Exception> {
    by_kernel!(crate::kernels::float::keep(x, crate::kernels::float::Keep::Share(share)));
    plain::top_p(x, share)
}

/// Sets all to minus infinity that is less than a `fraction` as likely as the most likely entry of its row (arXiv:2407.01082),
/// except the `at_least` so many largest; of equal entries, the first stay.
///
/// # Shapes
/// - `x`: log-probabilities `[…, V]`, and the same comes back
#[track_caller]
pub fn min_p(x: &Array, fraction: f64, at_least: usize) -> Result<Array, Exception> {
    by_kernel!({
        let below = -fraction.ln() as f32;
        crate::kernels::float::keep(x, crate::kernels::float::Keep::Near { below, at_least })
    });
    plain::min_p(x, fraction, at_least)
}

/// One entry of each row, drawn from the softmax of `scale · logits`; of a row with an entry that is not a number, it is any.
///
/// Whatever the type, the distances to the largest entry are scaled in f32, so that no finite, positive scale makes a distribution
/// into noise: with the largest scale the largest entry is drawn, with the smallest any entry above minus infinity.
///
/// A key draws the same by the kernel, which takes one row, and by MLX, unless its number falls within rounding of the border
/// between two entries.
///
/// # Shapes
/// - `logits`: `[…, V]`, `key`: `[2]` of `u32`, result: `[…]` of `u32`
#[track_caller]
pub fn categorical(logits: &Array, scale: f32, key: &Array) -> Result<Array, Exception> {
    if logits.ndim() > 1 && logits.size() as i32 == logits.dim(-1) {
        by_kernel!({
            let share = mlx_rs::random::uniform::<f32, f32>(0.0, 1.0, &logits.shape()[..logits.ndim() - 1], key)?;
            crate::kernels::float::draw(logits, scale, &share)
        });
    }
    plain::categorical(logits, scale, key)
}

#[cfg(test)]
#[allow(clippy::float_cmp, reason = "infinities, and a value that is copied")]
mod tests {
    use mlx_rs::{Dtype, ops, random};
    use proptest::prelude::*;

    use super::super::testing::{FLOATS, check, copied, layouts, normal, same_bits, same_outcome};
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

    #[test]
    fn argmax_takes_what_is_not_a_number_first() {
        // MLX's own answer has changed between its versions.
        let (inf, nan) = (f32::INFINITY, f32::NAN);
        let x = Array::from_slice(&[1.0, nan, inf, nan, -inf, -inf, -inf, -inf], &[2, 4]);
        assert_eq!(argmax(&x).unwrap().try_as_slice::<u32>().unwrap(), [1, 0]);
    }

    /// Rows of log-probabilities of a type; in steps, so that many are equal in every type.
    fn rows() -> impl Strategy<Value = Array> {
        let dtype = prop::sample::select(vec![Dtype::Float32, Dtype::Float16, Dtype::Bfloat16]);
        (1..4_i32, 2..300_i32, 1..40_i16, dtype).prop_flat_map(|(rows, width, step, dtype)| {
            prop::collection::vec(-60..60_i16, (rows * width) as usize).prop_map(move |values| {
                let values: Vec<f32> = values.iter().map(|&v| f32::from(v * step) / 64.0).collect();
                let x = Array::from_slice(&values, &[rows, width]);
                x.subtract(plain::logsumexp(&x).unwrap()).unwrap().as_dtype(dtype).unwrap()
            })
        })
    }

    fn same(got: &Array, want: &Array) -> bool {
        let wide = |x: &Array| x.as_dtype(Dtype::Float32).unwrap().contiguous().unwrap().to_vec_exact::<f32>().unwrap();
        (got.shape(), got.dtype()) == (want.shape(), want.dtype()) && wide(got) == wide(want)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn filters_are_the_plain_ones(x in rows(), count in 1..100_usize, p in 0.01..0.99_f64) {
            prop_assert!(same(&top_k(&x, count).unwrap(), &plain::top_k(&x, count).unwrap()));
            prop_assert!(same(&min_p(&x, p, 1).unwrap(), &plain::min_p(&x, p, 1).unwrap()));
            prop_assert!(same(&min_p(&x, p, count).unwrap(), &plain::min_p(&x, p, count).unwrap()));
            // Sums of f32 may fall on either side of a share that they come close to.
            let near = [p - 1e-5, p + 1e-5].map(|p| top_p(&x, p).unwrap());
            let plain = plain::top_p(&x, p).unwrap();
            prop_assert!(near.iter().any(|near| same(near, &plain)));
            let rows = x.transpose().unwrap();
            prop_assert!(same(&top_k(&rows, count).unwrap(), &plain::top_k(&rows, count).unwrap()));
        }

        #[test]
        fn draws_are_the_plain_ones(x in rows(), seed: u64, scale in 0.1..3.0_f32, keep in 1..300_usize) {
            let key = random::key(seed).unwrap();
            let x = plain::top_k(&x, keep).unwrap();
            let (got, want) = (categorical(&x, scale, &key).unwrap(), plain::categorical(&x, scale, &key).unwrap());
            prop_assert_eq!(got.shape(), want.shape());
            prop_assert_eq!(got.try_as_slice::<u32>().unwrap(), want.try_as_slice::<u32>().unwrap());
        }
    }

    #[test]
    fn a_whole_vocabulary_is_drawn_from_as_mlx_does() {
        for dtype in [Dtype::Float32, Dtype::Float16, Dtype::Bfloat16] {
            let x = normal(&[1, 50_001], 5).multiply(Array::from_f32(4.0)).unwrap().as_dtype(dtype).unwrap();
            let same = |seed: &u64| {
                let key = random::key(*seed).unwrap();
                let [got, want] = [categorical, plain::categorical].map(|draw| draw(&x, 1.3, &key).unwrap());
                got.try_as_slice::<u32>().unwrap() == want.try_as_slice::<u32>().unwrap()
            };
            // Most of these entries are as small as the rounding of sums of f32.
            let count = (0..100).filter(same).count();
            assert!(count >= 90, "{dtype:?}: {count} of 100 draws are the same");
        }
    }

    #[test]
    fn every_scale_draws_what_it_should() {
        let inf = f32::INFINITY;
        let x = Array::from_slice(&[-2.0, -1.0, -1.25, -inf, -9.0], &[1, 5]);
        for dtype in [Dtype::Float32, Dtype::Float16, Dtype::Bfloat16] {
            let x = x.as_dtype(dtype).unwrap();
            for seed in 0..20 {
                let key = random::key(seed).unwrap();
                for draw in [categorical, plain::categorical] {
                    let drawn = |scale| draw(&x, scale, &key).unwrap().try_as_slice::<u32>().unwrap()[0];
                    for cold in [1e5, 1e20, f32::MAX] {
                        assert_eq!(drawn(cold), 1, "{dtype:?}, {cold}");
                    }
                    for hot in [1e-20, f32::MIN_POSITIVE] {
                        assert_ne!(drawn(hot), 3, "{dtype:?}, {hot}");
                    }
                }
            }
        }
    }

    #[test]
    fn the_largest_stays_however_small_the_share_is() {
        let inf = f32::INFINITY;
        let x = Array::from_slice(&[-2000.0_f32, -1000.0, -1001.0, -inf], &[1, 4]);
        for share in [f64::MIN_POSITIVE, 1e-60, 1e-30, 0.5] {
            for filter in [top_p, plain::top_p] {
                let kept = filter(&x, share).unwrap();
                assert_eq!(kept.try_as_slice::<f32>().unwrap(), [-inf, -1000.0, -inf, -inf], "{share}");
            }
        }
    }

    type Rows = fn(&Array) -> Result<Array, Exception>;
    /// What is asked of rows, and the plain version of it.
    const PAIRS: [(Rows, Rows); 5] = [
        (logsumexp, plain::logsumexp),
        (argmax, plain::argmax),
        (|x| top_k(x, 5), |x| plain::top_k(x, 5)),
        (|x| top_p(x, 0.7), |x| plain::top_p(x, 0.7)),
        (|x| min_p(x, 0.2, 3), |x| plain::min_p(x, 0.2, 3)),
    ];

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn any_layout_gives_the_bits_of_a_contiguous_one(
            layout in layouts(3), shape in [1..5_i32, 1..9_i32, 1..300_i32], dtype in prop::sample::select(&FLOATS[..]),
        ) {
            let x = layout.normal(&shape, 1, dtype);
            for (i, (fast, _)) in PAIRS.iter().enumerate() {
                prop_assert!(same_bits(&fast(&x).unwrap(), &fast(&copied(&x)).unwrap()), "function {}", i);
            }
        }
    }

    #[test]
    fn no_rows_give_what_the_plain_ones_give() {
        for shape in [[0, 1, 8], [2, 0, 8]] {
            let x = ops::zeros::<f32>(&shape).unwrap();
            for (fast, plain) in PAIRS {
                same_outcome(fast(&x), plain(&x));
            }
            let key = random::key(1).unwrap();
            same_outcome(categorical(&x, 1.0, &key), plain::categorical(&x, 1.0, &key));
        }
        assert_eq!(top_p(&ops::zeros::<f32>(&[2, 0]).unwrap(), 0.7).unwrap().shape(), [2, 0]);
    }
}
