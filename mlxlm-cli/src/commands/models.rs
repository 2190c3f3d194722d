//! `models`: the model types that can be loaded, and what a configuration makes of one.
//!
//! A model of a configuration is built without memory for its weights: how many it has, what it keeps of a sequence, and which
//! entries nobody understood are known before a single file is fetched.

use std::collections::BTreeMap;

use mlxlm_cache::CacheKind;
use mlxlm_core::nn;
use mlxlm_models::{Built, CausalLm, ModelConfig, measure};
use serde_json::{Value, json};

use crate::args::ModelsArgs;
use crate::failure::Result;
use crate::output::{print, say, warn};
use crate::{memory, terminal, units};

use super::architectures;

/// Runs the command.
pub(super) fn run(args: &ModelsArgs) -> Result {
    match &args.config {
        None => architectures::list(args),
        Some(path) => {
            let report = Report::of(&ModelConfig::open(path)?)?;
            match args.json {
                true => say!("{:#}", report.json()),
                false => report.show(),
            }
        }
    }
}

/// What is known of a model without its weights.
pub(super) struct Report {
    pub(super) model_type: String,
    pub(super) parameters: u64,
    /// Bytes of the weights by type, as they would lie in a file without packing.
    bytes: BTreeMap<String, u64>,
    /// How many caches of which kind, in the order of the layers.
    caches: Vec<(String, usize)>,
    /// What a token adds to keys and values at the start of a sequence.
    pub(super) kv_bytes_per_token: u64,
    /// What layers with a state keep, however long a sequence is.
    pub(super) state_bytes: u64,
    pub(super) context_length: Option<i32>,
    pub(super) warnings: Vec<String>,
}

impl Report {
    pub(super) fn of(config: &ModelConfig) -> Result<Self> {
        let Built { model, warnings } = measure(config)?;
        let kinds = model.cache_kinds();
        let (kv_bytes_per_token, state_bytes) = memory::remembered(&*model)?;
        Ok(Self {
            model_type: model.info().model_type.clone(),
            parameters: nn::size(&*model).0,
            bytes: bytes_by_type(&*model),
            caches: counted(&kinds),
            kv_bytes_per_token,
            state_bytes,
            context_length: model.info().context_length,
            warnings,
        })
    }

    fn json(&self) -> Value {
        let caches: BTreeMap<&str, usize> = self.caches.iter().map(|(kind, count)| (kind.as_str(), *count)).collect();
        json!({
            "model_type": self.model_type,
            "parameters": self.parameters,
            "bytes": self.bytes,
            "caches": caches,
            "kv_bytes_per_token": self.kv_bytes_per_token,
            "state_bytes": self.state_bytes,
            "context_length": self.context_length,
            "warnings": self.warnings,
        })
    }

    fn show(&self) -> Result {
        self.warnings.iter().for_each(warn);
        let weights: Vec<String> =
            self.bytes.iter().map(|(dtype, bytes)| format!("{} {dtype}", units::bytes(*bytes))).collect();
        let caches: Vec<String> = self.caches.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        let mut rows = vec![
            ("model type", terminal::name(&self.model_type)),
            ("parameters", format!("{} ({})", self.parameters, units::short(self.parameters))),
            ("weights", weights.join(", ")),
            ("caches", if caches.is_empty() { "none".to_owned() } else { caches.join(", ") }),
            ("KV cache", format!("{} for each token", units::bytes(self.kv_bytes_per_token))),
        ];
        if self.state_bytes > 0 {
            rows.push(("states", format!("{} for each sequence", units::bytes(self.state_bytes))));
        }
        if let Some(tokens) = self.context_length {
            rows.push(("longest sequence", format!("{tokens} tokens")));
        }
        rows.iter().try_for_each(|(what, value)| print(format_args!("{what:<17}{value}\n")))
    }
}

/// The bytes of all weights by the name of their type.
fn bytes_by_type(model: &dyn CausalLm) -> BTreeMap<String, u64> {
    let mut bytes = BTreeMap::new();
    model.walk("", &mut |_, leaf| {
        let matrix = leaf.matrix().and_then(|matrix| match matrix {
            nn::Matrix::Dense(array) => Some(array),
            nn::Matrix::Packed(..) | nn::Matrix::Panels(_) => None,
        });
        let others = leaf.others();
        for array in matrix.into_iter().chain(others.iter().map(|(_, array)| *array)) {
            *bytes.entry(format!("{:?}", array.dtype()).to_lowercase()).or_default() += array.nbytes() as u64;
        }
    });
    bytes
}

/// How many there are of each kind, the first kind first.
fn counted(kinds: &[CacheKind]) -> Vec<(String, usize)> {
    let mut counts: Vec<(String, usize)> = Vec::new();
    for kind in kinds {
        let name = kind.to_string();
        match counts.iter_mut().find(|(other, _)| *other == name) {
            Some((_, count)) => *count += 1,
            None => counts.push((name, 1)),
        }
    }
    counts
}
