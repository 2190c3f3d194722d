//! NVFP4, of modelopt and of compressed-tensors: 4-bit floats, an 8-bit float for each 16, and a factor for the tensor.
//!
//! modelopt: `weight u8 [out, in / 2]`, `weight_scale f8_e4m3 [out, in / 16]`, `weight_scale_2 f32`, which multiplies; stacks
//! of experts have `…_weight_scale` and `…_weight_scale_2` with a factor for each expert, or for each half of a fused one.
//! `pre_quant_scale [in]` multiplies the inputs. MLX's nvfp4 has no factor, so that it goes into the scales where these stay
//! what they are (a power of two may), and else makes the matrix dense. Its FP8 is found by [`super::scaled`].

use super::bits::floats;
use super::scaled::{are_powers_of_two, multiply};
use super::settings::Settings;
use super::work::{Work, check_float, check_shape, check_type, misshapen, rows_and_columns};
use crate::quant::{self, Mode, Packed};
use crate::{Array, Dtype, Result};

/// Bytes that hold a group.
const GROUP_BYTES: i32 = 8;

/// Unpacks every matrix that has a `weight_scale_2`.
pub(super) fn unpack(work: &mut Work, _: &Settings) -> Result<()> {
    for stem in work.stems("weight_scale_2") {
        let leaf = format!("{stem}weight");
        let name = match stem.strip_suffix('_') {
            Some(stack) if work.get(&leaf).is_none() => stack.to_owned(),
            _ => leaf,
        };
        let (scale_name, factor_name) = (format!("{stem}weight_scale"), format!("{stem}weight_scale_2"));
        let columns_name = format!("{stem}pre_quant_scale");
        let (bytes, scales) = (work.need(&name, &factor_name)?, work.need(&scale_name, &factor_name)?);
        let factor = work.need(&factor_name, &name)?;
        check_float(&factor_name, &factor)?;
        let columns = work.get(&columns_name).cloned();
        let (factor, columns) = (Some((factor_name.as_str(), factor)), columns.map(|c| (columns_name.as_str(), c)));
        Nvfp4 { name: &name, bytes: &bytes, scale_name: &scale_name, scales: &scales, factor, columns }.put(work)?;
        work.forget(&[&scale_name, &factor_name, &columns_name]);
    }
    Ok(())
}

/// A matrix with all that multiplies it.
pub(super) struct Nvfp4<'a> {
    pub(super) name: &'a str,
    /// `[.., out, in / 2]`
    pub(super) bytes: &'a Array,
    pub(super) scale_name: &'a str,
    /// `u8 [.., out, in / 16]`, which are e4m3.
    pub(super) scales: &'a Array,
    /// A number for the tensor, for each matrix of a stack, or for equal parts of its rows.
    pub(super) factor: Option<(&'a str, Array)>,
    /// A number for each column.
    pub(super) columns: Option<(&'a str, Array)>,
}

impl Nvfp4<'_> {
    /// Puts the matrix in: packed if the factor goes into the scales, else dense.
    pub(super) fn put(self, work: &mut Work) -> Result<()> {
        check_type(self.name, self.bytes, "bytes", |dtype| matches!(dtype, Dtype::Uint8 | Dtype::Int8))?;
        check_type(self.scale_name, self.scales, "8-bit floats", |dtype| dtype == Dtype::Uint8)?;
        let (_, columns) = rows_and_columns(self.name, self.bytes)?;
        if columns % GROUP_BYTES != 0 {
            return Err(misshapen(self.name, self.bytes, format!("rows of a multiple of {GROUP_BYTES} bytes")).into());
        }
        let mut groups = self.bytes.shape().to_vec();
        if let Some(last) = groups.last_mut() {
            *last /= GROUP_BYTES;
        }
        check_shape(self.scale_name, self.scales, &groups, (self.name, self.bytes))?;
        let scheme = Mode::Nvfp4.default_scheme();
        let weight = self.bytes.view_dtype(Dtype::Uint32)?;
        if let Some(scales) = self.folded()? {
            work.put_packed(self.name, Packed { weight, scales, biases: None }, scheme);
            return Ok(());
        }
        let packed = Packed { weight, scales: self.scales.clone(), biases: None };
        // A product of a 4-bit and an 8-bit float is exact in bf16.
        let mut dense = quant::dequantize(&packed, scheme, Some(Dtype::Bfloat16))?;
        for (name, by) in [&self.factor, &self.columns].into_iter().flatten() {
            dense = multiply((self.name, &dense), (name, by))?;
        }
        work.put_dense(self.name, dense.as_dtype(Dtype::Bfloat16)?);
        work.widened += 1;
        Ok(())
    }

    /// The scales with the factor, if they can be had without rounding.
    fn folded(&self) -> Result<Option<Array>> {
        if self.columns.is_some() {
            return Ok(None);
        }
        let Some((name, factor)) = &self.factor else { return Ok(Some(self.scales.clone())) };
        if floats(factor)?.iter().all(|&value| value.to_bits() == 1_f32.to_bits()) {
            return Ok(Some(self.scales.clone()));
        }
        if !are_powers_of_two(factor)? {
            return Ok(None);
        }
        let exact = self.scales.from_fp8(Dtype::Float32)?;
        let exact = multiply((self.scale_name, &exact), (name, factor))?;
        let folded = exact.to_fp8()?;
        let kept = folded.from_fp8(Dtype::Float32)?.eq(&exact)?.all(None)?;
        Ok(kept.contiguous()?.to_vec_exact::<bool>()?.first().is_some_and(|&kept| kept).then_some(folded))
    }
}
