//! A checkpoint of a hundred files loads at the pace of whoever reads its weights: finding out which tensor is which reads no
//! tensor, also where experts lie one by one and are put together.
//!
//! The files have holes for data, so that they take no space on disk: three gigabytes that nobody wrote.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "helpers of tests may fail as tests do")]

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use mlxlm_core::nn;
use mlxlm_models::{LoadOptions, load_model};
use serde_json::{Map, Value, json};

const HIDDEN: usize = 1024;
const WIDE: usize = 2048;
const VOCAB: usize = 4096;
const LAYERS: usize = 24;
const EXPERTS: usize = 8;
/// At most so many, and nearly.
const FILES: usize = 100;

fn config() -> Value {
    json!({
        "model_type": "mixtral", "hidden_size": HIDDEN, "intermediate_size": WIDE, "vocab_size": VOCAB,
        "num_hidden_layers": LAYERS, "num_attention_heads": 8, "num_key_value_heads": 4, "num_local_experts": EXPERTS,
        "num_experts_per_tok": 2, "rms_norm_eps": 1e-5, "rope_theta": 1e6, "tie_word_embeddings": false,
    })
}

/// The names of the tensors as Mistral published them, with their shapes.
fn tensors() -> Vec<(String, Vec<usize>)> {
    let mut all = vec![
        ("model.embed_tokens.weight".to_owned(), vec![VOCAB, HIDDEN]),
        ("model.norm.weight".to_owned(), vec![HIDDEN]),
        ("lm_head.weight".to_owned(), vec![VOCAB, HIDDEN]),
    ];
    for layer in 0..LAYERS {
        let mut add = |name: &str, shape: &[usize]| {
            all.push((format!("model.layers.{layer}.{name}.weight"), shape.to_vec()));
        };
        add("input_layernorm", &[HIDDEN]);
        add("post_attention_layernorm", &[HIDDEN]);
        add("self_attn.q_proj", &[HIDDEN, HIDDEN]);
        add("self_attn.k_proj", &[HIDDEN / 2, HIDDEN]);
        add("self_attn.v_proj", &[HIDDEN / 2, HIDDEN]);
        add("self_attn.o_proj", &[HIDDEN, HIDDEN]);
        add("block_sparse_moe.gate", &[EXPERTS, HIDDEN]);
        for expert in 0..EXPERTS {
            add(&format!("block_sparse_moe.experts.{expert}.w1"), &[WIDE, HIDDEN]);
            add(&format!("block_sparse_moe.experts.{expert}.w2"), &[HIDDEN, WIDE]);
            add(&format!("block_sparse_moe.experts.{expert}.w3"), &[WIDE, HIDDEN]);
        }
    }
    all
}

/// Writes the folder, and says how many bytes of data its files seem to have.
fn write(folder: &Path) -> u64 {
    fs::write(folder.join("config.json"), config().to_string()).unwrap();
    let (tensors, mut map, mut total) = (tensors(), Map::new(), 0);
    for (number, part) in tensors.chunks(tensors.len().div_ceil(FILES)).enumerate() {
        let name = format!("model-{number:05}.safetensors");
        let (mut header, mut end) = (Map::new(), 0);
        for (tensor, shape) in part {
            let bytes = 2 * shape.iter().product::<usize>();
            header.insert(tensor.clone(), json!({"dtype": "BF16", "shape": shape, "data_offsets": [end, end + bytes]}));
            end += bytes;
            map.insert(tensor.clone(), json!(name));
        }
        let mut header = Value::Object(header).to_string();
        header.extend(std::iter::repeat_n(' ', header.len().next_multiple_of(8) - header.len()));
        let mut file = File::create(folder.join(name)).unwrap();
        file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
        file.write_all(header.as_bytes()).unwrap();
        file.set_len((8 + header.len() + end) as u64).unwrap();
        total += end as u64;
    }
    let index = json!({"metadata": {"total_size": total}, "weight_map": map});
    fs::write(folder.join("model.safetensors.index.json"), index.to_string()).unwrap();
    total
}

/// Kilobytes of this process's memory, by the name that the system has for them.
fn kilobytes(name: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_hundred_files_are_opened_without_reading_a_tensor() {
    let folder = tempfile::tempdir().unwrap();
    let total = write(folder.path());
    assert!(total > 2_400_000_000, "{total}");
    // The first time brings the libraries in.
    drop(load_model(folder.path(), &LoadOptions::default()).unwrap());
    let before = ["RssFile:", "RssAnon:"].map(kilobytes);
    let (built, _) = load_model(folder.path(), &LoadOptions::default()).unwrap();
    let after = ["RssFile:", "RssAnon:"].map(kilobytes);
    assert_eq!(2 * nn::size(&*built.model).0, total);
    // A page or so of each file, and what the names take.
    for (before, after) in before.into_iter().zip(after) {
        assert!(after.saturating_sub(before) < 64_000, "{before} kB became {after} kB");
    }
}
