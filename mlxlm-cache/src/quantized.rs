//! How keys or values are held: as they come, or quantized in groups along the head dimension.
//!
//! Ports the storage of `QuantizedKVCache` (`mlx_lm/models/cache.py` 0.32.2). Unusual: in the reference the quantized
//! cache is a kind of its own and keeps all tokens; here the format is independent of which tokens are kept, so
//! rotating, chunked and batched caches can be quantized too.

use mlxlm_core::Array;
use mlxlm_core::fast::{self, Stored};
use mlxlm_core::quant::{self, Packed};

use crate::format::{Packing, rotated_if};
use crate::{Error, Result};

/// Keys or values `[B, K, S, d]`.
#[derive(Debug, Clone)]
pub(crate) enum Tensor {
    /// As they come.
    Plain(Array),
    /// Quantized along `d`; every part is `[B, K, S, …]`.
    Packed(Packed, Packing),
}

impl Tensor {
    /// Takes `array` in, quantized where there is a packing.
    pub(crate) fn new(array: &Array, packing: Option<Packing>) -> Result<Self> {
        Ok(match packing {
            None => Self::Plain(array.clone()),
            Some(packing) => {
                Self::Packed(quant::quantize(&rotated_if(packing.rotated, array)?, packing.scheme)?, packing)
            }
        })
    }

    /// As attention takes it.
    pub(crate) fn lend(&self) -> Stored<'_> {
        match self {
            Self::Plain(array) => Stored::Plain(array),
            Self::Packed(packed, packing) => Stored::Packed(packed, packing.scheme),
        }
    }

    /// The values as plain numbers; quantized ones come back rounded, in the type that they had.
    pub(crate) fn to_plain(&self) -> Result<Array> {
        Ok(match self {
            Self::Plain(array) => array.clone(),
            Self::Packed(packed, Packing { scheme, rotated }) => {
                rotated_if(*rotated, &quant::dequantize(packed, *scheme, Some(packed.scales.dtype()))?)?
            }
        })
    }

    pub(crate) fn packing(&self) -> Option<Packing> {
        match self {
            Self::Plain(_) => None,
            Self::Packed(_, packing) => Some(*packing),
        }
    }

    /// Whether it is held rotated, so that what meets it has to be rotated too.
    pub(crate) fn is_rotated(&self) -> bool {
        self.packing().is_some_and(|packing| packing.rotated)
    }

    /// `[B, K, S, d]`, with the `d` of the plain numbers.
    pub(crate) fn shape(&self) -> [i32; 4] {
        let array = self.arrays()[0];
        let mut shape = [0; 4];
        for (to, from) in shape.iter_mut().zip(array.shape()) {
            *to = *from;
        }
        if let Self::Packed(_, Packing { scheme, .. }) = self {
            shape[3] = (i64::from(shape[3]) * 32 / i64::from(scheme.bits)) as i32;
        }
        shape
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
            Self::Packed(packed, packing) => {
                let parts = Packed {
                    weight: f(&packed.weight)?,
                    scales: f(&packed.scales)?,
                    biases: packed.biases.as_ref().map(f).transpose()?,
                };
                Self::Packed(parts, *packing)
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

    /// These tensors with a row of `new` in each, over the tokens from its place on. All have one format.
    pub(crate) fn write_rows(held: &[&Self], at: &[i32], new: &Self) -> Result<Vec<Self>> {
        let parts: Vec<Vec<&Array>> = held.iter().map(|tensor| tensor.arrays()).collect();
        let mut written: Vec<std::vec::IntoIter<Array>> = Vec::new();
        for (part, new) in new.arrays().into_iter().enumerate() {
            let held: Vec<&Array> = parts.iter().filter_map(|parts| parts.get(part).copied()).collect();
            written.push(fast::write_rows(&held, at, new)?.into_iter());
        }
        let one = |tensor: &&Self| {
            let mut parts = written.iter_mut();
            tensor.map(|_| {
                let next = parts.next().and_then(Iterator::next);
                next.ok_or_else(|| Error::Unlike { what: "rows of different formats".into() })
            })
        };
        held.iter().map(one).collect()
    }
}
