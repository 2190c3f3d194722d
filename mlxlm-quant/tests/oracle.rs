//! GPTQ, AWQ, DWQ and dynamic quantization of tiny models against what Python mlx-lm made of the same weights and tokens
//! (`tests/golden/record.py`).
#![allow(clippy::unwrap_used, reason = "helpers of tests may fail as tests do")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use mlxlm_core::nn;
use mlxlm_core::ops::indexing::TryIndexOp;
use mlxlm_core::quant::{self, Mode, Packed, Scheme};
use mlxlm_core::weights::{Recipe, SafetensorsFile};
use mlxlm_core::{Array, Dtype, io, ops};
use mlxlm_models::{CausalLm, ModelConfig, build};
use mlxlm_quant::awq::{AwqOptions, awq};
use mlxlm_quant::dwq::{Batch, DwqOptions, Targets, Unit, dwq};
use mlxlm_quant::dynamic::{self, Levels};
use mlxlm_quant::gptq::{Care, GptqOptions, Packing, gptq};
use mlxlm_quant::{Event, Kept, plan};
use mlxlm_train::evaluate;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn model(name: &str) -> Box<dyn CausalLm> {
    let config: serde_json::Value = io::read_json(folder(name).join("config.json")).unwrap();
    let tensors = Recipe::read(folder(name).join("weights.json")).unwrap().tensors();
    build(&ModelConfig::new(config).unwrap(), tensors, None).unwrap().model
}

struct Expected {
    arrays: BTreeMap<String, Array>,
    facts: BTreeMap<String, String>,
}

fn expected(name: &str) -> Expected {
    let file = SafetensorsFile::open(folder(name).join("expected.safetensors")).unwrap();
    let facts = file.metadata().iter().map(|(key, value)| (key.clone(), value.clone())).collect();
    Expected { arrays: file.arrays().unwrap().into_iter().collect(), facts }
}

fn affine(bits: i32) -> Scheme {
    Scheme::new(Mode::Affine, bits, 32).unwrap()
}

/// The samples, four at once.
fn batches(expected: &Expected) -> Vec<Array> {
    let tokens = &expected.arrays["tokens"];
    [0, 4].map(|i| tokens.try_index(i..i + 4).unwrap().contiguous().unwrap()).to_vec()
}

/// The same as numbers.
fn sequences(expected: &Expected) -> Vec<Vec<u32>> {
    let tokens = &expected.arrays["tokens"];
    let all = tokens.to_vec_cast::<u32>().unwrap();
    all.chunks(tokens.dim(1) as usize).map(<[u32]>::to_vec).collect()
}

/// How far a model is from its teacher, over the samples.
fn divergence(expected: &Expected, teacher: &dyn CausalLm, student: &dyn CausalLm) -> f64 {
    evaluate::compare(student, teacher, &sequences(expected), 4, |_| ()).unwrap().divergence
}

fn silent(_: Event<'_>) {}

/// As the reference does it.
fn plain(plan: &plan::Plan) -> Packing<'_> {
    Packing { plan, care: Care::REFERENCE, kept: None }
}

/// Codes as numbers.
fn codes(packed: &Array, scales: &Array, scheme: Scheme) -> Vec<f32> {
    let biases = Some(ops::zeros_like(scales).unwrap());
    let plain = Packed { weight: packed.clone(), scales: ops::ones_like(scales).unwrap(), biases };
    quant::dequantize(&plain, scheme, Some(Dtype::Float32)).unwrap().to_vec_exact().unwrap()
}

