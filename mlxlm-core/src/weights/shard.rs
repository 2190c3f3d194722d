//! One safetensors file, mapped into memory: its header is checked in Rust before MLX sees a byte, and its tensors are
//! arrays over the mapping, not copies.
//!
//! A file must not be changed while it is mapped (write a new one and rename it, as [`crate::io`] does): where one is cut short in
//! place, the system ends the process that reads on. So what runs for long is copied first, see [`crate::nn::arrange`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::{MmapOptions, MmapRaw};
use mlx_rs::error::Exception;
use mlx_rs::{Array, Dtype};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype as FileDtype, Metadata};

use super::{WeightsError, header};
use crate::{Error, Result, io, raw};

/// A float of eight or four bits. MLX has no types for them, so that arrays hold their bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SmallFloat {
    /// Four bits, two to a byte, the first in the lower half.
    E2M1,
    /// Eight bits with four of exponent, what fp8 weights mostly are.
    E4M3,
    /// Eight bits with five of exponent, the upper half of an `f16`.
    E5M2,
    /// A power of two.
    E8M0,
}

/// A mapped safetensors file.
#[derive(Debug)]
pub struct SafetensorsFile {
    path: PathBuf,
    map: Arc<MmapRaw>,
    /// Where the data begins, after the header.
    data_start: usize,
    header: Metadata,
}

impl SafetensorsFile {
    /// Maps a file and checks its header: sizes, offsets, overlaps, and that the data is all there.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let damaged = |why: String| WeightsError::Damaged { path: path.to_owned(), why };
        let file = io::open(path)?;
        let map = map(&file).map_err(|source| Error::Io { action: "map", path: path.to_owned(), source })?;
        let (header_len, header) = SafeTensors::read_metadata(contents(&map)).map_err(|e| damaged(e.to_string()))?;
        let data_start = header_len + 8;
        header::check(contents(&map).get(8..data_start).unwrap_or_default(), &header).map_err(damaged)?;
        Ok(Self { path: path.to_owned(), map: Arc::new(map), data_start, header })
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn map(&self) -> &MmapRaw {
        &self.map
    }

    pub(super) fn data_start(&self) -> usize {
        self.data_start
    }

    pub(super) fn header(&self) -> &Metadata {
        &self.header
    }

    /// The names of the tensors, sorted.
    pub fn names(&self) -> Vec<String> {
        let mut names = self.header.offset_keys();
        names.sort();
        names
    }

    /// The free-form strings of the header, sorted by key.
    pub fn metadata(&self) -> BTreeMap<String, String> {
        self.header.metadata().iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect()
    }

    /// Which small float a tensor is of, if it is.
    pub fn small_float(&self, name: &str) -> Option<SmallFloat> {
        match self.header.info(name)?.dtype {
            FileDtype::F4 => Some(SmallFloat::E2M1),
            FileDtype::F8_E4M3 => Some(SmallFloat::E4M3),
            FileDtype::F8_E5M2 => Some(SmallFloat::E5M2),
            FileDtype::F8_E8M0 => Some(SmallFloat::E8M0),
            _ => None,
        }
    }

    /// A tensor as an array over the mapped file. Small floats come as their bytes (`u8`), as MLX has no type for them; of
    /// those with four bits, two are one element of the last axis.
    ///
    /// Take each once, and clone the array: an operation may write its result where an array lay that nobody has any more, and
    /// another one over the same bytes would show that.
    pub fn array(&self, name: &str) -> Result<Array> {
        let info = self.header.info(name).ok_or_else(|| WeightsError::Damaged {
            path: self.path.clone(),
            why: format!("it has no tensor `{name}`"),
        })?;
        let dtype = array_dtype(info.dtype).ok_or_else(|| WeightsError::Damaged {
            path: self.path.clone(),
            why: format!("`{name}` is of the type {:?}, for which MLX has no array", info.dtype),
        })?;
        let (start, end) = info.data_offsets;
        let mut shape: Vec<i32> = info.shape.iter().map(|&n| n as i32).collect();
        if info.dtype == FileDtype::F4 {
            let pairs = shape.last_mut().filter(|last| **last % 2 == 0).ok_or_else(|| WeightsError::Damaged {
                path: self.path.clone(),
                why: format!("`{name}` has rows of an odd number of 4-bit floats, {:?}", info.shape),
            })?;
            *pairs /= 2;
        }
        Ok(array_over(&self.map, (self.data_start + start, self.data_start + end), &shape, dtype)?)
    }

    /// All tensors by name.
    pub fn arrays(&self) -> Result<BTreeMap<String, Array>> {
        self.names().into_iter().map(|name| self.array(&name).map(|array| (name, array))).collect()
    }
}

#[allow(unsafe_code, reason = "mapping a file is unsafe because others may change it")]
pub(super) fn map(file: &std::fs::File) -> std::io::Result<MmapRaw> {
    // A private mapping: should an operation of MLX write over a weight that nobody needs any more, the file stays as it is.
    // SAFETY: model files are replaced by rename, not changed in place; see the module's header.
    let map = unsafe { MmapOptions::new().no_reserve_swap().map_copy(file)? };
    Ok(map.into())
}

/// The bytes of a mapping.
#[allow(unsafe_code, reason = "a mapping is raw memory")]
pub(super) fn contents(map: &MmapRaw) -> &[u8] {
    // SAFETY: the mapping is readable over its whole length, and nothing writes to it while it is borrowed here.
    unsafe { std::slice::from_raw_parts(map.as_ptr(), map.len()) }
}

/// The bytes of a mapping over which an array lies.
struct Part {
    map: Arc<MmapRaw>,
    start: usize,
    end: usize,
}

