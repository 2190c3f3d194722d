//! GGUF files of every architecture, made from the golden cases, give the model that they were made from.
#![allow(clippy::unwrap_used, reason = "helpers of tests may fail as tests do")]

mod support;

use std::collections::BTreeMap;
use std::path::Path;

use mlxlm_core::weights::gguf::{Metadata, TensorType, Value, write_gguf};
use mlxlm_core::{Array, Dtype};
use mlxlm_models::{Built, CausalLm, LoadOptions, ModelConfig, build, gguf, load_model};
use serde_json::json;

use support::{Case, columns, largest_difference};

/// What is in a file besides the tensors of a case.
struct Making {
    architecture: &'static str,
    entries: Vec<(&'static str, Value)>,
    /// Further tensors.
    tensors: Vec<(&'static str, Vec<f32>)>,
    /// The type of matrices.
    matrices: TensorType,
    /// Entries of the case's configuration that the file has another way, or cannot have.
    config: serde_json::Value,
}

impl Making {
    fn of(architecture: &'static str) -> Self {
        Self { architecture, entries: vec![], tensors: vec![], matrices: TensorType::F32, config: json!({}) }
    }

    /// Writes the file of a case.
    fn write(&self, case: &Case, path: &Path) {
        let config = case.config();
        let number = |key: &str| config.get(key).and_then(serde_json::Value::as_i64);
        let heads = number("num_attention_heads").unwrap();
        let float = |key: &str| Value::Float(config.get(key).and_then(serde_json::Value::as_f64).unwrap());
        let mut entries = BTreeMap::from([("general.architecture".to_owned(), Value::Text(self.architecture.into()))]);
        let mut set = |key: &str, value: Value| entries.insert(format!("{}.{key}", self.architecture), value);
        set("block_count", Value::Integer(number("num_hidden_layers").unwrap()));
        set("embedding_length", Value::Integer(number("hidden_size").unwrap()));
        set("feed_forward_length", Value::Integer(number("intermediate_size").unwrap()));
        set("context_length", Value::Integer(number("max_position_embeddings").unwrap()));
        set("attention.head_count", Value::Integer(heads));
        set("attention.head_count_kv", Value::Integer(number("num_key_value_heads").unwrap()));
        set("attention.layer_norm_rms_epsilon", float("rms_norm_eps"));
        set("rope.freq_base", float("rope_theta"));
        if let Some(length) = number("head_dim") {
            set("attention.key_length", Value::Integer(length));
            set("attention.value_length", Value::Integer(length));
        }
        for (key, value) in &self.entries {
            set(key, value.clone());
        }
        let mut tensors: Vec<(String, Array, TensorType)> =
            case.tensors().into_iter().map(|(name, array)| self.tensor(&config, &name, array)).collect();
        for (name, values) in &self.tensors {
            let array = Array::from_slice(values, &[values.len() as i32]);
            tensors.push(((*name).to_owned(), array, TensorType::F32));
        }
        write_gguf(path, &Metadata::new(path, entries), &tensors).unwrap();
    }

    /// A tensor as llama.cpp's converter writes it.
    fn tensor(&self, config: &ModelConfig, name: &str, array: Array) -> (String, Array, TensorType) {
        let is_gemma = self.architecture.starts_with("gemma");
        let mut own = name.replace("model.layers.", "blk.").replace("model.embed_tokens", "token_embd");
        own = own.replace("lm_head", "output").replace("model.norm", "output_norm");
        let after = if is_gemma { "post_attention_norm" } else { "ffn_norm" };
        for (theirs, ours) in [
            ("input_layernorm", "attn_norm"),
            ("post_attention_layernorm", after),
            ("pre_feedforward_layernorm", "ffn_norm"),
            ("post_feedforward_layernorm", "post_ffw_norm"),
            ("self_attn.q_proj", "attn_q"),
            ("self_attn.k_proj", "attn_k"),
            ("self_attn.v_proj", "attn_v"),
            ("self_attn.o_proj", "attn_output"),
            ("self_attn.q_norm", "attn_q_norm"),
            ("self_attn.k_norm", "attn_k_norm"),
            ("self_attn.qkv_proj", "attn_qkv"),
            ("mlp.gate_up_proj", "ffn_up"),
            ("block_sparse_moe.gate", "ffn_gate_inp"),
            ("block_sparse_moe.switch_mlp.", "mlp.switch_mlp."),
            ("mlp.switch_mlp.gate_proj", "ffn_gate_exps"),
            ("mlp.switch_mlp.up_proj", "ffn_up_exps"),
            ("mlp.switch_mlp.down_proj", "ffn_down_exps"),
            ("mlp.gate.", "ffn_gate_inp."),
            ("mlp.gate_proj", "ffn_gate"),
            ("mlp.up_proj", "ffn_up"),
            ("mlp.down_proj", "ffn_down"),
        ] {
            own = own.replace(theirs, ours);
        }
        let heads = match (self.architecture, own.contains("attn_q."), own.contains("attn_k.")) {
            ("llama", true, _) => config.get("num_attention_heads"),
            ("llama", _, true) => config.get("num_key_value_heads"),
            _ => None,
        };
        let array = match heads.and_then(serde_json::Value::as_i64) {
            Some(heads) => neighbours(&array, heads as i32),
            None if is_gemma && own.contains("norm") => array.add(Array::from_f32(1.0)).unwrap(),
            None => array,
        };
        let is_matrix = array.ndim() > 1 && !own.contains("ffn_gate_inp");
        (own, array, if is_matrix { self.matrices } else { TensorType::F32 })
    }

    /// The model of a case, and that of the file that is made from it.
    fn models(&self, case: &Case) -> [Box<dyn CausalLm>; 2] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.gguf");
        self.write(case, &path);
        let mut config = ModelConfig::read(&case.folder).unwrap();
        for (key, value) in self.config.as_object().unwrap() {
            config.set(key, Some(value.clone()));
        }
        let original = build(&config, case.tensors(), None).unwrap().model;
        let Built { model: read, warnings } = load_model(&path, &LoadOptions::default()).unwrap().0;
        assert!(warnings.iter().all(|warning| !warning.contains("packed anew")), "{warnings:?}");
        [original, read]
    }

    /// The largest difference between the logits of both, as a share of the logits' deviation.
    fn difference(&self, name: &str) -> f32 {
        let case = Case::named(name);
        let tokens = columns(&case.expected("tokens"), 0, 12);
        let [original, read] = self.models(&case).map(|model| model.forward(&tokens, None).unwrap());
        let deviation: f32 = case.metadata["logit_std"].parse().unwrap();
        largest_difference(&original.as_dtype(Dtype::Float32).unwrap(), &read) / deviation
    }
}

/// The order of rows in which the numbers that rotate together are neighbours.
fn neighbours(array: &Array, heads: i32) -> Array {
    let shape = array.shape().to_vec();
    let rest: i32 = shape[1..].iter().product();
    let halves = array.reshape(&[heads, 2, shape[0] / heads / 2, rest]).unwrap();
    halves.swap_axes(1, 2).unwrap().reshape(&shape).unwrap()
}

fn all() -> Vec<(&'static str, Making)> {
    let integer = |key, number| (key, Value::Integer(number));
    vec![
        ("llama", Making::of("llama")),
        ("llama__bias", Making::of("llama")),
        ("llama__tied", Making::of("llama")),
        (
            "llama__linear",
            Making {
                entries: vec![
                    ("rope.scaling.type", Value::Text("linear".into())),
                    (
                        "rope.scaling.factor",
                        Value::Float(
                            Case::named("llama__linear").config().get("rope_scaling").unwrap()["factor"]
                                .as_f64()
                                .unwrap(),
                        ),
                    ),
                ],
                ..Making::of("llama")
            },
        ),
        (
            "mixtral",
            Making {
                entries: vec![integer("expert_count", 4), integer("expert_used_count", 2)],
                ..Making::of("llama")
            },
        ),
        ("qwen2", Making::of("qwen2")),
        ("qwen3", Making::of("qwen3")),
        ("qwen3__tied", Making::of("qwen3")),
        (
            "qwen3_moe",
            Making {
                entries: vec![
                    integer("expert_count", 4),
                    integer("expert_used_count", 2),
                    integer("expert_feed_forward_length", 32),
                ],
                ..Making::of("qwen3moe")
            },
        ),
        (
            "gemma2",
            Making {
                entries: vec![
                    ("attn_logit_softcapping", Value::Float(5.0)),
                    ("final_logit_softcapping", Value::Float(4.0)),
                ],
                config: json!({"query_pre_attn_scalar": 16}),
                ..Making::of("gemma2")
            },
        ),
        (
            "gemma3_text",
            Making {
                entries: vec![integer("attention.sliding_window", 4), ("rope.freq_base_swa", Value::Float(1000.0))],
                config: json!({"query_pre_attn_scalar": 16, "sliding_window_pattern": 6}),
                ..Making::of("gemma3")
            },
        ),
        (
            "phi3",
            Making {
                entries: vec![integer("rope.scaling.original_context_length", 16)],
                tensors: vec![
                    ("rope_factors_long.weight", vec![1.0, 1.3, 1.9, 2.6]),
                    ("rope_factors_short.weight", vec![1.0, 1.05, 1.1, 1.2]),
                ],
                ..Making::of("phi3")
            },
        ),
    ]
}

#[test]
fn a_file_gives_the_logits_of_the_model_that_it_was_made_from() {
    for (name, making) in all() {
        let difference = making.difference(name);
        assert!(difference < 1e-4, "{name}: {difference}");
    }
}

#[test]
fn packed_rows_come_back_in_their_order() {
    for (name, making) in all() {
        let difference = Making { matrices: TensorType::Q8_0, ..making }.difference(name);
        // Codes of 8 bits move logits a little; rows in another order would move them by whole deviations.
        assert!(difference > 1e-4 && difference < 0.4, "{name}: {difference}");
    }
}

/// The file of a case, opened.
fn opened(making: &Making, name: &str) -> mlxlm_models::Result<gguf::Opened> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    making.write(&Case::named(name), &path);
    gguf::open(&path)
}

