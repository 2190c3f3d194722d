//! Loading is strict: whatever does not fit is reported, all at once, by name; nothing is guessed, and nothing panics.
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
    let message = load("llama", |tensors| {
        let moved = tensors.remove("model.layers.1.mlp.up_proj.weight").unwrap();
        tensors.insert("language_model.layers.1.mlp.up_proj.weight".into(), moved);
        tensors.remove("model.norm.weight");
        tensors.insert(format!("{Q}.weight"), zeros(&[16, 32], Dtype::Float32));
        tensors.insert("lm_head.weight".into(), zeros(&[128, 32], Dtype::Int32));
    });
    assert_eq!(
        message,
        "the weights do not fit the model:\
         \n  - `model.norm.weight` is missing\
         \n  - `model.layers.0.self_attn.q_proj.weight` is [16, 32], expected [32, 32]\
         \n  - `model.layers.1.mlp.up_proj.weight` is missing (near: `language_model.layers.1.mlp.up_proj.weight`)\
         \n  - `lm_head.weight` is of the type Int32, expected a float\
         \n  - `language_model.layers.1.mlp.up_proj.weight` is not part of the model"
    );
}

#[test]
fn an_empty_checkpoint_is_reported_in_a_few_lines() {
    let message = load("llama", Tensors::clear);
    assert_eq!(message.lines().count(), 14, "{message}");
    assert!(message.ends_with("\n  - and 9 more"), "{message}");
}

#[test]
fn every_tensor_is_needed_and_no_other() {
    for case in support::cases().iter().filter(|case| case.is_base()) {
        for name in case.tensors().into_keys().filter(|name| !is_optional(case, name)) {
            let message = load(&case.name, |tensors| drop(tensors.remove(&name)));
            assert!(
                message.contains(&format!("\n  - `{name}` is missing")),
                "{} without `{name}`: {message}",
                case.name
            );
            assert_eq!(message.lines().count(), 2, "{} without `{name}`: {message}", case.name);
        }
        let extra =
            |tensors: &mut Tensors| drop(tensors.insert("model.extra.weight".into(), zeros(&[1], Dtype::Float32)));
        let message = load(&case.name, extra);
        assert!(message.ends_with("model.extra.weight` is not part of the model"), "{}: {message}", case.name);
    }
}

/// A head may be tied if the checkpoint has none, and that of a tied model is dropped; packed rows without scales, or scales
/// without them, are a problem of their own.
fn is_optional(case: &Case, name: &str) -> bool {
    let leaf = name.rsplit_once('.').map_or("", |(leaf, _)| leaf);
    let is_packed = case.tensors().contains_key(&format!("{leaf}.scales"));
    let is_as_stored = ["gemma3_text", "minicpm"].contains(&case.metadata["model_type"].as_str());
    name == "lm_head.weight" && (is_as_stored || case.is_tied())
        || is_packed && (name.ends_with(".weight") || name.ends_with(".scales"))
}

#[test]
fn packed_weights_must_be_a_quantization() {
    let check = |case: &str, part: &str, array: Array, problem: &str| {
        let message = load(case, |tensors| drop(tensors.insert(format!("{Q}.{part}"), array)));
        assert_eq!(message, format!("the weights do not fit the model:\n  - `{Q}.{problem}"), "{case} {part}");
    };
    let (f32, u8, u32) = (Dtype::Float32, Dtype::Uint8, Dtype::Uint32);
    check("llama__q4", "weight", zeros(&[32, 4], f32), "weight` is of the type Float32, expected u32");
    check("llama__q4", "weight", zeros(&[31, 4], u32), "weight` is [31, 4], expected [32, 4]");
    check("llama__q4", "scales", zeros(&[16, 1], f32), "scales` is [16, 1], expected [32, 1]");
    check("llama__q4", "biases", zeros(&[32, 2], f32), "biases` is [32, 2], expected [32, 1]");
    check("llama__q4", "biases", zeros(&[32, 1], u32), "biases` is of the type Uint32, expected a float");
    check("llama__mxfp4", "biases", zeros(&[32, 1], f32), "biases` is not part of the model");
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
        (
            "llama",
            json!({"num_attention_heads": 1 << 20, "head_dim": 1 << 20}),
            "1048576 heads of 1048576 are wider than any model: 16777216 at most",
        ),
        ("llama", json!({"head_dim": 0}), "`head_dim` is 0, expected 1 to 16777216"),
        ("llama", json!({"head_dim": 7}), "`head_dim` is 7, expected an even number"),
        ("llama", json!({"vocab_size": 0}), "`vocab_size` is 0, expected 1 to 16777216"),
        ("llama", json!({"hidden_size": 1 << 30}), "`hidden_size` is 1073741824, expected 1 to 16777216"),
        ("llama", json!({"intermediate_size": -64}), "`intermediate_size` is -64, expected 1 to 16777216"),
        ("llama", json!({"rms_norm_eps": 1e39}), "`rms_norm_eps` is inf, expected zero or a small number"),
        ("llama", json!({"rms_norm_eps": -1e-5}), "`rms_norm_eps` is -0.00001, expected zero or a small number"),
        ("llama", json!({"rope_theta": 1e39}), "`rope_theta` is inf, expected a positive number"),
        ("llama", json!({"rope_theta": "NaN"}), "`rope_theta` is \"NaN\", not a number"),
        ("llama", json!({"rope_theta": 0}), "`rope_theta` is 0, expected a positive number"),
    ]);
}

