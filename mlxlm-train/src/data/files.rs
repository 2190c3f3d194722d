//! Which files of a dataset belong to which split.
//!
//! A repository says so in the head of its `README.md` (`configs`, `data_files`), or by the names of its files, as Hugging
//! Face's `datasets` reads them (`src/datasets/data_files.py` @ 4.4).

use std::path::{Path, PathBuf};

use glob::{MatchOptions, Pattern};
use mlxlm_core::hub::{Hub, Progress};
use mlxlm_core::io;
use serde_json::Value;

use super::read::extension;
use super::{DataError, Source};
use crate::Result;

/// The formats that are read.
const FORMATS: [&str; 4] = ["jsonl", "ndjson", "json", "parquet"];

/// The splits and the words that stand for them in names of files.
const WORDS: [(&str, &[&str]); 3] = [
    ("train", &["train", "training"]),
    ("valid", &["valid", "validation", "val", "dev"]),
    ("test", &["test", "testing", "eval", "evaluation"]),
];

/// The split that a name means: `validation` is `valid` here.
pub(super) fn canonical(name: &str) -> &str {
    WORDS.iter().find(|(_, words)| words.contains(&name)).map_or(name, |(split, _)| split)
}

/// The files of a dataset, by split.
#[derive(Debug)]
pub(super) struct Files {
    /// Each split with its files, in the order in which they are read.
    pub(super) splits: Vec<(String, Vec<PathBuf>)>,
    /// Whether it is one file, all of whose rows are to be trained on.
    pub(super) is_file: bool,
}

impl Files {
    /// The files of a split.
    pub(super) fn of(&self, split: &str) -> Option<&[PathBuf]> {
        let wanted = canonical(split);
        self.splits.iter().find(|(name, _)| canonical(name) == wanted).map(|(_, files)| files.as_slice())
    }

    /// The names of the splits, as words after an error.
    pub(super) fn found(&self) -> String {
        match self.splits.is_empty() {
            true => String::new(),
            false => {
                let names: Vec<&str> = self.splits.iter().map(|(name, _)| name.as_str()).collect();
                format!("; it has `{}`", names.join("`, `"))
            }
        }
    }
}

/// Finds the files of a source; those of a repository are downloaded.
pub(super) fn find(source: &Source, hub: &Hub, progress: &Progress) -> Result<Files> {
    let wrong = |why: String| DataError::Source { dataset: source.path.clone(), why };
    let path = Path::new(&source.path);
    if path.is_file() {
        if !is_data(&source.path) {
            return Err(wrong("is a file of another format".into()).into());
        }
        return Ok(Files { splits: vec![("train".into(), vec![path.to_owned()])], is_file: true });
    }
    if path.is_dir() {
        let mut names = Vec::new();
        for entry in io::read_dir(path)? {
            names.extend(entry.file_name().and_then(|name| name.to_str()).map(str::to_owned));
        }
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let splits = by_name(&names, source.config.as_deref());
        if splits.is_empty() {
            return Err(wrong("is a folder without data: there is no `train.jsonl`".into()).into());
        }
        return Ok(Files { splits: inside(path, splits), is_file: false });
    }
    if path.is_absolute() || [".jsonl", ".json", ".parquet"].iter().any(|ending| source.path.ends_with(ending)) {
        return Err(wrong("does not exist".into()).into());
    }
    let config = source.config.as_deref();
    let (folder, chosen) = hub.dataset(&source.path, source.revision.as_deref(), progress, &|paths, readme| {
        let wanted = wanted_splits(source);
        let splits = of_repository(paths, readme, config).into_iter();
        splits
            .filter(|(name, _)| wanted.iter().any(|wanted| wanted == canonical(name)))
            .flat_map(|(_, files)| files)
            .collect()
    })?;
    let readme = io::read_to_string(folder.join("README.md")).ok();
    let chosen: Vec<&str> = chosen.iter().map(String::as_str).collect();
    let splits = of_repository(&chosen, readme.as_deref(), config);
    if splits.is_empty() {
        let what = config.map(|config| format!(" in its configuration `{config}`")).unwrap_or_default();
        return Err(wrong(format!("holds no JSON or Parquet files{what}")).into());
    }
    Ok(Files { splits: inside(&folder, splits), is_file: false })
}

