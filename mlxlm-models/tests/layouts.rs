//! Checkpoints as their makers publish them are the models that mlx-lm's own layout is.
//!
//! The tensors of a golden case are put into the original layout, which is the inverse of the architecture's rules, and
//! loaded: the logits must stay, and nothing may be left over.
#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "helpers of tests may fail as tests do")]

mod support;

use mlxlm_core::weights::Tensors;
use mlxlm_core::{Array, ops};

use support::{Case, drawn, largest, largest_difference};

/// Loads `case` after a change of layout, which may change weights by a rounding.
fn check(case: &str, change: impl FnOnce(&mut Tensors)) {
    let case = Case::named(case);
    let mut tensors = case.tensors();
    change(&mut tensors);
    let (got, want) = (case.model_of(tensors).unwrap_or_else(|e| panic!("{}: {e}", case.name)), case.model().unwrap());
    let tokens = case.expected("tokens");
    let [got, want] = [got, want].map(|model| model.forward(&tokens, None).unwrap());
    let (off, allowed) = (largest_difference(&got, &want), 1e-5 * largest(&want));
    assert!(off <= allowed, "{}: logits are off by {off:.1e}, allowed {allowed:.1e}", case.name);
}

/// The tensors whose names have this part, taken out.
fn taken(tensors: &mut Tensors, part: &str) -> Vec<(String, Array)> {
    let names: Vec<String> = tensors.keys().filter(|name| name.contains(part)).cloned().collect();
    assert!(!names.is_empty(), "there is no `{part}`");
    names.into_iter().map(|name| (name.clone(), tensors.remove(&name).unwrap())).collect()
}

fn rename(tensors: &mut Tensors, part: &str, other: &str) {
    for (name, array) in taken(tensors, part) {
        tensors.insert(name.replace(part, other), array);
    }
}

/// Puts a stack of experts into one tensor for each.
fn unstack(tensors: &mut Tensors, stack: &str, single: &str) {
    for (name, array) in taken(tensors, stack) {
        for (expert, part) in ops::split_equal(&array, array.dim(0), 0).unwrap().iter().enumerate() {
            let name = name.replace(stack, &single.replace('*', &expert.to_string()));
            tensors.insert(name, part.squeeze_axes(&[0]).unwrap());
        }
    }
}

/// Puts pairs of tensors whose names differ in one part into one.
fn join(tensors: &mut Tensors, parts: [&str; 2], joined: &str, with: impl Fn(&Array, &Array) -> Array) {
    for (name, first) in taken(tensors, parts[0]) {
        let second = tensors.remove(&name.replace(parts[0], parts[1])).unwrap();
        tensors.insert(name.replace(parts[0], joined), with(&first, &second));
    }
}

fn behind(axis: i32) -> impl Fn(&Array, &Array) -> Array {
    move |first, second| ops::concatenate(&[first, second], axis).unwrap()
}

fn extra(tensors: &mut Tensors, name: &str) {
    tensors.insert(name.to_owned(), drawn(name, &[4], 1.0));
}

#[test]
fn single_experts_are_stacked() {
    for case in ["qwen2_moe", "olmoe", "exaone_moe", "glm4_moe", "solar_open", "hunyuan", "mellum", "mimo_v2_flash"] {
        check(case, |tensors| unstack(tensors, ".switch_mlp.", ".experts.*."));
    }
    for case in ["dots1", "afmoe"] {
        check(case, |tensors| unstack(tensors, ".mlp.experts.", ".mlp.experts.*."));
    }
    for case in ["minimax", "minimax_m3_vl"] {
        check(case, |tensors| {
            for (part, original) in [("gate_proj", "w1"), ("down_proj", "w2"), ("up_proj", "w3")] {
                let stack = format!(".switch_mlp.{part}.");
                unstack(tensors, &stack, &format!(".experts.*.{original}."));
            }
        });
    }
}

#[test]
fn klear_keeps_other_parts_beside_its_experts() {
    check("Klear", |tensors| unstack(tensors, ".mlp.experts.", ".mlp.experts.*."));
}

#[test]
fn what_predicts_further_tokens_is_dropped() {
    check("glm4_moe", |tensors| extra(tensors, "model.layers.3.eh_proj.weight"));
    check("exaone_moe", |tensors| extra(tensors, "mtp.layers.0.fc.weight"));
    check("mimo_v2_flash", |tensors| extra(tensors, "model.mtp.layers.0.fc.weight"));
    check("ernie4_5_moe", |tensors| extra(tensors, "model.mtp_block.0.norm.weight"));
    check("step3p5", |tensors| extra(tensors, "model.layers.4.eh_proj.weight"));
}

