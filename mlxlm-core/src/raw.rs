//! The few calls that go past `mlx-rs` to the C interface, each made safe: arrays over memory that Rust owns, the
//! bytes of an array, and operations of which `mlx-rs` binds only one mode.
#![allow(unsafe_code, reason = "the C interface of MLX is unsafe; what leaves this file is not, but for `arrays_of`")]

use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};

use mlx_rs::error::Exception;
use mlx_rs::{Array, Dtype, Stream};

unsafe extern "C" {
    /// The handler of `mlx-rs`, which keeps the message for its own calls on the same thread.
    fn default_mlx_error_handler(message: *const c_char, data: *mut c_void);
}

thread_local! {
    /// What MLX said of the last failure on this thread.
    static LAST_MESSAGE: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Keeps the message for [`last_exception`], then lets `mlx-rs` keep it too.
unsafe extern "C" fn keep_message(message: *const c_char, data: *mut c_void) {
    // SAFETY: MLX hands over a string that lives as long as the call.
    let text = unsafe { CStr::from_ptr(message) }.to_string_lossy();
    // A text without a zero inside has none in its parts either.
    let text = CString::new(plain_words(&text)).unwrap_or_default();
    // SAFETY: a string that lives as long as the call, and the data that came with it.
    unsafe { default_mlx_error_handler(text.as_ptr(), data) };
    LAST_MESSAGE.with(|last| *last.borrow_mut() = text.into_string().ok());
}

/// A message of MLX for those who did not write MLX: without the place in its C layer, and with the names that C++ gives to what
/// the system refuses put into words.
fn plain_words(message: &str) -> &str {
    let is_place = |place: &str| {
        let (file, line) = place.rsplit_once(':').unwrap_or_default();
        let of_c = [".c", ".cpp", ".h"].iter().any(|ending| file.ends_with(ending));
        of_c && !line.is_empty() && line.bytes().all(|byte| byte.is_ascii_digit())
    };
    let text = match message.rsplit_once(" at ") {
        Some((text, place)) if is_place(place) => text,
        _ => message,
    };
    match text {
        "std::bad_alloc" => "there is no memory left",
        "Resource temporarily unavailable" => "the system refuses this process another thread",
        text => text,
    }
}

/// The arrays of a vector that MLX handed over, each with a handle of its own.
///
/// # Safety
/// The vector is one of MLX's, and is there until this returns.
pub(crate) unsafe fn arrays_of(vector: mlx_sys::mlx_vector_array) -> Vec<Array> {
    // SAFETY: the caller vouches for the vector; each element taken from it is a handle of its own.
    unsafe {
        let take = |i| {
            let mut array = mlx_sys::mlx_array_new();
            mlx_sys::mlx_vector_array_get(&raw mut array, vector, i);
            Array::from_ptr(array)
        };
        (0..mlx_sys::mlx_vector_array_size(vector)).map(take).collect()
    }
}

/// Whether a message, after [`plain_words`], is of something that the system refused: memory, or a thread.
pub(crate) fn is_refused_by_system(message: &str) -> bool {
    message.starts_with("there is no memory ") || message.starts_with("the system refuses ")
}

/// Installs our error handler over that of `mlx-rs`; MLX's own would end the process.
pub(crate) fn install_error_handler() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
        // SAFETY: a function without arguments that throws nothing.
        unsafe {
            mlxlm_check_allocator();
        }
        // `mlx-rs` installs its handler at its first operation, and would replace ours if that came later.
        drop(mlx_rs::ops::abs(Array::from_int(0)));
        // SAFETY: the handler is a function without state.
        unsafe { mlx_sys::mlx_set_error_handler(Some(keep_message), std::ptr::null_mut(), None) };
    });
}

/// The array that a call of the C interface makes, or what MLX says of its failure.
///
/// `call` gets the place for the result and the current stream, and returns the status.
#[track_caller]
pub(crate) fn try_array(
    call: impl FnOnce(*mut mlx_sys::mlx_array, mlx_sys::mlx_stream) -> i32,
) -> Result<Array, Exception> {
    install_error_handler();
    let stream = Stream::thread_local_or_default();
    // SAFETY: a new, empty array handle; it is filled by `call` or freed with the `Array` made of it.
    let mut result = unsafe { mlx_sys::mlx_array_new() };
    let status = call(&raw mut result, stream.as_ptr());
    // SAFETY: the handle is owned here and by nothing else.
    let result = unsafe { Array::from_ptr(result) };
    if status == 0 { Ok(result) } else { Err(last_exception()) }
}

/// As [`try_array`], for calls with several results.
#[track_caller]
pub(crate) fn try_arrays(
    call: impl FnOnce(*mut mlx_sys::mlx_vector_array, mlx_sys::mlx_stream) -> i32,
) -> Result<Vec<Array>, Exception> {
    install_error_handler();
    let stream = Stream::thread_local_or_default();
    // SAFETY: a new vector that is freed below; each element taken from it is a handle of its own.
    unsafe {
        let mut results = mlx_sys::mlx_vector_array_new();
        let mut status = call(&raw mut results, stream.as_ptr());
        let mut arrays = Vec::new();
        if status == 0 {
            for i in 0..mlx_sys::mlx_vector_array_size(results) {
                let mut array = mlx_sys::mlx_array_new();
                status |= mlx_sys::mlx_vector_array_get(&raw mut array, results, i);
                arrays.push(Array::from_ptr(array));
            }
        }
        mlx_sys::mlx_vector_array_free(results);
        if status == 0 { Ok(arrays) } else { Err(last_exception()) }
    }
}

