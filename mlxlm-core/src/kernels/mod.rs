//! CPU kernels for Linux on x86-64, where stock MLX is some two hundred times slower than the hardware.
//!
//! The kernels are Rust with `std::arch`, chosen at run time by [`Isa`] and run on one thread [`pool`]. MLX reaches them in two
//! ways: it calls [`blas`] for f32 matrix products as if that were its BLAS, and our operations are custom primitives of its
//! graph, with their own gradients. On Apple silicon this module does
//! not exist, and on CUDA it is not used: [`crate::fast`] and [`crate::quant`] take MLX's own operations there.
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

/// Rows up to which a row's result does not depend on how many there are: one and 64 others.
pub(crate) const INVARIANT_ROWS: usize = 65;

mod amx;
mod attention;
pub mod blas;
mod chosen;
mod convert;
pub(crate) mod dense;
mod exp;
pub(crate) mod float;
mod float8;
mod gemm;
mod heads;
mod isa;
mod mixed;
pub mod pool;
mod primitive;
mod quantized;
pub(crate) mod recurrent;
mod scratch;
mod write;

pub(crate) use attention::{attend, attend_latent, attend_latent_rows, attend_rows};
pub(crate) use float8::widen_float8;
pub use isa::{ISA_VAR, Isa, IsaError};
pub(crate) use primitive::on_cpu;
pub(crate) use quantized::{
    arrange, dense, gather_panels_matmul, gather_quantized_matmul, panels_matmul, panels_matmuls, panels_rows,
    quantized_matmul, quantized_rows,
};
pub(crate) use write::write_rows;
