//! The folder of a fine-tune: `adapter_config.json` beside `adapters.safetensors`, as mlx-lm's trainer writes it, or a PEFT
//! adapter.

use std::path::Path;

use mlx_rs::ops;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::peft;
use super::{SafetensorsFile, Tensors, WeightsError};
use crate::{Result, io};

/// What was trained.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FineTuneType {
    /// Low-rank additions (arXiv:2106.09685).
    #[default]
    Lora,
    /// Low-rank additions with a trained magnitude for each row (arXiv:2402.09353).
    Dora,
    /// The weights themselves.
    Full,
}

/// The numbers of a low-rank fine-tune.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LoraParameters {
    /// Rank of the addition.
    pub rank: i32,
    /// Factor of the addition, taken as it is: not divided by the rank.
    pub scale: f32,
    /// Share of the inputs that training drops.
    #[serde(default)]
    pub dropout: f32,
    /// Paths inside a block, or in the whole model, that are adapted; all that can be if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<Vec<String>>,
}

/// What is read of `adapter_config.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AdapterConfig {
    /// What was trained.
    #[serde(default)]
    pub fine_tune_type: FineTuneType,
    /// How many of the last blocks were.
    #[serde(default)]
    pub num_layers: i32,
    /// The numbers, unless the fine-tune is a full one.
    #[serde(default)]
    pub lora_parameters: Option<LoraParameters>,
}

/// A fine-tune, ready to be laid over a model.
#[derive(Debug)]
pub(super) struct Adapter {
    pub(super) config: AdapterConfig,
    pub(super) tensors: Tensors,
}

impl Adapter {
    pub(super) fn open(folder: &Path) -> Result<Self> {
        let adapter = Self::read(folder)?;
        let is_full = adapter.config.fine_tune_type == FineTuneType::Full;
        for (name, array) in adapter.tensors.iter().filter(|_| !is_full) {
            if array.dtype().is_float() && !ops::all(&array.is_finite()?, None)?.try_item_exact::<bool>()? {
                let why = format!("`{name}` has values that are no finite numbers: the training failed");
                return Err(WeightsError::Adapter { path: folder.to_owned(), why }.into());
            }
        }
        Ok(adapter)
    }

    fn read(folder: &Path) -> Result<Self> {
        let path = folder.join("adapter_config.json");
        let config: Value = io::read_json(&path)?;
        if peft::is_peft(&config) {
            return peft::open(folder, config);
        }
        let config: AdapterConfig =
            serde_json::from_value(config).map_err(|source| crate::Error::Json { path: path.clone(), source })?;
        let wrong = |why: &str| WeightsError::Adapter { path: path.clone(), why: why.to_owned() };
        match &config.lora_parameters {
            Some(p) if config.fine_tune_type != FineTuneType::Full => {
                if p.rank < 1 {
                    return Err(wrong("`rank` must be at least 1").into());
                }
                if !p.scale.is_finite() || !(0.0..1.0).contains(&p.dropout) {
                    return Err(wrong("`scale` must be finite and `dropout` from 0 to below 1").into());
                }
            }
            None if config.fine_tune_type != FineTuneType::Full => {
                return Err(wrong("`lora_parameters` is missing").into());
            }
            _ => {}
        }
        let tensors = SafetensorsFile::open(folder.join("adapters.safetensors"))?.arrays()?;
        Ok(Self { config, tensors })
    }
}
