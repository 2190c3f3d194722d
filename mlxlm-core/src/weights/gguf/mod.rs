//! GGUF, the file format of llama.cpp: reading its versions 2 and 3, and writing version 3.
//!
//! [`GgufFile`] maps a file, or all parts of one that was split, and checks every number in it before it is used.
//! [`Metadata`] is what the file says of itself; [`GgufFile::tensor`] gives a tensor as MLX can hold it.
//!
//! Source: the description of the format in the repository of ggml (`docs/gguf.md`) and the block layouts of
//! `ggml-common.h`. Unusual:
//! - What MLX has a mode for stays packed, with the same codes: see `affine` and `mxfp4`.
//! - `Q2_K`, `Q3_K` and `Q6_K` have groups of 16, which MLX does not have; they are packed anew: see `sixteens`.
//! - Files of big-endian machines and version 1 are refused.

mod affine;
mod cursor;
mod error;
mod file;
mod header;
mod kind;
mod metadata;
mod mxfp4;
mod sixteens;
mod tensor;
mod write;

pub use error::GgufError;
pub use file::GgufFile;
pub use kind::TensorType;
pub use metadata::{Metadata, Value};
pub use tensor::{GgufTensor, Repacked};
pub use write::write_gguf;

/// The first four bytes of every file.
const MAGIC: [u8; 4] = *b"GGUF";

/// What tensors are aligned to unless the file says otherwise.
const ALIGNMENT: usize = 32;

/// The key of the alignment.
const ALIGNMENT_KEY: &str = "general.alignment";
