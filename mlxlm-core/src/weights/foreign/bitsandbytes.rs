//! bitsandbytes: 4-bit codes of a table (nf4, fp4), and 8-bit integers by rows.
//!
//! Four bits: `weight u8 [out * in / 2, 1]`, the first code in the upper half; `weight.quant_map f32 [16]`; `weight.absmax`, the
//! largest of each block of the flat weights, in `f32` or again as codes of a table (`weight.nested_quant_map f32 [256]`,
//! `weight.nested_absmax`, and an offset); and `weight.quant_state.bitsandbytes__nf4`, JSON in bytes. MLX has no tables, so the
//! matrix becomes dense. Eight bits: `weight i8 [out, in]` and `SCB f32 [out]`, a row's largest for 127. Source:
//! bitsandbytes' `functional.py` (`QuantState`, `int8_vectorwise_dequant`). The reference has none of it.

use serde::Deserialize;

use super::ForeignError;
use super::bits::{and, byte, shift_right};
use super::compressed::put_int8;
use super::settings::Settings;
use super::work::{Work, check_float, check_type, misshapen};
use crate::{Array, Dtype, Result, ops, raw};

/// What the bytes of a `quant_state` say, as far as it is read.
#[derive(Debug, Deserialize)]
struct State {
    blocksize: usize,
    #[serde(default)]
    dtype: Option<String>,
    shape: Vec<i32>,
    #[serde(default)]
    nested_blocksize: Option<usize>,
    #[serde(default)]
    nested_offset: Option<f32>,
}

/// Unpacks every matrix that has a `quant_state` or an `SCB`.
pub(super) fn unpack(work: &mut Work, _: &Settings) -> Result<()> {
    for kind in ["nf4", "fp4"] {
        let end = format!(".quant_state.bitsandbytes__{kind}");
        for name in work.stems(&end) {
            let weight = four_bits(work, &name, &format!("{name}{end}"))?;
            let parts = ["absmax", "quant_map", "nested_absmax", "nested_quant_map"];
            let names = parts.map(|part| format!("{name}.{part}"));
            work.forget(&names.each_ref().map(String::as_str));
            work.forget(&[&format!("{name}{end}")]);
            work.put_dense(&name, weight);
            work.widened += 1;
        }
    }
    for path in work.stems(".SCB") {
        let (name, scale_name) = (format!("{path}.weight"), format!("{path}.SCB"));
        let (weight, largest) = (work.need(&name, &scale_name)?, work.need(&scale_name, &name)?);
        check_type(&name, &weight, "i8", |dtype| dtype == Dtype::Int8)?;
        check_float(&scale_name, &largest)?;
        let dtype = work.float_type();
        let scale = largest.as_dtype(Dtype::Float32)?.divide(Array::from_f32(127.0))?.as_dtype(dtype)?;
        put_int8(work, &name, &weight, (&scale_name, &scale))?;
        work.forget(&[&scale_name, &format!("{path}.weight_format")]);
    }
    Ok(())
}

fn four_bits(work: &Work, name: &str, state_name: &str) -> Result<Array> {
    let state = read_state(work, state_name, name)?;
    let bytes = work.need(name, state_name)?;
    check_type(name, &bytes, "bytes", |dtype| dtype == Dtype::Uint8)?;
    let wrong = || misshapen(name, &bytes, format!("half of {:?}, as `{state_name}` says", state.shape));
    let sizes = state.shape.iter().map(|&size| usize::try_from(size).ok().filter(|&size| size > 0));
    let count = sizes.reduce(|a, b| a?.checked_mul(b?)).flatten().ok_or_else(wrong)?;
    if count % 2 != 0 || bytes.size() != count / 2 || state.shape.len() < 2 {
        return Err(wrong().into());
    }
    let table = floats_of(work, &format!("{name}.quant_map"), state_name, 16)?;
    let blocks = count.div_ceil(state.blocksize);
    let largest = largest(work, name, state_name, &state, blocks)?;
    let halves = [shift_right(&bytes, &byte(4))?, and(&bytes, &byte(15))?].map(|half| half.flatten(None, None));
    let [upper, lower] = halves;
    let codes = ops::stack(&[upper?, lower?], 1)?.flatten(None, None)?;
    let mut values = table.take_axis(codes.as_dtype(Dtype::Uint32)?, 0)?;
    let padding = blocks * state.blocksize - count;
    if padding > 0 {
        values = ops::pad(&values, (0, padding as i32), None, None)?;
    }
    let block = state.blocksize as i32;
    let mut dense = values.reshape(&[-1, block])?.multiply(largest.expand_dims(1)?)?.flatten(None, None)?;
    if padding > 0 {
        dense = dense.take_axis(ops::arange::<_, i32>(None, count as i32, None)?, 0)?;
    }
    Ok(dense.reshape(&state.shape)?.as_dtype(state.dtype())?)
}

/// The largest weight of each block, `f32 [blocks]`.
fn largest(work: &Work, name: &str, beside: &str, state: &State, blocks: usize) -> Result<Array> {
    let absmax_name = format!("{name}.absmax");
    let absmax = work.need(&absmax_name, beside)?;
    if absmax.size() != blocks {
        return Err(
            misshapen(&absmax_name, &absmax, format!("[{blocks}], one for each block of {}", state.blocksize)).into()
        );
    }
    if absmax.dtype().is_float() {
        return Ok(absmax.flatten(None, None)?.as_dtype(Dtype::Float32)?);
    }
    check_type(&absmax_name, &absmax, "bytes or floats", |dtype| dtype == Dtype::Uint8)?;
    let block = state.nested_blocksize.filter(|&block| block > 0).unwrap_or(256);
    let table = floats_of(work, &format!("{name}.nested_quant_map"), beside, 256)?;
    let scales = floats_of(work, &format!("{name}.nested_absmax"), beside, blocks.div_ceil(block))?;
    let block_of: Vec<u32> = (0..blocks).map(|i| (i / block) as u32).collect();
    let scales = scales.take_axis(Array::from_slice(&block_of, &[blocks as i32]), 0)?;
    let values = table.take_axis(absmax.flatten(None, None)?.as_dtype(Dtype::Uint32)?, 0)?;
    Ok(values.multiply(scales)?.add(Array::from_f32(state.nested_offset.unwrap_or(0.0)))?)
}

/// A table of so many floats.
fn floats_of(work: &Work, name: &str, beside: &str, count: usize) -> Result<Array> {
    let array = work.need(name, beside)?;
    check_float(name, &array)?;
    if array.size() != count {
        return Err(misshapen(name, &array, format!("[{count}]")).into());
    }
    Ok(array.flatten(None, None)?.as_dtype(Dtype::Float32)?)
}

fn read_state(work: &Work, state_name: &str, beside: &str) -> Result<State> {
    let bytes = work.need(state_name, beside)?;
    check_type(state_name, &bytes, "bytes", |dtype| dtype == Dtype::Uint8)?;
    let state = raw::with_bytes(&bytes, |bytes| serde_json::from_slice::<State>(bytes))?;
    let refuse = |why| ForeignError::Number { name: state_name.to_owned(), why };
    let state = state.map_err(|error| refuse(error.to_string()))?;
    if !(1..=1 << 20).contains(&state.blocksize) {
        return Err(refuse(format!("blocks of {} weights", state.blocksize)).into());
    }
    Ok(state)
}

impl State {
    /// The type that the weights had.
    fn dtype(&self) -> Dtype {
        match self.dtype.as_deref() {
            Some("float16") => Dtype::Float16,
            Some("float32") => Dtype::Float32,
            _ => Dtype::Bfloat16,
        }
    }
}
