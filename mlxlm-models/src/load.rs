//! From a model folder to a model: configuration, weights, rules, architecture, adapter, tokenizer.

use std::path::{Path, PathBuf};

use mlxlm_core::text::{Tokenizer, TokenizerOptions};
use mlxlm_core::weights::foreign::{self, Unpacked};
use mlxlm_core::weights::{Checkpoint, QuantizationConfig, Tensors, WeightStore};
use mlxlm_core::{io, nn};
use serde_json::Value;

use crate::{Architecture, Built, CausalLm, Error, ModelConfig, Result, gguf};

/// How a folder is loaded.
#[derive(Debug, Clone, Default)]
pub struct LoadOptions {
    /// The folder of a fine-tune to lay over the weights.
    pub adapter_path: Option<PathBuf>,
    /// What the caller wants of the tokenizer.
    pub tokenizer: TokenizerOptions,
    /// Whether heads that predict further tokens are loaded, where the model has such: see [`CausalLm::mtp`]. Otherwise they are not
    /// read, and take no memory.
    pub mtp: bool,
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

/// Loads a model folder or a GGUF file with its tokenizer, to generate: on a CPU the weights are [arranged](nn::arrange) for that.
pub fn load(folder: impl AsRef<Path>, options: &LoadOptions) -> Result<Loaded> {
    let folder = folder.as_ref();
    let (Built { mut model, warnings }, config) = load_model(folder, options)?;
    nn::arrange(&mut *model)?;
    let tokenizer = match gguf::is_file(folder) {
        true => gguf::tokenizer(folder)?.load(&options.tokenizer)?,
        false => Tokenizer::from_folder(folder, &options.tokenizer)?,
    };
    Ok(Loaded { model, tokenizer, config, warnings })
}

/// Loads the model of a folder or a GGUF file as it is, without a tokenizer.
pub fn load_model(folder: impl AsRef<Path>, options: &LoadOptions) -> Result<(Built, ModelConfig)> {
    let folder = folder.as_ref();
    if gguf::is_file(folder) {
        let gguf::Opened { config, tensors, mut warnings } = gguf::open(folder)?;
        let built = build_with(&config, tensors, options)?;
        warnings.extend(built.warnings);
        return Ok((Built { warnings, ..built }, config));
    }
    let mut config = ModelConfig::read(folder)?;
    // A model type that is not known is reported before gigabytes are mapped.
    Architecture::of(&config)?;
    let quant = folder.join("hf_quant_config.json");
    let quant: Option<Value> = quant.exists().then(|| io::read_json(quant)).transpose()?;
    let unpacked =
        unpacked(&config, Checkpoint::open_with(folder, if options.mtp { &MTP_FILES } else { &[] })?, quant.as_ref())?;
    // From here on the configuration says how the weights are packed now.
    let packed = unpacked.quantization.as_ref().and_then(QuantizationConfig::to_json);
    config.set("quantization_config", packed.clone());
    config.set("quantization", packed);
    Ok((build_unpacked(&config, unpacked, options)?, config))
}

/// Builds the model of a configuration over the tensors of a checkpoint, which other tools may have packed.
pub fn build(config: &ModelConfig, checkpoint: impl Into<Checkpoint>, adapter: Option<&Path>) -> Result<Built> {
    let adapter_path = adapter.map(Path::to_owned);
    build_with(config, checkpoint, &LoadOptions { adapter_path, ..LoadOptions::default() })
}

/// As [`build`], with all that may be said of it; what the options say of the tokenizer is not read.
pub fn build_with(config: &ModelConfig, checkpoint: impl Into<Checkpoint>, options: &LoadOptions) -> Result<Built> {
    build_unpacked(config, unpacked(config, checkpoint.into(), None)?, options)
}

/// Files beside those of the weights that may hold heads that predict further tokens: ours, and that of other tools. Python mlx-lm
/// loads all of `model*.safetensors` and for some architectures refuses such heads, so they are not saved under such a name.
pub(crate) const MTP_FILES: [&str; 2] = ["mtp.safetensors", "model-mtp.safetensors"];

/// What is in a checkpoint, in the form that models load.
fn unpacked(config: &ModelConfig, checkpoint: Checkpoint, hf_quant_config: Option<&Value>) -> Result<Unpacked> {
    config.check_code()?;
    Ok(foreign::unpack(checkpoint, &config.to_value(), hf_quant_config)?)
}

fn build_unpacked(config: &ModelConfig, unpacked: Unpacked, options: &LoadOptions) -> Result<Built> {
    let arch = Architecture::of(config)?;
    let Unpacked { tensors, quantization, mut warnings } = unpacked;
    if let Some(name) = tensors.keys().find(|name| name.len() > MAX_NAME) {
        return Err(Error::config(format!("a tensor has a name of {} characters, {MAX_NAME} at most", name.len())));
    }
    let (built, store) = arch.build(config, tensors, options.mtp, |tensors| {
        let store = WeightStore::new(tensors, quantization.unwrap_or_default());
        Ok(match &options.adapter_path {
            Some(folder) => store.with_adapter(folder)?,
            None => store,
        })
    })?;
    store.finish()?;
    warnings.extend(built.warnings);
    Ok(Built { warnings, ..built })
}

/// No tensor of any model has a name of so many characters.
const MAX_NAME: usize = 1000;

/// Builds the model of a configuration with weights drawn from a seed, in `f32`, to be trained.
pub fn build_random(config: &ModelConfig, seed: u64) -> Result<Built> {
    Ok(Architecture::of(config)?.build(config, Tensors::new(), false, |_| Ok(WeightStore::random(seed)?))?.0)
}

/// Builds the model of a configuration without memory for its weights, to count and to measure it.
pub fn measure(config: &ModelConfig) -> Result<Built> {
    Ok(Architecture::of(config)?.build(config, Tensors::new(), false, |_| Ok(WeightStore::measuring()))?.0)
}
