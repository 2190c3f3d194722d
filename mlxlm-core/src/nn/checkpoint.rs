//! Gradients of a model that is only borrowed, and gradient checkpointing (arXiv:1604.06174): what a part of a model computes is forgotten,
//! and computed again for its gradient.
//!
//! Unusual: MLX differentiates functions of arrays, and so does its own `mlx_checkpoint`; a part of a model has parameters besides. They
//! become inputs, and while the function runs the traced arrays lie in the model, by its handles.

#![allow(unsafe_code, reason = "closures and handles of the C interface; every block says why it is sound")]

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::ffi::{c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};

use mlx_rs::error::Exception;
use mlx_rs::{Array, random, transforms};

use super::{Leaf, Matrix, Module, join, mode};
use crate::raw;

/// The gradient that is being taken on this thread.
#[derive(Debug)]
struct Scope {
    /// Tells it from all others of the thread.
    number: u64,
    /// Where the parameters of its model lie. The model is borrowed while the scope lasts, so they stay there.
    places: BTreeSet<usize>,
    /// Where those lie that are trained.
    trained: BTreeSet<usize>,
    /// Whether blocks are to be computed again for their gradients.
    blocks: bool,
    /// Why a part could not be computed again.
    failed: Option<Exception>,
}

thread_local! {
    static SCOPE: RefCell<Option<Scope>> = const { RefCell::new(None) };
    static SCOPES: Cell<u64> = const { Cell::new(0) };
}

/// All parameters of a model with their names, in the order of [`super::parameters`]. Matrices that were arranged have none.
pub fn handles<M: Module + ?Sized>(model: &M) -> Vec<(String, &Array)> {
    let mut all = Vec::new();
    model.walk("", &mut |path, leaf: Leaf<'_>| {
        let of_matrix = match leaf.matrix() {
            Some(Matrix::Dense(weight)) => vec![("weight", weight)],
            Some(Matrix::Packed(packed, _)) => {
                let biases = packed.biases.iter().map(|biases| ("biases", biases));
                [("weight", &packed.weight), ("scales", &packed.scales)].into_iter().chain(biases).collect()
            }
            Some(Matrix::Panels(_)) | None => Vec::new(),
        };
        all.extend(of_matrix.into_iter().chain(leaf.others()).map(|(name, array)| (join(path, name), array)));
    });
    all
}

/// What `loss` makes of the model, and the gradient of the first array that it returns, a scalar, with respect to `trained`, which
/// are [`handles`] of that model; `loss` runs as [training](super::train). Within it, [`checkpoint`] saves memory, and with
/// `blocks` it is meant to do so for every block.
///
/// Nothing is computed yet.
///
/// # Errors
/// Those of `loss`; one of MLX if a handle is not of the model.
pub fn value_and_grad<M: Module + ?Sized, E: From<Exception>>(
    model: &M,
    trained: &[&Array],
    blocks: bool,
    mut loss: impl FnMut(&M) -> Result<Vec<Array>, E>,
) -> Result<(Vec<Array>, Vec<Array>), E> {
    /// Ends the scope, also when something panics.
    struct Open(Option<Scope>);
    impl Drop for Open {
        fn drop(&mut self) {
            SCOPE.replace(self.0.take());
        }
    }
    let places: BTreeSet<usize> = handles(model).into_iter().map(|(_, handle)| place(handle)).collect();
    let at: BTreeSet<usize> = trained.iter().map(|handle| place(handle)).collect();
    if !at.is_subset(&places) {
        return Err(Exception::custom("a trained parameter is not one of the model").into());
    }
    let number = SCOPES.get() + 1;
    SCOPES.set(number);
    let scope = Scope { number, places, trained: at, blocks, failed: None };
    let _open = Open(SCOPE.replace(Some(scope)));
    let before: Vec<Array> = trained.iter().map(|handle| (*handle).clone()).collect();
    let numbers: Vec<i32> = (0..before.len() as i32).collect();
    let mut failed = None;
    let traced = |traced: &[Array]| {
        let _lying = Lying::new(trained.iter().map(|handle| handle.as_ptr()), traced);
        mode::train(|| loss(model)).map_err(|error| {
            failed = Some(error);
            Exception::custom("the loss failed")
        })
    };
    let result = transforms::value_and_grad_with_argnums(traced, numbers.as_slice())(&before);
    if let Some(error) = failed {
        return Err(error);
    }
    let again = SCOPE.with_borrow_mut(|scope| scope.as_mut().and_then(|scope| scope.failed.take()));
    Ok(again.map_or(result, Err)?)
}