/// The splits that a source asks for: only their files are downloaded.
fn wanted_splits(source: &Source) -> Vec<String> {
    let asked = [(&source.train_split, "train"), (&source.valid_split, "valid"), (&source.test_split, "test")];
    let name = |spec: &'_ str| -> String { spec.split('[').next().unwrap_or(spec).trim().to_owned() };
    asked.into_iter().map(|(asked, usual)| canonical(&name(asked.as_deref().unwrap_or(usual))).to_owned()).collect()
}

fn inside(folder: &Path, splits: Vec<(String, Vec<String>)>) -> Vec<(String, Vec<PathBuf>)> {
    let join = |files: Vec<String>| files.into_iter().map(|file| folder.join(file)).collect();
    splits.into_iter().map(|(name, files)| (name, join(files))).collect()
}

fn is_data(path: &str) -> bool {
    extension(Path::new(path)).is_some_and(|extension| FORMATS.contains(&extension))
}

/// The splits of a repository with their files.
fn of_repository(paths: &[&str], readme: Option<&str>, config: Option<&str>) -> Vec<(String, Vec<String>)> {
    match readme.and_then(|readme| by_readme(paths, readme, config)) {
        Some(splits) if !splits.is_empty() => splits,
        _ => by_name(paths, config),
    }
}

/// What the head of `README.md` says, if it says anything.
fn by_readme(paths: &[&str], readme: &str, config: Option<&str>) -> Option<Vec<(String, Vec<String>)>> {
    let (head, _) = readme.strip_prefix("---\n")?.split_once("\n---")?;
    let head: Value = serde_saphyr::from_str(head).ok()?;
    let configs = head.get("configs")?.as_array()?;
    let name = |entry: &&Value| entry.get("config_name").and_then(Value::as_str).map(str::to_owned);
    let chosen = match config {
        Some(config) => configs.iter().find(|entry| name(entry).as_deref() == Some(config))?,
        None => {
            let is_default = |entry: &&Value| entry.get("default") == Some(&Value::Bool(true));
            let named = |entry: &&Value| name(entry).as_deref() == Some("default");
            configs.iter().find(is_default).or_else(|| configs.iter().find(named)).or_else(|| configs.first())?
        }
    };
    let files = chosen.get("data_files")?;
    if files.as_array().is_none_or(|files| files.iter().all(Value::is_string)) {
        return Some(vec![("train".into(), matching(paths, files))]);
    }
    let mut splits = Vec::new();
    for entry in files.as_array()? {
        let found = matching(paths, entry.get("path")?);
        if !found.is_empty() {
            splits.push((entry.get("split")?.as_str()?.to_owned(), found));
        }
    }
    Some(splits)
}

/// The data files that a pattern, or any of several, means.
fn matching(paths: &[&str], patterns: &Value) -> Vec<String> {
    let one = [patterns.clone()];
    let patterns: Vec<Pattern> = patterns
        .as_array()
        .map_or(&one[..], Vec::as_slice)
        .iter()
        .filter_map(|pattern| Pattern::new(pattern.as_str()?).ok())
        .collect();
    let options = MatchOptions { require_literal_separator: true, ..MatchOptions::new() };
    let is_meant = |path: &&&str| is_data(path) && patterns.iter().any(|pattern| pattern.matches_with(path, options));
    let mut found: Vec<String> = paths.iter().filter(is_meant).map(|path| (*path).to_owned()).collect();
    found.sort();
    found
}

/// Splits by the words in the names of files; without any, all files are trained on.
fn by_name(paths: &[&str], config: Option<&str>) -> Vec<(String, Vec<String>)> {
    let mut data: Vec<&str> = paths.iter().copied().filter(|path| is_data(path) && !is_about(path)).collect();
    if let Some(config) = config {
        data.retain(|path| path.split('/').rev().skip(1).any(|folder| folder == config));
    }
    data.sort_unstable();
    let shards = data.iter().filter_map(|path| Some((shard_of(path)?, *path)));
    let mut sharded: Vec<(String, Vec<String>)> = Vec::new();
    for (split, path) in shards {
        match sharded.iter_mut().find(|(name, _)| name == split) {
            Some((_, files)) => files.push(path.to_owned()),
            None => sharded.push((split.to_owned(), vec![path.to_owned()])),
        }
    }
    if !sharded.is_empty() {
        return sharded;
    }
    let has_word = |path: &str, words: &[&str]| {
        let stem = path.rsplit_once('.').map_or(path, |(stem, _)| stem);
        stem.split(|c: char| !c.is_ascii_alphanumeric()).any(|part| words.contains(&part.to_lowercase().as_str()))
    };
    let mut splits: Vec<(String, Vec<String>)> = Vec::new();
    for (split, words) in WORDS {
        let files: Vec<String> = data.iter().filter(|path| has_word(path, words)).map(|path| (*path).into()).collect();
        if !files.is_empty() {
            splits.push((split.to_owned(), files));
        }
    }
    if splits.is_empty() && !data.is_empty() {
        splits.push(("train".into(), data.into_iter().map(str::to_owned).collect()));
    }
    splits
}

/// The split of a file that is named as the hub's own tools name them: `data/train_sft-00000-of-00002.parquet`.
fn shard_of(path: &str) -> Option<&str> {
    let (stem, _) = path.rsplit('/').next()?.rsplit_once('.')?;
    let (stem, count) = stem.rsplit_once("-of-")?;
    let (split, place) = stem.rsplit_once('-')?;
    let is_number = |text: &str| text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    (is_number(count) && is_number(place)).then_some(split)
}

/// Files about the dataset, which hold no rows.
fn is_about(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    ["dataset_infos.json", "dataset_info.json", "state.json", "config.json"].contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(splits: Vec<(String, Vec<String>)>) -> Vec<String> {
        splits.into_iter().map(|(name, files)| format!("{name}: {}", files.join(" "))).collect()
    }

    #[test]
    fn names_of_files_say_their_split() {
        let paths = [
            "README.md",
            "data/train-00001-of-00002.parquet",
            "data/train-00000-of-00002.parquet",
            "data/validation-00000-of-00001.parquet",
            "dataset_infos.json",
            "training_script.py",
        ];
        assert_eq!(
            names(by_name(&paths, None)),
            [
                "train: data/train-00000-of-00002.parquet data/train-00001-of-00002.parquet",
                "validation: data/validation-00000-of-00001.parquet"
            ]
        );
        assert_eq!(names(by_name(&["train.jsonl", "my-dev.json"], None)), ["train: train.jsonl", "valid: my-dev.json"]);
        assert_eq!(names(by_name(&["a.jsonl", "b.txt"], None)), ["train: a.jsonl"]);
        let by_config = by_name(&["en/test.jsonl", "de/test.jsonl", "de/x/train.json"], Some("de"));
        assert_eq!(names(by_config), ["train: de/x/train.json", "test: de/test.jsonl"]);
    }

    #[test]
    fn the_readme_goes_before() {
        let readme = "---\nlicense: mit\nconfigs:\n- config_name: b\n  data_files: '*.jsonl'\n- config_name: a\n  default: true\n  \
                      data_files:\n  - split: train\n    path: data/tr*\n  - split: dev\n    path: [x/**, none/*]\n---\n# Title\n";
        let paths = ["all.jsonl", "data/tr-1.json", "data/tr/2.json", "x/y/z.jsonl", "x/notes.txt"];
        assert_eq!(names(of_repository(&paths, Some(readme), None)), ["train: data/tr-1.json", "dev: x/y/z.jsonl"]);
        assert_eq!(names(of_repository(&paths, Some(readme), Some("b"))), ["train: all.jsonl"]);
        assert_eq!(canonical("dev"), "valid");
    }
}
