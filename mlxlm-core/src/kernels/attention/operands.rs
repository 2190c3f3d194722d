//! The inputs of attention in memory: heads of any layout and type, and masks that are broadcast.

use half::{bf16, f16};
use mlx_rs::Dtype;

use crate::kernels::convert;
use crate::kernels::isa::Isa;
use crate::kernels::primitive::{Element, View};

/// `[B, H, L, d]` of which each row of `d` values is contiguous.
#[derive(Clone, Copy)]
pub(super) struct Heads {
    pub(super) shape: [usize; 4],
    strides: [isize; 3],
    dtype: Dtype,
    data: *const u8,
}

// SAFETY: values are only read, and MLX keeps them while the task runs.
unsafe impl Sync for Heads {}

impl Heads {
    /// The heads of a view, copied if a row is not contiguous.
    pub(super) fn new<'a>(view: &View<'a>, copy: &'a mut Vec<u32>) -> Self {
        match view.dtype {
            Dtype::Float32 => Self::of::<f32>(view, copy),
            Dtype::Float16 => Self::of::<f16>(view, copy),
            Dtype::Bfloat16 => Self::of::<bf16>(view, copy),
            other => unreachable!("attention does not take {other:?}"),
        }
    }

    fn of<T: Element>(view: &View<'_>, copy: &mut Vec<u32>) -> Self {
        let shape: [usize; 4] = std::array::from_fn(|axis| view.shape[axis] as usize);
        let dtype = view.dtype;
        if view.strides[3] == 1 || shape[3] == 1 {
            let strides = std::array::from_fn(|axis| view.strides[axis] as isize);
            return Self { shape, strides, dtype, data: view.as_ptr::<T>().cast() };
        }
        let mut values = Vec::new();
        let values = view.contiguous::<T>(&mut values);
        copy.clear();
        copy.resize(size_of_val(values).div_ceil(4), 0_u32);
        // SAFETY: the copy is as large as the values, and as aligned.
        unsafe { std::ptr::copy_nonoverlapping(values.as_ptr(), copy.as_mut_ptr().cast::<T>(), values.len()) };
        let row = shape[3] as isize;
        let head = row * shape[2] as isize;
        Self { shape, strides: [head * shape[1] as isize, head, row], dtype, data: copy.as_ptr().cast() }
    }

    /// Reads one row as f32.
    pub(super) fn read(&self, isa: Isa, [b, h, l]: [usize; 3], out: &mut [f32]) {
        assert!(b < self.shape[0] && h < self.shape[1] && l < self.shape[2] && out.len() == self.shape[3]);
        let [bs, hs, ls] = self.strides;
        let offset = b as isize * bs + h as isize * hs + l as isize * ls;
        // SAFETY: the row is inside the array, and its values are contiguous.
        unsafe {
            match self.dtype {
                Dtype::Float32 => out.copy_from_slice(row::<f32>(self.data, offset, out.len())),
                Dtype::Float16 => convert::from_f16(isa, row(self.data, offset, out.len()), out),
                _ => convert::from_bf16(isa, row(self.data, offset, out.len()), out),
            }
        }
    }
}

/// # Safety
/// `len` values of this type must lie at `offset` values from `data`.
unsafe fn row<'a, T>(data: *const u8, offset: isize, len: usize) -> &'a [T] {
    // SAFETY: passed on from the caller.
    unsafe { std::slice::from_raw_parts(data.cast::<T>().offset(offset), len) }
}

/// A mask, broadcast to `[B, H, L, S]`.
#[derive(Clone, Copy)]
pub(super) struct MaskView {
    strides: [isize; 4],
    dtype: Dtype,
    data: *const u8,
}

// SAFETY: values are only read, and MLX keeps them while the task runs.
unsafe impl Sync for MaskView {}

impl MaskView {
    pub(super) fn new(view: &View<'_>) -> Self {
        let mut strides = [0; 4];
        for (to, (&size, &stride)) in strides.iter_mut().rev().zip(view.shape.iter().zip(view.strides).rev()) {
            *to = if size == 1 { 0 } else { stride as isize };
        }
        let data = match view.dtype {
            Dtype::Bool => view.as_ptr::<bool>().cast(),
            Dtype::Float32 => view.as_ptr::<f32>().cast(),
            Dtype::Float16 => view.as_ptr::<f16>().cast(),
            Dtype::Bfloat16 => view.as_ptr::<bf16>().cast(),
            other => unreachable!("a mask is not {other:?}"),
        };
        Self { strides, dtype: view.dtype, data }
    }

    /// Applies the mask of a query to its scores of the keys from `key` on. A hidden key gets the lowest finite score, so that
    /// a query which sees nothing takes the mean of all values, as in MLX.
    pub(super) fn apply(&self, [b, h, l, key]: [usize; 4], scores: &mut [f32]) {
        let [bs, hs, ls, ss] = self.strides;
        let first = b as isize * bs + h as isize * hs + l as isize * ls + key as isize * ss;
        for (i, score) in scores.iter_mut().enumerate() {
            let at = first + i as isize * ss;
            // SAFETY: the mask is as large as the scores, or broadcast with a stride of 0.
            unsafe {
                match self.dtype {
                    Dtype::Bool => {
                        if !*self.data.cast::<bool>().offset(at) {
                            *score = f32::MIN;
                        }
                    }
                    Dtype::Float32 => *score += *self.data.cast::<f32>().offset(at),
                    Dtype::Float16 => *score += (*self.data.cast::<f16>().offset(at)).to_f32(),
                    _ => *score += (*self.data.cast::<bf16>().offset(at)).to_f32(),
                }
            }
        }
    }
}

/// A small vector as f32.
pub(super) fn vector(isa: Isa, view: &View<'_>) -> Vec<f32> {
    let mut values = vec![0.0; view.len()];
    convert::read(isa, view, &mut values);
    values
}
