//! CPU kernels for Linux on x86-64, where stock MLX is some two hundred times slower than the hardware.
//!
//! The kernels are Rust with `std::arch`, chosen at run time by [`Isa`] and run on one thread [`pool`]. MLX reaches them in two
//! ways: it calls [`blas`] for f32 matrix products as if that were its BLAS, and our operations are custom primitives of its
//! graph, with their own gradients. On Apple silicon and CUDA none of this is used.
//!
//! What is unusual: a row's result has the same bits whether it is computed alone or beside up to 64 others. Speculative
//! decoding, batching and seeds are exact on the CPU only because of this.
#![allow(unsafe_code, reason = "vector instructions, MLX's C++ and shared buffers; every block says why it is sound")]
#![allow(clippy::wildcard_imports, reason = "the names of vector instructions are long, many, and nobody else's")]
#![allow(
    clippy::inline_always,
    reason = "a body must be compiled inside each level's function to use its instructions"
)]
#![allow(clippy::cast_ptr_alignment, reason = "arrays are aligned for their type, which is known at run time only")]

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub(crate) mod attention;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub mod blas;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod convert;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub(crate) mod dense;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod exp;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub(crate) mod float;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod gemm;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod heads;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod isa;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub mod pool;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod primitive;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub(crate) mod quantized;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod scratch;

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub use isa::{ISA_VAR, Isa, IsaError};
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub(crate) use primitive::on_cpu;

use mlx_rs::Array;
use mlx_rs::error::Exception;
use mlx_rs::fast::ScaledDotProductAttentionMask as Mask;

use crate::fast::{Offset, Turn};
use crate::quant::{Packed, Scheme};

/// `x @ w.T` (or `x @ w` without `transpose`) against packed weights, or `None` where MLX's own operation is to be taken.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
#[track_caller]
pub(crate) fn quantized_matmul(
    x: &Array,
    w: &Packed,
    scheme: Scheme,
    transpose: bool,
) -> Result<Option<Array>, Exception> {
    quantized::quantized_matmul(x, w, scheme, transpose)
}

/// `None`: here MLX's own operation is to be taken.
#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
pub(crate) fn quantized_matmul(_: &Array, _: &Packed, _: Scheme, _: bool) -> Result<Option<Array>, Exception> {
    Ok(None)
}

/// `x[i] @ w[indices[i]].T`, or `None` where MLX's own operation is to be taken.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
#[track_caller]
pub(crate) fn gather_quantized_matmul(
    x: &Array,
    w: &Packed,
    scheme: Scheme,
    indices: &Array,
) -> Result<Option<Array>, Exception> {
    quantized::gather_quantized_matmul(x, w, scheme, indices)
}

/// `None`: here MLX's own operation is to be taken.
#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
pub(crate) fn gather_quantized_matmul(_: &Array, _: &Packed, _: Scheme, _: &Array) -> Result<Option<Array>, Exception> {
    Ok(None)
}

/// Attention as in [`crate::fast::scaled_dot_product_attention`], or `None` where MLX's own operation is to be taken.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
#[track_caller]
pub(crate) fn attend(
    q: &Array,
    k: &Array,
    v: &Array,
    scale: f32,
    mask: Option<&Mask<'_>>,
    sinks: Option<&Array>,
) -> Result<Option<Array>, Exception> {
    let (rule, mask) = match mask {
        None => (attention::Rule::All, None),
        Some(Mask::Causal) => (attention::Rule::Causal, None),
        Some(Mask::Array(mask)) => (attention::Rule::All, Some(*mask)),
    };
    attention::attend(q, k, v, attention::Spec { scale, rule, softcap: None }, mask, sinks)
}

/// `None`: here MLX's own operation is to be taken.
#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
pub(crate) fn attend(
    _: &Array,
    _: &Array,
    _: &Array,
    _: f32,
    _: Option<&Mask<'_>>,
    _: Option<&Array>,
) -> Result<Option<Array>, Exception> {
    Ok(None)
}

/// Rotary positions as in [`crate::fast::rope`], or `None` where MLX's own operation is to be taken.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
#[track_caller]
pub(crate) fn rope(
    x: &Array,
    turn: Turn,
    offset: Offset<'_>,
    table: Option<&Array>,
) -> Result<Option<Array>, Exception> {
    let (offset, offsets) = match offset {
        Offset::Same(offset) => (offset, None),
        Offset::Array(offsets) => (0, Some(offsets)),
    };
    let Turn { dims, traditional, base, scale } = turn;
    let rotation = float::rope::Rotation { dims, neighbours: traditional, base: base.unwrap_or(1.0), scale, offset };
    if !on_cpu() || base.is_some() == table.is_some() || !rotation.fits(x, offsets, table) {
        return Ok(None);
    }
    rotation.apply(x, offsets, table).map(Some)
}

/// `None`: here MLX's own operation is to be taken.
#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
pub(crate) fn rope(_: &Array, _: Turn, _: Offset<'_>, _: Option<&Array>) -> Result<Option<Array>, Exception> {
    Ok(None)
}