#[test]
fn routers_have_other_names() {
    check("exaone_moe", |tensors| rename(tensors, ".gate.e_score_correction_bias", ".e_score_correction_bias"));
    check("bailing_moe", |tensors| rename(tensors, ".gate.gate_proj.", ".gate."));
    check("laguna", |tensors| {
        rename(tensors, ".gate.proj.", ".gate.");
        rename(tensors, ".gate.e_score_correction_bias", ".experts.e_score_correction_bias");
        for (name, array) in std::mem::take(tensors) {
            tensors.insert(format!("language_model.{name}"), array);
        }
    });
}

#[test]
fn ernie_corrects_scores_where_the_checkpoint_does() {
    let name = "model.layers.1.mlp.moe_statics.e_score_correction_bias";
    check("ernie4_5_moe", |tensors| drop(tensors.insert(name.into(), ops::ones::<f32>(&[1, 4]).unwrap())));
    let case = Case::named("ernie4_5_moe");
    let mut tensors = case.tensors();
    tensors.insert(name.into(), Array::from_slice(&[9_f32, 0.0, 9.0, 0.0], &[1, 4]));
    let tokens = case.expected("tokens");
    let logits = |tensors| case.model_of(tensors).unwrap().forward(&tokens, None).unwrap();
    assert!(largest_difference(&logits(tensors), &logits(case.tensors())) > 0.01);
}

#[test]
fn granite_has_both_ways_in_as_one() {
    check("granitemoe", |tensors| {
        join(tensors, ["switch_mlp.gate_proj.", "switch_mlp.up_proj."], "input_linear.", behind(1));
        rename(tensors, "switch_mlp.down_proj.", "output_linear.");
    });
}

/// Rows of both in turns.
fn in_turns(axis: i32) -> impl Fn(&Array, &Array) -> Array {
    move |first, second| {
        let mut shape = first.shape().to_vec();
        shape[axis as usize] *= 2;
        ops::stack(&[first, second], axis + 1).unwrap().reshape(&shape).unwrap()
    }
}

#[test]
fn gpt_oss_has_rows_in_turns_and_inputs_first() {
    check("gpt_oss", |tensors| {
        join(tensors, ["gate_proj.bias", "up_proj.bias"], "gate_up_proj_bias", in_turns(1));
        join(tensors, ["gate_proj.weight", "up_proj.weight"], "gate_up_proj", in_turns(1));
        rename(tensors, "down_proj.bias", "down_proj_bias");
        rename(tensors, "down_proj.weight", "down_proj");
        for part in ["experts.gate_up_proj", "experts.down_proj"] {
            for (name, array) in taken(tensors, part) {
                let array = if name.ends_with("_bias") { array } else { array.swap_axes(1, 2).unwrap() };
                tensors.insert(name, array);
            }
        }
    });
}

#[test]
fn dbrx_has_the_rows_of_all_experts_in_one_matrix() {
    check("dbrx", |tensors| {
        for (name, first) in taken(tensors, ".experts.0.") {
            let mut all = vec![first];
            for expert in 1..4 {
                let other = name.replace(".experts.0.", &format!(".experts.{expert}."));
                all.push(tensors.remove(&other).unwrap());
            }
            let is_way_out = name.ends_with("w2.weight");
            let all: Vec<Array> =
                all.into_iter().map(|w| if is_way_out { w.swap_axes(0, 1).unwrap() } else { w }).collect();
            let name = name.replace(".experts.0.", ".experts.mlp.").replace(".weight", "");
            tensors.insert(name, ops::concatenate(&all, 0).unwrap());
        }
    });
}

#[test]
fn hunyuan_has_heads_in_groups_and_the_linear_part_first() {
    check("hunyuan__dense", |tensors| {
        let groups = |array: &Array, heads: i32| array.reshape(&[2, heads, 8, 32]).unwrap();
        for (name, q) in taken(tensors, ".q_proj.") {
            let [k, v] = ["k_proj", "v_proj"].map(|part| tensors.remove(&name.replace("q_proj", part)).unwrap());
            let all = [groups(&q, 2), groups(&k, 1), groups(&v, 1)];
            let all = ops::concatenate(&all, 1).unwrap().reshape(&[-1, 32]).unwrap();
            tensors.insert(name.replace("q_proj", "qkv_proj"), all);
        }
        join(tensors, ["mlp.up_proj", "mlp.gate_proj"], "mlp.gate_and_up_proj", behind(0));
    });
}

