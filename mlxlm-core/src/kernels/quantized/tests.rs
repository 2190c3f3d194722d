//! The kernel against the plain version, at every level of the machine.

use std::slice::from_ref;

use proptest::prelude::*;

use super::*;
use crate::fast::testing;
use crate::pages::Arena;
use crate::quant;
use crate::transforms;

/// Every scheme that MLX has.
fn schemes() -> Vec<Scheme> {
    let affine = [2, 3, 4, 5, 6, 8].into_iter().flat_map(|bits| [32, 64, 128].map(|group| (Mode::Affine, bits, group)));
    let float = [(Mode::Mxfp4, 4, 32), (Mode::Mxfp8, 8, 32), (Mode::Nvfp4, 4, 16)];
    affine.chain(float).map(|(mode, bits, group)| Scheme::new(mode, bits, group).unwrap()).collect()
}

fn noise(seed: u64, i: usize) -> f32 {
    let mut x = seed.wrapping_add(i as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 31)).wrapping_mul(0xD6E8_FEB8_6659_FD93);
    ((x >> 40) as f32) / 8_388_608.0 - 1.0
}

fn random(shape: &[i32], seed: u64, dtype: Dtype) -> Array {
    let len: i32 = shape.iter().product();
    let values: Vec<f32> = (0..len as usize).map(|i| noise(seed, i)).collect();
    Array::from_slice(&values, shape).as_dtype(dtype).unwrap()
}

fn floats(a: &Array) -> Vec<f32> {
    let a = a.as_dtype(Dtype::Float32).unwrap();
    if a.size() == 0 { Vec::new() } else { a.contiguous().unwrap().to_vec_exact::<f32>().unwrap() }
}

fn packed(rows: i32, columns: i32, scheme: Scheme, dtype: Dtype) -> Packed {
    quant::quantize(&random(&[rows, columns], 7, dtype), scheme).unwrap()
}

/// Our operation at a level, whatever the environment says.
fn ours(isa: Isa, x: &Array, w: &Packed, scheme: Scheme, transpose: bool) -> Array {
    assert!(fits(x, w, scheme, transpose), "{scheme}");
    let mut shape = x.shape().to_vec();
    *shape.last_mut().unwrap() = if transpose { w.weight.dim(0) } else { w.scales.dim(1) * scheme.group_size };
    let inputs: Vec<&Array> = [x, &w.weight, &w.scales].into_iter().chain(&w.biases).collect();
    apply_one(QuantizedMatmul { stored: Stored::Rows(scheme), transpose, isa }, &inputs, &shape, x.dtype()).unwrap()
}

/// The exact product: for each element the sum, and what it may be off by before it is rounded: by f32 sums, where a
/// code times its scale and the bias nearly cancel too, and where activations are in fixed point, half a step for each
/// of them.
fn exact(x: &Array, w: &Packed, scheme: Scheme, transpose: bool) -> Vec<(f64, f64)> {
    let bits = if x.dtype() == Dtype::Float32 { 30 } else { 14 };
    let fixed = transpose && scheme.mode != Mode::Mxfp8;
    let dense = weights_of(w, scheme);
    let (rows, columns) = (w.weight.dim(0) as usize, (w.scales.dim(1) * scheme.group_size) as usize);
    let (k, n) = if transpose { (columns, rows) } else { (rows, columns) };
    let at = |k: usize, n: usize| if transpose { dense[n * columns + k] } else { dense[k * columns + n] };
    let element = |x: &[f32], n: usize| {
        let most = x.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
        let half_step = if fixed { 2.0_f64.powi(-bits) * f64::from(most) } else { 0.0 };
        let terms = x.iter().enumerate().map(|(k, x)| (f64::from(*x), at(k, n)));
        terms.fold((0.0, 0.0), |(sum, off), (x, Weight { value, parts })| {
            (sum + x * value, off + 4e-6 * x.abs() * parts + half_step * value.abs())
        })
    };
    let x = floats(x);
    x.chunks_exact(k.max(1)).flat_map(|x| (0..n).map(move |n| element(x, n)).collect::<Vec<_>>()).collect()
}

/// A weight, and the magnitude of the two numbers that it is the sum of: a code times its scale, and the bias.
#[derive(Clone, Copy)]
struct Weight {
    value: f64,
    parts: f64,
}

