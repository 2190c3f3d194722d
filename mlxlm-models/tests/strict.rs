//! Loading is strict: whatever does not fit is told, all at once, by name; nothing is guessed, and nothing panics.
#![allow(clippy::unwrap_used, reason = "helpers of tests may fail as tests do")]

mod support;

use mlxlm_core::weights::Tensors;
use mlxlm_core::{Array, Dtype};
use mlxlm_models::{ModelConfig, build};
use serde_json::{Value, json};

use support::{Case, drawn};

/// What loading the tensors of a case, after a change, says.
fn load(case: &str, change: impl FnOnce(&mut Tensors)) -> String {
    let case = Case::named(case);
    let mut tensors = case.tensors();
    change(&mut tensors);
    case.model_of(tensors).map_or_else(|e| e.to_string(), |_| "it loads".into())
}

fn zeros(shape: &[i32], dtype: Dtype) -> Array {
    drawn("", shape, 0.0).as_dtype(dtype).unwrap()
}

const Q: &str = "model.layers.0.self_attn.q_proj";

#[test]
fn all_that_does_not_fit_is_one_error() {
    let told = load("llama", |tensors| {
        let moved = tensors.remove("model.layers.1.mlp.up_proj.weight").unwrap();
        tensors.insert("language_model.layers.1.mlp.up_proj.weight".into(), moved);
        tensors.remove("model.norm.weight");
        tensors.insert(format!("{Q}.weight"), zeros(&[16, 32], Dtype::Float32));
        tensors.insert("lm_head.weight".into(), zeros(&[128, 32], Dtype::Int32));
    });
    assert_eq!(
        told,
        "the weights do not fit the model:\
         \n  - `model.norm.weight` is missing\
         \n  - `model.layers.0.self_attn.q_proj.weight` is [16, 32], expected [32, 32]\
         \n  - `model.layers.1.mlp.up_proj.weight` is missing (near: `language_model.layers.1.mlp.up_proj.weight`)\
         \n  - `lm_head.weight` is of the type Int32, expected a float\
         \n  - `language_model.layers.1.mlp.up_proj.weight` belongs to no part of the model"
    );
}

#[test]
fn an_empty_checkpoint_is_told_in_a_few_lines() {
    let told = load("llama", Tensors::clear);
    assert_eq!(told.lines().count(), 14, "{told}");
    assert!(told.ends_with("\n  - and 9 more"), "{told}");
}

#[test]
fn every_tensor_is_needed_and_no_other() {
    for case in support::cases().iter().filter(|case| case.is_base()) {
        for name in case.tensors().into_keys().filter(|name| !is_optional(case, name)) {
            let told = load(&case.name, |tensors| drop(tensors.remove(&name)));
            assert!(told.contains(&format!("\n  - `{name}` is missing")), "{} without `{name}`: {told}", case.name);
            assert_eq!(told.lines().count(), 2, "{} without `{name}`: {told}", case.name);
        }
        let told =
            load(&case.name, |tensors| drop(tensors.insert("model.extra.weight".into(), zeros(&[1], Dtype::Float32))));
        assert!(told.ends_with("\n  - `model.extra.weight` belongs to no part of the model"), "{}: {told}", case.name);
    }
}

/// Gemma 3 is tied if its checkpoint has no head.
fn is_optional(case: &Case, name: &str) -> bool {
    case.metadata["model_type"] == "gemma3_text" && name == "lm_head.weight"
}

