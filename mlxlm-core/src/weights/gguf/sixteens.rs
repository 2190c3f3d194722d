//! `Q2_K`, `Q3_K` and `Q6_K`: groups of 16 weights, for which MLX has no affine mode. They are unpacked exactly and packed anew in
//! groups of 32 with more bits.
//!
//! Affine codes of 4, 5 and 8 bits in groups of 32 change normal weights by 8 %, 4 % and 0.5 % (the root of the mean square). That
//! is well below what the types themselves lost: 3 and 6 bits in groups of 32 change them by 17 % and 2 %.

use super::TensorType;
use super::affine::half;

/// Weights of a block.
const BLOCK: usize = 256;

/// The bits with which the type is packed anew, if it is one of these.
pub(super) const fn new_bits(kind: TensorType) -> Option<i32> {
    match kind {
        TensorType::Q2_K => Some(4),
        TensorType::Q3_K => Some(5),
        TensorType::Q6_K => Some(8),
        _ => None,
    }
}

/// The weights of blocks of a type for which there are [`new_bits`].
pub(super) fn unpack(kind: TensorType, bytes: &[u8]) -> Vec<f32> {
    let blocks = bytes.chunks_exact(kind.block_bytes());
    let mut weights = vec![0.0; blocks.len() * BLOCK];
    let (outputs, _) = weights.as_chunks_mut::<BLOCK>();
    for (block, weights) in blocks.zip(outputs) {
        match kind {
            TensorType::Q2_K => unpack_2(block, weights),
            TensorType::Q3_K => unpack_3(block, weights),
            _ => unpack_6(block, weights),
        }
    }
    weights
}

/// Where the code of weight `i` lies in types that keep 2 bits of four weights, 32 apart, in one byte: the byte and the shift.
const fn quarter(i: usize) -> (usize, usize) {
    (i / 128 * 32 + i % 32, i % 128 / 32 * 2)
}

fn unpack_2(block: &[u8], weights: &mut [f32; BLOCK]) {
    let (scales, codes) = (&block[..16], &block[16..80]);
    let (d, dmin) = (half(block, 80), half(block, 82));
    for (i, weight) in weights.iter_mut().enumerate() {
        let (byte, shift) = quarter(i);
        let scale = scales[i / 16];
        *weight = d * f32::from(scale & 15) * f32::from(codes[byte] >> shift & 3) - dmin * f32::from(scale >> 4);
    }
}

fn unpack_3(block: &[u8], weights: &mut [f32; BLOCK]) {
    let (high, codes, scales) = (&block[..32], &block[32..96], &block[96..108]);
    let d = half(block, 108);
    for (i, weight) in weights.iter_mut().enumerate() {
        let group = i / 16;
        // 4 low bits in the first eight bytes, 2 high ones in the last four.
        let low = scales[group % 8] >> (group / 8 * 4) & 15;
        let scale = i32::from(low | (scales[8 + group % 4] >> (group / 4 * 2) & 3) << 4) - 32;
        let (byte, shift) = quarter(i);
        let code = i32::from(codes[byte] >> shift & 3) - if high[i % 32] >> (i / 32) & 1 == 1 { 0 } else { 4 };
        *weight = d * scale as f32 * code as f32;
    }
}

fn unpack_6(block: &[u8], weights: &mut [f32; BLOCK]) {
    let (low, high, scales) = (&block[..128], &block[128..192], &block[192..208]);
    let d = half(block, 208);
    for (i, weight) in weights.iter_mut().enumerate() {
        let (byte, shift) = quarter(i);
        // 64 bytes hold the low halves of 64 weights, then their high halves those of the next 64.
        let low = low[i / 128 * 64 + i % 64] >> (i % 128 / 64 * 4) & 15;
        let code = i32::from(low | (high[byte] >> shift & 3) << 4) - 32;
        *weight = d * f32::from(scales[i / 16].cast_signed()) * code as f32;
    }
}
