//! AWQ (arXiv:2306.00978): what a map reads is scaled so that its larger inputs meet finer weights, which the map or norm before it
//! makes up for; and outlying weights are clipped where that helps the rest of their group.
//!
//! Ports `mlx_lm/quant/awq.py` @ 0.32.2. Unusual: there is no table of architectures. Which maps share their inputs and who may be
//! scaled for them is found out by trying it on each block (`groups`).

mod clip;
mod groups;
mod scale;
mod weights;

use std::collections::{BTreeMap, BTreeSet};

use mlxlm_core::nn::{self, Heard, Leaf, Place};
use mlxlm_core::ops::indexing::TryIndexOp;
use mlxlm_core::quant::Scheme;
use mlxlm_core::{Array, Dtype, Exception};
use mlxlm_models::CausalLm;

use crate::flow::{Flow, maps};
use crate::plan::{self, Plan};
use crate::report::{Event, Report};
use crate::{Error, Kept, Result};
use weights::Saved;

/// How a model is packed.
#[derive(Debug, Clone, Copy)]
pub struct AwqOptions {
    /// The scheme of everything in the blocks.
    pub scheme: Scheme,
    /// The scheme of tables and heads.
    pub embed: Scheme,
    /// How many strengths of scaling are tried, and how many steps a clip has.
    pub n_grid: usize,
}

/// The tokens that groups are found out with.
const PROBE_TOKENS: i32 = 16;

/// Packs a model, dense so far, block by block, with the inputs that blocks have while it reads `batches`. Each block is kept when it is
/// packed, and taken from there if it is there.
///
/// # Shapes
/// - `batches`: each `[B, L]` of tokens
///
/// # Errors
/// [`Error::NotFinite`] for a block whose results are not finite.
pub fn awq(
    model: &mut dyn CausalLm,
    batches: &[Array],
    options: &AwqOptions,
    kept: Option<&Kept>,
    report: Report<'_>,
) -> Result<()> {
    let count = crate::flow::stages(model)?.count();
    let plan = plan::uniform(model, options.scheme);
    let tables = tables(model, options.embed);
    plan::round(model, &tables)?;
    let few = probe_tokens(batches)?;
    let mut probe = Flow::enter(model, &few, |_, _| Ok(()))?;
    let mut flow = Flow::enter(model, batches, |_, _| Ok(()))?;
    for stage in 0..count {
        report(Event::Step { what: "blocks", done: stage, of: count });
        let kept = kept.map(|kept| (kept, format!("block-{stage:05}.safetensors")));
        (flow, probe) = block(model, (flow, probe), (&plan, options), kept, report)?;
    }
    report(Event::Step { what: "blocks", done: count, of: count });
    // A map after the last block is a head.
    let all = maps(model);
    let mut heads = Plan::new();
    probe.leave(model, |_, heard, _| {
        let paths = heard.iter().filter_map(|heard| all.get(&heard.place)).cloned();
        heads.extend(paths.map(|path| (path, options.embed)));
        Ok(())
    })?;
    let allowed = plan::packables(model);
    heads
        .retain(|path, scheme| allowed.iter().any(|leaf| leaf.path == *path && leaf.allowed(*scheme) == Some(*scheme)));
    plan::round(model, &heads)?;
    plan::round(model, &plan)
}

/// Tables, with the scheme that they get.
fn tables(model: &dyn CausalLm, scheme: Scheme) -> Plan {
    let mut tables = BTreeSet::new();
    model.walk("", &mut |path, leaf| {
        if matches!(leaf, Leaf::Embedding(_)) {
            tables.insert(path.to_owned());
        }
    });
    let leaves = plan::packables(model).into_iter().filter(|leaf| tables.contains(&leaf.path));
    leaves.filter_map(|leaf| Some((leaf.path.clone(), leaf.allowed(scheme)?))).collect()
}

/// The beginning of the first sample.
fn probe_tokens(batches: &[Array]) -> Result<Vec<Array>> {
    let first =
        batches.first().ok_or(Error::Parameter { name: "samples", value: "0".into(), expected: "1 or more" })?;
    Ok(vec![first.try_index((..1, ..first.dim(1).min(PROBE_TOKENS)))?])
}

/// The tokens that scales and clips are tried with, in whole batches; how large inputs are is taken from all.
const TRIED_TOKENS: usize = 8192;

/// What all batches of a flow have to do with one block.
struct Block<'a, 't> {
    flow: &'a Flow<'t>,
    plan: &'a Plan,
    options: &'a AwqOptions,
    /// Paths and kinds of the leaves that the block asked, in their order.
    leaves: Vec<Asked>,
    /// What the block makes of each batch while it is dense.
    outputs: Vec<Array>,
}

