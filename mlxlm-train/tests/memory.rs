//! What a step of training takes in memory: alone in its process, since MLX counts for all threads together.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

use std::time::Instant;

use mlxlm_core::weights::{FineTuneType, LoraParameters};
use mlxlm_core::{Array, device, memory, transforms};
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

fn batch() -> Batch {
    let row = |i: usize| Example { tokens: (0..257).map(|t| ((t * 7 + i * 13) % 100) as u32).collect(), start: 0 };
    let rows: Vec<Example> = (0..4).map(row).collect();
    Batch::of_examples(&rows.iter().collect::<Vec<_>>(), 257)
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
    let before = memory::active_memory().unwrap();
    device::reset_peak_memory().unwrap();
    let begin = Instant::now();
    let (values, gradients) = trainable.value_and_grad_of(model, blocks, |model| Ok(vec![loss(model)?])).unwrap();
    transforms::eval(values.iter().chain(&gradients)).unwrap();
    ((device::peak_memory_bytes().unwrap() - before) as f64, begin.elapsed().as_secs_f64())
}

#[test]
fn forgetting_saves_memory() {
    let batch = batch();
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