/// When the array is gone, its memory is given back to the system, though other arrays keep the mapping: a matrix that was put
/// into another order is not held twice.
#[cfg(target_os = "linux")]
impl Drop for Part {
    fn drop(&mut self) {
        /// The largest page that a system of this kind may have.
        const PAGE: usize = if cfg!(target_arch = "x86_64") { 4 << 10 } else { 64 << 10 };
        let base = self.map.as_ptr().addr();
        let from = (base + self.start).next_multiple_of(PAGE) - base;
        let to = ((base + self.end) / PAGE * PAGE).saturating_sub(base);
        if from < to {
            #[allow(unsafe_code, reason = "giving back memory that nobody reads")]
            // SAFETY: these whole pages belong to the array alone, which is gone; who reads them later reads the file.
            drop(unsafe { self.map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, from, to - from) });
        }
    }
}

/// An array over the bytes `start..end` of a mapping, which its caller has checked: they lie within it, behind a header of at
/// least eight bytes, and are as many as shape and type say.
#[allow(unsafe_code, reason = "an array over foreign memory")]
pub(super) fn array_over(
    map: &Arc<MmapRaw>,
    (start, end): (usize, usize),
    shape: &[i32],
    dtype: Dtype,
) -> Result<Array, Exception> {
    let len = end - start;
    // SAFETY: the header was checked, so that the range lies within the mapping.
    let data = unsafe { map.as_mut_ptr().add(start) };
    if len > 0 && data.align_offset(dtype_bytes(dtype)) == 0 {
        // SAFETY: `len` is what shape and type say, the mapping lives as long as the clone that the array owns, and the
        // header's length lies in the eight bytes before the first tensor.
        return unsafe { raw::array_over(data, shape, dtype, len, Part { map: Arc::clone(map), start, end }) };
    }
    // An odd header length leaves the data unaligned, which kernels do not expect: a copy in aligned words, behind one that
    // nobody reads.
    let mut words = vec![0_u64; 1 + len.div_ceil(8)];
    // SAFETY: the words behind the first hold `len` bytes, are aligned for every type, and belong to the array.
    unsafe {
        let copy = words.as_mut_ptr().add(1).cast::<u8>();
        std::ptr::copy_nonoverlapping(data, copy, len);
        raw::array_over(copy, shape, dtype, len, words)
    }
}

/// The size of an element.
pub(crate) fn dtype_bytes(dtype: Dtype) -> usize {
    match dtype {
        Dtype::Bool | Dtype::Uint8 | Dtype::Int8 => 1,
        Dtype::Uint16 | Dtype::Int16 | Dtype::Float16 | Dtype::Bfloat16 => 2,
        Dtype::Uint32 | Dtype::Int32 | Dtype::Float32 => 4,
        Dtype::Uint64 | Dtype::Int64 | Dtype::Float64 | Dtype::Complex64 => 8,
    }
}

fn array_dtype(dtype: FileDtype) -> Option<Dtype> {
    Some(match dtype {
        FileDtype::BOOL => Dtype::Bool,
        FileDtype::U8 | FileDtype::F4 | FileDtype::F8_E4M3 | FileDtype::F8_E5M2 | FileDtype::F8_E8M0 => Dtype::Uint8,
        FileDtype::I8 => Dtype::Int8,
        FileDtype::U16 => Dtype::Uint16,
        FileDtype::I16 => Dtype::Int16,
        FileDtype::F16 => Dtype::Float16,
        FileDtype::BF16 => Dtype::Bfloat16,
        FileDtype::U32 => Dtype::Uint32,
        FileDtype::I32 => Dtype::Int32,
        FileDtype::F32 => Dtype::Float32,
        FileDtype::U64 => Dtype::Uint64,
        FileDtype::I64 => Dtype::Int64,
        FileDtype::F64 => Dtype::Float64,
        FileDtype::C64 => Dtype::Complex64,
        _ => return None,
    })
}

pub(super) fn file_dtype(dtype: Dtype) -> FileDtype {
    match dtype {
        Dtype::Bool => FileDtype::BOOL,
        Dtype::Uint8 => FileDtype::U8,
        Dtype::Int8 => FileDtype::I8,
        Dtype::Uint16 => FileDtype::U16,
        Dtype::Int16 => FileDtype::I16,
        Dtype::Float16 => FileDtype::F16,
        Dtype::Bfloat16 => FileDtype::BF16,
        Dtype::Uint32 => FileDtype::U32,
        Dtype::Int32 => FileDtype::I32,
        Dtype::Float32 => FileDtype::F32,
        Dtype::Uint64 => FileDtype::U64,
        Dtype::Int64 => FileDtype::I64,
        Dtype::Float64 => FileDtype::F64,
        Dtype::Complex64 => FileDtype::C64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_was_given_back_is_the_file_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        let values: Vec<u8> = (0..300_000_u32).map(|i| (i * 7 % 251) as u8).collect();
        let tensor = |range: std::ops::Range<usize>| {
            safetensors::tensor::TensorView::new(FileDtype::U8, vec![range.len()], &values[range]).unwrap()
        };
        let bytes = safetensors::serialize([("a", tensor(0..150_000)), ("b", tensor(150_000..300_000))], None).unwrap();
        io::write(&path, &bytes).unwrap();
        let file = SafetensorsFile::open(&path).unwrap();
        let read = |array: &Array| array.to_vec_exact::<u8>().unwrap();
        let kept = file.array("b").unwrap();
        for _ in 0..2 {
            assert!(read(&file.array("a").unwrap()) == values[..150_000]);
            assert!(read(&kept) == values[150_000..]);
        }
    }
}
