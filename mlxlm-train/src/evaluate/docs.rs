//! The documents of a task: local files, or a dataset of the hub.

use std::path::Path;

use mlxlm_core::hub::{Hub, Progress};
use serde_json::Value;

use super::EvaluateError;
use crate::Result;
use crate::data::{self, Record, Source};

/// Where the documents of a task are.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Documents {
    /// Files beside the task, for each split.
    Files(Vec<(String, Vec<String>)>),
    /// A dataset of the hub, and its configuration.
    Hub { id: String, config: Option<String> },
}

impl Documents {
    /// What the entries `dataset_path`, `dataset_name` and `dataset_kwargs` of a task say.
    pub(super) fn of(entries: &serde_json::Map<String, Value>) -> Result<Self, String> {
        let text = |key: &str| entries.get(key).and_then(Value::as_str).map(str::to_owned);
        let path = text("dataset_path").ok_or("has no `dataset_path`")?;
        let files = entries.get("dataset_kwargs").and_then(|kwargs| kwargs.get("data_files"));
        if !["json", "parquet"].contains(&path.as_str()) {
            return match files {
                None => Ok(Self::Hub { id: path, config: text("dataset_name") }),
                Some(_) => Err(format!("has `data_files` for `{path}`; they go with `json` and `parquet`")),
            };
        }
        let listed = |value: &Value| -> Option<Vec<String>> {
            match value {
                Value::String(file) => Some(vec![file.clone()]),
                Value::Array(files) => files.iter().map(|file| file.as_str().map(str::to_owned)).collect(),
                _ => None,
            }
        };
        let wrong = "has `data_files` that are no files";
        match files {
            Some(Value::Object(splits)) => {
                let splits = splits.iter().map(|(split, files)| Some((split.clone(), listed(files)?)));
                Ok(Self::Files(splits.collect::<Option<_>>().ok_or(wrong)?))
            }
            Some(files) => Ok(Self::Files(vec![("train".into(), listed(files).ok_or(wrong)?)])),
            None => Err(format!("has no `dataset_kwargs: {{data_files: …}}` for `{path}`")),
        }
    }

    /// The documents of a split.
    pub(super) fn read(&self, split: &str, task: &Path, hub: &Hub, progress: &Progress) -> Result<Vec<Record>> {
        match self {
            Self::Hub { id, config } => {
                let source = Source {
                    config: config.clone(),
                    // Only the files of this split are needed.
                    train_split: Some(split.to_owned()),
                    valid_split: Some(split.to_owned()),
                    test_split: Some(split.to_owned()),
                    ..Source::new(id)
                };
                data::read_split(&source, split, hub, progress)
            }
            Self::Files(splits) => {
                let Some((_, files)) = splits.iter().find(|(name, _)| name == split) else {
                    let names: Vec<&str> = splits.iter().map(|(name, _)| name.as_str()).collect();
                    let why = format!("has no files for the split `{split}`, only for `{}`", names.join("`, `"));
                    return Err(EvaluateError::Task { path: task.to_owned(), why }.into());
                };
                let folder = task.parent().unwrap_or(Path::new(""));
                let mut records = Vec::new();
                for file in files {
                    records.extend(data::read_file(folder.join(file))?);
                }
                Ok(records)
            }
        }
    }
}
