//! Short convolutions over tokens, which remember the inputs of the last few tokens.
//!
//! Sources: arXiv:2312.00752, `_conv` of `mlx_lm/models/mamba2.py` @ 0.32.2. Padding is zero for them, and what a row of a padded batch
//! remembers are its own last tokens, on whichever side its padding is.

use mlxlm_core::fast::{self, Activation};
use mlxlm_core::nn::Conv1d;
use mlxlm_core::weights::Weights;
use mlxlm_core::{Array, module};

use crate::Result;
use crate::config::within;
use crate::frame::Step;

/// Each channel convolved with a filter of its own, then an activation.
#[derive(Debug)]
pub struct ShortConv {
    conv: Conv1d,
    activation: Activation,
}

module!(ShortConv { conv as "" });

/// Each channel of the tokens convolved with its filter, behind the tokens that `slot` of the block's state remembers.
///
/// # Shapes
/// - `x`: `[B, L, C]`, and the same comes back
pub fn convolve(x: &Array, conv: &Conv1d, activation: Activation, step: &mut Step, slot: usize) -> Result<Array> {
    let (Conv1d { weight, bias }, past) = (conv.clone(), step.recall(slot)?);
    let (y, kept) = fast::short_conv(x, &weight, bias.as_ref(), past.as_ref(), activation)?;
    let x = x.clone();
    step.keep(slot, kept, move |beginning| {
        let past = beginning.before(past.as_ref())?;
        Ok(fast::short_conv(&beginning.of(&x)?, &weight, bias.as_ref(), past.as_ref(), activation)?.1)
    })?;
    Ok(y)
}

/// No filter comes near this width.
const MAX_FILTER: i32 = 1 << 10;

impl ShortConv {
    /// The convolution of `channels` channels with filters of `width` tokens at `w`, with a bias if `biased`.
    pub fn load(w: &Weights, channels: i32, width: i32, biased: bool, activation: Activation) -> Result<Self> {
        within("conv_kernel", width, MAX_FILTER)?;
        Ok(Self { conv: Conv1d::depthwise(w, channels, width, biased)?, activation })
    }

    /// What remembers in `slot` of the block's state.
    ///
    /// # Shapes
    /// - `x`: `[B, L, C]`, and the same comes back
    pub fn forward(&self, x: &Array, step: &mut Step, slot: usize) -> Result<Array> {
        convolve(x, &self.conv, self.activation, step, slot)
    }
}
