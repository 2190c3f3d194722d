//! Our operations as primitives of MLX's lazy graph: the Rust side of `primitive.cpp`.
//!
//! An [`Operation`] is a value that says how to compute and how to differentiate. [`apply`] boxes it and puts it into the graph;
//! MLX's scheduler calls [`Operation::run`] on the thread of the CPU stream, and its autograd calls [`Operation::vjp`].

use std::ffi::{CStr, c_char, c_int, c_void};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use mlx_rs::error::Exception;
use mlx_rs::{Array, Dtype, Stream};

use crate::raw;

/// What a node of the graph computes.
pub(crate) trait Operation: Send + Sync + fmt::Debug + 'static {
    /// The name in errors and graph dumps.
    fn name(&self) -> &'static CStr;

    /// Fills the outputs, which are row-contiguous. May panic on a defect; the graph's evaluation fails then.
    fn run(&self, inputs: &[View<'_>], outputs: &mut [ViewMut<'_>]);

    /// The gradients of the inputs in `argnums`, in that order.
    fn vjp(&self, at: &Gradient) -> Result<Vec<Array>, Exception>;
}

/// What autograd hands to [`Operation::vjp`].
#[derive(Debug)]
pub(crate) struct Gradient {
    pub(crate) primals: Vec<Array>,
    pub(crate) cotangents: Vec<Array>,
    pub(crate) outputs: Vec<Array>,
    pub(crate) argnums: Vec<usize>,
}

/// An input in memory, of any layout.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View<'a> {
    pub(crate) dtype: Dtype,
    pub(crate) shape: &'a [i32],
    /// Elements between neighbours along each axis; 0 for a broadcast one.
    pub(crate) strides: &'a [i64],
    data: *const u8,
}

// SAFETY: elements are only read, and MLX keeps them while the task runs.
unsafe impl Sync for View<'_> {}

/// An output in memory, row-contiguous.
#[derive(Debug)]
pub(crate) struct ViewMut<'a> {
    pub(crate) dtype: Dtype,
    pub(crate) shape: &'a [i32],
    data: *mut u8,
}

/// A Rust type with the layout of an MLX type.
pub(crate) trait Element: Copy + Send + Sync + 'static {
    /// The MLX type.
    const DTYPE: Dtype;
}

macro_rules! elements {
    ($($rust:ty: $mlx:ident),*) => {
        $(impl Element for $rust {
            const DTYPE: Dtype = Dtype::$mlx;
        })*
    };
}

elements!(bool: Bool, u8: Uint8, u32: Uint32, i32: Int32, f32: Float32, half::f16: Float16, half::bf16: Bfloat16);

impl<'a> View<'a> {
    /// The first element; others lie at the strides.
    pub(crate) fn as_ptr<T: Element>(&self) -> *const T {
        assert_eq!(self.dtype, T::DTYPE, "a view is read as another type");
        self.data.cast()
    }

    /// The first byte of the first element.
    pub(crate) fn bytes(&self) -> *const u8 {
        self.data
    }

    /// Bytes of an element.
    pub(crate) fn item_size(&self) -> usize {
        size_of_dtype(self.dtype)
    }

    pub(crate) fn len(&self) -> usize {
        elements(self.shape)
    }

    /// Whether the elements lie one after the other in row-major order.
    pub(crate) fn is_contiguous(&self) -> bool {
        let mut expected = 1;
        self.shape.iter().zip(self.strides).rev().all(|(&size, &stride)| {
            let fits = size == 1 || stride == expected;
            expected *= i64::from(size);
            fits
        })
    }

