//! The architectures, one file each: config, block, `load`, `forward`, and nothing else.
//!
//! A new one adds its file, a line to each of the two lists below, and a tiny configuration to the tests.

mod cohere2;
mod gemma2;
mod gemma3_text;
mod llama;
mod mixtral;
mod phi3;
mod qwen2;
mod qwen3;
mod qwen3_moe;

use crate::Architecture;

/// All architectures, sorted by their own name.
pub static ARCHITECTURES: &[&Architecture] = &[
    &cohere2::ARCH,
    &gemma2::ARCH,
    &gemma3_text::ARCH,
    &llama::ARCH,
    &mixtral::ARCH,
    &phi3::ARCH,
    &qwen2::ARCH,
    &qwen3::ARCH,
    &qwen3_moe::ARCH,
];