/// Holds the parameters of a model against those that Python recorded under a heading. `close` is how far floats may be from theirs,
/// as a share of the largest; `ties` is the share of codes that may be one off.
fn compare(model: &mut dyn CausalLm, expected: &Expected, heading: &str, (close, ties): (f32, f64), skip: &[&str]) {
    let mut ours: BTreeMap<String, Array> = nn::parameters(model).into_iter().collect();
    let schemes: BTreeMap<String, Scheme> = {
        let mut schemes = BTreeMap::new();
        model.walk("", &mut |path, leaf| {
            schemes.extend(leaf.matrix().and_then(nn::Matrix::scheme).map(|scheme| (path.to_owned(), scheme)));
        });
        schemes
    };
    let prefix = format!("{heading}:");
    let (mut off, mut all) = (0, 0);
    for (name, theirs) in expected
        .arrays
        .iter()
        .filter_map(|(name, array)| Some((name.strip_prefix(&prefix)?, array)))
        .filter(|(name, _)| name.contains('.'))
    {
        let array = ours.remove(name).unwrap_or_else(|| panic!("{heading}: {name}"));
        let path = name.rsplit_once('.').unwrap().0;
        if skip.iter().any(|part| path.ends_with(part)) {
            continue;
        }
        assert_eq!((array.shape(), array.dtype()), (theirs.shape(), theirs.dtype()), "{heading}: {name}");
        if array.dtype() == Dtype::Uint32 {
            let (scheme, scales) = (schemes[path], &expected.arrays[&format!("{prefix}{path}.scales")]);
            let (ours, theirs) = (codes(&array, scales, scheme), codes(theirs, scales, scheme));
            assert!(ours.iter().zip(&theirs).all(|(a, b)| (a - b).abs() < 1.5), "{heading}: {name}");
            off += ours.iter().zip(&theirs).filter(|(a, b)| a != b).count();
            all += ours.len();
        } else {
            let most = theirs.abs().unwrap().max(None).unwrap().try_item_exact::<f32>().unwrap();
            let far =
                array.subtract(theirs).unwrap().abs().unwrap().max(None).unwrap().try_item_exact::<f32>().unwrap();
            assert!(far <= close * most, "{heading}: {name} is off by {far} of {most}");
        }
    }
    assert!(ours.is_empty(), "{heading}: {:?}", ours.keys());
    assert!(all > 0 && off as f64 <= ties * all as f64, "{heading}: {off} of {all} codes are others");
}

#[test]
fn gptq_packs_as_the_reference() {
    let expected = expected("llama");
    for bits in [2, 4, 8] {
        let mut model = model("llama");
        let plan = GptqOptions { scheme: affine(bits), fallback: affine(6) }.plan(&*model);
        gptq(&mut *model, &batches(&expected), plain(&plan), &mut silent).unwrap();
        compare(&mut *model, &expected, &format!("gptq{bits}"), (1e-4, 1e-3), &[]);
    }
}

/// With all care a model is nearer to the dense one than the reference's, in the same bytes: tables included, which are heads here.
#[test]
fn full_care_is_nearer_than_the_reference() {
    for (name, bits) in [("llama", 2), ("llama", 3), ("mixtral", 2)] {
        let expected = expected(name);
        let (batches, dense) = (batches(&expected), model(name));
        let far = |care| {
            let mut packed = model(name);
            let plan = GptqOptions { scheme: affine(bits), fallback: affine(bits) }.plan(&*packed);
            gptq(&mut *packed, &batches, Packing { plan: &plan, care, kept: None }, &mut silent).unwrap();
            (divergence(&expected, &*dense, &*packed), nn::size(&*packed))
        };
        let ((plain, plain_size), (full, full_size)) = (far(Care::REFERENCE), far(Care::FULL));
        assert_eq!(plain_size, full_size);
        assert!(full < 0.95 * plain, "{name} at {bits} bits: {full} against {plain}");
    }
}

#[test]
fn gptq_packs_experts_as_the_reference() {
    let expected = expected("mixtral");
    // At 8 bits some codes are others, since rounding is finer there than what the two make of a Hessian.
    for bits in [2, 4] {
        let mut model = model("mixtral");
        let plan = GptqOptions { scheme: affine(bits), fallback: affine(6) }.plan(&*model);
        gptq(&mut *model, &batches(&expected), plain(&plan), &mut silent).unwrap();
        // Routers keep eight bits here.
        compare(&mut *model, &expected, &format!("gptq{bits}"), (5e-3, 1e-3), &["block_sparse_moe.gate"]);
    }
}

