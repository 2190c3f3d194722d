//! GGUF files as models: run as they are, converted, refused.

use std::collections::BTreeMap;
use std::path::Path;

use mlxlm_core::weights::Checkpoint;
use mlxlm_core::weights::gguf::{Metadata, TensorType, Value, write_gguf};
use mlxlm_core::{Array, io};

use crate::bench::Bench;
use crate::tiny;

/// Writes the model `tiny` of a bench as a file, with its matrices as `kind`.
fn make(bench: &Bench, name: &str, kind: TensorType) {
    let config = tiny::config();
    let number = |key: &str| Value::Integer(config[key].as_i64().unwrap());
    let mut entries = BTreeMap::from([
        ("general.architecture".to_owned(), Value::Text("llama".into())),
        ("llama.attention.layer_norm_rms_epsilon".to_owned(), Value::Float(1e-5)),
    ]);
    for (key, theirs) in [
        ("block_count", "num_hidden_layers"),
        ("context_length", "max_position_embeddings"),
        ("embedding_length", "hidden_size"),
        ("feed_forward_length", "intermediate_size"),
        ("attention.head_count", "num_attention_heads"),
        ("attention.head_count_kv", "num_key_value_heads"),
    ] {
        entries.insert(format!("llama.{key}"), number(theirs));
    }
    add_tokenizer(&mut entries, &bench.path("tiny"));
    let tensors = Checkpoint::open(bench.path("tiny")).unwrap().tensors;
    let tensors: Vec<_> = tensors.into_iter().map(|(name, array)| tensor(&name, array, kind)).collect();
    let path = bench.path(name);
    write_gguf(&path, &Metadata::new(&path, entries), &tensors).unwrap();
}

/// The tokenizer of the folder, as the metadata of a file.
fn add_tokenizer(entries: &mut BTreeMap<String, Value>, folder: &Path) {
    let content: serde_json::Value = io::read_json(folder.join("tokenizer.json")).unwrap();
    let config: serde_json::Value = io::read_json(folder.join("tokenizer_config.json")).unwrap();
    let mut tokens = vec![String::new(); 900];
    let mut kinds = vec![5; 900];
    for (token, id) in content["model"]["vocab"].as_object().unwrap() {
        let id = id.as_u64().unwrap() as usize;
        (tokens[id], kinds[id]) = (token.clone(), 1);
    }
    for token in content["added_tokens"].as_array().unwrap() {
        let id = token["id"].as_u64().unwrap() as usize;
        (tokens[id], kinds[id]) = (token["content"].as_str().unwrap().to_owned(), 3);
    }
    for (id, token) in tokens.iter_mut().enumerate().filter(|(_, token)| token.is_empty()) {
        *token = format!("[unused {id}]");
    }
    let merge = |merge: &serde_json::Value| match merge.as_array() {
        Some(pair) => format!("{} {}", pair[0].as_str().unwrap(), pair[1].as_str().unwrap()),
        None => merge.as_str().unwrap().to_owned(),
    };
    let merges = content["model"]["merges"].as_array().unwrap().iter().map(merge).collect();
    let end = config["eos_token"].as_str().or_else(|| config["eos_token"]["content"].as_str()).unwrap();
    let end = tokens.iter().position(|token| token == end).unwrap();
    let template = config["chat_template"].as_str().unwrap().to_owned();
    entries.extend(
        [
            ("ggml.model", Value::Text("gpt2".into())),
            ("ggml.pre", Value::Text("gpt-2".into())),
            ("ggml.tokens", Value::Texts(tokens)),
            ("ggml.token_type", Value::Integers(kinds)),
            ("ggml.merges", Value::Texts(merges)),
            ("ggml.eos_token_id", Value::Integer(end as i64)),
            ("chat_template", Value::Text(template)),
        ]
        .map(|(key, value)| (format!("tokenizer.{key}"), value)),
    );
}

fn tensor(name: &str, array: Array, kind: TensorType) -> (String, Array, TensorType) {
    let mut own = name.replace("model.layers.", "blk.").replace("model.embed_tokens", "token_embd");
    for (theirs, ours) in [
        ("model.norm", "output_norm"),
        ("lm_head", "output"),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("self_attn.o_proj", "attn_output"),
        ("self_attn.", "attn_"),
        ("mlp.", "ffn_"),
        ("_proj", ""),
    ] {
        own = own.replace(theirs, ours);
    }
    let heads = if own.contains("attn_q") { 2 } else { 1 };
    let array = if own.contains("attn_q") || own.contains("attn_k") {
        let (rows, columns) = (array.dim(0), array.dim(1));
        let halves = array.reshape(&[heads, 2, rows / heads / 2, columns]).unwrap();
        halves.swap_axes(1, 2).unwrap().reshape(&[rows, columns]).unwrap()
    } else {
        array
    };
    let kind = if array.ndim() > 1 { kind } else { TensorType::F32 };
    (own, array, kind)
}