#[test]
fn step_has_norms_less_one_and_experts_outside_the_mlp() {
    check("step3p5", |tensors| {
        rename(tensors, ".mlp.switch_mlp.", ".moe.");
        rename(tensors, ".mlp.gate.gate.", ".moe.gate.");
        rename(tensors, ".mlp.gate.router_bias", ".moe.router_bias");
        rename(tensors, ".mlp.share_expert.", ".share_expert.");
        for (name, array) in taken(tensors, "norm") {
            tensors.insert(name, array.subtract(Array::from_f32(1.0)).unwrap());
        }
    });
}

#[test]
fn minimax_may_have_its_shared_expert_among_the_others_and_dense_layers_below_their_name() {
    check("minimax_m3_vl", |tensors| {
        join(
            tensors,
            [".shared_experts.gate_proj.", ".shared_experts.up_proj."],
            ".shared_experts.gate_up_proj.",
            behind(0),
        );
        join(tensors, [".switch_mlp.gate_proj.", ".switch_mlp.up_proj."], ".switch_mlp.gate_up_proj.", behind(1));
        join(tensors, [".switch_mlp.", ".shared_experts."], ".switch_mlp.", |stack, shared| {
            ops::concatenate(&[stack, &shared.expand_dims(0).unwrap()], 0).unwrap()
        });
        rename(tensors, ".layers.0.mlp.", ".layers.0.block_sparse_moe.");
        extra(tensors, "vision_tower.x.weight");
    });
}

/// Rows of heads in the order in which halves rotate, of those in which neighbours do.
fn halves(rows: &Array, dim: i32) -> Array {
    let pairs = rows.reshape(&[-1, dim / 2, 2, rows.dim(1)]).unwrap();
    pairs.swap_axes(1, 2).unwrap().reshape(rows.shape()).unwrap()
}

/// The gates of the original are not to be had from what is made of them: all are set to zero in both layouts.
#[test]
fn muse_has_gates_norms_less_one_and_four_projections() {
    const DIM: i32 = 16;
    let case = Case::named("muse_spark");
    let mut own = case.tensors();
    let shares = [("alpha", 0.75_f32.sqrt()), ("beta", 0.5)];
    for (part, share) in shares {
        for (name, _) in taken(&mut own, &format!("_{part}")) {
            own.insert(name, ops::full::<f32>(&[32], Array::from_f32(share)).unwrap());
        }
    }
    // Norms that are stored less one are rounded to bf16 with it: these stay what they are.
    for part in ["layernorm", "_expert_norm"] {
        for (name, array) in taken(&mut own, part) {
            let rounded = array.as_dtype(mlxlm_core::Dtype::Bfloat16).unwrap();
            own.insert(name, rounded.as_dtype(array.dtype()).unwrap());
        }
    }
    let mut original = own.clone();
    for sum in ["attn", "ffn"] {
        let gate = if sum == "attn" { "post_attention" } else { "post_feedforward" };
        taken(&mut original, &format!("add_{sum}_alpha"));
        for (name, _) in taken(&mut original, &format!("add_{sum}_beta")) {
            let name = name.replace(&format!("add_{sum}_beta"), &format!("{gate}_residual_gate.gate"));
            original.insert(name, ops::zeros::<f32>(&[32]).unwrap());
        }
    }
    for part in ["layernorm", "_expert_norm"] {
        for (name, array) in taken(&mut original, part) {
            original.insert(name, array.subtract(Array::from_f32(1.0)).unwrap());
        }
    }
    for (name, all) in taken(&mut original, "qkvg_proj") {
        let parts = ops::split_at_indices(&all, &[64, 96, 128], 0).unwrap();
        let parts = [halves(&parts[0], DIM), halves(&parts[1], DIM), parts[2].clone(), parts[3].clone()];
        for (part, array) in ["q_proj", "k_proj", "v_proj", "gate_proj"].iter().zip(parts) {
            original.insert(name.replace("qkvg_proj", part), array);
        }
    }
    join(&mut original, ["experts.gate_proj.weight", "experts.up_proj.weight"], "experts.gate_up_proj", behind(1));
    rename(&mut original, "experts.down_proj.weight", "experts.down_proj");
    extra(&mut original, "model.audio_tower.x.weight");
    let tokens = case.expected("tokens");
    let [got, want] = [original, own].map(|tensors| case.model_of(tensors).unwrap().forward(&tokens, None).unwrap());
    let (off, allowed) = (largest_difference(&got, &want), 1e-4 * largest(&want));
    assert!(off <= allowed, "logits are off by {off:.1e}, allowed {allowed:.1e}");
}
