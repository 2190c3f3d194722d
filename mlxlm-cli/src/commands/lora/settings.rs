//! The settings of a training: options over a YAML file over defaults, under the names that Python mlx-lm has.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use mlxlm_core::io;
use mlxlm_core::weights::{FineTuneType, LoraParameters};
use mlxlm_train::optim::Rule;
use mlxlm_train::{FineTune, Objective, Schedule, TrainerOptions, rank_stabilized};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::args::LoraArgs;
use crate::failure::{Failure, Result};

/// No configuration file is larger.
const MOST_BYTES: u64 = 1 << 20;

/// Older names of keys, and what they are called now.
const OLDER: [(&str, &str); 3] = [("lora_layers", "num_layers"), ("steps", "iters"), ("use_rslora", "rslora")];

/// All settings.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "flags of a configuration are what they are")]
pub(super) struct Settings {
    pub(super) model: String,
    pub(super) revision: Option<String>,
    pub(super) train: bool,
    pub(super) data: String,
    fine_tune_type: FineTuneType,
    optimizer: String,
    optimizer_config: BTreeMap<String, Map<String, Value>>,
    objective: String,
    beta: f32,
    pub(super) mask_prompt: bool,
    num_layers: i32,
    batch_size: usize,
    pub(super) iters: u64,
    val_batches: i64,
    learning_rate: f64,
    lr_schedule: Option<LrSchedule>,
    max_grad_norm: Option<f32>,
    steps_per_report: u64,
    steps_per_eval: u64,
    grad_accumulation_steps: u64,
    pub(super) resume_adapter_file: Option<PathBuf>,
    pub(super) resume: bool,
    pub(super) adapter_path: PathBuf,
    save_every: u64,
    pub(super) test: bool,
    pub(super) test_batches: i64,
    pub(super) max_seq_length: usize,
    packing: bool,
    config: Option<PathBuf>,
    grad_checkpoint: bool,
    clear_cache_threshold: Value,
    report_to: Option<String>,
    project_name: Option<String>,
    pub(super) seed: u64,
    pub(super) trust_remote_code: bool,
    lora_parameters: Adapters,
    rslora: bool,
    lora_plus_ratio: Option<f32>,
    pub(super) hf_dataset: Option<Value>,
    pub(super) prompt_feature: Option<String>,
    pub(super) completion_feature: Option<String>,
    pub(super) text_feature: Option<String>,
    pub(super) chat_feature: Option<String>,
}

/// `lora_parameters`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Adapters {
    rank: i32,
    scale: f32,
    #[serde(default)]
    dropout: f32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    keys: Option<Vec<String>>,
}

/// `lr_schedule`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LrSchedule {
    name: String,
    arguments: Vec<f64>,
    #[serde(default)]
    warmup: f64,
    #[serde(default)]
    warmup_init: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            model: "Qwen/Qwen3-0.6b".into(),
            revision: None,
            train: false,
            data: "mlx-community/WikiSQL".into(),
            fine_tune_type: FineTuneType::Lora,
            optimizer: "adam".into(),
            optimizer_config: BTreeMap::new(),
            objective: "sft".into(),
            beta: 0.1,
            mask_prompt: false,
            num_layers: 16,
            batch_size: 4,
            iters: 1000,
            val_batches: 25,
            learning_rate: 1e-5,
            lr_schedule: None,
            max_grad_norm: None,
            steps_per_report: 10,
            steps_per_eval: 200,
            grad_accumulation_steps: 1,
            resume_adapter_file: None,
            resume: false,
            adapter_path: "adapters".into(),
            save_every: 100,
            test: false,
            test_batches: 500,
            max_seq_length: 2048,
            packing: false,
            config: None,
            grad_checkpoint: false,
            clear_cache_threshold: json!(0),
            report_to: None,
            project_name: None,
            seed: 0,
            trust_remote_code: false,
            lora_parameters: Adapters { rank: 8, scale: 20.0, dropout: 0.0, keys: None },
            rslora: false,
            lora_plus_ratio: None,
            hf_dataset: None,
            prompt_feature: None,
            completion_feature: None,
            text_feature: None,
            chat_feature: None,
        }
    }
}

