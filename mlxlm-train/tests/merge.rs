//! Merging, against numpy: `merge_expected.json` has what the formulas of mlx-lm's old `merge.py` and of mergekit give there,
//! in 64 bits.
#![allow(clippy::unwrap_used, reason = "helpers of tests may fail as tests do")]

use std::path::{Path, PathBuf};

use mlxlm_core::weights::{Checkpoint, Tensors, save_model};
use mlxlm_core::{Array, io};
use mlxlm_train::merge::{MergeConfig, Method, Schedule, merge};
use serde_json::{Value, json};

fn names() -> Vec<String> {
    let layer =
        |layer: usize| ["mlp.up_proj", "self_attn.q_proj"].map(|part| format!("model.layers.{layer}.{part}.weight"));
    (0..3).flat_map(layer).chain(["model.norm.weight".to_owned()]).collect()
}

/// Three models whose weights are sines.
fn models(folder: &Path) {
    for (i, model) in ["a", "b", "c"].iter().enumerate() {
        let folder = folder.join(model);
        io::create_dir_all(&folder).unwrap();
        io::write_json(folder.join("config.json"), &json!({"model_type": "llama", "num_hidden_layers": 3})).unwrap();
        let tensor = |(place, name): (usize, String)| {
            let shape: &[i32] = if name.contains("layers") { &[2, 3] } else { &[3] };
            let count: i32 = shape.iter().product();
            let value = |k: i32| (0.7 * f64::from(k) + 1.3 * place as f64 + 2.1 * i as f64).sin() as f32;
            (name, Array::from_slice(&(0..count).map(value).collect::<Vec<_>>(), shape))
        };
        save_model(&folder, names().into_iter().enumerate().map(tensor).collect(), 0).unwrap();
    }
}

fn merged(folder: &Path, config: &MergeConfig, target: &str) -> Tensors {
    let target = folder.join(target);
    merge(config, &target, &mut |name| Ok::<PathBuf, _>(folder.join(name))).unwrap();
    Checkpoint::open(&target).unwrap().tensors
}

fn config(method: Method, models: &[&str], weights: &[f64], densities: &[f64]) -> MergeConfig {
    let mut config = MergeConfig::new(method, models.iter().map(|model| (*model).to_owned()));
    for (model, &weight) in config.models.iter_mut().zip(weights) {
        model.weight = weight;
    }
    for (model, &density) in config.models.iter_mut().zip(densities) {
        model.density = density;
    }
    config
}

#[test]
fn merged_weights_are_those_of_numpy() {
    let folder = tempfile::tempdir().unwrap();
    models(folder.path());
    let expected: Value = serde_json::from_str(include_str!("merge_expected.json")).unwrap();
    let mut slerp = config(Method::Slerp, &["a", "b"], &[], &[]);
    slerp.t = vec![(Some("self_attn".into()), Schedule(vec![0.0, 0.6, 1.0])), (None, Schedule(vec![0.3]))];
    let weights = [0.5, 2.0, -0.25];
    let linear = config(Method::Linear, &["a", "b", "c"], &weights, &[]);
    let linear_sum = MergeConfig { normalize: false, ..linear.clone() };
    let base = Some("a".to_owned());
    let ties = config(Method::Ties, &["b", "c"], &[1.0, 0.7], &[0.5, 0.8]);
    let ties = MergeConfig { base: base.clone(), lambda: 0.9, ..ties };
    let ties_sum = config(Method::Ties, &["a", "b", "c"], &[5.0, 1.0, 0.7], &[1.0, 1.0, 0.5]);
    let ties_sum = MergeConfig { base, normalize: false, ..ties_sum };
    for (name, config) in
        [("slerp", slerp), ("linear", linear), ("linear_sum", linear_sum), ("ties", ties), ("ties_sum", ties_sum)]
    {
        let tensors = merged(folder.path(), &config, name);
        assert_eq!(tensors.len(), names().len());
        for (tensor, array) in tensors {
            let found = array.to_vec_exact::<f32>().unwrap();
            let expected = expected[name][&tensor].as_array().unwrap();
            assert_eq!(found.len(), expected.len());
            for (found, expected) in found.iter().zip(expected) {
                let apart = (f64::from(*found) - expected.as_f64().unwrap()).abs();
                assert!(apart < 2e-5, "{name}, {tensor}: {found} for {expected}");
            }
        }
    }
}