/// The weights in f64, from the codes.
fn weights_of(w: &Packed, scheme: Scheme) -> Vec<Weight> {
    let words = w.weight.to_vec_exact::<u32>().unwrap();
    let bits = scheme.bits as usize;
    let columns = (w.scales.dim(1) * scheme.group_size) as usize;
    let params: Vec<(f64, f64)> = match &w.biases {
        Some(biases) => {
            floats(&w.scales).iter().zip(floats(biases)).map(|(s, b)| (f64::from(*s), f64::from(b))).collect()
        }
        None => {
            let scale = if scheme.mode == Mode::Nvfp4 { weights::e4m3 } else { weights::e8m0 };
            w.scales.to_vec_exact::<u8>().unwrap().iter().map(|&s| (f64::from(scale(s)), 0.0)).collect()
        }
    };
    let value = |code: u32| match scheme.mode {
        Mode::Affine => f64::from(code),
        Mode::Mxfp8 => f64::from(weights::e4m3(code as u8)),
        _ => f64::from(weights::E2M1[code as usize]),
    };
    let row = |(row, words): (usize, &[u32])| {
        let weight = |i| {
            let (scale, bias) = params[row * columns / scheme.group_size as usize + i / scheme.group_size as usize];
            let scaled = scale * value(weights::code(words, bits, i));
            Weight { value: scaled + bias, parts: scaled.abs() + bias.abs() }
        };
        (0..columns).map(weight).collect::<Vec<_>>()
    };
    words.chunks_exact(columns * bits / 32).enumerate().flat_map(row).collect()
}

fn check(scheme: Scheme, x: &Array, w: &Packed, transpose: bool) {
    let exact = exact(x, w, scheme, transpose);
    // Half a step of the type, beside its numbers and below its smallest normal one.
    let (rounding, least) = match x.dtype() {
        Dtype::Float32 => (0.0, 1e-30),
        Dtype::Float16 => (2.0_f64.powi(-11), 2.0_f64.powi(-25)),
        _ => (2.0_f64.powi(-8), 1e-30),
    };
    for isa in Isa::available() {
        let result = floats(&ours(isa, x, w, scheme, transpose));
        assert_eq!(result.len(), exact.len());
        for (i, (got, (want, off))) in result.iter().zip(&exact).enumerate() {
            let tolerance = off + rounding * (want.abs() + off) + least;
            let got = f64::from(*got);
            assert!((got - want).abs() <= tolerance, "{isa} {scheme} {:?} {i}: {got} is not {want}", x.dtype());
        }
    }
}

const FLOATS: [Dtype; 3] = [Dtype::Float32, Dtype::Float16, Dtype::Bfloat16];

#[test]
fn every_scheme_and_type_agrees_with_exact_sums() {
    for scheme in schemes() {
        for dtype in FLOATS {
            let w = packed(37, 384, scheme, dtype);
            for rows in [1, 3] {
                check(scheme, &random(&[rows, 384], 3, dtype), &w, true);
                check(scheme, &random(&[rows, 37], 4, dtype), &w, false);
            }
        }
    }
}

#[test]
fn unpacking_agrees_with_mlx_for_every_code() {
    for scheme in schemes() {
        let bits = scheme.bits as usize;
        // Every code occurs in every place of a run.
        let words: Vec<u32> = (0..24 * 4 * bits).map(|i| (i as u32).wrapping_mul(0x9E37_79B9) ^ i as u32).collect();
        let weight = Array::from_slice(&words, &[24, 4 * bits as i32]);
        let groups = 128 / scheme.group_size;
        let (scales, biases) = match scheme.mode {
            Mode::Affine => (random(&[24, groups], 1, Dtype::Float32), Some(random(&[24, groups], 2, Dtype::Float32))),
            _ => {
                // All 8-bit scales that keep weights finite, the smallest ones too.
                let scales: Vec<u8> = (0..24 * groups).map(|i| (i % 120) as u8).collect();
                (Array::from_slice(&scales, &[24, groups]), None)
            }
        };
        let w = Packed { weight, scales, biases };
        let mlx = floats(&quant::dequantize(&w, scheme, Some(Dtype::Float32)).unwrap());
        let exact = weights_of(&w, scheme);
        for (i, (mlx, Weight { value: exact, .. })) in mlx.iter().zip(&exact).enumerate() {
            let near = (f64::from(*mlx) - exact).abs() <= 1e-6 * exact.abs().max(1e-30) + 2e-6;
            assert!(near, "{scheme} {i}: MLX has {mlx}, we have {exact}");
        }
    }
}

