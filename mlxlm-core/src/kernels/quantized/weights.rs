//! A quantized matrix in memory: where a row's codes, scales and biases lie, and what they mean.

use half::{bf16, f16};
use mlx_rs::Dtype;

use crate::kernels::primitive::View;
use crate::quant::{Mode, Scheme};

/// Codes are unpacked this many at a time: 32 codes of `b` bits are `b` whole words.
pub(super) const RUN: usize = 32;

/// The values of 4-bit floats (e2m1).
pub(super) const E2M1: [f32; 16] =
    [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];

/// One row's numbers for a group: `weight = scale · code + bias`.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Params<'a> {
    F32(&'a [f32]),
    F16(&'a [f16]),
    Bf16(&'a [bf16]),
    /// Powers of two (e8m0).
    E8m0(&'a [u8]),
    /// 8-bit floats (e4m3).
    E4m3(&'a [u8]),
}

impl<'a> Params<'a> {
    fn new(view: &View<'a>, buffer: &'a mut Buffers, mode: Mode) -> Self {
        match (view.dtype, mode) {
            (Dtype::Float32, _) => Self::F32(view.contiguous(&mut buffer.f32)),
            (Dtype::Float16, _) => Self::F16(view.contiguous(&mut buffer.f16)),
            (Dtype::Bfloat16, _) => Self::Bf16(view.contiguous(&mut buffer.bf16)),
            (_, Mode::Nvfp4) => Self::E4m3(view.contiguous(&mut buffer.u8)),
            _ => Self::E8m0(view.contiguous(&mut buffer.u8)),
        }
    }

    fn part(&self, from: usize, len: usize) -> Self {
        match self {
            Self::F32(values) => Self::F32(&values[from..from + len]),
            Self::F16(values) => Self::F16(&values[from..from + len]),
            Self::Bf16(values) => Self::Bf16(&values[from..from + len]),
            Self::E8m0(values) => Self::E8m0(&values[from..from + len]),
            Self::E4m3(values) => Self::E4m3(&values[from..from + len]),
        }
    }

    #[inline]
    pub(crate) fn get(&self, i: usize) -> f32 {
        match self {
            Self::F32(values) => values[i],
            Self::F16(values) => values[i].to_f32(),
            Self::Bf16(values) => values[i].to_f32(),
            Self::E8m0(values) => e8m0(values[i]),
            Self::E4m3(values) => e4m3(values[i]),
        }
    }
}

/// Room for copies of arrays that are not contiguous.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    f32: Vec<f32>,
    f16: Vec<f16>,
    bf16: Vec<bf16>,
    u8: Vec<u8>,
}

/// A matrix of `rows` × `columns` weights.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Weights<'a> {
    pub(crate) scheme: Scheme,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) words: &'a [u32],
    pub(crate) scales: Params<'a>,
    pub(crate) biases: Option<Params<'a>>,
}

/// Room for a whole matrix that is not contiguous.
#[derive(Debug, Default)]
pub(super) struct Storage {
    words: Vec<u32>,
    scales: Buffers,
    biases: Buffers,
}

impl Storage {
    /// The lines of panels.
    pub(super) fn lines<'a>(&'a mut self, view: &View<'a>) -> &'a [u32] {
        view.contiguous(&mut self.words)
    }
}

impl<'a> Weights<'a> {
    /// The matrix of the views `[rows, words]`, `[rows, groups]` and, for affine, `[rows, groups]`.
    pub(super) fn new(scheme: Scheme, views: &[View<'a>], storage: &'a mut Storage) -> Self {
        let rows = views[0].shape[0] as usize;
        Self {
            scheme,
            rows,
            columns: views[1].shape[1] as usize * scheme.group_size as usize,
            words: views[0].contiguous(&mut storage.words),
            scales: Params::new(&views[1], &mut storage.scales, scheme.mode),
            biases: views.get(2).map(|view| Params::new(view, &mut storage.biases, scheme.mode)),
        }
    }

    /// A stack of matrices, `[E, rows, words]` and so on, as one that has all their rows.
    pub(super) fn stacked(scheme: Scheme, views: &[View<'a>], storage: &'a mut Storage) -> Self {
        let &[experts, rows, _] = views[0].shape else { unreachable!("a stack has three axes") };
        Self {
            scheme,
            rows: experts as usize * rows as usize,
            columns: views[1].shape[2] as usize * scheme.group_size as usize,
            words: views[0].contiguous(&mut storage.words),
            scales: Params::new(&views[1], &mut storage.scales, scheme.mode),
            biases: views.get(2).map(|view| Params::new(view, &mut storage.biases, scheme.mode)),
        }
    }

    /// Some of the rows.
    pub(super) fn part(&self, first: usize, rows: usize) -> Self {
        let (words, groups) = (self.columns * self.bits() / 32, self.groups());
        let params = |params: &Params<'a>| params.part(first * groups, rows * groups);
        Self {
            rows,
            words: &self.words[first * words..(first + rows) * words],
            scales: params(&self.scales),
            biases: self.biases.as_ref().map(params),
            ..*self
        }
    }

    pub(super) fn bits(&self) -> usize {
        self.scheme.bits as usize
    }

    pub(super) fn group(&self) -> usize {
        self.scheme.group_size as usize
    }

    /// Groups in a row.
    pub(super) fn groups(&self) -> usize {
        self.columns / self.group()
    }

    /// The words of a row.
    pub(super) fn row(&self, row: usize) -> &'a [u32] {
        let length = self.columns * self.bits() / 32;
        &self.words[row * length..(row + 1) * length]
    }

    /// Scale and bias of a group of a row.
    #[inline]
    pub(super) fn params(&self, row: usize, group: usize) -> (f32, f32) {
        let at = row * self.groups() + group;
        (self.scales.get(at), self.biases.map_or(0.0, |biases| biases.get(at)))
    }

    /// What a code stands for before scale and bias.
    pub(super) fn value(&self, code: u32) -> f32 {
        match self.scheme.mode {
            Mode::Affine => code as f32,
            Mode::Mxfp4 | Mode::Nvfp4 => E2M1[code as usize],
            Mode::Mxfp8 => e4m3(code as u8),
        }
    }
}

/// The code at `i` of a row's words, which are one little-endian stream of bits.
pub(super) fn code(words: &[u32], bits: usize, i: usize) -> u32 {
    let (word, shift) = (i * bits / 32, i * bits % 32);
    let high = words.get(word + 1).copied().unwrap_or(0);
    let both = u64::from(words[word]) | u64::from(high) << 32;
    (both >> shift) as u32 & ((1 << bits) - 1)
}

/// A power of two with the exponent of an f32; 255 is not a number in the standard and infinite in MLX.
pub(super) fn e8m0(byte: u8) -> f32 {
    if byte == 0 { f32::from_bits(1 << 22) } else { f32::from_bits(u32::from(byte) << 23) }
}

/// An 8-bit float with 4 bits of exponent, without infinities. MLX reads the two codes of no number as ±480.
pub(super) fn e4m3(byte: u8) -> f32 {
    // Sign and the rest at the places of an f32, whose exponents are 120 larger; the product is exact.
    let magnitude = f32::from_bits(u32::from(byte & 0x7F) << 20) * f32::from_bits((120 + 127) << 23);
    if byte & 0x80 == 0 { magnitude } else { -magnitude }
}
