//! Safetensors in pieces, for what is too large to be written at once between two tokens: each call of
//! [`SafetensorsWriter::write`] takes as long as some megabytes do.
//!
//! Unusual:
//! - Large tensors come first and begin on pages of memory, so that a mapped file can be an array's memory everywhere.
//! - A tensor may leave room for rows to come ([`Rows`]). The room is never written: it is zeros, and takes no place where the file
//!   system has holes.
//! - One tensor, `[T + 1]` numbers, holds checksums (XXH3, 64 bits) of the header and of the `T` others in the order of their
//!   places. So damage can be found later, without a second file: [`SafetensorsFile::open_checked`], [`verify_safetensors`].

use std::collections::BTreeMap;
use std::fmt;
use std::hash::Hasher as _;
use std::ops::Range;
use std::path::Path;

use mlx_rs::Array;
use safetensors::tensor::{Dtype as FileDtype, Metadata, TensorInfo};
use twox_hash::xxhash3_64::Hasher;

use super::shard::{SafetensorsFile, contents, dtype_bytes, file_dtype};
use super::{WeightsError, save};
use crate::io::NewFile;
use crate::{Error, Result, raw};

/// The largest page that a system has on which an array can be the file's memory.
const PAGE: usize = 16 << 10;

/// The bytes that are written at once.
const BLOCK: usize = 8 << 20;

/// A tensor that is to be written.
#[derive(Debug, Clone)]
pub struct NewTensor {
    /// Its name in the file.
    pub name: String,
    /// Its contents.
    pub array: Array,
    /// Which of its rows are written, and how many there are in the file; all as they are, if there is nothing.
    pub rows: Option<Rows>,
}

/// The rows of an array `[…, S, w]`, for each of the matrices that it consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rows {
    /// The first ones, which are written: at most `S`.
    pub held: i32,
    /// Those of the tensor in the file, `[…, len, w]`; the others are zeros.
    pub len: i32,
}

/// Where a tensor lies, and what of it is written: runs that lie evenly in the array and in the file.
#[derive(Debug)]
struct Part {
    array: Array,
    name: String,
    shape: Vec<usize>,
    dtype: FileDtype,
    align: usize,
    runs: usize,
    /// Bytes from one run of the array to the next.
    stride: usize,
    /// Bytes of a run that are written.
    held: usize,
    /// Bytes of a run in the file.
    room: usize,
    /// Where it begins, in the file's data.
    start: usize,
}

impl Part {
    fn new(tensor: NewTensor) -> Result<Self> {
        let NewTensor { name, array, rows } = tensor;
        let mut shape: Vec<usize> = array.shape().iter().map(|&n| n as usize).collect();
        let align = dtype_bytes(array.dtype());
        let (dtype, all) = (file_dtype(array.dtype()), array.nbytes());
        let [runs, stride, held, room] = match (rows, &mut *shape) {
            (None, _) => [1, all, all, all],
            (Some(Rows { held, len }), [outer @ .., rows, width])
                if (0..=*rows as i64).contains(&held.into()) && held <= len =>
            {
                let row = *width * align;
                let stride = *rows * row;
                *rows = len as usize;
                [outer.iter().product(), stride, held as usize * row, len as usize * row]
            }
            (Some(rows), _) => {
                let what = format!("`{name}` of the shape {:?} cannot be written as {rows:?}", array.shape());
                return Err(crate::Exception::custom(what).into());
            }
        };
        Ok(Self { array, name, shape, dtype, align, runs, stride, held, room, start: 0 })
    }

    fn len(&self) -> usize {
        self.runs * self.room
    }

    /// Large ones first; then by the size of an element, so that all are aligned.
    fn order(&self) -> (bool, usize) {
        let pages = self.len() > 0 && self.len().is_multiple_of(PAGE);
        (!pages, usize::MAX - self.align)
    }
}

/// What a file is going to be.
#[derive(Debug)]
pub struct SafetensorsPlan {
    parts: Vec<Part>,
    header: Vec<u8>,
    /// Where the checksums lie, in the file's data.
    sums: usize,
    len: usize,
}

