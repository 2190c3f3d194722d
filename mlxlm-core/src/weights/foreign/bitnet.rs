//! `BitNet`: weights of -1, 0 and 1, four to a byte, and a scale for the tensor.
//!
//! `weight u8 [out / 4, in]`: the lowest two bits are the rows of the first quarter, and so on; a code less one is the weight.
//! It is divided by `weight_scale [1]`, or multiplied if `linear_class` is `autobitlinear`. The blocks of models of the type
//! `bitnet` are packed so whatever the configuration says, beside what MLX packed too, and always multiplied, as mlx-lm does.
//! Source: transformers' `integrations/bitnet.py`; reference: `mlx_lm/models/{bitnet,bitlinear_layers}.py`.

use super::ForeignError;
use super::affine::Integers;
use super::bits::{and, byte, or, shift_left, shift_right};
use super::settings::Settings;
use super::work::{Work, check_float, check_type, misshapen, rows_and_columns};
use crate::{Array, Dtype, Result, ops};

/// Weights in a byte.
const CODES: i32 = 4;

/// Unpacks every matrix of bytes that has a `weight_scale`, if the method is this one.
pub(super) fn unpack(work: &mut Work, settings: &Settings) -> Result<()> {
    let is_own = settings.model_type.as_deref() == Some("bitnet");
    if !is_own && !settings.packs_as("bitnet") {
        return Ok(());
    }
    if settings.text("quantization_mode") == Some("online") {
        // Such weights are floats, which become ternary each time that they are used.
        let variety = Some(("quantization_mode", "`online`".to_owned()));
        return Err(ForeignError::Method { method: "bitnet".into(), variety }.into());
    }
    let is_auto = settings.text("linear_class") == Some("autobitlinear");
    for path in work.stems(".weight_scale") {
        let multiplies = is_auto || is_own && path.contains(".layers.");
        let (name, scale_name) = (format!("{path}.weight"), format!("{path}.weight_scale"));
        let (bytes, scale) = (work.need(&name, &scale_name)?, work.need(&scale_name, &name)?);
        check_type(&name, &bytes, "bytes", |dtype| dtype == Dtype::Uint8)?;
        check_float(&scale_name, &scale)?;
        let (rows, input) = rows_and_columns(&name, &bytes)?;
        if bytes.ndim() != 2 || input % 16 != 0 || rows > i32::MAX / CODES {
            return Err(misshapen(&name, &bytes, "[out / 4, in], in a multiple of 16".into()).into());
        }
        if scale.size() != 1 {
            return Err(misshapen(&scale_name, &scale, "one number".into()).into());
        }
        let factor = if multiplies { scale.clone() } else { scale.as_dtype(Dtype::Float32)?.reciprocal()? };
        let one_each = [rows * CODES, 1];
        let scales = ops::broadcast_to(factor.as_dtype(scale.dtype())?.reshape(&[])?, &one_each)?;
        let zeros = Some(ops::ones::<f32>(&one_each)?);
        work.forget(&[&scale_name]);
        Integers { words: pack(&bytes, rows, input)?, bits: 2, scales, zeros, group_of: None }.put(work, &name)?;
    }
    Ok(())
}

/// Quarters of rows in a byte as neighbours of a row in a byte: `u8 [out / 4, in]` to `u32 [out, in / 16]`.
fn pack(bytes: &Array, rows: i32, input: i32) -> Result<Array> {
    let three = byte(3);
    let quarter = |i: u8| and(&shift_right(bytes, &byte(2 * i))?, &three);
    let codes = ops::stack(&[quarter(0)?, quarter(1)?, quarter(2)?, quarter(3)?], 0)?;
    let codes = codes.reshape(&[rows * CODES, input / CODES, CODES])?;
    let codes = shift_left(&codes, &Array::from_slice(&[0_u8, 2, 4, 6], &[CODES]))?;
    let mut four = codes.split_equal(CODES, 2)?.into_iter();
    let first = four.next().map_or_else(|| ops::zeros::<u8>(&[rows * CODES, input / CODES, 1]), Ok)?;
    let packed = four.try_fold(first, |sum, part| or(&sum, &part))?;
    Ok(packed.reshape(&[rows * CODES, input / CODES])?.view_dtype(Dtype::Uint32)?)
}
