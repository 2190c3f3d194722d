//! How fast all cores together read memory: what decoding is held against.
//!
//! Unusual: each line is touched a kilobyte before it is summed up, as the kernels prefetch; and the memory is huge pages
//! where there are any. Plain reading of plain pages gets a third less.

use std::hint::black_box;
use std::io;
use std::num::NonZeroUsize;
use std::thread;
use std::time::Instant;

use memmap2::MmapMut;

/// More than any cache holds.
const BYTES: usize = 1 << 30;
const PASSES: usize = 10;
const LINE: usize = 64;
/// How far ahead lines are touched.
const AHEAD: usize = 1024;

/// What was measured.
#[derive(Debug, Clone, Copy)]
pub(super) struct Read {
    /// Of the best pass.
    pub(super) bytes_per_s: f64,
    pub(super) threads: usize,
}

/// Reads memory with a thread for each core, several times over.
pub(super) fn measure() -> io::Result<Read> {
    let mut memory = MmapMut::map_anon(BYTES)?;
    #[cfg(target_os = "linux")]
    // A system without huge pages is measured without them.
    drop(memory.advise(memmap2::Advice::HugePage));
    memory.fill(1);
    let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let seconds = (0..PASSES).map(|_| pass(&memory, threads)).fold(f64::INFINITY, f64::min);
    Ok(Read { bytes_per_s: BYTES as f64 / seconds, threads })
}

/// The seconds that one pass takes.
fn pass(memory: &[u8], threads: usize) -> f64 {
    let begin = Instant::now();
    thread::scope(|scope| {
        for part in memory.chunks(memory.len().div_ceil(threads)) {
            scope.spawn(|| black_box(sum(part)));
        }
    });
    begin.elapsed().as_secs_f64()
}

/// The words of some memory, combined so that none can be left out.
fn sum(memory: &[u8]) -> u64 {
    const WORDS: usize = 4 * LINE / 8;
    let (words, _) = memory.as_chunks::<8>();
    let (blocks, rest) = words.as_chunks::<WORDS>();
    let (ahead, _) = words.get(AHEAD / 8..).unwrap_or_default().as_chunks::<WORDS>();
    let (near, last) = blocks.split_at(ahead.len());
    let mut sums = [0; WORDS];
    let mut touched = 0;
    let add = |sums: &mut [u64; WORDS], block: &[[u8; 8]]| {
        sums.iter_mut().zip(block).for_each(|(sum, word)| *sum ^= u64::from_ne_bytes(*word));
    };
    for (block, ahead) in near.iter().zip(ahead) {
        for line in ahead.chunks_exact(LINE / 8) {
            touched |= u64::from_ne_bytes(line[0]);
        }
        add(&mut sums, block);
    }
    last.iter().for_each(|block| add(&mut sums, block));
    add(&mut sums, rest);
    black_box(touched);
    sums.iter().fold(0, |all, sum| all ^ sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_read() {
        for len in [0, 8, 250, 1024, 1288, 4096, 5000] {
            let mut memory = vec![0; len];
            assert_eq!(sum(&memory), 0);
            for at in (0..len / 8 * 8).step_by(8) {
                memory[at] = 1;
                assert_eq!(sum(&memory), 1, "{at} of {len}");
                memory[at] = 0;
            }
        }
    }
}
