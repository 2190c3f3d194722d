//! Keys and values side by side, with room for tokens to come.
//!
//! MLX's arrays never change, but an update of one that nobody else holds is done in its memory. So a buffer is
//! replaced by its update at once, and a clone of it ([`crate::Caches::snap`]) keeps the old contents whole: then the
//! next update copies.

use mlxlm_core::ops::indexing::{TryIndexOp, TryIndexUpdateOp, UpdateMode};
use mlxlm_core::quant::Scheme;
use mlxlm_core::{Array, ops};

use crate::quantized::Tensor;
use crate::{Error, Result};

/// Buffers grow to multiples of this many tokens.
pub(crate) const STEP: i32 = 256;

/// Keys `[B, K, S, d]` and values `[B, K, S, e]`.
#[derive(Debug, Clone)]
pub(crate) struct Buffer {
    pub keys: Tensor,
    pub values: Tensor,
}

impl Buffer {
    /// Takes keys and values in, quantized where there is a scheme.
    pub(crate) fn new(keys: &Array, values: &Array, scheme: Option<Scheme>) -> Result<Self> {
        check_pair(keys, values)?;
        if let Some(scheme) = scheme {
            let (k, v) = (keys.shape()[3], values.shape()[3]);
            if !scheme.divides(k) || !scheme.divides(v) {
                return Err(Error::Group { keys: k, values: v, group_size: scheme.group_size });
            }
        }
        Ok(Self { keys: Tensor::new(keys, scheme)?, values: Tensor::new(values, scheme)? })
    }

    /// The tokens it has room for.
    pub(crate) fn len(&self) -> i32 {
        self.keys.shape()[2]
    }

    /// Rows.
    pub(crate) fn batch(&self) -> i32 {
        self.keys.shape()[0]
    }

    pub(crate) fn scheme(&self) -> Option<Scheme> {
        self.keys.scheme()
    }

    pub(crate) fn arrays(&self) -> impl Iterator<Item = &Array> {
        self.keys.arrays().into_iter().chain(self.values.arrays())
    }

    pub(crate) fn nbytes(&self) -> usize {
        self.arrays().map(Array::nbytes).sum()
    }

    /// The same contents in a format.
    pub(crate) fn with_scheme(&self, scheme: Option<Scheme>) -> Result<Self> {
        if self.scheme() == scheme {
            return Ok(self.clone());
        }
        Self::new(&self.keys.to_plain()?, &self.values.to_plain()?, scheme)
    }

    /// The tokens `from..to`, as a view.
    pub(crate) fn view(&self, from: i32, to: i32) -> Result<Self> {
        if from == 0 && to == self.len() {
            return Ok(self.clone());
        }
        self.map(|array| Ok(array.try_index((.., .., from..to, ..))?))
    }

    /// The rows `rows`.
    pub(crate) fn rows(&self, rows: &[i32]) -> Result<Self> {
        let rows = Array::from_slice(rows, &[rows.len() as i32]);
        self.map(|array| Ok(array.take_axis(&rows, 0)?))
    }

    /// Zeros for `len` tokens in `batch` rows, in this format.
    pub(crate) fn zeros(&self, batch: i32, len: i32) -> Result<Self> {
        self.map(|array| {
            let shape = array.shape();
            Ok(ops::zeros_dtype(&[batch, shape[1], len, shape[3]], array.dtype())?)
        })
    }

    /// `len` empty places in front.
    pub(crate) fn padded(&self, len: i32) -> Result<Self> {
        if len == 0 { Ok(self.clone()) } else { Self::concat(&[&self.zeros(self.batch(), len)?, self], 2) }
    }

    /// Buffers one behind the other along an axis: 0 for rows, 2 for tokens.
    pub(crate) fn concat(buffers: &[&Self], axis: i32) -> Result<Self> {
        let join = |tensors: Vec<&Tensor>| Tensor::join(&tensors, |parts| Ok(ops::concatenate(parts, axis)?));
        Ok(Self {
            keys: join(buffers.iter().map(|buffer| &buffer.keys).collect())?,
            values: join(buffers.iter().map(|buffer| &buffer.values).collect())?,
        })
    }

    /// Writes `new` over the tokens from `at` on.
    pub(crate) fn write(&mut self, at: i32, new: &Self) -> Result<()> {
        let to = at + new.len();
        let update = |old: &Tensor, new: &Tensor| {
            Tensor::join(&[old, new], |parts| {
                let index = (.., .., at..to, ..);
                Ok(parts[0].try_index_update(index, parts[1], UpdateMode::Replace)?)
            })
        };
        self.keys = update(&self.keys, &new.keys)?;
        self.values = update(&self.values, &new.values)?;
        Ok(())
    }

    /// Checks that `new` can follow what is held.
    pub(crate) fn check_follows(&self, new: &Self) -> Result<()> {
        for (what, held, new) in [("keys", &self.keys, &new.keys), ("values", &self.values, &new.values)] {
            let ([b, k, _, d], got) = (held.shape(), new.shape());
            if [b, k, d] != [got[0], got[1], got[3]] {
                return Err(Error::Shape { what, expected: format!("[{b}, {k}, L, {d}]"), got: got.to_vec() });
            }
        }
        Ok(())
    }

    fn map(&self, f: impl Fn(&Array) -> Result<Array>) -> Result<Self> {
        Ok(Self { keys: self.keys.map(&f)?, values: self.values.map(&f)? })
    }
}

/// Adds `new` behind the first `used` tokens of `held`, which grows in steps as needed; what lies behind is overwritten.
pub(crate) fn append<'a>(held: &'a mut Option<Buffer>, used: i32, new: &Buffer) -> Result<&'a Buffer> {
    let added = new.len();
    let steps = used.checked_add(added).and_then(|needed| needed.checked_add(STEP - 1)).map(|n| n / STEP);
    let room = STEP * steps.ok_or(Error::TooLong { held: used, added })?;
    let grown = match held.take() {
        None => new.zeros(new.batch(), room)?,
        Some(buffer) => {
            if let Err(error) = buffer.check_follows(new) {
                *held = Some(buffer);
                return Err(error);
            }
            if buffer.len() >= used + added {
                buffer
            } else {
                Buffer::concat(&[&buffer.view(0, used)?, &buffer.zeros(buffer.batch(), room - used)?], 2)?
            }
        }
    };
    let held = held.insert(grown);
    held.write(used, new)?;
    Ok(held)
}

fn check_pair(keys: &Array, values: &Array) -> Result<()> {
    let (k, v) = (keys.shape(), values.shape());
    if k.len() != 4 || k.contains(&0) {
        return Err(Error::Shape { what: "keys", expected: "[B, K, L, d]".into(), got: k.to_vec() });
    }
    if v.len() != 4 || v[..3] != k[..3] {
        let expected = format!("[{}, {}, {}, d]", k[0], k[1], k[2]);
        return Err(Error::Shape { what: "values", expected, got: v.to_vec() });
    }
    Ok(())
}