#[test]
fn the_type_is_the_smallest_that_holds_everything() {
    let type_of = |making: &Making, name: &str| {
        let gguf::Opened { config, tensors, .. } = opened(making, name).unwrap();
        let dtype = config.get("torch_dtype").unwrap().as_str().unwrap().to_owned();
        let floats: Vec<Dtype> = tensors.values().map(Array::dtype).filter(Dtype::is_float).collect();
        assert!(floats.iter().all(|other| *other == floats[0]), "{floats:?}");
        dtype
    };
    let with = |matrices| Making { matrices, ..Making::of("llama") };
    assert_eq!(type_of(&with(TensorType::F32), "llama"), "float32");
    // The norms of this case are drawn, and need all bits.
    assert_eq!(type_of(&with(TensorType::F16), "llama"), "float32");
    assert_eq!(type_of(&Making { matrices: TensorType::BF16, ..Making::of("gemma2") }, "gemma2"), "float32");
}

#[test]
fn packings_are_in_the_configuration() {
    let making = Making { matrices: TensorType::Q4_0, ..Making::of("llama") };
    let gguf::Opened { config, tensors, warnings } = opened(&making, "llama").unwrap();
    let affine = json!({"group_size": 32, "bits": 4, "mode": "affine"});
    assert_eq!(config.get("quantization"), Some(&affine));
    assert_eq!(tensors["lm_head.weight"].dtype(), Dtype::Uint32);
    assert!(matches!(&warnings[..], [only] if only.contains("--dtype bfloat16")), "{warnings:?}");
}

