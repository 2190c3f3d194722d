//! Quantized matrices in panels: the order in which the CPU's kernels read them.
//!
//! A file keeps a matrix row by row. A product of few rows wants 16 outputs side by side, so a panel holds 16 rows of the matrix,
//! a lane for each, cut into stripes: a line of the scales and biases of one group (two lines, where they have 32 bits; or of the
//! scales of four groups, where these are bytes), then the codes of these groups.
//!
//! Four panels are a band, and their stripes take turns: the first of each, then the second of each, and so on. So a product reads
//! one stream of memory and uses the activations of a group four times before it turns to the next. With a panel for itself, the
//! weights would drive the activations of long rows out of the first-level cache before the next panel asks for them again.
//!
//! The codes of 32 columns and 16 lanes are a unit of as many lines as a code has bits. A line is a 32-bit word for each lane.
//! Codes of 3, 5 and 6 bits are cut into a lower and an upper part, each of which has lines of its own ([`Plane`]), so that no
//! code crosses a word. A line of parts of `width` bits holds `32 / width` columns: byte `i` of a word has, from its lowest bits
//! on, columns `i`, `4 + i`, `8 + i`, ….
//!
//! Nothing is lost: a matrix takes as many bytes as in the file (if its rows are a multiple of 16), and [`Panels::restore`]
//! gives the file's arrays back.

#![allow(
    clippy::inline_always,
    reason = "a body must be compiled inside each level's function to use its instructions"
)]

use std::ops::Range;
use std::slice::ChunksExact;

use mlx_rs::error::Exception;
use mlx_rs::{Array, Dtype};

use super::{Mode, Packed, Scheme};
use crate::fast::by_kernel;
use crate::pages::Arena;
use crate::raw;

/// Rows of a matrix in a panel.
pub(crate) const LANES: usize = 16;
/// Panels of a band; the last one of a matrix may have fewer.
pub(crate) const BAND: usize = 4;
/// Columns of a unit.
pub(crate) const UNIT: usize = 32;
/// 32-bit words of a line.
const LINE: usize = LANES;

/// A quantized matrix, or a stack of them, in panels.
#[derive(Debug, Clone)]
pub struct Panels {
    /// All lines, `u32`: the panels of one matrix after the other.
    pub(crate) lines: Array,
    /// The axis before the matrix, if this is a stack.
    pub(crate) experts: Option<i32>,
    pub(crate) layout: Layout,
}

impl Panels {
    /// Puts a matrix or a stack of matrices into panels in the memory of `arena`; `None` for what does not fit together or is
    /// too large.
    pub(crate) fn arrange(packed: &Packed, scheme: Scheme, arena: &mut Arena) -> Result<Option<Self>, Exception> {
        let Some((experts, layout)) = Layout::of(packed, scheme) else { return Ok(None) };
        let (stacked, each) = (experts.map_or(1, |experts| experts as usize), layout.words());
        let mut room = arena.take(4 * stacked * each)?;
        with_source(packed, layout, stacked, |sources| {
            for (source, lines) in sources.iter().zip(room.words().chunks_exact_mut(each.max(1))) {
                arrange_all(&layout, source, lines);
            }
        })?;
        let lines = room.into_array(&[(stacked * each) as i32], Dtype::Uint32)?;
        Ok(Some(Self { lines, experts, layout }))
    }

