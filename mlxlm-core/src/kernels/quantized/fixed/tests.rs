//! All levels against the plain one, bit by bit, and a row alone against the same row in company.

use mlx_rs::error::Exception;
use mlx_rs::{Array, Dtype, transforms};
use proptest::prelude::*;

use crate::kernels::isa::Isa;
use crate::kernels::primitive::apply_one;
use crate::kernels::quantized::matrix::Stored;
use crate::kernels::quantized::{INVARIANT_ROWS, QuantizedMatmul};
use crate::pages::Arena;
use crate::quant::{self, Mode, Packed, Panels, Scheme};

fn schemes() -> Vec<Scheme> {
    let affine = [2, 3, 4, 5, 6, 8].into_iter().flat_map(|bits| [32, 64, 128].map(|group| (Mode::Affine, bits, group)));
    let float = [(Mode::Mxfp4, 4, 32), (Mode::Nvfp4, 4, 16)];
    affine.chain(float).map(|(mode, bits, group)| Scheme::new(mode, bits, group).unwrap()).collect()
}

/// Those of panels: 8-bit floats, which do not become integers, too.
fn all_schemes() -> Vec<Scheme> {
    schemes().into_iter().chain([Mode::Mxfp8.default_scheme()]).collect()
}

const FLOATS: [Dtype; 3] = [Dtype::Float32, Dtype::Float16, Dtype::Bfloat16];

fn normal(shape: &[i32], seed: u64, dtype: Dtype) -> Array {
    let key = crate::random::key(seed).unwrap();
    crate::random::normal::<f32>(shape, None, None, &key).unwrap().as_dtype(dtype).unwrap()
}

fn bits(a: &Array) -> Vec<u32> {
    let a = a.as_dtype(Dtype::Float32).unwrap().contiguous().unwrap();
    a.to_vec_exact::<f32>().unwrap().iter().map(|v| v.to_bits()).collect()
}

fn product(isa: Isa, x: &Array, w: &Packed, scheme: Scheme) -> Array {
    let inputs: Vec<&Array> = [x, &w.weight, &w.scales].into_iter().chain(&w.biases).collect();
    let shape = [x.dim(0), w.weight.dim(0)];
    apply_one(QuantizedMatmul { stored: Stored::Rows(scheme), transpose: true, isa }, &inputs, &shape, x.dtype())
        .unwrap()
}

/// The levels that meet so many rows in integers; the tiles of AMX take many rows of bf16 otherwise.
fn levels(m: i32, dtype: Dtype) -> impl Iterator<Item = Isa> {
    Isa::available().filter(move |isa| *isa < Isa::Amx || m <= INVARIANT_ROWS as i32 || dtype != Dtype::Bfloat16)
}

/// Scales of `x`'s type, as models have them.
fn weights(n: i32, k: i32, scheme: Scheme, dtype: Dtype) -> Packed {
    quant::quantize(&normal(&[n, k], 5, dtype), scheme).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn all_levels_give_the_same_bits(
        scheme in prop::sample::select(schemes()),
        (m, n, groups) in (prop_oneof![1_i32..20, Just(70)], 1_i32..70, 1_i32..12),
        dtype in prop::sample::select(&FLOATS[..]),
    ) {
        let k = groups * scheme.group_size.max(32);
        let (x, w) = (normal(&[m, k], 3, dtype), weights(n, k, scheme, dtype));
        let plain = bits(&product(Isa::Portable, &x, &w, scheme));
        for isa in levels(m, dtype) {
            prop_assert!(bits(&product(isa, &x, &w, scheme)) == plain, "{} {}", isa, scheme);
        }
    }

    #[test]
    fn a_row_has_the_same_bits_alone_and_in_company(
        scheme in prop::sample::select(schemes()), (m, n) in (1_i32..=INVARIANT_ROWS as i32, 1_i32..40), row in any::<prop::sample::Index>(),
        dtype in prop::sample::select(&FLOATS[..]),
    ) {
        let (x, w) = (normal(&[m, 256], 3, dtype), weights(n, 256, scheme, dtype));
        let row = row.index(m as usize);
        let alone = x.take_axis(Array::from_slice(&[row as i32], &[1]), 0).unwrap();
        for isa in Isa::available() {
            let together = bits(&product(isa, &x, &w, scheme));
            let alone = bits(&product(isa, &alone, &w, scheme));
            prop_assert!(alone == together[row * n as usize..][..n as usize], "{} {} row {} of {}", isa, scheme, row, m);
        }
    }
}

