//! Packed tensors against what the Python package `gguf` makes of the same bytes.

use std::path::Path;

use mlxlm_core::quant::{Mode, Packed, Scheme, dequantize};
use mlxlm_core::weights::SafetensorsFile;
use mlxlm_core::weights::gguf::{GgufFile, GgufTensor, TensorType};
use mlxlm_core::{Array, Dtype};

use super::builder::Builder;

/// The tensor of a type as it is read, and its weights by the reference, `[2, 256]`.
fn blocks(kind: TensorType) -> (GgufTensor, Vec<f32>) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/gguf/blocks.safetensors");
    let recorded = SafetensorsFile::open(path).unwrap();
    let part = |part: &str| recorded.array(&format!("{}.{part}", kind.name())).unwrap();
    let bytes = part("bytes").to_vec_exact::<u8>().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = Builder::new().tensor("a", &[256, 2], kind.number(), &bytes).write(folder.path(), "a.gguf");
    let tensor = GgufFile::open(path).unwrap().tensor("a").unwrap();
    (tensor, part("weights").to_vec_exact::<f32>().unwrap())
}

/// The weights of packed rows, computed in `f32`.
fn weights(packed: &Packed, scheme: Scheme) -> Vec<f32> {
    let wide = |array: &Array| match array.dtype().is_float() {
        true => array.as_dtype(Dtype::Float32).unwrap(),
        false => array.clone(),
    };
    let biases = packed.biases.as_ref().map(wide);
    let packed = Packed { weight: packed.weight.clone(), scales: wide(&packed.scales), biases };
    let weights = dequantize(&packed, scheme, Some(Dtype::Float32)).unwrap();
    assert_eq!(weights.shape(), [2, 256]);
    weights.to_vec_exact::<f32>().unwrap()
}

#[test]
fn what_mlx_has_a_mode_for_keeps_every_bit() {
    use TensorType::{MXFP4, Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q8_0};
    let cases = [
        (Q4_0, 4, Some(Dtype::Float16)),
        (Q4_1, 4, Some(Dtype::Float16)),
        (Q5_0, 5, Some(Dtype::Float16)),
        (Q5_1, 5, Some(Dtype::Float16)),
        (Q8_0, 8, Some(Dtype::Float16)),
        (Q4_K, 4, Some(Dtype::Float32)),
        (Q5_K, 5, Some(Dtype::Float32)),
        (MXFP4, 4, None),
    ];
    for (kind, bits, scales) in cases {
        let (tensor, expected) = blocks(kind);
        let GgufTensor::Packed { packed, scheme, repacked: None } = tensor else { panic!("{kind:?}") };
        let mode = if scales.is_some() { Mode::Affine } else { Mode::Mxfp4 };
        assert_eq!((scheme.mode, scheme.bits, scheme.group_size), (mode, bits, 32), "{kind:?}");
        assert_eq!(packed.scales.dtype(), scales.unwrap_or(Dtype::Uint8), "{kind:?}");
        assert_eq!(weights(&packed, scheme), expected, "{kind:?}");
    }
}

#[test]
fn groups_of_sixteen_are_packed_anew_and_the_error_is_reported() {
    for (kind, bits, most) in [(TensorType::Q2_K, 4, 0.08), (TensorType::Q3_K, 5, 0.04), (TensorType::Q6_K, 8, 0.006)] {
        let (tensor, expected) = blocks(kind);
        let GgufTensor::Packed { packed, scheme, repacked: Some(repacked) } = tensor else { panic!("{kind:?}") };
        assert_eq!((scheme.mode, scheme.bits, scheme.group_size), (Mode::Affine, bits, 32), "{kind:?}");
        let squares = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>();
        let pairs = || weights(&packed, scheme).into_iter().zip(&expected);
        let lost = squares(&mut pairs().map(|(a, b)| f64::from(a - b)));
        let error = (lost / squares(&mut expected.iter().map(|&w| f64::from(w)))).sqrt();
        assert_eq!(repacked.from, kind);
        assert!((repacked.error - error).abs() < 1e-4, "{kind:?}: {} for {error}", repacked.error);
        assert!(error > 0.0 && error < most, "{kind:?}: {error}");
    }
}

#[test]
fn scales_that_half_floats_cannot_hold_stay_in_full_ones() {
    // -8 times this scale is beyond the range of f16.
    let block = [&half::f16::from_f32(10_000.0).to_le_bytes()[..], &[0x80; 16]].concat();
    let folder = tempfile::tempdir().unwrap();
    let path = Builder::new().tensor("a", &[32, 1], 2, &block).write(folder.path(), "a.gguf");
    let tensor = GgufFile::open(path).unwrap().tensor("a").unwrap();
    let GgufTensor::Packed { packed, .. } = tensor else { panic!("{tensor:?}") };
    assert_eq!(packed.scales.dtype(), Dtype::Float32);
    assert_eq!(packed.biases.unwrap().to_vec_exact::<f32>().unwrap(), [-80_000.0]);
}

#[test]
fn a_packed_vector_is_unpacked() {
    let block = [&half::f16::from_f32(0.5).to_le_bytes()[..], &[0x98; 16]].concat();
    let folder = tempfile::tempdir().unwrap();
    let path = Builder::new().tensor("a", &[32], 2, &block).write(folder.path(), "a.gguf");
    let GgufTensor::Dense(vector) = GgufFile::open(path).unwrap().tensor("a").unwrap() else { panic!("it is packed") };
    let expected: Vec<f32> = [[0.0; 16], [0.5; 16]].concat();
    assert_eq!(vector.to_vec_exact::<f32>().unwrap(), expected);
}