#[test]
fn what_an_architecture_cannot_do_is_refused_by_name() {
    check_refusals(&[
        ("smollm3", json!({"no_rope_layers": [1, 0]}), "`no_rope_layers` has 2 entries for 4 layers"),
        ("smollm3", json!({"no_rope_layer_interval": 0}), "`no_rope_layer_interval` is 0, expected 1 to 2147483647"),
        ("apertus", json!({"post_norm": true}), "`post_norm` is set, which is not supported for `apertus`"),
        ("granite", json!({"logits_scaling": 0}), "`logits_scaling` is 0, expected a positive number"),
        ("olmo", json!({"alibi": true}), "`alibi` is set, which is not supported for `olmo`"),
        ("olmo", json!({"mlp_hidden_size": 63}), "`mlp_hidden_size` is 63, expected an even number"),
        ("plamo", json!({"n_shared_head": 3}), "`num_attention_heads` 4 is not a multiple of `n_shared_head` 3"),
        ("openelm", json!({"num_kv_heads": [1]}), "`num_kv_heads` has 1 entries, and none for layer 1"),
        ("openelm", json!({"ffn_dim_divisor": 0}), "`ffn_dim_divisor` is 0, expected 1 to 16777216"),
        ("nemotron-nas", json!({"block_configs": []}), "`block_configs` has 0 entries, and `num_hidden_layers` is 4"),
        (
            "nemotron-nas",
            json!({"num_hidden_layers": 1, "block_configs": [{"attention": {"n_heads_in_group": 3}, "ffn": {"no_op": true}}]}),
            "`num_attention_heads` 4 is not a multiple of `block_configs[0].attention.n_heads_in_group` 3",
        ),
        (
            "nemotron-nas",
            json!({"num_hidden_layers": 1, "block_configs": [{"attention": {"no_op": true}}]}),
            "`block_configs[0].ffn.ffn_mult` is missing",
        ),
        ("exaone4", json!({"sliding_window": null}), "`sliding_window` is missing"),
        ("iquestloopcoder", json!({"loop_num": 3}), "`loop_num` is set, which is not supported for `iquestloopcoder`"),
        (
            "afm7",
            json!({"num_kv_reuse_layers": 4}),
            "`num_kv_reuse_layers` is 4, expected 0 to less than `num_layers` 4",
        ),
        ("nanbeige", json!({"loop_share_kv": true}), "`loop_share_kv` is set, which is not supported for `nanbeige`"),
        ("nanbeige", json!({"num_loops": 0}), "`num_loops` is 0, expected 1 to 1000"),
        (
            "spark2_5",
            json!({"gate_attn_act_mode": "tanh"}),
            "`gate_attn_act_mode` is set, which is not supported for `spark2_5`",
        ),
        ("muse_glimmer", json!({"layer_rope_theta": [1.0]}), "`layer_rope_theta` has 1 entries for 4 layers"),
        ("plamo3", json!({"sliding_window_pattern": 0}), "`sliding_window_pattern` is 0, expected 1 to 2147483647"),
    ]);
}