/// Whether blocks are to be computed again for their gradients.
pub fn checkpoints_blocks() -> bool {
    SCOPE.with_borrow(|scope| scope.as_ref().is_some_and(|scope| scope.blocks))
}

/// What `f` makes of a part of the model whose gradient is being taken; only the inputs and the results are kept, and `f` runs again
/// for the gradient, with the same random numbers. `f` reads the parameters for whose paths `reads` is true, and no others.
///
/// Outside of [`value_and_grad`], or if the part is not one of its model, `f` runs as it is.
#[track_caller]
pub fn checkpoint<M, F>(part: &M, reads: impl Fn(&str) -> bool, inputs: &[Array], f: F) -> Result<Vec<Array>, Exception>
where
    M: Module + ?Sized + 'static,
    F: Fn(&M, &[Array]) -> Result<Vec<Array>, Exception> + 'static,
{
    let own = handles(part);
    let scope = SCOPE.with_borrow(|scope| {
        let scope = scope.as_ref()?;
        let is_part = !own.is_empty() && own.iter().all(|(_, handle)| scope.places.contains(&place(handle)));
        is_part.then(|| {
            let trained = own.iter().filter(|(name, handle)| scope.trained.contains(&place(handle)) && reads(name));
            (scope.number, trained.map(|(_, handle)| *handle).collect::<Vec<_>>())
        })
    });
    let Some((number, trained)) = scope else { return f(part, inputs) };
    let again = Again {
        part: std::ptr::from_ref(part),
        f,
        trained: trained.iter().map(|handle| handle.as_ptr()).collect(),
        number,
        is_training: mode::is_training(),
        key: random::randint::<_, i32>(0, i32::MAX, &[2], None)?.as_dtype(mlx_rs::Dtype::Uint32)?,
    };
    let all: Vec<Array> = inputs.iter().chain(trained).cloned().collect();
    let pointers: Vec<mlx_sys::mlx_array> = all.iter().map(Array::as_ptr).collect();
    let payload = Box::into_raw(Box::new(again)).cast::<c_void>();
    raw::try_arrays(|results, _| {
        // SAFETY: the closure takes the payload over and frees it once; all handles live during the calls, and what is made is freed.
        unsafe {
            let plain = mlx_sys::mlx_closure_new_func_payload(Some(run::<M, F>), payload, Some(free::<M, F>));
            let mut forgetful = mlx_sys::mlx_closure_new();
            let given = mlx_sys::mlx_vector_array_new_data(pointers.as_ptr(), pointers.len());
            let mut status = mlx_sys::mlx_checkpoint(&raw mut forgetful, plain);
            if status == 0 {
                status = mlx_sys::mlx_closure_apply(results, forgetful, given);
            }
            mlx_sys::mlx_vector_array_free(given);
            mlx_sys::mlx_closure_free(forgetful);
            mlx_sys::mlx_closure_free(plain);
            status
        }
    })
    .map_err(|error| take_failure().unwrap_or(error))
}

/// What has to run again.
struct Again<M: ?Sized, F> {
    part: *const M,
    f: F,
    /// The handles of the trained parameters, which are inputs behind the others.
    trained: Vec<mlx_sys::mlx_array>,
    number: u64,
    is_training: bool,
    /// What random numbers are drawn from.
    key: Array,
}

