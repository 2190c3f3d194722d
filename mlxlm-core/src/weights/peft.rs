//! Adapters in the layout of Hugging Face's PEFT, read and written: `adapter_config.json` with `peft_type`, and
//! `adapter_model.safetensors`.
//!
//! Source: `src/peft/tuners/lora/{config,layer,model}.py` and `utils/save_and_load.py` of PEFT 0.18. What differs from
//! mlx-lm's layout:
//! - Names begin with `base_model.model.`, and factors lie the other way: `lora_A` is `[r, in]`, `lora_B` `[out, r]`.
//! - The addition is scaled by `lora_alpha / r`, or `lora_alpha / sqrt(r)` with `use_rslora`.
//! - Rank and alpha may differ from leaf to leaf. Here they are one number each: smaller factors get zeros, and what
//!   the scale of a leaf has more goes into its second factor.

use std::collections::BTreeMap;
use std::path::Path;

use mlx_rs::{Array, ops};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::adapter::{Adapter, AdapterConfig, FineTuneType, LoraParameters};
use super::{SafetensorsFile, Tensors, WeightsError, save_safetensors};
use crate::{Result, io};

/// What stands before every name.
const PREFIX: &str = "base_model.model.";

/// The file of the tensors.
pub(super) const FILE: &str = "adapter_model.safetensors";

/// What is read of a PEFT `adapter_config.json`.
#[derive(Debug, Deserialize)]
struct Config {
    peft_type: String,
    r: i32,
    #[serde(default = "eight")]
    lora_alpha: f32,
    #[serde(default)]
    lora_dropout: f32,
    #[serde(default)]
    use_rslora: bool,
    #[serde(default)]
    use_dora: bool,
    #[serde(default)]
    lora_bias: bool,
    bias: Option<String>,
    #[serde(default)]
    alpha_pattern: Option<BTreeMap<String, f32>>,
    modules_to_save: Option<Vec<String>>,
    target_parameters: Option<Vec<String>>,
    trainable_token_indices: Option<Value>,
}

/// PEFT's own default of `lora_alpha`.
fn eight() -> f32 {
    8.0
}

impl Config {
    /// What cannot be represented here.
    fn unsupported(&self) -> Option<String> {
        let some = |list: &Option<Vec<String>>| list.as_ref().is_some_and(|list| !list.is_empty());
        if self.peft_type != "LORA" {
            return Some(format!("`peft_type` is `{}`, and only `LORA` is read", self.peft_type));
        }
        if self.bias.as_ref().is_some_and(|bias| bias != "none") || self.lora_bias {
            return Some("it trains biases, which are not read".into());
        }
        if some(&self.modules_to_save) {
            return Some("`modules_to_save` holds whole weights, which are not read".into());
        }
        if some(&self.target_parameters) {
            return Some("`target_parameters` adapts parameters outside of linear maps, which is not read".into());
        }
        if self.trainable_token_indices.as_ref().is_some_and(|indices| !indices.is_null()) {
            return Some("`trainable_token_indices` is not read".into());
        }
        if self.r < 1 || !self.lora_alpha.is_finite() || !(0.0..1.0).contains(&self.lora_dropout) {
            return Some("`r` must be at least 1, `lora_alpha` finite, and `lora_dropout` from 0 to below 1".into());
        }
        let special = |key: &&String| key.contains(['*', '+', '?', '[', '(', '|', '^', '$', '\\']);
        let key = self.alpha_pattern.iter().flat_map(BTreeMap::keys).find(special)?;
        Some(format!("`alpha_pattern` has the regular expression `{key}`, and only plain names are read"))
    }

    /// The factor of the addition to a leaf, whose factors have this rank.
    fn scale(&self, path: &str, rank: i32) -> f32 {
        let of_leaf = self.alpha_pattern.iter().flatten().find(|(key, _)| {
            path.strip_suffix(key.as_str()).is_some_and(|before| before.is_empty() || before.ends_with('.'))
        });
        let alpha = of_leaf.map_or(self.lora_alpha, |(_, &alpha)| alpha);
        let rank = rank as f32;
        alpha / if self.use_rslora { rank.sqrt() } else { rank }
    }
}

