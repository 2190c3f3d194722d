//! From a model folder to a model: configuration, weights, rules, architecture, adapter, tokenizer.

use std::path::{Path, PathBuf};

use mlxlm_core::nn;
use mlxlm_core::text::{Tokenizer, TokenizerOptions};
use mlxlm_core::weights::{Checkpoint, Tensors, WeightStore};

use crate::registry::Built;
use crate::{Architecture, CausalLm, ModelConfig, Result};

/// How a folder is loaded.
#[derive(Debug, Clone, Default)]
pub struct LoadOptions {
    /// The folder of a fine-tune to lay over the weights.
    pub adapter_path: Option<PathBuf>,
    /// What the caller wants of the tokenizer.
    pub tokenizer: TokenizerOptions,
}

/// A model that is ready to run.
#[derive(Debug)]
pub struct Loaded {
    /// The model.
    pub model: Box<dyn CausalLm>,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// Its configuration.
    pub config: ModelConfig,
    /// What the caller should tell the user, such as entries of the configuration that were not understood.
    pub warnings: Vec<String>,
}

/// Loads a model folder with its tokenizer, to generate: on a CPU the weights are [arranged](nn::arrange) for that.
pub fn load(folder: impl AsRef<Path>, options: &LoadOptions) -> Result<Loaded> {
    let folder = folder.as_ref();
    let (mut model, config, warnings) = load_model(folder, options)?;
    nn::arrange(&mut *model)?;
    let tokenizer = Tokenizer::from_folder(folder, &options.tokenizer)?;
    Ok(Loaded { model, tokenizer, config, warnings })
}

/// Loads the model of a folder as it is, without a tokenizer; the strings are warnings.
pub fn load_model(
    folder: impl AsRef<Path>,
    options: &LoadOptions,
) -> Result<(Box<dyn CausalLm>, ModelConfig, Vec<String>)> {
    let folder = folder.as_ref();
    let config = ModelConfig::read(folder)?;
    // A model type that is not known is told before gigabytes are mapped.
    Architecture::find(config.model_type()?)?;
    let tensors = Checkpoint::open(folder)?.tensors;
    let (model, warnings) = build(&config, tensors, options.adapter_path.as_deref())?;
    Ok((model, config, warnings))
}

/// Builds the model of a configuration over tensors that are in memory; the strings are warnings.
pub fn build(
    config: &ModelConfig,
    mut tensors: Tensors,
    adapter: Option<&Path>,
) -> Result<(Box<dyn CausalLm>, Vec<String>)> {
    let arch = Architecture::find(config.model_type()?)?;
    let quantization = config.quantization()?;
    for rule in arch.rules {
        rule.apply(&mut tensors)?;
    }
    let mut store = WeightStore::new(tensors, quantization);
    if let Some(folder) = adapter {
        store = store.with_adapter(folder)?;
    }
    let (model, unread): Built = arch.build(config, &store)?;
    store.finish()?;
    Ok((model, warnings(unread)))
}

/// Builds the model of a configuration with weights drawn from a seed, in `f32`, to be trained; the strings are warnings.
pub fn build_random(config: &ModelConfig, seed: u64) -> Result<(Box<dyn CausalLm>, Vec<String>)> {
    let arch = Architecture::find(config.model_type()?)?;
    let (model, unread): Built = arch.build(config, &WeightStore::random(seed)?)?;
    Ok((model, warnings(unread)))
}

/// One warning that lists the entries of a configuration that nobody read and that may matter.
fn warnings(mut unread: Vec<String>) -> Vec<String> {
    unread.retain(|key| !HARMLESS.contains(&key.as_str()));
    match unread.is_empty() {
        true => Vec::new(),
        false => vec![format!("config.json has entries that were not understood: `{}`", unread.join("`, `"))],
    }
}

/// Entries that say nothing of the mathematics of inference.
const HARMLESS: &[&str] = &[
    "_name_or_path",
    "architectures",
    "attention_dropout",
    "auto_map",
    "bos_token_id",
    "cache_implementation",
    "dtype",
    "embd_pdrop",
    "eos_token_id",
    "hidden_act",
    "hidden_activation",
    "initializer_range",
    "max_window_layers",
    "output_router_logits",
    "pad_token_id",
    "pretraining_tp",
    "quantization",
    "quantization_config",
    "resid_pdrop",
    "router_aux_loss_coef",
    "router_jitter_noise",
    "torch_dtype",
    "transformers_version",
    "use_cache",
    "use_sliding_window",
];
