//! The kernel against sums in f64 and against MLX's own operation, at every level of the machine.

use proptest::prelude::*;

use super::super::INVARIANT_ROWS;
use super::super::tests::{floats, random, wide};
use super::*;
use crate::fast::plain;
use crate::fast::testing::{FLOATS, copied, layouts, same_bits, words};
use crate::transforms;

fn numbers(values: &[u32], shape: &[i32]) -> Array {
    Array::from_slice(values, shape)
}

/// Our product at a level.
fn ours(isa: Isa, x: &Array, w: &Array, indices: &Array) -> Array {
    let shape = chosen::shape(x, indices, w.dim(1)).unwrap();
    Gather { transpose: true, isa }.apply(x, w, indices, &shape, x.dtype()).unwrap()
}

/// Sums in f64 for `x` of `[rows, 1, in]`, and the sums of magnitudes that bound their errors.
fn reference(x: &Array, w: &Array, experts: &[u32]) -> Vec<(f64, f64)> {
    let (n, k) = (w.dim(1) as usize, w.dim(2) as usize);
    let (x, w) = (floats(x), floats(w));
    let mut all = Vec::new();
    for (row, &expert) in experts.iter().enumerate() {
        for column in 0..n {
            let terms =
                (0..k).map(|i| f64::from(x[row * k + i]) * f64::from(w[(expert as usize * n + column) * k + i]));
            all.push(terms.fold((0.0, 0.0), |(sum, size), term| (sum + term, size + term.abs())));
        }
    }
    all
}

/// Holds results against [`reference`]: rounded once, from sums in f32.
fn check(got: &Array, want: &[(f64, f64)], k: usize, what: &str) -> Result<(), TestCaseError> {
    let rounding = match got.dtype() {
        Dtype::Float32 => 0.0,
        Dtype::Float16 => 1.0 / 2048.0,
        _ => 1.0 / 256.0,
    };
    let sums = f64::from(f32::EPSILON) * (k as f64).sqrt().max(4.0);
    prop_assert_eq!(got.size(), want.len());
    for (i, (got, (want, size))) in floats(got).iter().zip(want).enumerate() {
        // The smallest steps of f16 are absolute.
        let tolerance = rounding * want.abs() + sums * size + 1e-7;
        prop_assert!((f64::from(*got) - want).abs() <= tolerance, "{} {}: {} is not {}", what, i, got, want);
    }
    Ok(())
}

