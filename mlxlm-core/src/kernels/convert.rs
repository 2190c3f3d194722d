//! Between the floating-point types of arrays and the f32 that kernels compute in.

use std::arch::x86_64::*;
use std::ops::Range;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use mlx_rs::Dtype;

use super::isa::Isa;
use super::pool;
use super::primitive::{View, ViewMut};

/// Values that one task converts.
const STEP: usize = 1 << 15;

/// A pointer for tasks that read or write different parts.
use super::gemm::Shared;

/// The values of a floating-point view in row-major order, to be read as f32 in parts.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Values<'a> {
    F32(&'a [f32]),
    F16(&'a [f16]),
    Bf16(&'a [bf16]),
}

/// Room for a copy of a view that is not contiguous.
#[derive(Debug, Default)]
pub(crate) struct Copies(Vec<f32>, Vec<f16>, Vec<bf16>);

impl<'a> Values<'a> {
    pub(crate) fn new(view: &View<'a>, copies: &'a mut Copies) -> Self {
        match view.dtype {
            Dtype::Float32 => Self::F32(view.contiguous(&mut copies.0)),
            Dtype::Float16 => Self::F16(view.contiguous(&mut copies.1)),
            Dtype::Bfloat16 => Self::Bf16(view.contiguous(&mut copies.2)),
            other => unreachable!("kernels do not read {other:?} as numbers"),
        }
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Self::F32(v) => v.len(),
            Self::F16(v) => v.len(),
            Self::Bf16(v) => v.len(),
        }
    }

    /// Whether others are of the same type.
    pub(crate) fn is_like(&self, others: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(others)
    }

    /// The values of a range.
    pub(crate) fn slice(&self, range: Range<usize>) -> Self {
        match self {
            Self::F32(v) => Self::F32(&v[range]),
            Self::F16(v) => Self::F16(&v[range]),
            Self::Bf16(v) => Self::Bf16(&v[range]),
        }
    }

    /// The rows of `len` values with these numbers, one after the other: in place if they lie so, else in `room`.
    pub(crate) fn rows(&self, len: usize, numbers: &[usize], room: &'a mut Copies) -> Self {
        let whole = numbers.len() * len == self.len() && numbers.iter().enumerate().all(|(i, &number)| i == number);
        match self {
            _ if whole => *self,
            Self::F32(v) => Self::F32(gathered(v, len, numbers, &mut room.0)),
            Self::F16(v) => Self::F16(gathered(v, len, numbers, &mut room.1)),
            Self::Bf16(v) => Self::Bf16(gathered(v, len, numbers, &mut room.2)),
        }
    }

    /// Reads the values from `from` on.
    pub(crate) fn read(&self, isa: Isa, from: usize, out: &mut [f32]) {
        let to = from + out.len();
        match self {
            Self::F32(v) => out.copy_from_slice(&v[from..to]),
            Self::F16(v) => from_f16(isa, &v[from..to], out),
            Self::Bf16(v) => from_bf16(isa, &v[from..to], out),
        }
    }

    /// The values `from..to`: in place if they are f32, else in `room`.
    pub(crate) fn part<'b>(&self, isa: Isa, from: usize, to: usize, room: &'b mut [f32]) -> &'b [f32]
    where
        'a: 'b,
    {
        if let Self::F32(v) = self {
            return &v[from..to];
        }
        let room = &mut room[..to - from];
        self.read(isa, from, room);
        room
    }
}

fn gathered<'a, T: Copy>(values: &[T], len: usize, numbers: &[usize], room: &'a mut Vec<T>) -> &'a [T] {
    room.clear();
    room.reserve_exact(numbers.len() * len);
    for number in numbers {
        room.extend_from_slice(&values[number * len..][..len]);
    }
    room
}

/// A floating-point output that tasks fill in parts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Results {
    dtype: Dtype,
    len: usize,
    data: Shared<u8>,
}

impl Results {
    pub(crate) fn new(view: &mut ViewMut<'_>) -> Self {
        Self { dtype: view.dtype, len: view.len(), data: Shared(view.as_mut_bytes().as_mut_ptr()) }
    }

