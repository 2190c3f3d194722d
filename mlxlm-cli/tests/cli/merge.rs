//! `merge` and `adapter`.

use std::path::Path;

use mlxlm_core::weights::{Checkpoint, SafetensorsFile, Tensors};
use mlxlm_core::{Array, io};
use serde_json::{Value, json};

use crate::bench::Bench;
use crate::tiny;

fn tensors(folder: &Path) -> Tensors {
    Checkpoint::open(folder).unwrap().tensors
}

fn two() -> Bench {
    let bench = Bench::new();
    tiny::make(&bench.path("other"), 8);
    bench
}

#[test]
fn a_mean_lies_between_its_models() {
    let bench = two();
    let shown = bench.run(&["merge", "--method", "linear", "--models", "tiny", "other", "--weights", "3", "1"]).ok();
    assert_eq!(shown, "[INFO] Merging 2 models\n[INFO] Wrote mlx_merged_model\n");
    let (a, b) = (tensors(&bench.path("tiny")), tensors(&bench.path("other")));
    for (name, merged) in tensors(&bench.path("mlx_merged_model")) {
        let expected = a[&name].multiply(Array::from_f32(0.75)).unwrap();
        let expected = expected.add(b[&name].multiply(Array::from_f32(0.25)).unwrap()).unwrap();
        assert!(merged.all_close(&expected, 1e-5, 1e-6, None).unwrap(), "{name}");
    }
    let text = ["generate", "--model", "mlx_merged_model", "-p", "hello", "-m", "8", "--verbose", "false"];
    assert!(!bench.run(&text).ok().trim().is_empty());
    assert_eq!(bench.run(&["merge", "--models", "tiny", "other"]).refused(1).0, "`mlx_merged_model` already exists");
}

#[test]
fn a_file_says_what_is_merged() {
    let bench = two();
    let file = "slices:\n  - sources:\n      - {model: tiny, layer_range: [0, 2]}\n      - {model: other, layer_range: [0, 2]}\n\
                merge_method: slerp\nbase_model: tiny\nparameters:\n  t:\n    - {filter: self_attn, value: [0, 1]}\n    \
                - value: 1\ndtype: float16\n";
    io::write(bench.path("merge.yaml"), file).unwrap();
    bench.run(&["merge", "-c", "merge.yaml", "--mlx-path", "out"]).ok();
    let (a, b) = (tensors(&bench.path("tiny")), tensors(&bench.path("other")));
    let same =
        |merged: &Array, of: &Array| merged.all_close(of.as_dtype(merged.dtype()).unwrap(), 0.0, 0.0, None).unwrap();
    for (name, merged) in tensors(&bench.path("out")) {
        assert_eq!(merged.dtype(), mlxlm_core::Dtype::Float16);
        let first = name.contains("layers.0.self_attn") || !name.contains("layers.");
        assert!(same(&merged, if first { &a[&name] } else { &b[&name] }), "{name}");
    }
    let config: Value = io::read_json(bench.path("out/config.json")).unwrap();
    assert_eq!(config["torch_dtype"], "float16");
}

#[test]
fn what_cannot_be_merged_is_said() {
    let bench = two();
    let refusal = |args: &[&str]| {
        let ran = bench.run(&[&["merge"], args].concat());
        let code = ran.code.unwrap();
        let message = ran.refused(code).0.to_owned();
        assert!(!bench.path("mlx_merged_model").exists());
        message
    };
    assert!(refusal(&["--models", "tiny"]).contains("at least two models"));
    assert!(refusal(&["--models", "tiny", "other", "--t", "2"]).contains("`t` is 2, expected from 0 to 1"));
    assert!(refusal(&["--models", "tiny", "other", "--method", "ties"]).contains("name it as the base"));
    assert!(refusal(&["--models", "tiny", "other", "--weights", "1"]).contains("1 weights for 2 models"));
    assert!(refusal(&["--models", "tiny", "tiny"]).contains("is there twice"));
    assert!(refusal(&["--models", "tiny", "no/such"]).contains("no/such"));
    bench.run(&["convert", "--model", "tiny", "--mlx-path", "packed", "-q"]).ok();
    assert!(refusal(&["--models", "tiny", "packed"]).contains("`packed` are quantized"));
    tiny::configure(&bench.path("other"), json!({"model_type": "qwen2"}));
    assert!(refusal(&["--models", "tiny", "other"]).contains("of the type `qwen2`"));
    tiny::configure(&bench.path("other"), json!({"model_type": "llama"}));
    let mut changed = tensors(&bench.path("other"));
    let removed = changed.remove("model.norm.weight").unwrap();
    changed.insert("model.extra.weight".into(), removed);
    mlxlm_core::weights::save_model(bench.path("other"), changed.into_iter().collect(), 0).unwrap();
    let said = refusal(&["--models", "tiny", "other"]);
    assert!(
        said.contains("`model.norm.weight` is missing") && said.contains("`model.extra.weight` is in none"),
        "{said}"
    );
    io::write(bench.path("bad.yaml"), "merge_method: linear\nmodels: [tiny, other]\nspeed: 3\n").unwrap();
    assert!(refusal(&["--config", "bad.yaml"]).contains("`speed` is not supported"));
    io::write(bench.path("bad.yaml"), "merge_method: [\n").unwrap();
    assert!(refusal(&["--config", "bad.yaml"]).contains("no YAML"));
}

