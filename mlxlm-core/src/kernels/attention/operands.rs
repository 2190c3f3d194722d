//! Keys and values as inputs of an operation: what a kernel can read, and which input is what.

use mlx_rs::{Array, Dtype};

use super::stored::parts;
use crate::fast::Stored;
use crate::kernels::mixed::is_float;
use crate::quant::{Mode, Packed, Scheme};

/// How the parts of the keys, one or two, and the values are quantized, if they are.
#[derive(Debug, Clone)]
pub(super) struct Formats {
    pub(super) keys: Vec<Option<Scheme>>,
    pub(super) values: Option<Scheme>,
}

impl Formats {
    pub(super) fn new(keys: &[Stored<'_>], values: Stored<'_>) -> Self {
        let scheme = |stored: &Stored<'_>| match stored {
            Stored::Plain(_) => None,
            Stored::Packed(_, scheme) => Some(*scheme),
        };
        Self { keys: keys.iter().map(scheme).collect(), values: scheme(&values) }
    }

    /// Whether nothing is quantized, and how many parts keys have then.
    pub(super) fn plain(&self) -> Option<usize> {
        (self.values.is_none() && self.keys.iter().all(Option::is_none)).then_some(self.keys.len())
    }

    /// The keys and the values that come first in some inputs, and the others.
    pub(super) fn split<'a, T>(&self, inputs: &'a [T]) -> ([&'a [T]; 2], &'a [T]) {
        let (keys, rest) = inputs.split_at(self.keys.iter().copied().map(parts).sum());
        let (values, rest) = rest.split_at(parts(self.values));
        ([keys, values], rest)
    }
}

/// Adds the arrays of keys or values to some inputs.
pub(super) fn push<'a>(inputs: &mut Vec<&'a Array>, stored: Stored<'a>) {
    match stored {
        Stored::Plain(array) => inputs.push(array),
        Stored::Packed(packed, _) => {
            inputs.extend([&packed.weight, &packed.scales].into_iter().chain(&packed.biases));
        }
    }
}

/// `[B, K, S, d]` of keys or values that the kernels can read.
pub(super) fn shape(stored: Stored<'_>, dtype: Dtype) -> Option<[i32; 4]> {
    match stored {
        Stored::Plain(array) => (array.dtype() == dtype).then(|| array.shape().try_into().ok()).flatten(),
        Stored::Packed(Packed { weight, scales, biases }, scheme) => {
            let [b, h, s, words]: [i32; 4] = weight.shape().try_into().ok()?;
            let width = scales.dim(-1) * scheme.group_size;
            let params = match (scheme.mode, biases) {
                (Mode::Affine, Some(biases)) => {
                    is_float(scales.dtype()) && scales.dtype() == biases.dtype() && biases.shape() == scales.shape()
                }
                (Mode::Affine, None) => false,
                (_, biases) => scales.dtype() == Dtype::Uint8 && biases.is_none(),
            };
            let fits = params
                && weight.dtype() == Dtype::Uint32
                && Scheme::new(scheme.mode, scheme.bits, scheme.group_size).is_ok()
                && scales.shape() == [b, h, s, scales.dim(-1)]
                && words == scheme.packed_words(width);
            fits.then_some([b, h, s, width])
        }
    }
}

/// [`shape`] of keys in one part or two, which make a row together.
pub(super) fn joined_shape(keys: &[Stored<'_>], dtype: Dtype) -> Option<[i32; 4]> {
    let (first, others) = keys.split_first()?;
    let mut joined = shape(*first, dtype)?;
    for part in others {
        let part = shape(*part, dtype)?;
        if part[..3] != joined[..3] {
            return None;
        }
        joined[3] += part[3];
    }
    Some(joined)
}

/// Whether queries, keys and values of these shapes go together.
pub(super) fn fit([b, h, l, d]: [i32; 4], k: [i32; 4], v: [i32; 4]) -> bool {
    let [_, kv_heads, s, _] = k;
    k == [b, kv_heads, s, d]
        && v[..3] == k[..3]
        && [b, h, l, d, s, kv_heads, v[3]].iter().all(|&size| size > 0)
        && h % kv_heads == 0
}

/// Whether these can be the sinks of so many heads.
pub(super) fn sinks_fit(sinks: Option<&Array>, heads: i32) -> bool {
    sinks.is_none_or(|sinks| is_float(sinks.dtype()) && sinks.shape() == [heads])
}