    /// One of so many parts of equal length.
    pub(crate) fn part_of(&self, part: usize, parts: usize) -> Self {
        assert!(part < parts && self.len % parts == 0);
        let (len, size) = (self.len / parts, if self.dtype == Dtype::Float32 { 4 } else { 2 });
        // SAFETY: the part is inside the output.
        let data = unsafe { self.data.get().add(part * len * size) };
        Self { len, data: Shared(data), ..*self }
    }

    /// Lets `fill` write the results `from..to` as f32: in place if they are f32, else by way of `room`.
    ///
    /// # Safety
    /// No two tasks may write the same results.
    pub(crate) unsafe fn part(
        &self,
        isa: Isa,
        from: usize,
        to: usize,
        room: &mut [f32],
        fill: impl FnOnce(&mut [f32]),
    ) {
        assert!(from <= to && to <= self.len);
        // SAFETY: the range is inside the output, and the caller has it alone.
        unsafe {
            if self.dtype == Dtype::Float32 {
                return fill(std::slice::from_raw_parts_mut(self.data.get().cast::<f32>().add(from), to - from));
            }
            let room = &mut room[..to - from];
            fill(room);
            let at = self.data.get().cast::<u16>().add(from);
            if self.dtype == Dtype::Float16 {
                to_f16(isa, room, std::slice::from_raw_parts_mut(at.cast(), to - from));
            } else {
                to_bf16(isa, room, std::slice::from_raw_parts_mut(at.cast(), to - from));
            }
        }
    }

    /// Writes f32 values from `from` on.
    ///
    /// # Safety
    /// No two tasks may write the same results.
    pub(crate) unsafe fn write(&self, isa: Isa, from: usize, values: &mut [f32]) {
        let to = from + values.len();
        if self.dtype == Dtype::Float32 {
            // SAFETY: passed on from the caller.
            unsafe { self.part(isa, from, to, &mut [], |out| out.copy_from_slice(values)) };
        } else {
            // SAFETY: passed on from the caller.
            unsafe { self.part(isa, from, to, values, |_| ()) };
        }
    }

    /// As [`Results::write`]; `values` become what was written, rounded to the type of the results.
    ///
    /// # Safety
    /// As there.
    pub(crate) unsafe fn write_back(&self, isa: Isa, from: usize, values: &mut [f32]) {
        // SAFETY: passed on from the caller; the values were written, and nobody else writes them.
        unsafe {
            self.write(isa, from, values);
            let at = self.data.get().cast::<u16>().wrapping_add(from);
            match self.dtype {
                Dtype::Float16 => from_f16(isa, std::slice::from_raw_parts(at.cast(), values.len()), values),
                Dtype::Bfloat16 => from_bf16(isa, std::slice::from_raw_parts(at.cast(), values.len()), values),
                _ => {}
            }
        }
    }
}

/// Reads a floating-point view in row-major order.
pub(crate) fn read(isa: Isa, view: &View<'_>, out: &mut [f32]) {
    assert_eq!(view.len(), out.len());
    let to = Shared(out.as_mut_ptr());
    // SAFETY: tasks get different ranges inside `out`.
    let part = |from: usize, end: usize| unsafe { std::slice::from_raw_parts_mut(to.get().add(from), end - from) };
    match view.dtype {
        Dtype::Float32 => {
            let mut buffer = Vec::new();
            let values = view.contiguous::<f32>(&mut buffer);
            in_parts(values.len(), |from, end| part(from, end).copy_from_slice(&values[from..end]));
        }
        Dtype::Bfloat16 => {
            let mut buffer = Vec::new();
            let values = view.contiguous::<bf16>(&mut buffer);
            in_parts(values.len(), |from, end| from_bf16(isa, &values[from..end], part(from, end)));
        }
        Dtype::Float16 => {
            let mut buffer = Vec::new();
            let values = view.contiguous::<f16>(&mut buffer);
            in_parts(values.len(), |from, end| from_f16(isa, &values[from..end], part(from, end)));
        }
        other => unreachable!("kernels do not read {other:?} as numbers"),
    }
}

