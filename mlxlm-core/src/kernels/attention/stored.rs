//! Keys or values in memory: plain, or quantized and unpacked row by row.

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

    pub(super) fn shape(&self) -> [usize; 4] {
        match self {
            Self::Plain(heads) => heads.shape,
            Self::Packed { scheme, codes, scales, .. } => {
                let [b, h, s, _] = codes.shape;
                [b, h, s, scales.shape[3] * scheme.group_size as usize]
            }
        }
    }

    /// Reads one row as f32.
    pub(super) fn read(&self, isa: Isa, at: [usize; 3], out: &mut [f32]) {
        let (scheme, codes, scales, biases) = match self {
            Self::Plain(heads) => return heads.read(isa, at, out),
            Self::Packed { scheme, codes, scales, biases } => (*scheme, codes, scales, biases),
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
