//! From a model to a folder that mlx-lm loads as well: the opposite of [`load`](crate::load()).
//!
//! The folder is filled under a temporary name beside its own and renamed at the end.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use mlxlm_core::io::{self, TemporaryFolder};
use mlxlm_core::nn;
use mlxlm_core::weights;
use serde_json::{Map, Value};

use crate::load::MTP_FILES;
use crate::{CausalLm, Error, ModelConfig, Result, gguf};

/// A folder in the making, which vanishes if it is not finished.
#[derive(Debug)]
pub struct NewFolder {
    temporary: TemporaryFolder,
    target: PathBuf,
}

impl NewFolder {
    /// Begins a folder that must not exist yet.
    pub fn create(target: impl AsRef<Path>) -> Result<Self> {
        let target = target.as_ref().to_owned();
        check_absent(&target)?;
        Ok(Self { temporary: TemporaryFolder::create(&target)?, target })
    }

    /// Where to write until it is finished.
    pub fn path(&self) -> &Path {
        self.temporary.path()
    }

    /// Gives the folder its name.
    pub fn finish(self) -> Result<()> {
        check_absent(&self.target)?;
        // Another process may have been faster just now.
        self.temporary.publish().or_else(|error| check_absent(&self.target).and(Err(error.into())))
    }
}

/// Refuses a place at which something lies, be it a link to nothing.
fn check_absent(target: &Path) -> Result<()> {
    match target.symlink_metadata() {
        Ok(_) => Err(Error::Exists { folder: target.to_owned() }),
        Err(_) => Ok(()),
    }
}

/// Writes weights and configuration of a model into `folder`, and copies the files of the tokenizer from `source`, the
/// folder or GGUF file that the model was loaded from. Heads that predict further tokens go into a file `mtp.safetensors`, which
/// Python mlx-lm passes over.
pub fn save(folder: &Path, model: &mut dyn CausalLm, config: &ModelConfig, source: &Path) -> Result<()> {
    let (count, _) = nn::size(&*model);
    let all = nn::parameters(model);
    let is_of_head = |name: &str| {
        let path = name.rsplit_once('.').map_or("", |(path, _)| path);
        model.mtp().is_some_and(|mtp| mtp.owns(path) || mtp.owns(name))
    };
    let (heads, others): (Vec<_>, Vec<_>) = all.into_iter().partition(|(name, _)| is_of_head(name));
    weights::save_model(folder, others, count)?;
    if !heads.is_empty() {
        let metadata = BTreeMap::from([("format".to_owned(), "mlx".to_owned())]);
        weights::save_safetensors(folder.join(MTP_FILES[0]), &heads, &metadata)?;
    }
    write_config(folder, config)?;
    copy_companions(source, folder)
}

/// Writes tensors and a configuration into `folder`, and copies the files of the tokenizer from `source`. Tensors that are not
/// computed yet are so when the shard is written that they are in.
pub fn save_tensors(
    folder: &Path,
    tensors: Vec<(String, mlxlm_core::Array)>,
    config: &ModelConfig,
    source: &Path,
) -> Result<()> {
    let count = tensors.iter().map(|(_, array)| array.size() as u64).sum();
    weights::save_model(folder, tensors, count)?;
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

/// The folder of a model's named chat templates.
const NAMED_TEMPLATES: &str = "additional_chat_templates";

/// The files of `source` that go along, as paths within it.
fn companions(source: &Path) -> Result<Vec<PathBuf>> {
    let mut found: Vec<PathBuf> = COMPANIONS.iter().map(PathBuf::from).collect();
    let templates = source.join(NAMED_TEMPLATES);
    for path in if templates.is_dir() { io::read_dir(&templates)? } else { Vec::new() } {
        if let Some(name) = path.file_name().filter(|_| path.extension().is_some_and(|suffix| suffix == "jinja")) {
            found.push(Path::new(NAMED_TEMPLATES).join(name));
        }
    }
    Ok(found)
}

/// Copies the files that go along. A link out of `source` is refused: what it leads to is no part of the model.
fn copy_companions(source: &Path, folder: &Path) -> Result<()> {
    if gguf::is_file(source) {
        return Ok(gguf::tokenizer(source)?.write(folder)?);
    }
    for name in companions(source)? {
        if let Some(from) = io::own_file(source, &name)? {
            // `folder` is not made here: a signal may have removed it.
            if name.starts_with(NAMED_TEMPLATES) {
                io::create_dir(folder.join(NAMED_TEMPLATES))?;
            }
            io::copy(from, folder.join(name))?;
        }
    }
    Ok(())
}

/// Refuses a `source` whose files cannot go along, before any work is done.
pub fn check_companions(source: &Path) -> Result<()> {
    companions(source)?.into_iter().try_for_each(|name| io::own_file(source, name).map(drop))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn named_templates_go_along_and_secrets_do_not() {
        let folder = tempfile::tempdir().unwrap();
        let (source, target) = (folder.path().join("source"), folder.path().join("target"));
        io::create_dir_all(source.join(NAMED_TEMPLATES)).unwrap();
        io::create_dir_all(&target).unwrap();
        io::write(folder.path().join("secret"), "secret").unwrap();
        for name in ["vocab.json", "notes.md", "additional_chat_templates/tool_use.jinja"] {
            io::write(source.join(name), name).unwrap();
        }
        copy_companions(&source, &target).unwrap();
        let templates = target.join(NAMED_TEMPLATES);
        assert_eq!(io::read_dir(&target).unwrap(), [templates.clone(), target.join("vocab.json")]);
        assert_eq!(
            io::read_to_string(templates.join("tool_use.jinja")).unwrap(),
            "additional_chat_templates/tool_use.jinja"
        );
        for name in ["vocab.txt", "additional_chat_templates/rag.jinja"] {
            let link = source.join(name);
            std::os::unix::fs::symlink(folder.path().join("secret"), &link).unwrap();
            for refused in [check_companions(&source), copy_companions(&source, &target)] {
                assert!(refused.unwrap_err().to_string().contains("is a link to"), "{name}");
            }
            assert!(!target.join(name).exists());
            std::fs::remove_file(link).unwrap();
        }
    }

    #[test]
    fn a_folder_that_exists_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("model");
        let (first, second) = (NewFolder::create(&target).unwrap(), NewFolder::create(&target).unwrap());
        io::write(first.path().join("a"), "first").unwrap();
        first.finish().unwrap();
        assert!(matches!(second.finish(), Err(Error::Exists { .. })));
        assert!(matches!(NewFolder::create(&target), Err(Error::Exists { .. })));
        let dangling = folder.path().join("dangling");
        std::os::unix::fs::symlink("nowhere", &dangling).unwrap();
        assert!(matches!(NewFolder::create(&dangling), Err(Error::Exists { .. })));
        assert_eq!(io::read_dir(folder.path()).unwrap(), [dangling, target]);
    }
}