    /// The arrays of the file.
    pub fn restore(&self) -> Result<Packed, Exception> {
        let Layout { scheme, rows, columns, .. } = self.layout;
        let (stacked, each) = (self.experts.unwrap_or(1) as usize, self.layout.words());
        let (length, groups) = (scheme.packed_words(columns as i32) as usize, self.layout.groups());
        let mut words = vec![0; stacked * rows * length];
        let mut numbers = vec![[0_u32; 2]; stacked * rows * groups];
        raw::with_bytes(&self.lines, |bytes| {
            for matrix in 0..stacked {
                let lines = words_of(&bytes[4 * matrix * each..][..4 * each]);
                for row in 0..rows {
                    let at = matrix * rows + row;
                    let (words, numbers) = (&mut words[at * length..][..length], &mut numbers[at * groups..]);
                    self.layout.panel(lines, row / LANES).row(row % LANES, words, numbers);
                }
            }
        })?;
        let shape = |last: usize| -> Vec<i32> { self.experts.into_iter().chain([rows as i32, last as i32]).collect() };
        let part = |i: usize| numbers.iter().map(move |pair| pair[i]);
        let shape_of_numbers = shape(groups);
        let floats = |i: usize| match self.layout.numbers {
            Dtype::Float32 => Array::from_slice(&part(i).map(f32::from_bits).collect::<Vec<_>>(), &shape_of_numbers),
            Dtype::Float16 => {
                let halves: Vec<_> = part(i).map(|bits| half::f16::from_bits(bits as u16)).collect();
                Array::from_slice(&halves, &shape_of_numbers)
            }
            _ => {
                let halves: Vec<_> = part(i).map(|bits| half::bf16::from_bits(bits as u16)).collect();
                Array::from_slice(&halves, &shape_of_numbers)
            }
        };
        let weight = Array::from_slice(&words, &shape(length));
        Ok(if scheme.mode == Mode::Affine {
            Packed { weight, scales: floats(0), biases: Some(floats(1)) }
        } else {
            let scales: Vec<u8> = part(0).map(|scale| scale as u8).collect();
            Packed { weight, scales: Array::from_slice(&scales, &shape_of_numbers), biases: None }
        })
    }

    /// The scheme of the codes.
    pub fn scheme(&self) -> Scheme {
        self.layout.scheme
    }

    /// `[…, out, in]` before packing.
    pub fn shape(&self) -> Vec<i32> {
        self.experts.into_iter().chain([self.layout.rows as i32, self.layout.columns as i32]).collect()
    }

    /// The bytes that the matrix takes in a file.
    pub fn nbytes(&self) -> usize {
        let Layout { scheme, rows, columns, .. } = self.layout;
        let numbers = match self.layout.numbers {
            Dtype::Float32 => 8,
            Dtype::Uint8 => 1,
            _ => 4,
        };
        let row = columns * scheme.bits as usize / 8 + self.layout.groups() * numbers;
        self.experts.unwrap_or(1) as usize * rows * row
    }

    /// The type that results have where the input is of this type too.
    pub fn dtype(&self) -> Dtype {
        if self.layout.numbers == Dtype::Uint8 { Dtype::Bfloat16 } else { self.layout.numbers }
    }

    /// As [`super::quantized_matmul`].
    #[track_caller]
    pub fn matmul(&self, x: &Array, transpose: bool) -> Result<Array, Exception> {
        by_kernel!(crate::kernels::panels_matmul(x, self, transpose));
        super::quantized_matmul(x, &self.restore()?, self.layout.scheme, transpose)
    }

    /// `x @ w.T` for several matrices at once, which is faster than one by one where few rows meet them.
    #[track_caller]
    pub fn matmuls(x: &Array, all: &[&Self]) -> Result<Vec<Array>, Exception> {
        by_kernel!(crate::kernels::panels_matmuls(x, all));
        all.iter().map(|w| w.matmul(x, true)).collect()
    }

    /// As [`super::gather_quantized_matmul`].
    #[track_caller]
    pub fn gather_matmul(&self, x: &Array, indices: &Array, sorted: bool) -> Result<Array, Exception> {
        by_kernel!(crate::kernels::gather_panels_matmul(x, self, indices));
        super::gather_quantized_matmul(x, &self.restore()?, self.layout.scheme, indices, sorted)
    }

    /// As [`super::quantized_rows`].
    #[track_caller]
    pub fn rows(&self, ids: &Array) -> Result<Array, Exception> {
        by_kernel!(crate::kernels::panels_rows(self, ids));
        super::quantized_rows(&self.restore()?, self.layout.scheme, ids)
    }
}

/// What of a code lies in which lines of a unit.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plane {
    /// Bits of this part, and lines of the plane in a unit.
    pub(crate) width: usize,
    /// The lowest bit of a code that is in it.
    pub(crate) from: usize,
}

