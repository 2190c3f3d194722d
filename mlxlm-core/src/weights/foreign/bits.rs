//! Bit operations on arrays, which `mlx-rs` does not bind, and codes out of words.

use std::ffi::c_int;

use mlx_sys::{mlx_array, mlx_stream};

use crate::quant::{self, Mode, Packed, Scheme};
use crate::{Array, Dtype, Exception, Result, ops, raw};

type Binary = unsafe extern "C" fn(*mut mlx_array, mlx_array, mlx_array, mlx_stream) -> c_int;

#[track_caller]
#[allow(unsafe_code, reason = "call of the C interface")]
fn binary(operation: Binary, a: &Array, b: &Array) -> Result<Array, Exception> {
    // SAFETY: all handles are alive during the call.
    raw::try_array(|result, stream| unsafe { operation(result, a.as_ptr(), b.as_ptr(), stream) })
}

/// `a & b`, elementwise.
#[track_caller]
pub(super) fn and(a: &Array, b: &Array) -> Result<Array, Exception> {
    binary(mlx_sys::mlx_bitwise_and, a, b)
}

/// `a | b`, elementwise.
#[track_caller]
pub(super) fn or(a: &Array, b: &Array) -> Result<Array, Exception> {
    binary(mlx_sys::mlx_bitwise_or, a, b)
}

/// `a ^ b`, elementwise.
#[track_caller]
pub(super) fn xor(a: &Array, b: &Array) -> Result<Array, Exception> {
    binary(mlx_sys::mlx_bitwise_xor, a, b)
}

/// `a << b`, elementwise.
#[track_caller]
pub(super) fn shift_left(a: &Array, b: &Array) -> Result<Array, Exception> {
    binary(mlx_sys::mlx_left_shift, a, b)
}

/// `a >> b`, elementwise.
#[track_caller]
pub(super) fn shift_right(a: &Array, b: &Array) -> Result<Array, Exception> {
    binary(mlx_sys::mlx_right_shift, a, b)
}

/// A byte that meets all elements of an array of bytes.
pub(super) fn byte(value: u8) -> Array {
    Array::from_slice(&[value], &[1])
}

/// The places of codes in a word that hold them one after the other.
pub(super) const IN_ORDER: [u32; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

/// The codes of words along the last axis, as `f32`.
///
/// `words` is `u32 [.., W]`; `bits` divides 32; `places` says which part of the word a code is: `[.., W * places.len()]`.
pub(super) fn codes_at(words: &Array, bits: i32, places: &[u32]) -> Result<Array> {
    let shifts: Vec<u32> = places.iter().map(|place| place * bits as u32).collect();
    let shifts = Array::from_slice(&shifts, &[shifts.len() as i32]);
    let mask = Array::from_slice(&[(1_u32 << bits) - 1], &[1]);
    let codes = and(&shift_right(&words.expand_dims(-1)?, &shifts)?, &mask)?;
    Ok(codes.flatten(-2, -1)?.as_dtype(Dtype::Float32)?)
}

/// The codes of rows that are little-endian streams of bits, as `f32 [.., W * 32 / bits]`. `bits` is one that MLX has, and
/// if it does not divide 32, the rows are whole groups of 32 codes.
pub(super) fn codes(words: &Array, bits: i32) -> Result<Array> {
    if 32 % bits == 0 {
        return codes_at(words, bits, &IN_ORDER[..(32 / bits) as usize]);
    }
    let scheme = Scheme::new(Mode::Affine, bits, 32)?;
    let mut groups = words.shape().to_vec();
    if let Some(last) = groups.last_mut() {
        *last /= bits;
    }
    let (ones, zeros) = (ops::ones::<f32>(&groups)?, ops::zeros::<f32>(&groups)?);
    Ok(quant::dequantize(&Packed { weight: words.clone(), scales: ones, biases: Some(zeros) }, scheme, None)?)
}

/// Every element of `array` `count` times in a row, along `axis`, counted from the end.
pub(super) fn repeat(array: &Array, count: i32, axis: i32) -> Result<Array> {
    let axis = array.ndim() as i32 + axis;
    let wide = array.expand_dims(axis + 1)?;
    let mut shape = wide.shape().to_vec();
    if let Some(copies) = shape.get_mut((axis + 1) as usize) {
        *copies = count;
    }
    Ok(ops::broadcast_to(&wide, &shape)?.flatten(axis, axis + 1)?)
}

/// The values of a small array, as `i32`.
pub(super) fn integers(array: &Array) -> Result<Vec<i32>> {
    Ok(array.as_dtype(Dtype::Int32)?.flatten(None, None)?.contiguous()?.to_vec_exact::<i32>()?)
}

/// The values of a small array, as `f32`.
pub(super) fn floats(array: &Array) -> Result<Vec<f32>> {
    Ok(array.as_dtype(Dtype::Float32)?.flatten(None, None)?.contiguous()?.to_vec_exact::<f32>()?)
}
