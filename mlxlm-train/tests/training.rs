//! Ten steps of training against Python mlx-lm: every optimizer, LoRA, DoRA and full, schedules, gathered and clipped gradients, DPO and
//! ORPO. `tests/training/record_training.py` says what was recorded.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use mlxlm_core::weights::{FineTuneType, LoraParameters, Recipe, SafetensorsFile};
use mlxlm_core::{Array, io};
use mlxlm_models::{CausalLm, ModelConfig, build};
use mlxlm_train::data::{Example, Preference, Rows, Splits};
use mlxlm_train::optim::Rule;
use mlxlm_train::trainer::{Checkpoints, Event};
use mlxlm_train::{FineTune, Objective, Schedule, Trainer, TrainerOptions};
use serde_json::{Map, Value};

const RELATIVE: f32 = 1e-4;
/// What a few roundings of a weight near one come to.
const ROUNDINGS: f32 = 5e-7;

fn tests(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(name)
}

fn model() -> Box<dyn CausalLm> {
    let folder = tests("golden/models/llama");
    let tensors = Recipe::read(folder.join("weights.json")).unwrap().tensors();
    build(&ModelConfig::read(&folder).unwrap(), tensors, None).unwrap().model
}

fn example(row: &Value) -> Example {
    let tokens = row[0].as_array().unwrap().iter().map(|token| token.as_u64().unwrap() as u32).collect();
    Example { tokens, start: row[1].as_u64().unwrap() as usize }
}

fn schedule(rate: &Value) -> Schedule {
    let Some(rate) = rate.as_object() else { return Schedule::Constant(rate.as_f64().unwrap()) };
    let arguments: Vec<f64> = rate["arguments"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect();
    let schedule = Schedule::from_name(rate["name"].as_str().unwrap(), &arguments).unwrap();
    schedule.with_warmup(rate["warmup_init"].as_f64().unwrap(), rate["warmup"].as_f64().unwrap())
}

/// The adapters or weights after each step, by name.
type Trained = BTreeMap<String, Array>;

/// Trains as a case says, and returns the losses and what was saved after each step.
fn train(all: &Value, case: &Value, folder: &Path, grad_checkpoint: bool) -> (Vec<f32>, Trained, Vec<Trained>) {
    let kind = case["kind"].as_str().unwrap();
    let fine_tune_type: FineTuneType = serde_json::from_value(case["kind"].clone()).unwrap();
    let parameters: LoraParameters = serde_json::from_value(all["lora"].clone()).unwrap();
    let num_layers = all["layers"].as_i64().unwrap() as i32;
    let fine_tune = FineTune { fine_tune_type, num_layers, parameters, seed: 0 };
    let mut model = model();
    let trainable = fine_tune.begin(&mut *model).unwrap();
    let more = &case["more"];
    let beta = more["beta"].as_f64().unwrap_or_default() as f32;
    let (objective, train) = match more["objective"].as_str() {
        None => (Objective::Sft, Rows::Examples(all["rows"].as_array().unwrap().iter().map(example).collect())),
        Some(name) => {
            let pair = |pair: &Value| Preference { chosen: example(&pair[0]), rejected: example(&pair[1]) };
            let rows = Rows::Preferences(all["pairs"].as_array().unwrap().iter().map(pair).collect());
            (if name == "dpo" { Objective::Dpo { beta } } else { Objective::Orpo { beta } }, rows)
        }
    };
    let options = TrainerOptions {
        objective,
        iters: 10,
        batch_size: train.len(),
        schedule: schedule(&case["rate"]),
        grad_accumulation_steps: more["accumulate"].as_u64().unwrap_or(1),
        max_grad_norm: more["clip"].as_f64().map(|norm| norm as f32),
        save_every: 1,
        grad_checkpoint,
        ..TrainerOptions::default()
    };
    let settings: Map<String, Value> = case["settings"].as_object().unwrap().clone();
    let rule = Rule::from_name(case["optimizer"].as_str().unwrap(), &settings).unwrap();
    let checkpoints = Checkpoints { folder: folder.to_owned(), config: fine_tune.config(), arguments: Map::default() };
    let mut trainer = Trainer::new(&mut *model, trainable, rule, options, Some(checkpoints)).unwrap();
    if kind != "full" {
        assert_eq!(trainer.load_adapters(tests(&format!("training/start_{kind}.safetensors"))).unwrap(), 0);
    }
    let before = trainer.trainable().named().into_iter().collect();
    let (mut losses, mut saved) = (Vec::new(), Vec::new());
    let splits = Splits { train, ..Splits::default() };
    let mut listener = |event: &Event| {
        match event {
            Event::Iteration { loss, .. } => losses.push(*loss),
            Event::Saved { path, .. } => saved.push(SafetensorsFile::open(path).unwrap().arrays().unwrap()),
            _ => {}
        }
        ControlFlow::Continue(())
    };
    trainer.run(&splits, &mut listener).unwrap();
    (losses, before, saved)
}

/// Some elements, as the recorder takes them.
fn seen(array: &Array) -> Vec<f32> {
    let values = array.try_as_slice::<f32>().unwrap();
    values.iter().copied().step_by((values.len() / 16).max(1)).take(16).collect()
}

fn largest<'a>(values: impl IntoIterator<Item = &'a f32>) -> f32 {
    values.into_iter().fold(0.0, |most, value| most.max(value.abs()))
}