fn generate(bench: &Bench, model: &str) -> String {
    bench.run(&["generate", "--model", model, "-p", "hello", "-m", "12", "--verbose", "false"]).ok()
}

#[test]
fn a_file_says_what_its_folder_says() {
    let bench = Bench::new();
    make(&bench, "tiny.gguf", TensorType::F32);
    let expected = generate(&bench, "tiny");
    assert_eq!(generate(&bench, "tiny.gguf"), expected);
    let shown = bench.run(&["convert", "--gguf-path", "tiny.gguf", "--mlx-path", "out"]).ok();
    assert_eq!(shown, "[INFO] Loading\n[INFO] 32.000 bits per weight.\n[INFO] Wrote out, 759.1 kB of weights.\n");
    assert_eq!(generate(&bench, "out"), expected);
    for file in
        ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    {
        assert!(bench.path("out").join(file).is_file(), "{file}");
    }
}

#[test]
fn a_packed_file_stays_packed() {
    let bench = Bench::new();
    make(&bench, "tiny.gguf", TensorType::Q8_0);
    let shown = bench.run(&["convert", "--model", "tiny.gguf", "--mlx-path", "out"]).ok();
    assert!(shown.starts_with("[INFO] Loading\n[INFO] 9."), "{shown}");
    let config: serde_json::Value = io::read_json(bench.path("out/config.json")).unwrap();
    assert_eq!(config["quantization"], serde_json::json!({"group_size": 32, "bits": 8, "mode": "affine"}));
    assert_eq!(generate(&bench, "out"), generate(&bench, "tiny.gguf"));
    let shown =
        bench.run(&["convert", "--gguf-path", "tiny.gguf", "--mlx-path", "plain", "-d", "--dtype", "float32"]).ok();
    assert!(shown.contains("[INFO] Dequantizing\n[INFO] 32.000 bits per weight.\n"), "{shown}");
    assert!(!generate(&bench, "plain").trim().is_empty());
}

#[test]
fn what_cannot_be_read_is_one_line_and_leaves_nothing() {
    let bench = Bench::new();
    make(&bench, "tiny.gguf", TensorType::F32);
    let whole = io::read(bench.path("tiny.gguf")).unwrap();
    for (name, bytes, expected) in [
        ("empty.gguf", &b"GGUF"[..], "`empty.gguf` is not a valid GGUF file: the version at byte 4 takes 4 bytes"),
        ("other.gguf", b"something else", "`other.gguf` is not a valid GGUF file: it does not begin with `GGUF`"),
        ("cut.gguf", &whole[..whole.len() / 2], "`cut.gguf` is not a valid GGUF file: `"),
    ] {
        io::write(bench.path(name), bytes).unwrap();
        for args in
            [["convert", "--gguf-path", name, "--mlx-path", "out"], ["generate", "--model", name, "-p", "hello"]]
        {
            let ran = bench.run(&args);
            let (message, hint) = ran.refused(1);
            assert!(message.starts_with(expected), "{message}");
            assert_eq!(hint, "download the file again; it may be incomplete");
        }
        assert!(!bench.path("out").exists());
    }
    let ran = bench.run(&["convert", "--gguf-path", "absent.gguf", "--mlx-path", "out"]);
    assert!(ran.refused(1).0.starts_with("cannot open `absent.gguf`: "), "{ran:?}");
    for args in [&["convert", "--gguf-path", "tiny.gguf", "--model", "tiny"][..], &["convert"]] {
        assert_eq!(bench.run(args).code, Some(2));
    }
}

/// Writes a model of the bench as a file of its own name.
fn export(bench: &Bench, name: &str, kind: TensorType) -> Result<(), String> {
    let file = bench.path(format!("{name}.{}.gguf", kind.name()));
    mlxlm_models::gguf::export(&bench.path(name), None, &file, kind).map_err(|error| error.to_string())
}

#[test]
fn a_model_that_is_written_says_the_same_when_it_is_read() {
    let bench = Bench::new();
    let expected = generate(&bench, "tiny");
    for kind in [TensorType::F32, TensorType::F16, TensorType::BF16, TensorType::Q8_0, TensorType::Q4_0] {
        export(&bench, "tiny", kind).unwrap();
        let file = format!("tiny.{}.gguf", kind.name());
        let text = generate(&bench, &file);
        if [TensorType::F32, TensorType::F16, TensorType::Q8_0].contains(&kind) {
            assert_eq!(text, expected, "{}", kind.name());
        }
        assert!(!text.trim().is_empty());
    }
    let (f16, q4) = (size(&bench, "tiny.F16.gguf"), size(&bench, "tiny.Q4_0.gguf"));
    assert!(q4 < f16 * 3 / 5, "{q4} of {f16}");
    // From a file too, with its own tokenizer.
    let again = bench.path("again.gguf");
    mlxlm_models::gguf::export(&bench.path("tiny.F16.gguf"), None, &again, TensorType::F16).unwrap();
    assert_eq!(generate(&bench, "again.gguf"), expected);
}

