//! All levels against the plain one, bit by bit, and a row alone against the same row in company.

use mlx_rs::{Array, Dtype};
use proptest::prelude::*;

use crate::kernels::isa::Isa;
use crate::kernels::primitive::apply_one;
use crate::kernels::quantized::{FEW, QuantizedMatmul};
use crate::quant::{self, Mode, Packed, Scheme};

fn schemes() -> Vec<Scheme> {
    let affine = [2, 3, 4, 5, 6, 8].into_iter().flat_map(|bits| [32, 64, 128].map(|group| (Mode::Affine, bits, group)));
    let float = [(Mode::Mxfp4, 4, 32), (Mode::Nvfp4, 4, 16)];
    affine.chain(float).map(|(mode, bits, group)| Scheme::new(mode, bits, group).unwrap()).collect()
}

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
    apply_one(QuantizedMatmul { scheme, transpose: true, isa }, &inputs, &shape, x.dtype()).unwrap()
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
        half in any::<bool>(),
    ) {
        let dtype = if half { Dtype::Float16 } else { Dtype::Bfloat16 };
        let k = groups * scheme.group_size.max(32);
        let (x, w) = (normal(&[m, k], 3, dtype), weights(n, k, scheme, dtype));
        let plain = bits(&product(Isa::Portable, &x, &w, scheme));
        for isa in Isa::available() {
            prop_assert!(bits(&product(isa, &x, &w, scheme)) == plain, "{} {}", isa, scheme);
        }
    }

    #[test]
    fn a_row_has_the_same_bits_alone_and_in_company(
        scheme in prop::sample::select(schemes()), (m, n) in (1_i32..=FEW as i32 + 1, 1_i32..40), row in any::<prop::sample::Index>(),
    ) {
        let (x, w) = (normal(&[m, 256], 3, Dtype::Bfloat16), weights(n, 256, scheme, Dtype::Bfloat16));
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
    let (x, w) = (normal(&[530, 1088], 3, Dtype::Bfloat16), weights(600, 1088, scheme, Dtype::Bfloat16));
    let want = bits(&product(Isa::Avx2, &x, &w, scheme));
    for isa in Isa::available().filter(|isa| *isa > Isa::Avx2) {
        assert!(bits(&product(isa, &x, &w, scheme)) == want, "{isa}");
    }
}

#[test]
fn a_row_that_is_not_finite_spoils_no_other() {
    let scheme = Scheme::new(Mode::Affine, 4, 64).unwrap();
    let w = weights(40, 128, scheme, Dtype::Bfloat16);
    let x = normal(&[3, 128], 3, Dtype::Bfloat16);
    let spoilt = |value: f32| {
        let mut values = x.as_dtype(Dtype::Float32).unwrap().to_vec_exact::<f32>().unwrap();
        values[130] = value;
        Array::from_slice(&values, &[3, 128]).as_dtype(Dtype::Bfloat16).unwrap()
    };
    for isa in Isa::available() {
        let clean = bits(&product(isa, &x, &w, scheme));
        for value in [f32::NAN, f32::INFINITY] {
            let got = bits(&product(isa, &spoilt(value), &w, scheme));
            assert!(got[..40] == clean[..40] && got[80..] == clean[80..], "{isa}");
            assert!(got[40..80].iter().all(|v| !f32::from_bits(*v).is_finite()), "{isa}");
        }
    }
}
