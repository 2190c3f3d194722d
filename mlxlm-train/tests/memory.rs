//! What a step of training takes in memory: alone in its process, since MLX counts for all threads together.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use mlxlm_core::weights::{FineTuneType, LoraParameters};
use mlxlm_core::{Array, device, transforms};
use mlxlm_models::{CausalLm, ModelConfig, build_random};
use mlxlm_train::data::{Batch, Example};
use mlxlm_train::{Error, FineTune, Trainable, loss};
use serde_json::json;

fn model(layers: usize) -> Box<dyn CausalLm> {
    let config = json!({
        "model_type": "llama", "vocab_size": 100, "hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": layers,
        "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-5, "tie_word_embeddings": true,
    });
    build_random(&ModelConfig::new(config).unwrap(), 1).unwrap().model
}

/// Four rows of so many targets.
fn batch(len: usize) -> Batch {
    let row = |i: usize| Example { tokens: (0..=len).map(|t| ((t * 7 + i * 13) % 100) as u32).collect(), start: 0 };
    let rows: Vec<Example> = (0..4).map(row).collect();
    Batch::of_examples(&rows.iter().collect::<Vec<_>>(), len + 1)
}

/// The bytes that a gradient takes at most beyond what was there before, and the seconds.
fn step(
    model: &(dyn CausalLm + 'static),
    trainable: &Trainable,
    blocks: bool,
    loss: impl Fn(&(dyn CausalLm + 'static)) -> Result<Array, Error>,
) -> (f64, f64) {
    device::clear_cache().unwrap();
    device::synchronize().unwrap();
    let before = device::active_memory_bytes().unwrap();
    device::reset_peak_memory().unwrap();
    let begin = Instant::now();
    let (values, gradients) = trainable.value_and_grad_of(model, blocks, |model| Ok(vec![loss(model)?])).unwrap();
    transforms::eval(values.iter().chain(&gradients)).unwrap();
    ((device::peak_memory_bytes().unwrap() - before) as f64, begin.elapsed().as_secs_f64())
}

/// MLX counts for all threads together: one test at a time.
static ALONE: Mutex<()> = Mutex::new(());

#[test]
fn forgetting_saves_memory() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let batch = batch(256);
    let parameters = LoraParameters { rank: 4, scale: 1.0, dropout: 0.0, keys: None };
    let tune = FineTune { fine_tune_type: FineTuneType::Lora, num_layers: -1, parameters, seed: 0 };

    let mut deep = model(12);
    let trainable = tune.begin(&mut *deep).unwrap();
    let mean = |model: &(dyn CausalLm + 'static)| loss::mean(model, &batch);
    let (plain, plain_s) = step(&*deep, &trainable, false, mean);
    let (forgetful, forgetful_s) = step(&*deep, &trainable, true, mean);
    println!("blocks: {plain} bytes in {plain_s:.3} s, forgotten {forgetful} in {forgetful_s:.3} s");
    assert!(forgetful < 0.6 * plain, "{forgetful} bytes with blocks forgotten, {plain} without");
}

/// The plain loss, of logits that exist all at once.
fn at_once(model: &(dyn CausalLm + 'static), batch: &Batch) -> Result<Array, Error> {
    let (sum, count) = loss::cross_entropy(&model.forward(&batch.inputs, None)?, &batch.targets, &batch.mask)?;
    Ok(sum.divide(count)?)
}

#[test]
fn logits_never_exist_all_at_once() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let (short, long, vocab) = (batch(96), batch(1024), 40_000);
    let logits = f64::from(4 * long.inputs.size() as i32) * f64::from(vocab);
    for fine_tune_type in [FineTuneType::Lora, FineTuneType::Full] {
        let config = json!({
            "model_type": "llama", "vocab_size": vocab, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-5, "tie_word_embeddings": true,
        });
        let mut model = build_random(&ModelConfig::new(config).unwrap(), 1).unwrap().model;
        let parameters = LoraParameters { rank: 4, scale: 1.0, dropout: 0.0, keys: None };
        let trainable = FineTune { fine_tune_type, num_layers: -1, parameters, seed: 0 }.begin(&mut *model).unwrap();
        let gradients = |loss: &dyn Fn(&(dyn CausalLm + 'static)) -> Result<Array, Error>| {
            let (values, gradients) =
                trainable.value_and_grad_of(&*model, false, |model| Ok(vec![loss(model)?])).unwrap();
            transforms::eval(values.iter().chain(&gradients)).unwrap();
            let floats = |array: &Array| array.reshape(&[-1]).unwrap().to_vec_cast::<f32>().unwrap();
            values.iter().chain(&gradients).map(floats).collect::<Vec<_>>()
        };
        for (got, want) in gradients(&|m| loss::mean(m, &short)).iter().zip(gradients(&|m| at_once(m, &short))) {
            let largest = want.iter().fold(1e-6_f32, |most, value| most.max(value.abs()));
            assert!(got.iter().zip(&want).all(|(a, b)| (a - b).abs() <= 1e-4 * largest), "{fine_tune_type:?}");
        }
        let (plain, _) = step(&*model, &trainable, false, |model| at_once(model, &long));
        let (chunked, _) = step(&*model, &trainable, false, |model| loss::mean(model, &long));
        println!("{fine_tune_type:?}: {plain} bytes with all logits, {chunked} in chunks, of which {logits} in f32");
        assert!(plain > logits, "{plain} bytes with all logits");
        assert!(chunked < 0.5 * logits && chunked < 0.25 * plain, "{chunked} bytes in chunks, {plain} with all logits");
    }
}
