//! Tensors and what every model is made of.
//!
//! - [`Array`] and the operations of MLX ([`ops`], [`fast`], [`random`], [`transforms`], [`memory`]), re-exported:
//!   this is the only crate of the workspace that names `mlx_rs`, and the only one with `unsafe`.
//! - [`nn`]: the leaves ([`nn::Linear`], [`nn::Embedding`], [`nn::ExpertLinear`], [`nn::Norm`], [`nn::Conv1d`]), which
//!   alone know whether a weight is dense, quantized or adapted.
//! - [`weights`]: checkpoints in and out, as a strict view that is walked by path.
//! - [`quant`]: every quantization mode of MLX.
//! - [`io`]: files with their path in every error, and writes that appear by rename.
//! - `text` and `hub` (cargo features): tokenizer, chat template; the Hugging Face hub.
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

pub mod bandwidth;
pub mod device;
pub mod error;
pub mod fast;
#[cfg(feature = "hub")]
pub mod hub;
pub mod io;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub mod kernels;
pub mod nn;
mod pages;
pub mod quant;
mod raw;
#[cfg(feature = "text")]
pub mod text;
pub mod weights;

pub use error::{Error, Hint, Result};
/// What a failed MLX operation says, with the place of the call.
pub use mlx_rs::error::Exception;
pub use mlx_rs::{Array, Dtype, StreamOrDevice, array, memory, ops, random, stop_gradient, transforms};
