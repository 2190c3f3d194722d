//! Fine-tunes of Python mlx-lm, laid over a model and put into it, against the logits and tensors that it computes.
//!
//! A case is a folder of `tests/adapters`, as mlx-lm 0.32.2 writes it (with drawn instead of trained values), for a model of
//! `tests/golden` that its `expected.safetensors` names. Its errors are one clear sentence or one list each.
#![allow(clippy::unwrap_used, reason = "helpers of tests may fail as tests do")]

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use mlxlm_cache::Caches;
use mlxlm_core::nn::{self, LeafMut};
use mlxlm_core::ops::indexing::TryIndexOp;
use mlxlm_core::weights::{SafetensorsFile, save_safetensors};
use mlxlm_core::{Array, Dtype, Hint, io};
use mlxlm_models::CausalLm;
use serde_json::{Value, json};

use support::{drawn, golden, largest, largest_difference, model_of, step_by_step};

fn adapters(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/adapters").join(name)
}

/// A fine-tune, and what the reference computes with it.
struct Case {
    name: String,
    folder: PathBuf,
    expected: SafetensorsFile,
}

impl Case {
    fn model(&self) -> Box<dyn CausalLm> {
        let base = self.expected.metadata()["model"].replace("models/", "");
        model_of(&golden(&base), Some(&self.folder)).unwrap_or_else(|e| panic!("{}: {e}", self.name))
    }

    fn has(&self, name: &str) -> bool {
        self.expected.names().iter().any(|other| other == name)
    }

    fn tokens(&self) -> Array {
        self.expected.array("tokens").unwrap()
    }

    fn one(&self) -> Array {
        self.tokens().try_index((0..1, ..)).unwrap()
    }

    fn same(&self, name: &str, got: &Array) {
        let expected = self.expected.array(name).unwrap();
        let (off, allowed) = (largest_difference(got, &expected), 1e-4 * largest(&expected));
        assert!(off <= allowed, "{}: {name} is off by {off:.1e}, allowed {allowed:.1e}", self.name);
    }
}

fn check(test: impl Fn(&Case)) {
    let folders = io::read_dir(adapters("")).unwrap();
    assert_eq!(folders.len(), 12);
    for folder in folders {
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        test(&Case { name, expected: SafetensorsFile::open(folder.join("expected.safetensors")).unwrap(), folder });
    }
}

/// Puts the adapters into the weights, which stay packed if they are, unless they are unpacked before.
fn fuse(model: &mut dyn CausalLm, dequantize: bool) {
    let names = nn::parameters(model).into_iter().map(|(name, _)| name);
    let adapted: Vec<String> = names.filter_map(|name| name.strip_suffix(".lora_a").map(str::to_owned)).collect();
    model.walk_mut("", &mut |path, mut leaf| {
        if dequantize && adapted.iter().any(|other| other == path) {
            leaf.matrix().unwrap().dequantize().unwrap();
        }
    });
    model.walk_mut("", &mut |_, leaf| match leaf {
        LeafMut::Linear(leaf) => leaf.fuse().unwrap(),
        LeafMut::Embedding(leaf) => leaf.fuse().unwrap(),
        LeafMut::Experts(leaf) => leaf.fuse().unwrap(),
        _ => {}
    });
}

#[test]
fn logits_are_those_of_the_reference() {
    check(|case| {
        let model = case.model();
        case.same("logits", &model.forward(&case.one(), None).unwrap());
        case.same("logits_batch", &model.forward(&case.tokens(), None).unwrap());
        let mut caches = Caches::new(&model.cache_kinds());
        case.same("logits", &step_by_step(&*model, &case.one(), &mut caches));
    });
}

#[test]
fn fused_models_are_those_of_the_reference() {
    check(|case| {
        for (name, dequantize) in [("logits_fused", false), ("logits_fused_dequantized", true)] {
            if !case.has(name) {
                continue;
            }
            let mut model = case.model();
            fuse(&mut *model, dequantize);
            case.same(name, &model.forward(&case.one(), None).unwrap());
            let parameters = nn::parameters(&mut *model);
            assert!(parameters.iter().all(|(name, _)| !name.contains("lora")), "{}: an adapter is left", case.name);
            if dequantize {
                continue;
            }
            let recorded = case.expected.names();
            let fused: Vec<&str> = recorded.iter().filter_map(|name| name.strip_prefix("fused.")).collect();
            assert!(!fused.is_empty(), "{}", case.name);
            for name in fused {
                let (_, array) = parameters.iter().find(|(other, _)| other == name).unwrap();
                let expected = case.expected.array(&format!("fused.{name}")).unwrap();
                assert_eq!(
                    (array.dtype(), array.shape()),
                    (expected.dtype(), expected.shape()),
                    "{}: {name}",
                    case.name
                );
                match expected.dtype() {
                    Dtype::Uint32 => assert_eq!(words(array), words(&expected), "{}: {name}", case.name),
                    _ => case.same(&format!("fused.{name}"), array),
                }
            }
        }
    });
}

fn words(array: &Array) -> Vec<u32> {
    array.contiguous().unwrap().to_vec_exact::<u32>().unwrap()
}

