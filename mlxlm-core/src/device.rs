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

/// The most memory that arrays have taken since the start or the last reset, in bytes, with the files that weights are
/// mapped from.
pub fn peak_memory_bytes() -> Result<usize> {
    Ok(memory::peak_memory()? + raw::borrowed_bytes())
}

/// Starts the count of [`peak_memory_bytes`] anew.
pub fn reset_peak_memory() -> Result<()> {
    Ok(memory::reset_peak_memory()?)
}

/// Gives the buffers that MLX keeps for later use back to the system.
pub fn clear_cache() -> Result<()> {
    Ok(memory::clear_cache()?)
}

/// Waits for all work of this thread that was dispatched.
///
/// A process that ends while a step is still being computed frees what that step reads.
pub fn synchronize() -> Result<()> {
    Ok(raw::synchronize()?)
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

    /// What a user should be told of a model that takes `model_bytes`, if it comes close to the limit.
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
    fn the_peak_counts_arrays() {
        reset_peak_memory().unwrap();
        crate::ops::ones::<f32>(&[1 << 18]).unwrap().eval().unwrap();
        assert!(peak_memory_bytes().unwrap() >= 1 << 20);
    }
}
