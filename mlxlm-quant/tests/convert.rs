//! Converted folders against those that Python mlx-lm's convert made of the same weights, tensor by tensor.
#![allow(clippy::unwrap_used, reason = "helpers of tests may fail as tests do")]

use std::path::{Path, PathBuf};

use mlxlm_core::quant::{Mode, Scheme};
use mlxlm_core::weights::{Checkpoint, Recipe as Weights, SafetensorsFile, save_model};
use mlxlm_core::{Array, Dtype, io};
use mlxlm_quant::{ConvertOptions, Error, Form, Quantization, Recipe, convert};
use serde_json::Value;

/// A case of the models crate: a folder that the reference made.
fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../mlxlm-models/tests/golden").join(name)
}

/// The dense model whose weights the case `name` was converted from, which the case is named after.
fn original(name: &str, folder: &Path) -> PathBuf {
    let (case, dense) = (golden(name), golden(name.split("__").next().unwrap()));
    let salt = SafetensorsFile::open(case.join("expected.safetensors")).unwrap().metadata()["salt"].parse().unwrap();
    let recipe = Weights { salt, ..Weights::read(dense.join("weights.json")).unwrap() };
    let source = folder.join("original");
    io::create_dir_all(&source).unwrap();
    save_model(&source, recipe.tensors().into_iter().collect(), 0).unwrap();
    io::copy(dense.join("config.json"), source.join("config.json")).unwrap();
    source
}

fn bytes(array: &Array) -> Vec<u8> {
    let as_bytes = array.view_dtype(Dtype::Uint8).unwrap();
    as_bytes.contiguous().unwrap().to_vec_exact::<u8>().unwrap()
}

fn check(name: &str, options: ConvertOptions) {
    let folder = tempfile::tempdir().unwrap();
    let source = original(name, folder.path());
    let target = folder.path().join("converted");
    convert(&source, &target, &options).unwrap();

    let (ours, theirs) = (Checkpoint::open(&target).unwrap().tensors, Checkpoint::open(golden(name)).unwrap().tensors);
    assert_eq!(ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>(), "{name}");
    for (tensor, array) in &ours {
        let expected = &theirs[tensor];
        assert_eq!((array.dtype(), array.shape()), (expected.dtype(), expected.shape()), "{name}: {tensor}");
        assert_eq!(bytes(array), bytes(expected), "{name}: {tensor}");
    }
    let config = |folder: &Path| io::read_json::<Value>(folder.join("config.json")).unwrap();
    let (ours, mut theirs) = (config(&target), config(&golden(name)));
    // The reference leaves the mode of routers to its default.
    for of_path in theirs["quantization"].as_object_mut().unwrap().values_mut().filter_map(Value::as_object_mut) {
        of_path.entry("mode").or_insert_with(|| "affine".into());
    }
    assert_eq!(ours["quantization"], theirs["quantization"], "{name}");
    assert_eq!(ours["quantization_config"], theirs["quantization"], "{name}");
}

fn packed(mode: Mode, bits: i32, group_size: i32) -> ConvertOptions {
    let scheme = Scheme::new(mode, bits, group_size).unwrap();
    ConvertOptions { form: Form::Quantize(Quantization { scheme, recipe: None }), ..ConvertOptions::default() }
}

#[test]
fn routers_keep_eight_bits() {
    check("qwen3_moe__q4", packed(Mode::Affine, 4, 32));
}

#[test]
fn every_affine_width_gives_the_bits_of_the_reference() {
    for bits in [2, 3, 4, 5, 6, 8] {
        check(&format!("llama__q{bits}"), packed(Mode::Affine, bits, 32));
    }
}

#[test]
fn every_block_mode_gives_the_bits_of_the_reference() {
    for mode in [Mode::Mxfp4, Mode::Mxfp8, Mode::Nvfp4] {
        let Scheme { bits, group_size, .. } = mode.default_scheme();
        check(&format!("llama__{mode}"), packed(mode, bits, group_size));
    }
}

#[test]
fn a_type_is_given_before_the_packing() {
    check("llama__q4+bf16", ConvertOptions { dtype: Some(Dtype::Bfloat16), ..packed(Mode::Affine, 4, 32) });
}

#[test]
fn unpacking_gives_back_what_packing_kept() {
    let folder = tempfile::tempdir().unwrap();
    let (packed_folder, dense) = (folder.path().join("packed"), folder.path().join("dense"));
    let source = original("llama__q8", folder.path());
    convert(&source, &packed_folder, &packed(Mode::Affine, 8, 32)).unwrap();
    let unpack = ConvertOptions { form: Form::Dequantize, ..ConvertOptions::default() };
    convert(&packed_folder, &dense, &unpack).unwrap();
    let config: Value = io::read_json(dense.join("config.json")).unwrap();
    assert!(config.get("quantization").is_none() && config.get("quantization_config").is_none());
    let (before, after) = (Checkpoint::open(&source).unwrap().tensors, Checkpoint::open(&dense).unwrap().tensors);
    assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
    for (name, array) in &before {
        let off =
            array.subtract(&after[name]).unwrap().abs().unwrap().max(None).unwrap().try_item_exact::<f32>().unwrap();
        assert!(off < 0.02, "{name} is off by {off}");
    }
    assert!(matches!(convert(&dense, &folder.path().join("again"), &unpack), Err(Error::NotQuantized)));
}

