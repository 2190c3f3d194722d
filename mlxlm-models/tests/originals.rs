//! Files in the layout of transformers load as those of mlx-lm do: weights of golden cases, put back into the other layout, give the
//! same logits.
#![allow(clippy::unwrap_used, reason = "helpers of tests may fail as tests do")]

mod support;

use mlxlm_core::weights::Tensors;
use mlxlm_core::{Array, ops};
use mlxlm_models::ModelConfig;
use serde_json::{Value, json};

use support::{Case, drawn, largest, largest_difference, model_with};

/// Puts the tensors of a configuration into the layout of transformers.
type Back = fn(&mut Tensors, &ModelConfig);

const CASES: &[(&str, Back)] = &[
    ("falcon_h1", falcon_h1),
    ("falcon_h1__norm", falcon_h1),
    ("falcon_mamba", |tensors, _| filters(tensors)),
    ("granitemoehybrid", granite_with_experts),
    ("granitemoehybrid__dense", granite_dense),
    ("jamba", jamba),
    ("lfm2", |tensors, _| filters(tensors)),
    ("lfm2-vl", lfm2_vl),
    ("lfm2_moe", lfm2_moe),
    ("mamba", |tensors, _| filters(tensors)),
    ("mamba2", |tensors, _| filters(tensors)),
    ("nemotron_h__moe", nemotron_h),
    ("olmo_hybrid", |tensors, _| filters(tensors)),
    ("plamo2", |tensors, _| filters(tensors)),
    ("qwen3_5", qwen3_5),
    ("qwen3_5__flat", qwen3_5_flat),
    ("qwen3_5_moe", qwen3_5_moe),
    ("qwen3_next", qwen3_next),
    ("rwkv7", rwkv7),
];