#[test]
fn packed_weights_must_be_a_quantization() {
    let check = |case: &str, part: &str, array: Array, problem: &str| {
        let told = load(case, |tensors| drop(tensors.insert(format!("{Q}.{part}"), array)));
        assert_eq!(told, format!("the weights do not fit the model:\n  - `{Q}.{problem}"), "{case} {part}");
    };
    let (f32, u8, u32) = (Dtype::Float32, Dtype::Uint8, Dtype::Uint32);
    check("llama__q4", "weight", zeros(&[32, 4], f32), "weight` is of the type Float32, expected u32");
    check("llama__q4", "weight", zeros(&[31, 4], u32), "weight` is [31, 4], expected [32, 4]");
    check("llama__q4", "scales", zeros(&[16, 1], f32), "scales` is [16, 1], expected [32, 1]");
    check("llama__q4", "biases", zeros(&[32, 2], f32), "biases` is [32, 2], expected [32, 1]");
    check("llama__q4", "biases", zeros(&[32, 1], u32), "biases` is of the type Uint32, expected a float");
    check("llama__mxfp4", "biases", zeros(&[32, 1], f32), "biases` belongs to no part of the model");
    let unknown = |weight: &str, scales: &str| {
        format!("scales` {scales} beside a packed weight {weight} is no quantization of rows of 32")
    };
    check("llama__q4", "weight", zeros(&[32, 7], u32), &unknown("[32, 7]", "[32, 1]"));
    check("llama__q4", "scales", zeros(&[32, 3], f32), &unknown("[32, 4]", "[32, 3]"));
    check("llama__q4", "scales", zeros(&[32, 0], f32), &unknown("[32, 4]", "[32, 0]"));
    check("llama__mxfp4", "scales", zeros(&[32, 4], u8), &unknown("[32, 4]", "[32, 4]"));
    let bare = load("llama__q4", |tensors| drop(tensors.remove(&format!("{Q}.biases"))));
    assert_eq!(
        bare,
        format!(
            "the weights do not fit the model:\n  - `{Q}.biases` is missing (near: `model.layers.1.self_attn.q_proj.biases`)"
        )
    );
}

/// What building a case says after entries of its configuration were replaced; null removes one.
fn configured(case: &str, entries: &Value) -> String {
    let case = Case::named(case);
    let mut config = case.config();
    for (key, value) in entries.as_object().unwrap() {
        config.set(key, Some(value.clone()).filter(|value| !value.is_null()));
    }
    build(&config, case.tensors(), None).map_or_else(|e| e.to_string(), |_| "it loads".into())
}

