//! A quantized matrix as an operation finds it in memory: in the rows of a file, or in panels.

use std::ops::Range;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use mlx_rs::Dtype;

use super::unpack::unpack;
use super::weights::{Params, Storage, Weights};
use crate::kernels::isa::Isa;
use crate::kernels::pool;
use crate::kernels::primitive::View;
use crate::quant::panels::{Layout, Numbers, Source, UNIT, arrange_panel};
use crate::quant::{Mode, Scheme};

/// How the last inputs of an operation hold a matrix.
#[derive(Debug, Clone, Copy)]
pub(super) enum Stored {
    /// Codes, scales and, for affine, biases, row by row.
    Rows(Scheme),
    /// One array of lines.
    Panels(Layout),
}

/// A matrix of quantized weights.
#[derive(Debug, Clone, Copy)]
pub(super) enum Matrix<'a> {
    Rows(Weights<'a>),
    Panels(Layout, &'a [u32]),
}

/// Matrices of the same size.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stack<'a> {
    /// All of their rows, or panels.
    all: Matrix<'a>,
    pub(super) experts: usize,
    /// Rows of each.
    pub(super) rows: usize,
}

impl Stored {
    /// The matrix that these views hold.
    pub(super) fn matrix<'a>(&self, views: &[View<'a>], storage: &'a mut Storage) -> Matrix<'a> {
        match *self {
            Self::Rows(scheme) => Matrix::Rows(Weights::new(scheme, views, storage)),
            Self::Panels(layout) => Matrix::Panels(layout, storage.lines(&views[0])),
        }
    }

    /// The stack that these views hold.
    pub(super) fn stack<'a>(&self, views: &[View<'a>], storage: &'a mut Storage) -> Stack<'a> {
        match *self {
            Self::Rows(scheme) => {
                let (experts, rows) = (views[0].shape[0] as usize, views[0].shape[1] as usize);
                Stack { all: Matrix::Rows(Weights::stacked(scheme, views, storage)), experts, rows }
            }
            Self::Panels(layout) => {
                let lines = storage.lines(&views[0]);
                let experts = lines.len() / layout.words().max(1);
                Stack { all: Matrix::Panels(layout, lines), experts, rows: layout.rows }
            }
        }
    }
}

impl<'a> Stack<'a> {
    pub(super) fn columns(&self) -> usize {
        self.all.columns()
    }

    pub(super) fn is_fixed(&self) -> bool {
        self.all.is_fixed()
    }

    /// One of the matrices, if there are so many.
    pub(super) fn expert(&self, expert: usize) -> Option<Matrix<'a>> {
        if expert >= self.experts {
            return None;
        }
        Some(match self.all {
            Matrix::Rows(all) => Matrix::Rows(all.part(expert * self.rows, self.rows)),
            Matrix::Panels(layout, lines) => {
                Matrix::Panels(layout, &lines[expert * layout.words()..][..layout.words()])
            }
        })
    }
}

impl Matrix<'_> {
    pub(super) fn rows(&self) -> usize {
        match self {
            Self::Rows(w) => w.rows,
            Self::Panels(layout, _) => layout.rows,
        }
    }

    pub(super) fn columns(&self) -> usize {
        match self {
            Self::Rows(w) => w.columns,
            Self::Panels(layout, _) => layout.columns,
        }
    }

    /// Whether the codes are small integers, as [`super::fixed`] needs them: those of panels are, 8-bit floats are not.
    pub(super) fn is_fixed(&self) -> bool {
        match self {
            Self::Rows(w) => w.scheme.mode != Mode::Mxfp8 && !matches!(w.scales, Params::F32(_)) && w.columns > 0,
            Self::Panels(..) => true,
        }
    }

    /// Whether panels are there, and not to be made.
    pub(super) fn is_in_panels(&self) -> bool {
        matches!(self, Self::Panels(..))
    }

    /// The layout that this matrix has, or would have, in panels.
    pub(super) fn layout(&self) -> Layout {
        match self {
            Self::Panels(layout, _) => *layout,
            Self::Rows(w) => {
                let numbers = match w.scales {
                    Params::F16(_) => Dtype::Float16,
                    Params::Bf16(_) | Params::F32(_) => Dtype::Bfloat16,
                    Params::E8m0(_) | Params::E4m3(_) => Dtype::Uint8,
                };
                Layout { scheme: w.scheme, numbers, rows: w.rows, columns: w.columns }
            }
        }
    }

    /// Writes the weights of columns `from..from + out.len()` of a row as f32; whole runs of 32 are fast.
    pub(super) fn unpack(&self, isa: Isa, row: usize, from: usize, out: &mut [f32]) {
        match self {
            Self::Rows(w) => unpack(isa, w, row, from, out),
            Self::Panels(layout, lines) => {
                let step = UNIT.max(layout.group());
                let range = from / step * step..(from + out.len()).next_multiple_of(step).min(layout.columns);
                unpack_of_panel(isa, layout, lines, row, range, from, out);
            }
        }
    }
}