#[test]
fn layouts_and_shapes() {
    let scheme = Scheme::new(Mode::Affine, 4, 32).unwrap();
    let w = packed(24, 64, scheme, Dtype::Float32);
    let x = random(&[2, 3, 64], 5, Dtype::Float32);
    check(scheme, &x, &w, true);
    let transposed = random(&[64, 3, 2], 5, Dtype::Float32).transpose().unwrap();
    check(scheme, &transposed, &w, true);
    check(scheme, &ops::broadcast_to(random(&[64], 5, Dtype::Float32), &[4, 64]).unwrap(), &w, true);
    check(scheme, &ops::zeros::<f32>(&[0, 64]).unwrap(), &w, true);
    check(scheme, &random(&[64], 5, Dtype::Float32), &w, true);
}

#[test]
fn what_does_not_fit_is_left_to_mlx() {
    let scheme = Scheme::new(Mode::Affine, 4, 32).unwrap();
    let w = packed(8, 64, scheme, Dtype::Float32);
    let x = random(&[2, 64], 5, Dtype::Float32);
    assert!(quantized_matmul(&x, &w, scheme, true).unwrap().is_some());
    assert!(quantized_matmul(&random(&[2, 32], 5, Dtype::Float32), &w, scheme, true).unwrap().is_none());
    assert!(quantized_matmul(&x.as_dtype(Dtype::Int32).unwrap(), &w, scheme, true).unwrap().is_none());
    let without = Packed { biases: None, ..w.clone() };
    assert!(quantized_matmul(&x, &without, scheme, true).unwrap().is_none());
    let other = Scheme::new(Mode::Affine, 8, 32).unwrap();
    assert!(quantized_matmul(&x, &w, other, true).unwrap().is_none());
}

#[test]
fn activations_of_another_type_than_the_scales_are_computed_with_in_f32() {
    let scheme = Scheme::new(Mode::Affine, 4, 32).unwrap();
    for (of_x, of_w) in [(Dtype::Bfloat16, Dtype::Float16), (Dtype::Float16, Dtype::Float32)] {
        let w = packed(24, 64, scheme, of_w);
        let panels = Panels::arrange(&w, scheme, &mut Arena::default()).unwrap().unwrap();
        let x = random(&[3, 64], 5, of_x);
        let wide = x.as_dtype(Dtype::Float32).unwrap();
        let want = quantized_matmul(&wide, &w, scheme, true).unwrap().unwrap();
        let all = panels_matmuls(&x, &[&panels, &panels]).unwrap().unwrap();
        let got =
            [quantized_matmul(&x, &w, scheme, true), panels_matmul(&x, &panels, true)].map(|y| y.unwrap().unwrap());
        for got in got.iter().chain(&all) {
            assert_eq!((got.dtype(), floats(got)), (Dtype::Float32, floats(&want)));
        }
        let loss = |x: &Array| quantized_matmul(x, &w, scheme, true)?.unwrap().square()?.sum(None);
        let gradient = transforms::grad(loss)(&x).unwrap();
        assert_eq!(gradient.dtype(), of_x);
        let want = transforms::grad(loss)(&wide).unwrap().as_dtype(of_x).unwrap();
        assert_eq!(floats(&gradient), floats(&want));
        let stack = |a: &Array| a.expand_dims(0).unwrap();
        let stack = Packed { weight: stack(&w.weight), scales: stack(&w.scales), biases: w.biases.as_ref().map(stack) };
        let indices = Array::from_slice(&[0_u32; 3], &[3]);
        let gather = |x: &Array| {
            gather_quantized_matmul(&x.reshape(&[3, 1, 64]).unwrap(), &stack, scheme, &indices).unwrap().unwrap()
        };
        assert_eq!((gather(&x).dtype(), floats(&gather(&x))), (Dtype::Float32, floats(&gather(&wide))));
    }
}