/// The case, the entries that are replaced, and what is said after "config.json: ".
fn check_refusals(table: &[(&str, Value, &str)]) {
    let wrong: Vec<String> = table
        .iter()
        .map(|(case, entries, why)| (configured(case, entries), entries, format!("config.json: {why}")))
        .filter(|(got, _, expected)| got != expected)
        .map(|(got, entries, expected)| format!("{entries}\n  says      {got}\n  should be {expected}"))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn absurd_configurations_are_refused_by_name() {
    check_refusals(&[
        ("llama", json!({"num_hidden_layers": 0}), "`num_hidden_layers` is 0, expected 1 to 10000"),
        ("llama", json!({"num_hidden_layers": 1e9 as i64}), "`num_hidden_layers` is 1000000000, expected 1 to 10000"),
        ("llama", json!({"num_hidden_layers": -1}), "`num_hidden_layers` is -1, expected 1 to 10000"),
        (
            "llama",
            json!({"num_hidden_layers": 1_u64 << 40}),
            "`num_hidden_layers`: invalid value: integer `1099511627776`, expected i32",
        ),
        (
            "llama",
            json!({"num_hidden_layers": 2.5}),
            "`num_hidden_layers`: invalid type: floating point `2.5`, expected i32",
        ),
        (
            "llama",
            json!({"num_key_value_heads": 3}),
            "`num_attention_heads` 4 is not a multiple of `num_key_value_heads` 3",
        ),
        ("llama", json!({"num_key_value_heads": 0}), "`num_key_value_heads` is 0, expected 1 to 4"),
        ("llama", json!({"num_key_value_heads": 8}), "`num_key_value_heads` is 8, expected 1 to 4"),
        (
            "llama",
            json!({"num_attention_heads": 5, "num_key_value_heads": 5}),
            "`hidden_size` 32 is not a multiple of `num_attention_heads` 5",
        ),
        ("llama", json!({"num_attention_heads": 0}), "`num_attention_heads` is 0, expected 1 to 16777216"),
        ("llama", json!({"num_attention_heads": 1 << 20, "head_dim": 1 << 20}), "1048576 heads of 1048576 are absurd"),
        ("llama", json!({"head_dim": 0}), "`head_dim` is 0, expected 1 to 16777216"),
        ("llama", json!({"head_dim": 7}), "`head_dim` is 7, expected an even number"),
        ("llama", json!({"vocab_size": 0}), "`vocab_size` is 0, expected 1 to 16777216"),
        ("llama", json!({"hidden_size": 1 << 30}), "`hidden_size` is 1073741824, expected 1 to 16777216"),
        ("llama", json!({"intermediate_size": -64}), "`intermediate_size` is -64, expected 1 to 16777216"),
        ("llama", json!({"rms_norm_eps": 1e39}), "`rms_norm_eps` is inf, expected zero or a small number"),
        ("llama", json!({"rms_norm_eps": -1e-5}), "`rms_norm_eps` is -0.00001, expected zero or a small number"),
        ("llama", json!({"rope_theta": 1e39}), "`rope_theta` is inf, expected a positive number"),
        ("llama", json!({"rope_theta": "NaN"}), "`rope_theta`: invalid type: string \"NaN\", expected f32"),
        ("llama", json!({"rope_theta": 0}), "`rope_theta` is 0, expected a positive number"),
    ]);
}

#[test]
fn absurd_rotations_are_refused_by_name() {
    check_refusals(&[
        ("llama", json!({"rope_scaling": "linear"}), "`rope_scaling` is not an object"),
        (
            "llama",
            json!({"rope_scaling": {"type": "spiral"}}),
            "`rope_scaling` of the type `spiral` is not known; the types are default, linear, dynamic, llama3, yarn, longrope, proportional and mrope",
        ),
        ("llama", json!({"rope_scaling": {"type": "linear"}}), "`rope_scaling.factor` is missing"),
        (
            "llama",
            json!({"rope_scaling": {"type": "linear", "factor": 0}}),
            "`rope_scaling.factor` is 0, expected a positive number",
        ),
        (
            "llama",
            json!({"rope_scaling": {"type": "yarn", "factor": 2, "beta_fast": "x"}}),
            "`rope_scaling.beta_fast` is \"x\", not a number",
        ),
        (
            "llama",
            json!({"rope_scaling": {"type": "yarn", "factor": 2, "original_max_position_embeddings": 0}}),
            "`rope_scaling.original_max_position_embeddings` is 0, expected a positive number",
        ),
        (
            "llama",
            json!({"rope_scaling": {"type": "llama3", "factor": 8, "high_freq_factor": 0}}),
            "`rope_scaling.high_freq_factor` is 0, expected a positive number",
        ),
        (
            "llama",
            json!({"rope_scaling": {"type": "longrope", "long_factor": [1], "original_max_position_embeddings": 8}}),
            "`rope_scaling.long_factor` holds 1 numbers, expected 4 positive ones",
        ),
        (
            "llama__dynamic",
            json!({"max_position_embeddings": 0}),
            "`max_position_embeddings` is 0, expected 1 to 2147483647",
        ),
    ]);
}

#[test]
fn absurd_entries_of_single_architectures_are_refused_by_name() {
    check_refusals(&[
        (
            "llama__sliding",
            json!({"sliding_window": 0}),
            "`layer_types` has sliding attention, and `sliding_window` is not a positive number",
        ),
        (
            "llama__sliding",
            json!({"layer_types": ["sideways_attention"]}),
            "`layer_types[0]`: unknown variant `sideways_attention`, expected `full_attention` or `sliding_attention`",
        ),
        ("cohere2", json!({"sliding_window": -1}), "`sliding_window` is -1, expected 1 to 2147483647"),
        ("gemma2", json!({"query_pre_attn_scalar": -4}), "`query_pre_attn_scalar` is -4, expected a positive number"),
        ("gemma2", json!({"attn_logit_softcapping": 0}), "`attn_logit_softcapping` is 0, expected a positive number"),
        ("gemma2", json!({"final_logit_softcapping": 0}), "`final_logit_softcapping` is 0, expected a positive number"),
        ("mixtral", json!({"num_experts_per_tok": 5}), "`num_experts_per_tok` is 5, expected 1 to 4"),
        ("mixtral", json!({"num_experts_per_tok": 0}), "`num_experts_per_tok` is 0, expected 1 to 4"),
        ("mixtral", json!({"num_local_experts": -1}), "`num_local_experts` is -1, expected 1 to 16777216"),
        ("qwen3_moe", json!({"num_experts": -1}), "`num_experts` is -1, expected 1 to 16777216"),
        ("qwen3_moe", json!({"num_experts": null}), "missing field `num_experts`"),
        ("qwen3_moe", json!({"num_experts_per_tok": 5}), "`num_experts_per_tok` is 5, expected 1 to 4"),
        ("qwen3_moe", json!({"moe_intermediate_size": 0}), "`moe_intermediate_size` is 0, expected 1 to 16777216"),
        ("qwen3_moe", json!({"decoder_sparse_step": 0}), "`decoder_sparse_step` is 0, expected 1 to 2147483647"),
        (
            "qwen3_moe",
            json!({"mlp_only_layers": [-1]}),
            "`mlp_only_layers[0]`: invalid value: integer `-1`, expected usize",
        ),
        (
            "qwen3_moe",
            json!({"attention_bias": true}),
            "`attention_bias` is set, which is not supported for `qwen3_moe`",
        ),
        (
            "gemma3_text",
            json!({"query_pre_attn_scalar": 0}),
            "`query_pre_attn_scalar` is 0, expected a positive number",
        ),
        (
            "gemma3_text",
            json!({"rope_local_base_freq": -1}),
            "`rope_local_base_freq` is -1, expected a positive number",
        ),
        ("gemma3_text", json!({"sliding_window": 0}), "`sliding_window` is 0, expected 1 to 2147483647"),
        (
            "gemma3_text",
            json!({"sliding_window_pattern": 0}),
            "`sliding_window_pattern` is 0, expected 1 to 2147483647",
        ),
        (
            "gemma3_text",
            json!({"layer_types": ["sliding_attention", "sliding_attention"]}),
            "`layer_types[1]` is `sliding_attention`, expected `full_attention` of a `sliding_window_pattern` of 2",
        ),
        (
            "gemma3_text",
            json!({"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}),
            "`rope_parameters.sliding_attention.rope_theta` is not a number",
        ),
        (
            "gemma3_text",
            json!({"final_logit_softcapping": 30.0}),
            "`final_logit_softcapping` is set, which is not supported for `gemma3_text`",
        ),
        (
            "phi3__partial",
            json!({"partial_rotary_factor": 3.0}),
            "`partial_rotary_factor` must be above 0 and at most 1",
        ),
        ("llama", json!({"model_type": 4}), "`model_type` is not a string"),
        ("llama", json!({"model_type": null}), "`model_type` is missing"),
    ]);
}

#[test]
fn foreign_code_types_and_packings_are_refused_by_name() {
    let check = |entries: Value, expected: &str| assert_eq!(configured("llama", &entries), expected, "{entries}");
    check(
        json!({"model_file": "modeling.py"}),
        "config.json names `modeling.py` as the code of the model, which is never run",
    );
    for method in ["gptq", "awq", "bitnet", "bitsandbytes", "compressed-tensors"] {
        let refused = format!("config.json: weights quantized by `{method}` cannot be loaded");
        check(json!({"quantization_config": {"quant_method": method, "bits": 4, "group_size": 64}}), &refused);
    }
    let quantization = |entry: Value, why: &str| {
        let refused = format!("`quantization` in config.json: {why}");
        check(json!({"quantization": entry}), &refused);
    };
    quantization(json!({"bits": 7, "group_size": 64}), "MLX has no quantization affine with 7 bits and groups of 64");
    quantization(json!({"bits": 4, "group_size": 0}), "MLX has no quantization affine with 4 bits and groups of 0");
    quantization(
        json!({"bits": 4, "group_size": 16, "mode": "mxfp4"}),
        "MLX has no quantization mxfp4 with 4 bits and groups of 16",
    );
    quantization(
        json!({"bits": 4, "group_size": 64, "mode": "int3"}),
        "there is no quantization mode `int3`; the modes are affine, mxfp4, mxfp8 and nvfp4",
    );
    quantization(json!("q4"), "it is not an object");
    check(
        json!({"model_type": "lama"}),
        "the model type `lama` is not known; the nearest are `llama`, `gemma2`, `phi3`",
    );
    assert_eq!(ModelConfig::new(json!([])).unwrap_err().to_string(), "config.json: it is not an object");
}
