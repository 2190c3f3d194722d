//! Caches into arrays and the list of those that are no arrays in Python.

use mlxlm_core::weights::{NewTensor, Rows};
use mlxlm_core::{Array, ops};

use super::{MIXED, MIXED_CHUNKED, MIXED_ROTATING, QUANTIZED_CHUNKED, QUANTIZED_ROTATING};
use crate::buffer::{Buffer, STEP};
use crate::quantized::Tensor;
use crate::{Error, KvFormat, LayerCache, Result};

/// What a file is going to hold.
#[derive(Default)]
pub(super) struct Writer {
    /// Whether there is room behind the tokens held, so that a cache that is mapped takes the next token without a copy of them.
    pub room: bool,
    pub tensors: Vec<NewTensor>,
    /// Array keys that are something else in Python, and what.
    pub scalars: Vec<(String, &'static str)>,
}

/// Keys and values, and which of them are written if it is not all.
type Held = Option<(Buffer, Option<Rows>)>;

impl Writer {
    pub(super) fn array(&mut self, key: String, array: Array) {
        self.tensors.push(NewTensor { name: key, array, rows: None });
    }

    fn scalar(&mut self, key: String, array: Array) {
        self.scalars.push((key.clone(), "scalar"));
        self.array(key, array);
    }

    fn int(&mut self, key: String, value: i32) {
        self.scalar(key, Array::from_int(value));
    }

    fn none(&mut self, key: String) -> Result<()> {
        self.scalars.push((key.clone(), "none"));
        self.array(key, ops::zeros::<f32>(&[0])?);
        Ok(())
    }

    fn string(&mut self, key: String, text: &str) {
        let points: Vec<i32> = text.chars().map(|c| c as i32).collect();
        self.scalars.push((key.clone(), "string"));
        self.array(key, Array::from_slice(&points, &[points.len() as i32]));
    }

    fn tensor(&mut self, key: &str, tensor: &Tensor, rows: Option<Rows>) {
        let arrays = tensor.arrays();
        let names: Vec<String> = match tensor {
            Tensor::Plain(_) => vec![key.to_owned()],
            Tensor::Packed(..) => (0..arrays.len()).map(|i| format!("{key}.{i}")).collect(),
        };
        let arrays = arrays.into_iter().cloned().zip(names);
        self.tensors.extend(arrays.map(|(array, name)| NewTensor { name, array, rows }));
    }

    fn buffer(&mut self, at: &str, held: &Held) -> Result<()> {
        let (keys, values) = (format!("{at}.0"), format!("{at}.1"));
        match held {
            None => {
                self.none(keys)?;
                self.none(values)?;
            }
            Some((buffer, rows)) => {
                self.tensor(&keys, &buffer.keys, *rows);
                self.tensor(&values, &buffer.values, *rows);
            }
        }
        Ok(())
    }

    /// The first `used` tokens of a buffer, with room up to `most`.
    fn held(&self, buffer: Option<&Buffer>, used: i32, most: i32) -> Result<Held> {
        let Some(buffer) = buffer.filter(|_| used > 0) else { return Ok(None) };
        if !self.room {
            return Ok(Some((buffer.view(0, used)?, None)));
        }
        let len = (used / STEP).saturating_add(1).saturating_mul(STEP).min(most).max(used);
        Ok(Some((buffer.clone(), Some(Rows { held: used, len }))))
    }

    fn ints_at(&mut self, at: &str, first: usize, values: &[i32]) {
        values.iter().zip(first..).for_each(|(&value, part)| self.int(format!("{at}.{part}"), value));
    }

    /// The numbers of a format behind those of the class.
    fn format(&mut self, at: &str, first: usize, format: Option<KvFormat>) {
        let Some(format) = format else { return };
        let ([keys, values], rotated) = (format.bits(), format.is_rotated().map(i32::from));
        self.ints_at(at, first, &[format.group_size(), keys]);
        if !format.is_of_python() {
            self.ints_at(at, first + 2, &[values, rotated[0], rotated[1]]);
        }
    }
}

/// Python's name for the kind of cache.
pub(crate) fn class(layer: &LayerCache) -> &'static str {
    match layer {
        LayerCache::Kv(cache) => of_format(cache.format, ["KVCache", "QuantizedKVCache", MIXED]),
        LayerCache::Rotating(cache) => of_format(cache.format, ["RotatingKVCache", QUANTIZED_ROTATING, MIXED_ROTATING]),
        LayerCache::Chunked(cache) => of_format(cache.format, ["ChunkedKVCache", QUANTIZED_CHUNKED, MIXED_CHUNKED]),
        LayerCache::State(_) => "ArraysCache",
        LayerCache::Compressed(_) => "LayerCache",
        LayerCache::List(_) => "CacheList",
        LayerCache::Rows(_) => "batch",
    }
}

fn of_format(format: Option<KvFormat>, [plain, quantized, mixed]: [&'static str; 3]) -> &'static str {
    match format {
        None => plain,
        Some(format) if format.is_of_python() => quantized,
        Some(_) => mixed,
    }
}

/// Writes the parts of a cache under the key `at`.
pub(super) fn layer(writer: &mut Writer, at: &str, layer: &LayerCache) -> Result<()> {
    let key = |part: &str| format!("{at}.{part}");
    match layer {
        LayerCache::Kv(cache) if cache.evicted > 0 => {
            return Err(Error::Kind { action: "be written, as it dropped tokens", kind: "KV" });
        }
        LayerCache::Kv(cache) => {
            let held = writer.held(cache.buffer.as_ref(), cache.offset, i32::MAX)?;
            writer.buffer(at, &held)?;
            writer.int(key("2"), cache.offset);
            writer.format(at, 3, cache.format);
        }
        LayerCache::Rotating(cache) => {
            let used = cache.buffer.as_ref().map_or(0, |buffer| buffer.len().min(cache.offset));
            // A ring that is full has its size, and what is more than full has no room.
            let held = writer.held(cache.buffer.as_ref(), used, cache.max_size)?;
            writer.buffer(at, &held)?;
            writer.ints_at(at, 2, &[cache.offset, cache.keep, cache.max_size, cache.idx]);
            writer.format(at, 6, cache.format);
        }
        LayerCache::Chunked(cache) => {
            let held = writer.held(cache.buffer.as_ref(), cache.offset - cache.start, i32::MAX)?;
            writer.buffer(at, &held)?;
            writer.ints_at(at, 2, &[cache.offset, cache.chunk_size, cache.start]);
            writer.format(at, 5, cache.format);
        }
        LayerCache::State(state) => {
            for i in 0..state.slots() {
                match state.get(i)? {
                    Some(array) => writer.array(key(&format!("0.{i}")), array),
                    None => writer.none(key(&format!("0.{i}")))?,
                }
            }
            writer.none(key("1"))?;
            writer.none(key("2"))?;
        }
        LayerCache::Compressed(cache) => {
            for (i, array) in cache.parts().into_iter().enumerate() {
                match array {
                    Some(array) => writer.array(key(&i.to_string()), array.clone()),
                    None => writer.none(key(&i.to_string()))?,
                }
            }
            // An array in Python too, and not a number.
            writer.array(key("5"), Array::from_int(cache.offset));
        }
        LayerCache::List(caches) => {
            for (i, cache) in caches.iter().enumerate() {
                self::layer(writer, &key(&format!("{i}.0")), cache)?;
                writer.string(key(&format!("{i}.1")), class(cache));
            }
        }
        LayerCache::Rows(_) => {
            return Err(Error::Kind { action: "be written: split it first, a file holds one sequence", kind: "batch" });
        }
    }
    Ok(())
}