/// How far results are from the exact ones together.
fn distance(result: &Array, exact: &[(f64, f64)]) -> f64 {
    let squares = floats(result).into_iter().zip(exact).map(|(got, (want, _))| (f64::from(got) - want).powi(2));
    squares.sum::<f64>().sqrt()
}

#[test]
fn no_worse_than_mlx_at_the_same_type() {
    for (scheme, dtype) in schemes().into_iter().flat_map(|scheme| FLOATS.map(|dtype| (scheme, dtype))) {
        let (w, x) = (packed(32, 512, scheme, dtype), random(&[2, 512], 9, dtype));
        let exact = exact(&x, &w, scheme, true);
        let error = |result: &Array| distance(result, &exact);
        let theirs = error(&quant::mlx_quantized_matmul(&x, &w, scheme, true).unwrap());
        for isa in Isa::available() {
            let ours = error(&ours(isa, &x, &w, scheme, true));
            assert!(ours <= theirs, "{isa} {scheme} {dtype:?}: {ours:e} against {theirs:e}");
        }
    }
}

/// A number that is much larger than the others of its group must not cost them their last bits, where a weight hides it.
#[test]
fn outliers_do_not_make_it_worse_than_mlx() {
    let all = schemes().into_iter().flat_map(|scheme| FLOATS.map(|dtype| (scheme, dtype)));
    for ((scheme, dtype), k) in all.flat_map(|of| [128, 1024].map(|k| (of, k))) {
        let mut dense = floats(&random(&[32, k], 7, Dtype::Float32));
        dense.iter_mut().skip(40).step_by(k as usize).for_each(|weight| *weight = 0.0);
        let w = quant::quantize(&Array::from_slice(&dense, &[32, k]).as_dtype(dtype).unwrap(), scheme).unwrap();
        for size in [0.0, 10.0, 100.0, 1000.0, 10_000.0] {
            let mut x = floats(&testing::normal(&[2, k], 9));
            x[40] = size;
            let x = Array::from_slice(&x, &[2, k]).as_dtype(dtype).unwrap();
            let exact = exact(&x, &w, scheme, true);
            let error = |result: &Array| distance(result, &exact);
            let theirs = error(&quant::mlx_quantized_matmul(&x, &w, scheme, true).unwrap());
            let most = match dtype {
                // Where scale and bias hide the number, their products with it are rounded apart.
                Dtype::Float32 => 1.1 * theirs + f64::from(size * f32::EPSILON) * f64::sqrt(32.0),
                _ => theirs,
            };
            for isa in Isa::available() {
                let ours = error(&ours(isa, &x, &w, scheme, true));
                assert!(ours <= most, "{isa} {scheme} {dtype:?} {k} {size}: {ours:e} against {theirs:e}");
            }
        }
    }
}

#[test]
fn many_rows_are_no_worse_than_mlx_at_the_same_type() {
    for scheme in schemes() {
        let (w, x) =
            (packed(40, 256, scheme, Dtype::Bfloat16), random(&[INVARIANT_ROWS as i32 + 7, 256], 9, Dtype::Bfloat16));
        let exact = exact(&x, &w, scheme, true);
        let error = |result: &Array| distance(result, &exact);
        let theirs = error(&quant::mlx_quantized_matmul(&x, &w, scheme, true).unwrap());
        for isa in Isa::available() {
            let ours = error(&ours(isa, &x, &w, scheme, true));
            assert!(ours <= 1.01 * theirs, "{isa} {scheme}: {ours:e} against {theirs:e}");
        }
    }
}

