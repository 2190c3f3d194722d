//! Fine-tunes of Python mlx-lm laid over its models, fused here, against the logits that it computed; and fine-tunes that
//! are begun and saved here, loaded again.
//!
//! A case is a folder of `tests/golden`: an adapter, the logits of `mlx_lm` 0.32.2, and the name of a model in `models`.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::{Path, PathBuf};

use mlxlm_core::nn::{self, LeafMut};
use mlxlm_core::weights::{AdapterConfig, Checkpoint, FineTuneType, LoraParameters, Recipe, SafetensorsFile};
use mlxlm_core::{Array, io, transforms};
use mlxlm_models::{CausalLm, ModelConfig, build};
use mlxlm_train::lora::{self, Lora};
use mlxlm_train::optim::{Adam, Optimizer, Rule};
use mlxlm_train::{Error, Trainable, loss, save_adapter_config, save_adapters};
use serde_json::{Map, Value, json};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn model(name: &str, adapter: Option<&Path>) -> Box<dyn CausalLm> {
    let folder = golden("models").join(name);
    let recipe = folder.join("weights.json");
    let tensors = match recipe.is_file() {
        true => Recipe::read(recipe).unwrap().tensors(),
        false => Checkpoint::open(&folder).unwrap().tensors,
    };
    build(&ModelConfig::read(&folder).unwrap(), tensors, adapter).unwrap().model
}

fn largest(array: &Array) -> f32 {
    array.abs().unwrap().max(None).unwrap().try_item_exact::<f32>().unwrap()
}

#[track_caller]
fn close(got: &Array, expected: &Array, relative: f32, what: &str) {
    let off = largest(&got.subtract(expected).unwrap());
    let most = largest(expected);
    assert!(off <= relative * most, "{what}: off by {off} of {most}");
}

/// Holds a fine-tune against the reference: laid over the model, fused, and fused into unpacked weights.
fn check(name: &str) {
    let expected = SafetensorsFile::open(golden(name).join("expected.safetensors")).unwrap();
    let of_case = |key: &str| expected.array(key).unwrap();
    let base = &expected.metadata()["model"];
    let tokens = of_case("tokens");
    let mut tuned = model(base, Some(&golden(name)));
    close(&tuned.forward(&tokens, None).unwrap(), &of_case("logits"), 1e-4, name);
    if name != "full" {
        assert!(lora::fuse(&mut *tuned, false).unwrap() > 0, "{name} has no adapter");
        close(&tuned.forward(&tokens, None).unwrap(), &of_case("logits_fused"), 1e-4, &format!("{name}, fused"));
        let mut plain = model(base, Some(&golden(name)));
        assert_eq!(lora::remove(&mut *plain), lora::fuse(&mut *model(base, Some(&golden(name))), false).unwrap());
        close(&plain.forward(&tokens, None).unwrap(), &of_case("logits_base"), 1e-4, &format!("{name}, removed"));
    }
    if expected.names().iter().any(|key| key == "logits_fused_dequantized") {
        let mut dense = model(base, Some(&golden(name)));
        lora::fuse(&mut *dense, true).unwrap();
        let logits = dense.forward(&tokens, None).unwrap();
        close(&logits, &of_case("logits_fused_dequantized"), 1e-4, &format!("{name}, fused and unpacked"));
        dense.walk_mut("", &mut |path, leaf| {
            if let LeafMut::Linear(leaf) = leaf {
                assert!(leaf.weight.scheme().is_none(), "{path} is packed");
            }
        });
    }
}

#[test]
fn fine_tunes_of_the_reference_are_its_own_when_fused() {
    let cases: Vec<PathBuf> =
        io::read_dir(golden("")).unwrap().into_iter().filter(|path| !path.ends_with("models")).collect();
    assert!(cases.len() >= 8, "only {} cases", cases.len());
    for case in cases {
        check(case.file_name().unwrap().to_str().unwrap());
    }
}

