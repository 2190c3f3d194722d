//! GGUF: what llama.cpp packs comes out as the Python package `gguf` unpacks it, what was written is read, and what is damaged is
//! refused with what is wrong.
//!
//! `fixtures/gguf/blocks.safetensors` is made by `xtask/src/golden/gguf_blocks.py`, from a seed.
#![allow(clippy::unwrap_used, reason = "helpers of tests may fail as tests do")]

mod gguf {
    mod builder;
    mod damaged;
    mod tensors;
    mod tokenizers;
    mod written;
}
