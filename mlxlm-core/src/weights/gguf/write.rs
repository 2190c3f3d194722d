//! Writing GGUF of version 3: metadata, and tensors as `F32`, `F16`, `BF16`, `Q8_0` or `Q4_0`.
//!
//! The blocks are those of the reference quantizers of ggml (`quantize_row_q8_0_ref`, `quantize_row_q4_0_ref`).

use std::io::Write;
use std::path::Path;

use half::f16;
use mlx_rs::{Array, Dtype};

use super::{ALIGNMENT, ALIGNMENT_KEY, GgufError, MAGIC, Metadata, TensorType, Value};
use crate::{Result, io, raw};

/// The version that is written.
const VERSION: u32 = 3;

/// Weights of a block of the packed types.
const BLOCK: usize = 32;

/// Writes a file, which appears by rename. Each array is evaluated when its turn comes.
///
/// The alignment of the metadata is replaced by the usual one.
///
/// # Errors
/// Other types than those in the header of this file are refused, and rows that are no whole number of blocks.
pub fn write_gguf(path: impl AsRef<Path>, metadata: &Metadata, tensors: &[(String, Array, TensorType)]) -> Result<()> {
    let path = path.as_ref();
    let head = head(path, metadata, tensors)?;
    let mut failed = None;
    let written = io::write_with(path, |out| {
        out.write_all(&head)?;
        for (_, array, kind) in tensors {
            match encode(array, *kind) {
                Ok(bytes) => {
                    out.write_all(&bytes)?;
                    out.write_all(&padding(bytes.len()))?;
                }
                Err(error) => {
                    failed = Some(error);
                    return Err(std::io::Error::other("the array could not be computed"));
                }
            }
        }
        Ok(())
    });
    failed.map_or(written, Err)
}

/// What fills up to the alignment.
fn padding(length: usize) -> Vec<u8> {
    vec![0; length.next_multiple_of(ALIGNMENT) - length]
}

/// Everything before the data.
fn head(path: &Path, metadata: &Metadata, tensors: &[(String, Array, TensorType)]) -> Result<Vec<u8>> {
    let entries = || metadata.entries().iter().filter(|(key, _)| key.as_str() != ALIGNMENT_KEY);
    let mut head = Vec::from(MAGIC);
    head.extend(VERSION.to_le_bytes());
    head.extend((tensors.len() as u64).to_le_bytes());
    head.extend((entries().count() as u64).to_le_bytes());
    for (key, value) in entries() {
        push_text(&mut head, key);
        push_value(&mut head, value);
    }
    let mut offset = 0;
    for (name, array, kind) in tensors {
        let unsupported = |what: String| GgufError::Unsupported { path: path.to_owned(), what }.into();
        let shape = array.shape();
        if !WRITTEN.contains(kind) {
            return Err(unsupported(format!("`{name}` cannot be written as {}", kind.name())));
        }
        let row = shape.last().copied().unwrap_or(0) as usize;
        if shape.len() > 4 || array.size() == 0 || !row.is_multiple_of(kind.block()) {
            return Err(unsupported(format!("`{name}` of the shape {shape:?} cannot be written as {}", kind.name())));
        }
        push_text(&mut head, name);
        head.extend((shape.len() as u32).to_le_bytes());
        shape.iter().rev().for_each(|&size| head.extend((size as u64).to_le_bytes()));
        head.extend(kind.number().to_le_bytes());
        head.extend((offset as u64).to_le_bytes());
        offset += (array.size() / kind.block() * kind.block_bytes()).next_multiple_of(ALIGNMENT);
    }
    head.extend(padding(head.len()));
    Ok(head)
}

/// The types that are written.
const WRITTEN: [TensorType; 5] =
    [TensorType::F32, TensorType::F16, TensorType::BF16, TensorType::Q8_0, TensorType::Q4_0];

fn push_text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

/// The numbers of the format for the types of values that are written.
mod number {
    pub(super) const U32: u32 = 4;
    pub(super) const I32: u32 = 5;
    pub(super) const F32: u32 = 6;
    pub(super) const BOOL: u32 = 7;
    pub(super) const TEXT: u32 = 8;
    pub(super) const LIST: u32 = 9;
    pub(super) const I64: u32 = 11;
}