#[test]
fn many_rows_and_columns_use_every_path() {
    // More rows than one pass, more columns than a block, more panels than a span.
    let scheme = Scheme::new(Mode::Affine, 4, 64).unwrap();
    for (m, dtype) in [(530, Dtype::Bfloat16), (90, Dtype::Float16), (90, Dtype::Float32)] {
        let (x, w) = (normal(&[m, 1088], 3, dtype), weights(600, 1088, scheme, dtype));
        let want = bits(&product(Isa::Avx2, &x, &w, scheme));
        for isa in levels(m, dtype).filter(|isa| *isa > Isa::Avx2) {
            assert!(bits(&product(isa, &x, &w, scheme)) == want, "{isa}");
        }
    }
}

#[test]
fn long_rows_have_the_same_bits() {
    // More columns than the tiles meet at a time, in a band of three panels.
    for scheme in schemes().into_iter().filter(|scheme| [16, 64].contains(&scheme.group_size) || scheme.bits == 4) {
        for (m, dtype) in [(1, Dtype::Bfloat16), (3, Dtype::Float16), (1, Dtype::Float32)] {
            let (x, w) = (normal(&[m, 4224], 3, dtype), weights(40, 4224, scheme, dtype));
            let want = bits(&product(Isa::Portable, &x, &w, scheme));
            let panels = arranged(&w, scheme).unwrap();
            for isa in levels(m, dtype) {
                assert!(bits(&product(isa, &x, &w, scheme)) == want, "{isa} {scheme}");
                assert!(bits(&by_panels(isa, &x, &panels)) == want, "{isa} {scheme}, in panels");
            }
        }
    }
}

#[test]
fn tasks_write_no_columns_of_others() {
    // Several tasks; which of them is the last to write is a matter of chance.
    let scheme = Scheme::new(Mode::Affine, 4, 64).unwrap();
    for (m, n, k) in [(3, 40, 4224), (1, 200, 8192), (8, 72, 2048), (70, 200, 1088)] {
        let (x, w) = (normal(&[m, k], 3, Dtype::Float16), weights(n, k, scheme, Dtype::Float16));
        let (panels, want) = (arranged(&w, scheme).unwrap(), bits(&product(Isa::Avx2, &x, &w, scheme)));
        for isa in levels(m, Dtype::Float16).filter(|isa| *isa > Isa::Portable) {
            for turn in 0..40 {
                assert!(bits(&by_panels(isa, &x, &panels)) == want, "{isa} {m} × {k} × {n}, turn {turn}");
            }
        }
    }
}

#[test]
fn a_row_that_is_no_integer_spoils_no_other() {
    let scheme = Scheme::new(Mode::Affine, 4, 64).unwrap();
    for dtype in [Dtype::Bfloat16, Dtype::Float32] {
        let w = weights(40, 128, scheme, dtype);
        let x = normal(&[3, 128], 3, dtype);
        let spoilt = |value: f32| {
            let mut values = x.as_dtype(Dtype::Float32).unwrap().to_vec_exact::<f32>().unwrap();
            values[130] = value;
            Array::from_slice(&values, &[3, 128]).as_dtype(dtype).unwrap()
        };
        for isa in Isa::available() {
            let clean = bits(&product(isa, &x, &w, scheme));
            for value in [f32::NAN, f32::INFINITY, -1e36] {
                let got = bits(&product(isa, &spoilt(value), &w, scheme));
                assert!(got[..40] == clean[..40] && got[80..] == clean[80..], "{isa}");
                let same = |v: &u32| f32::from_bits(*v).is_finite() == value.is_finite();
                assert!(got[40..80].iter().all(same), "{isa} {value}");
            }
        }
    }
}

#[test]
fn the_largest_scales_make_no_infinity() {
    // Codes of a half, powers of two from 2¹²⁵ to 2¹²⁷.
    let scheme = Mode::Mxfp4.default_scheme();
    for scale in 252..=254_u8 {
        let weight = Array::from_slice(&[0x1111_1111_u32; 16 * 8], &[16, 8]);
        let w = Packed { weight, scales: Array::from_slice(&[scale; 16 * 2], &[16, 2]), biases: None };
        for dtype in [Dtype::Float32, Dtype::Bfloat16] {
            let x = Array::from_slice(&[2.0_f32.powi(-60); 66 * 64], &[66, 64]).as_dtype(dtype).unwrap();
            let want = (64.0 * 2.0_f32.powi(-61 - 127 + i32::from(scale))).to_bits();
            for isa in Isa::available() {
                assert!(bits(&product(isa, &x, &w, scheme)).iter().all(|got| *got == want), "{isa} {scale} {dtype:?}");
            }
        }
    }
}