/// Writes f32 values to a floating-point output, rounded to nearest, ties to even.
pub(crate) fn write(isa: Isa, values: &[f32], out: &mut ViewMut<'_>) {
    match out.dtype {
        Dtype::Float32 => out.as_mut_slice().copy_from_slice(values),
        Dtype::Bfloat16 => {
            let to = Shared(out.as_mut_slice::<bf16>().as_mut_ptr());
            in_parts(values.len(), |from, end| {
                // SAFETY: tasks get different ranges of the output.
                let part = unsafe { std::slice::from_raw_parts_mut(to.get().add(from), end - from) };
                to_bf16(isa, &values[from..end], part);
            });
        }
        Dtype::Float16 => {
            let to = Shared(out.as_mut_slice::<f16>().as_mut_ptr());
            in_parts(values.len(), |from, end| {
                // SAFETY: tasks get different ranges of the output.
                let part = unsafe { std::slice::from_raw_parts_mut(to.get().add(from), end - from) };
                to_f16(isa, &values[from..end], part);
            });
        }
        other => unreachable!("kernels do not write {other:?}"),
    }
}

fn in_parts(len: usize, body: impl Fn(usize, usize) + Sync) {
    pool::parallel_ranges(len, 64, len.div_ceil(STEP), body);
}

/// Widens; exact.
pub(crate) fn from_bf16(isa: Isa, values: &[bf16], out: &mut [f32]) {
    assert_eq!(values.len(), out.len());
    if isa < Isa::Avx512 {
        return values.iter().zip(out).for_each(|(v, out)| *out = v.to_f32());
    }
    // SAFETY: callers pass a level that the machine has.
    unsafe { widen_bf16(values, out) }
}

/// Widens; exact.
pub(crate) fn from_f16(isa: Isa, values: &[f16], out: &mut [f32]) {
    assert_eq!(values.len(), out.len());
    if isa < Isa::Avx512 {
        return values.convert_to_f32_slice(out);
    }
    // SAFETY: callers pass a level that the machine has.
    unsafe { widen_f16(values, out) }
}

/// Rounds to nearest, ties to even.
pub(crate) fn to_bf16(isa: Isa, values: &[f32], out: &mut [bf16]) {
    assert_eq!(values.len(), out.len());
    if isa < Isa::Avx512 {
        return values.iter().zip(out).for_each(|(v, out)| *out = bf16::from_f32(*v));
    }
    // SAFETY: callers pass a level that the machine has.
    unsafe { narrow_bf16(values, out) }
}

/// Rounds to nearest, ties to even.
pub(crate) fn to_f16(isa: Isa, values: &[f32], out: &mut [f16]) {
    assert_eq!(values.len(), out.len());
    if isa < Isa::Avx512 {
        return out.convert_from_f32_slice(values);
    }
    // SAFETY: callers pass a level that the machine has.
    unsafe { narrow_f16(values, out) }
}

/// 16 bf16 values as f32.
#[target_feature(enable = "avx512f")]
pub(crate) fn bf16_lanes(bits: __m256i) -> __m512 {
    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(bits)))
}

/// 16 f32 values as bf16. In integers, because the instruction for it takes subnormal numbers for zero.
#[target_feature(enable = "avx512f")]
pub(crate) fn to_bf16_lanes(v: __m512) -> __m256i {
    let bits = _mm512_castps_si512(v);
    let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
    let rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF)));
    let quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x0040_0000));
    let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(v, v);
    _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(_mm512_mask_mov_epi32(rounded, nan, quiet)))
}

/// To nearest, ties to even.
const ROUND: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;

