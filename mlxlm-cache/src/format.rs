//! How a cache holds keys and values in few bits.
//!
//! Unusual: keys and values have bits of their own, and may be rotated (arXiv:2404.00456) before they are quantized: a few dimensions of
//! keys are much larger than the others, and cost those of their group their bits. Queries are rotated alike, which leaves their
//! products with keys what they are; what attention makes of rotated values is rotated back.

use std::fmt;

use mlxlm_core::quant::{Mode, Scheme};
use mlxlm_core::{Array, fast};

use crate::Result;

/// How keys and values are quantized: affine, in groups of one size, each with bits of its own, and perhaps rotated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct KvFormat {
    pub(crate) keys: Packing,
    pub(crate) values: Packing,
}

/// How one of the two is quantized.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Packing {
    pub scheme: Scheme,
    /// Whether it is rotated before.
    pub rotated: bool,
}

impl KvFormat {
    /// Keys and values at the same bits, as Python has them.
    ///
    /// # Errors
    /// If MLX has no such quantization.
    pub fn new(bits: i32, group_size: i32) -> Result<Self> {
        Self::mixed([bits, bits], group_size)
    }

    /// Keys and values at bits of their own.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn mixed([keys, values]: [i32; 2], group_size: i32) -> Result<Self> {
        let packing = |bits| -> Result<Packing> {
            Ok(Packing { scheme: Scheme::new(Mode::Affine, bits, group_size)?, rotated: false })
        };
        Ok(Self { keys: packing(keys)?, values: packing(values)? })
    }

    /// The same with keys, and values, that are rotated or not.
    #[must_use]
    pub fn rotated(mut self, [keys, values]: [bool; 2]) -> Self {
        (self.keys.rotated, self.values.rotated) = (keys, values);
        self
    }

    /// The bits of keys and of values.
    pub fn bits(&self) -> [i32; 2] {
        [self.keys.scheme.bits, self.values.scheme.bits]
    }

    /// Numbers that share a scale.
    pub fn group_size(&self) -> i32 {
        self.keys.scheme.group_size
    }

    /// Whether keys, and values, are rotated.
    pub fn is_rotated(&self) -> [bool; 2] {
        [self.keys.rotated, self.values.rotated]
    }

    /// Whether Python mlx-lm has it too.
    pub(crate) fn is_of_python(&self) -> bool {
        self.keys == self.values && !self.keys.rotated
    }

    /// Whether keys and values of these widths can be quantized so.
    pub(crate) fn divides(&self, keys: i32, values: i32) -> bool {
        self.keys.scheme.divides(keys) && self.values.scheme.divides(values)
    }
}

/// As in "8 bits in groups of 64", or "8 bits for keys and 4 for values in groups of 32, keys rotated".
impl fmt::Display for KvFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.bits() {
            [keys, values] if keys == values => write!(f, "{keys} bits")?,
            [keys, values] => write!(f, "{keys} bits for keys and {values} for values")?,
        }
        write!(f, " in groups of {}", self.group_size())?;
        match self.is_rotated() {
            [false, false] => Ok(()),
            [true, false] => f.write_str(", keys rotated"),
            [false, true] => f.write_str(", values rotated"),
            [true, true] => f.write_str(", rotated"),
        }
    }
}

/// `x` rotated over its last axis in blocks of the largest power of two that divides it; its own inverse.
///
/// # Shapes
/// - `x`: `[…, d]`, and the same comes back
pub(crate) fn rotate(x: &Array) -> Result<Array> {
    let width = x.shape().last().copied().unwrap_or(1);
    Ok(fast::hadamard(x, width & width.wrapping_neg())?)
}

/// `x`, rotated if that is so.
pub(crate) fn rotated_if(rotated: bool, x: &Array) -> Result<Array> {
    if rotated { rotate(x) } else { Ok(x.clone()) }
}