/// The configuration of Muse Glimmer may be flat, as in the golden case, or that of the text model of a larger one.
#[test]
fn a_text_model_may_be_nested_under_the_name_of_the_whole() {
    let case = Case::named("muse_glimmer");
    let nested = json!({"model_type": "muse_glimmer", "text_config": case.config().to_value(), "vision_config": {}});
    let nested = build(&ModelConfig::new(nested).unwrap(), case.tensors(), None).unwrap();
    assert!(nested.warnings.is_empty(), "{:?}", nested.warnings);
    let one = case.expected("tokens");
    let flat = case.model().unwrap();
    let off =
        support::largest_difference(&nested.model.forward(&one, None).unwrap(), &flat.forward(&one, None).unwrap());
    assert_eq!(off, 0.0);
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
            "`rope_scaling.beta_fast`: invalid type: string \"x\", expected f64",
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
        ("llama__sliding", json!({"sliding_window": 0}), "`sliding_window` is 0, expected 1 to 2147483647"),
        (
            "llama__sliding",
            json!({"layer_types": ["sideways_attention"]}),
            "`layer_types[0]` is `sideways_attention`; expected `full_attention` or `sliding_attention`",
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
            "`layer_types` has 2 entries, fewer than `num_hidden_layers`",
        ),
        (
            "gemma3_text",
            json!({"final_logit_softcapping": 30.0}),
            "`final_logit_softcapping` is set, which is not supported for `gemma3_text`",
        ),
        (
            "phi3__partial",
            json!({"partial_rotary_factor": 3.0}),
            "`partial_rotary_factor` is 3, expected above 0 and at most 1",
        ),
        ("llama", json!({"model_type": 4}), "`model_type` is not a string"),
        ("llama", json!({"model_type": null}), "`model_type` is missing"),
    ]);
}

#[test]
fn absurd_mixtures_of_experts_are_refused_by_name() {
    check_refusals(&[
        ("qwen2_moe", json!({"decoder_sparse_step": 0}), "`decoder_sparse_step` is 0, expected 1 to 2147483647"),
        ("olmoe", json!({"clip_qkv": 8.0}), "`clip_qkv` is set, which is not supported for `olmoe`"),
        ("dots1", json!({"topk_group": 3, "n_group": 2}), "`topk_group` is 3, expected 1 to 2"),
        ("dots1", json!({"n_group": 0}), "`n_group` is 0, expected 1 to 4"),
        (
            "dots1",
            json!({"n_shared_experts": -1}),
            "-1 shared experts 32 wide are no MLP: expected 1 to 16777216 in all",
        ),
        ("ernie4_5_moe", json!({"moe_gate_act": "tanh"}), "`moe_gate_act` is `tanh`, expected `softmax` or `sigmoid`"),
        ("exaone_moe", json!({"is_moe_layer": [true]}), "`is_moe_layer` has 1 entries, and there is a layer 1"),
        ("glm4_moe", json!({"n_routed_experts": -1}), "`n_routed_experts` is -1, expected 1 to 16777216"),
        ("minimax", json!({"rotary_dim": 0}), "`rotary_dim` is 0, expected 1 to 16"),
        ("granitemoe", json!({"logits_scaling": 0}), "`logits_scaling` is 0, expected a positive number"),
        ("hunyuan", json!({"cla_share_factor": 0}), "`cla_share_factor` is 0, expected 1 to 2147483647"),
        ("hunyuan", json!({"moe_topk": "two"}), "`moe_topk`: expected one value, or a list with one for each layer"),
        (
            "step3p5",
            json!({"moe_layers_enum": "1,x"}),
            "`moe_layers_enum` is `1,x`, expected numbers with commas between",
        ),
        (
            "laguna",
            json!({"moe_router_score_func": "relu"}),
            "`moe_router_score_func` is `relu`, expected `sigmoid` or `sqrtsoftplus`",
        ),
        (
            "mimo_v2_flash",
            json!({"hybrid_layer_pattern": [0, 1]}),
            "`hybrid_layer_pattern` has 2 entries, and there is a layer 2",
        ),
    ]);
}

