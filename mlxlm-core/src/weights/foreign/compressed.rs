//! compressed-tensors, of llm-compressor and of Kimi.
//!
//! `pack-quantized`: `weight_packed i32 [out, in * bits / 32]`, codes less the one in the middle, the first in the lowest bits;
//! `weight_scale [out, G]` (`[out, 1]` for rows, `[1]` for the tensor), `weight_shape` (out and in), perhaps
//! `weight_zero_point` (`i32 [out * bits / 32, G]` or `i8 [out, G]`) and `weight_g_idx [in]`. `nvfp4-pack-quantized` and
//! `mxfp4-pack-quantized`: `weight_packed u8 [out, in / 2]`; `weight_global_scale` divides. `int-quantized`: `weight i8`.
//! Its fp8 is found by [`super::scaled`]. Source: `compressed_tensors/compressors`; reference: `mlx_lm/models/deepseek_v3.py`.

use mlx_rs::ops::indexing::TryIndexOp;

use super::ForeignError;
use super::affine::{Integers, act_order};
use super::bits::{IN_ORDER, byte, codes_at, integers, xor};
use super::modelopt::Nvfp4;
use super::mxfp4;
use super::settings::Settings;
use super::work::{Work, check_float, check_shape, check_type, misshapen, rows_and_columns, words_of};
use crate::{Array, Dtype, Result, ops};

/// Unpacks every matrix that has a `weight_packed`.
pub(super) fn unpack(work: &mut Work, settings: &Settings) -> Result<()> {
    for path in work.stems(".weight_packed") {
        let names = Names::new(&path);
        let (packed, scales) = (work.need(&names.packed, &names.packed)?, work.need(&names.scale, &names.packed)?);
        if matches!(packed.dtype(), Dtype::Uint8 | Dtype::Int8) {
            put_floats(work, &names, &packed, &scales)?;
        } else {
            let integers = names.integers(work, &packed, &scales, settings)?;
            integers.put(work, &names.weight)?;
        }
        work.forget(&[&names.packed, &names.scale, &names.shape, &names.zeros, &names.index, &names.global]);
    }
    Ok(())
}

/// The names of a matrix' tensors.
struct Names {
    weight: String,
    packed: String,
    scale: String,
    shape: String,
    zeros: String,
    index: String,
    global: String,
}

/// 4-bit floats: the number of scales tells nvfp4 from mxfp4.
fn put_floats(work: &mut Work, names: &Names, bytes: &Array, scales: &Array) -> Result<()> {
    let ((_, columns), (_, groups)) =
        (rows_and_columns(&names.packed, bytes)?, rows_and_columns(&names.scale, scales)?);
    if i64::from(columns) == 16 * i64::from(groups) {
        return mxfp4::put(work, &names.weight, bytes, (&names.scale, scales));
    }
    let factor = match work.get(&names.global) {
        Some(global) => {
            check_float(&names.global, global)?;
            Some((names.global.as_str(), global.as_dtype(Dtype::Float32)?.reciprocal()?))
        }
        None => None,
    };
    Nvfp4 { name: &names.weight, bytes, scale_name: &names.scale, scales, factor, columns: None }.put(work)
}

impl Names {
    fn new(path: &str) -> Self {
        let name = |part| format!("{path}.{part}");
        Self {
            weight: name("weight"),
            packed: name("weight_packed"),
            scale: name("weight_scale"),
            shape: name("weight_shape"),
            zeros: name("weight_zero_point"),
            index: name("weight_g_idx"),
            global: name("weight_global_scale"),
        }
    }

    fn integers(&self, work: &Work, packed: &Array, scales: &Array, settings: &Settings) -> Result<Integers> {
        let words = words_of(&self.packed, packed)?;
        let (output, columns) = rows_and_columns(&self.packed, packed)?;
        let shape = work.get(&self.shape).map(integers).transpose()?;
        let bits = self.bits(columns, shape.as_deref().and_then(<[i32]>::last).copied(), settings)?;
        let scales = by_row((&self.scale, scales), (&self.packed, packed))?;
        let groups = scales.dim(-1);
        let index =
            work.get(&self.index).map(integers).transpose()?.filter(|index| index.iter().any(|&group| group >= 0));
        let input = (i64::from(columns) * 32 / i64::from(bits)) as i32;
        let group_of = match index {
            Some(index) => act_order(&self.index, index, input, groups)?,
            None => None,
        };
        let zeros = match work.get(&self.zeros) {
            Some(zeros) => Some(self.zero_points(zeros, (packed, output, groups), bits)?),
            None => None,
        };
        Ok(Integers { words, bits, scales, zeros, group_of })
    }