#[test]
fn a_recipe_is_written_path_by_path_and_loads() {
    let folder = tempfile::tempdir().unwrap();
    let source = original("llama__q4", folder.path());
    let target = folder.path().join("mixed");
    let scheme = Scheme::new(Mode::Affine, 4, 32).unwrap();
    let form = Form::Quantize(Quantization { scheme, recipe: Some(Recipe::Mixed3_6) });
    convert(&source, &target, &ConvertOptions { form, ..ConvertOptions::default() }).unwrap();
    let config: Value = io::read_json(target.join("config.json")).unwrap();
    let bits = |path: &str| config["quantization"][path]["bits"].as_i64();
    assert_eq!(bits("lm_head"), Some(6));
    assert_eq!(bits("model.layers.0.self_attn.q_proj"), Some(3));
    assert_eq!(bits("model.layers.1.mlp.down_proj"), Some(6));
    mlxlm_models::load_model(&target, &mlxlm_models::LoadOptions::default()).unwrap();
}

#[test]
fn what_cannot_be_done_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let source = original("llama__q4", folder.path());
    let target = folder.path().join("target");
    let refused = |options: ConvertOptions| convert(&source, &target, &options).unwrap_err().to_string();
    assert_eq!(
        refused(ConvertOptions { form: Form::Dequantize, ..ConvertOptions::default() }),
        "the model is not quantized"
    );
    let mut recipe = packed(Mode::Mxfp4, 4, 32);
    if let Form::Quantize(quantization) = &mut recipe.form {
        quantization.recipe = Some(Recipe::Mixed2_6);
    }
    assert_eq!(refused(recipe), "the recipe `mixed_2_6` is for the mode affine, not mxfp4");
    assert_eq!(io::read_dir(folder.path()).unwrap(), [source.clone()]);
    io::create_dir_all(&target).unwrap();
    assert!(refused(ConvertOptions::default()).ends_with("already exists"));
}

/// The folder of a model with a head that predicts further tokens, whose block is like the model's last.
fn with_a_head(folder: &Path) -> PathBuf {
    let case = golden("qwen3_next");
    let mut tensors = Weights::read(case.join("weights.json")).unwrap().tensors();
    let last = "model.layers.3.";
    let own =
        |(name, array): (&String, &Array)| Some((format!("mtp.layers.0.{}", name.strip_prefix(last)?), array.clone()));
    let block: Vec<(String, Array)> = tensors.iter().filter_map(own).collect();
    tensors.extend(block);
    for name in ["pre_fc_norm_embedding", "pre_fc_norm_hidden", "norm"] {
        tensors.insert(format!("mtp.{name}.weight"), tensors["model.norm.weight"].clone());
    }
    tensors.insert("mtp.fc.weight".into(), Array::from_slice(&[0.1_f32; 32 * 64], &[32, 64]));
    let source = folder.join("with-a-head");
    io::create_dir_all(&source).unwrap();
    save_model(&source, tensors.into_iter().collect(), 0).unwrap();
    io::copy(case.join("config.json"), source.join("config.json")).unwrap();
    source
}

#[test]
fn a_head_that_predicts_further_tokens_is_kept_and_packed_but_for_its_small_maps() {
    let folder = tempfile::tempdir().unwrap();
    let source = with_a_head(folder.path());
    let scheme = Scheme::new(Mode::Affine, 4, 32).unwrap();
    for recipe in [None, Some(Recipe::Mixed3_6)] {
        let target = folder.path().join(recipe.map_or("plain", Recipe::name));
        let form = Form::Quantize(Quantization { scheme, recipe });
        convert(&source, &target, &ConvertOptions { form, ..ConvertOptions::default() }).unwrap();
        let head = SafetensorsFile::open(target.join("mtp.safetensors")).unwrap();
        let is_packed = |path: &str| head.names().iter().any(|name| **name == format!("mtp.{path}.scales"));
        for path in
            ["layers.0.self_attn.q_proj", "layers.0.mlp.switch_mlp.up_proj", "layers.0.mlp.shared_expert.up_proj"]
        {
            assert!(is_packed(path), "{path} is not packed");
        }
        for path in ["fc", "layers.0.mlp.gate", "layers.0.mlp.shared_expert_gate"] {
            assert!(!is_packed(path), "{path} is packed");
            assert!(head.names().iter().any(|name| **name == format!("mtp.{path}.weight")));
        }
        let main = Checkpoint::open(&target).unwrap().tensors;
        assert!(main.keys().all(|name| !name.starts_with("mtp")));
        assert!(main.contains_key("model.layers.3.mlp.gate.scales"));
        let loaded = |mtp| {
            let options = mlxlm_models::LoadOptions { mtp, ..Default::default() };
            mlxlm_models::load_model(&target, &options).unwrap().0.model.mtp().map(|mtp| mtp.count())
        };
        assert_eq!((loaded(false), loaded(true)), (None, Some(1)));
        // Converted once more it is still there.
        let again = folder.path().join(format!("again-{}", recipe.map_or("plain", Recipe::name)));
        let form = Form::Dequantize;
        convert(&target, &again, &ConvertOptions { form, ..ConvertOptions::default() }).unwrap();
        let names = SafetensorsFile::open(again.join("mtp.safetensors")).unwrap().names().len();
        assert_eq!(
            names,
            Checkpoint::open(&source).unwrap().tensors.keys().filter(|name| name.starts_with("mtp")).count()
        );
    }
}