/// [`Matrix::unpack`] by way of a piece of a row as a file has it.
fn unpack_of_panel(
    isa: Isa,
    layout: &Layout,
    lines: &[u32],
    row: usize,
    columns: Range<usize>,
    from: usize,
    out: &mut [f32],
) {
    let mut words = vec![0; columns.len() * layout.bits() / 32];
    let mut numbers = vec![[0; 2]; columns.len() / layout.group()];
    layout.row(lines, row, columns.clone(), &mut words, &mut numbers);
    let part = |i: usize| numbers.iter().map(|pair| pair[i]).collect::<Vec<u16>>();
    let (scales, biases) = (part(0), part(1));
    let bytes: Vec<u8> = scales.iter().map(|&scale| scale as u8).collect();
    let halves = |values: &'_ [u16]| -> (Vec<f16>, Vec<bf16>) {
        values.iter().map(|&bits| (f16::from_bits(bits), bf16::from_bits(bits))).unzip()
    };
    let (scales, biases) = (halves(&scales), halves(&biases));
    let (scales, biases) = match (layout.scheme.mode, layout.numbers) {
        (Mode::Affine, Dtype::Float16) => (Params::F16(&scales.0), Some(Params::F16(&biases.0))),
        (Mode::Affine, _) => (Params::Bf16(&scales.1), Some(Params::Bf16(&biases.1))),
        (Mode::Nvfp4, _) => (Params::E4m3(&bytes), None),
        _ => (Params::E8m0(&bytes), None),
    };
    let piece = Weights { scheme: layout.scheme, rows: 1, columns: columns.len(), words: &words, scales, biases };
    unpack(isa, &piece, 0, from - columns.start, out);
}

impl<'a> Weights<'a> {
    /// The matrix as panels are made from; its numbers are of 8 or 16 bits.
    pub(super) fn source(&self) -> Source<'a> {
        let halves = |params: &Params<'a>| -> &'a [u16] {
            match *params {
                Params::F16(values) => values.reinterpret_cast(),
                Params::Bf16(values) => values.reinterpret_cast(),
                _ => unreachable!("scales and biases of panels have 16 bits"),
            }
        };
        let numbers = match (self.scales, &self.biases) {
            (Params::E8m0(scales) | Params::E4m3(scales), _) => Numbers::Bytes(scales),
            (scales, Some(biases)) => Numbers::Halves(halves(&scales), halves(biases)),
            _ => unreachable!("affine codes have biases"),
        };
        Source { words: self.words, numbers }
    }
}

/// Puts a matrix into panels, on all threads.
pub(crate) fn arrange(layout: &Layout, source: &Source<'_>, lines: &mut [u32]) {
    assert!(lines.len() >= layout.words());
    let isa = Isa::active().unwrap_or(Isa::Portable);
    let (each, to) = (layout.panel_words(), crate::kernels::gemm::Shared(lines.as_mut_ptr()));
    pool::parallel(layout.panels(), |panel| {
        // SAFETY: panels have places of their own in `lines`.
        let lines = unsafe { std::slice::from_raw_parts_mut(to.get().add(panel * each), each) };
        arrange_one(isa, layout, source, panel, lines);
    });
}

/// [`arrange_panel`] in the instructions of a level.
pub(super) fn arrange_one(isa: Isa, layout: &Layout, source: &Source<'_>, panel: usize, lines: &mut [u32]) {
    #[target_feature(enable = "avx2")]
    fn avx2(layout: &Layout, source: &Source<'_>, panel: usize, lines: &mut [u32]) {
        arrange_panel(layout, source, panel, lines);
    }
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    fn avx512(layout: &Layout, source: &Source<'_>, panel: usize, lines: &mut [u32]) {
        arrange_panel(layout, source, panel, lines);
    }
    assert!(isa <= Isa::best());
    match isa {
        Isa::Portable => arrange_panel(layout, source, panel, lines),
        // SAFETY: the level was checked.
        Isa::Avx2 => unsafe { avx2(layout, source, panel, lines) },
        // SAFETY: the level was checked.
        Isa::Avx512 | Isa::Amx => unsafe { avx512(layout, source, panel, lines) },
    }
}