    /// The bits of a code: those that `input` columns take, which must be those of the configuration, if it has one number.
    fn bits(&self, columns: i32, input: Option<i32>, settings: &Settings) -> Result<i32> {
        let refuse = |why| Err(ForeignError::Number { name: self.packed.clone(), why }.into());
        let said = settings.group_bits();
        let bits = match input {
            Some(input) if input > 0 && i64::from(columns) * 32 % i64::from(input) == 0 => {
                i64::from(columns) * 32 / i64::from(input)
            }
            Some(input) => return refuse(format!("{columns} words do not hold rows of {input} weights")),
            None => said.unwrap_or(4).into(),
        };
        match said {
            Some(said) if i64::from(said) != bits => {
                refuse(format!("packed with {bits} bits, config.json says {said}"))
            }
            _ if matches!(bits, 2 | 4 | 8) => Ok(bits as i32),
            _ => refuse(format!("compressed-tensors with {bits} bits, expected 2, 4 or 8")),
        }
    }

    /// The zeros of codes without a sign, `f32 [out, G]`.
    fn zero_points(&self, zeros: &Array, (packed, output, groups): (&Array, i32, i32), bits: i32) -> Result<Array> {
        if zeros.dtype() == Dtype::Int8 {
            return signed_zeros((&self.zeros, zeros), &[output, groups], (&self.packed, packed), bits);
        }
        let codes = 32 / bits;
        check_shape(&self.zeros, zeros, &[(output - 1) / codes + 1, groups], (&self.packed, packed))?;
        let words = words_of(&self.zeros, zeros)?.transpose()?;
        let zeros = codes_at(&words, bits, &IN_ORDER[..codes as usize])?.transpose()?;
        Ok(zeros.try_index(..output)?)
    }
}

/// Zeros with a sign as those of codes without one.
fn signed_zeros((name, zeros): (&str, &Array), shape: &[i32], beside: (&str, &Array), bits: i32) -> Result<Array> {
    check_shape(name, zeros, shape, beside)?;
    Ok(zeros.as_dtype(Dtype::Float32)?.add(Array::from_f32((1 << (bits - 1)) as f32))?)
}

/// Puts 8-bit integers with a sign in, as affine codes without one.
///
/// # Shapes
/// - `weight`: `i8 [.., out, in]`, scale: as [`by_row`] takes it
pub(super) fn put_int8(work: &mut Work, name: &str, weight: &Array, (scale_name, scale): (&str, &Array)) -> Result<()> {
    let (_, columns) = rows_and_columns(name, weight)?;
    if columns % 4 != 0 {
        return Err(misshapen(name, weight, "rows of a multiple of 4 bytes".into()).into());
    }
    let scales = by_row((scale_name, scale), (name, weight))?;
    let zeros_name = format!("{}_zero_point", scale_name.strip_suffix("_scale").unwrap_or(scale_name));
    let zeros = match work.get(&zeros_name) {
        Some(zeros) => {
            check_type(&zeros_name, zeros, "i8", |dtype| dtype == Dtype::Int8)?;
            Some(signed_zeros((&zeros_name, zeros), scales.shape(), (name, weight), 8)?)
        }
        None => None,
    };
    let words = xor(&weight.view_dtype(Dtype::Uint8)?, &byte(0x80))?.view_dtype(Dtype::Uint32)?;
    Integers { words, bits: 8, scales, zeros, group_of: None }.put(work, name)?;
    work.forget(&[&zeros_name]);
    Ok(())
}

/// Scales as `[.., out, G]`: they come so, as `[.., out]`, or as one number.
pub(super) fn by_row((name, scales): (&str, &Array), (of, weight): (&str, &Array)) -> Result<Array> {
    check_float(name, scales)?;
    let rows = &weight.shape()[..weight.ndim() - 1];
    if scales.size() == 1 {
        let one: Vec<i32> = rows.iter().copied().chain([1]).collect();
        return Ok(ops::broadcast_to(scales.reshape(&[])?, &one)?);
    }
    if scales.shape() == rows {
        return Ok(scales.expand_dims(-1)?);
    }
    match scales.shape() {
        [lead @ .., groups] if lead == rows && *groups > 0 => Ok(scales.clone()),
        _ => Err(misshapen(name, scales, format!("{rows:?} and groups, beside `{of}` {:?}", weight.shape())).into()),
    }
}