/// The matrix in panels, or none for what panels are not made for.
fn arranged(w: &Packed, scheme: Scheme) -> Option<Panels> {
    Panels::arrange(w, scheme, &mut Arena::default()).unwrap()
}

fn by_panels(isa: Isa, x: &Array, w: &Panels) -> Array {
    let operation = QuantizedMatmul { stored: Stored::Panels(w.layout), transpose: true, isa };
    apply_one(operation, &[x, &w.lines], &[x.dim(0), w.layout.rows as i32], x.dtype()).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn panels_give_the_bits_of_rows(
        scheme in prop::sample::select(all_schemes()),
        (m, n, groups) in (prop_oneof![1_i32..20, Just(70)], 1_i32..70, 1_i32..12),
        dtype in prop::sample::select(&FLOATS[..]),
    ) {
        let k = groups * scheme.group_size.max(32);
        let (x, w) = (normal(&[m, k], 3, dtype), weights(n, k, scheme, dtype));
        let panels = arranged(&w, scheme).unwrap();
        for isa in Isa::available() {
            let rows = bits(&product(isa, &x, &w, scheme));
            prop_assert!(bits(&by_panels(isa, &x, &panels)) == rows, "{} {}", isa, scheme);
        }
    }

    #[test]
    fn panels_come_back(
        scheme in prop::sample::select(all_schemes()), (n, groups) in (1_i32..40, 1_i32..9), stacked in any::<bool>(),
        dtype in prop::sample::select(&FLOATS[..]),
    ) {
        let k = groups * scheme.group_size.max(32);
        let shape = if stacked { vec![3, n, k] } else { vec![n, k] };
        let w = quant::quantize(&normal(&shape, 5, dtype), scheme).unwrap();
        let panels = arranged(&w, scheme).unwrap();
        prop_assert_eq!(panels.shape(), shape);
        let back = panels.restore().unwrap();
        let arrays = |w: &Packed| -> Vec<Array> {
            [&w.weight, &w.scales].into_iter().chain(&w.biases).cloned().collect()
        };
        prop_assert_eq!(arrays(&w).iter().map(Array::nbytes).sum::<usize>(), panels.nbytes());
        for (a, b) in arrays(&w).iter().zip(&arrays(&back)) {
            prop_assert_eq!((a.shape(), a.dtype()), (b.shape(), b.dtype()));
            prop_assert!(a.eq_values(b).unwrap(), "{}", scheme);
        }
    }
}

#[test]
fn what_panels_do_in_f32_and_backwards_is_what_rows_do() {
    for scheme in all_schemes() {
        let w = weights(40, 256, scheme, Dtype::Bfloat16);
        let panels = arranged(&w, scheme).unwrap();
        let near = |a: &Array, b: &Array| {
            let [a, b] = [a, b].map(|a| a.as_dtype(Dtype::Float32).unwrap().to_vec_exact::<f32>().unwrap());
            a.iter().zip(&b).for_each(|(a, b)| assert!((a - b).abs() <= 1e-4 + 0.01 * b.abs(), "{scheme}: {a} {b}"));
        };
        for dtype in [Dtype::Float32, Dtype::Bfloat16] {
            let (x, back) = (normal(&[3, 256], 3, dtype), normal(&[3, 40], 4, dtype));
            near(&panels.matmul(&x, true).unwrap(), &quant::quantized_matmul(&x, &w, scheme, true).unwrap());
            near(&panels.matmul(&back, false).unwrap(), &quant::quantized_matmul(&back, &w, scheme, false).unwrap());
        }
        let ids = Array::from_slice(&[39, 0, -1, 17, 16], &[5]);
        let want = quant::quantized_rows(&w, scheme, &ids).unwrap();
        assert_eq!(bits(&panels.rows(&ids).unwrap()), bits(&want));
    }
}