/// The message of the call that failed just now on this thread.
#[track_caller]
fn last_exception() -> Exception {
    let message = LAST_MESSAGE.with(|last| last.borrow_mut().take());
    Exception::custom(message.unwrap_or_else(|| "MLX refused the operation without a message".into()))
}

/// Bytes of memory outside MLX's allocator over which arrays live.
static BORROWED_BYTES: AtomicUsize = AtomicUsize::new(0);

/// Bytes of memory outside MLX's allocator over which arrays live now.
pub(crate) fn borrowed_bytes() -> usize {
    BORROWED_BYTES.load(Ordering::Relaxed)
}

/// What an array over foreign memory keeps alive.
struct Loan<T> {
    _owner: T,
    bytes: usize,
}

impl<T> Loan<T> {
    fn new(owner: T, bytes: usize) -> Self {
        BORROWED_BYTES.fetch_add(bytes, Ordering::Relaxed);
        Self { _owner: owner, bytes }
    }
}

impl<T> Drop for Loan<T> {
    fn drop(&mut self) {
        BORROWED_BYTES.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// An array over `data`, which is not copied where the platform allows it; `owner` keeps the memory alive.
///
/// # Errors
/// If there is no memory for the handle; `owner` is dropped then.
///
/// # Safety
/// `data` points at `shape.product() * dtype.size()` bytes that may be read and written, aligned for `dtype`, with eight
/// readable bytes before them; nobody else changes them for as long as `owner` lives.
#[track_caller]
pub(crate) unsafe fn array_over<T>(
    data: *mut u8,
    shape: &[i32],
    dtype: Dtype,
    bytes: usize,
    owner: T,
) -> Result<Array, Exception> {
    unsafe extern "C" fn release<T>(loan: *mut c_void) {
        // SAFETY: `loan` came from `Box::into_raw` of the same type and is released once.
        drop(unsafe { Box::from_raw(loan.cast::<Loan<T>>()) });
    }
    install_error_handler();
    let loan = Box::into_raw(Box::new(Loan::new(owner, bytes))).cast::<c_void>();
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    // SAFETY: the caller vouches for `data`; C++ calls `release` once, when the last user of the buffer is gone or if there
    // is no array, and fills the handle only if there is one.
    unsafe {
        if mlxlm_can_borrow() {
            let (shape_ptr, ndim) = (shape.as_ptr(), shape.len());
            let mut array = mlx_sys::mlx_array { ctx: std::ptr::null_mut() };
            let status =
                mlxlm_array_over(&raw mut array, data.cast(), shape_ptr, ndim, dtype.into(), loan, release::<T>);
            return if status == 0 { Ok(Array::from_ptr(array)) } else { Err(last_exception()) };
        }
    }
    // SAFETY: the caller vouches for `data`; MLX calls `release` once, when the last user of the buffer is gone.
    unsafe {
        let array = mlx_sys::mlx_array_new_data_managed_payload(
            data.cast(),
            shape.as_ptr(),
            shape.len() as i32,
            dtype.into(),
            loan,
            Some(release::<T>),
        );
        if array.ctx.is_null() { Err(last_exception()) } else { Ok(Array::from_ptr(array)) }
    }
}

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
unsafe extern "C" {
    fn mlxlm_can_borrow() -> bool;
    fn mlxlm_array_over(
        result: *mut mlx_sys::mlx_array,
        data: *mut c_void,
        shape: *const c_int,
        ndim: usize,
        dtype: mlx_sys::mlx_dtype,
        owner: *mut c_void,
        release: unsafe extern "C" fn(*mut c_void),
    ) -> c_int;
    fn mlxlm_check_allocator();
    fn mlxlm_kept_bytes() -> usize;
    fn mlxlm_keep_at_most(bytes: usize);
    fn mlxlm_keep_nothing();
}

/// Bytes of buffers that our allocator keeps for later arrays.
pub(crate) fn kept_bytes() -> usize {
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    // SAFETY: a function without arguments that throws nothing.
    return unsafe { mlxlm_kept_bytes() };
    #[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
    return 0;
}

/// Sets how many bytes our allocator keeps at most.
#[cfg_attr(not(all(target_os = "linux", target_arch = "x86_64")), expect(unused_variables, reason = "it keeps none"))]
pub(crate) fn keep_at_most(bytes: usize) {
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    // SAFETY: a function of a number that throws nothing.
    unsafe {
        mlxlm_keep_at_most(bytes);
    }
}

/// Frees what our allocator keeps, and starts its count of the most in use anew.
pub(crate) fn keep_nothing() {
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    // SAFETY: a function without arguments that throws nothing.
    unsafe {
        mlxlm_keep_nothing();
    }
}

/// Whether an array over foreign memory is that memory, and not a copy of it.
pub(crate) fn borrows() -> bool {
    install_error_handler();
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    // SAFETY: a function without arguments that throws nothing.
    return unsafe { mlxlm_can_borrow() };
    #[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
    return false;
}

/// The same array, computed, with its elements one after the other in row-major order: a copy only where they are not.
pub(crate) fn row_major(array: &Array) -> Result<Array, Exception> {
    array.eval()?;
    // MLX would copy an array over memory of ours, whose size it does not know.
    let array = if is_row_major(array) { array.clone() } else { array.contiguous()? };
    array.eval()?;
    Ok(array)
}

/// Gives `read` the bytes of an array in row-major order, after evaluating it.
pub(crate) fn with_bytes<T>(array: &Array, read: impl FnOnce(&[u8]) -> T) -> Result<T, Exception> {
    let array = row_major(array)?;
    if array.nbytes() == 0 {
        return Ok(read(&[]));
    }
    // SAFETY: the array is evaluated and row-contiguous, so its buffer holds `nbytes` initialised bytes for as long as
    // the handle lives; every accessor gives the same pointer, only its type differs.
    let bytes = unsafe { std::slice::from_raw_parts(mlx_sys::mlx_array_data_uint8(array.as_ptr()), array.nbytes()) };
    Ok(read(bytes))
}

/// Whether an evaluated array's elements lie one after the other in row-major order.
fn is_row_major(array: &Array) -> bool {
    let mut expected = 1;
    array.shape().iter().zip(array.strides()).rev().all(|(&size, &stride)| {
        let fits = size == 1 || stride == expected;
        expected *= size as usize;
        fits
    })
}

/// The handle that stands for an argument that is not given.
pub(crate) const NONE: mlx_sys::mlx_array = mlx_sys::mlx_array { ctx: std::ptr::null_mut() };

/// The version of MLX that runs, as in `0.32.2`.
pub(crate) fn mlx_version() -> Option<String> {
    // SAFETY: the string is made and freed here, and its bytes are copied while it lives.
    unsafe {
        let mut version = mlx_sys::mlx_string_new();
        let known = mlx_sys::mlx_version(&raw mut version) == 0;
        let data = mlx_sys::mlx_string_data(version);
        let text = (known && !data.is_null()).then(|| CStr::from_ptr(data).to_string_lossy().into_owned());
        mlx_sys::mlx_string_free(version);
        text
    }
}

/// A number that the default device says of itself, if it knows it.
pub(crate) fn device_info_size(key: &CStr) -> Option<usize> {
    install_error_handler();
    // SAFETY: every handle made here is freed here; a failed query leaves the handles empty and the number unread.
    unsafe {
        let mut device = mlx_sys::mlx_device_new();
        let mut info = mlx_sys::mlx_device_info_new();
        let (mut known, mut size) = (false, 0_usize);
        let found = mlx_sys::mlx_get_default_device(&raw mut device) == 0
            && mlx_sys::mlx_device_info_get(&raw mut info, device) == 0
            && mlx_sys::mlx_device_info_has_key(&raw mut known, info, key.as_ptr()) == 0
            && known
            && mlx_sys::mlx_device_info_get_size(&raw mut size, info, key.as_ptr()) == 0;
        mlx_sys::mlx_device_info_free(info);
        mlx_sys::mlx_device_free(device);
        found.then_some(size)
    }
}

/// Waits for the work of the current stream.
#[track_caller]
pub(crate) fn synchronize() -> Result<(), Exception> {
    install_error_handler();
    // SAFETY: the stream is alive during the call.
    let status = unsafe { mlx_sys::mlx_synchronize(Stream::thread_local_or_default().as_ptr()) };
    if status == 0 { Ok(()) } else { Err(last_exception()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_have_no_places_of_c() {
        assert_eq!(plain_words("[add] no at /a b/mlx/c/ops.cpp:12"), "[add] no");
        assert_eq!(plain_words("look at it:12"), "look at it:12");
        assert_eq!(plain_words("std::bad_alloc at array.cpp:3"), "there is no memory left");
        let refused = plain_words("Resource temporarily unavailable at x.cpp:1");
        assert_eq!(refused, "the system refuses this process another thread");
    }

    #[test]
    fn memory_that_cannot_be_had_is_an_error_of_any_operation() {
        let huge = |elements: i32| mlx_rs::ops::zeros::<f32>(&[elements, i32::MAX, 16]).and_then(|zeros| zeros.eval());
        for _ in 0..2 {
            let error = crate::Error::from(huge(1 << 20).unwrap_err());
            assert_eq!(error.to_string(), "there is no memory for an array of 144115188008747008 bytes");
            assert!(crate::Hint::hint(&error).is_some_and(|hint| hint.contains("ulimit")));
        }
        // Nothing of it is left on the stream.
        assert_eq!(Array::from_int(2).add(Array::from_int(3)).unwrap().try_item_exact::<i32>().unwrap(), 5);
    }
}
