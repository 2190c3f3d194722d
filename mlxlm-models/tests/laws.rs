//! The laws that hold for every architecture, as one table that is walked over all base cases of `tests/golden`.
//!
//! A base case is an architecture, or a variant that changes what it computes, with `f32` weights under the model's own
//! names. A new architecture is tested by all of them as soon as it has a golden case. The first law, the logits of the
//! reference, is `golden.rs`; that strict loading lists all that does not fit, and refuses absurd configurations, is
//! `strict.rs`.
#![allow(clippy::unwrap_used, reason = "helpers of tests may fail as tests do")]

mod support;

use std::collections::BTreeMap;

use mlxlm_cache::{CacheKind, Caches, KvFormat, LayerCache, Offset};
use mlxlm_core::nn::{self, LeafMut, LowRankAdapter, Role, Worth};
use mlxlm_core::quant::{Mode, Scheme};
use mlxlm_core::weights::{self, QuantizationConfig, Tensors};
use mlxlm_core::{Array, Dtype, ops};
use mlxlm_models::arch::ARCHITECTURES;
use mlxlm_models::{Architecture, Built, CausalLm, LoadOptions, ModelConfig, build, load_model};
use serde_json::{Value, json};

use support::{Case, columns, drawn, largest, largest_difference, step_by_step};

