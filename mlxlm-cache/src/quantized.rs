//! How keys or values are held: as they come, or quantized in groups along the head dimension.
//!
//! Ports the storage of `QuantizedKVCache` (`mlx_lm/models/cache.py` 0.32.2). Unusual: in the reference the quantized
//! cache is a kind of its own and keeps all tokens; here the format is independent of which tokens are kept, so
//! rotating, chunked and batched caches can be quantized too.

use mlxlm_core::fast::Stored;
use mlxlm_core::quant::{self, Packed, Scheme};
use mlxlm_core::{Array, Dtype};

use crate::Result;

/// Keys or values `[B, K, S, d]`.
#[derive(Debug, Clone)]
pub(crate) enum Tensor {
    /// As they come.
    Plain(Array),
    /// Quantized along `d`; every part is `[B, K, S, …]`.
    Packed(Packed, Scheme),
}

impl Tensor {
    /// Takes `array` in, quantized where there is a scheme.
    pub(crate) fn new(array: &Array, scheme: Option<Scheme>) -> Result<Self> {
        Ok(match scheme {
            None => Self::Plain(array.clone()),
            Some(scheme) => Self::Packed(quant::quantize(array, scheme)?, scheme),
        })
    }

    /// As attention takes it.
    pub(crate) fn lend(&self) -> Stored<'_> {
        match self {
            Self::Plain(array) => Stored::Plain(array),
            Self::Packed(packed, scheme) => Stored::Packed(packed, *scheme),
        }
    }

    /// The values as plain numbers; quantized ones come back rounded, in the type that they had.
    pub(crate) fn to_plain(&self) -> Result<Array> {
        Ok(match self {
            Self::Plain(array) => array.clone(),
            Self::Packed(packed, scheme) => quant::dequantize(packed, *scheme, Some(packed.scales.dtype()))?,
        })
    }

    pub(crate) fn scheme(&self) -> Option<Scheme> {
        match self {
            Self::Plain(_) => None,
            Self::Packed(_, scheme) => Some(*scheme),
        }
    }

    /// `[B, K, S, d]`, with the `d` of the plain numbers.
    pub(crate) fn shape(&self) -> [i32; 4] {
        let array = self.arrays()[0];
        let mut shape = [0; 4];
        for (to, from) in shape.iter_mut().zip(array.shape()) {
            *to = *from;
        }
        if let Self::Packed(_, scheme) = self {
            shape[3] = (i64::from(shape[3]) * 32 / i64::from(scheme.bits)) as i32;
        }
        shape
    }

    /// The type of the plain numbers.
    pub(crate) fn dtype(&self) -> Dtype {
        match self {
            Self::Plain(array) => array.dtype(),
            Self::Packed(packed, _) => packed.scales.dtype(),
        }
    }

    /// The arrays it consists of.
    pub(crate) fn arrays(&self) -> Vec<&Array> {
        match self {
            Self::Plain(array) => vec![array],
            Self::Packed(packed, _) => [&packed.weight, &packed.scales].into_iter().chain(&packed.biases).collect(),
        }
    }

    /// The tensor whose parts are what `f` makes of these parts.
    pub(crate) fn map(&self, mut f: impl FnMut(&Array) -> Result<Array>) -> Result<Self> {
        Ok(match self {
            Self::Plain(array) => Self::Plain(f(array)?),
            Self::Packed(packed, scheme) => {
                let parts = Packed {
                    weight: f(&packed.weight)?,
                    scales: f(&packed.scales)?,
                    biases: packed.biases.as_ref().map(f).transpose()?,
                };
                Self::Packed(parts, *scheme)
            }
        })
    }

    /// The tensor whose parts are what `f` makes of the parts of several tensors of one format.
    pub(crate) fn join(tensors: &[&Self], f: impl Fn(&[&Array]) -> Result<Array>) -> Result<Self> {
        let mut part = 0;
        tensors[0].map(|_| {
            let parts: Vec<&Array> = tensors.iter().map(|tensor| tensor.arrays()[part]).collect();
            part += 1;
            f(&parts)
        })
    }
}
