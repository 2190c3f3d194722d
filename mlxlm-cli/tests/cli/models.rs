//! `mlxlm models`: the list, and what a configuration comes to.

use std::path::Path;

use serde_json::{Value, json};

use crate::bench::Bench;

/// A tiny Qwen3 without anything that is not read.
fn config() -> Value {
    json!({
        "model_type": "qwen3", "vocab_size": 128, "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "rms_norm_eps": 1e-5, "rope_theta": 1e4,
        "max_position_embeddings": 512, "tie_word_embeddings": true, "attention_bias": false,
    })
}

/// Table, two blocks (four projections, three of the MLP, four norms), and the last norm.
const PARAMETERS: u64 = 128 * 32 + 2 * (2 * 64 * 32 + 2 * 32 * 32 + 3 * 64 * 32 + 2 * 16 + 2 * 32) + 32;

fn bench(config: &Value) -> Bench {
    let bench = Bench::empty();
    std::fs::write(bench.path("config.json"), config.to_string()).unwrap();
    bench
}

#[test]
fn a_configuration_is_measured_without_weights() {
    let bench = bench(&config());
    let said = bench.run(&["models", "--config", "config.json", "--json"]).ok();
    let said: Value = serde_json::from_str(&said).unwrap();
    // Two layers, keys and values, two heads of 16 numbers of two bytes.
    assert_eq!(said["kv_bytes_per_token"], 2 * 2 * 2 * 16 * 2);
    assert_eq!(said["parameters"], PARAMETERS);
    assert_eq!(said["bytes"], json!({"bfloat16": 2 * PARAMETERS}));
    assert_eq!(said["caches"], json!({"KVCache": 2}));
    assert_eq!((&said["context_length"], &said["warnings"]), (&json!(512), &json!([])));
    // The folder does as well as the file.
    assert_eq!(bench.run(&["models", "--config", ".", "--json"]).ok(), format!("{said:#}\n"));
}

#[test]
fn what_is_said_to_people_has_the_same_numbers_and_warns() {
    let mut config = config();
    config["wobble"] = json!(3);
    let run = bench(&config).run(&["models", "--config", "config.json"]);
    assert_eq!(run.stderr, "warning: config.json has unknown entries: `wobble`\n");
    for part in ["qwen3", &PARAMETERS.to_string(), "2 KVCache", "256 B for each token", "512 tokens"] {
        assert!(run.stdout.contains(part), "{part}: {}", run.stdout);
    }
}

#[test]
fn an_unknown_type_is_refused_with_its_neighbours() {
    let mut config = config();
    config["model_type"] = json!("qwen33");
    let run = bench(&config).run(&["models", "--config", "config.json"]);
    let (message, _) = run.refused(1);
    assert!(message.contains("the model type `qwen33` is not known; the nearest are `qwen3`"), "{message}");
}

#[test]
fn the_list_is_there_for_programs_too() {
    let said: Value = serde_json::from_str(&Bench::empty().run(&["models", "--json"]).ok()).unwrap();
    let llama = said.as_array().unwrap().iter().find(|arch| arch["model_type"] == "llama").unwrap();
    assert!(llama["also"].as_array().unwrap().contains(&json!("mistral")));
    assert_eq!((&llama["caches"], &llama["batches"]), (&json!(["KVCache"]), &json!(true)));
}

#[test]
fn the_page_of_architectures_is_current() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/architectures.md");
    let made = Bench::empty().run(&["models", "--markdown"]).ok();
    assert!(
        std::fs::read_to_string(page).unwrap() == made,
        "run `cargo run -p mlxlm-cli -- models --markdown > docs/architectures.md`"
    );
}

/// What a token adds is counted without the room that caches make ahead, which is more than this window.
#[test]
fn a_small_window_counts_as_any_other() {
    let mut config = config();
    for (key, value) in [
        ("model_type", json!("gemma3_text")),
        ("sliding_window", json!(8)),
        ("sliding_window_pattern", json!(2)),
        ("query_pre_attn_scalar", json!(16)),
    ] {
        config[key] = value;
    }
    let said = bench(&config).run(&["models", "--config", "config.json", "--json"]).ok();
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(said["caches"], json!({"KVCache": 1, "RotatingKVCache(8, keep 0)": 1}));
    assert_eq!((&said["kv_bytes_per_token"], &said["state_bytes"]), (&json!(2 * 2 * 2 * 16 * 2), &json!(0)));
}