/// Whether this is the configuration of a PEFT adapter.
pub(super) fn is_peft(config: &Value) -> bool {
    config.get("peft_type").is_some()
}

/// The factors of one leaf, in our order: `[in, r]` and `[r, out]`.
#[derive(Default)]
struct Factors {
    a: Option<Array>,
    b: Option<Array>,
    m: Option<Array>,
}

/// Reads the folder of a PEFT adapter as one of ours.
pub(super) fn open(folder: &Path, config: Value) -> Result<Adapter> {
    let path = folder.join("adapter_config.json");
    let wrong = |why: String| WeightsError::Adapter { path: path.clone(), why };
    let config: Config =
        serde_json::from_value(config).map_err(|source| crate::Error::Json { path: path.clone(), source })?;
    if let Some(why) = config.unsupported() {
        return Err(wrong(why).into());
    }
    let file = folder.join(FILE);
    if !file.exists() {
        return Err(wrong(format!("it is one of PEFT, and `{FILE}` is missing beside it")).into());
    }
    let mut leaves: BTreeMap<String, Factors> = BTreeMap::new();
    for (name, array) in SafetensorsFile::open(&file)?.arrays()? {
        let unknown = || wrong(format!("`{name}` in `{FILE}` is no part of a LoRA adapter"));
        let (leaf, part) = split(&name).ok_or_else(unknown)?;
        let factors = leaves.entry(leaf.to_owned()).or_default();
        let is_matrix = array.ndim() == 2;
        match part {
            Part::A if is_matrix => factors.a = Some(array.t()),
            Part::B if is_matrix => factors.b = Some(array.t()),
            Part::Magnitude => factors.m = Some(array.reshape(&[-1])?),
            _ => return Err(wrong(format!("`{name}` is {:?}, expected a matrix", array.shape())).into()),
        }
    }
    let lone = leaves.iter().find(|(_, factors)| factors.a.is_none() || factors.b.is_none());
    if let Some((leaf, _)) = lone {
        return Err(wrong(format!("`{leaf}` has one of its two factors only")).into());
    }
    let rank = leaves.values().filter_map(|leaf| Some(leaf.a.as_ref()?.dim(1))).max().unwrap_or(config.r);
    let scale = config.scale("", config.r);
    let mut tensors = Tensors::new();
    for (path, Factors { a, b, m }) in leaves {
        let (Some(a), Some(b)) = (a, b) else { continue };
        let own = a.dim(1);
        if b.dim(0) != own {
            return Err(wrong(format!("the factors of `{path}` have the ranks {own} and {}", b.dim(0))).into());
        }
        let ratio = if scale == 0.0 { 0.0 } else { config.scale(&path, own) / scale };
        let b = if ratio == 1.0 { b } else { b.multiply(Array::from_f32(ratio).as_dtype(b.dtype())?)? };
        tensors.insert(format!("{path}.lora_a"), padded(&a, 1, rank)?);
        tensors.insert(format!("{path}.lora_b"), padded(&b, 0, rank)?);
        if let Some(m) = m {
            tensors.insert(format!("{path}.m"), m);
        }
    }
    let parameters = LoraParameters { rank, scale, dropout: config.lora_dropout, keys: None };
    let fine_tune_type = if config.use_dora { FineTuneType::Dora } else { FineTuneType::Lora };
    let config = AdapterConfig { fine_tune_type, num_layers: -1, lora_parameters: Some(parameters) };
    Ok(Adapter { config, tensors })
}

enum Part {
    A,
    B,
    Magnitude,
}

/// The leaf and the part of it that a tensor is.
fn split(name: &str) -> Option<(&str, Part)> {
    let name = name.strip_prefix(PREFIX).unwrap_or(name);
    let endings = [
        (".lora_A.weight", Part::A),
        (".lora_B.weight", Part::B),
        (".lora_embedding_A", Part::A),
        (".lora_embedding_B", Part::B),
        (".lora_magnitude_vector.weight", Part::Magnitude),
        (".lora_magnitude_vector", Part::Magnitude),
    ];
    endings.into_iter().find_map(|(ending, part)| Some((name.strip_suffix(ending)?, part)))
}