#[test]
fn absurd_entries_of_recurrent_architectures_are_refused_by_name() {
    check_refusals(&[
        ("mamba", json!({"state_size": 0}), "`state_size` is 0, expected 1 to 16777216"),
        ("mamba", json!({"time_step_rank": "many"}), "`time_step_rank` is `many`, expected a number or `auto`"),
        ("mamba", json!({"time_step_rank": 0}), "`time_step_rank` is 0, expected 1 to 32"),
        ("mamba", json!({"conv_kernel": 5000}), "`conv_kernel` is 5000, expected 1 to 1024"),
        ("mamba2", json!({"n_groups": 3}), "4 heads cannot be put into 3 groups of the same size"),
        ("mamba2", json!({"time_step_limit": [2, 1]}), "`time_step_limit`: the limits 2 and 1 leave no steps"),
        (
            "mamba2",
            json!({"num_heads": 1 << 20, "head_dim": 1 << 20}),
            "1048576 times 1048576 is wider than any model: 1 to 16777216 are possible",
        ),
        ("jamba", json!({"attn_layer_period": 0}), "`attn_layer_period` is 0, expected 1 to 2147483647"),
        (
            "jamba",
            json!({"layers_block_type": ["mamba", "sideways"]}),
            "`layers_block_type[1]` is `sideways`; expected `attention` or `mamba`",
        ),
        ("falcon_h1", json!({"mamba_d_ssm": 63}), "`mamba_d_ssm` is 63, and the heads of Mamba have 64 dimensions"),
        (
            "falcon_h1",
            json!({"mamba_use_mlp": false}),
            "`mamba_use_mlp` is false, which is not supported for `falcon_h1`",
        ),
        (
            "granitemoehybrid",
            json!({"layer_types": ["mamba", "sideways", "mamba"]}),
            "`layer_types[1]` is `sideways`; expected `attention` or `mamba`",
        ),
        ("granitemoehybrid", json!({"logits_scaling": 0}), "`logits_scaling` is 0, expected a positive number"),
        (
            "nemotron_h",
            json!({"hybrid_override_pattern": "M?"}),
            "`?` is no kind of block; the kinds are `mamba`, `attention`, `mlp` and `moe`, or M, *, - and E",
        ),
        (
            "nemotron_h",
            json!({"hybrid_override_pattern": null}),
            "`hybrid_override_pattern` or `layers_block_type` is missing",
        ),
        ("nemotron_h", json!({"hybrid_override_pattern": ""}), "the pattern of blocks has 0, expected 1 to 10000"),
        ("nemotron_h__moe", json!({"num_experts_per_tok": 9}), "`num_experts_per_tok` is 9, expected 1 to 4"),
        ("plamo2", json!({"mamba_step": 1}), "`mamba_step` is 1, expected at least 2"),
        ("lfm2", json!({"block_dim": 16}), "`block_dim` is 16, and `hidden_size` 32"),
        ("lfm2", json!({"layer_types": null}), "`full_attn_idxs` or `layer_types` is missing"),
        ("lfm2", json!({"conv_L_cache": 0}), "`conv_L_cache` is 0, expected 1 to 16777216"),
        (
            "qwen3_next",
            json!({"linear_num_value_heads": 3}),
            "`linear_num_value_heads` 3 is not a multiple of `linear_num_key_heads` 2",
        ),
        (
            "qwen3_next",
            json!({"full_attention_interval": 0}),
            "`full_attention_interval` is 0, expected 1 to 2147483647",
        ),
        ("olmo_hybrid", json!({"linear_key_head_dim": null}), "missing field `linear_key_head_dim`"),
        ("rwkv7", json!({"head_dim": 48}), "`hidden_size` 64 is not a multiple of `head_dim` 48"),
        (
            "prism_hadamard_qwen35",
            json!({"schema_version": 3}),
            "`schema_version` 3 of `tensor_namespace` `mlx-vlm-qwen3_5` is not known",
        ),
        ("prism_hadamard_qwen35", json!({"modules": []}), "`modules` is missing or empty"),
    ]);
}

