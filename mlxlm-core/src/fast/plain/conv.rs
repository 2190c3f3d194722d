//! Short convolutions in MLX's own operations.

use mlx_rs::error::Exception;
use mlx_rs::ops::indexing::TryIndexOp;
use mlx_rs::{Array, ops};

use crate::fast::Activation;

/// See [`crate::fast::short_conv`]; the weight is `[C, width]`.
#[track_caller]
pub fn short_conv(
    x: &Array,
    weight: &Array,
    bias: Option<&Array>,
    state: Option<&Array>,
    activation: Activation,
) -> Result<(Array, Array), Exception> {
    let (channels, width, dtype) = (weight.dim(0), weight.dim(1), x.dtype());
    let state = match state {
        Some(state) => state.as_dtype(dtype)?,
        None => ops::zeros_dtype(&[x.dim(0), width - 1, channels], dtype)?,
    };
    let all = if width > 1 { ops::concatenate(&[&state, x], 1)? } else { x.clone() };
    if x.dim(1) == 0 {
        return Ok((x.clone(), all));
    }
    let mut y = ops::conv1d(&all, weight.expand_dims(-1)?, None, None, None, channels)?;
    if let Some(bias) = bias {
        y = y.add(bias)?;
    }
    let y = super::activate(activation, &y)?.as_dtype(dtype)?;
    Ok((y, all.try_index((.., x.dim(1).., ..))?))
}