fn parameters(keys: Option<&[&str]>) -> LoraParameters {
    let keys = keys.map(|keys| keys.iter().map(ToString::to_string).collect());
    LoraParameters { rank: 4, scale: 10.0, dropout: 0.0, keys }
}

fn fine_tune(keys: Option<&[&str]>, dora: bool, num_layers: i32) -> Lora {
    Lora { num_layers, parameters: parameters(keys), dora, seed: 1 }
}

/// The leaves that are adapted are those that the reference adapted: the names in its file say which.
#[test]
fn the_same_leaves_are_adapted() {
    for name in
        ["lora", "lora_all", "lora_keys", "lora_embed", "lora_tied_embed", "lora_q4", "dora", "dora_bias", "dora_q4"]
    {
        let config: AdapterConfig = io::read_json(golden(name).join("adapter_config.json")).unwrap();
        let file = SafetensorsFile::open(golden(name).join("adapters.safetensors")).unwrap();
        let base =
            SafetensorsFile::open(golden(name).join("expected.safetensors")).unwrap().metadata()["model"].clone();
        let dora = config.fine_tune_type == FineTuneType::Dora;
        let (num_layers, parameters) = (config.num_layers, config.lora_parameters.unwrap());
        let mut fresh = model(&base, None);
        Lora { num_layers, parameters, dora, seed: 0 }.adapt(&mut *fresh).unwrap();
        let trained = lora::trained(&mut *fresh, config.fine_tune_type, num_layers).unwrap();
        let trainable = Trainable::collect(&mut *fresh, trained);
        let mut names = trainable.names().to_vec();
        names.sort();
        assert_eq!(names, file.names(), "{name}");
        for (name, array) in trainable.named() {
            assert_eq!(array.shape(), file.array(&name).unwrap().shape(), "{name}");
        }
    }
}

fn tokens() -> Array {
    Array::from_slice(&[3, 1, 4, 1, 5, 9, 2, 6], &[1, 8])
}

fn loss_of(model: &dyn CausalLm) -> Result<Array, Error> {
    let logits = model.forward(&tokens(), None)?;
    let mask = Array::from_slice(&[1_f32; 8], &[1, 8]);
    let (sum, count) = loss::cross_entropy(&logits, &Array::from_slice(&[1, 4, 1, 5, 9, 2, 6, 5], &[1, 8]), &mask)?;
    Ok(sum.divide(count)?)
}

/// A fresh adapter changes nothing; a trained one lowers the loss, and is the same when saved and loaded, or fused.
fn check_life(base: &str, tune: &Lora, fused_within: f32) {
    let mut tuned = model(base, None);
    let before = tuned.forward(&tokens(), None).unwrap();
    let paths = tune.adapt(&mut *tuned).unwrap();
    close(&tuned.forward(&tokens(), None).unwrap(), &before, 1e-5, "a fresh adapter");

    let fine_tune_type = if tune.dora { FineTuneType::Dora } else { FineTuneType::Lora };
    let chosen = lora::trained(&mut *tuned, fine_tune_type, tune.num_layers).unwrap();
    let mut trainable = Trainable::collect(&mut *tuned, chosen);
    assert_eq!(trainable.names().len(), paths.len() * if tune.dora { 3 } else { 2 });
    let first = loss_of(&*tuned).unwrap().try_item_exact::<f32>().unwrap();
    let mut optimizer = Optimizer::new(Rule::Adam(Adam::default()));
    for _ in 0..5 {
        let (_, gradients) = trainable.value_and_grad(&mut *tuned, |model| Ok(vec![loss_of(model)?])).unwrap();
        let updated = optimizer.update(trainable.arrays(), &gradients, 1e-3).unwrap();
        transforms::eval(updated.iter().chain(optimizer.moments().iter().flatten())).unwrap();
        trainable.replace(&mut *tuned, updated).unwrap();
    }
    let last = loss_of(&*tuned).unwrap().try_item_exact::<f32>().unwrap();
    assert!(last < first, "{base}: {last} after {first}");

    let folder = tempfile::tempdir().unwrap();
    let config =
        AdapterConfig { fine_tune_type, num_layers: tune.num_layers, lora_parameters: Some(tune.parameters.clone()) };
    let others: Map<String, Value> = json!({"iters": 5, "optimizer": "adam"}).as_object().unwrap().clone();
    save_adapter_config(folder.path(), &config, &others).unwrap();
    save_adapters(folder.path(), &trainable, Some(5)).unwrap();
    assert!(folder.path().join("0000005_adapters.safetensors").is_file());
    let written: Value = io::read_json(folder.path().join("adapter_config.json")).unwrap();
    assert_eq!((&written["iters"], &written["lora_parameters"]["rank"]), (&json!(5), &json!(4)));
    let after = tuned.forward(&tokens(), None).unwrap();
    let mut loaded = model(base, Some(folder.path()));
    close(&loaded.forward(&tokens(), None).unwrap(), &after, 1e-6, "loaded again");
    assert_eq!(lora::fuse(&mut *loaded, true).unwrap(), paths.len());
    close(&loaded.forward(&tokens(), None).unwrap(), &after, fused_within, "fused");
}

