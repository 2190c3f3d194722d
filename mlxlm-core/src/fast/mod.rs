//! What models and training do most, in one operation each: by our kernels on a Linux CPU, else by MLX's own `fast`.
//!
//! A function here has the name and the arguments of MLX's where MLX has it. Each asks its kernel first, which declines what it
//! is not made for, and then takes its [`plain`] version of MLX's own operations, which is the oracle of the kernel too.

mod activation;
mod attention;
mod conv;
mod hadamard;
mod linear;
mod loss;
mod norm;
pub mod plain;
mod recurrent;
mod rope;
mod softmax;
#[cfg(test)]
pub(crate) mod testing;
mod vocabulary;
mod write;

pub use activation::{Activation, activate, gated, precise_swiglu, swiglu};
pub use attention::{
    Attention, Causal, Chunk, Ring, Row, RowsAttention, Sight, Stored, attend, attend_latent, attend_latent_rows,
    attend_rows, attends_by_rule,
};
pub use conv::short_conv;
pub use hadamard::hadamard;
pub use linear::{gather_linear, linear, linear_biased};
pub use loss::{cross_entropy, divergence};
pub use norm::{add_rms_norm, group_rms_norm, l2_norm, layer_norm, rms_norm};
pub use recurrent::{Scan, Wkv7, decay_attention, gated_delta, selective_scan, ssm_scan, wkv7};
pub use rope::{rope, rope_dynamic};
pub use softmax::softmax;
pub use vocabulary::{argmax, categorical, logsumexp, min_p, top_k, top_p};
pub use write::write_rows;

/// Returns from the function what a kernel gives, if that takes the call: `by_kernel!(crate::kernels::…(…))`, of a call that
/// gives `Result<Option<Array>, Exception>`.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
macro_rules! by_kernel {
    ($call:expr) => {
        if let Some(result) = $call? {
            return Ok(result);
        }
    };
}

/// There are no kernels here.
#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
macro_rules! by_kernel {
    ($call:expr) => {};
}

pub(crate) use by_kernel;

/// Whether operations made now on this thread may be computed by our kernels.
pub(crate) fn has_kernels() -> bool {
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    return crate::kernels::on_cpu();
    #[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
    false
}
