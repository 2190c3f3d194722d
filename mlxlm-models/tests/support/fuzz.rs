//! The readers of foreign bytes as targets of fuzzing: what goes in, where it begins, and how it is changed.
#![allow(clippy::unwrap_used, reason = "helpers of tests may fail as tests do")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use arbitrary::{Arbitrary, Unstructured};
use mlxlm_cache::{Attend, CacheKind, Caches, Masks};
use mlxlm_core::Array;
use mlxlm_core::text::{ChatTemplate, TemplateOptions, Tokenizer, TokenizerOptions};
use mlxlm_core::weights::gguf::{Metadata, TensorType, Value as GgufValue, write_gguf};
use mlxlm_core::weights::recipe::HashRng;
use mlxlm_core::weights::{Checkpoint, SafetensorsFile, save_safetensors};
use mlxlm_models::{ModelConfig, gguf, measure};
use serde_json::{Map, json};

use super::golden;

/// A reader of foreign bytes.
pub(crate) struct Target {
    /// Its name, and that of its folder of inputs.
    pub(crate) name: &'static str,
    /// Reads an input; an error is as good as a result.
    pub(crate) read: fn(&Path, &[u8]),
    /// What inputs are made from: sound ones.
    pub(crate) seeds: fn(&Path) -> Vec<Vec<u8>>,
}

/// All of them.
pub(crate) const TARGETS: &[Target] = &[
    Target { name: "safetensors", read: safetensors, seeds: safetensors_seeds },
    Target { name: "index", read: index, seeds: index_seeds },
    Target { name: "config", read: config, seeds: config_seeds },
    Target { name: "tokenizer", read: tokenizer, seeds: tokenizer_seeds },
    Target { name: "prompt_cache", read: prompt_cache, seeds: prompt_cache_seeds },
    Target { name: "template", read: template, seeds: template_seeds },
    Target { name: "gguf", read: gguf_file, seeds: gguf_seeds },
];

/// The folder of inputs that once went wrong.
pub(crate) fn corpus(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz").join(target)
}