#[test]
fn a_fine_tune_lives_through_training_saving_and_fusing() {
    check_life("llama", &fine_tune(None, false, 1), 1e-4);
    check_life("llama", &fine_tune(Some(&["self_attn.q_proj", "lm_head", "model.embed_tokens"]), true, -1), 1e-4);
    check_life("llama__q4", &fine_tune(Some(&["mlp.down_proj"]), false, 1), 1e-4);
    check_life("llama__q4", &fine_tune(Some(&["mlp.down_proj"]), true, 1), 1e-4);
}

#[test]
fn dropout_is_for_training_only() {
    let mut tuned = model("llama", Some(&golden("lora")));
    tuned.walk_mut("", &mut |_, leaf| {
        if let LeafMut::Linear(leaf) = leaf {
            leaf.adapter.iter_mut().for_each(|adapter| adapter.dropout = 0.5);
        }
    });
    let quiet = tuned.forward(&tokens(), None).unwrap();
    let noisy = nn::train(|| tuned.forward(&tokens(), None)).unwrap();
    assert!(largest(&noisy.subtract(&quiet).unwrap()) > 0.01);
    close(&tuned.forward(&tokens(), None).unwrap(), &quiet, 0.0, "after training");
}

#[test]
fn a_full_fine_tune_trains_the_last_blocks() {
    let mut whole = model("llama", None);
    let chosen = lora::trained(&mut *whole, FineTuneType::Full, 1).unwrap();
    let trainable = Trainable::collect(&mut *whole, chosen);
    assert_eq!(trainable.names().len(), 9);
    assert!(trainable.names().iter().all(|name| name.starts_with("model.layers.1.")));
}

#[test]
fn what_cannot_be_adapted_is_refused() {
    let wrong = |base: &str, tune: Lora| tune.adapt(&mut *model(base, None)).unwrap_err().to_string();
    let all = |keys: &[&str], dora: bool| fine_tune(Some(keys), dora, -1);
    assert_eq!(wrong("llama", fine_tune(None, false, 3)), "3 layers are to be trained, and the model has 2");
    assert_eq!(
        wrong("llama", all(&["self_attn.q_proj", "self_attn.qkv", "head"], false)),
        "the model has no `head`, `self_attn.qkv`"
    );
    assert_eq!(
        wrong("llama", all(&["input_layernorm"], false)),
        "`model.layers.0.input_layernorm` cannot be adapted: only linear maps, embeddings and experts take an adapter"
    );
    assert_eq!(
        wrong("llama__q4", all(&["model.embed_tokens"], true)),
        "`model.embed_tokens` cannot be adapted: DoRA does not take quantized embeddings"
    );
    let unranked = Lora { parameters: LoraParameters { rank: 0, ..parameters(None) }, ..fine_tune(None, false, 1) };
    assert!(wrong("llama", unranked).starts_with("`rank` must be at least 1"));
}