/// The planes of codes of so many bits, in the order of their lines.
pub(crate) const fn planes(bits: usize) -> &'static [Plane] {
    match bits {
        2 => &[Plane { width: 2, from: 0 }],
        3 => &[Plane { width: 2, from: 0 }, Plane { width: 1, from: 2 }],
        4 => &[Plane { width: 4, from: 0 }],
        5 => &[Plane { width: 4, from: 0 }, Plane { width: 1, from: 4 }],
        6 => &[Plane { width: 4, from: 0 }, Plane { width: 2, from: 4 }],
        _ => &[Plane { width: 8, from: 0 }],
    }
}

/// Where a column of a unit lies in a plane: the line, and the bit in its words.
pub(crate) const fn place(width: usize, column: usize) -> (usize, usize) {
    let in_line = column % (UNIT / width);
    (column / (UNIT / width), in_line % 4 * 8 + in_line / 4 * width)
}

/// The sizes of one matrix in panels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) scheme: Scheme,
    /// Of scales and biases: a type of floats, and `Uint8` for scales without biases.
    pub(crate) numbers: Dtype,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
}

impl Layout {
    /// The layout of a matrix or of each matrix of a stack, and the size of the stack; `None` for what panels are not made
    /// for, or does not fit together.
    fn of(packed: &Packed, scheme: Scheme) -> Option<(Option<i32>, Self)> {
        let (weight, scales) = (packed.weight.shape(), packed.scales.shape());
        let (&[.., rows, words], &[.., of_rows, groups]) = (weight, scales) else { return None };
        let numbers = match (&packed.biases, scheme.mode, packed.scales.dtype()) {
            (Some(biases), Mode::Affine, dtype @ (Dtype::Float32 | Dtype::Float16 | Dtype::Bfloat16))
                if biases.dtype() == dtype && biases.shape() == scales =>
            {
                dtype
            }
            (None, Mode::Mxfp4 | Mode::Mxfp8 | Mode::Nvfp4, Dtype::Uint8) => Dtype::Uint8,
            _ => return None,
        };
        let columns = groups.checked_mul(scheme.group_size)?;
        let fits = weight.len() == scales.len()
            && matches!(weight.len(), 2 | 3)
            && weight[..weight.len() - 2] == scales[..scales.len() - 2]
            && rows == of_rows
            && rows > 0
            && groups > 0
            && words == scheme.packed_words(columns)
            && packed.weight.dtype() == Dtype::Uint32
            && Scheme::new(scheme.mode, scheme.bits, scheme.group_size).is_ok();
        let experts = (weight.len() == 3).then(|| weight[0]);
        let layout = Self { scheme, numbers, rows: rows as usize, columns: columns as usize };
        let words = layout.words().checked_mul(experts.unwrap_or(1) as usize)?;
        (fits && i32::try_from(words).is_ok()).then_some((experts, layout))
    }

    pub(crate) fn bits(&self) -> usize {
        self.scheme.bits as usize
    }

    pub(crate) fn group(&self) -> usize {
        self.scheme.group_size as usize
    }

    /// Groups in a row.
    pub(crate) fn groups(&self) -> usize {
        self.group_of(self.columns)
    }

    /// The group of a column. Groups are powers of two, and a shift is a tenth of a division.
    pub(crate) fn group_of(&self, column: usize) -> usize {
        column >> self.group().trailing_zeros()
    }

    pub(crate) fn panels(&self) -> usize {
        self.rows.div_ceil(LANES)
    }

    /// Groups whose scales share a line.
    pub(crate) fn stripe_groups(&self) -> usize {
        if self.scheme.mode == Mode::Affine { 1 } else { 4 }
    }

    /// Lines of scales and biases that begin a stripe.
    pub(crate) fn number_lines(&self) -> usize {
        if self.numbers == Dtype::Float32 { 2 } else { 1 }
    }

    /// 32-bit words of a stripe.
    pub(crate) fn stripe_words(&self) -> usize {
        LINE * (self.number_lines() + self.stripe_groups() * self.group() * self.bits() / UNIT)
    }

