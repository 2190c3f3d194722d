//! Who reads what whom makes, found out by trying: the results of one leaf are divided by powers of two, which floats take without
//! rounding, and whoever then reads inputs that are divided so, and nothing else, reads them. Multiplied there, the block must
//! make what it made before.

use mlxlm_core::nn::{self, Heard, Leaf};
use mlxlm_core::ops::indexing::TryIndexOp;
use mlxlm_core::{Array, Dtype, ops, transforms};
use mlxlm_models::CausalLm;

use super::Asked;
use super::weights::{Saved, divide_outputs, multiply_inputs};
use crate::Result;
use crate::flow::{Flow, stages};

/// A leaf, and the maps that may be scaled if it makes up for it.
#[derive(Debug, Clone)]
pub(super) struct Group {
    pub(super) maker: Asked,
    pub(super) readers: Vec<Asked>,
}

/// What a block was found to be.
#[derive(Debug)]
pub(super) struct Found {
    /// Those of maps first: what they are scaled by is scaled again by that of their norm.
    pub(super) groups: Vec<Group>,
    /// Maps that only weigh tokens against each other, as queries and keys do: what they make has no part in the first token, which
    /// sees no other.
    pub(super) only_scores: Vec<String>,
}

/// The maps and norms that a block asks, in their order.
pub(super) fn asked(model: &dyn CausalLm, probe: &Flow<'_>) -> Result<Vec<Asked>> {
    let (_, heard) = run(model, probe)?;
    let mut leaves: Vec<Asked> = Vec::new();
    for place in heard.iter().map(|heard| heard.place) {
        if leaves.iter().any(|leaf| leaf.place == place) {
            continue;
        }
        model.walk("", &mut |path, leaf| {
            if leaf.place() == place {
                let (is_norm, is_stack) = (matches!(leaf, Leaf::Norm(_)), matches!(leaf, Leaf::Experts(_)));
                leaves.push(Asked { place, path: path.to_owned(), is_norm, is_stack });
            }
        });
    }
    Ok(leaves)
}

fn run(model: &dyn CausalLm, probe: &Flow<'_>) -> Result<(Array, Vec<Heard>)> {
    let stages = stages(model)?;
    let at = &probe.batches()[0];
    let (next, heard) = nn::watch(std::collections::BTreeMap::new(), || stages.advance(at));
    let next = next?;
    transforms::eval(heard.iter().map(|heard| &heard.x).chain([&next.x]))?;
    Ok((next.x, heard))
}

/// Tries every leaf of a block.
pub(super) fn find(model: &mut dyn CausalLm, probe: &Flow<'_>, leaves: &[Asked]) -> Result<Found> {
    let saved = Saved::of(model, leaves.iter().map(|leaf| leaf.path.as_str()))?;
    let (output, before) = run(model, probe)?;
    let (mut of_maps, mut of_norms, mut only_scores) = (Vec::new(), Vec::new(), Vec::new());
    for maker in leaves {
        let Some(made) = before.iter().find(|heard| heard.place == maker.place) else { continue };
        let scales = powers(made.y.dim(-1));
        if divide_outputs(model, &maker.path, &scales)? {
            let (changed, heard) = run(model, probe)?;
            if !maker.is_norm && only_scored(&output, &changed)? {
                only_scores.push(maker.path.clone());
            }
            let mut readers = readers(&before, &heard, leaves, maker, &scales)?;
            // A router that reads the same chooses other experts until it is made up for.
            for _ in 0..2 {
                if readers.is_empty() {
                    break;
                }
                made_up(model, &saved, maker, &readers, &scales)?;
                let (_, heard) = run(model, probe)?;
                let more = self::readers(&before, &heard, leaves, maker, &scales)?;
                if more.len() <= readers.len() {
                    break;
                }
                readers = more;
            }
            if !readers.is_empty() {
                made_up(model, &saved, maker, &readers, &scales)?;
                if near(&run(model, probe)?.0, &output)? {
                    let group = Group { maker: maker.clone(), readers };
                    if maker.is_norm { of_norms.push(group) } else { of_maps.push(group) }
                }
            }
        }
        saved.restore(model)?;
    }
    of_maps.append(&mut of_norms);
    Ok(Found { groups: of_maps, only_scores })
}

/// The block with one leaf divided and its readers multiplied.
fn made_up(model: &mut dyn CausalLm, saved: &Saved, maker: &Asked, readers: &[Asked], scales: &Array) -> Result<()> {
    saved.restore(model)?;
    divide_outputs(model, &maker.path, scales)?;
    readers.iter().try_for_each(|reader| multiply_inputs(model, &reader.path, scales))
}

/// The maps whose inputs are divided by `scales` now.
fn readers(before: &[Heard], now: &[Heard], leaves: &[Asked], maker: &Asked, scales: &Array) -> Result<Vec<Asked>> {
    let mut readers = Vec::new();
    for leaf in leaves.iter().filter(|leaf| !leaf.is_norm && leaf.place != maker.place) {
        let of = |heard: &[Heard]| {
            heard.iter().filter(|heard| heard.place == leaf.place).map(|heard| heard.x.clone()).collect()
        };
        let (before, now): (Vec<Array>, Vec<Array>) = (of(before), of(now));
        let mut all = !now.is_empty() && before.len() == now.len();
        for (before, now) in before.iter().zip(&now) {
            let divided = before.dim(-1) == scales.dim(0) && before.shape() == now.shape();
            all = all && divided && near(now, &before.as_dtype(Dtype::Float32)?.divide(scales)?)?;
        }
        if all {
            readers.push(leaf.clone());
        }
    }
    Ok(readers)
}

/// Whether the first token is as before, and others are not.
fn only_scored(before: &Array, now: &Array) -> Result<bool> {
    let first = |array: &Array| array.try_index((.., ..1));
    Ok(before.dim(1) > 1 && near(&first(now)?, &first(before)?)? && !near(now, before)?)
}

/// Whether two arrays are the same but for rounding.
fn near(a: &Array, b: &Array) -> Result<bool> {
    let tolerance = if a.dtype() == Dtype::Float32 { 1e-4 } else { 2e-2 };
    let b = b.as_dtype(Dtype::Float32)?;
    let off = a.as_dtype(Dtype::Float32)?.subtract(&b)?.abs()?.max(None)?.try_item_exact::<f32>()?;
    let most = b.abs()?.max(None)?.try_item_exact::<f32>()?;
    Ok(off <= tolerance * most)
}

/// Powers of two that have no pattern: `[count]`.
fn powers(count: i32) -> Array {
    let power = |i: u32| match i.wrapping_mul(0x9E37_79B9) >> 30 {
        0 => 0.25_f32,
        1 => 0.5,
        2 => 2.0,
        _ => 4.0,
    };
    let all: Vec<f32> = (0..count.unsigned_abs()).map(|i| power(i + 1)).collect();
    Array::from_slice(&all, &[count])
}

/// The mean of absolute values of rows, over all but the last axis, as a sum and a count.
pub(super) fn sizes(x: &Array) -> Result<(Array, usize)> {
    let wide = ops::abs(x)?.as_dtype(Dtype::Float32)?.reshape(&[-1, x.dim(-1)])?;
    Ok((wide.sum_axis(0, false)?, wide.dim(0) as usize))
}
