//! Caches out of the fields of a file.

use mlxlm_core::quant::{Mode, Packed, Scheme};
use mlxlm_core::{Array, Dtype};

use super::fields::{Fields, Layout};
use crate::batch::BatchKvCache;
use crate::batch_rotating::BatchRotatingKvCache;
use crate::buffer::Buffer;
use crate::chunked::ChunkedKvCache;
use crate::kv::KvCache;
use crate::quantized::Tensor;
use crate::rotating::RotatingKvCache;
use crate::state::StateCache;
use crate::{FileProblem, LayerCache, Result};

/// Lists may hold lists down to here.
const DEEPEST: usize = 4;

/// Reads a cache of the named class.
pub(super) fn layer(fields: &Fields, class: &str, depth: usize) -> Result<LayerCache> {
    Ok(match class {
        "KVCache" => LayerCache::Kv(kv(fields)?),
        "ConcatenateKVCache" => LayerCache::Kv(concatenated(fields)?),
        "QuantizedKVCache" => LayerCache::Kv(quantized(fields)?),
        "RotatingKVCache" => LayerCache::Rotating(rotating(fields)?),
        "ChunkedKVCache" => LayerCache::Chunked(chunked(fields)?),
        "ArraysCache" | "MambaCache" => LayerCache::State(state(fields)?),
        "BatchKVCache" => LayerCache::BatchKv(batch(fields)?),
        "BatchRotatingKVCache" => LayerCache::BatchRotating(batch_rotating(fields)?),
        "CacheList" => LayerCache::List(list(fields, depth)?),
        _ => {
            let (at, class) = (fields.at.clone(), class.to_owned());
            return Err(fields.reader.fail(FileProblem::Class { at, class }));
        }
    })
}

fn kv(fields: &Fields) -> Result<KvCache> {
    let buffer = pair(fields)?;
    let len = len(buffer.as_ref());
    let offset = match fields.reader.layout {
        Layout::Current => fields.int("2", "tokens", 0..=len)?,
        Layout::Old => len,
    };
    Ok(KvCache { buffer, offset, scheme: None })
}

fn concatenated(fields: &Fields) -> Result<KvCache> {
    let buffer = pair(fields)?;
    let offset = len(buffer.as_ref());
    Ok(KvCache { buffer, offset, scheme: None })
}

fn quantized(fields: &Fields) -> Result<KvCache> {
    let number = |current, old, what| match fields.reader.layout {
        Layout::Current => fields.int(current, what, 0..=i32::MAX),
        Layout::Old => fields.meta_int(old, what, 0..=i32::MAX),
    };
    let (offset, group_size, bits) =
        (number("2", "0", "tokens")?, number("3", "1", "group size")?, number("4", "2", "bits")?);
    let Ok(scheme) = Scheme::new(Mode::Affine, bits, group_size) else {
        let expected = "2, 3, 4, 5, 6 or 8, in groups of 32, 64 or 128".to_owned();
        return Err(fields.value("4", "bits", bits, expected));
    };
    let buffer = if fields.reader.has(&fields.key("0.0")) {
        let (keys, values) = (packed(fields, "0", scheme)?, packed(fields, "1", scheme)?);
        if keys.shape()[..3] != values.shape()[..3] {
            let scales = fields.array("1.1")?;
            return Err(fields.shape("1.1", &scales, &format!("{:?} and a width", &keys.shape()[..3])));
        }
        Some(Buffer { keys, values })
    } else {
        pair(fields)?.map(|plain| plain.with_scheme(Some(scheme))).transpose()?
    };
    let len = len(buffer.as_ref());
    if offset > len {
        return Err(fields.value("2", "tokens", offset, format!("0 to {len}")));
    }
    Ok(KvCache { buffer, offset, scheme: Some(scheme) })
}

fn rotating(fields: &Fields) -> Result<RotatingKvCache> {
    let buffer = pair(fields)?;
    let len = len(buffer.as_ref());
    let number = |current, old, what| match fields.reader.layout {
        Layout::Current => fields.int(current, what, 0..=i32::MAX),
        Layout::Old => fields.meta_int(old, what, 0..=i32::MAX),
    };
    let (offset, keep) = (number("2", "2", "tokens")?, number("3", "0", "tokens never dropped")?);
    let (max_size, idx) = (number("4", "1", "tokens at most")?, number("5", "3", "place of the next token")?);
    if max_size <= keep {
        return Err(fields.value("4", "tokens at most", max_size, format!("more than {keep}")));
    }
    check_ring(fields, ["2", "5"], Ring { len, offset, idx, keep, max_size })?;
    Ok(RotatingKvCache { buffer, offset, idx, keep, max_size, scheme: None })
}

