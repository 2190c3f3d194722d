//! Checkpoints as transformers and others write them come to the same model as those in the reference's own layout.
#![allow(clippy::unwrap_used, reason = "helpers of tests may fail as tests do")]

mod support;

use mlxlm_core::ops::indexing::TryIndexOp;
use mlxlm_core::weights::Tensors;
use mlxlm_core::{Array, ops};

use support::{Case, drawn, largest_difference};

/// How a case's tensors look in their original files.
type Layout = fn(&mut Tensors);

const LAYOUTS: &[(&str, Layout)] = &[
    ("gear", |tensors| {
        turn(tensors, ".key_conv.weight", 1, 2);
        turn(tensors, ".value_conv.weight", 1, 2);
        add(tensors, "model.embed_tokens.embed_scale");
    }),
    ("gemma3", |tensors| {
        rename(tensors, "language_model.model.", "model.language_model.");
        add(tensors, "model.vision_tower.x.weight");
        add(tensors, "model.multi_modal_projector.x.weight");
    }),
    ("gemma3n", |tensors| {
        for name in ["vision_tower", "audio_tower", "embed_vision", "embed_audio"] {
            add(tensors, &format!("model.{name}.x.weight"));
        }
    }),
    ("gemma4", |tensors| {
        rename(tensors, "language_model.model.", "model.language_model.");
        add(tensors, "model.language_model.layers.5.self_attn.k_proj.weight");
        add(tensors, "model.language_model.layers.0.mlp.up_proj.input_max");
        add(tensors, "model.vision_embedder.x.weight");
    }),
    ("gemma4_text__moe", |tensors| fuse_experts(tensors, ".experts.switch_glu.", ".experts.", false)),
    ("gpt2", |tensors| {
        rename(tensors, "model.", "");
        turn_conv1d(tensors);
        add(tensors, "h.0.attn.bias");
    }),
    ("gpt2", |tensors| {
        rename(tensors, "model.", "transformer.");
        turn_conv1d(tensors);
        add(tensors, "transformer.h.1.attn.masked_bias");
    }),
    ("gpt_neox", |tensors| {
        rename(tensors, "model.embed_out.", "embed_out.");
        rename(tensors, "model.h.", "gpt_neox.layers.");
        rename(tensors, "model.", "gpt_neox.");
        add(tensors, "gpt_neox.layers.0.attention.rotary_emb.inv_freq");
        add(tensors, "gpt_neox.layers.0.attention.masked_bias");
    }),
    ("gptj", |tensors| {
        rename(tensors, "model.", "transformer.");
        add(tensors, "transformer.h.0.attn.bias");
    }),
    ("llama4", |tensors| {
        fuse_experts(tensors, ".experts.", ".experts.", true);
        add(tensors, "vision_model.x.weight");
    }),
    ("mistral3__llama", |tensors| {
        rename(tensors, "language_model.model.", "model.language_model.");
        rename(tensors, "language_model.lm_head.", "lm_head.");
        add(tensors, "model.vision_tower.x.weight");
    }),
    ("phimoe", |tensors| {
        for (part, name) in [("gate_proj", "w1"), ("down_proj", "w2"), ("up_proj", "w3")] {
            unstack(tensors, &format!(".switch_mlp.{part}."), |expert| format!(".experts.{expert}.{name}."));
        }
    }),
    ("phixtral", |tensors| {
        for part in ["fc1", "fc2"] {
            unstack(tensors, &format!(".switch_mlp.{part}."), |expert| format!(".mlp.{expert}.{part}."));
        }
    }),
    ("qwen2_vl__flat", |tensors| {
        rename(tensors, "language_model.", "");
        add(tensors, "visual.x.weight");
    }),
    ("qwen3_vl_moe", |tensors| {
        fuse_experts(tensors, ".switch_mlp.", ".experts.", true);
        rename(tensors, "language_model.model.", "model.language_model.");
        rename(tensors, "language_model.lm_head.", "lm_head.");
        add(tensors, "model.visual.x.weight");
    }),
    ("recurrent_gemma", |tensors| turn(tensors, ".conv_1d.weight", 1, 2)),
];

#[test]
fn original_layouts_come_to_the_same_logits() {
    for (name, layout) in LAYOUTS {
        let case = Case::named(name);
        let mut tensors = case.tensors();
        let own = tensors.clone();
        layout(&mut tensors);
        assert!(
            tensors.keys().ne(own.keys()) || tensors.iter().any(|(name, array)| own[name].shape() != array.shape())
        );
        let model = case.model_of(tensors).unwrap_or_else(|e| panic!("{name}: {e}"));
        let tokens = case.expected("tokens").try_index((0..1, ..)).unwrap();
        let off = largest_difference(&model.forward(&tokens, None).unwrap(), &full(&case, &tokens));
        assert!(off == 0.0, "{name}: {off}");
    }
}

/// The logits of the case in the reference's layout.
fn full(case: &Case, tokens: &Array) -> Array {
    case.model().unwrap().forward(tokens, None).unwrap()
}

fn add(tensors: &mut Tensors, name: &str) {
    tensors.insert(name.into(), drawn(name, &[1, 4], 1.0));
}

/// Names that start with `from` start with `to`.
fn rename(tensors: &mut Tensors, from: &str, to: &str) {
    for name in tensors.keys().cloned().collect::<Vec<_>>() {
        if let Some(rest) = name.strip_prefix(from) {
            let array = tensors.remove(&name).unwrap();
            tensors.insert(format!("{to}{rest}"), array);
        }
    }
}

/// Tensors whose names end so have two axes swapped.
fn turn(tensors: &mut Tensors, end: &str, a: i32, b: i32) {
    for (_, array) in tensors.iter_mut().filter(|(name, _)| name.ends_with(end)) {
        *array = array.swap_axes(a, b).unwrap();
    }
}

fn turn_conv1d(tensors: &mut Tensors) {
    for end in ["c_attn.weight", "c_fc.weight", "c_proj.weight"] {
        turn(tensors, end, 0, 1);
    }
}

/// The tensors of a stack, each under a name of its expert.
fn unstack(tensors: &mut Tensors, from: &str, to: impl Fn(i32) -> String) {
    for name in tensors.keys().filter(|name| name.contains(from)).cloned().collect::<Vec<_>>() {
        let stack = tensors.remove(&name).unwrap();
        for expert in 0..stack.dim(0) {
            tensors.insert(name.replace(from, &to(expert)), stack.try_index(expert).unwrap());
        }
    }
}

/// The gates and linear parts of all experts in one tensor, `[E, in, out]` if they are turned.
fn fuse_experts(tensors: &mut Tensors, from: &str, to: &str, turned: bool) {
    let gates = format!("{from}gate_proj.weight");
    for name in tensors.keys().filter(|name| name.ends_with(&gates)).cloned().collect::<Vec<_>>() {
        let base = name.strip_suffix(&gates).unwrap();
        let mut take = |part: &str| tensors.remove(&format!("{base}{from}{part}.weight")).unwrap();
        let fused = ops::concatenate(&[take("gate_proj"), take("up_proj")], 1).unwrap();
        for (part, array) in [("down_proj", take("down_proj")), ("gate_up_proj", fused)] {
            let array = if turned { array.swap_axes(1, 2).unwrap() } else { array };
            tensors.insert(format!("{base}{to}{part}"), array);
        }
    }
}
