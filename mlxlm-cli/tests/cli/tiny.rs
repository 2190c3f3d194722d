//! A Llama of two layers with weights from a seed, and a tokenizer of 900 tokens with a ChatML template.

use std::path::Path;

use mlxlm_core::text::{TemplateOptions, Tokenizer, TokenizerOptions};
use mlxlm_core::weights::{Recipe, save_model};
use mlxlm_core::{Array, io};
use mlxlm_models::{LoadOptions, Loaded, load};
use mlxlm_sample::{GenerateOptions, stream_generate};
use serde_json::{Value, json};

const HIDDEN: i32 = 64;
const INTERMEDIATE: i32 = 128;
const VOCAB: i32 = 900;

/// Writes the model folder.
pub fn make(folder: &Path, seed: u64) {
    io::create_dir_all(folder).unwrap();
    let tokenizer = Path::new(env!("CARGO_MANIFEST_DIR")).join("../mlxlm-core/tests/fixtures/tokenizer/bpe_gpt2");
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        io::copy(tokenizer.join(name), folder.join(name)).unwrap();
    }
    io::write_json(folder.join("config.json"), &config()).unwrap();
    let mut tensors = recipe(seed).tensors();
    let head = tensors.get_mut("lm_head.weight").unwrap();
    *head = head.multiply(talkative(folder)).unwrap();
    save_model(folder, tensors.into_iter().collect(), 0).unwrap();
}

/// Zero for the tokens that end a text, which are then never the best of 900: `[V, 1]`.
fn talkative(folder: &Path) -> Array {
    let tokenizer = Tokenizer::from_folder(folder, &TokenizerOptions::default()).unwrap();
    let ends = |token| f32::from(u8::from(!tokenizer.eos_token_ids().contains(&token)));
    Array::from_iter((0..VOCAB as u32).map(ends), &[VOCAB, 1])
}

/// Its configuration.
pub fn config() -> Value {
    json!({
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "max_position_embeddings": 512,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "num_key_value_heads": 1,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": false,
        "vocab_size": VOCAB,
    })
}

/// Changes the configuration of a model folder.
pub fn configure(folder: &Path, entries: Value) {
    let path = folder.join("config.json");
    let mut config: Value = io::read_json(&path).unwrap();
    let Value::Object(entries) = entries else { panic!("{entries} is no object") };
    config.as_object_mut().unwrap().extend(entries);
    io::write_json(path, &config).unwrap();
}

fn recipe(seed: u64) -> Recipe {
    let drawn = |name: String, shape: &[i32], draw: Value| json!({"name": name, "shape": shape, "draw": draw});
    let matrix = |name: String, output, input| drawn(name, &[output, input], json!(["fan_in", 1.0]));
    let ones = |name: String| drawn(name, &[HIDDEN], json!(["const", 1.0]));
    let mut tensors = vec![
        drawn("model.embed_tokens.weight".into(), &[VOCAB, HIDDEN], json!(["normal", 0.0, 1.0])),
        ones("model.norm.weight".into()),
        matrix("lm_head.weight".into(), VOCAB, HIDDEN),
    ];
    for layer in 0..2 {
        let name = |part: &str| format!("model.layers.{layer}.{part}.weight");
        tensors.extend([
            ones(name("input_layernorm")),
            ones(name("post_attention_layernorm")),
            matrix(name("self_attn.q_proj"), HIDDEN, HIDDEN),
            matrix(name("self_attn.k_proj"), HIDDEN / 2, HIDDEN),
            matrix(name("self_attn.v_proj"), HIDDEN / 2, HIDDEN),
            matrix(name("self_attn.o_proj"), HIDDEN, HIDDEN),
            matrix(name("mlp.gate_proj"), INTERMEDIATE, HIDDEN),
            matrix(name("mlp.up_proj"), INTERMEDIATE, HIDDEN),
            matrix(name("mlp.down_proj"), HIDDEN, INTERMEDIATE),
        ]);
    }
    serde_json::from_value(json!({"seed": seed, "tensors": tensors})).unwrap()
}

/// The tokens that follow a prompt, and the text that they make, by way of the library.
pub fn continuation(folder: &Path, prompt: &str, max_tokens: usize) -> (Vec<u32>, String) {
    let Loaded { model, tokenizer, .. } = load(folder, &LoadOptions::default()).unwrap();
    let options = GenerateOptions { max_tokens: Some(max_tokens), ..GenerateOptions::default() };
    let responses = stream_generate(&*model, &tokenizer, prompt, &options).unwrap();
    responses.map(|response| response.unwrap()).map(|response| (response.token, response.text)).unzip()
}

/// A user's message as the model's template has it.
pub fn turn(text: &str) -> String {
    format!("<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n")
}

#[test]
fn the_model_speaks_for_a_while() {
    let folder = tempfile::tempdir().unwrap();
    make(folder.path(), 7);
    let (tokens, text) = continuation(folder.path(), &turn("hello"), 24);
    assert_eq!(tokens.len(), 24);
    let mut different = tokens.clone();
    different.sort_unstable();
    different.dedup();
    assert!(different.len() > 12, "{tokens:?} {text}");
}

#[test]
fn the_template_is_what_the_tests_take_it_for() {
    let folder = tempfile::tempdir().unwrap();
    make(folder.path(), 7);
    let tokenizer = Tokenizer::from_folder(folder.path(), &TokenizerOptions::default()).unwrap();
    let messages = [json!({"role": "user", "content": "hi"})];
    let template = TemplateOptions { add_generation_prompt: true, ..TemplateOptions::default() };
    assert_eq!(tokenizer.apply_chat_template(&messages, &template).unwrap(), turn("hi"));
}
