//! The laws that hold for every architecture, as one table that is walked over all base cases of `tests/golden`.
//!
//! A base case is an architecture, or a variant that changes what it computes, with `f32` weights under the model's own
//! names. A new architecture is tested by all of them as soon as it has a golden case. The first law, the logits of the
//! reference, is `golden.rs`; that strict loading lists all that does not fit, and refuses absurd configurations, is
//! `strict.rs`. Not here: that a model split over several machines is the same model, as there is no splitting yet.
#![allow(clippy::unwrap_used, reason = "helpers of tests may fail as tests do")]

mod support;

use std::collections::BTreeMap;

use mlxlm_cache::{Caches, Offset};
use mlxlm_core::nn::{self, Leaf, LowRankAdapter};
use mlxlm_core::quant::{Mode, Scheme};
use mlxlm_core::weights::{self, QuantizationConfig, Tensors};
use mlxlm_core::{Array, Dtype, ops};
use mlxlm_models::{Architecture, CausalLm, LoadOptions, ModelConfig, build, load_model};
use serde_json::{Value, json};

use support::{Case, columns, drawn, largest, largest_difference, step_by_step};

/// What holds, and how it is seen on a case.
type Law = (&'static str, fn(&Case) -> Result<(), String>);

const LAWS: &[Law] = &[
    ("read token by token, the logits are those of the whole", cached_is_uncached),
    ("a padded batch of two is two single sequences", batch_is_singles),
    ("the type that goes in comes out", dtype_is_kept),
    ("every cache advances by the tokens read", caches_advance),
    ("the names walked are those of the checkpoint", names_agree),
    ("a rule applied twice does what it does once", rules_are_idempotent),
    ("quantized, saved and loaded, the logits stay", saved_is_quantized),
    ("a fresh adapter changes nothing, and a fused one no more", adapters_add_up),
    ("tokens taken back and read again leave no trace", trimmed_is_untouched),
    ("a key that is not known is told, a missing one is named", keys_are_told),
];

#[test]
fn every_law_holds_for_every_architecture() {
    let cases: Vec<Case> = support::cases().into_iter().filter(Case::is_base).collect();
    assert!(cases.len() >= 27, "only {} base cases were found", cases.len());
    let mut broken = Vec::new();
    for case in &cases {
        for (law, holds) in LAWS {
            broken.extend(holds(case).err().map(|why| format!("{}: {law}: {why}", case.name)));
        }
    }
    assert!(broken.is_empty(), "{} laws are broken:\n{}", broken.len(), broken.join("\n"));
}

/// As many tokens of both rows as every position of the case allows: those beyond `max_position_embeddings` change what
/// dynamic rotations compute for those before them.
fn tokens(case: &Case) -> Array {
    let positions = case.config().get("max_position_embeddings").and_then(Value::as_i64).unwrap_or(12);
    columns(&case.expected("tokens"), 0, positions.min(12) as i32)
}

fn row(tokens: &Array, row: i32) -> Array {
    tokens.take_axis(Array::from_slice(&[row], &[1]), 0).unwrap()
}

fn whole(model: &dyn CausalLm, tokens: &Array) -> Array {
    model.forward(tokens, None).unwrap()
}

/// Whether two sides of a law agree up to the rounding of `f32`.
fn same(what: &str, got: &Array, expected: &Array) -> Result<(), String> {
    let (off, allowed) = (largest_difference(got, expected), 1e-4 * largest(expected));
    if off <= allowed { Ok(()) } else { Err(format!("{what} is off by {off:.1e}, allowed {allowed:.1e}")) }
}

fn ensure(holds: bool, why: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(why()) }
}

fn cached_is_uncached(case: &Case) -> Result<(), String> {
    let model = case.model().unwrap();
    let tokens = row(&tokens(case), 0);
    let mut caches = Caches::new(&model.cache_kinds());
    same("one by one", &step_by_step(&*model, &tokens, &mut caches), &whole(&*model, &tokens))
}

/// Row 0 is whole; row 1 begins five tokens later, behind padding. Both are then read on for three tokens.
fn batch_is_singles(case: &Case) -> Result<(), String> {
    const PADDING: i32 = 5;
    let model = case.model().unwrap();
    let tokens = tokens(case);
    let len = tokens.dim(1);
    let short = columns(&row(&tokens, 1), 0, len - PADDING);
    let padded = ops::concatenate(&[ops::zeros::<i32>(&[1, PADDING]).unwrap(), short.clone()], 1).unwrap();
    let batch = ops::concatenate(&[row(&tokens, 0), padded], 0).unwrap();
    let mut caches = Caches::left_padded(&model.cache_kinds(), &[0, PADDING]).unwrap();
    let prompt = model.forward(&columns(&batch, 0, len - 3), Some(&mut caches)).unwrap();
    let rest = step_by_step(&*model, &columns(&batch, len - 3, len), &mut caches);
    let logits = ops::concatenate(&[prompt, rest], 1).unwrap();
    same("the whole row", &row(&logits, 0), &whole(&*model, &row(&tokens, 0)))?;
    same("the padded row", &columns(&row(&logits, 1), PADDING, len), &whole(&*model, &short))
}

