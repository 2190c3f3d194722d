//! Texts that are packed into one row are learned as if each had a row of its own, by every architecture; those that cannot keep them
//! apart say so.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use mlxlm_core::weights::{FineTuneType, LoraParameters, Recipe};
use mlxlm_core::{Array, io, transforms};
use mlxlm_models::{CausalLm, ModelConfig, build, build_random};
use mlxlm_train::data::{Batch, Example, Packed, Row, Rows, Splits, once, pack_examples};
use mlxlm_train::lora::{self, Lora};
use mlxlm_train::optim::{Adam, Rule};
use mlxlm_train::{Error, FineTune, Trainable, Trainer, TrainerOptions, loss};
use serde_json::json;

/// The folders of architectures as such: drawn weights, in no special form.
fn cases() -> Vec<PathBuf> {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../mlxlm-models/tests/golden");
    let is_base = |folder: &PathBuf| {
        folder.join("weights.json").is_file() && ModelConfig::read(folder).unwrap().get("quantization_config").is_none()
    };
    io::read_dir(golden).unwrap().into_iter().filter(is_base).collect()
}

/// Texts of these lengths, the prompts of some of which are not learned.
fn texts(lens: &[usize]) -> Vec<Example> {
    let text = |(i, &len): (usize, &usize)| Example {
        tokens: (0..len).map(|t| ((3 + t * 7 + i * 5) % 12) as u32).collect(),
        start: if i % 2 == 0 { 0 } else { len / 2 },
    };
    lens.iter().enumerate().map(text).collect()
}

