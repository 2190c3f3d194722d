//! `mlxlm check`: a sound model, and one whose weights are not all numbers.

use std::path::Path;

use mlxlm_core::Array;
use mlxlm_core::weights::{Checkpoint, save_model};
use serde_json::{Value, json};

use crate::bench::Bench;

/// Replaces the first values of a tensor of a model folder.
fn spoil(folder: &Path, name: &str, values: &[f32]) {
    let mut tensors = Checkpoint::open(folder).unwrap().tensors;
    let array = tensors.get_mut(name).unwrap();
    let mut all = array.to_vec_exact::<f32>().unwrap();
    all[..values.len()].copy_from_slice(values);
    *array = Array::from_slice(&all, array.shape());
    save_model(folder, tensors.into_iter().collect(), 0).unwrap();
}

#[test]
fn a_sound_model_passes() {
    let bench = Bench::new();
    // Table, norm, head; in each of two blocks seven matrices and two norms.
    let parameters = 2 * 900 * 64 + 64 + 2 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 128 * 64 + 2 * 64);
    assert_eq!(bench.run(&["check", "tiny"]).ok(), format!("llama: {parameters} parameters in 21 tensors\n"));
    bench.run(&["check", "demo"]).ok();
}

#[test]
fn values_that_are_not_finite_are_found_by_name() {
    let bench = Bench::new();
    spoil(&bench.path("tiny"), "model.layers.1.mlp.up_proj.weight", &[f32::NAN, f32::NAN, f32::INFINITY]);
    let run = bench.run(&["check", "tiny"]);
    let (message, hint) = run.refused(1);
    assert_eq!(message, "a tensor of the model has values that are not finite");
    assert!(hint.starts_with("download or convert the model again"), "{hint}");
    let fault = "model.layers.1.mlp.up_proj.weight: of 8192 values 2 are not a number, 1 is infinite";
    assert_eq!(run.stdout.lines().next(), Some(fault));
    let run = bench.run(&["check", "tiny", "--json"]);
    run.refused(1);
    let report: Value = serde_json::from_str(&run.stdout).unwrap();
    let name = "model.layers.1.mlp.up_proj.weight";
    assert_eq!(report["faults"], json!([{"name": name, "nan": 2, "infinite": 1, "values": 8192}]));
    // It loads all the same, and what it says is refused.
    let run = bench.run(&["generate", "--model", "tiny", "--prompt", "a", "--max-tokens", "1"]);
    let (message, hint) = run.refused(1);
    assert!(message.starts_with("no token can be chosen") && hint.contains("`mlxlm check`"), "{message}: {hint}");
}

#[test]
fn what_does_not_load_is_an_error_as_elsewhere() {
    let bench = Bench::new();
    std::fs::remove_file(bench.path("tiny/tokenizer.json")).unwrap();
    bench.run(&["check", "tiny"]).refused(1);
    bench.run(&["check", "no/such/model"]).refused(1);
}
