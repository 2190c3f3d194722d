//! The Walsh-Hadamard rotation.

use mlx_rs::Array;
use mlx_rs::error::Exception;

use super::{by_kernel, plain};

/// Each block of the last axis times the Walsh-Hadamard matrix over the root of its size, in `f32`: a rotation that is its own
/// inverse, and spreads what stands out in a few dimensions over a block (arXiv:2404.00456).
///
/// # Shapes
/// - `x`: `[…, D]`, `block`: a power of two that divides `D`; the shape and type of `x` come back
#[track_caller]
pub fn hadamard(x: &Array, block: i32) -> Result<Array, Exception> {
    let dims = x.shape().last().copied().unwrap_or(0);
    if block < 1 || !(block as u32).is_power_of_two() || dims % block != 0 {
        return Err(Exception::custom(format!("rows of {dims} cannot be rotated in blocks of {block}")));
    }
    if block == 1 {
        return Ok(x.clone());
    }
    by_kernel!(crate::kernels::float::hadamard(x, block as usize));
    plain::hadamard(x, block)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::{FLOATS, check, check_narrow, close, copied, layouts, normal, same_bits};
    use super::*;

    #[test]
    fn it_is_the_plain_one() {
        for (dims, block) in [(64, 64), (96, 32), (80, 16), (24, 2)] {
            check(&[normal(&[3, 5, dims], 1)], |x| hadamard(&x[0], block), |x| plain::hadamard(&x[0], block));
        }
    }

    #[test]
    fn products_stay_and_twice_is_nothing() {
        let [q, k] = [1, 2].map(|seed| normal(&[4, 128], seed));
        let [turned_q, turned_k] = [&q, &k].map(|x| hadamard(x, 128).unwrap());
        let product = |q: &Array, k: &Array| q.matmul(k.t()).unwrap();
        close(&product(&turned_q, &turned_k), &product(&q, &k), "products");
        close(&hadamard(&turned_k, 128).unwrap(), &k, "twice");
        assert!(same_bits(&hadamard(&k, 1).unwrap(), &k));
    }

    #[test]
    fn blocks_that_do_not_fit_are_refused() {
        for block in [0, -4, 3, 12, 256] {
            let error = hadamard(&normal(&[2, 24], 1), block).unwrap_err().to_string();
            assert!(error.contains(&format!("rows of 24 cannot be rotated in blocks of {block}")), "{error}");
        }
    }

    #[test]
    fn narrow_types_are_rounded_once() {
        check_narrow(&[&[5, 64]], |x| hadamard(&x[0], 64));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn any_layout_gives_the_bits_of_a_contiguous_one(
            layout in layouts(3), shape in [1..5_i32, 1..20_i32, 48..49_i32], dtype in prop::sample::select(&FLOATS[..]),
        ) {
            let x = layout.normal(&shape, 1, dtype);
            prop_assert!(same_bits(&hadamard(&x, 16).unwrap(), &hadamard(&copied(&x), 16).unwrap()));
        }
    }
}