impl Settings {
    /// What the command line and the file that it names say.
    pub(super) fn gather(args: &LoraArgs) -> Result<Self> {
        let mut all = args.config.as_deref().map_or(Ok(Map::new()), from_file)?;
        let own = serde_json::to_value(args).map_err(|error| Failure::usage(error.to_string()))?;
        let mut own = own.as_object().cloned().unwrap_or_default();
        own.retain(|_, value| !value.is_null() && *value != Value::Bool(false));
        let adapters = ["rank", "scale", "dropout", "keys"];
        let of_adapters: Vec<_> = adapters.iter().filter_map(|name| own.remove_entry(*name)).collect();
        all.extend(own);
        if !of_adapters.is_empty() {
            let usual = || serde_json::to_value(Self::default().lora_parameters).unwrap_or_default();
            let parameters = all.entry("lora_parameters").or_insert_with(usual);
            if let Value::Object(parameters) = parameters {
                parameters.extend(of_adapters);
            }
        }
        let settings: Self = read("the settings", Value::Object(all))?;
        settings.check().map(|()| settings)
    }

    fn check(&self) -> Result {
        let mut reports = self.report_to.iter().flat_map(|names| names.split(',')).map(str::trim);
        if let Some(name) = reports.find(|name| *name != "tensorboard") {
            return Err(Failure::usage(format!("`--report-to {name}` is not supported"))
                .hint("`tensorboard` is; `metrics.jsonl` and pictures of the loss are written anyway"));
        }
        if self.project_name.is_some() {
            return Err(Failure::usage("`--project-name` is not supported: there are no projects here"));
        }
        if let Some(name) = self.optimizer_config.keys().find(|name| !Rule::NAMES.contains(&name.as_str())) {
            return Err(Failure::usage(format!("`optimizer_config` has the optimizer `{name}`, which is not known"))
                .hint(format!("the optimizers are {}", Rule::NAMES.join(", "))));
        }
        Ok(())
    }

    /// Whether a file for TensorBoard is written.
    pub(super) fn tensorboard(&self) -> bool {
        self.report_to.is_some()
    }

    /// What is trained.
    pub(super) fn fine_tune(&self) -> Result<FineTune> {
        let Adapters { rank, scale, dropout, keys } = self.lora_parameters.clone();
        let scale = if self.rslora { rank_stabilized(scale, rank) } else { scale };
        let parameters = LoraParameters { rank, scale, dropout, keys };
        let (fine_tune_type, num_layers) = (self.fine_tune_type, self.num_layers);
        if fine_tune_type == FineTuneType::Full && (self.rslora || self.lora_plus_ratio.is_some()) {
            return Err(Failure::usage("`--rslora` and `--lora-plus-ratio` are for adapters, not for `full`"));
        }
        Ok(FineTune { fine_tune_type, num_layers, parameters, seed: self.seed })
    }

    /// How parameters are changed.
    pub(super) fn rule(&self) -> Result<Rule> {
        let settings = self.optimizer_config.get(&self.optimizer).cloned().unwrap_or_default();
        Ok(Rule::from_name(&self.optimizer, &settings)?)
    }

    /// The numbers of the run.
    pub(super) fn trainer(&self) -> Result<TrainerOptions> {
        let objective = match self.objective.as_str() {
            "sft" => Objective::Sft,
            "dpo" => Objective::Dpo { beta: self.beta },
            "orpo" => Objective::Orpo { beta: self.beta },
            name => {
                return Err(Failure::usage(format!("the objective `{name}` is not known"))
                    .hint("the objectives are sft, dpo and orpo"));
            }
        };
        let schedule = match &self.lr_schedule {
            None => Schedule::Constant(self.learning_rate),
            Some(LrSchedule { name, arguments, warmup, warmup_init }) => {
                Schedule::from_name(name, arguments)?.with_warmup(*warmup_init, *warmup)
            }
        };
        Ok(TrainerOptions {
            objective,
            iters: self.iters,
            batch_size: self.batch_size,
            max_seq_length: self.max_seq_length,
            packing: self.packing,
            schedule,
            grad_accumulation_steps: self.grad_accumulation_steps,
            max_grad_norm: self.max_grad_norm,
            lora_plus_ratio: self.lora_plus_ratio,
            grad_checkpoint: self.grad_checkpoint,
            steps_per_report: self.steps_per_report,
            steps_per_eval: self.steps_per_eval,
            val_batches: usize::try_from(self.val_batches).ok(),
            save_every: self.save_every,
            seed: self.seed,
            clear_cache_threshold: bytes(&self.clear_cache_threshold)?,
        })
    }