/// With zeros at the end of an axis up to a length.
fn padded(array: &Array, axis: i32, length: i32) -> Result<Array> {
    let mut shape = array.shape().to_vec();
    let missing = length - shape[axis as usize];
    if missing == 0 {
        return Ok(array.clone());
    }
    shape[axis as usize] = missing;
    let zeros = ops::zeros_dtype(&shape, array.dtype())?;
    Ok(ops::concatenate(&[array.clone(), zeros], axis)?)
}

/// Writes the adapter in the folder `from`, of either layout, as a PEFT adapter into the folder `to`. `base_model` is what
/// its configuration names as the model that it belongs to.
///
/// # Errors
/// [`WeightsError::Adapter`] for full fine-tunes and adapters of experts, which PEFT's layout does not have.
pub fn write_peft(from: impl AsRef<Path>, to: impl AsRef<Path>, base_model: Option<&str>) -> Result<()> {
    let (from, to) = (from.as_ref(), to.as_ref());
    let Adapter { config, tensors } = Adapter::open(from)?;
    let wrong = |why: String| WeightsError::Adapter { path: from.join("adapter_config.json"), why };
    let Some(parameters) = config.lora_parameters else {
        return Err(wrong("a full fine-tune is no adapter in PEFT".into()).into());
    };
    let (mut renamed, mut targets) = (Vec::new(), Vec::new());
    for (name, array) in &tensors {
        let (leaf, part) = name.rsplit_once('.').unwrap_or((name, ""));
        let is_embedding = leaf.rsplit('.').next().is_some_and(|last| ["embed_tokens", "wte"].contains(&last));
        let ending = match (part, is_embedding) {
            ("lora_a", false) => "lora_A.weight",
            ("lora_b", false) => "lora_B.weight",
            ("lora_a", true) => "lora_embedding_A",
            ("lora_b", true) => "lora_embedding_B",
            ("m", _) => "lora_magnitude_vector.weight",
            _ => return Err(wrong(format!("`{name}` has no place in a PEFT adapter")).into()),
        };
        let array = match array.ndim() {
            2 => array.t(),
            1 if part == "m" => array.clone(),
            _ => return Err(wrong(format!("`{name}` adapts experts, which PEFT's LoRA does not do")).into()),
        };
        renamed.push((format!("{PREFIX}{leaf}.{ending}"), array));
        targets.push(leaf.rsplit('.').next().unwrap_or(leaf).to_owned());
    }
    targets.sort();
    targets.dedup();
    let mut entries = Map::new();
    let known = json!({
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "inference_mode": true, "bias": "none", "fan_in_fan_out": false,
        "r": parameters.rank, "lora_alpha": f64::from(parameters.scale) * f64::from(parameters.rank),
        "lora_dropout": parameters.dropout, "use_rslora": false,
        "use_dora": config.fine_tune_type == FineTuneType::Dora, "target_modules": targets,
        "base_model_name_or_path": base_model, "revision": null, "modules_to_save": null, "init_lora_weights": true,
        "layers_to_transform": null, "layers_pattern": null, "rank_pattern": {}, "alpha_pattern": {},
    });
    entries.extend(known.as_object().cloned().unwrap_or_default());
    entries.sort_keys();
    io::create_dir_all(to)?;
    save_safetensors(to.join(FILE), &renamed, &BTreeMap::from([("format".to_owned(), "pt".to_owned())]))?;
    io::write_json(to.join("adapter_config.json"), &Value::Object(entries))
}

/// Writes the adapter in the folder `from`, of either layout, as one of mlx-lm into the folder `to`.
///
/// # Errors
/// [`WeightsError::Adapter`] for what has no place in that layout.
pub fn write_adapter(from: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<()> {
    let to = to.as_ref();
    let Adapter { config, tensors } = Adapter::open(from.as_ref())?;
    let tensors: Vec<_> = tensors.into_iter().collect();
    let path = to.join("adapter_config.json");
    let config = serde_json::to_value(config).map_err(|source| crate::Error::Json { path: path.clone(), source })?;
    io::create_dir_all(to)?;
    save_safetensors(to.join("adapters.safetensors"), &tensors, &BTreeMap::new())?;
    io::write_json(path, &config)
}