#[test]
fn experts_in_panels_are_those_in_rows() {
    let scheme = Mode::Affine.default_scheme();
    let w = quant::quantize(&normal(&[4, 24, 128], 5, Dtype::Bfloat16), scheme).unwrap();
    let (panels, x) = (arranged(&w, scheme).unwrap(), normal(&[6, 1, 128], 3, Dtype::Bfloat16));
    let indices = Array::from_slice(&[3_u32, 0, 3, 1, 9, 0], &[6]);
    let got = panels.gather_matmul(&x, &indices, false).unwrap();
    assert_eq!(bits(&got), bits(&quant::gather_quantized_matmul(&x, &w, scheme, &indices, false).unwrap()));
}

#[test]
fn what_panels_are_not_made_for_stays_in_rows() {
    let scheme = Mode::Affine.default_scheme();
    let w = weights(16, 64, scheme, Dtype::Float32);
    let other = w.biases.as_ref().map(|biases| biases.as_dtype(Dtype::Bfloat16).unwrap());
    assert!(arranged(&Packed { biases: other, ..w.clone() }, scheme).is_none());
    assert!(arranged(&Packed { biases: None, ..w.clone() }, scheme).is_none());
    assert!(arranged(&w, Mode::Mxfp8.default_scheme()).is_none());
}

#[test]
fn products_at_once_are_those_one_by_one() {
    let of = |bits: i32, rows: i32| {
        let scheme = Scheme::new(Mode::Affine, bits, 64).unwrap();
        arranged(&weights(rows, 192, scheme, Dtype::Bfloat16), scheme).unwrap()
    };
    let all = [of(4, 40), of(6, 17), of(4, 33)];
    let together: Vec<&Panels> = all.iter().collect();
    for (rows, dtype) in [(1, Dtype::Bfloat16), (3, Dtype::Bfloat16), (70, Dtype::Bfloat16), (3, Dtype::Float32)] {
        let mut values = normal(&[rows, 192], 3, Dtype::Float32).to_vec_exact::<f32>().unwrap();
        values[192 * rows as usize / 2] = if rows == 3 { f32::NAN } else { 0.5 };
        let x = Array::from_slice(&values, &[1, rows, 192]).as_dtype(dtype).unwrap();
        let results = Panels::matmuls(&x, &together).unwrap();
        assert_eq!(results.len(), all.len());
        for (w, got) in all.iter().zip(&results) {
            let want = w.matmul(&x, true).unwrap();
            assert_eq!(got.shape(), want.shape());
            assert!(bits(got).iter().zip(bits(&want)).all(|(a, b)| *a == b || f32::from_bits(*a).is_nan()));
        }
    }
    // A matrix with other columns does not go together.
    let other = Scheme::new(Mode::Affine, 4, 32).unwrap();
    let other = arranged(&weights(8, 192, other, Dtype::Bfloat16), other).unwrap();
    let x = normal(&[1, 192], 3, Dtype::Bfloat16);
    assert!(crate::kernels::panels_matmuls(&x, &[&all[0], &other]).unwrap().is_none());
    assert_eq!(Panels::matmuls(&x, &[&all[0], &other]).unwrap().len(), 2);
}

#[test]
fn gradients_of_products_at_once_are_those_one_by_one() {
    let scheme = Mode::Affine.default_scheme();
    let all = [24, 40].map(|rows| arranged(&weights(rows, 128, scheme, Dtype::Bfloat16), scheme).unwrap());
    let x = normal(&[3, 128], 3, Dtype::Bfloat16);
    let loss = |products: Vec<Array>| -> Result<Array, Exception> {
        let squares = products.iter().map(|y| y.as_dtype(Dtype::Float32)?.square()?.sum(None));
        squares.reduce(|a, b| a?.add(b?)).unwrap()
    };
    let at_once = |x: &Array| loss(Panels::matmuls(x, &[&all[0], &all[1]])?);
    let one_by_one = |x: &Array| loss(all.iter().map(|w| w.matmul(x, true)).collect::<Result<_, _>>()?);
    let (got, want) = (transforms::grad(at_once)(&x).unwrap(), transforms::grad(one_by_one)(&x).unwrap());
    let [got, want] = [got, want].map(|a| a.as_dtype(Dtype::Float32).unwrap().to_vec_exact::<f32>().unwrap());
    got.iter().zip(&want).for_each(|(a, b)| assert!((a - b).abs() <= 0.02 * (1.0 + b.abs()), "{a} is not {b}"));
}
