//! Types whose groups of 32 weights are `scale * code + bias`: MLX's affine mode holds them with the same codes.
//!
//! | type | bits | scale | bias |
//! | --- | --- | --- | --- |
//! | `Q4_0`, `Q5_0`, `Q8_0` | 4, 5, 8 | `d` | -8, -16, -128 times `d` |
//! | `Q4_1`, `Q5_1` | 4, 5 | `d` | `m` |
//! | `Q4_K`, `Q5_K` | 4, 5 | `d` times a number of 6 bits | `-dmin` times a number of 6 bits |
//!
//! All of these products are exact in `f32`. They are kept in `f16` where all of a tensor are exact in that too, as those of the
//! first five types are.

use half::f16;

use super::TensorType;

/// Weights of a group.
pub(super) const GROUP: usize = 32;

/// A group of weights.
#[derive(Debug, Clone, Copy)]
struct Group {
    scale: f32,
    bias: f32,
    codes: [u8; GROUP],
}

impl Group {
    const EMPTY: Self = Self { scale: 0.0, bias: 0.0, codes: [0; GROUP] };
}

/// The bits of a code, if MLX's affine mode can hold the type.
pub(super) const fn bits(kind: TensorType) -> Option<usize> {
    match kind {
        TensorType::Q4_0 | TensorType::Q4_1 | TensorType::Q4_K => Some(4),
        TensorType::Q5_0 | TensorType::Q5_1 | TensorType::Q5_K => Some(5),
        TensorType::Q8_0 => Some(8),
        _ => None,
    }
}

/// A tensor in the parts of MLX's affine mode, row by row.
#[derive(Debug, Default)]
pub(super) struct Parts {
    pub(super) words: Vec<u32>,
    pub(super) scales: Vec<f32>,
    pub(super) biases: Vec<f32>,
}

/// Puts the blocks of a type for which [`bits`] gives `bits` into those parts.
pub(super) fn repack(kind: TensorType, bits: usize, bytes: &[u8]) -> Parts {
    let groups_of_block = kind.block() / GROUP;
    let blocks = bytes.len() / kind.block_bytes();
    let mut parts = Parts {
        words: Vec::with_capacity(blocks * groups_of_block * bits),
        scales: Vec::with_capacity(blocks * groups_of_block),
        biases: Vec::with_capacity(blocks * groups_of_block),
    };
    let mut groups = [Group::EMPTY; 8];
    for block in bytes.chunks_exact(kind.block_bytes()) {
        unpack(kind, block, &mut groups);
        for group in &groups[..groups_of_block] {
            parts.scales.push(group.scale);
            parts.biases.push(group.bias);
            push_codes(&mut parts.words, &group.codes, bits);
        }
    }
    parts
}

/// Appends codes as a stream of bits, the lowest first; 32 codes of `bits` fill `bits` words.
pub(super) fn push_codes(words: &mut Vec<u32>, codes: &[u8], bits: usize) {
    let (mut held, mut held_bits) = (0_u64, 0);
    for &code in codes {
        held |= u64::from(code) << held_bits;
        held_bits += bits;
        if held_bits >= 32 {
            words.push(held as u32);
            held >>= 32;
            held_bits -= 32;
        }
    }
}

/// The groups of a block of `kind.block_bytes()` bytes.
fn unpack(kind: TensorType, block: &[u8], groups: &mut [Group; 8]) {
    match kind {
        TensorType::Q4_0 => {
            let d = half(block, 0);
            groups[0] = Group { scale: d, bias: -8.0 * d, codes: nibbles(&block[2..18]) };
        }
        TensorType::Q4_1 => {
            groups[0] = Group { scale: half(block, 0), bias: half(block, 2), codes: nibbles(&block[4..20]) };
        }
        TensorType::Q5_0 => {
            let d = half(block, 0);
            groups[0] = Group { scale: d, bias: -16.0 * d, codes: fifth_bits(nibbles(&block[6..22]), &block[2..6]) };
        }
        TensorType::Q5_1 => {
            let codes = fifth_bits(nibbles(&block[8..24]), &block[4..8]);
            groups[0] = Group { scale: half(block, 0), bias: half(block, 2), codes };
        }
        TensorType::Q8_0 => {
            let d = half(block, 0);
            let mut codes = [0; GROUP];
            for (code, &byte) in codes.iter_mut().zip(&block[2..34]) {
                // From -128..=127 to 0..=255.
                *code = byte ^ 0x80;
            }
            groups[0] = Group { scale: d, bias: -128.0 * d, codes };
        }
        _ => unpack_k(kind, block, groups),
    }
}

/// `Q4_K` and `Q5_K`: eight groups under two factors, with 6 bits each for scale and bias.
fn unpack_k(kind: TensorType, block: &[u8], groups: &mut [Group; 8]) {
    let (d, dmin) = (half(block, 0), half(block, 2));
    let (high, low) = match kind {
        TensorType::Q5_K => (Some(&block[16..48]), &block[48..176]),
        _ => (None, &block[16..144]),
    };
    for (i, group) in groups.iter_mut().enumerate() {
        let (scale, min) = six_bits(&block[4..16], i);
        group.scale = d * f32::from(scale);
        group.bias = -dmin * f32::from(min);
        // Two groups share 32 bytes: one has the low halves, the other the high ones.
        let (bytes, shift) = (&low[i / 2 * GROUP..][..GROUP], i % 2 * 4);
        for (j, (code, &byte)) in group.codes.iter_mut().zip(bytes).enumerate() {
            let fifth = high.map_or(0, |high| high[j] >> i & 1);
            *code = byte >> shift & 15 | fifth << 4;
        }
    }
}

/// The scale and the bias of group `i` of eight, from 12 bytes: the first four of each lie in the low 6 bits of eight bytes, the
/// others in the last four bytes and the high 2 bits of the first eight.
fn six_bits(packed: &[u8], i: usize) -> (u8, u8) {
    match i {
        0..4 => (packed[i] & 63, packed[i + 4] & 63),
        _ => (packed[i + 4] & 15 | packed[i - 4] >> 6 << 4, packed[i + 4] >> 4 | packed[i] >> 6 << 4),
    }
}

/// The number of 16 bits at byte `at`.
pub(super) fn half(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// The codes in 16 bytes: the low halves of all bytes, then the high ones.
pub(super) fn nibbles(bytes: &[u8]) -> [u8; GROUP] {
    let mut codes = [0; GROUP];
    for (j, &byte) in bytes.iter().enumerate() {
        codes[j] = byte & 15;
        codes[j + 16] = byte >> 4;
    }
    codes
}

/// Adds to each code its fifth bit.
fn fifth_bits(mut codes: [u8; GROUP], bits: &[u8]) -> [u8; GROUP] {
    for (j, code) in codes.iter_mut().enumerate() {
        *code |= (bits[j / 8] >> (j % 8) & 1) << 4;
    }
    codes
}

/// The same numbers in 16 bits, if none of them changes by that.
pub(super) fn in_half(numbers: &[f32]) -> Option<Vec<f16>> {
    let exact = |&number: &f32| {
        let half = f16::from_f32(number);
        (half.to_f32().to_bits() == number.to_bits() || number.is_nan()).then_some(half)
    };
    numbers.iter().map(exact).collect()
}