/// Experts and the choices of some rows, now and then more of one expert than the tiles of AMX begin with.
fn choices() -> impl Strategy<Value = (u32, Vec<u32>)> {
    (1_u32..7).prop_flat_map(|experts| {
        let rows = prop_oneof![4 => 0_usize..40, 1 => 66_usize..200];
        (Just(experts), rows.prop_flat_map(move |rows| proptest::collection::vec(0..experts, rows)))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn any_layout_gives_the_bits_of_a_contiguous_one(
        [of_x, of_w] in [layouts(3), layouts(3)], of_indices in layouts(1), [rows, n, k] in [1_i32..40, 1_i32..20, 1_i32..70],
        dtype in proptest::sample::select(&FLOATS[..]),
    ) {
        let inputs = [
            of_x.normal(&[rows, 1, k], 1, dtype), of_w.normal(&[5, n, k], 2, dtype),
            of_indices.of(&[rows], |room| words(room).remainder(numbers(&[5], &[])).unwrap()),
        ];
        let of = |[x, w, indices]: &[Array; 3]| gather_linear(x, w, indices).unwrap().unwrap();
        prop_assert!(same_bits(&of(&inputs), &of(&inputs.each_ref().map(copied))));
    }

    #[test]
    fn random_choices_agree_with_sums_in_f64(
        (experts, choices) in choices(), (n, k) in (1_i32..50, 1_i32..300), dtype in proptest::sample::select(&FLOATS[..]),
    ) {
        let rows = choices.len() as i32;
        let (x, w) = (random(&[rows, 1, k], 1, dtype), random(&[experts as i32, n, k], 2, dtype));
        let indices = if rows == 0 { crate::ops::zeros_dtype(&[0], Dtype::Uint32).unwrap() } else { numbers(&choices, &[rows]) };
        let want = reference(&x, &w, &choices);
        for isa in Isa::available() {
            let got = ours(isa, &x, &w, &indices);
            prop_assert_eq!((got.shape(), got.dtype()), (&[rows, 1, n][..], dtype));
            check(&got, &want, k as usize, &format!("{isa} {dtype:?}"))?;
        }
    }

    #[test]
    fn a_row_has_the_same_bits_alone_and_in_company(
        choices in proptest::collection::vec(0_u32..4, 1..=INVARIANT_ROWS), (n, k) in (1_i32..40, 1_i32..400),
        dtype in proptest::sample::select(&FLOATS[..]),
    ) {
        let rows = choices.len();
        let (x, w) = (random(&[rows as i32, 1, k], 1, dtype), random(&[4, n, k], 2, dtype));
        for isa in Isa::available() {
            let together = floats(&ours(isa, &x, &w, &numbers(&choices, &[rows as i32])));
            for row in [0, rows / 2, rows - 1] {
                let alone = x.take_axis(Array::from_slice(&[row as i32], &[1]), 0).unwrap();
                let alone = floats(&ours(isa, &alone, &w, &numbers(&choices[row..=row], &[1])));
                let same = alone.iter().zip(&together[row * n as usize..]).all(|(a, b)| a.to_bits() == b.to_bits());
                prop_assert!(same, "{} {:?} row {} of {}", isa, dtype, row, rows);
            }
        }
    }

    #[test]
    fn sums_of_outer_products_agree_with_sums_in_f64(
        (experts, choices) in choices(), (n, k) in (1_i32..90, 1_i32..70), dtype in proptest::sample::select(&FLOATS[..]),
    ) {
        prop_assume!(!choices.is_empty());
        let rows = choices.len() as i32;
        let (a, b) = (random(&[rows, 1, n], 1, dtype), random(&[rows, 1, k], 2, dtype));
        let (left, right) = (floats(&a), floats(&b));
        let mut want = vec![(0.0, 0.0); experts as usize * (n * k) as usize];
        for (row, &expert) in choices.iter().enumerate() {
            for (i, l) in left[row * n as usize..][..n as usize].iter().enumerate() {
                for (j, r) in right[row * k as usize..][..k as usize].iter().enumerate() {
                    let (sum, size) = &mut want[(expert as usize * n as usize + i) * k as usize + j];
                    let term = f64::from(*l) * f64::from(*r);
                    (*sum, *size) = (*sum + term, *size + term.abs());
                }
            }
        }
        for isa in Isa::available() {
            let got = GatherOuter { isa }.apply(&a, &b, &numbers(&choices, &[rows]), &[experts as i32, n, k], dtype).unwrap();
            check(&got, &want, choices.len(), &format!("{isa} {dtype:?}"))?;
        }
    }
}

#[test]
fn broadcasts_and_layouts_are_those_of_mlx() {
    let indices = numbers(&[4, 0, 1, 1, 3, 2], &[1, 3, 2]);
    let turned = numbers(&[4, 1, 3, 0, 1, 2], &[1, 2, 3]).transpose_axes(&[0, 2, 1]).unwrap();
    for dtype in FLOATS {
        let w = random(&[5, 20, 70], 1, dtype);
        let across = random(&[5, 70, 20], 1, dtype).transpose_axes(&[0, 2, 1]).unwrap();
        for isa in Isa::available() {
            let check = |x: &Array, w: &Array, indices: &Array| {
                let got = ours(isa, x, w, indices);
                let want = plain::gather_linear(&wide(x), &wide(w), indices, false).unwrap();
                assert_eq!((got.shape(), got.dtype()), (want.shape(), dtype));
                assert!(wide(&got).all_close(&want, 0.01, 0.01, None).unwrap(), "{isa} {dtype:?}");
            };
            check(&random(&[1, 3, 1, 1, 70], 2, dtype), &w, &indices);
            check(&random(&[1, 3, 2, 1, 70], 3, dtype), &w, &indices);
            check(&random(&[1, 3, 1, 1, 70], 2, dtype), &w, &turned);
            check(&random(&[1, 3, 1, 1, 70], 2, dtype), &across, &indices);
            check(&random(&[3, 1, 70, 1], 4, dtype).transpose_axes(&[0, 1, 3, 2]).unwrap(), &w, &indices);
            check(&random(&[1, 70], 5, dtype), &w, &indices);
            check(&random(&[6, 1, 70], 6, dtype), &w, &numbers(&[3], &[1]));
        }
    }
}

#[test]
fn a_chosen_matrix_gives_the_bits_of_a_single_one() {
    let (x, w) = (random(&[3, 1, 70], 1, Dtype::Bfloat16), random(&[2, 20, 70], 2, Dtype::Bfloat16));
    let got = gather_linear(&x, &w, &numbers(&[1, 1, 1], &[3])).unwrap().unwrap();
    let single = w.take_axis(Array::from_slice(&[1], &[1]), 0).unwrap().reshape(&[20, 70]).unwrap();
    assert_eq!(floats(&got), floats(&super::super::linear(&x, &single).unwrap().unwrap()));
}

#[test]
fn an_expert_that_is_not_there_gives_no_number() {
    for dtype in FLOATS {
        let (x, w) = (random(&[2, 1, 70], 1, dtype), random(&[5, 20, 70], 2, dtype));
        let indices = numbers(&[5, 4], &[2]);
        for isa in Isa::available() {
            let got = floats(&ours(isa, &x, &w, &indices));
            assert!(got[..20].iter().all(|v| v.is_nan()) && got[20..].iter().all(|v| v.is_finite()), "{isa}");
        }
        let loss = |x: &[Array]| -> Result<Vec<Array>, Exception> {
            Ok(vec![ours(Isa::best(), &x[0], &x[1], &indices).sum(None)?])
        };
        let (_, got) = transforms::value_and_grad_with_argnums(loss, &[0, 1][..])(&[x, w]).unwrap();
        let [of_x, of_w] = [0, 1].map(|i| floats(&got[i]));
        assert!(of_x[..70].iter().all(|v| v.is_nan()) && of_x[70..].iter().all(|v| v.is_finite()));
        assert!(of_w[..4 * 20 * 70].iter().all(|v| *v == 0.0) && of_w[4 * 20 * 70..].iter().all(|v| *v != 0.0));
    }
}

#[test]
fn nothing_gives_nothing_or_zeros() {
    let zeros = |shape: &[i32]| crate::ops::zeros_dtype(shape, Dtype::Bfloat16).unwrap();
    for isa in Isa::available() {
        let none = crate::ops::zeros_dtype(&[0], Dtype::Uint32).unwrap();
        assert_eq!(ours(isa, &zeros(&[0, 1, 8]), &zeros(&[2, 3, 8]), &none).shape(), [0, 1, 3]);
        assert_eq!(floats(&ours(isa, &zeros(&[1, 1, 0]), &zeros(&[2, 3, 0]), &numbers(&[1], &[1]))), [0.0; 3]);
        let outer = GatherOuter { isa }
            .apply(&zeros(&[0, 1, 3]), &zeros(&[0, 1, 2]), &none, &[2, 3, 2], Dtype::Float32)
            .unwrap();
        assert_eq!(floats(&outer), [0.0; 12]);
    }
}

#[test]
fn what_does_not_fit_is_left_to_mlx() {
    let (x, w) = (random(&[2, 1, 8], 1, Dtype::Bfloat16), random(&[5, 3, 8], 2, Dtype::Bfloat16));
    let indices = numbers(&[1, 4], &[2]);
    let takes = |x: &Array, w: &Array, indices: &Array| gather_linear(x, w, indices).unwrap().is_some();
    assert!(takes(&x, &w, &indices));
    assert!(takes(&wide(&x), &wide(&w), &indices));
    assert!(!takes(&indices.expand_dims(-1).unwrap(), &w, &indices));
    assert!(!takes(&random(&[3, 1, 8], 1, Dtype::Bfloat16), &w, &indices));
    assert!(!takes(&random(&[2, 2, 8], 1, Dtype::Bfloat16), &w, &indices));
    assert!(!takes(&random(&[2, 1, 9], 1, Dtype::Bfloat16), &w, &indices));
    assert!(!takes(&x, &random(&[1, 5, 3, 8], 2, Dtype::Bfloat16), &indices));
    assert!(!takes(&x, &w, &indices.as_dtype(Dtype::Int32).unwrap()));
}

#[test]
fn types_that_differ_give_sums_in_f32() {
    let chosen = [1, 4, 1];
    for (of_x, of_w) in
        [(Dtype::Bfloat16, Dtype::Float32), (Dtype::Float32, Dtype::Bfloat16), (Dtype::Bfloat16, Dtype::Float16)]
    {
        let inputs = [random(&[3, 1, 8], 1, of_x), random(&[5, 3, 8], 2, of_w)];
        let gather = |x: &[Array]| gather_linear(&x[0], &x[1], &numbers(&chosen, &[3])).map(Option::unwrap);
        let got = gather(&inputs).unwrap();
        assert_eq!(got.dtype(), Dtype::Float32);
        check(&got, &reference(&inputs[0], &inputs[1], &chosen), 8, "mixed").unwrap();
        let loss = |x: &[Array]| Ok::<_, Exception>(vec![gather(x)?.square()?.sum(None)?]);
        let of = |x: &[Array]| transforms::value_and_grad_with_argnums(loss, &[0, 1][..])(x).unwrap().1;
        for ((got, want), dtype) in of(&inputs).iter().zip(of(&inputs.each_ref().map(wide))).zip([of_x, of_w]) {
            assert_eq!(got.dtype(), dtype);
            assert!(wide(got).all_close(&want, 0.01, 0.01, None).unwrap(), "{got:?} is not {want:?}");
        }
    }
}

#[test]
fn gradients_are_those_of_mlx() {
    let indices = numbers(&[4, 0, 1, 1, 3, 4], &[1, 3, 2]);
    let both = &[0, 1][..];
    let factors = random(&[1, 3, 2, 1, 6], 3, Dtype::Float32);
    let loss = |y: &Array| Ok::<_, Exception>(vec![wide(y).multiply(&factors)?.sum(None)?]);
    for dtype in FLOATS {
        for shape in [[1, 3, 1, 1, 9], [1, 3, 2, 1, 9], [1, 1, 1, 1, 9]] {
            let inputs = [random(&shape, 1, dtype), random(&[5, 6, 9], 2, dtype)];
            let theirs = |x: &[Array]| loss(&plain::gather_linear(&x[0], &x[1], &indices, false)?);
            let (_, want) =
                transforms::value_and_grad_with_argnums(theirs, both)(&inputs.each_ref().map(wide)).unwrap();
            for isa in Isa::available() {
                let ours = |x: &[Array]| loss(&ours(isa, &x[0], &x[1], &indices));
                let (_, got) = transforms::value_and_grad_with_argnums(ours, both)(&inputs).unwrap();
                for (got, want) in got.iter().zip(&want) {
                    assert_eq!((got.shape(), got.dtype()), (want.shape(), dtype));
                    assert!(wide(got).all_close(want, 0.02, 0.03, None).unwrap(), "{isa} {dtype:?} {shape:?}");
                }
            }
        }
    }
}

#[test]
fn gradients_have_gradients() {
    let indices = numbers(&[4, 0, 1, 1, 3, 4], &[3, 2]);
    let inputs = [random(&[3, 1, 1, 9], 1, Dtype::Float32), random(&[5, 6, 9], 2, Dtype::Float32)];
    let slope = |gather: &dyn Fn(&[Array]) -> Result<Array, Exception>| {
        let first = |x: &[Array]| -> Result<Vec<Array>, Exception> {
            let loss = |x: &[Array]| -> Result<Vec<Array>, Exception> { Ok(vec![gather(x)?.square()?.sum(None)?]) };
            let (_, of) = transforms::value_and_grad_with_argnums(loss, &[0, 1][..])(x)?;
            Ok(vec![of[0].square()?.sum(None)?.add(of[1].square()?.sum(None)?)?])
        };
        transforms::value_and_grad_with_argnums(first, &[0, 1][..])(&inputs).unwrap().1
    };
    let got = slope(&|x| Ok(ours(Isa::best(), &x[0], &x[1], &indices)));
    let want = slope(&|x| x[0].matmul(x[1].take_axis(&indices, 0)?.swap_axes(-1, -2)?));
    for (got, want) in got.iter().zip(&want) {
        assert!(got.all_close(want, 1e-3, 1e-2, None).unwrap(), "{got:?} is not {want:?}");
    }
}
