//! Every architecture can be fine-tuned: adapters on all leaves of its blocks have gradients and learn a line by heart, over all base cases of
//! `mlxlm-models/tests/golden`.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::{Path, PathBuf};

use mlxlm_core::weights::{FineTuneType, LoraParameters, Recipe};
use mlxlm_core::{Array, io, transforms};
use mlxlm_models::{CausalLm, ModelConfig, build};
use mlxlm_train::lora::{self, Lora};
use mlxlm_train::optim::{Adam, Optimizer, Rule};
use mlxlm_train::{Error, Trainable, loss};

const STEPS: usize = 4;

/// The folders of architectures as such: drawn weights, in no special form.
fn cases() -> Vec<PathBuf> {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../mlxlm-models/tests/golden");
    let is_base = |folder: &PathBuf| {
        folder.join("weights.json").is_file() && ModelConfig::read(folder).unwrap().get("quantization_config").is_none()
    };
    io::read_dir(golden).unwrap().into_iter().filter(is_base).collect()
}

fn loss_of(model: &dyn CausalLm) -> Result<Array, Error> {
    let logits = model.forward(&Array::from_slice(&[3, 1, 4, 1, 5, 9, 2, 6], &[1, 8]), None)?;
    let targets = Array::from_slice(&[1, 4, 1, 5, 9, 2, 6, 5], &[1, 8]);
    let (sum, count) = loss::cross_entropy(&logits, &targets, &Array::from_slice(&[1_f32; 8], &[1, 8]))?;
    Ok(sum.divide(count)?)
}

fn number(array: &Array) -> f32 {
    array.try_item_exact::<f32>().unwrap()
}

fn largest(array: &Array) -> Result<f32, mlxlm_core::Exception> {
    Ok(number(&array.abs()?.max(None)?))
}

/// Leaves whose values only choose: which tokens are attended to, or the one expert, whose share is one whatever it is. Nor have those of
/// Gemma 3n's layers a gradient that attend to the keys of an earlier layer. So it is in mlx-lm.
fn only_chooses(case: &str, name: &str) -> bool {
    name.contains(".indexer.")
        || name.contains(".index_")
        || case.starts_with("phimoe") && name.ends_with(".gate.lora_b")
        || case.starts_with("gemma3n") && (name.contains(".k_proj.") || name.contains(".v_proj."))
}

fn learns(folder: &Path) -> Result<(), String> {
    let config = ModelConfig::read(folder).unwrap();
    let tensors = Recipe::read(folder.join("weights.json")).unwrap().tensors();
    let mut model = build(&config, tensors, None).unwrap().model;
    let parameters = LoraParameters { rank: 2, scale: 10.0, dropout: 0.0, keys: None };
    let paths = Lora { num_layers: -1, parameters, dora: false, seed: 1 }.adapt(&mut *model);
    let paths = paths.map_err(|e| e.to_string())?;
    let chosen = lora::trained(&mut *model, FineTuneType::Lora, -1).map_err(|e| e.to_string())?;
    let mut trainable = Trainable::collect(&mut *model, chosen);
    if paths.is_empty() || trainable.names().len() != 2 * paths.len() {
        return Err(format!("{} leaves are adapted, {} arrays are trained", paths.len(), trainable.names().len()));
    }
    let first = number(&loss_of(&*model).unwrap());
    let mut optimizer = Optimizer::new(Rule::Adam(Adam::default()));
    for step in 0..STEPS {
        // Blocks are computed again for their gradients in every other step, which must make no difference.
        let (_, gradients) = trainable
            .value_and_grad_of(&*model, step % 2 == 0, |model| Ok(vec![loss_of(model)?]))
            .map_err(|e| e.to_string())?;
        // The first factors have no gradient before the second ones, which begin at zero, have moved.
        for (name, gradient) in trainable.names().iter().zip(&gradients).filter(|(name, _)| name.ends_with("lora_b")) {
            let case = folder.file_name().unwrap_or_default().to_string_lossy();
            if !only_chooses(&case, name) && largest(gradient).map_err(|e| e.to_string())? == 0.0 {
                return Err(format!("`{name}` has no gradient"));
            }
        }
        let updated = optimizer.update(trainable.arrays(), &gradients, 3e-3).unwrap();
        transforms::eval(updated.iter().chain(optimizer.moments().iter().flatten())).map_err(|e| e.to_string())?;
        trainable.replace(&mut *model, updated).unwrap();
    }
    let last = number(&loss_of(&*model).unwrap());
    if last < first { Ok(()) } else { Err(format!("the loss is {last}, and was {first}")) }
}

#[test]
fn every_architecture_learns() {
    let cases = cases();
    assert!(cases.len() >= 127, "only {} cases were found", cases.len());
    let name = |folder: &Path| folder.file_name().unwrap().to_string_lossy().into_owned();
    let broken: Vec<String> =
        cases.iter().filter_map(|case| Some(format!("{}: {}", name(case), learns(case).err()?))).collect();
    assert!(broken.is_empty(), "{} do not learn:\n{}", broken.len(), broken.join("\n"));
}
