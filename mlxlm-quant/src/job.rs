//! From a folder to a model that is to be quantized, and from that to a folder.

use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use mlxlm_core::io;
use mlxlm_core::nn;
use mlxlm_core::quant::Scheme;
use mlxlm_core::text::{Tokenizer, TokenizerOptions};
use mlxlm_models::{Built, CausalLm, LoadOptions, ModelConfig, NewFolder, check_companions, gguf, load_model, save};
use serde_json::{Value, json};

use crate::plan;
use crate::{Converted, Error, Result};

/// A model as it was loaded, with what is needed to save it.
#[derive(Debug)]
pub struct Job {
    /// The model, without the order that decoding prefers.
    pub model: Box<dyn CausalLm>,
    /// Its configuration.
    pub config: ModelConfig,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// What the user should know.
    pub warnings: Vec<String>,
    source: PathBuf,
}

impl Job {
    /// Opens a model that is dense.
    ///
    /// # Errors
    /// [`Error::Quantized`] for one that is not.
    pub fn dense(source: &Path) -> Result<Self> {
        let job = Self::open(source)?;
        if job.is_quantized() { Err(Error::Quantized) } else { Ok(job) }
    }

    /// Opens a model that is quantized.
    ///
    /// # Errors
    /// [`Error::NothingToTrain`] for one that is not.
    pub fn quantized(source: &Path) -> Result<Self> {
        let job = Self::open(source)?;
        if job.is_quantized() { Ok(job) } else { Err(Error::NothingToTrain) }
    }

    fn open(source: &Path) -> Result<Self> {
        check_companions(source)?;
        let (Built { model, warnings }, config) =
            load_model(source, &LoadOptions { mtp: true, ..LoadOptions::default() })?;
        let options = TokenizerOptions::default();
        let tokenizer = match gguf::is_file(source) {
            true => gguf::tokenizer(source)?.load(&options)?,
            false => Tokenizer::from_folder(source, &options)?,
        };
        Ok(Self { model, config, tokenizer, warnings, source: source.to_owned() })
    }

    fn is_quantized(&self) -> bool {
        let mut packed = false;
        self.model.walk("", &mut |_, leaf| packed |= leaf.matrix().is_some_and(|matrix| matrix.scheme().is_some()));
        packed
    }

    /// What tells the files of this model from others, for a run that is gone on with: their names, sizes and ages.
    pub fn files(&self) -> Result<Value> {
        let files = match gguf::is_file(&self.source) {
            true => vec![self.source.clone()],
            false => io::read_dir(&self.source)?,
        };
        let weights = files
            .into_iter()
            .filter(|path| path.extension().is_some_and(|extension| extension == "safetensors" || extension == "gguf"));
        let mut all = serde_json::Map::new();
        for path in weights {
            let Ok(found) = path.metadata() else { continue };
            let age = found.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
            let age_s = age.map_or(0, |age| age.as_secs());
            all.insert(path.display().to_string(), json!({"bytes": found.len(), "modified_s": age_s}));
        }
        Ok(Value::Object(all))
    }

    /// The same model once more.
    pub fn again(&self) -> Result<Box<dyn CausalLm>> {
        open_model(&self.source)
    }

    /// Where the model comes from.
    pub fn source(&self) -> &Path {
        &self.source
    }

    /// Refuses a scheme that no matrix of the model takes.
    ///
    /// # Errors
    /// [`Error::NothingToPack`].
    pub fn check(&self, scheme: Scheme) -> Result<()> {
        let takes = plan::uniform(&*self.model, scheme).values().any(|&packed| packed == scheme);
        if takes { Ok(()) } else { Err(Error::NothingToPack { scheme }) }
    }

    /// Writes the model as it is now, packed, into a folder that was begun before the work; `head` is what the configuration says of
    /// leaves in general.
    pub fn finish(mut self, folder: NewFolder, head: Scheme, readme: Option<&str>) -> Result<Converted> {
        plan::record(&*self.model, &mut self.config, head);
        self.save(folder, readme)
    }

    /// Writes the model under the configuration that it has.
    pub fn save(mut self, folder: NewFolder, readme: Option<&str>) -> Result<Converted> {
        save(folder.path(), &mut *self.model, &self.config, &self.source)?;
        if let Some(readme) = readme {
            io::write(folder.path().join("README.md"), readme)?;
        }
        folder.finish()?;
        let (count, bytes) = nn::size(&*self.model);
        let bits_per_weight = bytes as f64 * 8.0 / count.max(1) as f64;
        Ok(Converted { bits_per_weight, warnings: self.warnings })
    }
}

/// Opens a model alone, over its mapped files.
pub fn open_model(source: &Path) -> Result<Box<dyn CausalLm>> {
    Ok(load_model(source, &LoadOptions { mtp: true, ..LoadOptions::default() })?.0.model)
}
