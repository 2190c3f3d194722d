//! From a tensor of a file to arrays that MLX computes with.

use half::f16;
use mlx_rs::{Array, Dtype, ops};

use super::{GgufFile, TensorType, affine, mxfp4, sixteens};
use crate::Result;
use crate::quant::{self, Mode, Packed, Scheme};
use crate::weights::shard::{array_over, contents};

/// At most this many weights are unpacked at a time.
const UNPACKED: usize = 1 << 24;

/// A tensor as MLX holds it.
#[derive(Debug)]
pub enum GgufTensor {
    /// Numbers as they are, over the mapped file.
    Dense(Array),
    /// Packed rows.
    Packed {
        /// The parts.
        packed: Packed,
        /// How they are packed.
        scheme: Scheme,
        /// What was lost, where MLX has no mode for the tensor's type.
        repacked: Option<Repacked>,
    },
}

/// What was lost when a tensor was packed anew.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Repacked {
    /// Its type in the file.
    pub from: TensorType,
    /// The root of the mean square of the changes, divided by that of the weights.
    pub error: f64,
}

impl GgufFile {
    /// A tensor. Take each once, as [`SafetensorsFile::array`](crate::weights::SafetensorsFile::array) says.
    pub fn tensor(&self, name: &str) -> Result<GgufTensor> {
        let (info, map) = self.find(name)?;
        if let Some(dtype) = dense(info.kind) {
            return Ok(GgufTensor::Dense(array_over(map, info.range, &info.shape, dtype)?));
        }
        let bytes = contents(map).get(info.range.0..info.range.1).unwrap_or_default();
        let (packed, scheme, repacked) = match (affine::bits(info.kind), sixteens::new_bits(info.kind)) {
            (Some(bits), _) => {
                let scheme = Scheme::new(Mode::Affine, bits as i32, affine::GROUP as i32)?;
                (affine_arrays(&affine::repack(info.kind, bits, bytes), &info.shape, scheme), scheme, None)
            }
            (None, Some(bits)) => {
                let scheme = Scheme::new(Mode::Affine, bits, affine::GROUP as i32)?;
                let (packed, error) = pack_anew(info.kind, bytes, &info.shape, scheme)?;
                (packed, scheme, Some(Repacked { from: info.kind, error }))
            }
            (None, None) => {
                let scheme = Mode::Mxfp4.default_scheme();
                let (words, scales) = mxfp4::repack(bytes);
                let weight = Array::from_slice(&words, &columns(&info.shape, |row| scheme.packed_words(row)));
                let scales = Array::from_slice(&scales, &columns(&info.shape, |row| row / scheme.group_size));
                (Packed { weight, scales, biases: None }, scheme, None)
            }
        };
        // A vector is no matrix: nothing can multiply it while it is packed.
        Ok(match info.shape.len() {
            1 => GgufTensor::Dense(unpacked_vector(&packed, scheme)?),
            _ => GgufTensor::Packed { packed, scheme, repacked },
        })
    }
}

fn unpacked_vector(packed: &Packed, scheme: Scheme) -> Result<Array> {
    let as_row = |array: &Array| array.expand_dims(0);
    let biases = packed.biases.as_ref().map(as_row).transpose()?;
    let row = Packed { weight: as_row(&packed.weight)?, scales: as_row(&packed.scales)?, biases };
    Ok(quant::dequantize(&row, scheme, Some(Dtype::Float32))?.reshape(&[-1])?)
}

/// MLX's type for types that are not packed.
fn dense(kind: TensorType) -> Option<Dtype> {
    Some(match kind {
        TensorType::F32 => Dtype::Float32,
        TensorType::F16 => Dtype::Float16,
        TensorType::BF16 => Dtype::Bfloat16,
        TensorType::I8 => Dtype::Int8,
        TensorType::I16 => Dtype::Int16,
        TensorType::I32 => Dtype::Int32,
        TensorType::I64 => Dtype::Int64,
        _ => return None,
    })
}

/// The shape with another length of rows.
fn columns(shape: &[i32], length: impl Fn(i32) -> i32) -> Vec<i32> {
    let mut shape = shape.to_vec();
    if let Some(last) = shape.last_mut() {
        *last = length(*last);
    }
    shape
}

fn affine_arrays(parts: &affine::Parts, shape: &[i32], scheme: Scheme) -> Packed {
    let groups = columns(shape, |row| row / scheme.group_size);
    let (scales, biases) = match (affine::in_half(&parts.scales), affine::in_half(&parts.biases)) {
        (Some(scales), Some(biases)) => {
            (Array::from_slice::<f16>(&scales, &groups), Array::from_slice::<f16>(&biases, &groups))
        }
        _ => (Array::from_slice(&parts.scales, &groups), Array::from_slice(&parts.biases, &groups)),
    };
    let weight = Array::from_slice(&parts.words, &columns(shape, |row| scheme.packed_words(row)));
    Packed { weight, scales, biases: Some(biases) }
}

/// Unpacks a tensor and packs it as `scheme` says, some rows at a time; with it comes the error.
fn pack_anew(kind: TensorType, bytes: &[u8], shape: &[i32], scheme: Scheme) -> Result<(Packed, f64)> {
    let row = shape.last().copied().unwrap_or(1);
    let row_bytes = row as usize / kind.block() * kind.block_bytes();
    let rows_at_once = (UNPACKED / row as usize).max(1);
    let (mut words, mut scales, mut biases) = (Vec::new(), Vec::new(), Vec::new());
    let (mut lost, mut whole) = (0.0, 0.0);
    for bytes in bytes.chunks(rows_at_once * row_bytes) {
        let weights = sixteens::unpack(kind, bytes);
        let weights = Array::from_slice(&weights, &[(bytes.len() / row_bytes) as i32, row]);
        let packed = quant::quantize(&weights, scheme)?;
        let changes = quant::dequantize(&packed, scheme, Some(Dtype::Float32))?.subtract(&weights)?;
        lost += sum_of_squares(&changes)?;
        whole += sum_of_squares(&weights)?;
        words.push(packed.weight);
        scales.push(packed.scales);
        biases.extend(packed.biases);
    }
    let join = |parts: &[Array], length: &dyn Fn(i32) -> i32| -> Result<Array> {
        Ok(ops::concatenate(parts, 0)?.reshape(&columns(shape, length))?)
    };
    let groups = |row: i32| row / scheme.group_size;
    let packed = Packed {
        weight: join(&words, &|row| scheme.packed_words(row))?,
        scales: join(&scales, &groups)?,
        biases: Some(join(&biases, &groups)?),
    };
    Ok((packed, if whole > 0.0 { (lost / whole).sqrt() } else { 0.0 }))
}

fn sum_of_squares(array: &Array) -> Result<f64> {
    Ok(array.square()?.sum(None)?.try_item_exact::<f32>()?.into())
}