    /// 32-bit words of a panel.
    pub(crate) fn panel_words(&self) -> usize {
        self.groups().div_ceil(self.stripe_groups()) * self.stripe_words()
    }

    /// 32-bit words of the matrix.
    pub(crate) fn words(&self) -> usize {
        self.panels() * self.panel_words()
    }

    pub(crate) fn bands(&self) -> usize {
        self.panels().div_ceil(BAND)
    }

    /// The panels of a band.
    pub(crate) fn panels_of(&self, band: usize) -> Range<usize> {
        band * BAND..self.panels().min((band + 1) * BAND)
    }

    /// A band of the matrix in `lines`.
    pub(crate) fn band<'a>(&self, lines: &'a [u32], band: usize) -> Band<'a> {
        let panels = self.panels_of(band);
        let each = self.panel_words();
        Band { layout: *self, panels: panels.len(), lines: &lines[panels.start * each..panels.end * each] }
    }

    /// A panel of the matrix in `lines`.
    pub(crate) fn panel<'a>(&self, lines: &'a [u32], panel: usize) -> Panel<'a> {
        self.band(lines, panel / BAND).panel(panel % BAND)
    }
}

/// Panels whose stripes take turns.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Band<'a> {
    pub(crate) layout: Layout,
    pub(crate) panels: usize,
    pub(crate) lines: &'a [u32],
}

impl<'a> Band<'a> {
    /// For each stripe those of all panels.
    pub(crate) fn stripes(&self) -> ChunksExact<'a, u32> {
        self.lines.chunks_exact(self.panels * self.layout.stripe_words())
    }

    pub(crate) fn panel(&self, panel: usize) -> Panel<'a> {
        let each = self.layout.stripe_words();
        Panel { layout: self.layout, step: self.panels * each, lines: &self.lines[panel * each..] }
    }
}

/// One panel, among the others of its band.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Panel<'a> {
    pub(crate) layout: Layout,
    /// Words from a stripe to the next.
    step: usize,
    lines: &'a [u32],
}

impl<'a> Panel<'a> {
    /// The lines that have a group's numbers, and which of four in them they are.
    #[inline(always)]
    pub(crate) fn numbers(&self, group: usize) -> (&'a [u32], usize) {
        let width = self.layout.stripe_groups();
        let stripe = group >> width.trailing_zeros();
        (&self.lines[stripe * self.step..][..LINE * self.layout.number_lines()], group & (width - 1))
    }

    /// The lines of a unit.
    #[inline(always)]
    pub(crate) fn unit(&self, unit: usize) -> &'a [u32] {
        let (layout, bits) = (&self.layout, self.layout.bits());
        let each = layout.stripe_groups() * layout.group() / UNIT;
        let at = layout.number_lines() + (unit & (each - 1)) * bits;
        &self.lines[(unit >> each.trailing_zeros()) * self.step + LINE * at..][..LINE * bits]
    }

    /// Writes a row of the matrix as a file has it: words of codes, and for each group the bits of scale and bias.
    pub(crate) fn row(&self, lane: usize, words: &mut [u32], numbers: &mut [[u32; 2]]) {
        let bits = self.layout.bits();
        for (group, numbers) in (0..self.layout.groups()).zip(numbers) {
            let (line, which) = self.numbers(group);
            let half = |i: usize| line[i / 2] >> (16 * (i % 2)) & 0xFFFF;
            let byte = |i: usize| line[i / 4] >> (8 * (i % 4)) & 0xFF;
            *numbers = match self.layout.numbers {
                Dtype::Float32 => [line[lane], line[LANES + lane]],
                Dtype::Uint8 => [byte(LANES * which + lane), 0],
                _ => [half(lane), half(LANES + lane)],
            };
        }
        words.fill(0);
        for column in 0..self.layout.columns {
            let unit = self.unit(column / UNIT);
            let mut first = 0;
            let mut code = 0_u64;
            for plane in planes(bits) {
                let (line, shift) = place(plane.width, column % UNIT);
                let word = unit[(first + line) * LINE + lane];
                code |= u64::from(word >> shift & ((1 << plane.width) - 1)) << plane.from;
                first += plane.width;
            }
            let at = column * bits;
            code <<= at % 32;
            words[at / 32] |= code as u32;
            if at % 32 + bits > 32 {
                words[at / 32 + 1] |= (code >> 32) as u32;
            }
        }
    }
}

