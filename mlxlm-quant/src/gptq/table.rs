//! A table of tokens that is the head of its model too: most of what its rounding does to a model is what it does to the logits, so that it
//! is packed for the states that the head reads.

use mlxlm_core::nn::{Leaf, Matrix};
use mlxlm_core::quant::Mode;
use mlxlm_core::{Array, Dtype, ops, transforms};
use mlxlm_models::CausalLm;

use super::hessian::inverse_root;
use crate::flow::{Flow, head, maps, with_leaf};
use crate::plan::Plan;
use crate::report::Report;
use crate::{Error, Result};

/// Tables of more bits are only rounded: there is nothing to win.
const MOST_BITS: i32 = 6;

/// Packs the table of a model, dense so far, that has no other head, for what the head makes of `batches`; its path. `as_table` is how
/// much it counts as one that is read by token, where all columns matter alike.
pub(super) fn pack(
    model: &mut dyn CausalLm,
    batches: &[Array],
    plan: &Plan,
    (as_table, search): (f32, bool),
    report: Report<'_>,
) -> Result<Option<String>> {
    let Some(path) = only_table(model, plan) else { return Ok(None) };
    let scheme = plan[&path];
    let mut flow = Flow::enter(model, batches, |_, _| Ok(()))?;
    for _ in 0..crate::flow::stages(model)?.count() {
        flow = flow.next(model, |_, _| Ok(()))?;
    }
    let all = maps(model);
    let mut sum: Option<Array> = None;
    for at in flow.into_batches() {
        let (states, heard) = head(model, at)?;
        if heard.iter().any(|heard| all.contains_key(&heard.place)) {
            return Ok(None);
        }
        let x = states.as_dtype(Dtype::Float32)?.reshape(&[-1, states.dim(-1)])?;
        let more = x.t().matmul(&x)?;
        let next = sum.map_or_else(|| Ok(more.clone()), |sum| sum.add(&more))?;
        transforms::eval([&next])?;
        sum = Some(next);
    }
    let Some(sum) = sum else { return Ok(None) };
    let mean = sum.diag(0)?.mean(None)?.try_item_exact::<f32>()?;
    if !mean.is_finite() {
        return Err(Error::NotFinite { path: "the head".into() });
    }
    let alike = ops::eye::<f32>(sum.dim(0), None, None)?.multiply(Array::from_f32(as_table * mean))?;
    let root = inverse_root(&sum.add(alike)?, &path, report)?;
    with_leaf(model, &path, |mut leaf| {
        if let Some(matrix) = leaf.matrix().filter(|matrix| matrix.input_dims() == root.dim(0)) {
            *matrix = Matrix::Packed(super::pack(&matrix.dense()?, &root, scheme, search)?, scheme);
        }
        Ok(())
    })?;
    Ok(Some(path))
}

/// The path of the only table that the plan has few affine bits for.
fn only_table(model: &dyn CausalLm, plan: &Plan) -> Option<String> {
    let mut paths = Vec::new();
    model.walk("", &mut |path, leaf| {
        if matches!(leaf, Leaf::Embedding(_)) {
            paths.push(path.to_owned());
        }
    });
    let path = paths.pop().filter(|_| paths.is_empty())?;
    plan.get(&path).is_some_and(|scheme| scheme.mode == Mode::Affine && scheme.bits <= MOST_BITS).then_some(path)
}