#[test]
fn the_layout_of_transformers_is_understood() {
    let mut wrong = Vec::new();
    for (name, back) in CASES {
        let case = Case::named(name);
        let (mut tensors, config) = (case.tensors(), case.config());
        back(&mut tensors, &config);
        let tokens = case.expected("tokens");
        let logits = |model: mlxlm_models::Result<Box<dyn mlxlm_models::CausalLm>>| {
            model.and_then(|model| model.forward(&tokens, None)).map_err(|error| error.to_string())
        };
        let want = logits(case.model()).unwrap();
        match logits(model_with(&config, tensors)) {
            Err(error) => wrong.push(format!("{name}: {error}")),
            Ok(got) if largest_difference(&got, &want) > 1e-4 * largest(&want) => {
                wrong.push(format!("{name}: logits are off by {}", largest_difference(&got, &want)));
            }
            Ok(_) => {}
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn keys_of_falcon_h1_are_multiplied() {
    let case = Case::named("falcon_h1");
    let (mut once, mut config) = (case.tensors(), case.config());
    falcon_h1(&mut once, &config);
    let mut by_hand = once.clone();
    change(&mut by_hand, "k_proj.weight", |array| array.multiply(Array::from_f32(0.5)).unwrap());
    let tokens = case.expected("tokens");
    let want = model_with(&config, by_hand).unwrap().forward(&tokens, None).unwrap();
    config.set("key_multiplier", Some(json!(0.5)));
    let got = model_with(&config, once).unwrap().forward(&tokens, None).unwrap();
    assert!(largest_difference(&got, &want) <= 1e-5 * largest(&want));
}

/// Changes the tensors whose names end so.
fn change(tensors: &mut Tensors, ending: &str, by: impl Fn(&Array) -> Array) {
    tensors.iter_mut().filter(|(name, _)| name.ends_with(ending)).for_each(|(_, array)| *array = by(array));
}

/// Gives the tensors with this part in their names another.
fn rename(tensors: &mut Tensors, from: &str, to: &str) {
    *tensors = std::mem::take(tensors).into_iter().map(|(name, array)| (name.replace(from, to), array)).collect();
}

fn extra(tensors: &mut Tensors, name: &str) {
    tensors.insert(name.to_owned(), drawn(name, &[4], 1.0));
}

/// Filters of convolutions lie the other way round.
fn filters(tensors: &mut Tensors) {
    for ending in ["conv1d.weight", "conv.conv.weight"] {
        change(tensors, ending, |array| array.swap_axes(1, 2).unwrap());
    }
}

fn minus_one(tensors: &mut Tensors) {
    let norms = [
        ".input_layernorm.weight",
        ".post_attention_layernorm.weight",
        "model.norm.weight",
        "q_norm.weight",
        "k_norm.weight",
    ];
    for norm in norms {
        change(tensors, norm, |array| array.subtract(Array::from_f32(1.0)).unwrap());
    }
}

/// Cuts stacks of experts: what lies at `….{stack}.weight` goes to `….{experts}.{e}.{part}.weight`.
fn unstack(tensors: &mut Tensors, stack: &str, experts: &str, part: &str) {
    let ending = format!("{stack}.weight");
    let names: Vec<String> = tensors.keys().filter(|name| name.ends_with(&ending)).cloned().collect();
    for name in names {
        let all = tensors.remove(&name).unwrap();
        let parent = name.strip_suffix(&ending).unwrap();
        for (e, one) in ops::split_equal(&all, all.dim(0), 0).unwrap().iter().enumerate() {
            let one = one.squeeze_axes(&[0]).unwrap();
            tensors.insert(format!("{parent}{experts}.{e}.{part}.weight"), one);
        }
    }
}

/// Joins what lies at `….gate_proj.weight` and `….up_proj.weight`, along the outputs.
fn join(tensors: &mut Tensors, parent: &str, to: &str) {
    let ending = format!("{parent}.gate_proj.weight");
    let names: Vec<String> = tensors.keys().filter(|name| name.ends_with(&ending)).cloned().collect();
    for name in names {
        let before = name.strip_suffix(&ending).unwrap();
        let up = tensors.remove(&format!("{before}{parent}.up_proj.weight")).unwrap();
        let gate = tensors.remove(&name).unwrap();
        tensors.insert(format!("{before}{to}"), ops::concatenate(&[gate, up], -2).unwrap());
    }
}

fn numbers(config: &ModelConfig, key: &str) -> Vec<f32> {
    let number = |value: &Value| value.as_f64().unwrap() as f32;
    match config.get(key).unwrap() {
        Value::Array(list) => list.iter().map(number).collect(),
        one => vec![number(one)],
    }
}

fn falcon_h1(tensors: &mut Tensors, config: &ModelConfig) {
    filters(tensors);
    let number = |key: &str| numbers(config, key)[0];
    let mlp = numbers(config, "mlp_multipliers");
    for (ending, factor) in [
        ("embed_tokens.weight", number("embedding_multiplier")),
        ("lm_head.weight", number("lm_head_multiplier")),
        ("q_proj.weight", number("attention_in_multiplier")),
        ("k_proj.weight", number("attention_in_multiplier")),
        (".o_proj.weight", number("attention_out_multiplier")),
        ("out_proj.weight", number("ssm_out_multiplier")),
        ("gate_proj.weight", mlp[0]),
        ("down_proj.weight", mlp[1]),
    ] {
        change(tensors, ending, |array| array.divide(Array::from_f32(factor)).unwrap());
    }
    let of_groups = number("mamba_n_groups") * number("mamba_d_state");
    let widths = [number("mamba_d_ssm"), number("mamba_d_ssm"), of_groups, of_groups, number("mamba_n_heads")];
    let parts = widths.iter().zip(numbers(config, "ssm_multipliers"));
    let factors: Vec<f32> =
        parts.flat_map(|(n, factor)| vec![factor * number("ssm_in_multiplier"); *n as usize]).collect();
    let factors = Array::from_slice(&factors, &[factors.len() as i32, 1]);
    change(tensors, "in_proj.weight", |array| array.divide(&factors).unwrap());
}

fn granite_with_experts(tensors: &mut Tensors, _: &ModelConfig) {
    filters(tensors);
    join(tensors, "block_sparse_moe.switch_mlp", "block_sparse_moe.input_linear.weight");
    rename(tensors, "switch_mlp.down_proj", "output_linear");
}

fn granite_dense(tensors: &mut Tensors, _: &ModelConfig) {
    filters(tensors);
    join(tensors, ".mlp", ".shared_mlp.input_linear.weight");
    rename(tensors, ".mlp.down_proj", ".shared_mlp.output_linear");
}

fn jamba(tensors: &mut Tensors, _: &ModelConfig) {
    filters(tensors);
    for part in ["gate_proj", "up_proj", "down_proj"] {
        unstack(tensors, &format!("switch_mlp.{part}"), "experts", part);
    }
    // Tied models of some tools repeat the table.
    let table = tensors["model.embed_tokens.weight"].clone();
    tensors.insert("lm_head.weight".into(), table);
}

fn lfm2_vl(tensors: &mut Tensors, _: &ModelConfig) {
    filters(tensors);
    rename(tensors, "language_model.model.", "model.language_model.");
    extra(tensors, "model.vision_tower.x.weight");
    extra(tensors, "multi_modal_projector.linear_1.weight");
}

fn lfm2_moe(tensors: &mut Tensors, _: &ModelConfig) {
    filters(tensors);
    for (ours, theirs) in [("gate_proj", "w1"), ("down_proj", "w2"), ("up_proj", "w3")] {
        unstack(tensors, &format!("switch_mlp.{ours}"), "experts", theirs);
        rename(tensors, &format!("feed_forward.{ours}"), &format!("feed_forward.{theirs}"));
    }
}

fn nemotron_h(tensors: &mut Tensors, _: &ModelConfig) {
    filters(tensors);
    unstack(tensors, "switch_mlp.fc1", "experts", "up_proj");
    unstack(tensors, "switch_mlp.fc2", "experts", "down_proj");
    extra(tensors, "mtp.layers.0.norm.weight");
}

fn qwen3_next(tensors: &mut Tensors, _: &ModelConfig) {
    filters(tensors);
    minus_one(tensors);
    for part in ["gate_proj", "up_proj", "down_proj"] {
        unstack(tensors, &format!("switch_mlp.{part}"), "experts", part);
    }
    extra(tensors, "mtp.fc.weight");
}

fn qwen3_5(tensors: &mut Tensors, _: &ModelConfig) {
    filters(tensors);
    minus_one(tensors);
    rename(tensors, "language_model.lm_head", "lm_head");
    rename(tensors, "language_model.model.", "model.language_model.");
    extra(tensors, "model.visual.patch_embed.weight");
    extra(tensors, "mtp.fc.weight");
}

fn qwen3_5_flat(tensors: &mut Tensors, _: &ModelConfig) {
    filters(tensors);
    minus_one(tensors);
    rename(tensors, "language_model.", "");
}

fn qwen3_5_moe(tensors: &mut Tensors, config: &ModelConfig) {
    join(tensors, ".switch_mlp", ".experts.gate_up_proj");
    rename(tensors, "switch_mlp.down_proj.weight", "experts.down_proj");
    qwen3_5(tensors, config);
}

fn rwkv7(tensors: &mut Tensors, _: &ModelConfig) {
    for ending in [".k_k", ".k_a", "g_norm.weight", "g_norm.bias"] {
        change(tensors, ending, |array| array.reshape(&[-1]).unwrap());
    }
}
