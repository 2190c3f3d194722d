//! What is written is read as it was.

use mlxlm_core::quant::dequantize;
use mlxlm_core::weights::gguf::{GgufFile, GgufTensor, Metadata, TensorType, Value, write_gguf};
use mlxlm_core::weights::recipe::HashRng;
use mlxlm_core::{Array, Dtype};

fn drawn(shape: &[i32]) -> Array {
    let mut rng = HashRng::new(11, "gguf", 0);
    let count: i32 = shape.iter().product();
    Array::from_slice(&(0..count).map(|_| rng.normal() as f32).collect::<Vec<_>>(), shape)
}

fn metadata() -> Metadata {
    let entries = [
        ("general.architecture", Value::Text("llama".into())),
        ("llama.block_count", Value::Integer(2)),
        ("negative", Value::Integer(-3)),
        ("large", Value::Integer(1 << 40)),
        ("eps", Value::Float(1e-5)),
        ("flag", Value::Bool(true)),
        ("texts", Value::Texts(vec![String::new(), "▁ä".into()])),
        ("integers", Value::Integers(vec![1, -2])),
        ("large integers", Value::Integers(vec![1, 1 << 40])),
        ("floats", Value::Floats(vec![0.5, -1e30])),
        ("flags", Value::Bools(vec![true, false])),
    ];
    Metadata::new("", entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
}

#[test]
fn metadata_and_tensors_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.gguf");
    let (matrix, odd) = (drawn(&[3, 64]), drawn(&[5]));
    let as_type = |array: &Array, dtype| array.as_dtype(dtype).unwrap();
    let tensors: Vec<(String, Array, TensorType)> = vec![
        ("full".into(), matrix.clone(), TensorType::F32),
        ("odd".into(), odd.clone(), TensorType::F32),
        ("half".into(), matrix.clone(), TensorType::F16),
        ("brain".into(), matrix.clone(), TensorType::BF16),
        ("transposed".into(), matrix.transpose().unwrap(), TensorType::F32),
        ("stack".into(), drawn(&[2, 3, 4, 32]), TensorType::Q8_0),
    ];
    write_gguf(&path, &metadata(), &tensors).unwrap();
    let file = GgufFile::open(&path).unwrap();
    assert_eq!(file.metadata().entries(), metadata().entries());
    let read = |name: &str| match file.tensor(name).unwrap() {
        GgufTensor::Dense(array) => array,
        GgufTensor::Packed { packed, scheme, .. } => dequantize(&packed, scheme, Some(Dtype::Float32)).unwrap(),
    };
    let values = |array: &Array| as_type(array, Dtype::Float32).contiguous().unwrap().to_vec_exact::<f32>().unwrap();
    for (name, dtype, expected) in [
        ("full", Dtype::Float32, matrix.clone()),
        ("odd", Dtype::Float32, odd),
        ("half", Dtype::Float16, as_type(&matrix, Dtype::Float16)),
        ("brain", Dtype::Bfloat16, as_type(&matrix, Dtype::Bfloat16)),
        ("transposed", Dtype::Float32, matrix.transpose().unwrap()),
    ] {
        let found = read(name);
        assert_eq!((found.shape(), found.dtype()), (expected.shape(), dtype), "{name}");
        assert_eq!(values(&found), values(&expected), "{name}");
    }
    assert_eq!(read("stack").shape(), [2, 3, 4, 32]);
}

#[test]
fn packed_weights_are_as_near_as_their_bits_allow() {
    let weights = drawn(&[4, 256]);
    for (kind, most) in [(TensorType::Q8_0, 0.5), (TensorType::Q4_0, 1.0)] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.gguf");
        write_gguf(&path, &Metadata::default(), &[("a".into(), weights.clone(), kind)]).unwrap();
        let tensor = GgufFile::open(&path).unwrap().tensor("a").unwrap();
        let GgufTensor::Packed { packed, scheme, .. } = tensor else { panic!("{kind:?}") };
        let wide = |array: &Array| array.as_dtype(Dtype::Float32).unwrap();
        let scales = wide(&packed.scales).to_vec_exact::<f32>().unwrap();
        let packed = mlxlm_core::quant::Packed {
            scales: wide(&packed.scales),
            biases: packed.biases.as_ref().map(wide),
            ..packed
        };
        let found = dequantize(&packed, scheme, None).unwrap().to_vec_exact::<f32>().unwrap();
        let original = weights.to_vec_exact::<f32>().unwrap();
        for (i, (found, original)) in found.into_iter().zip(original).enumerate() {
            let step = scales[i / 32].abs();
            // The scale was rounded to f16, which moves the farthest codes by 127 halves of its last bit.
            assert!((found - original).abs() <= step * (most + 0.07), "{kind:?} {i}: {found} for {original}");
        }
    }
}

#[test]
fn what_the_format_cannot_hold_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |array: Array, kind| {
        let path = folder.path().join("a.gguf");
        let error = write_gguf(&path, &Metadata::default(), &[("a".into(), array, kind)]).unwrap_err().to_string();
        assert!(!path.exists());
        error.split_once("cannot be read: ").map(|(_, what)| what.to_owned()).unwrap_or(error)
    };
    assert_eq!(refused(drawn(&[2, 31]), TensorType::Q8_0), "`a` of the shape [2, 31] cannot be written as Q8_0");
    assert_eq!(
        refused(drawn(&[1, 1, 1, 1, 1]), TensorType::F32),
        "`a` of the shape [1, 1, 1, 1, 1] cannot be written as F32"
    );
    assert_eq!(refused(drawn(&[1, 256]), TensorType::Q6_K), "`a` cannot be written as Q6_K");
}
