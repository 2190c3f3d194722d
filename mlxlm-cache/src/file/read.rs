//! Caches out of the fields of a file.

use mlxlm_core::ops::indexing::TryIndexOp;
use mlxlm_core::quant::Packed;
use mlxlm_core::{Array, Dtype};

use super::fields::{Fields, Layout};
use super::{MIXED, MIXED_CHUNKED, MIXED_ROTATING, QUANTIZED_CHUNKED, QUANTIZED_ROTATING};
use crate::buffer::Buffer;
use crate::chunked::ChunkedKvCache;
use crate::compressed::CompressedCache;
use crate::format::Packing;
use crate::kv::KvCache;
use crate::quantized::Tensor;
use crate::rotating::RotatingKvCache;
use crate::state::StateCache;
use crate::{FileProblem, KvFormat, LayerCache, Result};

/// Lists may hold lists down to here.
const DEEPEST: usize = 4;

/// Reads a cache of the named class.
pub(super) fn layer(fields: &Fields, class: &str, depth: usize) -> Result<LayerCache> {
    Ok(match class {
        "KVCache" => LayerCache::Kv(kv(fields)?),
        "ConcatenateKVCache" => LayerCache::Kv(concatenated(fields)?),
        "QuantizedKVCache" => LayerCache::Kv(quantized(fields, format)?),
        MIXED => LayerCache::Kv(quantized(fields, mixed)?),
        "RotatingKVCache" => LayerCache::Rotating(rotating(fields, None)?),
        "ChunkedKVCache" => LayerCache::Chunked(chunked(fields, None)?),
        QUANTIZED_ROTATING => LayerCache::Rotating(rotating(fields, Some(format(fields, 6)?))?),
        QUANTIZED_CHUNKED => LayerCache::Chunked(chunked(fields, Some(format(fields, 5)?))?),
        MIXED_ROTATING => LayerCache::Rotating(rotating(fields, Some(mixed(fields, 6)?))?),
        MIXED_CHUNKED => LayerCache::Chunked(chunked(fields, Some(mixed(fields, 5)?))?),
        "ArraysCache" | "MambaCache" => state(fields)?,
        "LayerCache" => LayerCache::Compressed(compressed(fields)?),
        "BatchKVCache" => LayerCache::Rows(batch(fields)?),
        "BatchRotatingKVCache" => LayerCache::Rows(batch_rotating(fields)?),
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
    Ok(KvCache::of(buffer, offset, None))
}

fn concatenated(fields: &Fields) -> Result<KvCache> {
    let buffer = pair(fields)?;
    let offset = len(buffer.as_ref());
    Ok(KvCache::of(buffer, offset, None))
}

/// A cache of all tokens whose format `numbers` reads, from a part on.
fn quantized(fields: &Fields, numbers: fn(&Fields, usize) -> Result<KvFormat>) -> Result<KvCache> {
    let (offset, format) = match fields.reader.layout {
        Layout::Current => (fields.int("2", "tokens", 0..=i32::MAX)?, numbers(fields, 3)?),
        Layout::Old => {
            let number = |part, what| fields.meta_int(part, what, 0..=i32::MAX);
            let (offset, group_size, bits) = (number("0", "tokens")?, number("1", "group size")?, number("2", "bits")?);
            (offset, affine(fields, "4", [bits; 2], group_size)?)
        }
    };
    let buffer = kept(fields, Some(format))?;
    let len = len(buffer.as_ref());
    if offset > len {
        return Err(fields.value("2", "tokens", offset, format!("0 to {len}")));
    }
    Ok(KvCache::of(buffer, offset, Some(format)))
}

/// How keys and values are quantized, from two numbers: group size and bits.
fn format(fields: &Fields, first: usize) -> Result<KvFormat> {
    let [group_part, bits_part] = [first, first + 1].map(|part| part.to_string());
    let group_size = fields.int(&group_part, "group size", 0..=i32::MAX)?;
    affine(fields, &bits_part, [fields.int(&bits_part, "bits", 0..=i32::MAX)?; 2], group_size)
}

/// The same from five: group size, bits of keys and of values, and whether each is rotated.
fn mixed(fields: &Fields, first: usize) -> Result<KvFormat> {
    let number = |i: usize, what, most| fields.int(&(first + i).to_string(), what, 0..=most);
    let group_size = number(0, "group size", i32::MAX)?;
    let bits = [number(1, "bits of keys", i32::MAX)?, number(2, "bits of values", i32::MAX)?];
    let rotated = [number(3, "1 if keys are rotated", 1)? == 1, number(4, "1 if values are rotated", 1)? == 1];
    Ok(affine(fields, &(first + 1).to_string(), bits, group_size)?.rotated(rotated))
}

fn affine(fields: &Fields, part: &str, bits: [i32; 2], group_size: i32) -> Result<KvFormat> {
    KvFormat::mixed(bits, group_size).map_err(|_| {
        let unknown = |bits: &i32| KvFormat::new(*bits, group_size).is_err();
        let expected = "2, 3, 4, 5, 6 or 8, in groups of 32, 64 or 128".to_owned();
        fields.value(part, "bits", bits.into_iter().find(unknown).unwrap_or(0), expected)
    })
}

/// Keys and values in a format, of which an empty cache has none.
fn kept(fields: &Fields, format: Option<KvFormat>) -> Result<Option<Buffer>> {
    let Some(format) = format else { return pair(fields) };
    if !fields.reader.has(&fields.key("0.0")) {
        return pair(fields)?.map(|plain| plain.with_format(Some(format))).transpose();
    }
    let (keys, values) = (packed(fields, "0", format.keys)?, packed(fields, "1", format.values)?);
    if keys.shape()[..3] != values.shape()[..3] {
        let scales = fields.array("1.1")?;
        return Err(fields.shape("1.1", &scales, &format!("{:?} and a width", &keys.shape()[..3])));
    }
    Ok(Some(Buffer { keys, values }))
}

fn rotating(fields: &Fields, format: Option<KvFormat>) -> Result<RotatingKvCache> {
    let buffer = kept(fields, format)?;
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
    Ok(RotatingKvCache { buffer, offset, idx, keep, max_size, format })
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

fn chunked(fields: &Fields, format: Option<KvFormat>) -> Result<ChunkedKvCache> {
    let buffer = kept(fields, format)?;
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
    Ok(ChunkedKvCache { buffer, offset, start, chunk_size, format })
}

fn state(fields: &Fields) -> Result<LayerCache> {
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
    if fields.reader.layout == Layout::Current {
        for (part, what) in [("1", "padding to come"), ("2", "tokens to come")] {
            let counts = fields.optional_ints(part, batch)?.unwrap_or_default();
            if let Some(left) = counts.into_iter().find(|&left| left > 0) {
                return Err(fields.value(part, what, left, "none, as in a cache between two passes".to_owned()));
            }
        }
    }
    let row = |row: Option<i32>| {
        let mut state = StateCache::new(slots.len());
        for (slot, array) in slots.iter().enumerate() {
            match (array, row) {
                (Some(array), Some(row)) => state.set(slot, array.try_index(row..row + 1)?, None)?,
                (Some(array), None) => state.set(slot, array.clone(), None)?,
                (None, _) => {}
            }
        }
        Ok(LayerCache::State(state))
    };
    match batch {
        None | Some(0 | 1) => row(None),
        Some(rows) => Ok(LayerCache::Rows((0..rows).map(|i| row(Some(i))).collect::<Result<_>>()?)),
    }
}

fn compressed(fields: &Fields) -> Result<CompressedCache> {
    let mut batch = None;
    let mut part = |part: &str| -> Result<Option<Array>> {
        let Some(array) = fields.optional(part)? else { return Ok(None) };
        let rows = array.shape().first().copied().unwrap_or(0);
        let expected = *batch.get_or_insert(rows);
        if array.ndim() != 3 || rows != expected || rows == 0 {
            return Err(fields.shape(part, &array, &format!("[{expected}, rows, width]")));
        }
        if !is_float(&array) {
            return Err(fields.kind(part, &array, "a float of 16 or 32 bits"));
        }
        Ok(Some(array))
    };
    let (window, compressed, index) = (part("0")?, part("1")?, part("2")?);
    let (pending_rows, pending_gates) = (part("3")?, part("4")?);
    match (&pending_rows, &pending_gates) {
        (None, None) => {}
        (Some(rows), Some(gates)) if rows.shape() == gates.shape() => {}
        (Some(rows), Some(gates)) => return Err(fields.shape("4", gates, &format!("{:?}", rows.shape()))),
        (rows, _) => {
            let key = fields.key(if rows.is_none() { "3" } else { "4" });
            return Err(fields.reader.fail(FileProblem::NoArray { key }));
        }
    }
    let held = window.as_ref().map_or(0, |window| window.dim(1));
    let offset = fields.int("5", "tokens", held..=i32::MAX)?;
    Ok(CompressedCache { window, compressed, index, pending_rows, pending_gates, offset })
}

/// Each row of a batch as a sequence of its own, without its padding.
fn batch(fields: &Fields) -> Result<Vec<LayerCache>> {
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
    let row = |(row, padding): (i32, i32)| {
        let own = |buffer: &Buffer| buffer.view(padding, idx)?.row(row);
        let buffer = buffer.as_ref().filter(|_| idx > padding).map(own).transpose()?;
        Ok(LayerCache::Kv(KvCache::of(buffer, idx - padding, None)))
    };
    (0..).zip(left_padding).map(row).collect()
}

fn batch_rotating(fields: &Fields) -> Result<Vec<LayerCache>> {
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
    let in_order = match &buffer {
        Some(buffer) if rotated && idx < len => {
            Some(Buffer::concat(&[&buffer.view(idx, len)?, &buffer.view(0, idx)?], 2)?)
        }
        Some(buffer) if idx > 0 => Some(buffer.view(0, idx)?),
        _ => None,
    };
    let row = |(row, (offset, padding)): (i32, (i32, i32))| {
        let held = self::len(in_order.as_ref());
        let first = padding.max(0);
        if offset < 0 || offset.min(held) < held - first {
            return Err(fields.value("2", "tokens of a row", offset, format!("at least {}", held - first)));
        }
        let own = |buffer: &Buffer| buffer.view(first, held)?.row(row);
        let buffer = in_order.as_ref().filter(|_| held > first).map(own).transpose()?;
        let idx = self::len(buffer.as_ref());
        Ok(LayerCache::Rotating(RotatingKvCache { buffer, offset, idx, keep: 0, max_size, format: None }))
    };
    (0..).zip(offsets.into_iter().zip(left_padding)).map(row).collect()
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
fn packed(fields: &Fields, part: &str, packing: Packing) -> Result<Tensor> {
    let scheme = packing.scheme;
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
    Ok(Tensor::Packed(Packed { weight, scales, biases: Some(biases) }, packing))
}

fn is_float(array: &Array) -> bool {
    matches!(array.dtype(), Dtype::Float16 | Dtype::Bfloat16 | Dtype::Float32)
}

fn len(buffer: Option<&Buffer>) -> i32 {
    buffer.map_or(0, Buffer::len)
}