fn check(name: &str, grad_checkpoint: bool) {
    let all: Value = io::read_json(tests("training/cases.json")).unwrap();
    let expected = SafetensorsFile::open(tests("training/expected.safetensors")).unwrap();
    let of_case = |key: &str| {
        let array = expected.array(&format!("{name}/{key}")).unwrap();
        array.try_as_slice::<f32>().unwrap().to_vec()
    };
    let folder = tempfile::tempdir().unwrap();
    let (losses, before, saved) = train(&all, &all["cases"][name], folder.path(), grad_checkpoint);
    assert_eq!((losses.len(), saved.len()), (10, 10));
    for (step, (got, expected)) in losses.iter().zip(of_case("losses")).enumerate() {
        assert!((got - expected).abs() <= RELATIVE * expected, "{name}, step {step}: {got}, expected {expected}");
    }
    for (parameter, before) in &before {
        let (expected, start) = (of_case(&format!("moved.{parameter}")), seen(before));
        let width = start.len();
        for (step, now) in saved.iter().enumerate() {
            let expected = &expected[step * width..][..width];
            let allowed = RELATIVE * largest(expected) + ROUNDINGS * largest(&start).max(1e-2);
            for ((now, start), expected) in seen(&now[parameter]).iter().zip(&start).zip(expected) {
                let off = (now - start - expected).abs();
                assert!(off <= allowed, "{name}, `{parameter}`, step {step}: off by {off}, allowed are {allowed}");
            }
        }
    }
}

#[test]
fn every_optimizer_steps_as_in_python() {
    for name in ["lora_adam", "lora_adamw", "lora_sgd", "lora_muon", "lora_adafactor"] {
        check(name, false);
    }
}

#[test]
fn dora_and_full_fine_tunes_step_as_in_python() {
    for name in ["dora_adam", "full_adam", "full_muon", "full_adafactor", "full_adafactor_rate"] {
        check(name, false);
    }
}

#[test]
fn blocks_that_are_computed_again_step_as_in_python() {
    for name in ["lora_adam", "dora_adam", "full_adam", "lora_dpo"] {
        check(name, true);
    }
}

#[test]
fn schedules_gathered_and_clipped_gradients_are_those_of_python() {
    for name in ["lora_schedule", "lora_clipped"] {
        check(name, false);
    }
}

#[test]
fn preferences_are_learned_as_their_formulas_say() {
    for name in ["lora_dpo", "full_orpo"] {
        check(name, false);
    }
}
