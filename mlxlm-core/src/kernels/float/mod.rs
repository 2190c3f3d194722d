//! What stands between the matrix products, each with its gradient in one pass: activations, norms, rotation, losses, short
//! convolutions, and what is asked of the vocabulary. Sums are f32 in every type.
//!
//! The functions give `None` for what they are not made for, which MLX's own operations then do or refuse.
//!
//! The loops are plain Rust, compiled once for each level of instructions by [`multiversion`]; sums run in lanes of
//! [`LANES`], whose number is the same at every level. Unusual: nothing is split by the number of threads, so that a
//! result does not depend on it.

mod activation;
mod cross_entropy;
mod divergence;
mod hadamard;
pub(super) mod math;
mod norm;
mod rope;
mod short_conv;
mod softmax;
mod vocabulary;

use mlx_rs::{Array, Dtype};

use super::convert::Values;
use super::isa::Isa;
use super::primitive::on_cpu;

pub(crate) use activation::{activated, gated};
pub(crate) use cross_entropy::cross_entropy;
pub(crate) use divergence::divergence;
pub(crate) use hadamard::hadamard;
pub(crate) use norm::{add_rms_norm, layer_norm, rms_norm};
pub(crate) use rope::Rotation;
pub(crate) use short_conv::short_conv;
pub(crate) use softmax::softmax;
pub(crate) use vocabulary::{Keep, argmax, draw, keep, logsumexp};

/// Partial sums of a reduction.
pub(super) const LANES: usize = 16;

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
pub(super) use multiversion;

/// Whether these are arrays of one floating-point type with values in them, to be computed with on the CPU.
fn takes<'a>(arrays: impl IntoIterator<Item = &'a Array>) -> bool {
    let mut dtypes = arrays.into_iter().map(|array| (array.size() > 0).then(|| array.dtype()));
    let first = dtypes.next().flatten();
    matches!(first, Some(Dtype::Float32 | Dtype::Float16 | Dtype::Bfloat16))
        && dtypes.all(|dtype| dtype == first)
        && on_cpu()
}

/// The level in use. A bad `MLXLM_ISA` is reported where programs start; here it means the plainest.
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

#[cfg(test)]
pub(super) mod tests {
    //! What the tests of the families share.

    use std::ops::Range;

    use proptest::prelude::*;

    use super::Isa;

    /// Rows of everything that a float can be, of which most are ordinary.
    pub(in crate::kernels) fn numbers(len: Range<usize>) -> impl Strategy<Value = Vec<f32>> {
        let special = prop::sample::select(vec![0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 1e38, -1e38]);
        let row = |odd: bool| if odd { 40 } else { 0 };
        any::<bool>().prop_flat_map(move |odd| {
            let number = prop_oneof![1000 => -20.0..20.0_f32, row(odd) => special.clone()];
            prop::collection::vec(number, len.clone())
        })
    }

    /// Holds what `compute` makes of `len` zeros at every level against the portable result, bit by bit. Which of several
    /// reasons for not being a number a result carries is left open.
    pub(in crate::kernels) fn each_level(len: usize, compute: impl Fn(Isa, &mut [f32])) -> Result<(), TestCaseError> {
        let at = |isa| {
            let mut out = vec![0.0; len];
            compute(isa, &mut out);
            out
        };
        let want = at(Isa::Portable);
        for isa in Isa::available() {
            for (i, (got, want)) in at(isa).iter().zip(&want).enumerate() {
                let same = got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan();
                prop_assert!(same, "{} at {}: {} is not {}", isa, i, got, want);
            }
        }
        Ok(())
    }
}