/// A value with its type before it: whole numbers in 32 bits where they fit, as llama.cpp expects its own.
fn push_value(out: &mut Vec<u8>, value: &Value) {
    let mut list = |kind: u32, length: usize| {
        for number in [number::LIST, kind] {
            out.extend(number.to_le_bytes());
        }
        out.extend((length as u64).to_le_bytes());
    };
    match value {
        Value::Texts(texts) => {
            list(number::TEXT, texts.len());
            for text in texts {
                push_text(out, text);
            }
        }
        Value::Bools(flags) => {
            list(number::BOOL, flags.len());
            out.extend(flags.iter().map(|&flag| u8::from(flag)));
        }
        Value::Floats(numbers) => {
            list(number::F32, numbers.len());
            out.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
        }
        Value::Integers(numbers) => match numbers.iter().map(|&number| i32::try_from(number)).collect() {
            Ok::<Vec<i32>, _>(numbers) => {
                list(number::I32, numbers.len());
                out.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
            }
            Err(_) => {
                list(number::I64, numbers.len());
                out.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
            }
        },
        Value::Text(text) => {
            out.extend(number::TEXT.to_le_bytes());
            push_text(out, text);
        }
        Value::Bool(flag) => {
            out.extend(number::BOOL.to_le_bytes());
            out.push(u8::from(*flag));
        }
        Value::Float(number) => {
            out.extend(number::F32.to_le_bytes());
            out.extend((*number as f32).to_le_bytes());
        }
        Value::Integer(whole) => match (u32::try_from(*whole), i32::try_from(*whole)) {
            (Ok(small), _) => {
                out.extend(number::U32.to_le_bytes());
                out.extend(small.to_le_bytes());
            }
            (_, Ok(small)) => {
                out.extend(number::I32.to_le_bytes());
                out.extend(small.to_le_bytes());
            }
            _ => {
                out.extend(number::I64.to_le_bytes());
                out.extend(whole.to_le_bytes());
            }
        },
    }
}

/// The bytes of a tensor.
fn encode(array: &Array, kind: TensorType) -> Result<Vec<u8>> {
    let dense = |dtype: Dtype| -> Result<Vec<u8>> { Ok(raw::with_bytes(&array.as_dtype(dtype)?, <[u8]>::to_vec)?) };
    match kind {
        TensorType::F16 => dense(Dtype::Float16),
        TensorType::BF16 => dense(Dtype::Bfloat16),
        TensorType::Q8_0 => blocks(array, block_8),
        TensorType::Q4_0 => blocks(array, block_4),
        _ => dense(Dtype::Float32),
    }
}

fn blocks(array: &Array, push_block: fn(&mut Vec<u8>, &[f32; BLOCK])) -> Result<Vec<u8>> {
    let weights = array.to_vec_cast::<f32>()?;
    let mut bytes = Vec::with_capacity(weights.len() / BLOCK * TensorType::Q8_0.block_bytes());
    weights.as_chunks::<BLOCK>().0.iter().for_each(|block| push_block(&mut bytes, block));
    Ok(bytes)
}

fn block_8(bytes: &mut Vec<u8>, block: &[f32; BLOCK]) {
    let greatest = block.iter().fold(0_f32, |greatest, weight| greatest.max(weight.abs()));
    let scale = greatest / 127.0;
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    bytes.extend(f16::from_f32(scale).to_le_bytes());
    bytes.extend(block.iter().map(|weight| ((weight * inverse).round() as i8).cast_unsigned()));
}

fn block_4(bytes: &mut Vec<u8>, block: &[f32; BLOCK]) {
    // The weight that is farthest from zero gets the code 0, which stands for -8.
    let farthest = block.iter().fold(0_f32, |farthest, &w| if w.abs() > farthest.abs() { w } else { farthest });
    let scale = farthest / -8.0;
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    bytes.extend(f16::from_f32(scale).to_le_bytes());
    let code = |weight: f32| ((weight * inverse + 8.5) as i8).clamp(0, 15).cast_unsigned();
    let (low, high) = block.split_at(BLOCK / 2);
    bytes.extend(low.iter().zip(high).map(|(&low, &high)| code(low) | code(high) << 4));
}
