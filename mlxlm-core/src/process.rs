//! What the system does to a process that asks for too much, turned into errors: [`Allocator`] for memory, [`thread()`] for threads, and [`ignore_file_size_signal`] for files. How a process ends by itself is [`crate::device::exit`].

use std::alloc::{GlobalAlloc, Layout, System};
use std::io;
use std::thread::Builder;

use memmap2::MmapMut;

/// The system's allocator with a last word: where it refuses memory, a function of the program's own ends the process. Without it
/// Rust aborts, which looks like a crash.
///
/// ```
/// use mlxlm_core::{device, process};
///
/// #[global_allocator]
/// static MEMORY: process::Allocator = process::Allocator { refused: |_bytes| device::exit(1) };
/// # fn main() {}
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Allocator {
    /// Called with the bytes that were refused. It must not allocate.
    pub refused: fn(bytes: usize) -> !,
}

impl Allocator {
    fn check(&self, memory: *mut u8, bytes: usize) -> *mut u8 {
        if memory.is_null() { (self.refused)(bytes) } else { memory }
    }
}

#[allow(unsafe_code, reason = "allocators are unsafe by their trait")]
// SAFETY: everything is handed on to the system's allocator, and its results are handed back.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's own promise.
        self.check(unsafe { System.alloc(layout) }, layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's own promise.
        self.check(unsafe { System.alloc_zeroed(layout) }, layout.size())
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        // SAFETY: the caller's own promise.
        self.check(unsafe { System.realloc(memory, layout, bytes) }, bytes)
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's own promise.
        unsafe { System.dealloc(memory, layout) }
    }
}

/// What a thread needs beside its stack until it can report that there is no memory.
const THREAD_BYTES: usize = 4 << 20;

/// A thread to start, with this name and stack, if the system still has the addresses for it to begin. A thread that begins without memory
/// cannot report it: Rust's standard library panics before any code of ours runs, and the C library ends the process.
///
/// # Errors
/// The system's own, where it has none left (`ulimit -v`).
pub fn thread(name: impl Into<String>, stack_bytes: usize) -> io::Result<Builder> {
    drop(MmapMut::map_anon(stack_bytes.saturating_add(THREAD_BYTES))?);
    Ok(Builder::new().name(name.into()).stack_size(stack_bytes))
}

/// Makes a file that would grow beyond `ulimit -f` an error of the write. The system's own answer is a signal that ends the process.
pub fn ignore_file_size_signal() {
    #[cfg(unix)]
    #[allow(unsafe_code, reason = "a call of the C library")]
    // SAFETY: no handler of ours runs; the signal is ignored.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_has_room_or_is_refused() {
        assert_eq!(thread("small", 8 << 20).unwrap().spawn(|| 7).unwrap().join().unwrap(), 7);
        thread("large", 1 << 60).unwrap_err();
    }
}