    /// All settings, as they stand in `adapter_config.json`.
    pub(super) fn arguments(&self) -> Result<Map<String, Value>> {
        let value = serde_json::to_value(self).map_err(|error| Failure::new(error.to_string()))?;
        Ok(value.as_object().cloned().unwrap_or_default())
    }
}

/// The settings of a YAML file; what is null is left to the defaults.
fn from_file(path: &Path) -> Result<Map<String, Value>> {
    let shown = path.display();
    let text = io::read_within(path, MOST_BYTES)?;
    let text = String::from_utf8(text).map_err(|_| Failure::new(format!("`{shown}` is not UTF-8")))?;
    let value: Value = serde_saphyr::from_str(&text)
        .map_err(|error| Failure::new(format!("`{shown}` is not the YAML that was expected: {error}")))?;
    let Value::Object(given) = value else {
        return Err(Failure::new(format!("`{shown}` has no keys")).hint("a line is `key: value`"));
    };
    let known = serde_json::to_value(Settings::default()).map_err(|error| Failure::new(error.to_string()))?;
    let mut settings = Map::new();
    for (key, value) in given.into_iter().filter(|(_, value)| !value.is_null()) {
        let name = OLDER.iter().find(|(older, _)| *older == key).map_or(key.as_str(), |(_, name)| name);
        if known.get(name).is_none() {
            let names = known.as_object().into_iter().flatten().map(|(name, _)| name.as_str());
            return Err(Failure::usage(format!("`{shown}` has the key `{key}`, which is not known"))
                .hint(format!("the keys are {}", names.collect::<Vec<_>>().join(", "))));
        }
        settings.insert(name.to_owned(), as_python(value, &known[name]));
    }
    Ok(settings)
}

/// What YAML 1.1, which Python reads, means by words that newer YAML takes for texts: `yes` and its like are truths, where one is expected.
fn as_python(value: Value, usual: &Value) -> Value {
    let truth = match (value.as_str(), usual) {
        (Some("yes" | "Yes" | "YES" | "on" | "On" | "ON"), Value::Bool(_)) => Some(true),
        (Some("no" | "No" | "NO" | "off" | "Off" | "OFF"), Value::Bool(_)) => Some(false),
        _ => None,
    };
    truth.map_or(value, Value::Bool)
}

/// Reads a part of the settings, and names the key that is wrong.
pub(super) fn read<T: DeserializeOwned>(what: &str, value: Value) -> Result<T> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let (path, why) = (error.path().to_string(), error.inner().to_string());
        let place = if path == "." { what.to_owned() } else { format!("`{path}`") };
        let failure = Failure::usage(format!("{place} cannot be used: {why}"));
        match why.contains("`alpha`") || why.contains("missing field `scale`") {
            true => failure.hint("adapters have a `scale`, which is alpha divided by the rank"),
            false => failure,
        }
    })
}

/// A number of bytes, or none for zero: `1000`, `1.5GB`, `100 MB`.
fn bytes(value: &Value) -> Result<Option<usize>> {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic() || c.is_whitespace());
    let unit = text[digits.len()..].trim().to_ascii_uppercase();
    let factor = match unit.as_str() {
        "" | "B" => Some(1.0),
        "K" | "KB" => Some(1e3),
        "M" | "MB" => Some(1e6),
        "G" | "GB" => Some(1e9),
        "T" | "TB" => Some(1e12),
        _ => None,
    };
    match (digits.trim().parse::<f64>(), factor) {
        (Ok(number), Some(factor)) if number >= 0.0 && (number * factor).is_finite() => {
            Ok(Some((number * factor) as usize).filter(|bytes| *bytes > 0))
        }
        _ => Err(Failure::usage(format!("`clear_cache_threshold` is {text}, expected bytes as `100000000` or `1GB`"))),
    }
}
