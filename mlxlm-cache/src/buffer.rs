//! Keys and values side by side, with room for tokens to come.
//!
//! MLX's arrays never change, but an update of one that nobody else holds is done in its memory. So a buffer is
//! replaced by its update at once, and a clone of it ([`crate::Caches::snap`]) keeps the old contents whole: then the
//! next update copies.

use mlxlm_core::ops::indexing::{TryIndexOp, TryIndexUpdateOp, UpdateMode};
use mlxlm_core::{Array, ops};

use crate::quantized::Tensor;
use crate::{Error, KvFormat, Result};

/// Buffers grow to multiples of this many tokens.
pub(crate) const STEP: i32 = 256;

/// Keys `[B, K, S, d]` and values `[B, K, S, e]`.
#[derive(Debug, Clone)]
pub(crate) struct Buffer {
    pub keys: Tensor,
    pub values: Tensor,
}

impl Buffer {
    /// Takes keys and values in, quantized where there is a format.
    pub(crate) fn new(keys: &Array, values: &Array, format: Option<KvFormat>) -> Result<Self> {
        check_pair(keys, values)?;
        if let Some(format) = format {
            let (k, v) = (keys.shape()[3], values.shape()[3]);
            if !format.divides(k, v) {
                return Err(Error::Group { keys: k, values: v, group_size: format.group_size() });
            }
        }
        let [of_keys, of_values] = [format.map(|format| format.keys), format.map(|format| format.values)];
        Ok(Self { keys: Tensor::new(keys, of_keys)?, values: Tensor::new(values, of_values)? })
    }

    /// The tokens it has room for.
    pub(crate) fn len(&self) -> i32 {
        self.keys.shape()[2]
    }

    /// Rows.
    pub(crate) fn batch(&self) -> i32 {
        self.keys.shape()[0]
    }

    pub(crate) fn format(&self) -> Option<KvFormat> {
        Some(KvFormat { keys: self.keys.packing()?, values: self.values.packing()? })
    }

    pub(crate) fn arrays(&self) -> impl Iterator<Item = &Array> {
        self.keys.arrays().into_iter().chain(self.values.arrays())
    }

    pub(crate) fn nbytes(&self) -> usize {
        self.arrays().map(Array::nbytes).sum()
    }

    /// The same contents in a format.
    pub(crate) fn with_format(&self, format: Option<KvFormat>) -> Result<Self> {
        if self.format() == format {
            return Ok(self.clone());
        }
        Self::new(&self.keys.to_plain()?, &self.values.to_plain()?, format)
    }

    /// The tokens `from..to`, as a view.
    pub(crate) fn view(&self, from: i32, to: i32) -> Result<Self> {
        if from == 0 && to == self.len() {
            return Ok(self.clone());
        }
        self.map(|array| Ok(array.try_index((.., .., from..to, ..))?))
    }

    /// The tokens at these places: `[n]`.
    pub(crate) fn take(&self, places: &Array) -> Result<Self> {
        self.map(|array| Ok(array.take_axis(places, 2)?))
    }

    /// One row.
    pub(crate) fn row(&self, row: i32) -> Result<Self> {
        self.map(|array| Ok(array.try_index(row..row + 1)?))
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

    /// Writes each row of `new` into a buffer of its own, over the tokens from its place on.
    pub(crate) fn write_rows(held: Vec<(&mut Self, i32)>, new: &Self) -> Result<()> {
        let (mut held, at): (Vec<&mut Self>, Vec<i32>) = held.into_iter().unzip();
        let keys = Tensor::write_rows(&held.iter().map(|held| &held.keys).collect::<Vec<_>>(), &at, &new.keys)?;
        let values = Tensor::write_rows(&held.iter().map(|held| &held.values).collect::<Vec<_>>(), &at, &new.values)?;
        for ((held, keys), values) in held.iter_mut().zip(keys).zip(values) {
            (held.keys, held.values) = (keys, values);
        }
        Ok(())
    }

    /// Checks that `batch` rows of `new` can follow what is held.
    pub(crate) fn check_follows(&self, new: &Self, batch: i32) -> Result<()> {
        for (what, held, new) in [("keys", &self.keys, &new.keys), ("values", &self.values, &new.values)] {
            let ([b, k, _, d], got) = (held.shape(), new.shape());
            if [b, k, d] != [batch, got[1], got[3]] {
                return Err(Error::Shape { what, expected: format!("[{b}, {k}, L, {d}]"), got: got.to_vec() });
            }
        }
        Ok(())
    }

    fn map(&self, f: impl Fn(&Array) -> Result<Array>) -> Result<Self> {
        Ok(Self { keys: self.keys.map(&f)?, values: self.values.map(&f)? })
    }
}

/// Makes room for the tokens of `new` behind the first `used` of `held`, which grows in steps.
///
/// `batch` are the rows of `held`: those of `new`, or one of them.
pub(crate) fn make_room(held: &mut Option<Buffer>, used: i32, new: &Buffer, batch: i32) -> Result<()> {
    let added = new.len();
    let steps = used.checked_add(added).and_then(|needed| needed.checked_add(STEP - 1)).map(|n| n / STEP);
    let room = STEP * steps.ok_or(Error::TooLong { held: used, added })?;
    match held {
        None => *held = Some(new.zeros(batch, room)?),
        Some(buffer) => {
            buffer.check_follows(new, batch)?;
            if buffer.len() < used + added {
                *buffer = Buffer::concat(&[&buffer.view(0, used)?, &buffer.zeros(batch, room - used)?], 2)?;
            }
        }
    }
    Ok(())
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
