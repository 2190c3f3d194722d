//! A draw from one distribution over the vocabulary: the entry in which the cumulated probabilities pass a random share, as in
//! MLX's `random::categorical` of one row.
//!
//! Unusual: probabilities are summed exactly, see [`super::mass`], and in blocks; only the block with the border is
//! looked at entry by entry. MLX sums them in f32, so that a share that falls within some 1e-6 of a border may draw the
//! neighbour there.

use std::cell::Cell;
use std::ffi::CStr;

use mlx_rs::error::Exception;
use mlx_rs::{Array, Dtype};

use super::super::{isa, multiversion, takes};
use super::mass::{BLOCK, largest, mass, masses};
use crate::kernels::convert::{Copies, Values};
use crate::kernels::isa::Isa;
use crate::kernels::primitive::{Gradient, Operation, View, ViewMut, apply_one};
use crate::kernels::scratch::{Scratch, with_scratch};

thread_local! {
    static ROOM: Scratch = const { Cell::new(Vec::new()) };
}

/// The number of the entry of `softmax(scale · logits)` that a share belongs to, computed in f32 from the distances to the largest
/// entry.
///
/// Where the largest logits are infinite, each of them is as likely; of a row with an entry that is not a number, it is 0.
///
/// # Shapes
/// - `logits`: `[…, V]` of a floating-point type, all other axes of size 1, `share`: `[…]` of `f32` in `[0, 1)`, result:
///   `[…]` of `u32`
#[track_caller]
pub(crate) fn draw(logits: &Array, scale: f32, share: &Array) -> Result<Option<Array>, Exception> {
    let one = |shape: &[i32]| logits.size() as i32 == logits.dim(-1) && shape.len() + 1 == logits.ndim();
    if logits.ndim() == 0 || !one(share.shape()) || share.dtype() != Dtype::Float32 || !takes([logits]) {
        return Ok(None);
    }
    apply_one(Draw { scale }, &[logits, share], share.shape(), Dtype::Uint32).map(Some)
}

#[derive(Debug)]
struct Draw {
    scale: f32,
}

impl Operation for Draw {
    fn name(&self) -> &'static CStr {
        c"Draw"
    }

    fn run(&self, inputs: &[View<'_>], outputs: &mut [ViewMut<'_>]) {
        let (mut a, mut b) = (Copies::default(), Vec::new());
        let (values, isa) = (Values::new(&inputs[0], &mut a), isa());
        let share = inputs[1].contiguous::<f32>(&mut b).first().copied().unwrap_or_default();
        with_scratch(&ROOM, values.len(), |logits| {
            values.read(isa, 0, logits);
            let largest = largest(isa, logits);
            if largest.is_finite() {
                scale_below(isa, logits, largest, self.scale);
            }
            outputs[0].as_mut_slice::<u32>().fill(entry_at(isa, logits, share) as u32);
        });
    }

    fn vjp(&self, _: &Gradient) -> Result<Vec<Array>, Exception> {
        Err(Exception::custom("a draw has no gradient"))
    }
}

/// The first entry at which the probabilities up to it pass a share of all.
fn entry_at(isa: Isa, logits: &mut [f32], share: f32) -> usize {
    let mut largest = largest(isa, logits);
    if largest.is_nan() {
        return 0;
    }
    if largest.is_infinite() {
        for x in logits.iter_mut() {
            *x = if x.total_cmp(&largest).is_eq() { 0.0 } else { f32::NEG_INFINITY };
        }
        largest = 0.0;
    }
    let logits = &*logits;
    let block = |number: usize| &logits[number * BLOCK..logits.len().min((number + 1) * BLOCK)];
    let masses = masses(isa, logits, largest);
    let border = f64::from(share) * masses.iter().sum::<f64>();
    let (mut below, mut last) = (0.0, 0);
    for (number, sum) in masses.iter().enumerate().filter(|(_, sum)| **sum > 0.0) {
        if below + sum > border {
            for (i, x) in block(number).iter().enumerate() {
                below += mass(isa, &[*x], largest);
                if below > border {
                    return number * BLOCK + i;
                }
            }
        }
        below += sum;
        last = number;
    }
    // Only a product that was rounded up to the whole comes here.
    let likely = block(last).iter().rposition(|x| mass(isa, &[*x], largest) > 0.0);
    last * BLOCK + likely.unwrap_or(0)
}

multiversion! {
    /// The distances to the largest entry, times a factor.
    fn scale_below(row: &mut [f32], largest: f32, factor: f32) {
        for x in row.iter_mut() {
            *x = (*x - largest) * factor;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// [`entry_at`] by one sum from the first entry on.
    fn plain(logits: &[f32], share: f32) -> usize {
        let largest = largest(Isa::Portable, logits);
        let weights = logits.iter().map(|x| mass(Isa::Portable, &[*x], largest));
        let border = f64::from(share) * weights.clone().sum::<f64>();
        let mut sum = 0.0;
        let mut passed = weights.map(|weight| {
            sum += weight;
            sum
        });
        passed.position(|sum| sum > border).unwrap()
    }

    proptest! {
        #[test]
        fn blocks_draw_as_one_sum_does(
            logits in prop::collection::vec(prop_oneof![3 => -20.0..0.0_f32, 1 => Just(f32::NEG_INFINITY)], 1..5000),
            share in 0.0..1.0_f32,
        ) {
            prop_assume!(logits.iter().any(|x| x.is_finite()));
            let want = plain(&logits, share);
            for isa in Isa::available() {
                prop_assert_eq!(entry_at(isa, &mut logits.clone(), share), want, "{}", isa);
            }
        }
    }

    #[test]
    fn only_what_is_likely_is_drawn_and_infinities_share() {
        let (inf, nan) = (f32::INFINITY, f32::NAN);
        for isa in Isa::available() {
            let draw = |logits: &[f32], share| entry_at(isa, &mut logits.to_vec(), share);
            for share in [0.0, 0.5, 1.0 - f32::EPSILON / 2.0, 1.0] {
                assert_eq!(draw(&[-inf, 0.0, -inf], share), 1);
            }
            assert_eq!([0.0, 0.49, 0.51, 0.99].map(|share| draw(&[0.0, inf, 1.0, inf], share)), [1, 1, 3, 3]);
            assert_eq!([0.0, 0.49, 0.51, 0.99].map(|share| draw(&[-inf, -inf], share)), [0, 0, 1, 1]);
            assert_eq!(draw(&[1.0, nan], 0.9), 0);
        }
    }
}