fn dtype_is_kept(case: &Case) -> Result<(), String> {
    for dtype in [Dtype::Float32, Dtype::Bfloat16, Dtype::Float16] {
        let model = case.model_of(case.tensors_as(dtype)).unwrap();
        let mut caches = Caches::new(&model.cache_kinds());
        let logits = model.forward(&tokens(case), Some(&mut caches)).unwrap();
        ensure(logits.dtype() == dtype, || format!("weights are {dtype:?}, logits {:?}", logits.dtype()))?;
        let other = caches.arrays().into_iter().map(Array::dtype).find(|kept| kept.is_float() && *kept != dtype);
        ensure(other.is_none(), || format!("weights are {dtype:?}, and a cache keeps {other:?}"))?;
    }
    Ok(())
}

fn caches_advance(case: &Case) -> Result<(), String> {
    let model = case.model().unwrap();
    let mut caches = Caches::new(&model.cache_kinds());
    let mut read = 0;
    for len in [5, 1, 1, 3] {
        model.forward(&columns(&case.expected("tokens"), read, read + len), Some(&mut caches)).unwrap();
        read += len;
        for (layer, cache) in caches.layers().iter().enumerate() {
            let offset = cache.offset();
            ensure(matches!(offset, Offset::Same(n) if n == read), || {
                format!("after {read} tokens the cache of layer {layer} is at {offset:?}")
            })?;
        }
    }
    Ok(())
}

/// What a checkpoint and a model are compared by.
fn shapes(tensors: impl IntoIterator<Item = (String, Array)>) -> BTreeMap<String, Vec<i32>> {
    tensors.into_iter().map(|(name, array)| (name, array.shape().to_vec())).collect()
}

/// That every name is consumed is a part of loading, which fails otherwise.
fn names_agree(case: &Case) -> Result<(), String> {
    let mut model = case.model().unwrap();
    let walked = nn::parameters(&mut *model);
    let (count, bytes) = nn::size(&mut *model);
    ensure(walked.iter().map(|(_, array)| array.size() as u64).sum::<u64>() == count, || format!("{count} weights"))?;
    ensure(walked.iter().map(|(_, array)| array.nbytes() as u64).sum::<u64>() == bytes, || format!("{bytes} bytes"))?;
    let names = walked.len();
    let (walked, stored) = (shapes(walked), shapes(case.tensors()));
    ensure(walked.len() == names, || "a name is walked twice".into())?;
    ensure(walked == stored, || format!("walked {:?}, stored {:?}", walked.keys(), stored.keys()))
}

fn rules_are_idempotent(case: &Case) -> Result<(), String> {
    let arch = Architecture::find(case.config().model_type().unwrap()).unwrap();
    let apply = |mut tensors: Tensors| {
        arch.rules.iter().for_each(|rule| rule.apply(&mut tensors).unwrap());
        tensors
    };
    let once = apply(case.tensors());
    ensure(shapes(once.clone()) == shapes(case.tensors()), || "the model's own names are changed".into())?;
    ensure(shapes(apply(once.clone())) == shapes(once), || "the second time changes something".into())
}

fn saved_is_quantized(case: &Case) -> Result<(), String> {
    let tokens = row(&tokens(case), 0);
    for (mode, bits, group) in
        [(Mode::Affine, 4, 32), (Mode::Affine, 6, 32), (Mode::Mxfp8, 8, 32), (Mode::Nvfp4, 4, 16)]
    {
        let scheme = Scheme::new(mode, bits, group).unwrap();
        let mut model = case.model().unwrap();
        model.walk("", &mut |_, mut leaf| {
            if let Some(matrix) = leaf.matrix().filter(|matrix| scheme.divides(matrix.input_dims())) {
                matrix.quantize(scheme).unwrap();
            }
        });
        let before = whole(&*model, &tokens);
        let folder = tempfile::tempdir().unwrap();
        let mut config = case.config();
        let quantization = QuantizationConfig { default: Some(scheme), paths: BTreeMap::new() };
        config.set("quantization", quantization.to_json());
        mlxlm_core::io::write_json(folder.path().join("config.json"), &config.to_value()).unwrap();
        weights::save_model(folder.path(), nn::parameters(&mut *model), nn::size(&mut *model).0).unwrap();
        let (loaded, ..) = load_model(folder.path(), &LoadOptions::default()).map_err(|e| format!("{scheme}: {e}"))?;
        let off = largest_difference(&whole(&*loaded, &tokens), &before);
        ensure(off == 0.0, || format!("{scheme}: logits are off by {off:.1e}"))?;
        let moved = largest_difference(&before, &whole(&*case.model().unwrap(), &tokens));
        ensure(moved > 0.0, || format!("{scheme}: nothing was quantized"))?;
    }
    Ok(())
}