#[test]
fn dare_drops_a_share_and_scales_up_the_rest() {
    let folder = tempfile::tempdir().unwrap();
    models(folder.path());
    let dare = config(Method::DareLinear, &["b"], &[1.0], &[0.5]);
    let dare = MergeConfig { base: Some("a".into()), seed: 3, ..dare };
    let open = |name: &str| Checkpoint::open(folder.path().join(name)).unwrap().tensors;
    let (base, other, found) = (open("a"), open("b"), merged(folder.path(), &dare, "dare"));
    let (mut kept, mut dropped) = (0, 0);
    for (name, array) in &found {
        let numbers = |tensors: &Tensors| tensors[name].to_vec_exact::<f32>().unwrap();
        let (base, other) = (numbers(&base), numbers(&other));
        for (i, found) in array.to_vec_exact::<f32>().unwrap().into_iter().enumerate() {
            let scaled = base[i] + 2.0 * (other[i] - base[i]);
            match ((found - base[i]).abs() < 1e-6, (found - scaled).abs() < 1e-5) {
                (true, false) => dropped += 1,
                (false, true) => kept += 1,
                _ => panic!("{name}: {found} is neither {} nor {scaled}", base[i]),
            }
        }
    }
    assert!(kept > 8 && dropped > 8, "{kept} kept, {dropped} dropped");
    let same = |config: &MergeConfig, target: &str| {
        merged(folder.path(), config, target)
            .iter()
            .all(|(name, array)| array.to_vec_exact::<f32>().unwrap() == found[name].to_vec_exact::<f32>().unwrap())
    };
    assert!(same(&dare, "again"));
    assert!(!same(&MergeConfig { seed: 4, ..dare.clone() }, "other"));
    // All of a sign, with nothing dropped, is the other model itself.
    let whole = config(Method::DareTies, &["b"], &[1.0], &[1.0]);
    let whole = merged(folder.path(), &MergeConfig { base: Some("a".into()), ..whole }, "whole");
    for (name, array) in whole {
        assert!(array.all_close(&other[&name], 1e-5, 1e-6, None).unwrap(), "{name}");
    }
}

#[test]
fn files_of_mergekit_are_read() {
    let config = MergeConfig::from_yaml(
        "models:\n  - model: b\n    parameters: {density: 0.53, weight: 0.4}\n  - model: c\n    parameters:\n      \
         weight: 3e-1\nmerge_method: dare_ties\nbase_model: a\nparameters:\n  lambda: 0.8\n  normalize: true\ndtype: bfloat16\n",
    )
    .unwrap();
    assert_eq!((config.method, config.base.as_deref(), config.lambda), (Method::DareTies, Some("a"), 0.8));
    assert_eq!((config.models[0].density, config.models[1].weight, config.normalize), (0.53, 0.3, true));
    // As mlx-lm's own examples had it.
    let config = MergeConfig::from_yaml(
        "models:\n- a\n- b\nmethod: slerp\nparameters:\n  t:\n    - filter: self_attn\n      value: [0, 0.5, 0.3, 0.7, 1]\n    \
         - filter: mlp\n      value: [1, 0.5, 0.7, 0.3, 0]\n    - value: 0.5\n",
    )
    .unwrap();
    assert_eq!(config.t.len(), 3);
    assert_eq!(config.t[2], (None, Schedule(vec![0.5])));
    for (text, expected) in [
        ("models: [a, b]\n", "`merge_method` is missing"),
        ("merge_method: model_stock\nmodels: [a, b]\n", "`model_stock` is no method"),
        ("merge_method: slerp\nmodels: [a, b]\nparameters: {t: [{filter: mlp, value: 1}]}\n", "the last entry of `t`"),
        ("merge_method: linear\nmodels: [{model: a, parameters: {height: 1}}]\n", "`parameters.height` of a model"),
        ("merge_method: linear\nmodels: [a]\ntokenizer_source: union\n", "`tokenizer_source` is `union`"),
        (
            "merge_method: linear\nmodels: [a, b]\nparameters: {weight: many}\n",
            "`weight` is \"many\", expected a number",
        ),
    ] {
        let error = MergeConfig::from_yaml(text).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}