/// A matrix as a file has it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Source<'a> {
    /// The words of all rows.
    pub(crate) words: &'a [u32],
    pub(crate) numbers: Numbers<'a>,
}

/// The scales and biases of all rows.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Numbers<'a> {
    /// The bits of 32-bit floats: scales, biases.
    Floats(&'a [u32], &'a [u32]),
    /// Those of 16-bit floats.
    Halves(&'a [u16], &'a [u16]),
    /// Scales alone, as bytes.
    Bytes(&'a [u8]),
}

/// Arranges a whole matrix.
fn arrange_all(layout: &Layout, source: &Source<'_>, lines: &mut [u32]) {
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    crate::kernels::arrange(layout, source, lines);
    #[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
    for (band, lines) in lines.chunks_mut(BAND * layout.panel_words()).enumerate() {
        arrange_band(layout, source, band, lines);
    }
}

/// Writes one band; lanes without a row are zero. Loops over lanes are what compilers make vectors of.
#[inline(always)]
pub(crate) fn arrange_band(layout: &Layout, source: &Source<'_>, band: usize, lines: &mut [u32]) {
    match layout.bits() {
        2 => arrange_bits::<2>(layout, source, band, lines),
        3 => arrange_bits::<3>(layout, source, band, lines),
        4 => arrange_bits::<4>(layout, source, band, lines),
        5 => arrange_bits::<5>(layout, source, band, lines),
        6 => arrange_bits::<6>(layout, source, band, lines),
        _ => arrange_bits::<8>(layout, source, band, lines),
    }
}

#[inline(always)]
fn arrange_bits<const BITS: usize>(layout: &Layout, source: &Source<'_>, band: usize, lines: &mut [u32]) {
    let (panels, each) = (layout.panels_of(band), layout.stripe_words());
    for (i, panel) in panels.clone().enumerate() {
        let rows = panel * LANES..layout.rows.min((panel + 1) * LANES);
        for (stripe, lines) in lines.chunks_exact_mut(panels.len() * each).enumerate() {
            let (numbers, codes) = lines[i * each..][..each].split_at_mut(layout.number_lines() * LINE);
            arrange_numbers(layout, source, &rows, stripe, numbers);
            arrange_codes::<BITS>(layout, source, &rows, stripe, codes);
        }
    }
}

/// The scales and biases of a stripe.
#[inline(always)]
fn arrange_numbers(layout: &Layout, source: &Source<'_>, rows: &Range<usize>, stripe: usize, line: &mut [u32]) {
    let groups = layout.groups();
    line.fill(0);
    match source.numbers {
        Numbers::Floats(scales, biases) => {
            for (lane, row) in rows.clone().enumerate() {
                let at = row * groups + stripe;
                (line[lane], line[LANES + lane]) = (scales[at], biases[at]);
            }
        }
        Numbers::Halves(scales, biases) => {
            for (lane, row) in rows.clone().enumerate() {
                let at = row * groups + stripe;
                line[lane / 2] |= u32::from(scales[at]) << (16 * (lane % 2));
                line[LANES / 2 + lane / 2] |= u32::from(biases[at]) << (16 * (lane % 2));
            }
        }
        Numbers::Bytes(scales) => {
            let from = stripe * layout.stripe_groups();
            for (which, group) in (from..groups.min(from + layout.stripe_groups())).enumerate() {
                for (lane, row) in rows.clone().enumerate() {
                    line[(LANES * which + lane) / 4] |= u32::from(scales[row * groups + group]) << (8 * (lane % 4));
                }
            }
        }
    }
}