impl SafetensorsPlan {
    /// Lays out tensors with names of their own, and one more of the name `sums`. So that it is found, the metadata has to say this name
    /// under some key.
    ///
    /// # Errors
    /// If the rows of a tensor are not among those that its array has.
    pub fn new(tensors: Vec<NewTensor>, sums: &str, metadata: &BTreeMap<String, String>) -> Result<Self> {
        let mut parts = tensors.into_iter().map(Part::new).collect::<Result<Vec<_>>>()?;
        parts.sort_by(|a, b| (a.order(), &a.name).cmp(&(b.order(), &b.name)));
        let wide = parts.partition_point(|part| part.order() < (true, usize::MAX - size_of::<u64>()));
        let sums_len = (parts.len() + 1) * size_of::<u64>();
        let mut end = 0;
        let mut infos = Vec::new();
        let mut sums_start = 0;
        for i in 0..=parts.len() {
            if i == wide {
                let (shape, data_offsets) = (vec![parts.len() + 1], (end, end + sums_len));
                infos.push((sums.to_owned(), TensorInfo { dtype: FileDtype::U64, shape, data_offsets }));
                (sums_start, end) = data_offsets;
            }
            if let Some(part) = parts.get_mut(i) {
                part.start = end;
                end += part.len();
                let info = TensorInfo { dtype: part.dtype, shape: part.shape.clone(), data_offsets: (part.start, end) };
                infos.push((part.name.clone(), info));
            }
        }
        let header = save::header_of(Path::new(""), &infos, metadata, PAGE)?;
        let len = header.len() + 8 + end;
        Ok(Self { parts, header, sums: sums_start, len })
    }

    /// The length of the file.
    pub fn len_bytes(&self) -> u64 {
        self.len as u64
    }
}

/// A file of safetensors that is being written.
pub struct SafetensorsWriter {
    file: NewFile,
    plan: SafetensorsPlan,
    /// The part, the run of it, and the byte of the run that come next.
    next: [usize; 3],
    hasher: Hasher,
    /// Of the header and of the parts that are written.
    sums: Vec<u8>,
}

impl fmt::Debug for SafetensorsWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SafetensorsWriter").field("file", &self.file).field("next", &self.next).finish_non_exhaustive()
    }
}

impl SafetensorsWriter {
    /// Begins to write into a file whose length is [`SafetensorsPlan::len_bytes`] already.
    pub fn new(plan: SafetensorsPlan, file: NewFile) -> Self {
        Self { file, plan, next: [0; 3], hasher: Hasher::new(), sums: Vec::new() }
    }

    /// Writes about `max_bytes` more, at least something, and says whether all is written. What was written is on the disk then.
    ///
    /// # Errors
    /// [`Error::Io`] where the system refuses, as when the disk is full. Nothing is to be done with the writer then but to drop it.
    pub fn write(&mut self, max_bytes: usize) -> Result<bool> {
        let mut left = max_bytes.max(1);
        while left > 0 {
            match self.plan.parts.get(self.next[0]) {
                None => return self.finish().map(|()| true),
                Some(_) => left = left.saturating_sub(self.write_block(left)?),
            }
        }
        self.file.sync()?;
        Ok(false)
    }

    /// Gives the file its name, once [`write`](Self::write) said that all is written.
    pub fn publish(self) -> Result<()> {
        self.file.publish()
    }

    /// Writes a block of the next part, or goes on to the part behind it; the bytes that were written.
    fn write_block(&mut self, max: usize) -> Result<usize> {
        let Self { file, plan, next: [at, run, byte], hasher, sums } = self;
        let data = plan.header.len() + 8;
        let part = &mut plan.parts[*at];
        if part.held == 0 || *run == part.runs {
            zeros(hasher, if part.held == 0 { part.len() } else { 0 });
            sums.extend(std::mem::replace(hasher, Hasher::new()).finish().to_le_bytes());
            // What was made for writing only is not needed any more.
            part.array = Array::from_int(0);
            (*at, *run, *byte) = (*at + 1, 0, 0);
            return Ok(0);
        }
        if (*run, *byte) == (0, 0) {
            part.array = raw::row_major(&part.array)?;
        }
        let len = (part.held - *byte).min(max).min(BLOCK);
        let (from, to) = (*run * part.stride + *byte, data + part.start + *run * part.room + *byte);
        raw::with_bytes(&part.array, |bytes| {
            hasher.write(&bytes[from..from + len]);
            file.write_at(to as u64, &bytes[from..from + len])
        })??;
        *byte += len;
        if *byte == part.held {
            zeros(hasher, part.room - part.held);
            (*run, *byte) = (*run + 1, 0);
        }
        Ok(len)
    }