/// The numbers of a ring that have to agree.
#[derive(Clone, Copy)]
struct Ring {
    len: i32,
    offset: i32,
    idx: i32,
    keep: i32,
    max_size: i32,
}

/// Checks that a ring is one that [`RotatingKvCache`] can come to.
fn check_ring(fields: &Fields, [offset_part, idx_part]: [&str; 2], ring: Ring) -> Result<()> {
    let Ring { len, offset, idx, keep, max_size } = ring;
    let place = "place of the next token";
    if offset <= len {
        // Nothing is dropped yet.
        return if idx == offset { Ok(()) } else { Err(fields.value(idx_part, place, idx, offset.to_string())) };
    }
    if len < max_size {
        return Err(fields.value(offset_part, "tokens", offset, format!("0 to {len}")));
    }
    let range = if len == max_size { keep..=len } else { len..=len };
    if range.contains(&idx) {
        return Ok(());
    }
    Err(fields.value(idx_part, place, idx, format!("{} to {}", range.start(), range.end())))
}

fn chunked(fields: &Fields) -> Result<ChunkedKvCache> {
    let buffer = pair(fields)?;
    let len = len(buffer.as_ref());
    let (chunk_size, start, offset) = match fields.reader.layout {
        Layout::Current => {
            let chunk_size = fields.int("3", "tokens in a chunk", 1..=i32::MAX)?;
            let start = fields.int("4", "first position", 0..=i32::MAX - len)?;
            (chunk_size, start, fields.int("2", "tokens", start..=start + len)?)
        }
        // How many tokens are held was not written once the front was cut.
        Layout::Old => (
            fields.meta_int("0", "tokens in a chunk", 1..=i32::MAX)?,
            fields.meta_int("1", "first position", 0..=0)?,
            len,
        ),
    };
    Ok(ChunkedKvCache { buffer, offset, start, chunk_size, scheme: None })
}

fn state(fields: &Fields) -> Result<StateCache> {
    let prefix = match fields.reader.layout {
        Layout::Current => "0.",
        Layout::Old => "",
    };
    let mut slots: Vec<Option<Array>> = Vec::new();
    let mut batch = None;
    while fields.reader.has(&fields.key(&format!("{prefix}{}", slots.len()))) {
        let part = format!("{prefix}{}", slots.len());
        let array = fields.optional(&part)?;
        if let Some(array) = &array {
            let rows = array.shape().first().copied();
            let expected = *batch.get_or_insert(rows.unwrap_or(1));
            if rows != Some(expected) {
                return Err(fields.shape(&part, array, &format!("[{expected}, …]")));
            }
        }
        slots.push(array);
    }
    let mut state = StateCache { slots, left_padding: None, lengths: None };
    if fields.reader.layout == Layout::Current {
        state.left_padding = fields.optional_ints("1", batch)?;
        let rows = batch.or(state.left_padding.as_ref().map(|padding| padding.len() as i32));
        state.lengths = fields.optional_ints("2", rows)?;
    }
    Ok(state)
}

fn batch(fields: &Fields) -> Result<BatchKvCache> {
    let buffer = pair(fields)?;
    let len = len(buffer.as_ref());
    let rows = rows(fields, buffer.as_ref(), "3")?;
    let idx = match fields.reader.layout {
        Layout::Current => fields.int("4", "columns", 0..=len)?,
        Layout::Old => len,
    };
    let left_padding = fields.ints("3", rows)?;
    for (offset, padding) in fields.ints("2", rows)?.into_iter().zip(&left_padding) {
        if Some(offset) != idx.checked_sub(*padding) || *padding < 0 {
            return Err(fields.value("2", "tokens of a row", offset, format!("{idx} less the row's padding")));
        }
    }
    Ok(BatchKvCache { buffer, idx, left_padding, scheme: None })
}

fn batch_rotating(fields: &Fields) -> Result<BatchRotatingKvCache> {
    let buffer = pair(fields)?;
    let rows = rows(fields, buffer.as_ref(), "3")?;
    let ints = |part, old, what, range| match fields.reader.layout {
        Layout::Current => fields.int(part, what, range),
        Layout::Old => fields.meta_int(old, what, range),
    };
    let max_size = ints("4", "0", "tokens at most", 1..=i32::MAX)?;
    let (seen, idx) = (ints("5", "1", "columns", 0..=i32::MAX)?, ints("6", "2", "next column", 0..=i32::MAX)?);
    let rotated = match fields.reader.layout {
        Layout::Current => fields.bool("7")?,
        Layout::Old => fields.reader.metadata(&format!("{}.3", fields.meta))? == "True",
    };
    let len = len(buffer.as_ref());
    check_ring(fields, ["5", "6"], Ring { len, offset: seen, idx, keep: 0, max_size })?;
    if rotated && len != max_size {
        return Err(fields.value("4", "tokens at most", max_size, len.to_string()));
    }
    let (offsets, left_padding) = (fields.ints("2", rows)?, fields.ints("3", rows)?);
    Ok(BatchRotatingKvCache { buffer, max_size, offsets, left_padding, seen, idx, rotated, scheme: None })
}

