//! What the original layout of Muse Spark stores, in the form that mlx-lm stores: fixed numbers of gates, whole weights of norms,
//! and one projection for queries, keys, values and gates.

use super::wide;
use crate::prelude::*;

/// Norms whose weights the original layout stores minus one.
const LESS_ONE: [&str; 5] = [
    ".input_layernorm.weight",
    ".pre_feedforward_layernorm.weight",
    ".post_feedforward_layernorm.weight",
    ".mlp.pre_expert_norm.weight",
    ".mlp.experts.post_expert_norm.weight",
];

/// Makes the fixed numbers of converted checkpoints of what the original layout stores, which has no shares of the stream.
pub(super) fn settle(tensors: &mut Tensors) -> Result<()> {
    if tensors.keys().any(|name| name.ends_with("_alpha")) {
        return Ok(());
    }
    let is_in_stack = |name: &String| name.starts_with("model.language_model.layers.");
    for (_, array) in
        tensors.iter_mut().filter(|(name, _)| is_in_stack(name) && LESS_ONE.iter().any(|end| name.ends_with(end)))
    {
        // As published: sums in f32, rounded to bf16.
        *array = wide(array)?.add(Array::from_f32(1.0))?.as_dtype(Dtype::Bfloat16)?;
    }
    for (gate, sum) in [("post_attention_residual_gate", "add_attn"), ("post_feedforward_residual_gate", "add_ffn")] {
        let end = format!(".{gate}.gate");
        let found: Vec<String> = tensors.keys().filter(|name| name.ends_with(&end)).cloned().collect();
        for name in found {
            let (Some(gate), Some(block)) = (tensors.remove(&name), name.strip_suffix(&end)) else { continue };
            let [alpha, beta] = shares(&gate)?;
            tensors.insert(format!("{block}.{sum}_alpha"), alpha);
            tensors.insert(format!("{block}.{sum}_beta"), beta);
        }
    }
    Ok(())
}

/// The shares of the stream and of a branch that a gate comes to, which keep the stream's length.
fn shares(gate: &Array) -> Result<[Array; 2]> {
    const TEMPERATURE: f32 = 0.3;
    const LEAST: f32 = 1e-3;
    let logits = wide(gate)?.divide(Array::from_f32(TEMPERATURE))?;
    let beta = ops::sigmoid(&logits)?;
    let rest = ops::sigmoid(logits.negative()?)?.multiply(beta.add(Array::from_f32(1.0))?)?;
    Ok([ops::sqrt(&ops::maximum(rest, Array::from_f32(LEAST))?)?, beta])
}

/// Puts the projections of queries, keys, values and gates into one. The original layout rotates the halves of a head; its rows
/// are put in the order in which neighbours rotate.
pub(super) fn join_projections(tensors: &mut Tensors, dim: i32) -> Result<()> {
    let found: Vec<String> = tensors.keys().filter(|name| name.contains(".self_attn.q_proj.")).cloned().collect();
    for name in found {
        let names = ["q_proj", "k_proj", "v_proj", "gate_proj"].map(|part| name.replace("q_proj", part));
        if names.iter().any(|name| tensors.get(name).is_none_or(|rows| rows.ndim() == 0 || rows.dim(0) % dim != 0)) {
            continue;
        }
        let mut parts: Vec<Array> = names.iter().filter_map(|name| tensors.remove(name)).collect();
        for rows in parts.iter_mut().take(2) {
            let halves = [&[-1, 2, dim / 2], &rows.shape()[1..]].concat();
            *rows = rows.reshape(&halves)?.swap_axes(1, 2)?.reshape(rows.shape())?;
        }
        tensors.insert(name.replace("q_proj", "qkvg_proj"), ops::concatenate(&parts, 0)?);
    }
    Ok(())
}