#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn widen_bf16(values: &[bf16], out: &mut [f32]) {
    let whole = values.len() / 16 * 16;
    // SAFETY: whole vectors and masked lanes are inside the slices.
    unsafe {
        for i in (0..whole).step_by(16) {
            let v = _mm256_loadu_si256(values.as_ptr().add(i).cast());
            _mm512_storeu_ps(out.as_mut_ptr().add(i).cast(), bf16_lanes(v));
        }
        // Masked loads and stores are slow on some machines.
        if whole < values.len() {
            let mask = (1 << (values.len() - whole)) - 1;
            let v = _mm256_maskz_loadu_epi16(mask, values.as_ptr().add(whole).cast());
            _mm512_mask_storeu_ps(out.as_mut_ptr().add(whole).cast(), mask, bf16_lanes(v));
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn widen_f16(values: &[f16], out: &mut [f32]) {
    let whole = values.len() / 16 * 16;
    // SAFETY: whole vectors and masked lanes are inside the slices.
    unsafe {
        for i in (0..whole).step_by(16) {
            let v = _mm256_loadu_si256(values.as_ptr().add(i).cast());
            _mm512_storeu_ps(out.as_mut_ptr().add(i).cast(), _mm512_cvtph_ps(v));
        }
        // Masked loads and stores are slow on some machines.
        if whole < values.len() {
            let mask = (1 << (values.len() - whole)) - 1;
            let v = _mm256_maskz_loadu_epi16(mask, values.as_ptr().add(whole).cast());
            _mm512_mask_storeu_ps(out.as_mut_ptr().add(whole).cast(), mask, _mm512_cvtph_ps(v));
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn narrow_bf16(values: &[f32], out: &mut [bf16]) {
    let whole = values.len() / 16 * 16;
    // SAFETY: whole vectors and masked lanes are inside the slices.
    unsafe {
        for i in (0..whole).step_by(16) {
            let v = _mm512_loadu_ps(values.as_ptr().add(i).cast());
            _mm256_storeu_si256(out.as_mut_ptr().add(i).cast(), to_bf16_lanes(v));
        }
        // Masked loads and stores are slow on some machines.
        if whole < values.len() {
            let mask = (1 << (values.len() - whole)) - 1;
            let v = _mm512_maskz_loadu_ps(mask, values.as_ptr().add(whole).cast());
            _mm256_mask_storeu_epi16(out.as_mut_ptr().add(whole).cast(), mask, to_bf16_lanes(v));
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn narrow_f16(values: &[f32], out: &mut [f16]) {
    let whole = values.len() / 16 * 16;
    // SAFETY: whole vectors and masked lanes are inside the slices.
    unsafe {
        for i in (0..whole).step_by(16) {
            let v = _mm512_loadu_ps(values.as_ptr().add(i).cast());
            _mm256_storeu_si256(out.as_mut_ptr().add(i).cast(), _mm512_cvtps_ph::<ROUND>(v));
        }
        // Masked loads and stores are slow on some machines.
        if whole < values.len() {
            let mask = (1 << (values.len() - whole)) - 1;
            let v = _mm512_maskz_loadu_ps(mask, values.as_ptr().add(whole).cast());
            _mm256_mask_storeu_epi16(out.as_mut_ptr().add(whole).cast(), mask, _mm512_cvtps_ph::<ROUND>(v));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_16_bit_values_come_back() {
        let bits: Vec<u16> = (0..=u16::MAX).collect();
        for isa in Isa::available() {
            let (b, f): (Vec<bf16>, Vec<f16>) = bits.iter().map(|&v| (bf16::from_bits(v), f16::from_bits(v))).unzip();
            let (mut wide_b, mut wide_f) = (vec![0.0; b.len()], vec![0.0; f.len()]);
            from_bf16(isa, &b, &mut wide_b);
            from_f16(isa, &f, &mut wide_f);
            let (mut back_b, mut back_f) = (vec![bf16::ZERO; b.len()], vec![f16::ZERO; f.len()]);
            to_bf16(isa, &wide_b, &mut back_b);
            to_f16(isa, &wide_f, &mut back_f);
            for i in 0..bits.len() {
                assert!(b[i].is_nan() && wide_b[i].is_nan() && back_b[i].is_nan() || b[i] == back_b[i], "{isa} {i:x}");
                assert!(f[i].is_nan() && wide_f[i].is_nan() && back_f[i].is_nan() || f[i] == back_f[i], "{isa} {i:x}");
            }
        }
    }

    #[test]
    fn rounding_is_to_nearest_even_at_every_level() {
        let values: Vec<f32> = (0..100_003_u32).map(|i| f32::from_bits(i.wrapping_mul(0x9E37_79B9))).collect();
        for isa in Isa::available() {
            let mut b = vec![bf16::ZERO; values.len()];
            let mut f = vec![f16::ZERO; values.len()];
            to_bf16(isa, &values, &mut b);
            to_f16(isa, &values, &mut f);
            for (i, v) in values.iter().enumerate() {
                assert!(v.is_nan() && b[i].is_nan() || b[i] == bf16::from_f32(*v), "{isa} {v:e}");
                assert!(v.is_nan() && f[i].is_nan() || f[i] == f16::from_f32(*v), "{isa} {v:e}");
            }
        }
    }
}