#[test]
fn many_rows_and_columns_use_every_path() {
    // More rows than one pass, more outputs than a slice, more columns than a block, half a unit at the end.
    let (affine, nvfp4) = (Mode::Affine.default_scheme(), Mode::Nvfp4.default_scheme());
    for (scheme, m, n, k) in [(affine, 530, 300, 1088), (affine, 70, 2100, 576), (nvfp4, 70, 40, 1040)] {
        let (w, x) = (packed(n, k, scheme, Dtype::Bfloat16), random(&[m, k], 9, Dtype::Bfloat16));
        let panels = Panels::arrange(&w, scheme, &mut Arena::default()).unwrap().unwrap();
        let dense: Vec<f32> = weights_of(&w, scheme).into_iter().map(|w| w.value as f32).collect();
        let wide = x.as_dtype(Dtype::Float32).unwrap();
        let want = floats(&ops::matmul(&wide, Array::from_slice(&dense, &[n, k]).t()).unwrap());
        for isa in Isa::available() {
            let operation = QuantizedMatmul { stored: Stored::Panels(panels.layout), transpose: true, isa };
            let by_panels = apply_one(operation, &[&x, &panels.lines], &[m, n], Dtype::Bfloat16).unwrap();
            for got in [ours(isa, &x, &w, scheme, true), by_panels] {
                for (i, (got, want)) in floats(&got).iter().zip(&want).enumerate() {
                    // Weights rounded to bf16, and the result.
                    let tolerance = 0.004 * want.abs() + 0.004 * (k as f32).sqrt();
                    assert!(
                        (got - want).abs() <= tolerance,
                        "{isa} {scheme} {m} × {k} × {n}, {i}: {got} is not {want}"
                    );
                }
            }
        }
    }
}

#[test]
fn trained_matrices_and_their_gradients_are_the_plain_ones() {
    for scheme in schemes().into_iter().filter(|scheme| scheme.mode == Mode::Affine) {
        let w = quant::quantize(&random(&[3, 5, 256], 7, Dtype::Float32), scheme).unwrap();
        let factors = random(&[3, 5, 256], 6, Dtype::Float32);
        let with = |make: &dyn Fn(&Packed) -> Result<Array, Exception>| {
            let loss = |a: &[Array]| -> Result<Vec<Array>, Exception> {
                let w = Packed { weight: w.weight.clone(), scales: a[0].clone(), biases: Some(a[1].clone()) };
                let dense = make(&w)?;
                Ok(vec![dense.multiply(&factors)?.sum(None)?, dense])
            };
            let all = [w.scales.clone(), w.biases.clone().unwrap()];
            let (values, gradients) = transforms::value_and_grad_with_argnums(loss, &[0, 1][..])(&all).unwrap();
            [&values[1], &gradients[0], &gradients[1]].map(floats)
        };
        let got = with(&|w| dense(w, scheme)?.ok_or_else(|| Exception::custom("does not fit")));
        let want = with(&|w| quant::plain_dense(w, scheme));
        for (got, want) in got.iter().flatten().zip(want.iter().flatten()) {
            assert!((got - want).abs() <= 1e-5 * (1.0 + want.abs()), "{scheme}: {got} is not {want}");
        }
    }
}

#[test]
fn gradients_are_those_of_the_dense_product() {
    let scheme = Scheme::new(Mode::Affine, 4, 32).unwrap();
    let w = packed(6, 64, scheme, Dtype::Float32);
    let x = random(&[3, 64], 5, Dtype::Float32);
    let factors = random(&[3, 6], 6, Dtype::Float32);
    let dense = quant::dequantize(&w, scheme, None).unwrap();
    let all = [x.clone(), w.scales.clone(), w.biases.clone().unwrap()];
    let loss = |a: &[Array]| -> Result<Vec<Array>, Exception> {
        let w = Packed { weight: w.weight.clone(), scales: a[1].clone(), biases: Some(a[2].clone()) };
        let y = quantized_matmul(&a[0], &w, scheme, true)?.ok_or_else(|| Exception::custom("does not fit"))?;
        Ok(vec![y.multiply(&factors)?.sum(None)?])
    };
    let (_, gradients) = transforms::value_and_grad_with_argnums(loss, &[0, 1, 2][..])(&all).unwrap();
    let want_x = floats(&ops::matmul(&factors, &dense).unwrap());
    let near = |a: &[f32], b: &[f32]| {
        assert_eq!(a.len(), b.len());
        a.iter().zip(b).for_each(|(a, b)| assert!((a - b).abs() < 1e-4, "{a} is not {b}"));
    };
    near(&floats(&gradients[0]), &want_x);
    let of_weights = floats(&ops::matmul(factors.t(), &x).unwrap());
    let words = w.weight.to_vec_exact::<u32>().unwrap();
    let group = |g: usize, f: &dyn Fn(usize) -> f32| (g * 32..g * 32 + 32).map(f).sum::<f32>();
    let codes = |i: usize| weights::code(&words[i / 64 * 8..], 4, i % 64) as f32;
    let want_scales: Vec<f32> = (0..12).map(|g| group(g, &|i| of_weights[i] * codes(i))).collect();
    let want_biases: Vec<f32> = (0..12).map(|g| group(g, &|i| of_weights[i])).collect();
    near(&floats(&gradients[1]), &want_scales);
    near(&floats(&gradients[2]), &want_biases);
}

