//! Heads in memory, of any layout and type.

use half::{bf16, f16};
use mlx_rs::Dtype;

use super::convert;
use super::isa::Isa;
use super::primitive::{Element, View};

/// `[B, H, L, d]` of which each row of `d` values is contiguous.
#[derive(Clone, Copy)]
pub(crate) struct Heads {
    pub(crate) shape: [usize; 4],
    strides: [isize; 3],
    dtype: Dtype,
    data: *const u8,
}

// SAFETY: values are only read, and MLX keeps them while the task runs.
unsafe impl Sync for Heads {}

impl Heads {
    /// The heads of a view, copied if a row is not contiguous.
    pub(crate) fn new<'a>(view: &View<'a>, copy: &'a mut Vec<u32>) -> Self {
        match view.dtype {
            Dtype::Float32 => Self::of::<f32>(view, copy),
            Dtype::Float16 => Self::of::<f16>(view, copy),
            Dtype::Bfloat16 => Self::of::<bf16>(view, copy),
            Dtype::Uint32 => Self::of::<u32>(view, copy),
            Dtype::Uint8 => Self::of::<u8>(view, copy),
            other => unreachable!("heads are not {other:?}"),
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

    /// One row of the batch, as a batch of its own.
    pub(crate) fn of_batch(&self, b: usize) -> Self {
        let [_, h, l, d] = self.shape;
        Self { shape: [1, h, l, d], data: self.at([b, 0, 0]), ..*self }
    }

    pub(crate) fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Bytes from one row of a head to the next.
    pub(crate) fn stride(&self) -> isize {
        self.strides[2] * self.size() as isize
    }

    /// Bytes of a value.
    pub(crate) fn size(&self) -> usize {
        match self.dtype {
            Dtype::Float32 | Dtype::Uint32 => 4,
            Dtype::Uint8 => 1,
            _ => 2,
        }
    }

    /// Where a row lies.
    pub(crate) fn at(&self, [b, h, l]: [usize; 3]) -> *const u8 {
        assert!(b < self.shape[0] && h < self.shape[1] && l < self.shape[2]);
        let [bs, hs, ls] = self.strides;
        let offset = b as isize * bs + h as isize * hs + l as isize * ls;
        // SAFETY: the row is inside the array.
        unsafe { self.data.offset(offset * self.size() as isize) }
    }

    /// The values of a row.
    pub(crate) fn row<T: Element>(&self, at: [usize; 3]) -> &[T] {
        assert_eq!(self.dtype, T::DTYPE, "heads are read as another type");
        // SAFETY: a row is contiguous, and MLX keeps it while the task runs.
        unsafe { std::slice::from_raw_parts(self.at(at).cast(), self.shape[3]) }
    }

    /// Reads one row as f32.
    pub(crate) fn read(&self, isa: Isa, at: [usize; 3], out: &mut [f32]) {
        match self.dtype {
            Dtype::Float32 => out.copy_from_slice(self.row(at)),
            Dtype::Float16 => convert::from_f16(isa, self.row(at), out),
            _ => convert::from_bf16(isa, self.row(at), out),
        }
    }
}
