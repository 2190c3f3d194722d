//! A quantized matrix as an operation finds it in memory: in the rows of a file, or in panels.

use std::thread::LocalKey;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use mlx_rs::Dtype;

use super::panel::{self, Part};
use super::unpack::unpack;
use super::weights::{Params, Storage, Weights};
use crate::kernels::gemm::Shared;
use crate::kernels::isa::Isa;
use crate::kernels::pool;
use crate::kernels::primitive::View;
use crate::kernels::scratch::{Scratch, with_scratch, words_of};
use crate::quant::panels::{Band, Layout, Numbers, Source, arrange_band};
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

    /// Calls `body` with a band, which is made in `room` if it is not there.
    pub(super) fn with_band<T>(
        &self,
        isa: Isa,
        band: usize,
        room: &'static LocalKey<Scratch>,
        body: impl FnOnce(&Band<'_>) -> T,
    ) -> T {
        let layout = self.layout();
        match self {
            Self::Panels(_, lines) => body(&layout.band(lines, band)),
            Self::Rows(w) => {
                let panels = layout.panels_of(band).len();
                with_scratch(room, panels * layout.panel_words(), |room| {
                    let lines = words_of(room);
                    arrange_one(isa, &layout, &w.source(), band, lines);
                    body(&Band { layout, panels, lines })
                })
            }
        }
    }

    /// The layout that this matrix has, or would have, in panels.
    pub(super) fn layout(&self) -> Layout {
        match self {
            Self::Panels(layout, _) => *layout,
            Self::Rows(w) => {
                let numbers = match w.scales {
                    Params::F32(_) => Dtype::Float32,
                    Params::F16(_) => Dtype::Float16,
                    Params::Bf16(_) => Dtype::Bfloat16,
                    Params::E8m0(_) | Params::E4m3(_) => Dtype::Uint8,
                };
                Layout { scheme: w.scheme, numbers, rows: w.rows, columns: w.columns }
            }
        }
    }

    /// Whether codes are 8-bit floats.
    pub(super) fn is_mxfp8(&self) -> bool {
        self.layout().scheme.mode == Mode::Mxfp8
    }

    /// Writes a part of the weights as f32.
    pub(super) fn unpack(&self, isa: Isa, part: &Part, out: &mut [f32]) {
        match self {
            Self::Rows(w) => {
                for (row, out) in part.rows.clone().zip(out.chunks_exact_mut(part.width)) {
                    unpack(isa, w, row, part.columns.start, &mut out[..part.columns.len()]);
                }
            }
            Self::Panels(layout, lines) => panel::unpack(isa, layout, lines, part, out),
        }
    }
}

/// A number of a type of floats from its bits.
pub(super) fn float_of(dtype: Dtype, bits: u32) -> f32 {
    match dtype {
        Dtype::Float32 => f32::from_bits(bits),
        Dtype::Float16 => f16::from_bits(bits as u16).to_f32(),
        _ => bf16::from_bits(bits as u16).to_f32(),
    }
}

impl<'a> Weights<'a> {
    /// The matrix as panels are made from.
    pub(super) fn source(&self) -> Source<'a> {
        let numbers = match (self.scales, self.biases) {
            (Params::E8m0(scales) | Params::E4m3(scales), None) => Numbers::Bytes(scales),
            (Params::F32(scales), Some(Params::F32(biases))) => Numbers::Floats(bits_of(scales), bits_of(biases)),
            (Params::F16(scales), Some(Params::F16(biases))) => {
                Numbers::Halves(scales.reinterpret_cast(), biases.reinterpret_cast())
            }
            (Params::Bf16(scales), Some(Params::Bf16(biases))) => {
                Numbers::Halves(scales.reinterpret_cast(), biases.reinterpret_cast())
            }
            _ => unreachable!("scales and biases are of one type"),
        };
        Source { words: self.words, numbers }
    }
}

fn bits_of(values: &[f32]) -> &[u32] {
    // SAFETY: any 32 bits are a word, and the alignments are the same.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), values.len()) }
}

/// Puts a matrix into panels, on all threads.
pub(crate) fn arrange(layout: &Layout, source: &Source<'_>, lines: &mut [u32]) {
    assert!(lines.len() >= layout.words());
    let isa = Isa::active().unwrap_or(Isa::Portable);
    let (each, to) = (layout.panel_words(), Shared(lines.as_mut_ptr()));
    pool::parallel(layout.bands(), |band| {
        let panels = layout.panels_of(band);
        // SAFETY: bands have places of their own in `lines`.
        let lines = unsafe { std::slice::from_raw_parts_mut(to.get().add(panels.start * each), panels.len() * each) };
        arrange_one(isa, layout, source, band, lines);
    });
}

/// [`arrange_band`] in the instructions of a level.
fn arrange_one(isa: Isa, layout: &Layout, source: &Source<'_>, band: usize, lines: &mut [u32]) {
    #[target_feature(enable = "avx2")]
    fn avx2(layout: &Layout, source: &Source<'_>, band: usize, lines: &mut [u32]) {
        arrange_band(layout, source, band, lines);
    }
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    fn avx512(layout: &Layout, source: &Source<'_>, band: usize, lines: &mut [u32]) {
        arrange_band(layout, source, band, lines);
    }
    assert!(isa <= Isa::best());
    match isa {
        Isa::Portable => arrange_band(layout, source, band, lines),
        // SAFETY: the level was checked.
        Isa::Avx2 => unsafe { avx2(layout, source, band, lines) },
        // SAFETY: the level was checked.
        Isa::Avx512 | Isa::Amx => unsafe { avx512(layout, source, band, lines) },
    }
}
