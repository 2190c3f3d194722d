//! Filters of a distribution over the vocabulary, without sorting it: the most likely entries stay, the others become minus
//! infinity.
//!
//! Each filter finds the [`Border`] of a row first: a value, and how many of those equal to it stay. A few passes over the row
//! leave few entries in question, which are then selected in linear time.
//!
//! What is unusual:
//! - Of equal entries at the border of [`Keep::Top`], and of the entries that [`Keep::Near`] keeps at least, the first stay;
//!   the other borders lie between different values.
//! - Masses are exact, see [`super::mass`].
#![allow(clippy::float_cmp, reason = "entries that are equal are the matter here")]

use std::cell::Cell;
use std::ffi::CStr;

use half::{bf16, f16};
use mlx_rs::error::Exception;
use mlx_rs::{Array, Dtype};

use super::super::{isa, math, multiversion, takes};
use super::mass::{largest, mass, masses};
use crate::kernels::convert::{Copies, Results, Values};
use crate::kernels::isa::Isa;
use crate::kernels::pool;
use crate::kernels::primitive::{Gradient, Operation, View, ViewMut, apply_one};
use crate::kernels::scratch::{Scratch, with_scratch};

/// What a filter keeps of a row of log-probabilities.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Keep {
    /// This many of the largest.
    Top(usize),
    /// The fewest whose probabilities add up to this share of all, and what equals the least of them.
    Share(f64),
    /// Those at most `below` less than the largest, and `at_least` so many of the largest.
    Near { below: f32, at_least: usize },
}

/// What stays of a row: all that is larger than `at`, and the first `ties` that are equal to it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Border {
    at: f32,
    ties: usize,
}

impl Border {
    const fn all_from(at: f32) -> Self {
        Self { at, ties: usize::MAX }
    }

    const ALL: Self = Self::all_from(f32::NEG_INFINITY);
}

/// Distances from the largest log-probability within which the border of a share is looked for.
const REACHES: [f32; 3] = [6.0, 12.0, f32::INFINITY];
/// Entries of which only the largest counts at first.
const GROUP: usize = 64;

/// Sets what is not kept to minus infinity. A row with an entry that is not a number stays as it is.
///
/// # Shapes
/// - `x`: `[…, V]` of a floating-point type, and the same comes back
#[track_caller]
pub(crate) fn keep(x: &Array, what: Keep) -> Result<Option<Array>, Exception> {
    if x.ndim() == 0 || !takes([x]) {
        return Ok(None);
    }
    apply_one(Filter(what), &[x], x.shape(), x.dtype()).map(Some)
}

thread_local! {
    /// A row of a 16-bit type as f32, and the same of the result.
    static ROOM: Scratch = const { Cell::new(Vec::new()) };
}

#[derive(Debug)]
struct Filter(Keep);

impl Operation for Filter {
    fn name(&self) -> &'static CStr {
        c"Filter"
    }

    fn run(&self, inputs: &[View<'_>], outputs: &mut [ViewMut<'_>]) {
        let mut copies = Copies::default();
        let (values, isa, dtype) = (Values::new(&inputs[0], &mut copies), isa(), inputs[0].dtype);
        let width = inputs[0].shape.last().map_or(1, |&size| size as usize);
        let (rows, out) = (values.len() / width.max(1), Results::new(&mut outputs[0]));
        pool::parallel_ranges(rows, 1, rows, |from, to| {
            with_scratch(&ROOM, 2 * width, |room| {
                let (a, b) = room.split_at_mut(width);
                for row in from..to {
                    let (from, to) = (row * width, (row + 1) * width);
                    let x = values.part(isa, from, to, a);
                    let border = self.0.border(isa, x, dtype);
                    // SAFETY: rows are written by one task each.
                    unsafe { out.part(isa, from, to, b, |out| cut(isa, x, border, out)) };
                }
            });
        });
    }

    /// What is kept passes its gradient on.
    fn vjp(&self, at: &Gradient) -> Result<Vec<Array>, Exception> {
        let kept = at.outputs[0].eq(&at.primals[0])?.as_dtype(at.primals[0].dtype())?;
        Ok(vec![at.cotangents[0].multiply(kept)?])
    }
}

impl Keep {
    /// The border of a row of this type.
    fn border(self, isa: Isa, row: &[f32], dtype: Dtype) -> Border {
        let largest = largest(isa, row);
        if largest.is_nan() || largest == f32::NEG_INFINITY {
            return Border::ALL;
        }
        match self {
            Self::Top(count) => top(isa, row, count),
            Self::Share(share) => self::share(isa, row, largest, share),
            Self::Near { below, at_least } => {
                let round = |value: f32| match dtype {
                    Dtype::Float16 => f16::from_f32(value).to_f32(),
                    Dtype::Bfloat16 => bf16::from_f32(value).to_f32(),
                    _ => value,
                };
                let near = Border::all_from(round(largest - round(below)));
                if at_least <= 1 {
                    return near;
                }
                let top = top(isa, row, at_least);
                if top.at < near.at { top } else { near }
            }
        }
    }
}