fn size(bench: &Bench, name: &str) -> u64 {
    std::fs::metadata(bench.path(name)).unwrap().len()
}

#[test]
fn the_llama_family_is_written() {
    let bench = Bench::new();
    let drawn = |seed: u64, shape: &[i32]| {
        mlxlm_core::random::uniform::<_, f32>(0.5, 1.5, shape, &mlxlm_core::random::key(seed).unwrap()).unwrap()
    };
    let scaling = serde_json::json!({
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    });
    let cases = [
        ("mistral", serde_json::json!({"model_type": "mistral"})),
        (
            "llama3",
            serde_json::json!({"rope_scaling": scaling, "rope_theta": 500_000.0, "max_position_embeddings": 16384}),
        ),
        ("qwen2", serde_json::json!({"model_type": "qwen2"})),
        ("qwen3", serde_json::json!({"model_type": "qwen3", "head_dim": 32})),
    ];
    let mut texts = Vec::new();
    for (name, entries) in cases {
        tiny::make(&bench.path(name), 7);
        tiny::configure(&bench.path(name), entries);
        let mut tensors = Checkpoint::open(bench.path(name)).unwrap().tensors;
        for layer in 0..2 {
            let path = format!("model.layers.{layer}.self_attn");
            for (part, rows) in [("q_proj", 64), ("k_proj", 32), ("v_proj", 32)].into_iter().filter(|_| name == "qwen2")
            {
                tensors.insert(format!("{path}.{part}.bias"), drawn(layer, &[rows]));
            }
            for part in ["q_norm", "k_norm"].into_iter().filter(|_| name == "qwen3") {
                tensors.insert(format!("{path}.{part}.weight"), drawn(layer + 5, &[32]));
            }
        }
        mlxlm_core::weights::save_model(bench.path(name), tensors.into_iter().collect(), 0).unwrap();
        export(&bench, name, TensorType::F32).unwrap();
        let expected = generate(&bench, name);
        assert_eq!(generate(&bench, &format!("{name}.F32.gguf")), expected, "{name}");
        texts.push(expected);
    }
    texts.dedup();
    assert!(texts.len() > 2, "{texts:?}");
}

#[test]
fn a_fine_tune_and_packed_weights_are_written_out() {
    let bench = Bench::new();
    bench.run(&["convert", "--model", "tiny", "--mlx-path", "packed", "-q", "--q-bits", "8"]).ok();
    export(&bench, "packed", TensorType::F32).unwrap();
    assert_eq!(generate(&bench, "packed.F32.gguf"), generate(&bench, "packed"));
    let adapter = bench.path("adapter");
    io::create_dir_all(&adapter).unwrap();
    let drawn = |seed: u64, shape: &[i32]| {
        mlxlm_core::random::normal::<f32>(shape, None, 0.2, &mlxlm_core::random::key(seed).unwrap()).unwrap()
    };
    let path = "model.layers.0.self_attn.q_proj";
    let arrays = [(format!("{path}.lora_a"), drawn(1, &[64, 4])), (format!("{path}.lora_b"), drawn(2, &[4, 64]))];
    mlxlm_core::weights::save_safetensors(adapter.join("adapters.safetensors"), &arrays, &BTreeMap::new()).unwrap();
    let config = serde_json::json!({"lora_parameters": {"rank": 4, "scale": 2.0, "dropout": 0.0}, "num_layers": 2});
    io::write_json(adapter.join("adapter_config.json"), &config).unwrap();
    let file = bench.path("tuned.gguf");
    mlxlm_models::gguf::export(&bench.path("tiny"), Some(&adapter), &file, TensorType::F32).unwrap();
    let args =
        ["generate", "--model", "tiny", "--adapter-path", "adapter", "-p", "hello", "-m", "12", "--verbose", "false"];
    let expected = bench.run(&args).ok();
    assert_ne!(expected, generate(&bench, "tiny"));
    assert_eq!(generate(&bench, "tuned.gguf"), expected);
}

#[test]
fn what_cannot_be_written_is_named() {
    let bench = Bench::new();
    let refusal = |entries: serde_json::Value| {
        tiny::configure(&bench.path("tiny"), entries);
        let error = export(&bench, "tiny", TensorType::F16).unwrap_err();
        assert!(!bench.path("tiny.F16.gguf").exists());
        error
    };
    let longrope = serde_json::json!({"rope_type": "dynamic", "factor": 2.0});
    assert!(refusal(serde_json::json!({"rope_scaling": longrope})).contains("`dynamic`"));
    assert!(refusal(serde_json::json!({"rope_scaling": null, "model_type": "gemma"})).contains("`gemma`"));
}