/// The rows of a batch, from its buffer or, if that is empty, from an array with a number for each.
fn rows(fields: &Fields, buffer: Option<&Buffer>, part: &str) -> Result<i32> {
    match buffer {
        Some(buffer) => Ok(buffer.batch()),
        None => Ok(fields.array(part)?.size() as i32),
    }
}

fn list(fields: &Fields, depth: usize) -> Result<Vec<LayerCache>> {
    if depth >= DEEPEST {
        return Err(fields.reader.fail(FileProblem::Depth { at: fields.at.clone() }));
    }
    let mut caches = Vec::new();
    loop {
        let i = caches.len();
        let (class, at, meta) = match fields.reader.layout {
            Layout::Current if fields.reader.has(&fields.key(&format!("{i}.1"))) => {
                (fields.string(&format!("{i}.1"))?, fields.key(&format!("{i}.0")), String::new())
            }
            Layout::Old if fields.reader.metadata.contains_key(&format!("{}.0.{i}", fields.meta)) => {
                let class = fields.reader.metadata(&format!("{}.0.{i}", fields.meta))?;
                (class.to_owned(), fields.key(&i.to_string()), format!("{}.1.{i}", fields.meta))
            }
            _ => return Ok(caches),
        };
        caches.push(layer(&Fields { reader: fields.reader, at, meta }, &class, depth + 1)?);
    }
}

/// Plain keys and values, of which an empty cache has none.
fn pair(fields: &Fields) -> Result<Option<Buffer>> {
    let (keys, values) = (fields.optional("0")?, fields.optional("1")?);
    let (keys, values) = match (keys, values) {
        (None, None) => return Ok(None),
        (Some(keys), Some(values)) => (keys, values),
        (keys, _) => {
            let key = fields.key(if keys.is_none() { "0" } else { "1" });
            return Err(fields.reader.fail(FileProblem::NoArray { key }));
        }
    };
    if keys.ndim() != 4 || keys.shape()[0] == 0 || keys.shape()[1] == 0 || keys.shape()[3] == 0 {
        return Err(fields.shape("0", &keys, "[B, K, S, d]"));
    }
    if values.ndim() != 4 || values.shape()[..3] != keys.shape()[..3] {
        return Err(fields.shape("1", &values, &format!("{:?} and a width", &keys.shape()[..3])));
    }
    for (part, array) in [("0", &keys), ("1", &values)] {
        if !is_float(array) {
            return Err(fields.kind(part, array, "a float of 16 or 32 bits"));
        }
    }
    Ok(Some(Buffer { keys: Tensor::Plain(keys), values: Tensor::Plain(values) }))
}

/// A quantized tensor: packed words, scales and biases.
fn packed(fields: &Fields, part: &str, scheme: Scheme) -> Result<Tensor> {
    let [w, s, b] = ["0", "1", "2"].map(|i| format!("{part}.{i}"));
    let (weight, scales, biases) = (fields.array(&w)?, fields.array(&s)?, fields.array(&b)?);
    let shape = scales.shape();
    if shape.len() != 4 || shape[0] == 0 || shape[1] == 0 || shape[3] == 0 {
        return Err(fields.shape(&s, &scales, "[B, K, S, groups]"));
    }
    let words = i64::from(shape[3]) * i64::from(scheme.group_size) * i64::from(scheme.bits) / 32;
    if weight.ndim() != 4 || weight.shape()[..3] != shape[..3] || i64::from(weight.shape()[3]) != words {
        return Err(fields.shape(&w, &weight, &format!("{:?} and {words} words", &shape[..3])));
    }
    if biases.shape() != shape {
        return Err(fields.shape(&b, &biases, &format!("{shape:?}")));
    }
    if weight.dtype() != Dtype::Uint32 {
        return Err(fields.kind(&w, &weight, "32-bit words"));
    }
    for (part, array) in [(&s, &scales), (&b, &biases)] {
        if !is_float(array) {
            return Err(fields.kind(part, array, "a float of 16 or 32 bits"));
        }
    }
    Ok(Tensor::Packed(Packed { weight, scales, biases: Some(biases) }, scheme))
}

fn is_float(array: &Array) -> bool {
    matches!(array.dtype(), Dtype::Float16 | Dtype::Bfloat16 | Dtype::Float32)
}

fn len(buffer: Option<&Buffer>) -> i32 {
    buffer.map_or(0, Buffer::len)
}
