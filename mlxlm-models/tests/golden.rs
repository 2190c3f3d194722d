//! Every architecture with its variants against the logits of Python mlx-lm.
//!
//! A case is a folder of `tests/golden`: a `config.json`, its weights (as a recipe, or as mlx-lm's convert wrote them) and
//! the logits that mlx-lm 0.32.2 computed on MLX 0.32.4 for CPUs. In `f32` they must agree within 1e-4 of the largest
//! logit. With 16-bit weights both sides round at every step, so each is held against the logits of the same weights in
//! `f32`: those we compute must be the reference's, and ours in 16 bits may be at most twice as far from them as the
//! reference's in 16 bits are.
#![allow(clippy::unwrap_used, reason = "helpers of tests may fail as tests do")]

mod support;

use mlxlm_core::ops::indexing::TryIndexOp;
use mlxlm_core::{Array, Dtype};
use mlxlm_models::{CausalLm, build};
use serde_json::{Value, json};

use support::{Case, largest, largest_difference, prefill_then_decode};

/// The tensors of a case, with the logits that a model computes for them.
fn logits(model: &dyn CausalLm, case: &Case) -> [(&'static str, Array); 3] {
    let tokens = case.expected("tokens");
    let one = tokens.try_index((0..1, ..)).unwrap();
    let prefill: i32 = case.metadata["prefill"].parse().unwrap();
    [
        ("logits_prefill_decode", prefill_then_decode(model, &one, prefill)),
        ("logits_full", model.forward(&one, None).unwrap()),
        ("logits_batch", model.forward(&tokens, None).unwrap()),
    ]
}

/// Whether logits are those of the reference up to the rounding of `f32`.
fn same(case: &Case, name: &str, got: &Array, expected: &Array) -> Result<(), String> {
    within(case, name, got, expected, 1e-4 * largest(expected))
}

fn within(case: &Case, name: &str, got: &Array, expected: &Array, allowed: f32) -> Result<(), String> {
    let off = largest_difference(got, expected);
    if off <= allowed {
        Ok(())
    } else {
        Err(format!("{}: {name} is off by {off:.2e}, allowed {allowed:.2e}", case.name))
    }
}

fn check(case: &Case) -> Result<(), String> {
    let model = case.model().map_err(|e| format!("{}: {e}", case.name))?;
    let computed = logits(&*model, case);
    if !case.is_16_bit() {
        return computed.iter().try_for_each(|(name, logits)| same(case, name, logits, &case.expected(name)));
    }
    let exact = case.model_of(case.tensors_as(Dtype::Float32)).map_err(|e| format!("{}: {e}", case.name))?;
    for ((name, logits), (_, truth)) in computed.iter().zip(logits(&*exact, case)) {
        let name_of_truth = format!("{name}_f32");
        if case.has(&name_of_truth) {
            same(case, &name_of_truth, &truth, &case.expected(&name_of_truth))?;
        }
        within(case, name, logits, &truth, 2.0 * largest_difference(&case.expected(name), &truth))?;
    }
    Ok(())
}

#[test]
fn logits_are_those_of_the_reference() {
    let cases = support::cases();
    assert!(cases.len() > 50, "only {} cases were found", cases.len());
    let failures: Vec<String> = cases.iter().filter_map(|case| check(case).err()).collect();
    assert!(failures.is_empty(), "{} of {} cases fail:\n{}", failures.len(), cases.len(), failures.join("\n"));
}

/// What transformers writes since its version 5, which this mlx-lm does not read.
#[test]
fn gemma_3_reads_the_newer_spelling_of_its_rotations() {
    let case = Case::named("gemma3_text__linear");
    let mut config = case.config();
    for key in ["rope_local_base_freq", "rope_scaling", "rope_theta", "sliding_window_pattern"] {
        config.set(key, None);
    }
    let Value::Object(newer) = json!({
        "_sliding_window_pattern": 2,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1000.0},
        },
    }) else {
        unreachable!("it was written as an object")
    };
    newer.into_iter().for_each(|(key, value)| config.set(&key, Some(value)));
    let (model, told) = build(&config, case.tensors(), None).unwrap();
    assert!(told.is_empty(), "{told:?}");
    for (name, got) in logits(&*model, &case) {
        same(&case, name, &got, &case.expected(name)).unwrap();
    }
}

#[test]
fn every_architecture_has_a_case() {
    let tested: Vec<String> = support::cases().into_iter().map(|case| case.metadata["model_type"].clone()).collect();
    for arch in mlxlm_models::arch::ARCHITECTURES {
        assert!(tested.iter().any(|name| name == arch.names[0]), "`{}` has no golden case", arch.names[0]);
    }
}