/// What holds, and how it is seen on a case.
type Law = (&'static str, fn(&Case) -> Result<(), String>);

const LAWS: &[Law] = &[
    ("read token by token, the logits are those of the whole", cached_is_uncached),
    ("two sequences in one pass are two single ones", batch_is_singles),
    ("the type that goes in comes out", dtype_is_kept),
    ("every cache advances by the tokens read", caches_advance),
    ("the names walked are those of the checkpoint", names_agree),
    ("a rule applied twice does what it does once", rules_are_idempotent),
    ("quantized, saved and loaded, the logits stay", saved_is_quantized),
    ("a fresh adapter changes nothing, and a fused one no more", adapters_add_up),
    ("tokens taken back, or a snapshot gone back to, leave no trace", trimmed_is_untouched),
    ("the end of a pass taken back, what is left is a shorter pass", taken_back_is_unread),
    ("a key that is not known is reported, a missing one is named", keys_are_reported),
    ("two simulated shards are one model", shards_add_up),
    ("what the list of models says of it is so", abilities_are_so),
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

/// As [`same`], where one side was read in pieces: a model whose reference is torn may be so too.
fn same_in_pieces(case: &Case, what: &str, got: &Array, expected: &Array) -> Result<(), String> {
    same(what, got, expected).or_else(|why| if case.is_torn() { Ok(()) } else { Err(why) })
}

fn ensure(holds: bool, why: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(why()) }
}

fn cached_is_uncached(case: &Case) -> Result<(), String> {
    let model = case.model().unwrap();
    let tokens = row(&tokens(case), 0);
    let mut caches = Caches::new(&model.cache_kinds());
    same_in_pieces(case, "one by one", &step_by_step(&*model, &tokens, &mut caches), &whole(&*model, &tokens))
}

/// Two sequences of different lengths, each with its own caches, are read on as the rows of one pass: two tokens, then one by one.
fn batch_is_singles(case: &Case) -> Result<(), String> {
    let model = case.model().unwrap();
    let tokens = tokens(case);
    let len = tokens.dim(1);
    let ends = [len, len - (len - 5).min(5)];
    let prompt = |i: usize| {
        let mut caches = Caches::new(&model.cache_kinds());
        let prompt = columns(&row(&tokens, i as i32), 0, ends[i] - 4);
        model.forward(&prompt, Some(&mut caches)).unwrap();
        caches
    };
    // Groups of compressed rows have no place for two sequences.
    let Ok(mut caches) = Caches::join(vec![prompt(0), prompt(1)]) else { return Ok(()) };
    let mut logits = Vec::new();
    for (from, to) in [(4, 2), (2, 1), (1, 0)] {
        let rows: Vec<Array> = (0..2).map(|i| columns(&row(&tokens, i as i32), ends[i] - from, ends[i] - to)).collect();
        let batch = ops::concatenate(&rows, 0).unwrap();
        logits.push(model.forward(&batch, Some(&mut caches)).unwrap());
    }
    let logits = ops::concatenate(&logits, 1).unwrap();
    for (i, end) in (0..).zip(ends) {
        let expected = whole(&*model, &columns(&row(&tokens, i), 0, end));
        let expected = columns(&expected, end - 4, end);
        same_in_pieces(case, &format!("row {i}"), &row(&logits, i), &expected)?;
    }
    Ok(())
}

fn dtype_is_kept(case: &Case) -> Result<(), String> {
    for dtype in [Dtype::Float32, Dtype::Bfloat16, Dtype::Float16] {
        let model = case.model_of(case.tensors_as(dtype)).unwrap();
        let mut caches = Caches::new(&model.cache_kinds());
        let logits = model.forward(&tokens(case), Some(&mut caches)).unwrap();
        ensure(logits.dtype() == dtype, || format!("weights are {dtype:?}, logits {:?}", logits.dtype()))?;
        // Recurrent states are sums over a whole text, in f32, and so are rows that wait to be compressed.
        let in_type = |cache: &&LayerCache| {
            !matches!(cache, LayerCache::State(_) | LayerCache::Compressed(_) | LayerCache::List(_))
        };
        let kept = caches.layers().iter().filter(in_type);
        let other = kept.flat_map(LayerCache::arrays).map(Array::dtype).find(|kept| kept.is_float() && *kept != dtype);
        ensure(other.is_none(), || format!("weights are {dtype:?}, and a cache keeps {other:?}"))?;
    }
    Ok(())
}

fn caches_advance(case: &Case) -> Result<(), String> {
    let model = case.model().unwrap();
    let kinds = model.cache_kinds();
    let mut caches = Caches::new(&kinds);
    let mut read = 0;
    for len in [5, 1, 1, 3] {
        model.forward(&columns(&case.expected("tokens"), read, read + len), Some(&mut caches)).unwrap();
        read += len;
        // A recurrent state does not know how many tokens it stands for.
        for (layer, cache) in caches.layers().iter().enumerate().filter(|(layer, _)| kinds[*layer].keeps_kv()) {
            let offset = cache.offset();
            // A layer may have a cache of which it makes no use.
            let is_unused = cache.arrays().is_empty();
            ensure(is_unused || matches!(offset, Offset::Same(n) if n == read), || {
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
    let (count, bytes) = nn::size(&*model);
    let elements = walked.iter().map(|(_, array)| array.size() as u64).sum::<u64>();
    // Packed weights are counted as they were before.
    let is_packed = walked.iter().any(|(name, _)| name.ends_with(".scales"));
    ensure(elements == count || is_packed && elements < count, || format!("{count} weights"))?;
    ensure(walked.iter().map(|(_, array)| array.nbytes() as u64).sum::<u64>() == bytes, || format!("{bytes} bytes"))?;
    let names = walked.len();
    // A head that repeats the embedding table is dropped.
    let kept = case.tensors().into_iter().filter(|(name, _)| !(case.is_tied() && name == "lm_head.weight"));
    let (walked, stored) = (shapes(walked), shapes(kept));
    ensure(walked.len() == names, || "a name is walked twice".into())?;
    ensure(walked == stored, || format!("walked {:?}, stored {:?}", walked.keys(), stored.keys()))
}

fn rules_are_idempotent(case: &Case) -> Result<(), String> {
    let rules = Architecture::of(&case.config()).unwrap().rules(&case.config()).unwrap();
    let apply = |mut tensors: Tensors| {
        for rule in &rules {
            rule.apply(&mut tensors).unwrap();
        }
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
        model.walk_mut("", &mut |_, mut leaf| {
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
        weights::save_model(folder.path(), nn::parameters(&mut *model), nn::size(&*model).0).unwrap();
        let (Built { model: loaded, .. }, _) =
            load_model(folder.path(), &LoadOptions::default()).map_err(|e| format!("{scheme}: {e}"))?;
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
    model.walk_mut("", &mut |path, leaf| {
        let (a, b, slot) = match leaf {
            LeafMut::Linear(leaf) => {
                let shape = leaf.weight.shape();
                (vec![shape[1], RANK], vec![RANK, shape[0]], &mut leaf.adapter)
            }
            LeafMut::Embedding(leaf) => {
                let shape = leaf.weight.shape();
                (vec![shape[0], RANK], vec![RANK, shape[1]], &mut leaf.adapter)
            }
            LeafMut::Experts(leaf) => {
                let shape = leaf.weight.shape();
                (vec![shape[0], RANK, shape[2]], vec![shape[0], shape[1], RANK], &mut leaf.adapter)
            }
            _ => return,
        };
        let (a, b) = (drawn(&format!("{path}.a"), &a, 0.1), drawn(&format!("{path}.b"), &b, deviation));
        *slot = Some(LowRankAdapter { a, b, m: None, scale: 2.0, dropout: 0.5 });
    });
}

fn adapters_add_up(case: &Case) -> Result<(), String> {
    let tokens = tokens(case);
    let mut model = case.model_of(case.tensors_as(Dtype::Float32)).unwrap();
    // Packing again loses what an adapter adds.
    model.walk_mut("", &mut |_, mut leaf| leaf.matrix().into_iter().for_each(|matrix| matrix.dequantize().unwrap()));
    let plain = whole(&*model, &tokens);
    adapt(&mut *model, 0.0);
    let off = largest_difference(&whole(&*model, &tokens), &plain);
    ensure(off == 0.0, || format!("a fresh adapter moves the logits by {off:.1e}"))?;
    adapt(&mut *model, 0.1);
    let adapted = whole(&*model, &tokens);
    ensure(largest_difference(&adapted, &plain) > 0.01, || "the adapter does nothing".into())?;
    model.walk_mut("", &mut |_, leaf| match leaf {
        LeafMut::Linear(leaf) => leaf.fuse().unwrap(),
        LeafMut::Embedding(leaf) => leaf.fuse().unwrap(),
        LeafMut::Experts(leaf) => leaf.fuse().unwrap(),
        _ => {}
    });
    let is_adapter = |name: &str| name.ends_with(".lora_a") || name.ends_with(".lora_b");
    ensure(!nn::parameters(&mut *model).iter().any(|(name, _)| is_adapter(name)), || "an adapter is left".into())?;
    same("the fused model", &whole(&*model, &tokens), &adapted)
}

/// Tokens are taken back by `trim` where every cache can, by going back to a snapshot where one cannot, and by a mark anywhere.
fn trimmed_is_untouched(case: &Case) -> Result<(), String> {
    let model = case.model().unwrap();
    let tokens = row(&tokens(case), 0);
    let len = tokens.dim(1);
    let mut caches = Caches::new(&model.cache_kinds());
    let short = len.min(if model.cache_kinds().iter().all(|kind| *kind == CacheKind::Kv) { len } else { 4 });
    model.forward(&columns(&tokens, 0, short - 3), Some(&mut caches)).unwrap();
    let again = |caches: &mut Caches| {
        model.forward(&columns(&tokens, short - 3, short - 1), Some(caches)).unwrap();
    };
    let before = caches.snap();
    again(&mut caches);
    match caches.is_trimmable() {
        true => ensure(caches.trim(2) == 2, || "not two tokens are taken back".into())?,
        false => caches.restore(&before),
    }
    let mark = caches.mark(2);
    again(&mut caches);
    caches.rewind(mark);
    let replayed = step_by_step(&*model, &columns(&tokens, short - 3, len), &mut caches);
    same_in_pieces(case, "the replay", &replayed, &columns(&whole(&*model, &tokens), short - 3, len))
}

/// Only a cache of groups cannot take back the end of a pass. What follows has the bits that it has behind a pass of the tokens left.
fn taken_back_is_unread(case: &Case) -> Result<(), String> {
    let model = case.model().unwrap();
    let (tokens, kinds) = (row(&tokens(case), 0), model.cache_kinds());
    let len = tokens.dim(1);
    let mut short = Caches::new(&kinds);
    model.forward(&columns(&tokens, 0, len - 4), Some(&mut short)).unwrap();
    let mut long = short.clone();
    let mark = long.mark(4);
    long.note_pass(true);
    model.forward(&columns(&tokens, len - 4, len), Some(&mut long)).unwrap();
    let has_groups = kinds.iter().any(|kind| format!("{kind:?}").contains("Compressed"));
    ensure(long.take_back(&mark, 2).unwrap() != has_groups, || format!("{kinds:?} came back, or did not"))?;
    if has_groups {
        return Ok(());
    }
    model.forward(&columns(&tokens, len - 4, len - 2), Some(&mut short)).unwrap();
    let [got, expected] =
        [&mut long, &mut short].map(|caches| step_by_step(&*model, &columns(&tokens, len - 2, len), caches));
    ensure(largest_difference(&got, &expected) == 0.0, || "what follows has other bits".into())
}

/// A key in the part of the configuration that describes the text model. One that is taken out stands nowhere else either.
fn with_key(config: &Value, key: &str, value: Option<Value>) -> Value {
    let (mut config, is_removed) = (config.clone(), value.is_none());
    let text = if config.get("text_config").is_some() { &mut config["text_config"] } else { &mut config };
    let entries = text.as_object_mut().unwrap();
    match value {
        Some(value) => entries.insert(key.into(), value),
        None => entries.remove(key),
    };
    if is_removed {
        config.as_object_mut().unwrap().remove(key);
    }
    config
}

fn keys_are_reported(case: &Case) -> Result<(), String> {
    let load =
        |config: Value| build(&ModelConfig::new(config).unwrap(), case.tensors(), None).map(|built| built.warnings);
    let config = case.config().to_value();
    let reported = load(config.clone()).unwrap();
    ensure(reported.is_empty(), || format!("the configuration as it is gives {reported:?}"))?;
    let reported = load(with_key(&config, "made_up", Some(json!({"a": 1})))).unwrap();
    ensure(reported == ["config.json has unknown entries: `made_up`"], || format!("{reported:?}"))?;
    let text = config.get("text_config").unwrap_or(&config);
    for key in ["hidden_size", "num_hidden_layers", "vocab_size"].into_iter().filter(|key| text.get(*key).is_some()) {
        let why = load(with_key(&config, key, Some(json!([])))).map_or_else(|e| e.to_string(), |_| "it loads".into());
        ensure(why.starts_with(&format!("config.json: `{key}`")), || format!("with a list as `{key}`: {why}"))?;
        // An architecture may have a default, with which these weights may disagree.
        let why = load(with_key(&config, key, None)).map_or_else(|e| e.to_string(), |_| "it loads".into());
        let is_named = why.contains(&format!("`{key}`"));
        let has_default =
            why == "it loads" || why.starts_with("the weights do not fit") || why.starts_with("config.json: ");
        ensure(is_named || has_default, || format!("without `{key}`: {why}"))?;
    }
    Ok(())
}

/// A factor for each place along an axis of `size`: one for those of this device of two, `others` for the rest.
fn cut(worth: Worth, size: i32, device: i32, others: f32) -> Vec<f32> {
    let own = worth.part(size, device, 2);
    (0..size).map(|i| if own.iter().any(|part| part.contains(&i)) { 1.0 } else { others }).collect()
}

/// Multiplies an array along one axis, counted from the last.
fn scale_along(array: &mut Array, from_last: usize, factors: &[f32]) {
    let mut shape = vec![1; array.ndim()];
    shape[array.ndim() - from_last] = factors.len() as i32;
    *array = array.multiply(Array::from_slice(factors, &shape)).unwrap();
}

/// What a device of two computes by itself: where leaves are cut by inputs, those of the other device count for nothing, and
/// where they are cut by outputs, the other's are multiplied by `others`.
fn of_device(case: &Case, device: i32, others: f32, tokens: &Array) -> Array {
    let mut model = case.model_of(case.tensors_as(Dtype::Float32)).unwrap();
    model.walk_mut("", &mut |_, mut leaf| {
        leaf.matrix().into_iter().for_each(|matrix| matrix.dequantize().unwrap());
        let (worth, is_heads) = (leaf.as_ref().worth(), matches!(leaf, LeafMut::Heads(_)));
        leaf.parameters("", &mut |name, array| match (worth.role, name.as_str()) {
            (Role::Columns, "weight" | "bias") => {
                // A stack of heads is cut between heads, all others along their outputs.
                let from_last = if is_heads { array.ndim() } else { 1 + usize::from(name == "weight") };
                let size = array.dim(-(from_last as i32));
                scale_along(array, from_last, &cut(worth, size, device, others));
            }
            (Role::Rows, "weight") => scale_along(array, 1, &cut(worth, array.dim(-1), device, 0.0)),
            _ => {}
        });
    });
    model.hidden(tokens, None).unwrap()
}

/// Leaves that are cut by inputs add up what each device gives. So two devices are one model if a device's inputs to them
/// depend on its own outputs of the others only: what the other device has there may be anything.
fn shards_add_up(case: &Case) -> Result<(), String> {
    if !Architecture::of(&case.config()).unwrap().abilities().unwrap().shards {
        return Ok(());
    }
    let tokens = tokens(case);
    let all = case.model_of(case.tensors_as(Dtype::Float32)).unwrap().hidden(&tokens, None).unwrap();
    for device in 0..2 {
        let parts = of_device(case, device, 0.0, &tokens);
        ensure(largest_difference(&parts, &all) > 1e-3 * largest(&all), || format!("device {device} has it all"))?;
        for others in [1.0, -2.5] {
            same(&format!("device {device}"), &of_device(case, device, others, &tokens), &parts)?;
        }
    }
    Ok(())
}

/// Those abilities that no other law sees.
fn abilities_are_so(case: &Case) -> Result<(), String> {
    let abilities = Architecture::of(&case.config()).unwrap().abilities().map_err(|e| e.to_string())?;
    if !ARCHITECTURES.iter().any(|arch| arch.names[0] == case.name) {
        // Variants may keep something else.
        return Ok(());
    }
    let kinds = case.model().unwrap().cache_kinds();
    let batches = Caches::join(vec![Caches::new(&kinds), Caches::new(&kinds)]).is_ok();
    ensure(abilities.batches == batches, || format!("batches: {batches}"))?;
    let quantized = Caches::new(&kinds).quantize(KvFormat::new(8, 32).unwrap(), 0).is_ok();
    ensure(abilities.quantized_kv == quantized, || format!("quantized KV cache: {quantized}"))?;
    let names: Vec<String> = kinds.iter().map(CacheKind::to_string).collect();
    let listed = abilities.caches.iter().all(|cache| names.iter().any(|name| name.contains(cache)));
    ensure(listed && abilities.caches.is_empty() == kinds.is_empty(), || format!("caches: {names:?}"))
}
