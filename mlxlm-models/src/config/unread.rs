//! Entries of a configuration that no part of a model read: which of them change nothing, and the warning about the others.

use serde_json::Value;

use super::ModelConfig;

/// One warning that lists the entries that were not read and that may matter, or none.
pub(crate) fn warning(config: &ModelConfig, unread: Vec<String>) -> Vec<String> {
    let mut unread: Vec<String> = unread.into_iter().filter(|key| !is_idle(config, key)).collect();
    unread.sort_unstable();
    unread.dedup();
    match unread.is_empty() {
        true => Vec::new(),
        false => vec![format!("config.json has unknown entries: {}", listed(&unread))],
    }
}

/// The first dozen of `keys` in back-ticks, and how many more there are.
fn listed(keys: &[String]) -> String {
    const MOST: usize = 12;
    let shown: Vec<String> = keys.iter().take(MOST).map(|key| format!("`{key}`")).collect();
    match keys.len().saturating_sub(MOST) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// Whether an entry changes nothing that a model computes.
fn is_idle(config: &ModelConfig, key: &str) -> bool {
    if HARMLESS.contains(&key) || HARMLESS_ENDINGS.iter().any(|ending| key.ends_with(ending)) {
        return true;
    }
    let Some(value) = config.get(key) else { return false };
    let is_there = |name: &str| config.get(name).is_some();
    let is = |name: &str, expected: Value| config.get(name).is_none_or(|value| *value == expected);
    match key {
        // Switches that are off.
        "attention_bias"
        | "attention_out_bias"
        | "bias"
        | "mlp_bias"
        | "qkv_bias"
        | "use_bias"
        | "use_qkv_bias"
        | "use_bidirectional_attention"
        | "use_sliding_window"
        | "add_cross_attention"
        | "is_encoder_decoder"
        | "use_qk_norm"
        | "rope_interleaved"
        | "tie_encoder_decoder"
        | "add_faq"
        | "use_mrope"
        | "cross_attention_hidden_size" => *value == Value::Bool(false),
        // Switches that are on, as always.
        "scale_attn_weights" => *value == Value::Bool(true),
        "layer_types" => value.as_array().is_some_and(|types| {
            let all = |names: &[&str]| types.iter().all(|name| name.as_str().is_some_and(|name| names.contains(&name)));
            all(&["full_attention", "attention"]) || all(&["deepseek_sparse_attention"]) && is_there("index_topk")
        }),
        "mlp_layer_types" => agrees_with_first_dense(config, value),
        // The same number once more.
        "num_experts" => config.get("n_routed_experts") == Some(value),
        "initial_context_length" => ["rope_scaling", "rope_parameters"].iter().any(|place| {
            config.get(place).and_then(|rope| rope.get("original_max_position_embeddings")) == Some(value)
        }),
        // What acts beyond the length of the training, of a model that is not asked for more.
        "use_dynamic_ntk" | "use_logn_attn" => {
            *value == Value::Bool(false)
                || is_there("seq_length") && config.get("seq_length") == config.get("max_position_embeddings")
        }
        "moe_router_dtype" => *value == "float32",
        "sliding_window" | "max_window_layers" => {
            is("use_sliding_window", Value::Bool(false)) && is_there("use_sliding_window")
        }
        // The width of dense MLPs, of a model that has none.
        "intermediate_size" => is_there("moe_intermediate_size"),
        "partial_rotary_factor" | "rotary_pct" => value.as_f64() == Some(1.0),
        "attn_logit_softcapping" | "final_logit_softcapping" => value.as_f64() == Some(0.0),
        "embedding_multiplier" | "residual_multiplier" | "logits_scaling" | "logit_scale" => {
            value.as_f64() == Some(1.0)
        }
        "n_shared_experts" => value.as_i64() == Some(0),
        _ => false,
    }
}

/// Whether a list of `dense` and `sparse` layers says what `first_k_dense_replace` says.
fn agrees_with_first_dense(config: &ModelConfig, types: &Value) -> bool {
    let first = config.get("first_k_dense_replace").and_then(Value::as_u64);
    let every = config.get("moe_layer_freq").is_none_or(|every| *every == 1);
    let (Some(types), Some(first), true) = (types.as_array(), first, every) else { return false };
    let expected = |layer: usize| if (layer as u64) < first { "dense" } else { "sparse" };
    types.iter().enumerate().all(|(layer, name)| *name == expected(layer))
}

/// Entries that say nothing of the mathematics of inference.
const HARMLESS: &[&str] = &[
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_name_or_path",
    "architectures",
    "attention_dropout",
    "attention_probs_dropout_prob",
    "attention_softmax_in_fp32",
    "attn_implementation",
    "attn_mode",
    "attn_pdrop",
    "auto_map",
    "aux_loss_alpha",
    "bad_words_ids",
    "begin_suppress_tokens",
    "bf16",
    "block_mlp_init_scale",
    "block_norm_eps",
    "block_out_init_scale",
    "block_use_xavier_init",
    "boi_token_id",
    "boi_token_index",
    "bos_token_id",
    "cache_implementation",
    "chunk_size",
    "chunk_size_feed_forward",
    "conv_use_xavier_init",
    "decoder_start_token_id",
    "diversity_penalty",
    "do_sample",
    "dtype",
    "early_stopping",
    "embd_pdrop",
    "encoder_no_repeat_ngram_size",
    "eoi_token_id",
    "eoi_token_index",
    "eos_token_id",
    "ep_size",
    "expand",
    "exponential_decay_length_penalty",
    "final_w_init_variance_scale",
    "finetuning_task",
    "flash_attn",
    "flash_rotary",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "fp16",
    "fp32",
    "fuse_cross_entropy",
    "fuse_linear_cross_entropy",
    "fuse_norm",
    "fused_dense",
    "gradient_checkpointing",
    "hidden_dropout",
    "hidden_dropout_prob",
    "id2label",
    "image_token_id",
    "image_token_index",
    "index_share_for_mtp_iteration",
    "init_method",
    "initializer_range",
    "input_jitter_noise",
    "is_decoder",
    "is_llama_config",
    "label2id",
    "length_penalty",
    "linear_a_log_max",
    "linear_a_log_min",
    "linear_dt_init_floor",
    "linear_dt_max",
    "linear_dt_min",
    "mamba_chunk_size",
    "mamba_expand",
    "mamba_ssm_cache_dtype",
    "mamba_ssm_dtype",
    "max_length",
    "min_length",
    "mlp_expansion_factor",
    "mm_tokens_per_image",
    "model_max_length",
    "moe_shared_expert_overlap",
    "mtp_hybrid_override_pattern",
    "mtp_layers_block_type",
    "mtp_loss_weights",
    "mtp_num_hidden_layers",
    "mtp_transformer_layers",
    "mtp_use_dedicated_embeddings",
    "n_ctx",
    "n_special",
    "name_or_path",
    "no_repeat_ngram_size",
    "normalization_function",
    "num_beam_groups",
    "num_beams",
    "num_logits_to_keep",
    "num_mtp_modules",
    "num_nextn_predict_layers",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "output_router_logits",
    "output_scores",
    "pad_token_id",
    "predict_special_tokens",
    "prefix",
    "pretraining_tp",
    "problem_type",
    "pruned_heads",
    "quantization",
    "quantization_config",
    "remove_invalid_values",
    "reorder_and_upcast_attn",
    "repetition_penalty",
    "rescale_prenorm_residual",
    "resid_pdrop",
    "residual_in_fp32",
    "return_dict",
    "return_dict_in_generate",
    "router_aux_loss_coef",
    "router_jitter_noise",
    "router_z_loss_coef",
    "scale_attention_softmax_in_fp32",
    "sep_token_id",
    "seq_aux",
    "seq_length",
    "summary_activation",
    "summary_first_dropout",
    "summary_proj_to_labels",
    "summary_type",
    "summary_use_proj",
    "suppress_tokens",
    "task_specific_params",
    "temperature",
    "tf_legacy_loss",
    "time_step_floor",
    "time_step_init_scheme",
    "time_step_max",
    "time_step_min",
    "time_step_scale",
    "tokenizer_class",
    "top_k",
    "top_p",
    "torch_dtype",
    "torchscript",
    "transformers.js_config",
    "transformers_version",
    "typical_p",
    "unsloth_fixed",
    "unsloth_version",
    "use_bfloat16",
    "use_cache",
    "use_flash_attn",
    "use_l2warp",
    "use_mamba_kernels",
    "use_mambapy",
    "use_mtp",
    "use_return_dict",
    "video_token_id",
    "vision_config",
    "vision_end_token_id",
    "vision_start_token_id",
    "vision_token_id",
    "w_init_variance_scale",
];

/// Endings of entries that say nothing of the mathematics of inference.
const HARMLESS_ENDINGS: &[&str] = &["_dropout", "_dropout_prob", "_loss_coef", "_loss_weight", "_token_id"];

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn idle_entries_are_no_warning_and_others_are_named() {
        let config = ModelConfig::new(json!({
            "attention_bias": false, "use_sliding_window": false, "sliding_window": 4096, "torch_dtype": "float16",
            "layer_types": ["full_attention", "full_attention"], "wobble": 3, "mlp_bias": true,
        }));
        let config = config.unwrap();
        let keys = config.keys().map(str::to_owned).collect();
        assert_eq!(warning(&config, keys), ["config.json has unknown entries: `mlp_bias`, `wobble`"]);
    }

    /// Which entries of a configuration are named by the warning.
    fn named(config: Value) -> Vec<String> {
        let config = ModelConfig::new(config).unwrap();
        let keys = config.keys().map(str::to_owned).collect();
        let warning = warning(&config, keys).concat();
        warning.split('`').skip(1).step_by(2).map(str::to_owned).collect()
    }

    #[test]
    fn what_repeats_another_entry_is_idle_only_if_it_agrees() {
        let sparse = |dense: usize| -> Value { (0..4).map(|i| if i < dense { "dense" } else { "sparse" }).collect() };
        let config = |dense, experts| {
            json!({
                "first_k_dense_replace": 1, "mlp_layer_types": sparse(dense), "n_routed_experts": 8, "num_experts": experts,
                "rope_scaling": {"original_max_position_embeddings": 4096}, "initial_context_length": 4096,
            })
        };
        let read = ["first_k_dense_replace", "n_routed_experts", "rope_scaling"];
        let named = |config| named(config).into_iter().filter(|key| !read.contains(&&**key)).collect::<Vec<_>>();
        assert!(named(config(1, 8)).is_empty());
        assert_eq!(named(config(2, 9)), ["mlp_layer_types", "num_experts"]);
    }

    #[test]
    fn what_acts_beyond_the_length_of_the_training_is_idle_up_to_there() {
        let config = |most| json!({"seq_length": 2048, "max_position_embeddings": most, "use_logn_attn": true, "use_dynamic_ntk": true});
        assert_eq!(named(config(2048)), ["max_position_embeddings"]);
        assert_eq!(named(config(8192)), ["max_position_embeddings", "use_dynamic_ntk", "use_logn_attn"]);
    }

    #[test]
    fn a_list_of_keys_is_cut() {
        let keys: Vec<String> = (0..100).map(|i| format!("k{i}")).collect();
        assert!(listed(&keys).ends_with("`k11` and 88 more"));
    }
}