/// The border of the `count` largest.
fn top(isa: Isa, row: &[f32], count: usize) -> Border {
    if count >= row.len() {
        return Border::ALL;
    }
    let Some(last) = count.checked_sub(1) else { return Border { at: f32::INFINITY, ties: 0 } };
    let mut list = vec![0.0; row.len().div_ceil(GROUP)];
    group_maxima(isa, row, &mut list);
    // As many groups hold an entry of at least this, so the border is no less.
    let least = match list.get(last) {
        Some(_) => *list.select_nth_unstable_by(last, |a, b| b.total_cmp(a)).1,
        None => f32::NEG_INFINITY,
    };
    list.clear();
    collect_from(isa, row, least, &mut list);
    let (larger, &mut at, _) = list.select_nth_unstable_by(last, |a, b| b.total_cmp(a));
    Border { at, ties: count - larger.iter().filter(|&&value| value > at).count() }
}

/// The border of the fewest entries that have a share of all.
fn share(isa: Isa, row: &[f32], largest: f32, share: f64) -> Border {
    if largest == f32::INFINITY {
        return Border::all_from(largest);
    }
    let enough = masses(isa, row, largest).iter().sum::<f64>() * share;
    let mut list = Vec::new();
    for reach in REACHES {
        list.clear();
        collect_from(isa, row, largest - reach, &mut list);
        if mass(isa, &list, largest) >= enough {
            break;
        }
    }
    Border::all_from(least_kept(isa, &mut list, largest, enough))
}

/// The least entry with less than `enough` mass in the entries that are larger.
fn least_kept(isa: Isa, mut list: &mut [f32], largest: f32, enough: f64) -> f32 {
    let (mut least, mut above) = (largest, 0.0);
    while !list.is_empty() {
        let middle = list.len() / 2;
        let (upper, &mut pivot, lower) = list.select_nth_unstable_by(middle, |a, b| b.total_cmp(a));
        let upper_mass = mass(isa, upper, largest);
        let tied = upper.iter().filter(|&&value| value <= pivot).count() as f64 * mass(isa, &[pivot], largest);
        if above + upper_mass - tied < enough {
            // The pivot stays; what equals it needs no further look.
            least = pivot;
            above += upper_mass + mass(isa, &[pivot], largest);
            list = lower;
        } else {
            list = upper;
        }
    }
    least
}

multiversion! {
    fn group_maxima(row: &[f32], maxima: &mut [f32]) {
        for (group, largest) in row.chunks(GROUP).zip(maxima) {
            *largest = math::max(group);
        }
    }
}

multiversion! {
    /// Appends what is at least `least`.
    fn collect_from(row: &[f32], least: f32, list: &mut Vec<f32>) {
        for group in row.chunks(GROUP) {
            if math::max(group) >= least {
                // Written whether it counts or not, which is faster than to foresee what counts.
                let (mut found, mut count) = ([0.0; GROUP], 0);
                for &value in group {
                    found[count] = value;
                    count += usize::from(value >= least);
                }
                list.extend_from_slice(&found[..count]);
            }
        }
    }
}