/// Laying `lora`, with its configuration and tensors changed, over llama.
fn refused(config: impl FnOnce(&mut Value), tensors: impl FnOnce(&mut Vec<(String, Array)>)) -> String {
    let folder = tempfile::tempdir().unwrap();
    let mut entries: Value = io::read_json(adapters("lora/adapter_config.json")).unwrap();
    config(&mut entries);
    io::write_json(folder.path().join("adapter_config.json"), &entries).unwrap();
    let file = SafetensorsFile::open(adapters("lora/adapters.safetensors")).unwrap();
    let mut arrays: Vec<(String, Array)> = file.arrays().unwrap().into_iter().collect();
    tensors(&mut arrays);
    save_safetensors(folder.path().join("adapters.safetensors"), &arrays, &BTreeMap::new()).unwrap();
    message_of(folder.path())
}

/// What is said of the fine-tune in this folder, with the folder left out.
fn message_of(folder: &Path) -> String {
    let error = model_of(&golden("llama"), Some(folder)).map(drop).unwrap_err();
    assert!(error.hint().is_some() || error.to_string().contains("JSON"), "{error} has no hint");
    error.to_string().replace(&format!("{}/", folder.display()), "")
}

const Q: &str = "model.layers.1.self_attn.q_proj";

#[test]
fn a_fine_tune_of_another_model_is_one_error() {
    let message = refused(
        |_| {},
        |tensors| {
            tensors.retain(|(name, _)| name.contains("q_proj") || name.contains("k_proj"));
            for (name, array) in tensors.iter_mut() {
                match name.as_str() {
                    "model.layers.1.self_attn.q_proj.lora_a" => *array = drawn("", &[33, 4], 1.0),
                    "model.layers.1.self_attn.q_proj.lora_b" => *array = array.as_dtype(Dtype::Int32).unwrap(),
                    "model.layers.1.self_attn.k_proj.lora_a" => *name = "model.layers.7.self_attn.k_proj.lora_a".into(),
                    _ => {}
                }
            }
        },
    );
    assert_eq!(
        message,
        format!(
            "the weights do not fit the model:\
             \n  - `{Q}.lora_a` is [33, 4], expected [32, 4]\
             \n  - `{Q}.lora_b` is of the type Int32, expected a float\
             \n  - `model.layers.1.self_attn.k_proj.lora_b` is not part of the model\
             \n  - `model.layers.7.self_attn.k_proj.lora_a` is not part of the model"
        )
    );
}

#[test]
fn a_wrong_rank_is_reported_of_every_tensor() {
    let message = refused(|config| config["lora_parameters"]["rank"] = json!(8), |_| {});
    assert!(message.starts_with("the weights do not fit the model:\n  - `"), "{message}");
    assert!(message.contains(&format!("`{Q}.lora_a` is [32, 4], expected [32, 8]")), "{message}");
    assert!(message.ends_with("\n  - and 2 more"), "{message}");
}

#[test]
fn half_an_adapter_is_reported() {
    let message =
        refused(|_| {}, |tensors| tensors.retain(|(name, _)| name.starts_with(Q) && name.ends_with("lora_a")));
    assert_eq!(message, format!("the weights do not fit the model:\n  - `{Q}.lora_b` is missing"));
    let message = refused(
        |config| config["fine_tune_type"] = json!("dora"),
        |tensors| tensors.retain(|(name, _)| name.starts_with(Q)),
    );
    assert_eq!(message, format!("the weights do not fit the model:\n  - `{Q}.m` is missing"));
}

#[test]
fn a_wrong_configuration_is_named() {
    let check = |change: fn(&mut Value), why: &str| {
        assert_eq!(refused(change, |_| {}), format!("`adapter_config.json`: {why}"));
    };
    check(|config| config["lora_parameters"] = Value::Null, "`lora_parameters` is missing");
    check(|config| config["lora_parameters"]["rank"] = json!(0), "`rank` must be at least 1");
    check(|config| config["lora_parameters"]["rank"] = json!(-4), "`rank` must be at least 1");
    check(
        |config| config["lora_parameters"]["scale"] = json!(1e39),
        "`scale` must be finite and `dropout` from 0 to below 1",
    );
    check(
        |config| config["lora_parameters"]["dropout"] = json!(1),
        "`scale` must be finite and `dropout` from 0 to below 1",
    );
    let check = |change: fn(&mut Value), why: &str| {
        let message = refused(change, |_| {});
        assert!(message.starts_with("`adapter_config.json` is not valid JSON: ") && message.contains(why), "{message}");
    };
    check(
        |config| config["fine_tune_type"] = json!("qora"),
        "unknown variant `qora`, expected one of `lora`, `dora`, `full`",
    );
    check(|config| drop(config["lora_parameters"].as_object_mut().unwrap().remove("rank")), "missing field `rank`");
    check(|config| drop(config["lora_parameters"].as_object_mut().unwrap().remove("scale")), "missing field `scale`");
    check(|config| config["lora_parameters"]["rank"] = json!("four"), "invalid type: string \"four\", expected i32");
}

#[test]
fn a_folder_that_lacks_a_file_is_reported() {
    let folder = tempfile::tempdir().unwrap();
    let check = |file: &str| {
        let error = model_of(&golden("llama"), Some(folder.path())).map(drop).unwrap_err().to_string();
        assert!(error.contains(&format!("{}`", folder.path().join(file).display())), "{error}");
    };
    check("adapter_config.json");
    io::copy(adapters("lora/adapter_config.json"), folder.path().join("adapter_config.json")).unwrap();
    check("adapters.safetensors");
}
