//! The models and the fine-tune that the round trip begins with, drawn from a seed by name.

use std::path::Path;

use mlxlm_core::io;
use mlxlm_core::nn::{LeafMut, parameters};
use mlxlm_core::weights::recipe::{Draw, Drawn};
use mlxlm_core::weights::{AdapterConfig, FineTuneType, LoraParameters, save_model};
use mlxlm_models::{LoadOptions, ModelConfig, build_random, load_model};
use mlxlm_train::lora::{Lora, is_adapter_parameter};
use mlxlm_train::{Trainable, save_adapter_config, save_adapters};
use serde_json::{Map, Value, json};

const SEED: u64 = 11;

/// The architectures.
pub const MODELS: [&str; 4] = ["gemma2", "llama", "mixtral", "qwen3"];

fn config(model: &str) -> Value {
    let mut config = json!({
        "model_type": model,
        "hidden_size": 64,
        "head_dim": 32,
        "intermediate_size": 128,
        "max_position_embeddings": 512,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "num_key_value_heads": 1,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": matches!(model, "gemma2" | "qwen3"),
        "vocab_size": 900,
    });
    let own = match model {
        "gemma2" => {
            json!({"query_pre_attn_scalar": 32, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0})
        }
        "mixtral" => json!({"num_local_experts": 4, "num_experts_per_tok": 2}),
        _ => json!({}),
    };
    config.as_object_mut().unwrap().extend(own.as_object().unwrap().clone());
    config
}

/// Norms are near the identity, which Gemma stores as zero; a table that is the head too is small, lest each token's best
/// successor be itself.
fn draw(model: &str, name: &str) -> Draw {
    match (name, model) {
        (name, "gemma2") if name.contains("norm") => Draw::normal(0.0, 0.1),
        (name, _) if name.contains("norm") => Draw::normal(1.0, 0.1),
        ("model.embed_tokens.weight", "gemma2" | "qwen3") => Draw::normal(0.0, 0.02),
        ("model.embed_tokens.weight", _) => Draw::normal(0.0, 1.0),
        _ => Draw::fan_in(1.5),
    }
}

/// Writes the folder of a model in `f32`, with the tokenizer of mlxlm-core's tests.
pub fn make(model: &str, folder: &Path) {
    io::create_dir_all(folder).unwrap();
    add_tokenizer(folder);
    io::write_json(folder.join("config.json"), &config(model)).unwrap();
    let mut built = build_random(&ModelConfig::new(config(model)).unwrap(), 0).unwrap().model;
    let drawn = |(name, array): (String, mlxlm_core::Array)| {
        let drawn = Drawn { shape: array.shape().to_vec(), draw: draw(model, &name), name };
        (drawn.name.clone(), drawn.array(SEED, 0))
    };
    save_model(folder, parameters(&mut *built).into_iter().map(drawn).collect(), 0).unwrap();
}

/// Puts the tokenizer into a folder.
pub fn add_tokenizer(folder: &Path) {
    let tokenizer = Path::new(env!("CARGO_MANIFEST_DIR")).join("../mlxlm-core/tests/fixtures/tokenizer/bpe_gpt2");
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        io::copy(tokenizer.join(name), folder.join(name)).unwrap();
    }
}

/// Writes a fine-tune of both blocks of a model, with drawn instead of trained values.
pub fn make_adapter(model: &Path, folder: &Path) {
    let parameters = LoraParameters { rank: 4, scale: 4.0, dropout: 0.0, keys: None };
    let lora = Lora { num_layers: 2, parameters: parameters.clone(), dora: false, seed: SEED };
    let mut model = load_model(model, &LoadOptions::default()).unwrap().0.model;
    lora.adapt(&mut *model).unwrap();
    model.walk_mut("", &mut |path, leaf| {
        if let LeafMut::Linear(leaf) = leaf
            && let Some(adapter) = &mut leaf.adapter
        {
            let name = format!("{path}.lora_b");
            adapter.b = Drawn { name, shape: adapter.b.shape().to_vec(), draw: Draw::normal(0.0, 0.1) }.array(SEED, 0);
        }
    });
    let trained = Trainable::collect(&mut *model, |name, _| is_adapter_parameter(name));
    let config = AdapterConfig { fine_tune_type: FineTuneType::Lora, num_layers: 2, lora_parameters: Some(parameters) };
    save_adapter_config(folder, &config, &Map::new()).unwrap();
    save_adapters(folder, &trained, None).unwrap();
}