/// The sum of the losses of a batch and the gradients of all that is trained.
fn sums(
    model: &(dyn CausalLm + 'static),
    trainable: &Trainable,
    blocks: bool,
    batch: &Batch,
) -> Result<(f32, Vec<Vec<f32>>), Error> {
    let loss = |model: &(dyn CausalLm + 'static)| Ok(vec![loss::sums(model, batch)?.sum(None)?]);
    let (values, gradients) = trainable.value_and_grad_of(model, blocks, loss)?;
    transforms::eval(values.iter().chain(&gradients))?;
    let floats = gradients.iter().map(|gradient| gradient.to_vec_cast::<f32>().unwrap()).collect();
    Ok((values[0].try_item_exact::<f32>().unwrap(), floats))
}

fn close(got: &[f32], want: &[f32], tolerance: f32) -> bool {
    let largest = want.iter().fold(0_f32, |most, value| most.max(value.abs()));
    got.iter().zip(want).all(|(a, b)| (a - b).abs() <= tolerance * largest.max(1e-3))
}

/// Compares packed rows with texts alone; the error says what differs, or that the architecture refuses.
fn compare(model: &mut (dyn CausalLm + 'static), tolerance: f32) -> Result<(), String> {
    let parameters = LoraParameters { rank: 2, scale: 10.0, dropout: 0.0, keys: None };
    Lora { num_layers: -1, parameters, dora: false, seed: 1 }.adapt(model).unwrap();
    let chosen = lora::trained(model, FineTuneType::Lora, -1).unwrap();
    let mut trainable = Trainable::collect(model, chosen);
    // Second factors begin at zero, behind which the first would have no gradient.
    let moved = trainable.arrays().iter().map(|array| array.add(Array::from_f32(0.02)).unwrap()).collect();
    trainable.replace(model, moved).unwrap();
    let texts = texts(&[5, 3, 7, 2, 6, 4]);
    let rows = pack_examples(&texts, 14, 5);
    assert!(rows.len() >= 2 && rows.iter().any(|row| row.starts.len() > 2), "{rows:?}");
    let batch = <Packed as Row>::batch(&rows.iter().collect::<Vec<_>>(), 14);
    let (loss, gradients) = sums(model, &trainable, false, &batch).map_err(|error| error.to_string())?;
    let (mut loss_alone, mut alone): (f32, Vec<Vec<f32>>) = (0.0, Vec::new());
    for text in &texts {
        let (loss, gradients) =
            sums(model, &trainable, false, &Batch::of_examples(&[text], text.tokens.len())).unwrap();
        loss_alone += loss;
        alone = match alone.is_empty() {
            true => gradients,
            false => alone.iter().zip(&gradients).map(|(a, b)| a.iter().zip(b).map(|(a, b)| a + b).collect()).collect(),
        };
    }
    if (loss / loss_alone - 1.0).abs() > tolerance {
        return Err(format!("DIFFERS: the loss is {loss}, and {loss_alone} alone"));
    }
    for ((name, got), want) in trainable.names().iter().zip(&gradients).zip(&alone) {
        if !close(got, want, 30.0 * tolerance) {
            return Err(format!("DIFFERS: the gradient of `{name}`"));
        }
    }
    let (again, forgetful) = sums(model, &trainable, true, &batch).unwrap();
    let same = forgetful.iter().zip(&gradients).all(|(got, want)| close(got, want, tolerance));
    if (again / loss - 1.0).abs() > tolerance || !same {
        return Err("DIFFERS: where blocks are computed again".into());
    }
    Ok(())
}

fn tiny(model_type: &str) -> Box<dyn CausalLm> {
    let config = json!({
        "model_type": model_type, "vocab_size": 12, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-5, "tie_word_embeddings": true,
    });
    build_random(&ModelConfig::new(config).unwrap(), 3).unwrap().model
}

#[test]
fn texts_in_one_row_are_learned_as_if_alone() {
    assert_eq!(compare(&mut *tiny("llama"), 1e-5), Ok(()));
}

#[test]
fn every_architecture_keeps_texts_apart_or_refuses() {
    let (mut same, mut refused, mut broken) = (0, Vec::new(), Vec::new());
    for case in cases() {
        let name = case.file_name().unwrap().to_string_lossy().into_owned();
        let config = ModelConfig::read(&case).unwrap();
        let tensors = Recipe::read(case.join("weights.json")).unwrap().tensors();
        let mut model = build(&config, tensors, None).unwrap().model;
        let carries = model.cache_kinds().iter().any(|kind| !kind.keeps_only_kv());
        let model_type = model.info().model_type.clone();
        match compare(&mut *model, 1e-4) {
            Ok(()) if !carries => same += 1,
            Ok(()) => broken.push(format!("{name}: carries a state, and is packed")),
            Err(why) if why.contains("cannot be read by") && why.contains(&format!("`{model_type}`")) => {
                refused.push(format!("{name}: {why}"));
            }
            Err(why) => broken.push(format!("{name}: {why}")),
        }
    }
    println!("{same} architectures pack; these refuse:\n{}", refused.join("\n"));
    assert!(broken.is_empty(), "{} are wrong:\n{}", broken.len(), broken.join("\n"));
    assert!(same >= 70, "only {same} architectures pack");
    assert!(refused.iter().any(|why| why.contains("carry a state from token to token")));
}

fn run(model: &mut (dyn CausalLm + 'static), packing: bool) -> Result<Vec<f32>, Error> {
    let parameters = LoraParameters { rank: 2, scale: 10.0, dropout: 0.0, keys: None };
    let tune = FineTune { fine_tune_type: FineTuneType::Lora, num_layers: -1, parameters, seed: 0 };
    let trainable = tune.begin(model)?;
    let options = TrainerOptions { iters: 4, batch_size: 1, max_seq_length: 30, packing, ..TrainerOptions::default() };
    let mut trainer = Trainer::new(model, trainable, Rule::Adam(Adam::default()), options, None)?;
    let rows = Rows::Examples(texts(&[5, 9, 3, 7, 2, 6, 4, 8]));
    let splits = Splits { train: rows.clone(), valid: rows, ..Splits::default() };
    let mut seen = Vec::new();
    trainer.run(&splits, &mut |event| {
        if let mlxlm_train::trainer::Event::Validation { loss, .. } = event {
            seen.push(*loss);
        }
        ControlFlow::Continue(())
    })?;
    Ok(seen)
}

#[test]
fn a_run_packs_where_it_is_asked_to() {
    let rows = texts(&[5, 9, 3, 7, 2, 6, 4, 8]);
    assert_eq!(pack_examples(&rows, 30, 0).len(), 2, "the rows of the run");
    assert_eq!(once(&rows, 1, 30).count(), 8);
    let (alone, packed) = (run(&mut *tiny("llama"), false).unwrap(), run(&mut *tiny("llama"), true).unwrap());
    // The first validation is of the model as it was: a mean over all targets, however they are put into rows.
    assert!((alone[0] / packed[0] - 1.0).abs() < 1e-5, "{alone:?} and {packed:?}");
    assert!(packed.last().unwrap() < &packed[0], "{packed:?}");
}

#[test]
fn a_run_refuses_to_pack_for_a_model_with_a_state_before_its_first_step() {
    let config = json!({
        "model_type": "mamba", "vocab_size": 12, "hidden_size": 16, "intermediate_size": 32, "state_size": 4,
        "num_hidden_layers": 2, "conv_kernel": 4, "use_bias": false, "use_conv_bias": true, "time_step_rank": 2,
    });
    let mut model = build_random(&ModelConfig::new(config).unwrap(), 3).unwrap().model;
    let error = run(&mut *model, true).unwrap_err();
    let said = error.to_string();
    assert_eq!(
        said,
        "rows of several documents cannot be read by `mamba`: its blocks carry a state from token to token"
    );
    assert!(mlxlm_core::Hint::hint(&error).is_some_and(|hint| hint.contains("without packing")));
    assert!(run(&mut *model, false).is_ok(), "without packing it is trained");
}
