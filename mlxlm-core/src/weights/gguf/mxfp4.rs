//! `MXFP4`: groups of 32 4-bit floats (e2m1) under a power of two, which is MLX's mode of that name with the halves of bytes in
//! another order.

use super::TensorType;
use super::affine::{nibbles, push_codes};

/// The packed rows in MLX's order, and the exponent of each group with a bias of 127.
pub(super) fn repack(bytes: &[u8]) -> (Vec<u32>, Vec<u8>) {
    let blocks = bytes.chunks_exact(TensorType::MXFP4.block_bytes());
    let (mut words, mut scales) = (Vec::with_capacity(blocks.len() * 4), Vec::with_capacity(blocks.len()));
    for block in blocks {
        scales.push(block[0]);
        push_codes(&mut words, &nibbles(&block[1..17]), 4);
    }
    (words, scales)
}
