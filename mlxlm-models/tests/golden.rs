//! Every architecture with its variants against the logits of Python mlx-lm.
//!
//! A case is a folder of `tests/golden`: a `config.json`, its weights (as a recipe, or as mlx-lm's convert wrote them) and
//! the logits that mlx-lm 0.32.2 computed on MLX 0.32.4 for CPUs; `support/golden.rs` says how far ours may be from them.
#![allow(clippy::unwrap_used, reason = "helpers of tests may fail as tests do")]

mod support;

use mlxlm_core::ops::indexing::TryIndexOp;
use mlxlm_models::{Architecture, Built, build};
use serde_json::{Value, json};

use support::golden::check;
use support::{Case, largest_difference};

#[test]
fn logits_are_those_of_the_reference() {
    let cases = support::cases();
    assert!(cases.len() > 50, "only {} cases were found", cases.len());
    let failures: Vec<String> = cases
        .iter()
        .filter_map(|case| {
            let name = &case.name;
            match check(case) {
                Ok(report) if report.is_right() => None,
                Ok(report) => Some(format!("{name}: {report:?}")),
                Err(error) => Some(format!("{name}: {error}")),
            }
        })
        .collect();
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
    let Built { model, warnings } = build(&config, case.tensors(), None).unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
    let one = case.expected("tokens").try_index((0..1, ..)).unwrap();
    let off = largest_difference(&model.forward(&one, None).unwrap(), &case.expected("logits_full"));
    assert!(off <= 1e-4 * case.number("logit_std"), "{off}");
}

#[test]
fn every_architecture_has_a_case() {
    let cases = support::cases();
    let tested: Vec<&str> = cases.iter().map(|case| Architecture::of(&case.config()).unwrap().names[0]).collect();
    for arch in mlxlm_models::arch::ARCHITECTURES {
        assert!(tested.contains(&arch.names[0]), "`{}` has no golden case", arch.names[0]);
    }
}