#[test]
fn gptq_is_nearer_than_rounding_at_every_width() {
    let (expected, teacher) = (expected("llama"), model("llama"));
    let batches = batches(&expected);
    for bits in [3, 5, 6] {
        let scheme = affine(bits);
        let (mut rounded, mut packed) = (model("llama"), model("llama"));
        let plan = GptqOptions { scheme, fallback: scheme }.plan(&*packed);
        plan::round(&mut *rounded, &plan).unwrap();
        gptq(&mut *packed, &batches, plain(&plan), &mut silent).unwrap();
        let kl = |student: &dyn CausalLm| divergence(&expected, &*teacher, student);
        let (of_rounded, of_packed) = (kl(&*rounded), kl(&*packed));
        assert!(of_packed < 0.9 * of_rounded, "{bits} bits: {of_packed}, rounded {of_rounded}");
    }
}

#[test]
fn sensitivities_and_choices_are_those_of_the_reference() {
    let expected = expected("llama");
    let (teacher, mut student) = (|| Ok(model("llama")), model("llama"));
    let levels = Levels { low: affine(3), high: affine(5) };
    let options = (levels, None);
    let ours = dynamic::sensitivities(&teacher, &mut *student, &batches(&expected), options, &mut silent).unwrap();
    let theirs: Vec<(String, f64)> = serde_json::from_str(&expected.facts["sensitivities"]).unwrap();
    let theirs: BTreeMap<String, f64> = theirs.into_iter().collect();
    assert_eq!(ours.len(), theirs.len());
    let most = theirs.values().fold(0.0_f64, |most, value| most.max(value.abs()));
    for (path, value) in &ours {
        assert!((value - theirs[path]).abs() <= 1e-4 * most, "{path}: {value}, expected {}", theirs[path]);
    }
    let teacher = model("llama");
    let plan = dynamic::choose(&*teacher, &ours, levels, 5.2).unwrap();
    let high: Vec<String> = serde_json::from_str(&expected.facts["high"]).unwrap();
    let mut high_of_ours: Vec<&String> =
        plan.iter().filter(|(_, scheme)| scheme.bits == 5).map(|(path, _)| path).collect();
    let mut high: Vec<&String> = high.iter().collect();
    high.sort();
    high_of_ours.sort();
    assert_eq!(high_of_ours, high);
    let perplexity = evaluate::perplexity(&*teacher, &sequences(&expected), 4, |_| ()).unwrap().perplexity;
    let wanted: f64 = expected.facts["perplexity"].parse().unwrap();
    assert!((perplexity / wanted - 1.0).abs() < 1e-4, "{perplexity}, expected {wanted}");
}

/// An estimate that stops between two batches goes on from there, and comes to the same bits.
#[test]
fn sensitivities_go_on_where_they_stopped() {
    let expected = expected("llama");
    let levels = Levels { low: affine(3), high: affine(5) };
    let all = batches(&expected);
    let found = |batches: &[Array], kept: Option<&Kept>, report: &mut dyn FnMut(Event<'_>)| {
        let (teacher, mut student) = (|| Ok(model("llama")), model("llama"));
        dynamic::sensitivities(&teacher, &mut *student, batches, (levels, kept), report).unwrap()
    };
    let bits = |found: Vec<(String, f64)>| found.into_iter().map(|(path, value)| (path, value.to_bits())).collect();
    let whole: Vec<(String, u64)> = bits(found(&all, None, &mut silent));
    let home = tempfile::tempdir().unwrap();
    let kept = Kept::open(&home.path().join("state"), &serde_json::json!({"command": "dynamic_quant"})).unwrap();
    let stopped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        found(&all, Some(&kept), &mut |event| {
            assert!(!matches!(event, Event::Step { done: 1, .. }), "stopped");
        })
    }));
    assert!(stopped.is_err());
    let mut steps = Vec::new();
    let again = found(&all, Some(&kept), &mut |event| {
        if let Event::Step { done, .. } = event {
            steps.push(done);
        }
    });
    assert_eq!((bits(again), steps), (whole, vec![1, 2]));
}