    /// The elements in row-major order: in place if they lie so, else copied into `buffer`.
    pub(crate) fn contiguous<T: Element>(&self, buffer: &'a mut Vec<T>) -> &'a [T] {
        let first = self.as_ptr::<T>();
        if self.len() == 0 {
            return &[];
        }
        if self.is_contiguous() {
            // SAFETY: MLX keeps `len` elements of this type there while the task runs.
            return unsafe { std::slice::from_raw_parts(first, self.len()) };
        }
        buffer.clear();
        buffer.reserve_exact(self.len());
        self.for_each_offset(|offset| {
            // SAFETY: shape and strides describe memory that MLX keeps while the task runs.
            buffer.push(unsafe { *first.offset(offset) });
        });
        buffer
    }

    fn for_each_offset(&self, mut visit: impl FnMut(isize)) {
        let mut index = vec![0_i32; self.shape.len()];
        loop {
            visit(index.iter().zip(self.strides).map(|(&i, &s)| i as isize * s as isize).sum());
            let mut axis = self.shape.len();
            loop {
                if axis == 0 {
                    return;
                }
                axis -= 1;
                index[axis] += 1;
                if index[axis] < self.shape[axis] {
                    break;
                }
                index[axis] = 0;
            }
        }
    }
}

impl ViewMut<'_> {
    /// Whether it lies in the memory of an input of [`apply_over`], whose contents it has until something is written.
    pub(crate) fn is_over(&self, input: &View<'_>) -> bool {
        std::ptr::eq(self.data, input.data)
    }

    pub(crate) fn len(&self) -> usize {
        elements(self.shape)
    }

    /// The elements as bytes, for kernels that write several types.
    pub(crate) fn as_mut_bytes(&mut self) -> &mut [u8] {
        match elements(self.shape) {
            0 => &mut [],
            // SAFETY: MLX allocated this many elements for the output, and only this task has them.
            len => unsafe { std::slice::from_raw_parts_mut(self.data, len * size_of_dtype(self.dtype)) },
        }
    }

    pub(crate) fn as_mut_slice<T: Element>(&mut self) -> &mut [T] {
        assert_eq!(self.dtype, T::DTYPE, "a view is written as another type");
        match elements(self.shape) {
            0 => &mut [],
            // SAFETY: MLX allocated this many elements for the output, and only this task has them.
            len => unsafe { std::slice::from_raw_parts_mut(self.data.cast(), len) },
        }
    }
}

fn size_of_dtype(dtype: Dtype) -> usize {
    // SAFETY: the number is one of MLX's own types.
    unsafe { mlx_sys::mlx_dtype_size(dtype.into()) }
}

fn elements(shape: &[i32]) -> usize {
    shape.iter().map(|&size| size as usize).product()
}

/// Puts an operation into the graph; `outputs` are the shapes and types of its results.
#[track_caller]
pub(crate) fn apply(
    operation: impl Operation,
    inputs: &[&Array],
    outputs: &[(&[i32], Dtype)],
) -> Result<Vec<Array>, Exception> {
    let boxed: Box<dyn Operation> = Box::new(operation);
    let handles: Vec<_> = inputs.iter().map(|array| array.as_ptr()).collect();
    let shapes: Vec<i32> = outputs.iter().flat_map(|(shape, _)| shape.iter().copied()).collect();
    let ndims: Vec<usize> = outputs.iter().map(|(shape, _)| shape.len()).collect();
    let dtypes: Vec<mlx_sys::mlx_dtype> = outputs.iter().map(|(_, dtype)| (*dtype).into()).collect();
    raw::try_arrays(|results, stream| {
        let op = Box::into_raw(Box::new(boxed)).cast();
        // SAFETY: all handles are alive, the slices have the lengths given, and the callee takes the box over.
        unsafe {
            mlxlm_apply(
                results,
                op,
                handles.as_ptr(),
                handles.len(),
                shapes.as_ptr(),
                ndims.as_ptr(),
                dtypes.as_ptr(),
                outputs.len(),
                stream,
            )
        }
    })
}

/// [`apply`] for an operation whose results have the shapes and types of the first `count` inputs. A result lies in the memory of its
/// input ([`ViewMut::is_over`]) if that is row-contiguous and nobody else has it when the operation is dispatched: no handle, no
/// other input, and no operation that is still to read it.
///
/// The operation has no gradient; what [`is_traced`] must not come here.
#[track_caller]
pub(crate) fn apply_over(operation: impl Operation, inputs: &[&Array], count: usize) -> Result<Vec<Array>, Exception> {
    let boxed: Box<dyn Operation> = Box::new(operation);
    let handles: Vec<_> = inputs.iter().map(|array| array.as_ptr()).collect();
    raw::try_arrays(|results, stream| {
        let op = Box::into_raw(Box::new(boxed)).cast();
        // SAFETY: all handles are alive, there are as many as given, and the callee takes the box over.
        unsafe { mlxlm_apply_over(results, op, handles.as_ptr(), handles.len(), count, stream) }
    })
}

