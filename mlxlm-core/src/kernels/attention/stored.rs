//! Keys or values in memory: plain, or quantized and unpacked row by row; keys also in two parts, which make a row together.

use half::bf16;
use mlx_rs::Dtype;

use crate::kernels::heads::Heads;
use crate::kernels::isa::Isa;
use crate::kernels::primitive::View;
use crate::kernels::quantized::{Params, Weights, unpack};
use crate::quant::{Mode, Scheme};

use super::lanes;

/// Keys or values `[B, K, S, d]`.
pub(super) enum Tensor {
    /// As they come.
    Plain(Heads),
    /// Codes, scales and, for affine, biases.
    Packed { scheme: Scheme, codes: Heads, scales: Heads, biases: Option<Heads> },
    /// Two parts of each row.
    Joined(Box<[Self; 2]>),
}

impl Tensor {
    /// The tensor of one view, or of the two or three of a quantized one; what is not in rows is copied.
    pub(super) fn new(scheme: Option<Scheme>, views: &[View<'_>], copies: &mut [Vec<u32>]) -> Self {
        let mut parts = views.iter().zip(copies).map(|(view, copy)| Heads::new(view, copy));
        let mut part = || parts.next().unwrap_or_else(|| unreachable!("a tensor lacks a part"));
        match scheme {
            None => Self::Plain(part()),
            Some(scheme) => {
                Self::Packed { scheme, codes: part(), scales: part(), biases: (scheme.mode == Mode::Affine).then(part) }
            }
        }
    }

    /// The tensor of the parts that have these schemes: one, or two.
    pub(super) fn joined(schemes: &[Option<Scheme>], views: &[View<'_>], copies: &mut [Vec<u32>]) -> Self {
        let &[first, second] = schemes else { return Self::new(schemes.first().copied().flatten(), views, copies) };
        let (of_first, of_second) = views.split_at(parts(first));
        let (copies, more) = copies.split_at_mut(3);
        Self::Joined(Box::new([Self::new(first, of_first, copies), Self::new(second, of_second, more)]))
    }

    /// Whether it lies in memory in bf16.
    pub(super) fn is_bf16(&self) -> bool {
        match self {
            Self::Plain(heads) => heads.dtype() == Dtype::Bfloat16,
            Self::Packed { .. } => false,
            Self::Joined(parts) => parts.iter().all(Self::is_bf16),
        }
    }

    /// Copies one row of what lies in memory in bf16.
    pub(super) fn copy(&self, at: [usize; 3], out: &mut [bf16]) {
        match self {
            Self::Plain(heads) => out.copy_from_slice(heads.row(at)),
            Self::Packed { .. } => unreachable!("codes are not bf16"),
            Self::Joined(parts) => {
                let (first, second) = out.split_at_mut(parts[0].shape()[3]);
                parts[0].copy(at, first);
                parts[1].copy(at, second);
            }
        }
    }

    pub(super) fn shape(&self) -> [usize; 4] {
        match self {
            Self::Plain(heads) => heads.shape,
            Self::Packed { scheme, codes, scales, .. } => {
                let [b, h, s, _] = codes.shape;
                [b, h, s, scales.shape[3] * scheme.group_size as usize]
            }
            Self::Joined(parts) => {
                let [b, h, s, width] = parts[0].shape();
                [b, h, s, width + parts[1].shape()[3]]
            }
        }
    }

    /// Reads one row as f32.
    pub(super) fn read(&self, isa: Isa, at: [usize; 3], out: &mut [f32]) {
        let (scheme, codes, scales, biases) = match self {
            Self::Plain(heads) => return heads.read(isa, at, out),
            Self::Packed { scheme, codes, scales, biases } => (*scheme, codes, scales, biases),
            Self::Joined(parts) => {
                let (first, second) = out.split_at_mut(parts[0].shape()[3]);
                parts[0].read(isa, at, first);
                return parts[1].read(isa, at, second);
            }
        };
        let row = Weights {
            scheme,
            rows: 1,
            columns: out.len(),
            words: codes.row(at),
            scales: params(scheme, scales, at),
            biases: biases.as_ref().map(|biases| params(scheme, biases, at)),
        };
        if isa >= Isa::Avx512 && scheme.mode == Mode::Affine && matches!(scheme.bits, 4 | 8) {
            // SAFETY: the level was checked, and the row has codes for all columns.
            unsafe { lanes::unpack(&row, out) };
        } else {
            unpack(isa, &row, 0, 0, out);
        }
    }
}

/// Arrays that a tensor consists of.
pub(super) fn parts(scheme: Option<Scheme>) -> usize {
    match scheme {
        None => 1,
        Some(scheme) if scheme.mode == Mode::Affine => 3,
        Some(_) => 2,
    }
}

/// The scales or biases of a row.
fn params(scheme: Scheme, heads: &Heads, at: [usize; 3]) -> Params<'_> {
    match (heads.dtype(), scheme.mode) {
        (Dtype::Float32, _) => Params::F32(heads.row(at)),
        (Dtype::Float16, _) => Params::F16(heads.row(at)),
        (Dtype::Bfloat16, _) => Params::Bf16(heads.row(at)),
        (_, Mode::Nvfp4) => Params::E4m3(heads.row(at)),
        _ => Params::E8m0(heads.row(at)),
    }
}
