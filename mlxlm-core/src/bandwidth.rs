//! How fast all cores together read memory: what decoding is held against.
//!
//! Unusual: lines are prefetched a kilobyte ahead, as kernels do it, and the memory is huge pages where there are any. Two
//! cores of a Sapphire Rapids read 32 GB/s like this, and 18 in plain loops over plain pages.
#![allow(unsafe_code, reason = "vector loads and prefetching; every block says why it is sound")]
#![allow(clippy::wildcard_imports, reason = "the names of vector instructions are long, many, and nobody else's")]

use std::hint::black_box;
use std::num::NonZeroUsize;
use std::thread;
use std::time::Instant;

use memmap2::MmapMut;

/// More than any cache holds.
const BYTES: usize = 1 << 30;
/// Neighbours on the same machine come and go.
const PASSES: usize = 20;
/// How many bytes ahead lines are prefetched.
#[cfg(target_arch = "x86_64")]
const AHEAD: usize = 1024;

/// What [`measure`] found.
#[derive(Debug, Clone, Copy)]
pub struct Bandwidth {
    /// Bytes a second of the best pass.
    pub bytes_per_s: f64,
    /// Bytes a second of the median pass, which is what neighbours usually leave.
    pub usual_bytes_per_s: f64,
    /// How many threads were reading.
    pub threads: usize,
}

/// Reads a gigabyte with a thread for each core, several times over. Fails where there is no gigabyte.
pub fn measure() -> std::io::Result<Bandwidth> {
    let mut memory = MmapMut::map_anon(BYTES)?;
    #[cfg(target_os = "linux")]
    // A system without huge pages is measured without them.
    drop(memory.advise(memmap2::Advice::HugePage));
    memory.fill(1);
    let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let mut seconds: Vec<f64> = (0..PASSES).map(|_| pass(&memory, threads)).collect();
    seconds.sort_by(f64::total_cmp);
    let rate = |pass: usize| BYTES as f64 / seconds[pass];
    Ok(Bandwidth { bytes_per_s: rate(0), usual_bytes_per_s: rate(PASSES / 2), threads })
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
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: this CPU has AVX2, and that is all the function asks for.
        return unsafe { sum_avx2(memory) };
    }
    sum_plain(memory)
}

fn sum_plain(memory: &[u8]) -> u64 {
    memory.as_chunks().0.iter().fold(0, |all, word| all ^ u64::from_ne_bytes(*word))
}

/// [`sum_plain`] in loads of 32 bytes, with each line asked for ahead of time.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn sum_avx2(memory: &[u8]) -> u64 {
    use std::arch::x86_64::*;
    const LOADS: usize = 8;
    const LOAD: usize = size_of::<__m256i>();
    let (blocks, rest) = memory.as_chunks::<{ LOADS * LOAD }>();
    let mut sums = [_mm256_setzero_si256(); LOADS];
    for block in blocks {
        let at = block.as_ptr();
        for line in (0..LOADS * LOAD).step_by(64) {
            _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(AHEAD + line).cast());
        }
        for (i, sum) in sums.iter_mut().enumerate() {
            // SAFETY: load `i` of `LOADS` lies in the block; `loadu` needs no alignment.
            *sum = _mm256_xor_si256(*sum, unsafe { _mm256_loadu_si256(at.add(i * LOAD).cast()) });
        }
    }
    let mut bytes = [0; LOADS * LOAD];
    for (sum, bytes) in sums.iter().zip(bytes.as_chunks_mut::<LOAD>().0) {
        // SAFETY: `bytes` is as long as the register; `storeu` needs no alignment.
        unsafe { _mm256_storeu_si256(bytes.as_mut_ptr().cast(), *sum) };
    }
    sum_plain(&bytes) ^ sum_plain(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_read() {
        for len in [0, 8, 250, 1024, 1288, 5000] {
            let mut memory = vec![0; len];
            assert_eq!(sum(&memory), 0);
            for at in (0..len / 8 * 8).step_by(8) {
                memory[at] = 1;
                assert_eq!((sum(&memory), sum_plain(&memory)), (1, 1), "{at} of {len}");
                memory[at] = 0;
            }
        }
    }
}