/// The codes of a stripe.
#[inline(always)]
fn arrange_codes<const BITS: usize>(
    layout: &Layout,
    source: &Source<'_>,
    rows: &Range<usize>,
    stripe: usize,
    lines: &mut [u32],
) {
    let length = layout.columns * BITS / 32;
    let each = layout.stripe_groups() * layout.group() / UNIT;
    for (unit, lines) in (stripe * each..).zip(lines.chunks_exact_mut(BITS * LINE)) {
        let mut words = [[0_u32; LANES]; BITS];
        // A row may end with half a unit, and a stripe behind a row's end.
        let here = length.min(unit * BITS)..length.min((unit + 1) * BITS);
        for (lane, row) in rows.clone().enumerate() {
            for (words, word) in words.iter_mut().zip(&source.words[row * length..][here.clone()]) {
                words[lane] = *word;
            }
        }
        let arranged = arrange_unit(&words);
        for (to, line) in lines.chunks_exact_mut(LINE).zip(&arranged) {
            to.copy_from_slice(line);
        }
    }
}

/// The lines of a unit from the words of its rows.
#[inline(always)]
fn arrange_unit<const BITS: usize>(words: &[[u32; LANES]; BITS]) -> [[u32; LANES]; BITS] {
    let mut lines = [[0; LANES]; BITS];
    for column in 0..UNIT {
        let (word, shift) = (column * BITS / 32, column * BITS % 32);
        let mut code = words[word].map(|word| word >> shift);
        if shift + BITS > 32 {
            for (code, next) in code.iter_mut().zip(&words[word + 1]) {
                *code |= next << (32 - shift);
            }
        }
        let mut first = 0;
        for plane in planes(BITS) {
            let (line, at) = place(plane.width, column);
            for (to, code) in lines[first + line].iter_mut().zip(&code) {
                *to |= (code >> plane.from & ((1 << plane.width) - 1)) << at;
            }
            first += plane.width;
        }
    }
    lines
}

/// Calls `body` with the matrices of a stack as a file has them.
fn with_source<T>(
    packed: &Packed,
    layout: Layout,
    stacked: usize,
    body: impl FnOnce(&[Source<'_>]) -> T,
) -> Result<T, Exception> {
    let biases = packed.biases.as_ref().unwrap_or(&packed.scales);
    raw::with_bytes(&packed.weight, |words| {
        raw::with_bytes(&packed.scales, |scales| {
            raw::with_bytes(biases, |biases| {
                let (words, each) = (words_of(words), layout.rows * layout.columns * layout.bits() / 32);
                let numbers = layout.rows * layout.groups();
                let source = |i: usize| Source {
                    words: &words[i * each..][..each],
                    numbers: match layout.numbers {
                        Dtype::Float32 => Numbers::Floats(
                            &words_of(scales)[i * numbers..][..numbers],
                            &words_of(biases)[i * numbers..][..numbers],
                        ),
                        Dtype::Uint8 => Numbers::Bytes(&scales[i * numbers..][..numbers]),
                        _ => Numbers::Halves(
                            &halves_of(scales)[i * numbers..][..numbers],
                            &halves_of(biases)[i * numbers..][..numbers],
                        ),
                    },
                };
                body(&(0..stacked).map(source).collect::<Vec<_>>())
            })
        })
    })??
}

/// The bytes of an array of words as these.
#[allow(unsafe_code, reason = "bytes of a buffer that was made for words")]
fn words_of(bytes: &[u8]) -> &[u32] {
    // SAFETY: any bytes are words; what is not aligned would be left out, and is looked at.
    let (before, words, after) = unsafe { bytes.align_to() };
    assert!(before.is_empty() && after.is_empty(), "arrays of words are aligned");
    words
}

/// The bytes of an array of 16-bit numbers as these.
#[allow(unsafe_code, reason = "bytes of a buffer that was made for halves")]
fn halves_of(bytes: &[u8]) -> &[u16] {
    // SAFETY: as above.
    let (before, halves, after) = unsafe { bytes.align_to() };
    assert!(before.is_empty() && after.is_empty(), "arrays of 16-bit numbers are aligned");
    halves
}
