//! Checkpoints of other tools, unpacked: each packing is drawn from a seed, written to a file as its tool writes it, and read
//! as a user reads it. What must come out is computed here by plain loops over the drawn codes.
//!
//! `fixtures/foreign/awq.safetensors` holds drawn AWQ tensors under `in.` and what mlx-lm 0.32.2 makes of them
//! (`mlx_lm.utils._transform_awq_weights`) under `out.`.
#![allow(clippy::unwrap_used, reason = "helpers of tests may fail as tests do")]

mod door;
mod four_bit_floats;
mod fp8;
mod hostile;
mod integers;

use half::{bf16, f16};
use mlxlm_core::quant::{self, Packed, Scheme};
use mlxlm_core::weights::Checkpoint;
use mlxlm_core::weights::foreign::{Unpacked, unpack};
use mlxlm_core::{Array, Dtype, Hint, Result, io};
use safetensors::tensor::{Dtype as FileDtype, TensorView};
use serde_json::Value;

/// Numbers from a seed (splitmix64).
struct Draw(u64);

impl Draw {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// Codes below `end`.
    fn codes(&mut self, count: usize, end: u64) -> Vec<u8> {
        (0..count).map(|_| self.below(end) as u8).collect()
    }

    /// Scales of few bits, so that products with small integers are exact in every type.
    fn scales(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| (1 + self.below(7)) as f32 / 64.0).collect()
    }
}

/// A tensor of a file.
struct Tensor {
    name: String,
    dtype: FileDtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

fn tensor(name: &str, dtype: FileDtype, shape: &[usize], bytes: Vec<u8>) -> Tensor {
    Tensor { name: name.to_owned(), dtype, shape: shape.to_vec(), bytes }
}

fn bytes(name: &str, shape: &[usize], values: &[u8]) -> Tensor {
    tensor(name, FileDtype::U8, shape, values.to_vec())
}

fn float8(name: &str, shape: &[usize], values: &[u8]) -> Tensor {
    tensor(name, FileDtype::F8_E4M3, shape, values.to_vec())
}

fn words(name: &str, shape: &[usize], values: &[u32]) -> Tensor {
    tensor(name, FileDtype::I32, shape, values.iter().flat_map(|v| v.to_le_bytes()).collect())
}

fn integers_64(name: &str, values: &[i64]) -> Tensor {
    tensor(name, FileDtype::I64, &[values.len()], values.iter().flat_map(|v| v.to_le_bytes()).collect())
}

fn float32(name: &str, shape: &[usize], values: &[f32]) -> Tensor {
    tensor(name, FileDtype::F32, shape, values.iter().flat_map(|v| v.to_le_bytes()).collect())
}

fn float16(name: &str, shape: &[usize], values: &[f32]) -> Tensor {
    let bytes = values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect();
    tensor(name, FileDtype::F16, shape, bytes)
}

fn bfloat16(name: &str, shape: &[usize], values: &[f32]) -> Tensor {
    let bytes = values.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes()).collect();
    tensor(name, FileDtype::BF16, shape, bytes)
}

/// Reads a folder with these tensors, and unpacks them.
fn open(tensors: &[Tensor], config: &Value) -> Result<Unpacked> {
    let folder = tempfile::tempdir().unwrap();
    let views = tensors.iter().map(|t| (&t.name, TensorView::new(t.dtype, t.shape.clone(), &t.bytes).unwrap()));
    let file = safetensors::serialize(views, None).unwrap();
    io::write(folder.path().join("model.safetensors"), &file).unwrap();
    unpack(Checkpoint::open(folder.path())?, config, None)
}

/// What unpacking refuses with.
fn refused(tensors: &[Tensor], config: &Value) -> String {
    let error = open(tensors, config).unwrap_err();
    assert!(error.hint().is_some(), "{error} has no hint");
    error.to_string()
}

fn values(array: &Array) -> Vec<f32> {
    array.as_dtype(Dtype::Float32).unwrap().flatten(None, None).unwrap().contiguous().unwrap().to_vec_exact().unwrap()
}

/// The matrix at `path`, whose rows have `input` weights, and its scheme if it is packed.
fn matrix(unpacked: &Unpacked, path: &str, input: i32) -> (Vec<f32>, Option<Scheme>) {
    let get = |part: &str| unpacked.tensors.get(&format!("{path}.{part}"));
    let weight = get("weight").unwrap_or_else(|| panic!("{path} in {:?}", unpacked.tensors.keys()));
    let Some(scales) = get("scales") else { return (values(weight), None) };
    let scheme = Scheme::of_shapes(weight, scales, input).unwrap();
    let wide =
        |array: &Array| if array.dtype().is_float() { array.as_dtype(Dtype::Float32).unwrap() } else { array.clone() };
    let packed = Packed { weight: weight.clone(), scales: wide(scales), biases: get("biases").map(wide) };
    (values(&quant::dequantize(&packed, scheme, Some(Dtype::Float32)).unwrap()), Some(scheme))
}

/// Whether two matrices are the same, by their first difference.
#[track_caller]
fn same(got: &[f32], expected: &[f32], what: &str) {
    assert_eq!(got.len(), expected.len(), "{what}");
    let differs = (0..got.len()).find(|&i| got[i] != expected[i]);
    assert_eq!(differs.map(|i| (i, got[i], expected[i])), None, "{what}");
}

/// A float of eight bits with four of exponent.
fn e4m3(code: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(code >> 3 & 15), f32::from(code & 7));
    let size = if exponent == 0 { mantissa / 512.0 } else { (1.0 + mantissa / 8.0) * 2_f32.powi(exponent - 7) };
    if code & 0x80 == 0 { size } else { -size }
}

/// A float of four bits.
fn e2m1(code: u8) -> f32 {
    let size = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0][usize::from(code & 7)];
    if code & 8 == 0 { size } else { -size }
}

/// Codes of 8-bit floats without the two that are no numbers.
fn finite(draw: &mut Draw, count: usize) -> Vec<u8> {
    (0..count).map(|_| draw.below(256) as u8).map(|code| if code & 0x7F == 0x7F { code ^ 1 } else { code }).collect()
}

/// Codes of `bits` bits as words, the first in the lowest bits.
fn stream(codes: &[u8], bits: usize) -> Vec<u32> {
    let mut words = vec![0_u32; (codes.len() * bits).div_ceil(32)];
    for (i, code) in codes.iter().enumerate() {
        for bit in 0..bits {
            words[(i * bits + bit) / 32] |= u32::from(code >> bit & 1) << ((i * bits + bit) % 32);
        }
    }
    words
}

/// Rows of a matrix as its columns.
fn transpose<T: Copy>(values: &[T], rows: usize) -> Vec<T> {
    let columns = values.len() / rows;
    (0..values.len()).map(|i| values[i % rows * columns + i / rows]).collect()
}
