//! Whether a model computes what the reference computed.
#![allow(clippy::missing_panics_doc, reason = "helpers of tests may fail as tests do")]

use mlxlm_core::ops::indexing::TryIndexOp;
use mlxlm_core::{Array, Dtype};
use mlxlm_models::CausalLm;

use super::{Case, largest_difference, prefill_then_decode};

/// How far logits are from the reference's, in units of their standard deviation, and how far they may be.
#[derive(Debug)]
pub(crate) struct Report {
    /// A whole sequence without a cache.
    pub(crate) full: f32,
    /// A prompt with a cache, and single tokens after it.
    pub(crate) cached: f32,
    /// Two sequences at once without a cache.
    pub(crate) batched: f32,
    /// What each may be.
    pub(crate) allowed: f32,
}

impl Report {
    /// Whether all are within what is allowed.
    pub(crate) fn is_right(&self) -> bool {
        [self.full, self.cached, self.batched].iter().all(|off| *off <= self.allowed)
    }
}

/// Logits of a case, by the names that its file has for them.
fn logits(model: &dyn CausalLm, case: &Case) -> mlxlm_models::Result<[(&'static str, Array); 3]> {
    let tokens = case.expected("tokens");
    let one = tokens.try_index((0..1, ..)).unwrap();
    let full = |tokens: &Array| match is_stepwise(case) {
        // The reference takes one token at a time.
        true => Ok(prefill_then_decode(model, tokens, 1)),
        false => model.forward(tokens, None),
    };
    Ok([
        ("logits_prefill_decode", prefill_then_decode(model, &one, case.number("prefill") as i32)),
        ("logits_full", full(&one)?),
        ("logits_batch", full(&tokens)?),
    ])
}

/// Compares a model with the reference. With 16-bit weights both sides round at every step, so ours is held against the
/// logits of the same weights in `f32`, from which it may be twice as far as the reference is.
///
/// Where the reference says something else without a cache than with one (`decode_gap`), what it says with one counts for
/// the row that both have, and the other row of the batch is not compared.
pub(crate) fn check(case: &Case) -> mlxlm_models::Result<Report> {
    let model = match case.config().model_type()? {
        // Read at once, the reference is not causal; read token by token it is as ours.
        "phi3small" if !is_stepwise(case) => case.model_with(&[("blocksparse_leaks", true.into())])?,
        _ => case.model()?,
    };
    let computed = logits(&*model, case)?;
    let deviation = case.number("logit_std");
    if case.is_16_bit() && case.has("logits_full_f32") {
        let (mut offs, mut allowed) = ([0.0; 3], 0.0_f32);
        for (i, (name, got)) in computed.iter().take(2).enumerate() {
            let truth = case.expected(&format!("{name}_f32"));
            offs[i] = largest_difference(&wide(got), &truth) / deviation;
            allowed = allowed.max(2.0 * largest_difference(&wide(&case.expected(name)), &truth) / deviation);
        }
        let wobble = 20.0 * case.number("wobble");
        return Ok(Report { full: offs[1], cached: offs[0], batched: offs[1], allowed: allowed.max(wobble) });
    }
    let allowed = f32::max(1e-4, 20.0 * case.number("wobble"));
    let off = |i: usize, expected: &Array| largest_difference(&wide(&computed[i].1), &wide(expected)) / deviation;
    let cached = off(0, &case.expected("logits_prefill_decode"));
    let is_peculiar = case.number("decode_gap") > deviation * allowed;
    let [mut full, mut batched] = [1, 2].map(|i| off(i, &case.expected(computed[i].0)));
    if is_peculiar && full > allowed {
        full = off(1, &case.expected("logits_prefill_decode"));
        batched = full;
    }
    Ok(Report { full, cached, batched, allowed })
}

fn is_stepwise(case: &Case) -> bool {
    case.metadata.get("stepwise").is_some_and(|flag| flag == "1")
}

fn wide(array: &Array) -> Array {
    array.as_dtype(Dtype::Float32).unwrap()
}