#[test]
fn absurd_entries_of_the_gpt_phi_and_gemma_families_are_refused_by_name() {
    let in_text = |case: &str, entries: Value| {
        let mut text = Case::named(case).config().to_value()["text_config"].clone();
        text.as_object_mut().unwrap().extend(entries.as_object().unwrap().clone());
        json!({"text_config": text})
    };
    check_refusals(&[
        ("gpt2", json!({"layer_norm_epsilon": -1}), "`layer_norm_epsilon` is -1, expected a positive number"),
        ("gpt2", json!({"n_positions": 0}), "`max_position_embeddings` is 0, expected 1 to 2147483647"),
        ("gpt2", json!({"n_inner": [4]}), "`intermediate_size` is [4], expected a whole number"),
        (
            "gpt_bigcode",
            json!({"scale_attn_weights": false}),
            "`scale_attn_weights` is set, which is not supported for `gpt_bigcode`",
        ),
        (
            "gpt_neox",
            json!({"rotary_pct": 0.4}),
            "3 dimensions of each head are to be rotated, expected an even number",
        ),
        ("gptj", json!({"rotary_dim": 10}), "`rotary_dim` is 10, expected 1 to 8"),
        (
            "qwen",
            json!({"kv_channels": 16}),
            "`kv_channels` is 16, expected 8: `hidden_size` divided among `num_attention_heads`",
        ),
        ("qwen", json!({"intermediate_size": 1}), "`intermediate_size` is 0, expected 1 to 16777216"),
        ("phi", json!({"qk_layernorm": true}), "`qk_layernorm` is set, which is not supported for `phi`"),
        (
            "phi3small",
            json!({"blocksparse_block_size": 48}),
            "`blocksparse_block_size` is set, which is not supported for `phi3small`",
        ),
        (
            "phi3small",
            json!({"dense_attention_every_n_layers": 0}),
            "`dense_attention_every_n_layers` is 0, expected 1 to 2147483647",
        ),
        ("phimoe", json!({"num_experts_per_tok": 5}), "`num_experts_per_tok` is 5, expected 1 to 4"),
        ("phixtral", json!({"rotary_dim": -2}), "`rotary_dim` is -2, expected 1 to 8"),
        ("baichuan_m1", json!({"conv_window": 3}), "`conv_window` is 3, expected 2"),
        (
            "baichuan_m1",
            json!({"num_swa_attention_heads": 5}),
            "`hidden_size` 32 is not a multiple of `num_swa_attention_heads` 5",
        ),
        ("recurrent_gemma", json!({"block_types": []}), "`block_types` is empty"),
        ("recurrent_gemma", json!({"lru_width": 33}), "`lru_width` 33 is not a multiple of `num_attention_heads` 4"),
        ("llama4_text", json!({"no_rope_layers": [1]}), "`no_rope_layers` has 1 entries for 4 layers"),
        (
            "llama4",
            in_text("llama4", json!({"interleave_moe_layer_step": 0})),
            "`interleave_moe_layer_step` is 0, expected 1 to 2147483647",
        ),
        (
            "gemma3n",
            in_text("gemma3n", json!({"altup_active_idx": i32::MAX})),
            "`altup_active_idx` is 2147483647, expected 0 to 2",
        ),
        (
            "gemma3n",
            in_text("gemma3n", json!({"num_kv_shared_layers": 5})),
            "`num_kv_shared_layers` is 5, and no layer before those is of the same type",
        ),
        (
            "gemma3n",
            in_text("gemma3n", json!({"activation_sparsity_pattern": 1.0})),
            "`activation_sparsity_pattern` has a 1, expected numbers from 0 to below 1",
        ),
        (
            "gemma3n",
            in_text("gemma3n", json!({"intermediate_size": [64]})),
            "`intermediate_size` has 1 entries, and none for layer 1",
        ),
        ("gemma4_text", json!({"num_kv_shared_layers": -1}), "`num_kv_shared_layers` is -1, expected 0 to 5"),
        (
            "gemma4_text",
            json!({"num_kv_shared_layers": i32::MAX}),
            "`num_kv_shared_layers` is 2147483647, expected 0 to 5",
        ),
        ("gemma4_text__moe", json!({"top_k_experts": null}), "`top_k_experts` is missing"),
    ]);
}

#[test]
fn foreign_code_types_and_packings_are_refused_by_name() {
    let check = |entries: Value, expected: &str| assert_eq!(configured("llama", &entries), expected, "{entries}");
    check(
        json!({"model_file": "modeling.py"}),
        "config.json names `modeling.py` as code of the model, which is never run",
    );
    // Nothing is packed, so that nothing has to be unpacked.
    for method in ["gptq", "awq", "bitnet", "bitsandbytes", "compressed-tensors"] {
        check(json!({"quantization_config": {"quant_method": method, "bits": 4, "group_size": 64}}), "it loads");
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
    let unknown = configured("llama", &json!({"model_type": "lama"}));
    assert!(unknown.starts_with("the model type `lama` is not known; the nearest are `llama`"), "{unknown}");
    assert_eq!(ModelConfig::new(json!([])).unwrap_err().to_string(), "config.json: it is not an object");
}