/// Writes an adapter of PEFT with factors from a seed over the queries and the table of the tiny model.
fn write_peft(folder: &Path, rslora: bool) {
    io::create_dir_all(folder).unwrap();
    let drawn = |seed: u64, shape: &[i32]| {
        let key = mlxlm_core::random::key(seed).unwrap();
        mlxlm_core::random::normal::<f32>(shape, None, 0.1, &key).unwrap()
    };
    let name =
        |layer: usize, part: &str| format!("base_model.model.model.layers.{layer}.self_attn.q_proj.{part}.weight");
    let arrays = vec![
        (name(0, "lora_A"), drawn(1, &[4, 64])),
        (name(0, "lora_B"), drawn(2, &[64, 4])),
        // Of another rank, as `rank_pattern` makes it.
        (name(1, "lora_A"), drawn(3, &[2, 64])),
        (name(1, "lora_B"), drawn(4, &[64, 2])),
        ("base_model.model.model.embed_tokens.lora_embedding_A".to_owned(), drawn(5, &[4, 900])),
        ("base_model.model.model.embed_tokens.lora_embedding_B".to_owned(), drawn(6, &[64, 4])),
    ];
    mlxlm_core::weights::save_safetensors(folder.join("adapter_model.safetensors"), &arrays, &<_>::default()).unwrap();
    let config = json!({
        "peft_type": "LORA", "r": 4, "lora_alpha": 16, "use_rslora": rslora, "bias": "none", "lora_dropout": 0.0,
        "target_modules": ["q_proj", "embed_tokens"], "rank_pattern": {"layers.1.self_attn.q_proj": 2},
    });
    io::write_json(folder.join("adapter_config.json"), &config).unwrap();
}

/// The tiny model with `scale * B A` added to its weights by hand.
fn fused(bench: &Bench, rslora: bool) {
    let arrays = SafetensorsFile::open(bench.path("peft/adapter_model.safetensors")).unwrap().arrays().unwrap();
    let find =
        |part: &str| arrays.iter().find(|(name, _)| name.contains(part)).map(|(_, array)| array.clone()).unwrap();
    let mut weights = tensors(&bench.path("tiny"));
    let scale = |rank: f32| Array::from_f32(16.0 / if rslora { rank.sqrt() } else { rank });
    let mut add = |name: &str, addition: Array| {
        let weight = weights.get_mut(name).unwrap();
        *weight = weight.add(addition).unwrap();
    };
    for (layer, rank) in [(0, 4.0), (1, 2.0)] {
        let part = |part: &str| find(&format!("layers.{layer}.self_attn.q_proj.{part}"));
        let product = part("lora_B").matmul(part("lora_A")).unwrap();
        add(&format!("model.layers.{layer}.self_attn.q_proj.weight"), product.multiply(scale(rank)).unwrap());
    }
    let product = find("lora_embedding_A").t().matmul(find("lora_embedding_B").t()).unwrap();
    add("model.embed_tokens.weight", product.multiply(scale(4.0)).unwrap());
    io::create_dir_all(bench.path("fused")).unwrap();
    for name in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
        io::copy(bench.path("tiny").join(name), bench.path("fused").join(name)).unwrap();
    }
    mlxlm_core::weights::save_model(bench.path("fused"), weights.into_iter().collect(), 0).unwrap();
}