/// Whether a gradient is being taken through any of the arrays.
pub(crate) fn is_traced(arrays: &[&Array]) -> bool {
    let handles: Vec<_> = arrays.iter().map(|array| array.as_ptr()).collect();
    // SAFETY: all handles are alive, and there are as many as given.
    unsafe { mlxlm_is_traced(handles.as_ptr(), handles.len()) }
}

/// [`apply`] for an operation with one result.
#[track_caller]
pub(crate) fn apply_one(
    operation: impl Operation,
    inputs: &[&Array],
    shape: &[i32],
    dtype: Dtype,
) -> Result<Array, Exception> {
    let result = apply(operation, inputs, &[(shape, dtype)])?.pop();
    result.ok_or_else(|| Exception::custom("an operation gave no result"))
}

/// Whether operations made now on this thread run on the CPU.
pub(crate) fn on_cpu() -> bool {
    // SAFETY: the handle lives as long as the stream.
    unsafe { mlxlm_stream_is_cpu(Stream::thread_local_or_default().as_ptr()) }
}

unsafe extern "C" {
    fn mlxlm_apply(
        results: *mut mlx_sys::mlx_vector_array,
        op: *mut c_void,
        inputs: *const mlx_sys::mlx_array,
        n_inputs: usize,
        shapes: *const i32,
        ndims: *const usize,
        dtypes: *const mlx_sys::mlx_dtype,
        n_outputs: usize,
        stream: mlx_sys::mlx_stream,
    ) -> c_int;
    fn mlxlm_apply_over(
        results: *mut mlx_sys::mlx_vector_array,
        op: *mut c_void,
        inputs: *const mlx_sys::mlx_array,
        n_inputs: usize,
        n_outputs: usize,
        stream: mlx_sys::mlx_stream,
    ) -> c_int;
    fn mlxlm_is_traced(arrays: *const mlx_sys::mlx_array, count: usize) -> bool;
    fn mlxlm_stream_is_cpu(stream: mlx_sys::mlx_stream) -> bool;
}

/// `mlxlm_view` of the C++ side.
#[repr(C)]
struct RawView {
    data: *mut u8,
    shape: *const i32,
    strides: *const i64,
    ndim: usize,
    dtype: c_int,
}

/// MLX's own numbering, in its header `dtype.h`.
const DTYPES: [Dtype; 14] = [
    Dtype::Bool,
    Dtype::Uint8,
    Dtype::Uint16,
    Dtype::Uint32,
    Dtype::Uint64,
    Dtype::Int8,
    Dtype::Int16,
    Dtype::Int32,
    Dtype::Int64,
    Dtype::Float16,
    Dtype::Float32,
    Dtype::Float64,
    Dtype::Bfloat16,
    Dtype::Complex64,
];

impl RawView {
    /// The view's type, shape and strides.
    ///
    /// # Safety
    /// The pointers must be valid for `ndim` values for `'a`.
    unsafe fn parts<'a>(&self) -> (Dtype, &'a [i32], &'a [i64]) {
        let dtype = DTYPES[self.dtype as usize];
        if self.ndim == 0 {
            return (dtype, &[], &[]);
        }
        // SAFETY: passed on from the caller.
        unsafe {
            let shape = std::slice::from_raw_parts(self.shape, self.ndim);
            (dtype, shape, std::slice::from_raw_parts(self.strides, self.ndim))
        }
    }
}

