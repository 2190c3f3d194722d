//! What a long run has done so far, in a folder: one that was killed goes on from there and comes to the same bits, since whatever is
//! computed again depends on nothing but the model, the samples and what is kept.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use mlxlm_core::nn::{self, Matrix};
use mlxlm_core::quant::Packed;
use mlxlm_core::weights::{SafetensorsFile, save_safetensors};
use mlxlm_core::{Array, io};
use mlxlm_models::CausalLm;
use serde_json::Value;

use crate::flow::with_leaf;
use crate::plan::Plan;
use crate::{Error, Result};

/// The file that says what a run is of.
const RUN: &str = "run.json";

/// The folder of a run.
#[derive(Debug)]
pub struct Kept {
    folder: PathBuf,
}

impl Kept {
    /// Goes on with the run of a folder, or begins one there. `run` is all that its result depends on, by name.
    ///
    /// # Errors
    /// [`Error::Kept`] for a folder of another run.
    pub fn open(folder: &Path, run: &Value) -> Result<Self> {
        let path = folder.join(RUN);
        if path.exists() {
            let before: Value = io::read_json(&path)?;
            if let Some(why) = difference(&before, run) {
                return Err(Error::Kept { path: folder.to_owned(), why });
            }
        } else {
            if folder.exists() && !io::read_dir(folder)?.is_empty() {
                let why = "it has files, and none of them is `run.json`".to_owned();
                return Err(Error::Kept { path: folder.to_owned(), why });
            }
            io::create_dir_all(folder)?;
            io::write_json(&path, run)?;
        }
        Ok(Self { folder: folder.to_owned() })
    }

    /// A part of the run, kept by itself.
    pub fn part(&self, name: &str) -> Result<Self> {
        let folder = self.folder.join(name);
        io::create_dir_all(&folder)?;
        Ok(Self { folder })
    }

    /// Where a part that is one file is kept.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The run is over: there is nothing to go on with.
    pub fn forget(self) -> Result<()> {
        Ok(io::remove_dir_all(&self.folder)?)
    }

    /// Keeps what leaves are now. It appears whole or not at all.
    pub(crate) fn keep(&self, name: &str, model: &mut dyn CausalLm, paths: &[String]) -> Result<()> {
        let of = |name: &str| name.rsplit_once('.').is_some_and(|(path, _)| paths.iter().any(|own| own == path));
        let arrays: Vec<(String, Array)> = nn::parameters(model).into_iter().filter(|(name, _)| of(name)).collect();
        Ok(save_safetensors(self.folder.join(name), &arrays, &BTreeMap::new())?)
    }

    /// Puts back what leaves were, packed as the plan says; their paths, or nothing if it is not kept.
    pub(crate) fn put(&self, name: &str, model: &mut dyn CausalLm, plan: &Plan) -> Result<Option<Vec<String>>> {
        let path = self.folder.join(name);
        if !path.exists() {
            return Ok(None);
        }
        let arrays = SafetensorsFile::open(&path)?.arrays()?;
        let mut paths: Vec<String> =
            arrays.keys().filter_map(|name| name.rsplit_once('.')).map(|(path, _)| path.to_owned()).collect();
        paths.dedup();
        for own in &paths {
            let found = with_leaf(model, own, |mut leaf| {
                let part = |name: &str| arrays.get(&format!("{own}.{name}")).cloned();
                let packed = part("weight").zip(part("scales")).zip(plan.get(own));
                if let (Some(((weight, scales), &scheme)), Some(matrix)) = (packed, leaf.matrix()) {
                    *matrix = Matrix::Packed(Packed { weight, scales, biases: part("biases") }, scheme);
                }
                leaf.parameters(own, &mut |name, array| {
                    if let Some(kept) = arrays.get(&name) {
                        *array = kept.clone();
                    }
                });
                Ok(())
            })?;
            if found.is_none() {
                let why = format!("the model has no `{own}`");
                return Err(Error::Kept { path, why });
            }
        }
        Ok(Some(paths))
    }
}

/// What two runs differ in, in words.
fn difference(before: &Value, now: &Value) -> Option<String> {
    if before == now {
        return None;
    }
    let (Value::Object(before), Value::Object(now)) = (before, now) else {
        return Some("its `run.json` is of another form".to_owned());
    };
    let names = now.keys().chain(before.keys());
    let other = names.into_iter().find(|name| before.get(*name) != now.get(*name))?;
    let shown = |value: Option<&Value>| value.map_or_else(|| "absent".to_owned(), Value::to_string);
    Some(format!("there `{other}` is {}, and now it is {}", shown(before.get(other)), shown(now.get(other))))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_folder_of_another_run_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("state");
        Kept::open(&folder, &json!({"command": "gptq", "bits": 4})).unwrap();
        Kept::open(&folder, &json!({"command": "gptq", "bits": 4})).unwrap();
        let error = Kept::open(&folder, &json!({"command": "gptq", "bits": 3})).unwrap_err();
        assert!(error.to_string().ends_with("there `bits` is 4, and now it is 3"), "{error}");
        let error = Kept::open(&folder, &json!({"command": "gptq"})).unwrap_err();
        assert!(error.to_string().ends_with("there `bits` is 4, and now it is absent"), "{error}");
        Kept::open(&folder, &json!({"command": "gptq", "bits": 4})).unwrap().forget().unwrap();
        assert!(!folder.exists());
        let error = Kept::open(home.path(), &json!({})).map(drop);
        assert!(error.is_ok(), "an empty folder is as good as none");
        io::write(home.path().join("x"), "").unwrap();
        io::remove_file(home.path().join(RUN)).unwrap();
        assert!(matches!(Kept::open(home.path(), &json!({})), Err(Error::Kept { .. })));
    }
}