multiversion! {
    /// The row with minus infinity where nothing stays.
    fn cut(row: &[f32], border: Border, out: &mut [f32]) {
        let (Border { at, mut ties }, row) = (border, &row[..out.len()]);
        if ties == usize::MAX {
            for i in 0..out.len() {
                out[i] = if row[i] < at { f32::NEG_INFINITY } else { row[i] };
            }
            return;
        }
        for (group, out) in row.chunks(GROUP).zip(out.chunks_mut(GROUP)) {
            let mut tied = false;
            for i in 0..out.len() {
                tied |= group[i] == at;
                out[i] = if group[i] > at { group[i] } else { f32::NEG_INFINITY };
            }
            if tied && ties > 0 {
                for (value, out) in group.iter().zip(out).filter(|(value, _)| **value == at).take(ties) {
                    *out = *value;
                    ties -= 1;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fast::testing::check as check_gradient;

    /// Log-probabilities, of which many are equal.
    fn rows() -> impl Strategy<Value = Vec<f32>> {
        let ordinary = prop::collection::vec((-40_i16..0).prop_map(|n| f32::from(n) * 0.25), 1..700);
        let fine = prop::collection::vec(-30.0..0.0_f32, 1..700);
        let odd = prop::collection::vec(prop::sample::select(vec![0.0, -0.0, -1.0, f32::NEG_INFINITY]), 1..200);
        prop_oneof![ordinary, fine, odd]
    }

    /// The numbers of the entries, the largest first and of equals the first first.
    fn sorted(row: &[f32]) -> Vec<usize> {
        let mut order: Vec<usize> = (0..row.len()).collect();
        order.sort_by(|&i, &j| row[j].partial_cmp(&row[i]).unwrap());
        order
    }

    /// What stays of a row, by sorting it.
    fn plain(row: &[f32], what: Keep) -> Vec<f32> {
        let order = sorted(row);
        let largest = row[order[0]];
        let mut kept = vec![false; row.len()];
        let mut keep_first = |count: usize| order.iter().take(count).for_each(|&i| kept[i] = true);
        match what {
            _ if largest == f32::NEG_INFINITY => return row.to_vec(),
            Keep::Top(count) => keep_first(count),
            Keep::Near { below, at_least } => {
                keep_first(if at_least > 1 { at_least } else { 0 });
                (0..row.len()).filter(|&i| row[i] >= largest - below).for_each(|i| kept[i] = true);
            }
            Keep::Share(share) => {
                let total: f64 = order.iter().map(|&i| mass(Isa::Portable, &row[i..=i], largest)).sum();
                let above = |i: usize| {
                    let larger = order.iter().filter(|&&j| row[j] > row[i]);
                    larger.map(|&j| mass(Isa::Portable, &row[j..=j], largest)).sum::<f64>()
                };
                (0..row.len()).filter(|&i| above(i) < total * share).for_each(|i| kept[i] = true);
            }
        }
        row.iter().zip(kept).map(|(&value, kept)| if kept { value } else { f32::NEG_INFINITY }).collect()
    }

    fn check(row: &[f32], what: Keep) -> Result<(), TestCaseError> {
        let want = plain(row, what);
        for isa in Isa::available() {
            let mut got = vec![0.0; row.len()];
            cut(isa, row, what.border(isa, row, Dtype::Float32), &mut got);
            let same = got.iter().zip(&want).all(|(a, b)| a.to_bits() == b.to_bits());
            prop_assert!(same, "{isa} {what:?}: {got:?} is not {want:?}");
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn the_top_is_that_of_sorting(row in rows(), count in 1_usize..80) {
            check(&row, Keep::Top(count.min(row.len())))?;
        }

        #[test]
        fn shares_are_those_of_sorting(row in rows(), share in 0.001..0.999_f64) {
            check(&row, Keep::Share(share))?;
        }

        #[test]
        fn what_is_near_is_that_of_sorting(row in rows(), below in 0.0..10.0_f32, at_least in 1_usize..20) {
            check(&row, Keep::Near { below, at_least })?;
        }
    }

    #[test]
    fn rows_that_are_no_distribution_pass_or_keep_their_infinities() {
        let (inf, nan) = (f32::INFINITY, f32::NAN);
        for isa in Isa::available() {
            for what in [Keep::Top(2), Keep::Share(0.5), Keep::Near { below: 1.0, at_least: 2 }] {
                let border = |row: &[f32]| what.border(isa, row, Dtype::Float32);
                assert_eq!(border(&[0.0, nan, 1.0, 2.0]), Border::ALL);
                assert_eq!(border(&[-inf, -inf, -inf]), Border::ALL);
                let mut out = [0.0; 4];
                cut(isa, &[inf, 0.0, inf, 1.0], border(&[inf, 0.0, inf, 1.0]), &mut out);
                assert_eq!(out, [inf, -inf, inf, -inf], "{what:?}");
            }
        }
    }

    #[test]
    fn what_stays_passes_its_gradient_on() {
        // Entries lie far enough apart for a step to change nothing of what stays.
        let place = |i: i32| f32::from((i * 37 % 100) as i8) * -0.25;
        let x = Array::from_slice(&(0..300).map(|i| place(i % 100)).collect::<Vec<_>>(), &[3, 100]);
        for what in [
            Keep::Top(7),
            Keep::Top(100),
            Keep::Share(0.7),
            Keep::Near { below: 1.1, at_least: 1 },
            Keep::Near { below: 1.1, at_least: 20 },
        ] {
            let kept = keep(&x, what).unwrap().unwrap().exp().unwrap().gt(Array::from_f32(0.0)).unwrap();
            let inputs = [x.clone()];
            let fast = |x: &[Array]| keep(&x[0], what)?.unwrap().exp();
            check_gradient(&inputs, fast, |x| x[0].exp()?.multiply(&kept));
        }
    }
}
