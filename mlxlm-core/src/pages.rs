//! Memory for weights that kernels read over and over: huge pages, where the system has them.
//!
//! With pages of 4 KiB a product from memory spends a quarter of its time on looking up pages.

use std::io;
use std::sync::Arc;

use memmap2::{MmapMut, MmapRaw};
use mlx_rs::Array;
use mlx_rs::error::Exception;

use crate::raw;

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
    pub(crate) fn take(&mut self, bytes: usize) -> io::Result<Room> {
        let needed = bytes.next_multiple_of(LINE) + LINE;
        let chunk = match &self.chunk {
            Some(chunk) if chunk.len() - self.used >= needed => Arc::clone(chunk),
            _ => {
                let map = MmapMut::map_anon(needed.next_multiple_of(PAGE).max(CHUNK))?;
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
        let bytes = array.nbytes();
        let no_room = |e: io::Error| Exception::custom(format!("there is no memory for {bytes} bytes of weights: {e}"));
        let mut room = self.take(bytes).map_err(no_room)?;
        raw::with_bytes(array, |from| copy_bytes(from, room.bytes()))?;
        let (data, owner) = room.into_parts();
        #[allow(unsafe_code, reason = "an array over memory of ours")]
        // SAFETY: the room has this many bytes on a line's border, a line lies before it, and its owner keeps it.
        Ok(unsafe { raw::array_over(data, array.shape(), array.dtype(), bytes, owner) })
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

    /// Where the memory begins, behind a line that may be read, and what keeps it.
    pub(crate) fn into_parts(self) -> (*mut u8, impl Send + Sync + 'static) {
        (self.as_ptr(), self.chunk)
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