/// The inputs of a folder, if there is one.
pub(crate) fn inputs(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

/// One change of an input.
#[derive(Debug, Arbitrary)]
enum Edit {
    Set { at: u16, byte: u8 },
    Flip { at: u16, bit: u8 },
    Remove { at: u16, len: u8 },
    Repeat { at: u16, len: u8, times: u8 },
    Copy { from: u16, to: u16, len: u8 },
    Number { at: u16, which: u8 },
    Word { at: u16, which: u8 },
    Cut { at: u16 },
}

/// Numbers at which things break, as text.
const NUMBERS: &[&str] =
    &["0", "-1", "1e400", "18446744073709551616", "2147483648", "0.1", "NaN", "null", "[]", "{}", "\"\""];
/// Numbers at which things break, as bytes.
const WORDS: &[u64] = &[0, 1, u64::MAX, 1 << 63, u32::MAX as u64, 1 << 31, 1 << 40];

/// The input number `number` of a seed: one of `seeds`, changed in a few places.
pub(crate) fn input(seeds: &[Vec<u8>], seed: u64, number: u64) -> Vec<u8> {
    let mut rng = HashRng::new(seed, "fuzz", number);
    let mut bytes = seeds[rng.draw() as usize % seeds.len()].clone();
    let random: Vec<u8> = (0..16).flat_map(|_| rng.draw().to_le_bytes()).collect();
    let mut source = Unstructured::new(&random);
    let edits = 1 + rng.draw() % 6;
    for edit in (0..edits).map_while(|_| Edit::arbitrary(&mut source).ok()) {
        if bytes.is_empty() {
            break;
        }
        // Most of what matters lies in front.
        let len = bytes.len();
        let place = |at: u16| if at.is_multiple_of(4) { usize::from(at) % len.min(24) } else { usize::from(at) % len };
        match edit {
            Edit::Set { at, byte } => bytes[place(at)] = byte,
            Edit::Flip { at, bit } => bytes[place(at)] ^= 1 << (bit % 8),
            Edit::Remove { at, len: n } => drop(bytes.drain(place(at)..(place(at) + usize::from(n)).min(len))),
            Edit::Repeat { at, len: n, times } => {
                let part = bytes[place(at)..(place(at) + usize::from(n)).min(len)].repeat(usize::from(times));
                bytes.splice(place(at)..place(at), part);
            }
            Edit::Copy { from, to, len: n } => {
                let part = bytes[place(from)..(place(from) + usize::from(n)).min(len)].to_vec();
                bytes.splice(place(to)..place(to), part);
            }
            Edit::Number { at, which } => {
                // The number or word that stands there in JSON, replaced.
                let start = place(at);
                let is_number = |byte: &u8| byte.is_ascii_digit() || b".-+e".contains(byte);
                let begin = start + bytes[start..].iter().position(is_number).unwrap_or(0);
                let end = begin + bytes[begin..].iter().take_while(|byte| is_number(byte)).count();
                let new = NUMBERS[usize::from(which) % NUMBERS.len()];
                bytes.splice(begin..end, new.bytes());
            }
            Edit::Word { at, which } => {
                let word = WORDS[usize::from(which) % WORDS.len()].to_le_bytes();
                let start = place(at);
                for (slot, byte) in bytes[start..].iter_mut().zip(word) {
                    *slot = byte;
                }
            }
            Edit::Cut { at } => bytes.truncate(place(at)),
        }
    }
    bytes
}

fn safetensors(folder: &Path, bytes: &[u8]) {
    let path = folder.join("a.safetensors");
    fs::write(&path, bytes).unwrap();
    if let Ok(file) = SafetensorsFile::open(&path) {
        let _ = (file.metadata(), file.arrays());
    }
}

fn small_file(folder: &Path) -> Vec<u8> {
    let path = folder.join("seed.safetensors");
    let array = |n: i32| Array::from_slice(&vec![0.5_f32; n as usize], &[n]);
    let arrays = [("a.weight".to_owned(), array(6)), ("b.bias".to_owned(), array(2))];
    save_safetensors(&path, &arrays, &BTreeMap::from([("format".to_owned(), "mlx".to_owned())])).unwrap();
    fs::read(&path).unwrap()
}

fn safetensors_seeds(folder: &Path) -> Vec<Vec<u8>> {
    vec![small_file(folder)]
}

fn index(folder: &Path, bytes: &[u8]) {
    let folder = folder.join("model");
    fs::create_dir_all(&folder).unwrap();
    let shard = folder.join("model-00001-of-00001.safetensors");
    if !shard.exists() {
        fs::write(&shard, small_file(&folder)).unwrap();
    }
    fs::write(folder.join("model.safetensors.index.json"), bytes).unwrap();
    let _ = Checkpoint::open(&folder);
}

fn index_seeds(_: &Path) -> Vec<Vec<u8>> {
    let shard = "model-00001-of-00001.safetensors";
    let index = json!({"metadata": {"total_size": 32}, "weight_map": {"a.weight": shard, "b.bias": shard}});
    vec![index.to_string().into_bytes()]
}

fn config(_: &Path, bytes: &[u8]) {
    if let Ok(value) = serde_json::from_slice(bytes)
        && let Ok(config) = ModelConfig::new(value)
    {
        let _ = measure(&config);
    }
}

fn config_seeds(_: &Path) -> Vec<Vec<u8>> {
    let folders = fs::read_dir(golden("")).unwrap().map(|entry| entry.unwrap().path().join("config.json"));
    let mut paths: Vec<PathBuf> = folders.filter(|path| path.is_file()).collect();
    paths.sort();
    paths.into_iter().map(|path| fs::read(path).unwrap()).collect()
}

fn tokenizer(folder: &Path, bytes: &[u8]) {
    let path = folder.join("tokenizer.json");
    fs::write(&path, bytes).unwrap();
    if let Ok(tokenizer) = Tokenizer::from_folder(folder, &TokenizerOptions::default())
        && let Ok(ids) = tokenizer.encode("Hello wörld, 12 <s>", true)
    {
        let _ = tokenizer.decode(&ids);
    }
}

fn tokenizer_seeds(_: &Path) -> Vec<Vec<u8>> {
    let steps = [
        ("ByteLevel", json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true})),
        ("Metaspace", json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true})),
    ];
    let words: Map<String, serde_json::Value> = ["<s>", "H", "e", "l", "o", "Ġ", "▁", "w", "ö", "He", "llo"]
        .iter()
        .zip(0..)
        .map(|(w, i)| ((*w).into(), json!(i)))
        .collect();
    let file = |step: &serde_json::Value| {
        json!({
            "version": "1.0", "truncation": null, "padding": null, "normalizer": {"type": "NFC"},
            "added_tokens": [{"id": 0, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true}],
            "pre_tokenizer": step, "post_processor": null, "decoder": step,
            "model": {"type": "BPE", "dropout": null, "unk_token": "<s>", "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
                "vocab": words, "merges": [["H", "e"]]},
        })
    };
    steps.iter().map(|(_, step)| file(step).to_string().into_bytes()).collect()
}

