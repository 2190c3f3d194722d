//! Models for tests: built-in configurations of other kinds with random weights, behind the tokenizer of the demo model.

use mlxlm_core::weights::{SafetensorsFile, Tensors};
use mlxlm_core::{Array, ops};
use mlxlm_models::{Architecture, Built, LoadOptions, Loaded, build_random, build_with, demo as built_in, save};
use mlxlm_serve::{Loader, Models};
use std::sync::Arc;

use crate::house::demo;

/// A model of this type that says nothing of sense.
pub fn random(model_type: &'static str) -> Loaded {
    let demo = demo();
    let mut config = Architecture::find(model_type).unwrap().tiny_config().unwrap();
    config.set("vocab_size", Some(demo.model.info().vocab_size.into()));
    let Built { model, .. } = build_random(&config, 7).unwrap();
    Loaded { model, config, ..demo }
}

/// What loads it.
pub fn loader(model_type: &'static str) -> Loader {
    Arc::new(move || Ok(Models { main: random(model_type), draft: None }))
}

/// What the heads of a family are called that predict further tokens: where the first one lies, and its block below that; the norms of
/// token and state; the map of both; the last norm; and whether the state comes first.
struct Heads {
    path: &'static str,
    block: &'static str,
    norms: [&'static str; 3],
    joint: &'static str,
    state_first: bool,
}

const MIMO: Heads = Heads {
    path: "model.mtp_layers.0",
    block: "",
    norms: ["token_layernorm", "hidden_layernorm", "final_layernorm"],
    joint: "input_proj",
    state_first: true,
};
const QWEN: Heads = Heads {
    path: "mtp",
    block: "layers.0.",
    norms: ["pre_fc_norm_embedding", "pre_fc_norm_hidden", "norm"],
    joint: "fc",
    state_first: false,
};

/// A model of this type with a head that predicts the token after the next: its last block once more, over the embedding of the next.
pub fn with_head(model_type: &'static str) -> Loaded {
    let heads = if model_type == "mimo" { MIMO } else { QWEN };
    let Loaded { mut model, config, tokenizer, .. } = random(model_type);
    let folder = tempfile::tempdir().unwrap();
    save(folder.path(), &mut *model, &config, &built_in::folder("demo").unwrap().unwrap()).unwrap();
    let mut tensors: Tensors = Tensors::new();
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "safetensors") {
            tensors.extend(SafetensorsFile::open(&path).unwrap().arrays().unwrap());
        }
    }
    // What blocks add is so little that the next token follows from the last one, which the head sees too.
    let adds =
        |name: &str| ["o_proj", "out_proj", "down_proj"].iter().any(|end| name.ends_with(&format!("{end}.weight")));
    for array in tensors.iter_mut().filter(|(name, _)| adds(name)).map(|(_, array)| array) {
        *array = array.multiply(Array::from_f32(0.02)).unwrap();
    }
    let last = format!("model.layers.{}.", config.get("num_hidden_layers").unwrap().as_u64().unwrap() - 1);
    let block: Vec<(String, Array)> = tensors
        .iter()
        .filter_map(|(name, array)| Some((name.strip_prefix(&last)?.to_owned(), array.clone())))
        .collect();
    let path = heads.path;
    tensors.extend(block.into_iter().map(|(name, array)| (format!("{path}.{}{name}", heads.block), array)));
    let dims = config.get("hidden_size").unwrap().as_i64().unwrap() as i32;
    for norm in heads.norms {
        tensors.insert(format!("{path}.{norm}.weight"), ops::ones::<f32>(&[dims]).unwrap());
    }
    let (token, state) = (ops::eye::<f32>(dims, None, None).unwrap(), ops::zeros::<f32>(&[dims, dims]).unwrap());
    let both = if heads.state_first { [state, token] } else { [token, state] };
    tensors.insert(format!("{path}.{}.weight", heads.joint), ops::concatenate(&both, 1).unwrap());
    let options = LoadOptions { mtp: true, ..LoadOptions::default() };
    let Built { model, .. } = build_with(&config, tensors, &options).unwrap();
    Loaded { model, tokenizer, config, warnings: Vec::new() }
}
