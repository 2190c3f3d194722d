//! The kernel against the plain version, at every level of the machine.

use proptest::prelude::*;

use super::*;
use crate::fast::testing::FLOATS;
use crate::{ops, transforms};

fn noise(seed: u64, i: usize) -> f32 {
    let mut x = seed.wrapping_add(i as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 31)).wrapping_mul(0xD6E8_FEB8_6659_FD93);
    ((x >> 40) as f32) / 8_388_608.0 - 1.0
}

pub(super) fn random(shape: &[i32], seed: u64, dtype: Dtype) -> Array {
    let len: i32 = shape.iter().product();
    let values: Vec<f32> = (0..len as usize).map(|i| noise(seed, i)).collect();
    Array::from_slice(&values, shape).as_dtype(dtype).unwrap()
}

pub(super) fn wide(a: &Array) -> Array {
    a.as_dtype(Dtype::Float32).unwrap()
}

pub(super) fn floats(a: &Array) -> Vec<f32> {
    let a = wide(a).contiguous().unwrap();
    if a.size() == 0 { Vec::new() } else { a.to_vec_exact::<f32>().unwrap() }
}

/// Our product at a level.
fn ours(isa: Isa, a: &Array, b: &Array, ta: bool, tb: bool) -> Array {
    let m = if ta { vec![a.dim(1)] } else { a.shape()[..a.ndim() - 1].to_vec() };
    let shape = [m, vec![if tb { b.dim(0) } else { b.dim(1) }]].concat();
    Product { transpose_a: ta, transpose_b: tb, isa }.apply(a, b, &shape, a.dtype()).unwrap()
}

/// Holds every level against the f32 product, rounded.
fn check(a: &Array, b: &Array, ta: bool, tb: bool) {
    let turned = |x: &Array, turn: bool| if turn { wide(x).t() } else { wide(x) };
    let want = floats(&ops::matmul(turned(a, ta), turned(b, tb)).unwrap());
    let k = if tb { b.dim(1) } else { b.dim(0) };
    let rounding = match a.dtype() {
        Dtype::Float32 => 0.0,
        Dtype::Float16 => 1.0 / 2048.0,
        _ => 1.0 / 256.0,
    };
    for isa in Isa::available() {
        let result = ours(isa, a, b, ta, tb);
        assert_eq!(result.dtype(), a.dtype());
        let got = floats(&result);
        assert_eq!(got.len(), want.len());
        for (i, (got, want)) in got.iter().zip(&want).enumerate() {
            let tolerance = rounding * want.abs() + 1e-6 * f32::from(k as u16);
            assert!((got - want).abs() <= tolerance, "{isa} {:?} {ta} {tb} {i}: {got} is not {want}", a.dtype());
        }
    }
}

#[test]
fn layouts_and_edges() {
    for dtype in FLOATS {
        let (x, w) = (random(&[2, 3, 50], 1, dtype), random(&[11, 50], 2, dtype));
        check(&x, &w, false, true);
        check(&x.transpose_axes(&[1, 0, 2]).unwrap(), &w, false, true);
        check(&ops::zeros_dtype(&[0, 50], dtype).unwrap(), &w, false, true);
        check(&random(&[70, 300], 1, dtype), &random(&[40, 300], 2, dtype), false, true);
        // No columns: all sums are zero.
        check(&ops::zeros_dtype(&[2, 0], dtype).unwrap(), &ops::zeros_dtype(&[3, 0], dtype).unwrap(), false, true);
    }
}

#[test]
fn many_rows_and_columns_use_every_path() {
    // More rows than one pass, more of `k` than a block, several tasks, the last of an odd number of tiles.
    for (ta, tb) in [(false, true), (true, false)] {
        let (of_a, of_b) = (if ta { [1057, 530] } else { [530, 1057] }, if tb { [298, 1057] } else { [1057, 298] });
        check(&random(&of_a, 1, Dtype::Bfloat16), &random(&of_b, 2, Dtype::Bfloat16), ta, tb);
    }
}

#[test]
fn rows_that_are_not_finite_spoil_no_others() {
    let (m, n, k) = (INVARIANT_ROWS + 35, 40, 70);
    let (x, w) = (random(&[m as i32, k], 1, Dtype::Bfloat16), random(&[n, k], 2, Dtype::Bfloat16));
    let mut values = floats(&x);
    values[3 * k as usize + 69] = f32::NAN;
    values[50 * k as usize] = f32::INFINITY;
    let spoilt = Array::from_slice(&values, x.shape()).as_dtype(Dtype::Bfloat16).unwrap();
    for isa in Isa::available() {
        let [clean, got] = [&x, &spoilt].map(|x| floats(&ours(isa, x, &w, false, true)));
        for (row, (clean, got)) in clean.chunks_exact(n as usize).zip(got.chunks_exact(n as usize)).enumerate() {
            match row {
                3 | 50 => assert!(got.iter().all(|v| !v.is_finite()), "{isa} {row}"),
                _ => assert!(got == clean, "{isa} {row}"),
            }
        }
    }
}

#[test]
fn not_a_number_comes_through() {
    for dtype in FLOATS {
        let x = Array::from_slice(&[1.0_f32, f32::NAN, 2.0, 0.0, f32::INFINITY, 0.0], &[3, 2]).as_dtype(dtype).unwrap();
        let w = Array::from_slice(&[1.0_f32, 1.0], &[1, 2]).as_dtype(dtype).unwrap();
        for isa in Isa::available() {
            let y = floats(&ours(isa, &x, &w, false, true));
            assert!(y[0].is_nan() && y[1] == 2.0 && y[2] == f32::INFINITY, "{isa} {y:?}");
        }
    }
}

