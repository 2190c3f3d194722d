//! What entries of a row weigh against its largest: their probabilities relative to that of the largest.
//!
//! Unusual: sums are exact. A mass is rounded to a multiple of [`UNIT`], which `f64` adds without an error, so that neither the
//! order of entries nor that of blocks plays a part.

use super::super::{LANES, math, multiversion};
use crate::kernels::gemm::Shared;
use crate::kernels::isa::Isa;
use crate::kernels::pool;

/// Small enough to say nothing of, and large enough for the sum of half a million entries to be exact.
const UNIT: f64 = 1.0 / (1_u64 << 34) as f64;
/// Entries that [`masses`] sums up together.
pub(super) const BLOCK: usize = 1024;
/// Blocks that a task sums up at least.
const TASK: usize = 16;

/// The mass of each block of [`BLOCK`] entries.
pub(super) fn masses(isa: Isa, row: &[f32], largest: f32) -> Vec<f64> {
    let mut masses = vec![0.0_f64; row.len().div_ceil(BLOCK)];
    let to = Shared(masses.as_mut_ptr());
    pool::parallel_ranges(masses.len(), TASK, masses.len().div_ceil(TASK), |from, end| {
        for (number, block) in row.chunks(BLOCK).enumerate().take(end).skip(from) {
            // SAFETY: each block is summed up by one task.
            unsafe { *to.get().add(number) = mass(isa, block, largest) };
        }
    });
    masses
}

multiversion! {
    /// The mass of all these entries.
    fn mass(row: &[f32], largest: f32) -> f64 {
        /// Adding it to a smaller number leaves no place for less than [`UNIT`].
        const ROUND: f64 = UNIT * 1.5 * (1_u64 << 52) as f64;
        let multiple = |value: f32| (f64::from(math::exp(value - largest)) + ROUND) - ROUND;
        let mut lanes = [0.0_f64; LANES];
        let chunks = row.chunks_exact(LANES);
        let rest = chunks.remainder();
        for chunk in chunks {
            for l in 0..LANES {
                lanes[l] += multiple(chunk[l]);
            }
        }
        rest.iter().map(|&value| multiple(value)).sum::<f64>() + lanes.iter().sum::<f64>()
    }
}

multiversion! {
    /// The largest entry; not a number if one of them is not.
    fn largest(row: &[f32]) -> f32 {
        largest_of(row)
    }
}

/// [`largest`], for functions that have a version for each level themselves.
#[inline(always)]
pub(super) fn largest_of(row: &[f32]) -> f32 {
    let (mut lanes, mut unordered) = ([f32::NEG_INFINITY; LANES], [false; LANES]);
    let chunks = row.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for l in 0..LANES {
            lanes[l] = if chunk[l] > lanes[l] { chunk[l] } else { lanes[l] };
            unordered[l] |= chunk[l].is_nan();
        }
    }
    if unordered.contains(&true) || rest.iter().any(|value| value.is_nan()) {
        return f32::NAN;
    }
    math::max(&lanes).max(math::max(rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::super::tests::{each_level, numbers};
    use super::*;

    proptest! {
        #[test]
        fn a_mass_has_no_order(row in prop::collection::vec(-40.0..0.0_f32, 1..5000)) {
            let mut turned = row.clone();
            turned.reverse();
            let want = mass(Isa::Portable, &turned, 0.0).to_bits();
            for isa in Isa::available() {
                prop_assert_eq!(mass(isa, &row, 0.0).to_bits(), want, "{}", isa);
                prop_assert_eq!(masses(isa, &row, 0.0).iter().sum::<f64>().to_bits(), want, "{}", isa);
            }
        }

        #[test]
        fn the_largest_is_found_at_every_level(row in numbers(1..100)) {
            let nan = row.iter().any(|x| x.is_nan());
            let want = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            each_level(1, |isa, out| out[0] = largest(isa, &row))?;
            let got = largest(Isa::Portable, &row);
            let same = got.is_nan() && nan || got.total_cmp(&want).is_eq() || got.abs() + want.abs() == 0.0;
            prop_assert!(same, "{} is not {}", got, want);
        }
    }
}
