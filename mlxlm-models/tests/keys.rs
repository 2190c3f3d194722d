//! Every entry of a configuration that changes the mathematics acts, or is rejected, or is reported by name: key × place ×
//! architecture, over all base cases of `tests/golden`.
//!
//! That an entry acts is seen by the logits. What each means is in the goldens and in the tests of the parts; here it is only
//! that nothing is passed over, wherever a file puts it.
#![allow(clippy::unwrap_used, reason = "helpers of tests may fail as tests do")]

mod support;

use mlxlm_core::Array;
use mlxlm_core::ops::indexing::TryIndexOp;
use mlxlm_models::{ModelConfig, build};
use serde_json::{Value, json};

use support::{Case, largest_difference};

/// Entries with a value that no golden case has, and the word by which they are rejected or reported.
fn entries() -> Vec<(&'static str, Value)> {
    vec![
        ("rope_", json!({"rope_theta": 77.0, "rope_parameters": null, "rope_scaling": null})),
        ("rope_", json!({"rope_theta": null, "rope_parameters": {"rope_type": "default", "rope_theta": 77.0}})),
        ("rope_", json!({"rope_parameters": {"rope_type": "linear", "factor": 7.0}, "rope_scaling": null})),
        ("rope_", json!({"rope_scaling": {"type": "linear", "factor": 7.0}, "rope_parameters": null})),
        ("rope_", json!({"rope_scaling": {"rope_type": "linear", "factor": 7.0}, "rope_parameters": null})),
        ("rope_scaling", json!({"rope_scaling": {"type": "spiral", "factor": 7.0}, "rope_parameters": null})),
        ("hidden_act", json!({"hidden_act": "tanh", "hidden_activation": "tanh", "activation_function": "tanh"})),
        ("made_up", json!({"made_up": 3})),
    ]
}

/// Models that know no positions, whose files have a base of rotations all the same, and models that read theirs from an entry of
/// their own, which files have as well.
const OWN_POSITIONS: &[&str] =
    &["dbrx", "gpt_neox", "granitemoehybrid__nope", "kimi_k3", "kimi_linear", "nemotron_h", "openelm"];

/// What a configuration says: that it is rejected, what it reports, or the logits.
enum Outcome {
    Rejected(String),
    Reported(Vec<String>),
    Logits(Array),
}

fn outcome(case: &Case, config: Value) -> Outcome {
    match build(&ModelConfig::new(config).unwrap(), case.tensors(), None) {
        Err(error) => Outcome::Rejected(error.to_string()),
        Ok(built) if !built.warnings.is_empty() => Outcome::Reported(built.warnings),
        Ok(built) => {
            let tokens = case.expected("tokens").try_index((0..1, ..)).unwrap();
            match built.model.forward(&tokens, None) {
                Ok(logits) => Outcome::Logits(logits),
                Err(error) => Outcome::Rejected(error.to_string()),
            }
        }
    }
}

/// The configuration with other entries, in the part that describes the text model.
fn with(config: &Value, entries: &Value) -> Value {
    let mut config = config.clone();
    let text = if config.get("text_config").is_some() { &mut config["text_config"] } else { &mut config };
    for (key, value) in entries.as_object().unwrap() {
        match value {
            Value::Null => drop(text.as_object_mut().unwrap().remove(key)),
            value => text[key] = value.clone(),
        }
    }
    config
}

#[test]
fn every_entry_acts_or_is_rejected_or_reported() {
    let mut passed_over = Vec::new();
    for case in support::cases().into_iter().filter(Case::is_base) {
        let config = case.config().to_value();
        let Outcome::Logits(before) = outcome(&case, config.clone()) else { panic!("{} is not sound", case.name) };
        let knows_none = OWN_POSITIONS.iter().any(|name| case.name.starts_with(name));
        for (word, entries) in entries().into_iter().filter(|(word, _)| !(knows_none && word.starts_with("rope_"))) {
            let acts = match outcome(&case, with(&config, &entries)) {
                Outcome::Rejected(why) => why.contains(word) || why.contains("config.json"),
                Outcome::Reported(warnings) => warnings.iter().any(|warning| warning.contains(word)),
                Outcome::Logits(after) => largest_difference(&before, &after) > 0.0,
            };
            if !acts {
                passed_over.push(format!("{}: {entries}", case.name));
            }
        }
    }
    assert!(passed_over.is_empty(), "{} entries are passed over:\n{}", passed_over.len(), passed_over.join("\n"));
}

/// The same base of the rotation, in the two places where files put it.
#[test]
fn a_nested_base_is_a_flat_one() {
    for case in support::cases().into_iter().filter(Case::is_base) {
        let config = case.config().to_value();
        let text = config.get("text_config").unwrap_or(&config);
        if ["rope_scaling", "rope_parameters"].iter().any(|key| text.get(*key).is_some()) {
            continue;
        }
        let flat = outcome(&case, with(&config, &json!({"rope_theta": 77.0})));
        let nested = json!({"rope_theta": null, "rope_parameters": {"rope_type": "default", "rope_theta": 77.0}});
        if let (Outcome::Logits(flat), Outcome::Logits(nested)) = (flat, outcome(&case, with(&config, &nested))) {
            assert!(largest_difference(&flat, &nested) == 0.0, "{}", case.name);
        }
    }
}