#[test]
fn gradients_are_those_of_mlx_and_what_steps_make() {
    for scheme in schemes() {
        let w = packed(12, 128, scheme, Dtype::Float32);
        let panels = Panels::arrange(&w, scheme, &mut Arena::default()).unwrap().unwrap();
        for transpose in [true, false] {
            let x = random(&[2, 3, if transpose { 128 } else { 12 }], 5, Dtype::Float32);
            let mlx = |x: &[Array]| quant::mlx_quantized_matmul(&x[0], &w, scheme, transpose);
            let ours = |x: &[Array]| quant::quantized_matmul(&x[0], &w, scheme, transpose);
            testing::check(from_ref(&x), ours, mlx);
            testing::check(from_ref(&x), |x| panels.matmul(&x[0], transpose), mlx);
            let Some(biases) = w.biases.clone() else { continue };
            let with = |p: &[Array]| Packed { scales: p[1].clone(), biases: Some(p[2].clone()), ..w.clone() };
            testing::check(
                &[x, w.scales.clone(), biases],
                |x| quant::quantized_matmul(&x[0], &with(x), scheme, transpose),
                |x| quant::mlx_quantized_matmul(&x[0], &with(x), scheme, transpose),
            );
        }
    }
}

#[test]
fn no_rows_give_none() {
    for scheme in schemes() {
        let w = packed(12, 128, scheme, Dtype::Float32);
        let panels = Panels::arrange(&w, scheme, &mut Arena::default()).unwrap().unwrap();
        for (shape, transpose) in [([0, 3, 128], true), ([2, 0, 128], true), ([0, 3, 12], false)] {
            let x = ops::zeros::<f32>(&shape).unwrap();
            let want = quant::mlx_quantized_matmul(&x, &w, scheme, transpose).unwrap();
            for isa in Isa::available() {
                assert!(testing::same_bits(&ours(isa, &x, &w, scheme, transpose), &want), "{isa} {scheme} {shape:?}");
            }
            assert!(testing::same_bits(&panels.matmul(&x, transpose).unwrap(), &want), "{scheme} {shape:?}");
            if transpose {
                let both = Panels::matmuls(&x, &[&panels, &panels]).unwrap();
                assert!(both.iter().all(|got| testing::same_bits(got, &want)), "{scheme} {shape:?}");
            }
        }
    }
}

fn any_scheme() -> impl Strategy<Value = Scheme> {
    proptest::sample::select(schemes())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn random_shapes_agree_with_exact_sums(
        scheme in any_scheme(), (m, n, groups) in (1_i32..20, 1_i32..50, 1_i32..9),
        dtype in proptest::sample::select(&FLOATS[..]), transpose in any::<bool>(),
    ) {
        let w = packed(n, groups * scheme.group_size.max(32), scheme, dtype);
        let k = if transpose { groups * scheme.group_size.max(32) } else { n };
        check(scheme, &random(&[m, k], 11, dtype), &w, transpose);
    }

    #[test]
    fn a_row_has_the_same_bits_alone_and_in_company(
        scheme in any_scheme(), (m, n, groups) in (1_i32..=INVARIANT_ROWS as i32, 1_i32..40, 1_i32..6), dtype in proptest::sample::select(&FLOATS[..]),
    ) {
        let k = groups * scheme.group_size.max(32);
        let (w, x) = (packed(n, k, scheme, dtype), random(&[m, k], 12, dtype));
        for isa in Isa::available() {
            let together = floats(&ours(isa, &x, &w, scheme, true));
            for row in [0, m / 2, m - 1] {
                let alone = floats(&ours(isa, &x.take_axis(Array::from_slice(&[row], &[1]), 0).unwrap(), &w, scheme, true));
                let same = alone.iter().zip(&together[(row * n) as usize..]).all(|(a, b)| a.to_bits() == b.to_bits());
                prop_assert!(same, "{} {} row {} of {}", isa, scheme, row, m);
            }
        }
    }
}