    fn finish(&mut self) -> Result<()> {
        let Self { file, plan, sums, .. } = self;
        let start = [&(plan.header.len() as u64).to_le_bytes()[..], &plan.header].concat();
        file.write_at(0, &start)?;
        let all = [&Hasher::oneshot(&start).to_le_bytes()[..], sums].concat();
        file.write_at((start.len() + plan.sums) as u64, &all)
    }
}

/// As if so many zeros were written.
fn zeros(hasher: &mut Hasher, mut len: usize) {
    const ZEROS: [u8; 4096] = [0; 4096];
    while len > 0 {
        let some = len.min(ZEROS.len());
        hasher.write(&ZEROS[..some]);
        len -= some;
    }
}

impl SafetensorsFile {
    /// Opens a file that a [`SafetensorsWriter`] wrote, whose metadata names the tensor of checksums under `key`, and holds the header
    /// and the small tensors, those of at most 4 KiB, against them. The others are not read: [`verify_safetensors`] does that.
    ///
    /// # Errors
    /// [`WeightsError::Damaged`] if a checksum is not that of the file's contents, and as [`open`](Self::open).
    pub fn open_checked(path: impl AsRef<Path>, key: &str) -> Result<Self> {
        const SMALL: usize = 4 << 10;
        let file = Self::open(path)?;
        file.check(key, SMALL)?;
        Ok(file)
    }

    /// Holds the header and the tensors of at most `most` bytes against their checksums.
    fn check(&self, key: &str, most: usize) -> Result<()> {
        let damaged = |why: String| Error::from(WeightsError::Damaged { path: self.path().to_owned(), why });
        let (header, data) = contents(self.map()).split_at(self.data_start());
        let places = places(self.header());
        let metadata = self.header().metadata().as_ref();
        let Some(sums) = metadata.and_then(|metadata| metadata.get(key)) else {
            return Err(damaged(format!("its metadata has no `{key}`, the name of its checksums")));
        };
        let Some((_, place)) = places.iter().find(|(name, _)| name == sums) else {
            return Err(damaged(format!("it has no checksums `{sums}`")));
        };
        let wanted = data[place.clone()].chunks(size_of::<u64>());
        if wanted.len() != places.len() {
            return Err(damaged(format!("it has {} checksums, not {}", wanted.len(), places.len())));
        }
        let header = std::iter::once(("", header));
        let others = places.iter().filter(|(name, _)| name != sums);
        let parts = header.chain(others.map(|(name, place)| (&**name, &data[place.clone()])));
        for ((name, part), sum) in parts.zip(wanted) {
            if (name.is_empty() || part.len() <= most) && Hasher::oneshot(part).to_le_bytes() != sum {
                let what = if name.is_empty() { "its header".to_owned() } else { format!("its tensor `{name}`") };
                return Err(damaged(format!("{what} is not what was written")));
            }
        }
        Ok(())
    }
}

/// Reads a whole file that a [`SafetensorsWriter`] wrote, and holds all of it against its checksums.
///
/// # Errors
/// As [`SafetensorsFile::open_checked`].
pub fn verify_safetensors(path: impl AsRef<Path>, key: &str) -> Result<()> {
    // A mapping of its own, over which no array lies.
    SafetensorsFile::open(path)?.check(key, usize::MAX)
}

/// The tensors and their places in the data, in order.
fn places(header: &Metadata) -> Vec<(String, Range<usize>)> {
    let place = |name: String| {
        let (start, end) = header.info(&name)?.data_offsets;
        Some((name, start..end))
    };
    header.offset_keys().into_iter().filter_map(place).collect()
}

/// Whether arrays of a mapped file are the file's memory, which costs nothing to have, or copies, as where a GPU keeps them.
pub fn arrays_are_mapped() -> bool {
    raw::borrows()
}