/// A leaf that a block asks.
#[derive(Debug, Clone)]
struct Asked {
    place: Place,
    path: String,
    is_norm: bool,
    is_stack: bool,
}

/// Packs the next block, or takes it from where it is kept; the texts after it come back as the dense block makes them.
fn block<'t>(
    model: &mut dyn CausalLm,
    (flow, probe): (Flow<'t>, Flow<'t>),
    (plan, options): (&Plan, &AwqOptions),
    kept: Option<(&Kept, String)>,
    report: Report<'_>,
) -> Result<(Flow<'t>, Flow<'t>)> {
    let next = flow.next(model, |_, _| Ok(()))?;
    let next_probe = probe.next(model, |_, _| Ok(()))?;
    if let Some((kept, name)) = &kept
        && kept.put(name, model, plan)?.is_some()
    {
        return Ok((next, next_probe));
    }
    let leaves = groups::asked(model, &probe)?;
    let outputs: Vec<Array> = next.batches().iter().map(|at| at.x.clone()).collect();
    let block = Block { flow: &flow, plan, options, leaves, outputs };
    let maps: Vec<String> = block.packed_maps();
    if maps.is_empty() {
        return Ok((next, next_probe));
    }
    let found = groups::find(model, &probe, &block.leaves)?;
    let saved = Saved::of(model, block.leaves.iter().map(|leaf| leaf.path.as_str()))?;
    let own: Plan = maps.iter().map(|path| (path.clone(), plan[path])).collect();
    plan::round(model, &own)?;
    let before = block.loss(model)?;
    saved.restore(model)?;
    let last = block.leaves.last().map(|leaf| leaf.path.clone()).unwrap_or_default();
    if !before.is_finite() {
        return Err(Error::NotFinite { path: last });
    }
    for group in &found.groups {
        scale::search(model, &block, group)?;
    }
    clip::search_all(model, &block, &found.only_scores)?;
    plan::round(model, &own)?;
    let after = block.loss(model)?;
    if after > before || !after.is_finite() {
        report(Event::Note(&format!(
            "scaling and clipping do not help the block of `{last}`, which is rounded as it was"
        )));
        saved.restore(model)?;
        plan::round(model, &own)?;
    }
    if let Some((kept, name)) = &kept {
        let mut paths: Vec<String> = block.leaves.iter().map(|leaf| leaf.path.clone()).collect();
        paths.dedup();
        kept.keep(name, model, &paths)?;
    }
    Ok((next, next_probe))
}

impl Block<'_, '_> {
    /// The paths of the maps in the block that are packed.
    fn packed_maps(&self) -> Vec<String> {
        let mut paths: Vec<String> = Vec::new();
        for leaf in &self.leaves {
            if !leaf.is_norm && self.plan.contains_key(&leaf.path) && !paths.contains(&leaf.path) {
                paths.push(leaf.path.clone());
            }
        }
        paths
    }

    /// The mean squared error of what the block makes now.
    fn loss(&self, model: &dyn CausalLm) -> Result<f64> {
        let (mut sum, mut count) = (0.0, 0);
        for batch in self.tried() {
            let (made, _) = self.run(model, batch, BTreeMap::new())?;
            sum += squared(&made, &self.outputs[batch])?;
            count += made.size();
        }
        Ok(sum / count.max(1) as f64)
    }

    /// Runs the block over one batch with what some leaves make replaced; nothing is computed yet.
    fn run(&self, model: &dyn CausalLm, batch: usize, replaced: BTreeMap<Place, Array>) -> Result<(Array, Vec<Heard>)> {
        let stages = crate::flow::stages(model)?;
        let (next, heard) = nn::watch(replaced, || stages.advance(&self.flow.batches()[batch]));
        Ok((next?.x, heard))
    }

    fn batches(&self) -> usize {
        self.outputs.len()
    }

    /// The batches that scales and clips are tried with: as many as [`TRIED_TOKENS`] allows, from everywhere.
    fn tried(&self) -> impl Iterator<Item = usize> + use<> {
        let tokens: usize = self.outputs.iter().map(|x| x.size() / x.dim(-1).max(1) as usize).sum();
        (0..self.outputs.len()).step_by(tokens.div_ceil(TRIED_TOKENS).max(1))
    }
}

/// The sum of squared differences, in `f32`.
fn squared(a: &Array, b: &Array) -> Result<f64> {
    let off: Result<Array, Exception> = a.subtract(b)?.as_dtype(Dtype::Float32);
    let off = off?;
    Ok(f64::from(off.multiply(&off)?.sum(None)?.try_item_exact::<f32>()?))
}