#[test]
fn what_does_not_fit_is_left_to_mlx() {
    let x = random(&[2, 8], 1, Dtype::Bfloat16);
    assert!(linear(&x, &random(&[3, 8], 2, Dtype::Bfloat16)).unwrap().is_some());
    let many = random(&[INVARIANT_ROWS as i32 + 1, 8], 1, Dtype::Float32);
    assert!(linear(&many, &random(&[3, 8], 2, Dtype::Float32)).unwrap().is_none());
    assert!(linear(&x, &random(&[3, 9], 2, Dtype::Bfloat16)).unwrap().is_none());
    assert!(linear(&x, &random(&[1, 3, 8], 2, Dtype::Bfloat16)).unwrap().is_none());
}

#[test]
fn a_narrow_matrix_meets_wide_rows_as_it_is() {
    for (of_x, of_w) in
        [(Dtype::Float32, Dtype::Bfloat16), (Dtype::Bfloat16, Dtype::Float16), (Dtype::Float16, Dtype::Bfloat16)]
    {
        for m in [1, 3, INVARIANT_ROWS as i32 + 5] {
            let inputs = [random(&[m, 40], 1, of_x), random(&[11, 40], 2, of_w)];
            let loss = |y: Array| Ok::<_, Exception>(vec![y.square()?.sum(None)?]);
            let both = &[0, 1][..];
            let ours = |x: &[Array]| loss(linear(&x[0], &x[1])?.unwrap());
            let (_, got) = transforms::value_and_grad_with_argnums(ours, both)(&inputs).unwrap();
            let plain = |x: &[Array]| loss(ops::matmul(&x[0], x[1].t())?);
            let (_, want) = transforms::value_and_grad_with_argnums(plain, both)(&inputs.each_ref().map(wide)).unwrap();
            let got = [linear(&inputs[0], &inputs[1]).unwrap().unwrap(), got[0].clone(), got[1].clone()];
            let want = [ops::matmul(wide(&inputs[0]), wide(&inputs[1]).t()).unwrap(), want[0].clone(), want[1].clone()];
            assert_eq!(got.each_ref().map(Array::dtype), [Dtype::Float32, of_x, of_w]);
            for (got, want) in got.iter().zip(&want) {
                let rounding = if got.dtype() == Dtype::Float32 { 1e-6 } else { 1.0 / 200.0 };
                for (got, want) in floats(got).iter().zip(floats(want)) {
                    assert!(
                        (got - want).abs() <= rounding * want.abs() + 1e-4,
                        "{of_x:?} {of_w:?} {m}: {got} is not {want}"
                    );
                }
            }
        }
    }
}

#[test]
fn gradients_are_those_of_the_f32_product() {
    for dtype in FLOATS {
        for (ta, tb) in [(false, false), (false, true), (true, false), (true, true)] {
            let (a, b) = (
                random(if ta { &[6, 4] } else { &[4, 6] }, 1, dtype),
                random(if tb { &[5, 6] } else { &[6, 5] }, 2, dtype),
            );
            let factors = random(&[4, 5], 3, Dtype::Float32);
            let loss = |y: Array| Ok::<_, Exception>(vec![wide(&y).multiply(&factors)?.sum(None)?]);
            let isa = Isa::best();
            let both = &[0, 1][..];
            let (_, got) =
                transforms::value_and_grad_with_argnums(|x: &[Array]| loss(ours(isa, &x[0], &x[1], ta, tb)), both)(&[
                    a.clone(),
                    b.clone(),
                ])
                .unwrap();
            let turned = |x: &Array, turn: bool| if turn { x.t() } else { x.clone() };
            let plain = |x: &[Array]| loss(ops::matmul(turned(&x[0], ta), turned(&x[1], tb))?);
            let (_, want) = transforms::value_and_grad_with_argnums(plain, both)(&[wide(&a), wide(&b)]).unwrap();
            for (got, want) in got.iter().zip(&want) {
                assert_eq!((got.shape(), got.dtype()), (want.shape(), dtype));
                floats(got).iter().zip(floats(want)).for_each(|(a, b)| assert!((a - b).abs() < 0.03, "{a} is not {b}"));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn random_sizes_agree_with_the_f32_product(
        (m, n, k) in (1_i32..90, 1_i32..70, 1_i32..300), (ta, tb) in (any::<bool>(), any::<bool>()),
        dtype in proptest::sample::select(&FLOATS[..]),
    ) {
        let (of_a, of_b) = (if ta { [k, m] } else { [m, k] }, if tb { [n, k] } else { [k, n] });
        let (a, b) = (random(&of_a, 1, dtype), random(&of_b, 2, dtype));
        check(&a, &b, ta, tb);
    }

    #[test]
    fn a_row_has_the_same_bits_alone_and_in_company(
        (m, n, k) in (1_i32..=INVARIANT_ROWS as i32, 1_i32..60, 1_i32..400), dtype in proptest::sample::select(&FLOATS[..]),
    ) {
        let (x, w) = (random(&[m, k], 1, dtype), random(&[n, k], 2, dtype));
        for isa in Isa::available() {
            let together = floats(&ours(isa, &x, &w, false, true));
            for row in [0, m / 2, m - 1] {
                let alone = x.take_axis(Array::from_slice(&[row], &[1]), 0).unwrap();
                let alone = floats(&ours(isa, &alone, &w, false, true));
                let same = alone.iter().zip(&together[(row * n) as usize..]).all(|(a, b)| a.to_bits() == b.to_bits());
                prop_assert!(same, "{} row {} of {}", isa, row, m);
            }
        }
    }
}