fn say(bench: &Bench, model: &str, adapter: Option<&str>) -> String {
    let mut args = vec!["generate", "--model", model, "-p", "hello", "-m", "24", "--verbose", "false"];
    args.extend(adapter.into_iter().flat_map(|adapter| ["--adapter-path", adapter]));
    bench.run(&args).ok()
}

#[test]
fn an_adapter_of_peft_is_taken_and_goes_both_ways() {
    for rslora in [false, true] {
        let bench = Bench::new();
        write_peft(&bench.path("peft"), rslora);
        fused(&bench, rslora);
        let expected = say(&bench, "fused", None);
        assert_ne!(expected, say(&bench, "tiny", None));
        assert_eq!(say(&bench, "tiny", Some("peft")), expected);
        let shown = bench.run(&["adapter", "--adapter-path", "peft", "--save-path", "ours", "--to", "mlx"]).ok();
        assert_eq!(shown, "[INFO] Wrote ours\n");
        assert_eq!(say(&bench, "tiny", Some("ours")), expected);
        let back =
            ["adapter", "--adapter-path", "ours", "--save-path", "back", "--to", "peft", "--base-model", "org/tiny"];
        bench.run(&back).ok();
        assert_eq!(say(&bench, "tiny", Some("back")), expected);
        let config: Value = io::read_json(bench.path("back/adapter_config.json")).unwrap();
        assert_eq!(config["base_model_name_or_path"], "org/tiny");
        assert_eq!(config["target_modules"], json!(["embed_tokens", "q_proj"]));
    }
}

#[test]
fn adapters_that_cannot_be_used_are_named() {
    let bench = Bench::new();
    write_peft(&bench.path("peft"), false);
    let path = bench.path("peft/adapter_config.json");
    let plain: Value = io::read_json(&path).unwrap();
    let refusal = || {
        let ran = bench.run(&["generate", "--model", "tiny", "-p", "a", "-m", "1", "--adapter-path", "peft"]);
        ran.refused(1).0.to_owned()
    };
    for (key, value, expected) in [
        ("peft_type", json!("IA3"), "`peft_type` is `IA3`"),
        ("modules_to_save", json!(["lm_head"]), "`modules_to_save`"),
        ("bias", json!("all"), "trains biases"),
        ("r", json!(0), "`r` must be at least 1"),
        ("target_parameters", json!(["experts.w1"]), "`target_parameters`"),
    ] {
        let mut config = plain.clone();
        config[key] = value;
        io::write_json(&path, &config).unwrap();
        let said = refusal();
        assert!(said.contains(expected), "{said}");
    }
    io::write_json(&path, &plain).unwrap();
    let file = bench.path("peft/adapter_model.safetensors");
    let arrays = SafetensorsFile::open(&file).unwrap().arrays().unwrap();
    let spoil = |change: &dyn Fn(&str, &Array) -> (String, Array)| {
        let spoiled: Vec<_> = arrays.iter().map(|(name, array)| change(name, array)).collect();
        mlxlm_core::weights::save_safetensors(&file, &spoiled, &<_>::default()).unwrap();
        refusal()
    };
    let nan = spoil(&|name, array| {
        let array =
            if name.contains("layers.1") { array.multiply(Array::from_f32(f32::NAN)).unwrap() } else { array.clone() };
        (name.to_owned(), array)
    });
    assert!(nan.contains("model.layers.1.self_attn.q_proj.lora_") && nan.contains("no finite numbers"), "{nan}");
    let other = spoil(&|name, array| (name.replace("layers.1", "layers.9"), array.clone()));
    assert!(other.contains("`model.layers.9.self_attn.q_proj.lora_a` is not part of the model"), "{other}");
    let unknown = spoil(&|name, array| (name.replace("lora_B", "lora_C"), array.clone()));
    assert!(unknown.contains("is no part of a LoRA adapter"), "{unknown}");
    std::fs::remove_file(&file).unwrap();
    assert!(refusal().contains("`adapter_model.safetensors` is missing beside it"));
}
