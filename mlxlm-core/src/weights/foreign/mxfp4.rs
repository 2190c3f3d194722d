//! mxfp4: 4-bit floats with a power of two for each 32, two to a byte, the first in the lower half, which is MLX's packing.
//!
//! gpt-oss has stacks `…_blocks u8 [E, out, in / 32, 16]` with `…_scales u8 [E, out, in / 32]` (reference:
//! `mlx_lm/models/gpt_oss.py`), compressed-tensors `weight_packed` with `weight_scale`, `DeepSeek` V4 `weight i8` with `scale`.

use super::settings::Settings;
use super::work::{Work, check_shape, check_type, misshapen, rows_and_columns};
use crate::quant::{Mode, Packed};
use crate::{Array, Dtype, Result};

/// Bytes that hold a group.
const GROUP_BYTES: i32 = 16;

/// Unpacks every stack that has `_blocks` and `_scales`: `experts.down_proj_blocks` becomes `experts.down_proj.weight`.
pub(super) fn unpack(work: &mut Work, _: &Settings) -> Result<()> {
    for stem in work.stems("_blocks") {
        let (blocks_name, scales_name) = (format!("{stem}_blocks"), format!("{stem}_scales"));
        let (blocks, scales) = (work.need(&blocks_name, &blocks_name)?, work.need(&scales_name, &blocks_name)?);
        check_type(&blocks_name, &blocks, "bytes", |dtype| dtype == Dtype::Uint8)?;
        let [ref lead @ .., groups, GROUP_BYTES] = *blocks.shape() else {
            return Err(misshapen(&blocks_name, &blocks, format!("[.., out, in / 32, {GROUP_BYTES}]")).into());
        };
        let lead = lead.iter().copied();
        check_shape(&scales_name, &scales, &lead.chain([groups]).collect::<Vec<_>>(), (&blocks_name, &blocks))?;
        put(work, &stem, &blocks.flatten(-2, -1)?, (&scales_name, &scales))?;
        work.forget(&[&blocks_name, &scales_name]);
    }
    Ok(())
}

/// Puts a matrix in.
///
/// # Shapes
/// - `bytes`: `[.., out, in / 2]`, scales: `[.., out, in / 32]` of `u8`
pub(super) fn put(work: &mut Work, name: &str, bytes: &Array, (scale_name, scales): (&str, &Array)) -> Result<()> {
    check_type(scale_name, scales, "bytes", |dtype| dtype == Dtype::Uint8)?;
    let (_, columns) = rows_and_columns(name, bytes)?;
    if columns % GROUP_BYTES != 0 {
        return Err(misshapen(name, bytes, format!("rows of a multiple of {GROUP_BYTES} bytes")).into());
    }
    let mut groups = bytes.shape().to_vec();
    if let Some(last) = groups.last_mut() {
        *last /= GROUP_BYTES;
    }
    check_shape(scale_name, scales, &groups, (name, bytes))?;
    let packed = Packed { weight: bytes.view_dtype(Dtype::Uint32)?, scales: scales.clone(), biases: None };
    work.put_packed(name, packed, Mode::Mxfp4.default_scheme());
    Ok(())
}