impl<M, F> Again<M, F>
where
    M: Module + ?Sized + 'static,
    F: Fn(&M, &[Array]) -> Result<Vec<Array>, Exception> + 'static,
{
    fn run(&self, all: &[Array]) -> Result<Vec<Array>, Exception> {
        if SCOPE.with_borrow(|scope| scope.as_ref().is_none_or(|scope| scope.number != self.number)) {
            return Err(Exception::custom("a gradient is taken after its model was given back"));
        }
        let (inputs, trained) = all.split_at(all.len().saturating_sub(self.trained.len()));
        let _lying = Lying::new(self.trained.iter().copied(), trained);
        // SAFETY: the leaves of the part are leaves of the scope's model, which is borrowed while the scope lasts; and a part that
        // borrows nothing (it is `'static`) holds its leaves itself, so it lies where they do.
        let part = unsafe { &*self.part };
        let state = random::RandomState::from_key(self.key.clone());
        let run = || random::with_random_state(state, || (self.f)(part, inputs));
        if self.is_training { mode::train(run) } else { run() }
    }
}

unsafe extern "C" fn run<M, F>(
    results: *mut mlx_sys::mlx_vector_array,
    inputs: mlx_sys::mlx_vector_array,
    payload: *mut c_void,
) -> c_int
where
    M: Module + ?Sized + 'static,
    F: Fn(&M, &[Array]) -> Result<Vec<Array>, Exception> + 'static,
{
    let work = || {
        // SAFETY: MLX passes back the payload, and a live vector of arrays.
        let (again, inputs) = unsafe { (&*payload.cast::<Again<M, F>>(), raw::arrays_of(inputs)) };
        again.run(&inputs)
    };
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(arrays)) => {
            let pointers: Vec<mlx_sys::mlx_array> = arrays.iter().map(Array::as_ptr).collect();
            // SAFETY: MLX gives the place for a vector that it frees, and all arrays live during the call.
            unsafe { *results = mlx_sys::mlx_vector_array_new_data(pointers.as_ptr(), pointers.len()) };
            0
        }
        Ok(Err(error)) => fail(error),
        Err(_) => fail(Exception::custom("a part of a model panicked while it was computed")),
    }
}

unsafe extern "C" fn free<M, F>(payload: *mut c_void)
where
    M: Module + ?Sized + 'static,
    F: Fn(&M, &[Array]) -> Result<Vec<Array>, Exception> + 'static,
{
    // SAFETY: MLX frees the payload that `checkpoint` boxed, once.
    drop(unsafe { Box::from_raw(payload.cast::<Again<M, F>>()) });
}

/// Keeps why a part failed, since MLX only hears that it did.
fn fail(error: Exception) -> c_int {
    SCOPE.with_borrow_mut(|scope| scope.as_mut().map(|scope| scope.failed.get_or_insert(error).what().len()));
    1
}

fn take_failure() -> Option<Exception> {
    SCOPE.with_borrow_mut(|scope| scope.as_mut().and_then(|scope| scope.failed.take()))
}

/// Where a handle lies.
fn place(handle: &Array) -> usize {
    std::ptr::from_ref(handle).addr()
}

/// Arrays that lie in handles of a model, in place of those that come back when this goes.
struct Lying {
    handles: Vec<mlx_sys::mlx_array>,
    before: Vec<Array>,
}

impl Lying {
    /// `handles` must be of a model that is borrowed for as long as this lives.
    fn new(handles: impl Iterator<Item = mlx_sys::mlx_array>, arrays: &[Array]) -> Self {
        let mut lying = Self { handles: Vec::new(), before: Vec::new() };
        for (mut handle, array) in handles.zip(arrays) {
            // SAFETY: the handle is alive, and only this thread has it, since arrays are not `Sync`. What it held is kept, so that memory
            // which somebody reads stays.
            unsafe {
                let mut before = mlx_sys::mlx_array_new();
                mlx_sys::mlx_array_set(&raw mut before, handle);
                lying.before.push(Array::from_ptr(before));
                lying.handles.push(handle);
                mlx_sys::mlx_array_set(&raw mut handle, array.as_ptr());
            }
        }
        lying
    }
}

impl Drop for Lying {
    fn drop(&mut self) {
        for (mut handle, before) in self.handles.iter().copied().zip(&self.before) {
            // SAFETY: as above.
            unsafe { mlx_sys::mlx_array_set(&raw mut handle, before.as_ptr()) };
        }
    }
}

#[cfg(test)]
mod tests;
