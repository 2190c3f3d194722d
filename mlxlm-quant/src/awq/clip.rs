//! How far the weights of each group are clipped: as far as what the group adds to a row comes nearest to what it added.

use std::collections::BTreeMap;

use mlxlm_core::ops::indexing::TryIndexOp;
use mlxlm_core::quant::Scheme;
use mlxlm_core::{Array, Dtype, ops, transforms};
use mlxlm_models::CausalLm;

use super::Block;
use super::weights::{rounded, set_weight, weight};
use crate::Result;
use crate::flow::rows;

/// The most rows of inputs that are looked at.
const MOST_FRAMES: usize = 512;

/// The most that is clipped away, of one.
const MOST_SHRINK: f32 = 0.5;

/// Rows of weights that are tried at once.
const ROWS: i32 = 256;

/// Clips every map of a block that is packed, but those that only weigh tokens against each other.
pub(super) fn search_all(model: &mut dyn CausalLm, block: &Block<'_, '_>, spared: &[String]) -> Result<()> {
    let mut frames = frames(model, block)?;
    for path in block.packed_maps() {
        let scheme = block.plan[&path];
        if scheme != block.options.scheme || spared.contains(&path) {
            continue;
        }
        if let (Some(x), Some(old)) = (frames.remove(&path), weight(model, &path)?) {
            let clipped = search(&old, &x, scheme, block.options.n_grid)?;
            set_weight(model, &path, clipped)?;
        }
    }
    Ok(())
}

/// What each map reads, thinned out: `[N, in]`, `f32`.
fn frames(model: &dyn CausalLm, block: &Block<'_, '_>) -> Result<BTreeMap<String, Array>> {
    let mut all: BTreeMap<String, Vec<Array>> = BTreeMap::new();
    let mut passed: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    let batches = block.tried().count();
    for batch in block.tried() {
        let (_, heard) = block.run(model, batch, BTreeMap::new())?;
        for heard in &heard {
            let Some(leaf) = block.leaves.iter().find(|leaf| leaf.place == heard.place && !leaf.is_norm) else {
                continue;
            };
            let x = rows(model, heard)?;
            let count = x.dim(0) as usize;
            // All batches but the last are as large as the first.
            let (seen, step) =
                passed.entry(leaf.path.clone()).or_insert((0, (count * batches).div_ceil(MOST_FRAMES).max(1)));
            let start = (*step - *seen % *step) % *step;
            *seen += count;
            if start < count {
                let chosen: Vec<i32> = (start..count).step_by(*step).map(|i| i as i32).collect();
                let x = x.take_axis(Array::from_slice(&chosen, &[chosen.len() as i32]), 0)?;
                transforms::eval([&x])?;
                all.entry(leaf.path.clone()).or_default().push(x);
            }
        }
    }
    all.into_iter().map(|(path, parts)| Ok((path, ops::concatenate(&parts, 0)?))).collect()
}

/// The matrix with its groups clipped.
fn search(old: &Array, x: &Array, scheme: Scheme, n_grid: usize) -> Result<Array> {
    let (shape, group) = (old.shape().to_vec(), scheme.group_size);
    let wide = old.as_dtype(Dtype::Float32)?.reshape(&[-1, old.dim(-1)])?;
    let groups = wide.dim(1) / group;
    // `[G, N, g]`
    let x = x.reshape(&[x.dim(0), groups, group])?.transpose_axes(&[1, 0, 2])?;
    let mut clipped = Vec::new();
    for start in (0..wide.dim(0)).step_by(ROWS as usize) {
        let w = wide.try_index((start..wide.dim(0).min(start + ROWS), ..))?;
        let count = w.dim(0);
        let w = w.reshape(&[count, groups, group])?;
        // `[G, N, rows]`
        let added = |w: &Array| x.matmul(w.transpose_axes(&[1, 2, 0])?);
        let wanted = added(&w)?;
        let most = w.abs()?.max_axis(-1, true)?;
        let mut least = ops::full::<f32>(&[groups, count], Array::from_f32(f32::INFINITY))?;
        let mut bound = ops::zeros::<f32>(&[count, groups, 1])?;
        for step in 0..(MOST_SHRINK * n_grid as f32) as usize {
            let tried = most.multiply(Array::from_f32(1.0 - step as f32 / n_grid as f32))?;
            let w = ops::minimum(ops::maximum(&w, tried.negative()?)?, &tried)?;
            let packed = rounded(&w.reshape(&[count, groups * group])?, scheme)?.reshape(&[count, groups, group])?;
            let off = added(&packed)?.subtract(&wanted)?;
            let loss = off.multiply(&off)?.sum_axis(1, false)?;
            let better = loss.lt(&least)?;
            least = ops::select(&better, &loss, &least)?;
            bound = ops::select(better.t().expand_dims(-1)?, &tried, &bound)?;
            transforms::eval([&least, &bound])?;
        }
        let w = ops::minimum(ops::maximum(&w, bound.negative()?)?, &bound)?;
        transforms::eval([&w])?;
        clipped.push(w.reshape(&[count, groups * group])?);
    }
    Ok(ops::concatenate(&clipped, 0)?.reshape(&shape)?.as_dtype(old.dtype())?)
}
