//! Buffers that a thread keeps between kernels, on cache-line borders.

use std::cell::Cell;
use std::thread::LocalKey;

use half::bf16;

/// One cache line; a buffer of these starts on a line's border.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Line([f32; 16]);

/// Lines that a thread keeps at most, 32 MB: what only the gradients of a vocabulary need is given back.
const KEPT: usize = (32 << 20) / size_of::<Line>();

/// A thread's buffer. It is taken out while in use, so a nested use gets a fresh one and not an error.
pub(crate) type Scratch = Cell<Vec<Line>>;

/// Values of a thread's buffer, which gets them back in the end.
pub(crate) struct Loan {
    buffer: &'static LocalKey<Scratch>,
    lines: Vec<Line>,
    floats: usize,
}

impl Loan {
    /// `floats` values of unspecified content from the thread's buffer.
    pub(crate) fn new(buffer: &'static LocalKey<Scratch>, floats: usize) -> Self {
        let mut lines = buffer.take();
        let needed = floats.div_ceil(16);
        if lines.len() < needed {
            // The old one goes first.
            lines = Vec::new();
            lines.resize(needed, Line([0.0; 16]));
        }
        Self { buffer, lines, floats }
    }

    pub(crate) fn as_mut(&mut self) -> &mut [f32] {
        &mut self.lines.as_flattened_lines()[..self.floats]
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        if self.lines.len() <= KEPT {
            self.buffer.set(std::mem::take(&mut self.lines));
        }
    }
}

/// Lends `floats` values of unspecified content from the thread's buffer to `body`.
pub(crate) fn with_scratch<R>(
    buffer: &'static LocalKey<Scratch>,
    floats: usize,
    body: impl FnOnce(&mut [f32]) -> R,
) -> R {
    body(Loan::new(buffer, floats).as_mut())
}

/// The memory of floats as bytes.
pub(crate) fn bytes_of(floats: &mut [f32]) -> &mut [u8] {
    // SAFETY: a float is four bytes, and any bytes are a float.
    unsafe { std::slice::from_raw_parts_mut(floats.as_mut_ptr().cast(), 4 * floats.len()) }
}

/// The memory of floats as twice as many in bf16.
pub(crate) fn bf16_of(floats: &mut [f32]) -> &mut [bf16] {
    // SAFETY: an f32 has room for two bf16, which may be any bits.
    unsafe { std::slice::from_raw_parts_mut(floats.as_mut_ptr().cast(), 2 * floats.len()) }
}

/// The memory of floats as words.
pub(crate) fn words_of(floats: &mut [f32]) -> &mut [u32] {
    // SAFETY: a float is as long as a word, and any word is a float.
    unsafe { std::slice::from_raw_parts_mut(floats.as_mut_ptr().cast(), floats.len()) }
}

trait AsFlattenedLines {
    fn as_flattened_lines(&mut self) -> &mut [f32];
}

impl AsFlattenedLines for [Line] {
    fn as_flattened_lines(&mut self) -> &mut [f32] {
        // SAFETY: a `Line` is 16 floats with nothing between or after them.
        unsafe { std::slice::from_raw_parts_mut(self.as_mut_ptr().cast(), self.len() * 16) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    thread_local!(static BUFFER: Scratch = const { Cell::new(Vec::new()) });

    #[test]
    fn buffers_are_aligned_and_nest() {
        with_scratch(&BUFFER, 100, |outer| {
            assert_eq!((outer.len(), outer.as_ptr() as usize % 64), (100, 0));
            outer.fill(1.0);
            with_scratch(&BUFFER, 20, |inner| inner.fill(2.0));
            assert!(outer.iter().all(|v| *v == 1.0));
        });
    }

    #[test]
    fn large_buffers_are_given_back() {
        with_scratch(&BUFFER, 16 * KEPT, |_| ());
        assert_eq!(BUFFER.take().len(), KEPT);
        with_scratch(&BUFFER, 16 * KEPT + 1, |_| ());
        assert!(BUFFER.take().is_empty());
    }
}
