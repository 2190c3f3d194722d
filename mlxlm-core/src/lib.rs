//! Tensors, weights, text and the hub: the parts that every model is made of.
//!
//! - [`Array`] and the operations of MLX ([`ops`], [`fast`], [`random`], [`transforms`], [`memory`]), re-exported:
//!   this is the only crate of the workspace that names `mlx_rs`, and the only one with `unsafe`.
//! - [`nn`]: the leaves ([`nn::Linear`], [`nn::Embedding`], [`nn::ExpertLinear`], [`nn::Norm`], [`nn::Conv1d`]), which
//!   alone know whether a weight is dense, quantized or adapted.
//! - [`weights`]: checkpoints in and out, as a strict view that is walked by path.
//! - [`quant`]: every quantization mode of MLX.
//! - [`process`] and [`free_memory`]: limits of the operating system, and free memory.
//! - [`io`]: files with their path in every error, and writes that appear by rename.
//! - `text` and `hub` (cargo features): tokenizer, chat template; the Hugging Face hub.
//!
//! Without the feature `mlx`, which is on by default, there are only [`io`], `text` and `hub`, in pure Rust.
//!
//! ```
//! use mlxlm_core::quant::{self, Mode};
//! use mlxlm_core::{Array, ops};
//!
//! # fn main() -> mlxlm_core::Result<()> {
//! let weight = ops::ones::<f32>(&[4, 64])?;
//! let scheme = Mode::Affine.default_scheme();
//! let packed = quant::quantize(&weight, scheme)?;
//! let x: Array = ops::ones::<f32>(&[1, 64])?;
//! let y = quant::quantized_matmul(&x, &packed, scheme, true)?;
//! assert_eq!(y.to_vec_exact::<f32>()?, [64.0; 4]);
//! # Ok(())
//! # }
//! ```
//!
//! Shape letters in every doc comment: `B` batch, `L` tokens, `D` hidden, `H`/`K` heads and kv-heads, `d` head
//! dimension, `V` vocabulary, `E` experts.

#[cfg(feature = "mlx")]
pub mod bandwidth;
#[cfg(feature = "mlx")]
pub mod device;
pub mod error;
#[cfg(feature = "mlx")]
pub mod fast;
pub mod free_memory;
#[cfg(feature = "hub")]
pub mod hub;
#[cfg(any(feature = "mlx", feature = "hub"))]
mod index;
pub mod io;
#[cfg(all(feature = "mlx", target_os = "linux", target_arch = "x86_64"))]
pub mod kernels;
#[cfg(feature = "mlx")]
pub mod nn;
#[cfg(feature = "mlx")]
pub mod order;
#[cfg(feature = "mlx")]
mod pages;
pub mod process;
#[cfg(feature = "mlx")]
pub mod quant;
#[cfg(feature = "mlx")]
mod raw;
#[cfg(feature = "setup")]
pub mod setup;
#[cfg(feature = "text")]
pub mod text;
#[cfg(feature = "mlx")]
pub mod weights;

pub use error::{Error, Hint, Result};
/// What a failed MLX operation says, with the place of the call; and what is said where the values of an array are of another type.
#[cfg(feature = "mlx")]
pub use mlx_rs::error::{ConversionError, Exception};
#[cfg(feature = "mlx")]
pub use mlx_rs::{Array, Dtype, StreamOrDevice, array, linalg, memory, ops, random, stop_gradient, transforms};
