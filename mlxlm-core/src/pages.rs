//! Memory for weights that kernels read over and over: huge pages, where the system has them.
//!
//! A model of 2.5 GB in bf16 decoded a fifth slower from the pages of its mapped file, which are of 4 KiB.

use std::sync::Arc;

use memmap2::{MmapMut, MmapRaw};
use mlx_rs::error::Exception;
use mlx_rs::{Array, Dtype};

use crate::raw;
use crate::weights::dtype_bytes;

/// What is asked of the system at once, at least.
const CHUNK: usize = 64 << 20;
/// The size of a huge page.
const PAGE: usize = 2 << 20;
/// The size of a cache line: rooms begin with one, and have one before them.
const LINE: usize = 64;

/// Hands out memory that is given back when everything that was taken from the same chunk is gone.
#[derive(Debug, Default)]
pub(crate) struct Arena {
    chunk: Option<Arc<MmapRaw>>,
    used: usize,
}

impl Arena {
    /// Room for so many bytes, which are zero. Fails where the system has no memory.
    pub(crate) fn take(&mut self, bytes: usize) -> Result<Room, Exception> {
        let needed = bytes.next_multiple_of(LINE) + LINE;
        let chunk = match &self.chunk {
            Some(chunk) if chunk.len() - self.used >= needed => Arc::clone(chunk),
            _ => {
                let map = MmapMut::map_anon(needed.next_multiple_of(PAGE).max(CHUNK))
                    .map_err(|e| Exception::custom(format!("there is no memory for {bytes} bytes of weights: {e}")))?;
                #[cfg(target_os = "linux")]
                // A system without huge pages goes without them.
                drop(map.advise(memmap2::Advice::HugePage));
                self.used = 0;
                Arc::clone(self.chunk.insert(Arc::new(MmapRaw::from(map))))
            }
        };
        let start = self.used + LINE;
        self.used += needed;
        Ok(Room { chunk, start, bytes })
    }

    /// A copy of an array in memory of this arena.
    pub(crate) fn copy(&mut self, array: &Array) -> Result<Array, Exception> {
        let mut room = self.take(array.nbytes())?;
        raw::with_bytes(array, |from| copy_bytes(from, room.bytes()))?;
        room.into_array(array.shape(), array.dtype())
    }
}

/// Copies on all threads: clearing new pages takes as long as reading.
fn copy_bytes(from: &[u8], to: &mut [u8]) {
    const PART: usize = 4 << 20;
    let parts: Vec<_> = from.chunks(PART).zip(to.chunks_mut(PART)).map(std::sync::Mutex::new).collect();
    let copy = |i: usize| {
        let mut part = parts[i].lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (from, to) = &mut *part;
        to.copy_from_slice(from);
    };
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    crate::kernels::pool::parallel(parts.len(), copy);
    #[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
    (0..parts.len()).for_each(copy);
}

/// Memory that was taken from an [`Arena`] and belongs to whoever took it.
#[derive(Debug)]
pub(crate) struct Room {
    chunk: Arc<MmapRaw>,
    start: usize,
    bytes: usize,
}

#[allow(unsafe_code, reason = "a mapping is raw memory")]
impl Room {
    fn as_ptr(&self) -> *mut u8 {
        // SAFETY: the room lies inside its chunk.
        unsafe { self.chunk.as_mut_ptr().add(self.start) }
    }

    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: rooms do not overlap, and this one is borrowed as a whole.
        unsafe { std::slice::from_raw_parts_mut(self.as_ptr(), self.bytes) }
    }

    /// The memory as words.
    pub(crate) fn words(&mut self) -> &mut [u32] {
        // SAFETY: rooms begin with a cache line and do not overlap, and this one is borrowed as a whole.
        unsafe { std::slice::from_raw_parts_mut(self.as_ptr().cast(), self.bytes / 4) }
    }

    /// An array of all of the memory.
    pub(crate) fn into_array(self, shape: &[i32], dtype: Dtype) -> Result<Array, Exception> {
        let (data, bytes) = (self.as_ptr(), self.bytes);
        let elements: usize = shape.iter().map(|&size| size as usize).product();
        assert_eq!(elements * dtype_bytes(dtype), bytes, "a room is as large as its array");
        // SAFETY: the room has these bytes on a line's border, a line lies before it, and its chunk keeps it.
        unsafe { raw::array_over(data, shape, dtype, bytes, self.chunk) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rooms_are_lines_of_their_own() {
        let mut arena = Arena::default();
        let sizes = [4, 64, 100, CHUNK - 4096, 2 * CHUNK, 8];
        let mut rooms: Vec<Room> = sizes.iter().map(|&bytes| arena.take(bytes).unwrap()).collect();
        for (i, room) in rooms.iter_mut().enumerate() {
            assert!(room.as_ptr().addr().is_multiple_of(LINE) && room.words().len() == sizes[i] / 4);
            assert!(room.words().iter().all(|word| *word == 0));
            room.words().fill(i as u32 + 1);
        }
        for (i, room) in rooms.iter_mut().enumerate() {
            assert!(room.words().iter().all(|word| *word == i as u32 + 1));
        }
        // The small ones share a chunk.
        assert!(Arc::ptr_eq(&rooms[0].chunk, &rooms[2].chunk) && !Arc::ptr_eq(&rooms[0].chunk, &rooms[4].chunk));
    }
}