/// mlx-lm finds other groups of leaves and clips others, so that only what comes of it is compared.
#[test]
fn awq_is_nearer_than_rounding() {
    let (expected, teacher) = (expected("llama"), model("llama"));
    let (mut rounded, mut packed) = (model("llama"), model("llama"));
    let options = AwqOptions { scheme: affine(3), embed: affine(4), n_grid: 20 };
    awq(&mut *packed, &batches(&expected), &options, None, &mut silent).unwrap();
    let mut plan = plan::uniform(&*rounded, affine(3));
    for (path, scheme) in &mut plan {
        if path.contains("embed_tokens") || path.contains("lm_head") {
            *scheme = affine(4);
        }
    }
    plan::round(&mut *rounded, &plan).unwrap();
    let kl = |student: &dyn CausalLm| divergence(&expected, &*teacher, student);
    let (of_rounded, of_packed) = (kl(&*rounded), kl(&*packed));
    assert!(of_packed < of_rounded, "{of_packed}, rounded {of_rounded}");
}

/// The model that students are compared with.
const TEACHER: Targets<'static> = Targets::Model(&|| Ok(model("llama")));

/// The samples to train with, and the others.
fn dwq_batches(expected: &Expected) -> [Vec<Batch>; 2] {
    ["train", "valid"].map(|split| {
        let all = &expected.arrays[&format!("dwq:{split}")];
        let inputs = (0..all.dim(0)).map(|i| all.try_index(i).unwrap().contiguous().unwrap());
        let whole = |inputs: Array| Batch { mask: ops::ones::<f32>(inputs.shape()).unwrap(), inputs };
        inputs.map(whole).collect()
    })
}

#[test]
fn dwq_learns_the_scales_of_the_reference() {
    let expected = expected("llama");
    let mut student = model("llama");
    let plan = plan::uniform(&*student, affine(3));
    plan::round(&mut *student, &plan).unwrap();
    let options = DwqOptions { learning_rate: 1e-3, ..DwqOptions::default() };
    let [train, valid] = dwq_batches(&expected);
    let trained = dwq(&mut *student, &TEACHER, (&train, &valid), &options, &mut silent).unwrap();
    assert!(trained.after < trained.before, "{trained:?}");
    compare(&mut *student, &expected, "dwq", (5e-3, 0.0), &[]);
}

/// A learning rate in steps means the same for matrices of few and of many bits, as one model may have them: what is trained with
/// gets better.
#[test]
fn dwq_trains_in_steps_whatever_the_bits() {
    let [once, _] = dwq_batches(&expected("llama"));
    let train: Vec<Batch> = (0..8).flat_map(|_| once.iter().cloned()).collect();
    for bits in [3, 6] {
        let mut student = model("llama");
        let plan = plan::uniform(&*student, affine(bits));
        plan::round(&mut *student, &plan).unwrap();
        let options = DwqOptions { learning_rate: 0.01, unit: Unit::Step, falling: true, ..DwqOptions::default() };
        let trained = dwq(&mut *student, &TEACHER, (&train, &once), &options, &mut silent).unwrap();
        assert!(trained.after < 0.8 * trained.before, "{bits} bits: {trained:?}");
    }
}

#[test]
fn training_that_makes_a_model_worse_changes_nothing() {
    let expected = expected("llama");
    let [train, valid] = dwq_batches(&expected);
    let trained = |only_better: bool| {
        let mut student = model("llama");
        let plan = plan::uniform(&*student, affine(3));
        plan::round(&mut *student, &plan).unwrap();
        let before: BTreeMap<String, Array> = nn::parameters(&mut *student).into_iter().collect();
        let options = DwqOptions { learning_rate: 1.0, only_better, ..DwqOptions::default() };
        let trained = dwq(&mut *student, &TEACHER, (&train, &valid), &options, &mut silent).unwrap();
        let after = nn::parameters(&mut *student);
        let same = after.into_iter().all(|(path, now)| now.eq_values(&before[&path]).unwrap());
        (trained.after - trained.before, same)
    };
    let (worse, changed) = trained(false);
    assert!(worse > 0.0 && !changed);
    assert_eq!(trained(true), (0.0, true));
}
