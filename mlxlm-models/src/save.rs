//! From a model to a folder that mlx-lm loads as well: the opposite of [`load`](crate::load).
//!
//! The folder is filled under a temporary name beside its own and renamed at the end.

use std::path::{Path, PathBuf};

use mlxlm_core::nn::{self, Module};
use mlxlm_core::{io, weights};
use serde_json::{Map, Value};

use crate::{Error, ModelConfig, Result};

/// A folder in the making, which vanishes if it is not finished.
#[derive(Debug)]
pub struct NewFolder {
    temporary: PathBuf,
    target: PathBuf,
}

impl NewFolder {
    /// Begins a folder that must not exist yet.
    pub fn create(target: impl AsRef<Path>) -> Result<Self> {
        let target = target.as_ref();
        if target.exists() {
            return Err(Error::Exists { folder: target.to_owned() });
        }
        let name = target.file_name().map_or_else(|| "model".into(), |name| name.to_string_lossy().into_owned());
        let temporary = target.with_file_name(format!(".{name}.{}.tmp", std::process::id()));
        io::create_dir_all(&temporary)?;
        Ok(Self { temporary, target: target.to_owned() })
    }

    /// Where to write until it is finished.
    pub fn path(&self) -> &Path {
        &self.temporary
    }

    /// Gives the folder its name.
    pub fn finish(self) -> Result<()> {
        if self.target.exists() {
            return Err(Error::Exists { folder: self.target.clone() });
        }
        Ok(io::rename(&self.temporary, &self.target)?)
    }
}

impl Drop for NewFolder {
    fn drop(&mut self) {
        if self.temporary.exists() {
            // Nobody is left to be told; the folder is in the way of nothing.
            drop(io::remove_dir_all(&self.temporary));
        }
    }
}

/// Writes weights and configuration of a model into `folder`, and copies the files of the tokenizer from `source`, the
/// folder that the model was loaded from.
pub fn save<M: Module + ?Sized>(folder: &Path, model: &mut M, config: &ModelConfig, source: &Path) -> Result<()> {
    let (count, _) = nn::size(model);
    weights::save_model(folder, nn::parameters(model), count)?;
    write_config(folder, config)?;
    copy_companions(source, folder)
}

/// Writes `config.json` with sorted keys, without what only the original folder needs.
fn write_config(folder: &Path, config: &ModelConfig) -> Result<()> {
    let Value::Object(entries) = config.to_value() else { return Ok(()) };
    let mut entries: Vec<(String, Value)> = entries.into_iter().collect();
    entries.retain(|(key, _)| key != "_name_or_path" && key != "vision_config");
    entries.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(io::write_json(folder.join("config.json"), &Value::Object(entries.into_iter().collect::<Map<_, _>>()))?)
}

/// Files beside the weights that a folder needs to generate text.
const COMPANIONS: &[&str] = &[
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
];

fn copy_companions(source: &Path, folder: &Path) -> Result<()> {
    for name in COMPANIONS {
        let from = source.join(name);
        if from.is_file() {
            io::copy(from, folder.join(name))?;
        }
    }
    Ok(())
}
