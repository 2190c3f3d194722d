//! How strongly a group is scaled: the strength at which its module comes nearest to what it makes unpacked.

use std::collections::BTreeMap;

use mlxlm_core::nn::{Heard, LeafMut};
use mlxlm_core::{Array, ops, transforms};
use mlxlm_models::CausalLm;

use super::groups::{Group, sizes};
use super::weights::{Saved, divide_outputs, multiply_inputs, rounded, scaled, set_weight, weight};
use super::{Block, squared};
use crate::Result;
use crate::flow::with_leaf;

/// Where the error is measured.
#[derive(Debug)]
enum Sink {
    /// The only reader, by its own input.
    Reader,
    /// A later leaf of the module that the readers share.
    Leaf(mlxlm_core::nn::Place),
    /// The block.
    Output,
}

/// Scales a group as well as it can be.
pub(super) fn search(model: &mut dyn CausalLm, block: &Block<'_, '_>, group: &Group) -> Result<()> {
    let Some(first) = group.readers.first() else { return Ok(()) };
    let sink = sink(block, group);
    let (mut kept, mut wanted) = (Vec::new(), Vec::new());
    let (mut sum, mut count) = (Array::from_f32(0.0), 0_usize);
    let mut tried = block.tried().peekable();
    for batch in 0..block.batches() {
        let (output, heard) = block.run(model, batch, BTreeMap::new())?;
        let of = |place| heard.iter().find(|heard: &&Heard| heard.place == place).cloned();
        let Some(read) = of(first.place) else { return Ok(()) };
        // A stack may read its rows in another order than its norm made them.
        let maker = of(group.maker.place);
        let seen = maker.as_ref().filter(|_| group.maker.is_norm).map_or(&read.x, |maker| &maker.y);
        let (size, rows) = sizes(seen)?;
        (sum, count) = (sum.add(size)?, count + rows);
        if tried.next_if_eq(&batch).is_none() {
            transforms::eval([&sum])?;
            continue;
        }
        let target = match &sink {
            Sink::Reader => read.y.clone(),
            Sink::Leaf(place) => of(*place).map_or(output, |heard| heard.y),
            Sink::Output => output,
        };
        transforms::eval([&target, &sum, &read.x].into_iter().chain(maker.as_ref().map(|maker| &maker.y)))?;
        kept.push((read, maker.map(|maker| maker.y)));
        wanted.push(target);
    }
    let mean = sum.divide(Array::from_f32(count.max(1) as f32))?;
    let saved = Saved::of(model, group.readers.iter().map(|leaf| leaf.path.as_str()))?;
    let mut best: Option<(f64, Array)> = None;
    for step in 0..block.options.n_grid {
        let scales = strength(&mean, step as f32 / block.options.n_grid as f32)?;
        for reader in &group.readers {
            let Some(scheme) = block.plan.get(&reader.path) else { continue };
            if *scheme != block.options.scheme {
                continue;
            }
            if let Some(old) = weight(model, &reader.path)? {
                let tried = rounded(&scaled(&old, &scales)?, *scheme)?;
                set_weight(model, &reader.path, scaled(&tried, &scales.reciprocal()?)?)?;
            }
        }
        let mut loss = 0.0;
        for (batch, ((read, maker), wanted)) in block.tried().zip(kept.iter().zip(&wanted)) {
            let made = match &sink {
                Sink::Reader => again(model, &first.path, read)?,
                Sink::Leaf(_) | Sink::Output => {
                    let replaced = maker.iter().filter(|_| group.maker.is_norm);
                    let replaced = replaced.map(|y| (group.maker.place, y.clone())).collect();
                    let (output, heard) = block.run(model, batch, replaced)?;
                    match &sink {
                        Sink::Leaf(place) => {
                            heard.into_iter().find(|heard| heard.place == *place).map_or(output, |heard| heard.y)
                        }
                        _ => output,
                    }
                }
            };
            loss += squared(&made, wanted)?;
        }
        if loss.is_finite() && best.as_ref().is_none_or(|(least, _)| loss < *least) {
            best = Some((loss, scales));
        }
        saved.restore(model)?;
    }
    let Some((_, scales)) = best else { return Ok(()) };
    if divide_outputs(model, &group.maker.path, &scales)? {
        group.readers.iter().try_for_each(|reader| multiply_inputs(model, &reader.path, &scales))?;
    }
    Ok(())
}

/// What a map makes of an input that it had.
fn again(model: &mut dyn CausalLm, path: &str, read: &Heard) -> Result<Array> {
    let made = with_leaf(model, path, |leaf| match (leaf, &read.indices) {
        (LeafMut::Linear(leaf), _) => Ok(leaf.forward(&read.x)?),
        (LeafMut::Experts(leaf), Some(indices)) => Ok(leaf.forward(&read.x, indices, false)?),
        _ => Ok(read.y.clone()),
    })?;
    Ok(made.unwrap_or_else(|| read.y.clone()))
}

/// Larger inputs get larger factors: `mean^ratio`, with the least and the largest as far from one.
fn strength(mean: &Array, ratio: f32) -> Result<Array> {
    let scales = ops::maximum(mean.power(Array::from_f32(ratio))?, Array::from_f32(1e-4))?;
    let middle = scales.max(None)?.multiply(scales.min(None)?)?.sqrt()?;
    let scales = scales.divide(middle)?;
    transforms::eval([&scales])?;
    Ok(scales)
}

/// Where the error of a group is measured: where the module that its readers share hands on what it made.
fn sink(block: &Block<'_, '_>, group: &Group) -> Sink {
    if group.readers.len() == 1 && !group.maker.is_norm {
        return Sink::Reader;
    }
    let mut module: Vec<&str> = group.readers[0].path.split('.').collect();
    module.pop();
    for reader in &group.readers {
        let same = module.iter().zip(reader.path.split('.')).take_while(|(a, b)| **a == *b).count();
        module.truncate(same);
    }
    let inside = |path: &str| {
        let mut parts = path.split('.');
        module.iter().all(|part| parts.next() == Some(part)) && parts.next().is_some()
    };
    let of_module: Vec<_> = block.leaves.iter().filter(|leaf| !leaf.is_norm && inside(&leaf.path)).collect();
    let whole = block.leaves.iter().filter(|leaf| !leaf.is_norm).all(|leaf| inside(&leaf.path));
    match of_module.last() {
        Some(last) if !whole && of_module.iter().all(|leaf| !leaf.is_stack) => Sink::Leaf(last.place),
        _ => Sink::Output,
    }
}
