//! Caches into arrays and the list of those that are no arrays in Python.

use mlxlm_core::{Array, ops};

use crate::buffer::Buffer;
use crate::quantized::Tensor;
use crate::{LayerCache, Result};

/// What a file is going to hold.
#[derive(Default)]
pub(super) struct Writer {
    pub arrays: Vec<(String, Array)>,
    /// Array keys that are something else in Python, and what.
    pub scalars: Vec<(String, &'static str)>,
}

impl Writer {
    fn array(&mut self, key: String, array: Array) {
        self.arrays.push((key, array));
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

    fn ints(&mut self, key: String, values: &[i32]) {
        self.array(key, Array::from_slice(values, &[values.len() as i32]));
    }

    fn optional_ints(&mut self, key: String, values: Option<&[i32]>) -> Result<()> {
        match values {
            None => self.none(key),
            Some(values) => {
                self.ints(key, values);
                Ok(())
            }
        }
    }

    fn tensor(&mut self, key: &str, tensor: &Tensor) {
        match tensor {
            Tensor::Plain(array) => self.array(key.to_owned(), array.clone()),
            Tensor::Packed(..) => {
                for (i, array) in tensor.arrays().into_iter().enumerate() {
                    self.array(format!("{key}.{i}"), array.clone());
                }
            }
        }
    }

    fn buffer(&mut self, at: &str, buffer: Option<&Buffer>) -> Result<()> {
        let (keys, values) = (format!("{at}.0"), format!("{at}.1"));
        match buffer {
            None => {
                self.none(keys)?;
                self.none(values)?;
            }
            Some(buffer) => {
                self.tensor(&keys, &buffer.keys);
                self.tensor(&values, &buffer.values);
            }
        }
        Ok(())
    }

    /// Keys and values of a class that holds plain numbers.
    fn plain(&mut self, at: &str, buffer: Option<Buffer>) -> Result<()> {
        self.buffer(at, buffer.map(|buffer| buffer.with_scheme(None)).transpose()?.as_ref())
    }
}

/// Python's name for the kind of cache.
pub(super) fn class(layer: &LayerCache) -> &'static str {
    match layer {
        LayerCache::Kv(cache) if cache.scheme.is_some() => "QuantizedKVCache",
        LayerCache::Kv(_) => "KVCache",
        LayerCache::Rotating(_) => "RotatingKVCache",
        LayerCache::Chunked(_) => "ChunkedKVCache",
        LayerCache::BatchKv(_) => "BatchKVCache",
        LayerCache::BatchRotating(_) => "BatchRotatingKVCache",
        LayerCache::State(_) => "ArraysCache",
        LayerCache::List(_) => "CacheList",
    }
}

/// Writes the parts of a cache under the key `at`.
pub(super) fn layer(writer: &mut Writer, at: &str, layer: &LayerCache) -> Result<()> {
    let key = |part: &str| format!("{at}.{part}");
    match layer {
        LayerCache::Kv(cache) => {
            writer.buffer(at, cache.held()?.as_ref())?;
            writer.int(key("2"), cache.offset);
            if let Some(scheme) = cache.scheme {
                writer.int(key("3"), scheme.group_size);
                writer.int(key("4"), scheme.bits);
            }
        }
        LayerCache::Rotating(cache) => {
            writer.plain(at, cache.held()?)?;
            for (part, value) in [("2", cache.offset), ("3", cache.keep), ("4", cache.max_size), ("5", cache.idx)] {
                writer.int(key(part), value);
            }
        }
        LayerCache::Chunked(cache) => {
            writer.plain(at, cache.held()?)?;
            for (part, value) in [("2", cache.offset), ("3", cache.chunk_size), ("4", cache.start)] {
                writer.int(key(part), value);
            }
        }
        LayerCache::BatchKv(cache) => {
            writer.plain(at, cache.held()?)?;
            writer.ints(key("2"), &cache.offsets());
            writer.ints(key("3"), &cache.left_padding);
            writer.int(key("4"), cache.idx);
        }
        LayerCache::BatchRotating(cache) => {
            writer.plain(at, cache.held()?)?;
            writer.ints(key("2"), &cache.offsets);
            writer.ints(key("3"), &cache.left_padding);
            for (part, value) in [("4", cache.max_size), ("5", cache.seen), ("6", cache.idx)] {
                writer.int(key(part), value);
            }
            writer.scalar(key("7"), Array::from_bool(cache.rotated));
        }
        LayerCache::State(state) => {
            for (i, array) in state.slots.iter().enumerate() {
                match array {
                    Some(array) => writer.array(key(&format!("0.{i}")), array.clone()),
                    None => writer.none(key(&format!("0.{i}")))?,
                }
            }
            writer.optional_ints(key("1"), state.left_padding.as_deref())?;
            writer.optional_ints(key("2"), state.lengths.as_deref())?;
        }
        LayerCache::List(caches) => {
            for (i, cache) in caches.iter().enumerate() {
                self::layer(writer, &key(&format!("{i}.0")), cache)?;
                writer.string(key(&format!("{i}.1")), class(cache));
            }
        }
    }
    Ok(())
}
