//! The device that computes, and its memory.

use std::num::NonZeroUsize;

use mlx_rs::{Device, memory};

use crate::{Result, raw};

/// Sends all work of this thread to the CPU (`--cpu`), where a GPU would be the default.
pub fn use_cpu() {
    raw::install_error_handler();
    Device::set_default(&Device::cpu());
}

/// Sets how many threads our CPU kernels use (`--threads`), the calling one included, and checks `MLXLM_THREADS` and `MLXLM_ISA`,
/// which kernels themselves do not complain about. Must come before anything is computed.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub fn configure_kernels(threads: Option<NonZeroUsize>) -> Result<()> {
    use crate::kernels::{Isa, pool};
    Isa::active()?;
    pool::threads_from_env()?;
    Ok(threads.map_or(Ok(()), |threads| pool::set_threads(threads.get()))?)
}

/// Here the kernels are MLX's own, whose threads cannot be set.
#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
pub fn configure_kernels(threads: Option<NonZeroUsize>) -> Result<()> {
    if threads.is_some() { Err(crate::Error::NoThreads) } else { Ok(()) }
}

/// Whether our CPU kernels compute what this thread asks for, and not MLX.
pub fn has_kernels() -> bool {
    crate::fast::has_kernels()
}

/// The version of MLX that runs, as in `0.32.2`, where it says so.
pub fn mlx_version() -> Option<String> {
    raw::mlx_version()
}

/// What computes, in words: `CPU kernels for avx512 on 2 threads`, or `MLX's own kernels`.
pub fn description() -> String {
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    {
        use crate::kernels::{Isa, pool};
        let level = Isa::active().unwrap_or(Isa::Portable);
        let threads = pool::threads();
        format!("CPU kernels for {level} on {threads} thread{}", if threads == 1 { "" } else { "s" })
    }
    #[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
    "MLX's own kernels".to_owned()
}

/// The most memory that arrays have taken since the start or the last reset, in bytes, with the files that weights are
/// mapped from.
pub fn peak_memory_bytes() -> Result<usize> {
    Ok(memory::peak_memory()? + raw::borrowed_bytes())
}

/// Starts the count of [`peak_memory_bytes`] anew, with an empty cache.
pub fn reset_peak_memory() -> Result<()> {
    clear_cache()?;
    Ok(memory::reset_peak_memory()?)
}

/// The memory of arrays that are there now, in bytes, without the files that weights are mapped from.
pub fn active_memory_bytes() -> Result<usize> {
    Ok(memory::active_memory()?.saturating_sub(raw::kept_bytes()))
}

/// The memory of buffers that nobody uses and that are kept for later arrays, in bytes.
pub fn cache_memory_bytes() -> Result<usize> {
    Ok(memory::cache_memory()? + raw::kept_bytes())
}

/// Has a CPU keep up to so many bytes of freed memory for later arrays, in all no more than was once in use: for training, whose steps
/// are all alike and free everything at their end. It keeps none at first; GPUs keep as much as MLX decides.
pub fn keep_memory(most_bytes: usize) {
    raw::keep_at_most(most_bytes);
}

/// Gives the buffers that are kept for later use back to the system.
pub fn clear_cache() -> Result<()> {
    raw::keep_nothing();
    Ok(memory::clear_cache()?)
}

/// Waits for all work of this thread that was dispatched. An error of that work is reported here, if nobody has read it before, and
/// is gone then.
pub fn synchronize() -> Result<()> {
    Ok(raw::synchronize()?)
}

/// Ends the process at once, from any thread and whatever is being computed.
///
/// This is the only way out of a process that computes: `std::process::exit`, and a return from `main`, run the destructors of
/// MLX's static objects while the threads of its streams go on using them. Nothing is flushed, as another thread may hold the lock
/// of standard output for as long as the reader likes: what was printed must have been flushed before.
pub fn exit(code: i32) -> ! {
    #[cfg(unix)]
    #[allow(unsafe_code, reason = "a call of the C library")]
    // SAFETY: it takes a number and does not return.
    unsafe {
        libc::_exit(code)
    }
    #[cfg(not(unix))]
    std::process::exit(code)
}

/// How much memory the device should keep resident at most, in bytes; only GPUs of Apple say so.
pub fn recommended_working_set_bytes() -> Option<usize> {
    raw::device_info_size(c"max_recommended_working_set_size")
}

/// Keeps the model's memory resident (wired) for as long as it lives, where the device knows of such a thing.
#[derive(Debug)]
#[must_use = "the limit falls back when this is dropped"]
pub struct WiredLimit {
    before: Option<usize>,
}

impl WiredLimit {
    /// Raises the limit to what the device recommends.
    pub fn raise() -> Result<Self> {
        let recommended = recommended_working_set_bytes();
        Ok(Self { before: recommended.map(memory::set_wired_limit).transpose()? })
    }

    /// The warning about a model that takes `model_bytes`, if that comes close to the limit.
    pub fn warning(model_bytes: u64) -> Option<String> {
        let limit = recommended_working_set_bytes()? as u64;
        (model_bytes > limit / 10 * 9).then(|| {
            format!(
                "the model takes {} MB, close to the {} MB that this machine recommends at most; it may be slow",
                model_bytes >> 20,
                limit >> 20
            )
        })
    }
}

impl Drop for WiredLimit {
    fn drop(&mut self) {
        if let Some(before) = self.before {
            // There is nobody left to tell of a failure, and a limit that stays raised does no harm.
            drop(memory::set_wired_limit(before));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_recommends_nothing_has_no_limit_to_raise() {
        let limit = WiredLimit::raise().unwrap();
        assert_eq!(limit.before.is_some(), recommended_working_set_bytes().is_some());
        assert!(recommended_working_set_bytes().is_some() || WiredLimit::warning(u64::MAX).is_none());
    }

    #[test]
    fn it_is_known_what_computes() {
        let version = mlx_version().unwrap();
        assert!(version.split('.').count() >= 3, "{version}");
        assert!(description().contains("kernels"));
    }

    #[test]
    fn the_peak_counts_arrays() {
        reset_peak_memory().unwrap();
        crate::ops::ones::<f32>(&[1 << 18]).unwrap().eval().unwrap();
        assert!(peak_memory_bytes().unwrap() >= 1 << 20);
    }
}