/// Lays an addition of rank two over every leaf that can be adapted; `b` is drawn with this deviation.
fn adapt(model: &mut dyn CausalLm, deviation: f32) {
    const RANK: i32 = 2;
    model.walk("", &mut |path, leaf| {
        let (a, b, slot) = match leaf {
            Leaf::Linear(leaf) => {
                let shape = leaf.weight.shape();
                (vec![shape[1], RANK], vec![RANK, shape[0]], &mut leaf.adapter)
            }
            Leaf::Embedding(leaf) => {
                let shape = leaf.weight.shape();
                (vec![shape[0], RANK], vec![RANK, shape[1]], &mut leaf.adapter)
            }
            Leaf::Experts(leaf) => {
                let shape = leaf.weight.shape();
                (vec![shape[0], RANK, shape[2]], vec![shape[0], shape[1], RANK], &mut leaf.adapter)
            }
            _ => return,
        };
        let (a, b) = (drawn(&format!("{path}.a"), &a, 0.1), drawn(&format!("{path}.b"), &b, deviation));
        *slot = Some(LowRankAdapter { a, b, m: None, scale: 2.0, dropout: 0.5, training: false });
    });
}

fn adapters_add_up(case: &Case) -> Result<(), String> {
    let tokens = tokens(case);
    let mut model = case.model().unwrap();
    let plain = whole(&*model, &tokens);
    adapt(&mut *model, 0.0);
    let off = largest_difference(&whole(&*model, &tokens), &plain);
    ensure(off == 0.0, || format!("a fresh adapter moves the logits by {off:.1e}"))?;
    adapt(&mut *model, 0.1);
    let adapted = whole(&*model, &tokens);
    ensure(largest_difference(&adapted, &plain) > 0.01, || "the adapter does nothing".into())?;
    model.walk("", &mut |_, leaf| match leaf {
        Leaf::Linear(leaf) => leaf.fuse().unwrap(),
        Leaf::Embedding(leaf) => leaf.fuse().unwrap(),
        Leaf::Experts(leaf) => leaf.fuse().unwrap(),
        _ => {}
    });
    ensure(nn::parameters(&mut *model).iter().all(|(name, _)| !name.contains("lora")), || "an adapter is left".into())?;
    same("the fused model", &whole(&*model, &tokens), &adapted)
}

/// A window that is full has dropped what trimming would need, and must say so instead.
fn trimmed_is_untouched(case: &Case) -> Result<(), String> {
    let model = case.model().unwrap();
    let tokens = row(&tokens(case), 0);
    let len = tokens.dim(1);
    let mut caches = Caches::new(&model.cache_kinds());
    let short = len.min(if model.cache_kinds().iter().all(|kind| kind.name() == "KV") { len } else { 4 });
    let part = columns(&tokens, 0, short - 1);
    model.forward(&part, Some(&mut caches)).unwrap();
    ensure(caches.is_trimmable(), || format!("{} tokens cannot be taken back", short - 1))?;
    ensure(caches.trim(2) == 2, || "not two tokens are taken back".into())?;
    let replayed = step_by_step(&*model, &columns(&tokens, short - 3, len), &mut caches);
    same("the replay", &replayed, &columns(&whole(&*model, &tokens), short - 3, len))
}

fn keys_are_told(case: &Case) -> Result<(), String> {
    let load = |config: Value| build(&ModelConfig::new(config).unwrap(), case.tensors(), None).map(|(_, told)| told);
    let config = case.config().to_value();
    let told = load(config.clone()).unwrap();
    ensure(told.is_empty(), || format!("the configuration as it is gives {told:?}"))?;
    let mut odd = config.clone();
    odd["made_up"] = json!({"a": 1});
    let told = load(odd).unwrap();
    ensure(told == ["config.json has entries that were not understood: `made_up`"], || format!("told {told:?}"))?;
    for key in
        ["model_type", "hidden_size", "num_hidden_layers", "intermediate_size", "num_attention_heads", "vocab_size"]
    {
        let mut short = config.clone();
        short.as_object_mut().unwrap().remove(key);
        // An architecture may have a default, with which these weights then disagree.
        let why = load(short).map_or_else(|e| e.to_string(), |_| "it loads".into());
        let named =
            why == format!("config.json: missing field `{key}`") || why == format!("config.json: `{key}` is missing");
        ensure(named || has_default(case, key), || format!("without `{key}`: {why}"))?;
        let mut wrong = config.clone();
        wrong[key] = json!([]);
        let why = load(wrong).map_or_else(|e| e.to_string(), |_| "it loads".into());
        ensure(why.starts_with(&format!("config.json: `{key}`")), || format!("with a list as `{key}`: {why}"))?;
    }
    Ok(())
}

/// Cohere 2 and Gemma 3 are the architectures whose whole size has defaults in the reference.
fn has_default(case: &Case, key: &str) -> bool {
    matches!(case.metadata["model_type"].as_str(), "cohere2" | "gemma3_text") && key != "model_type"
}