/// The factors of Llama 3.1, by its paper's code: 32 for long waves, 1 for short ones.
fn llama_3_factors(dims: i32, base: f64, factor: f64) -> Vec<f32> {
    let of = |pair: i32| {
        let length = std::f64::consts::TAU * base.powf(f64::from(2 * pair) / f64::from(dims));
        match length {
            _ if length < 8192.0 / 4.0 => 1.0,
            _ if length > 8192.0 => factor,
            _ => {
                let smooth = (8192.0 / length - 1.0) / 3.0;
                1.0 / ((1.0 - smooth) / factor + smooth)
            }
        }
    };
    (0..dims / 2).map(|pair| of(pair) as f32).collect()
}

#[test]
fn factors_of_llama_3_become_what_they_follow_from() {
    // Base and size are those of the case; its waves are short, so the greatest factor is that of no pair but the last.
    let entries = vec![("rope.freq_base", Value::Float(5e7))];
    let mut factors = llama_3_factors(8, 5e7, 32.0);
    let making = Making {
        entries: entries.clone(),
        tensors: vec![("rope_freqs.weight", factors.clone())],
        ..Making::of("llama")
    };
    let config = opened(&making, "llama").unwrap().config;
    let scaling = config.get("rope_scaling").unwrap();
    assert_eq!((&scaling["rope_type"], &scaling["factor"]), (&json!("llama3"), &json!(32.0)));
    assert_eq!(scaling["original_max_position_embeddings"], 8192);
    factors[1] = 7.0;
    let making = Making { entries, tensors: vec![("rope_freqs.weight", factors)], ..Making::of("llama") };
    let error = opened(&making, "llama").unwrap_err().to_string();
    assert!(error.ends_with("holds other factors than those of Llama 3"), "{error}");
    let making = Making { tensors: vec![("rope_freqs.weight", vec![1.0; 4])], ..Making::of("llama") };
    assert_eq!(opened(&making, "llama").unwrap().config.get("rope_scaling"), None);
}

#[test]
fn what_is_not_known_is_refused_by_name() {
    let message_of = |making: &Making| opened(making, "llama").unwrap_err().to_string();
    let with = |key, value| Making { entries: vec![(key, value)], ..Making::of("llama") };
    let architectures = "gemma2, gemma3, llama, phi3, qwen2, qwen3, qwen3moe";
    assert!(
        message_of(&Making::of("rwkv9"))
            .ends_with(&format!("is `rwkv9`; the architectures that are known are {architectures}")),
        "{}",
        message_of(&Making::of("rwkv9"))
    );
    let extra = Making { tensors: vec![("blk.0.ssm_a.weight", vec![1.0])], ..Making::of("llama") };
    assert!(message_of(&extra).contains("`blk.0.ssm_a.weight`"), "{}", message_of(&extra));
    let layers = with("attention.head_count_kv", Value::Integers(vec![2, 1]));
    assert!(
        message_of(&layers).contains("is not one whole number, the same for all layers"),
        "{}",
        message_of(&layers)
    );
    assert!(message_of(&with("attention.value_length", Value::Integer(4))).contains("value_length"));
    assert!(message_of(&with("rope.dimension_count", Value::Integer(4))).contains("rope.dimension_count"));
    assert!(message_of(&with("rope.scaling.type", Value::Text("longrope".into()))).contains("is `longrope`"));
    let heads = message_of(&with("attention.head_count", Value::Integer(0)));
    assert!(heads.contains("attention.head_count"), "{heads}");
    let heads = message_of(&with("attention.head_count", Value::Integer(3)));
    assert!(heads.contains("which are not 3 heads"), "{heads}");
}