fn prompt_cache(folder: &Path, bytes: &[u8]) {
    let path = folder.join("cache.safetensors");
    fs::write(&path, bytes).unwrap();
    if let Ok((caches, _)) = Caches::load(&path) {
        let _ = (caches.is_trimmable(), caches.nbytes());
    }
}

fn prompt_cache_seeds(folder: &Path) -> Vec<Vec<u8>> {
    let kinds = [CacheKind::Kv, CacheKind::Rotating { max_size: 4, keep: 1 }, CacheKind::State { slots: 2 }];
    let mut caches = Caches::new(&kinds);
    let x = Array::from_slice(&[0.5_f32; 24], &[1, 1, 6, 4]);
    for layer in &mut caches.layers_mut()[..2] {
        layer.attend(&x, &x, &x, &Attend::scaled(1.0), &Masks::default()).unwrap();
    }
    caches.layers_mut()[2].keep(0, x, None).unwrap();
    let path = folder.join("seed-cache.safetensors");
    caches.save(&path, &BTreeMap::from([("model".to_owned(), "a".to_owned())])).unwrap();
    vec![fs::read(&path).unwrap()]
}

fn template(_: &Path, bytes: &[u8]) {
    let Ok(source) = std::str::from_utf8(bytes) else { return };
    if let Ok(template) = ChatTemplate::new(source) {
        let messages = [json!({"role": "system", "content": "s"}), json!({"role": "user", "content": "Hi"})];
        let _ = template.render(&messages, Map::new(), &TemplateOptions::default());
    }
}

fn template_seeds(_: &Path) -> Vec<Vec<u8>> {
    let sources = [
        "{% for m in messages %}<|{{ m['role'] }}|>{{ m.content | trim }}\n{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}",
        "{% set ns = namespace(n=0) %}{% macro f(a, b=2) %}{{ a ~ b }}{% endmacro %}{% for m in messages[1:] %}{% set ns.n = ns.n + loop.index %}{{ f(m.role) | upper }}{% endfor %}{{ ns.n // 2 ** 3 }}",
        "{{ messages | map(attribute='role') | join(', ') }}{{ '%s-%05.2f' % ('a', 1.5) }}{{ [1, 2.5, none] | tojson(indent=2) }}{{ 'x'.split('y')[0][::-1] * 3 }}",
    ];
    sources.iter().map(|source| source.as_bytes().to_vec()).collect()
}

fn gguf_file(folder: &Path, bytes: &[u8]) {
    let path = folder.join("a.gguf");
    fs::write(&path, bytes).unwrap();
    let _ = (
        gguf::open(&path),
        gguf::tokenizer(&path).and_then(|tokenizer| Ok(tokenizer.load(&TokenizerOptions::default())?)),
    );
}

fn gguf_seeds(folder: &Path) -> Vec<Vec<u8>> {
    let integer = |n: i64| GgufValue::Integer(n);
    let entries = BTreeMap::from([
        ("general.architecture".to_owned(), GgufValue::Text("llama".into())),
        ("llama.block_count".to_owned(), integer(1)),
        ("llama.context_length".to_owned(), integer(32)),
        ("llama.embedding_length".to_owned(), integer(32)),
        ("llama.feed_forward_length".to_owned(), integer(64)),
        ("llama.attention.head_count".to_owned(), integer(2)),
        ("llama.attention.layer_norm_rms_epsilon".to_owned(), GgufValue::Float(1e-5)),
        ("tokenizer.ggml.model".to_owned(), GgufValue::Text("llama".into())),
        ("tokenizer.ggml.tokens".to_owned(), GgufValue::Texts(vec!["<unk>".into(), "a".into(), "▁a".into()])),
        ("tokenizer.ggml.scores".to_owned(), GgufValue::Floats(vec![0.0, -1.0, -2.0])),
        ("tokenizer.ggml.token_type".to_owned(), GgufValue::Integers(vec![2, 1, 1])),
    ]);
    let path = folder.join("seed.gguf");
    let tensor = Array::from_slice(&[0.5_f32; 96], &[3, 32]);
    let tensors = [
        ("token_embd.weight".to_owned(), tensor.clone(), TensorType::Q8_0),
        ("output.weight".to_owned(), tensor, TensorType::F16),
    ];
    write_gguf(&path, &Metadata::new("seed.gguf", entries), &tensors).unwrap();
    vec![fs::read(&path).unwrap()]
}