unsafe fn operation<'a>(op: *const c_void) -> &'a dyn Operation {
    // SAFETY: C++ passes back what `apply` boxed, and holds it during the call.
    unsafe { (*op.cast::<Box<dyn Operation>>()).as_ref() }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn mlxlm_op_run(
    op: *const c_void,
    inputs: *const RawView,
    n_inputs: usize,
    outputs: *const RawView,
    n_outputs: usize,
) -> c_int {
    // SAFETY: C++ passes arrays of these lengths, whose views are valid during the call.
    let (op, inputs, outputs) = unsafe {
        (operation(op), std::slice::from_raw_parts(inputs, n_inputs), std::slice::from_raw_parts(outputs, n_outputs))
    };
    let run = || {
        let view = |raw: &RawView| {
            // SAFETY: as above.
            let (dtype, shape, strides) = unsafe { raw.parts() };
            View { dtype, shape, strides, data: raw.data }
        };
        let view_mut = |raw: &RawView| {
            // SAFETY: as above.
            let (dtype, shape, _) = unsafe { raw.parts() };
            ViewMut { dtype, shape, data: raw.data }
        };
        let inputs: Vec<_> = inputs.iter().map(view).collect();
        op.run(&inputs, &mut outputs.iter().map(view_mut).collect::<Vec<_>>());
    };
    c_int::from(catch_unwind(AssertUnwindSafe(run)).is_err())
}

#[unsafe(no_mangle)]
unsafe extern "C" fn mlxlm_op_vjp(
    op: *const c_void,
    primals: mlx_sys::mlx_vector_array,
    cotangents: mlx_sys::mlx_vector_array,
    outputs: mlx_sys::mlx_vector_array,
    argnums: *const c_int,
    n_argnums: usize,
    gradients: mlx_sys::mlx_vector_array,
) -> c_int {
    let differentiate = || {
        // SAFETY: C++ passes live vectors, and `n_argnums` indices of primals.
        unsafe {
            let argnums = match n_argnums {
                0 => Vec::new(),
                n => std::slice::from_raw_parts(argnums, n).iter().map(|&i| i as usize).collect(),
            };
            let at = Gradient {
                primals: raw::arrays_of(primals),
                cotangents: raw::arrays_of(cotangents),
                outputs: raw::arrays_of(outputs),
                argnums,
            };
            let result = operation(op).vjp(&at)?;
            for gradient in &result {
                mlx_sys::mlx_vector_array_append_value(gradients, gradient.as_ptr());
            }
            Ok::<_, Exception>(result.len() == at.argnums.len())
        }
    };
    c_int::from(!matches!(catch_unwind(AssertUnwindSafe(differentiate)), Ok(Ok(true))))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn mlxlm_op_name(op: *const c_void) -> *const c_char {
    // SAFETY: C++ holds the operation during the call.
    unsafe { operation(op) }.name().as_ptr()
}

#[unsafe(no_mangle)]
unsafe extern "C" fn mlxlm_op_equals(op: *const c_void, other: *const c_void) -> bool {
    // SAFETY: C++ holds both operations during the call.
    let (op, other) = unsafe { (operation(op), operation(other)) };
    op.name() == other.name() && format!("{op:?}") == format!("{other:?}")
}

#[unsafe(no_mangle)]
unsafe extern "C" fn mlxlm_op_free(op: *mut c_void) {
    // SAFETY: C++ frees what `apply` boxed, once.
    drop(unsafe { Box::from_raw(op.cast::<Box<dyn Operation>>()) });
}

#[cfg(test)]
mod tests {
    use super::*;
    use mlx_rs::{ops, transforms};

    /// `factor · x`, which panics on demand.
    #[derive(Debug)]
    struct Scale {
        factor: f32,
        fail: bool,
    }

    impl Operation for Scale {
        fn name(&self) -> &'static CStr {
            c"Scale"
        }

        fn run(&self, inputs: &[View<'_>], outputs: &mut [ViewMut<'_>]) {
            assert!(!self.fail, "as asked");
            let mut buffer = Vec::new();
            let x = inputs[0].contiguous::<f32>(&mut buffer);
            outputs[0].as_mut_slice::<f32>().iter_mut().zip(x).for_each(|(y, x)| *y = self.factor * x);
        }

        fn vjp(&self, at: &Gradient) -> Result<Vec<Array>, Exception> {
            if self.fail {
                return Err(Exception::custom("as asked"));
            }
            Ok(vec![at.cotangents[0].multiply(Array::from_f32(self.factor))?])
        }
    }

    fn scale(x: &Array, factor: f32, fail: bool) -> Result<Array, Exception> {
        apply_one(Scale { factor, fail }, &[x], x.shape(), Dtype::Float32)
    }

    #[test]
    fn an_operation_is_lazy_and_takes_any_layout() {
        let x = Array::from_slice(&[1.0_f32, 2.0, 3.0, 4.0, 5.0, 6.0], &[2, 3]);
        let check = |input: &Array, want: &[f32]| {
            let y = scale(input, 2.0, false).unwrap();
            assert_eq!(y.shape(), input.shape());
            y.eval().unwrap();
            // `mlx-rs` has no slice of nothing.
            assert!(want.is_empty() || y.try_as_slice::<f32>().unwrap() == want);
        };
        check(&x, &[2.0, 4.0, 6.0, 8.0, 10.0, 12.0]);
        check(&x.transpose().unwrap(), &[2.0, 8.0, 4.0, 10.0, 6.0, 12.0]);
        check(&ops::broadcast_to(Array::from_f32(3.0), &[2, 2]).unwrap(), &[6.0; 4]);
        check(&Array::from_f32(3.0), &[6.0]);
        check(&ops::zeros::<f32>(&[0, 3]).unwrap(), &[]);
    }

    #[test]
    fn gradients_go_through() {
        let x = Array::from_slice(&[1.0_f32, 2.0], &[2]);
        let loss = |x: &Array| -> Result<Array, Exception> { scale(&x.square()?, 3.0, false)?.sum(None) };
        let gradient = transforms::grad(loss)(&x).unwrap();
        assert_eq!(gradient.try_as_slice::<f32>().unwrap(), [6.0, 12.0]);
    }

    #[test]
    fn failures_are_errors() {
        let x = Array::from_slice(&[1.0_f32, 2.0], &[2]);
        let failed = scale(&x, 1.0, true).unwrap().eval();
        assert!(failed.unwrap_err().to_string().contains("the kernel of `Scale` failed"));
        let loss = |x: &Array| scale(x, 1.0, true)?.sum(None);
        let failed = transforms::grad(loss)(&x).unwrap_err();
        assert!(failed.to_string().contains("`Scale` has no gradient for this"), "{failed}");
    }

    #[test]
    fn a_failure_that_nobody_reads_is_gone_after_waiting() {
        let x = Array::from_slice(&[1.0_f32, 2.0], &[2]);
        for _ in 0..3 {
            // On the thread that used MLX first, the failure may be back before the call that dispatched it.
            let dispatched = transforms::async_eval([&scale(&x, 1.0, true).unwrap()]).map_err(crate::Error::from);
            let message = dispatched.and_then(|()| crate::device::synchronize()).unwrap_err().to_string();
            assert!(message.contains("the kernel of `Scale` failed"), "{message}");
            assert!(crate::device::synchronize().is_ok());
            // As after a request that failed: the next one hears nothing of it.
            let y = scale(&x, 2.0, false).unwrap();
            y.eval().unwrap();
            assert_eq!(y.try_as_slice::<f32>().unwrap(), [2.0, 4.0]);
            scale(&x, 1.0, true).unwrap().eval().unwrap_err();
            drop(crate::device::synchronize());
            assert_eq!(scale(&x, 3.0, false).unwrap().sum(None).unwrap().try_as_slice::<f32>().unwrap(), [9.0]);
        }
    }

    #[test]
    fn dtypes_have_the_numbers_of_mlx() {
        for dtype in DTYPES {
            let x = ops::zeros_dtype(&[1], dtype).unwrap();
            let same = apply_one(Same(dtype), &[&x], &[1], Dtype::Bool).unwrap();
            assert!(same.try_as_slice::<bool>().unwrap()[0], "{dtype:?}");
        }
    }

    /// Whether the input has this type.
    #[derive(Debug)]
    struct Same(Dtype);

    impl Operation for Same {
        fn name(&self) -> &'static CStr {
            c"Same"
        }

        fn run(&self, inputs: &[View<'_>], outputs: &mut [ViewMut<'_>]) {
            outputs[0].as_mut_slice::<bool>()[0] = inputs[0].dtype == self.0;
        }

        fn vjp(&self, _: &Gradient) -> Result<Vec<Array>, Exception> {
            Err(Exception::custom("no gradient"))
        }
    }

    #[test]
    fn the_cpu_is_known() {
        assert!(on_cpu());
    }
}
