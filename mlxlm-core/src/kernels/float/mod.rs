//! What stands between the matrix products, each with its gradient in one pass: attention as training needs it, gated
//! activations, norms, rotation, cross entropy, and what is asked of the vocabulary. Sums are f32 in every type.
//!
//! The functions give `None` for what they are not made for, which MLX's own operations then do or refuse.
//!
//! The loops are plain Rust, compiled once for each level of instructions by [`multiversion`]; sums run in lanes of
//! [`LANES`], whose number is the same at every level. Unusual: nothing is split by the number of threads, so that a
//! result does not depend on it.

mod attention;
mod cross_entropy;
mod math;
mod rms_norm;
mod rope;
mod swiglu;
mod vocabulary;

use mlx_rs::{Array, Dtype};

use super::convert::Values;
use super::isa::Isa;
use super::primitive::{View, on_cpu};

pub(crate) use attention::causal_attention;
pub(crate) use cross_entropy::cross_entropy;
pub(crate) use rms_norm::rms_norm;
pub(crate) use rope::Rotation;
pub(crate) use swiglu::swiglu;
pub(crate) use vocabulary::{argmax, logsumexp};

/// Partial sums of a reduction.
const LANES: usize = 16;

/// Defines a function for each level of instructions with one body, and the choice between them.
///
/// The first argument of the function that it defines is the [`Isa`]; the body is compiled three times.
macro_rules! multiversion {
    ($(#[$doc:meta])* fn $name:ident($($arg:ident: $type:ty),* $(,)?) $(-> $out:ty)? $body:block) => {
        $(#[$doc])*
        #[allow(clippy::too_many_arguments, reason = "inner loops take their operands one by one")]
        pub(super) fn $name(isa: Isa, $($arg: $type),*) $(-> $out)? {
            #[inline(always)]
            fn body($($arg: $type),*) $(-> $out)? $body
            #[target_feature(enable = "avx2,fma")]
            fn avx2($($arg: $type),*) $(-> $out)? {
                body($($arg),*)
            }
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
            fn avx512($($arg: $type),*) $(-> $out)? {
                body($($arg),*)
            }
            match isa {
                Isa::Portable => body($($arg),*),
                // SAFETY: an active level is one that the machine has.
                Isa::Avx2 => unsafe { avx2($($arg),*) },
                // SAFETY: as above.
                Isa::Avx512 | Isa::Amx => unsafe { avx512($($arg),*) },
            }
        }
    };
}
use multiversion;

/// Whether these are arrays of one floating-point type with values in them, to be computed with on the CPU.
fn takes<'a>(arrays: impl IntoIterator<Item = &'a Array>) -> bool {
    let mut dtypes = arrays.into_iter().map(|array| (array.size() > 0).then(|| array.dtype()));
    let first = dtypes.next().flatten();
    matches!(first, Some(Dtype::Float32 | Dtype::Float16 | Dtype::Bfloat16))
        && dtypes.all(|dtype| dtype == first)
        && on_cpu()
}

/// The level in use. A bad `MLXLM_ISA` is told where programs start; here it means the plainest.
fn isa() -> Isa {
    Isa::active().unwrap_or(Isa::Portable)
}

/// All values as f32: in place, or copied.
fn widened<'a>(isa: Isa, values: Values<'a>, copy: &'a mut Vec<f32>) -> &'a [f32] {
    if !matches!(values, Values::F32(_)) {
        copy.resize(values.len(), 0.0);
    }
    values.part(isa, 0, values.len(), copy)
}

/// An array `[B, H, L, d]` whose rows of `d` are contiguous, wherever they lie.
#[derive(Clone, Copy)]
struct Heads {
    data: *const f32,
    /// Values between neighbours of each of the first three axes.
    strides: [usize; 3],
}

// SAFETY: the values are only read, and MLX keeps them while the operation runs.
unsafe impl Sync for Heads {}

impl Heads {
    /// The heads of a view, copied to `buffer` if their rows are not contiguous.
    fn of(view: &View<'_>, buffer: &mut Vec<f32>) -> Self {
        let &[_, heads, len, dims] = view.shape else { unreachable!("heads have four axes") };
        if let &[b, h, l, 1] = view.strides {
            return Self { data: view.as_ptr(), strides: [b as usize, h as usize, l as usize] };
        }
        let (len, row) = (len as usize, dims as usize);
        if !view.is_contiguous() {
            let mut copy = Vec::new();
            view.contiguous(&mut copy);
            *buffer = copy;
            return Self { data: buffer.as_ptr(), strides: [heads as usize * len * row, len * row, row] };
        }
        Self { data: view.as_ptr(), strides: [heads as usize * len * row, len * row, row] }
    }

    /// The rows of one head; two of them lie [`Self::ld`] apart.
    fn head(&self, batch: usize, head: usize) -> *const f32 {
        // SAFETY: the head is inside the view.
        unsafe { self.data.add(batch * self.strides[0] + head * self.strides[1]) }
    }

    fn ld(&self) -> usize {
        self.strides[2]
    }
}
