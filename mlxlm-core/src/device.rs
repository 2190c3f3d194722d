//! The device that computes, and its memory.

use mlx_rs::{Device, memory};

use crate::{Result, raw};

/// Sends all work of this thread to the CPU (`--cpu`), where a GPU would be the default.
pub fn use_cpu() {
    raw::install_error_handler();
    Device::set_default(&Device::cpu());
}

/// The most memory that arrays have taken since the start or the last reset, in bytes.
pub fn peak_memory_bytes() -> Result<usize> {
    Ok(memory::peak_memory()?)
}

/// Starts the count of [`peak_memory_bytes`] anew.
pub fn reset_peak_memory() -> Result<()> {
    Ok(memory::reset_peak_memory()?)
}

/// Gives the buffers that MLX keeps for later use back to the system.
pub fn clear_cache() -> Result<()> {
    Ok(memory::clear_cache()?)
}
