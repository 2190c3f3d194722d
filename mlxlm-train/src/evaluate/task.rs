//! A task in the form of lm-evaluation-harness: a YAML file that says where documents are, how they become questions, and
//! how answers are measured.
//!
//! Source: `lm_eval/config/task.py` and `lm_eval/api/task.py` of lm-eval 0.4.9. Unusual: what is not supported (functions in
//! Python, other metrics and filters) is refused by name before anything is computed.

use std::path::{Path, PathBuf};

use mlxlm_core::io;
use serde_json::{Map, Value};

use super::EvaluateError;
use super::docs::Documents;
use super::metric::{Filter, Metric};
use crate::Result;

/// How a question is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OutputType {
    MultipleChoice,
    LogLikelihood,
    Rolling,
    Generate,
}

/// A task.
#[derive(Debug, Clone)]
pub struct Task {
    /// Its name.
    pub name: String,
    /// Its file.
    pub path: PathBuf,
    pub(super) output: OutputType,
    pub(super) documents: Documents,
    pub(super) split: String,
    pub(super) shots_split: Option<String>,
    /// The split of examples, where the task names one.
    pub(super) named_shots: Option<String>,
    pub(super) first_shots: bool,
    pub(super) description: String,
    pub(super) to_text: String,
    pub(super) to_target: Value,
    pub(super) to_choice: Option<Value>,
    pub(super) target_delimiter: String,
    pub(super) shot_delimiter: String,
    pub(super) shots: usize,
    pub(super) until: Vec<String>,
    pub(super) max_tokens: Option<usize>,
    pub(super) metrics: Vec<Metric>,
    pub(super) filters: Vec<(String, Vec<Filter>)>,
}

/// Entries that change nothing of the result here.
const IDLE: [&str; 10] = [
    "task",
    "task_alias",
    "tag",
    "group",
    "metadata",
    "dataset_path",
    "dataset_name",
    "dataset_kwargs",
    "include",
    "should_decontaminate",
];

impl Task {
    /// Reads a task file.
    ///
    /// # Errors
    /// [`EvaluateError::Task`] for what is missing, of another kind, or not supported.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let entries = entries(path, 0)?;
        Self::of(path, entries).map_err(|why| EvaluateError::Task { path: path.to_owned(), why }.into())
    }

    fn of(path: &Path, entries: Map<String, Value>) -> Result<Self, String> {
        let documents = Documents::of(&entries)?;
        let mut read = Entries { entries, seen: IDLE.iter().map(|key| (*key).to_owned()).collect() };
        let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        let name = read.entries.get("task").and_then(Value::as_str).map_or(stem, str::to_owned);
        let output = match read.text("output_type")?.as_deref().unwrap_or("generate_until") {
            "multiple_choice" => OutputType::MultipleChoice,
            "loglikelihood" => OutputType::LogLikelihood,
            "loglikelihood_rolling" => OutputType::Rolling,
            "generate_until" => OutputType::Generate,
            other => return Err(format!("has the `output_type` `{other}`, which is not supported")),
        };
        let [test, valid, train, shots] =
            ["test_split", "validation_split", "training_split", "fewshot_split"].map(|key| read.text(key));
        let (test, valid, train, shots_split) = (test?, valid?, train?, shots?);
        let named_shots = shots_split.clone();
        let shots_split = shots_split.or_else(|| train.clone()).or_else(|| valid.clone()).or_else(|| test.clone());
        let split = test.or(valid).or(train).ok_or("has no `test_split`, `validation_split` or `training_split`")?;
        let first_shots = match read.take("fewshot_config")? {
            None | Some(Value::Null) => false,
            Some(config) => match config.get("sampler").and_then(Value::as_str) {
                Some("first_n") => true,
                Some("default") | None if config.get("samples").is_none() => false,
                _ => return Err("has a `fewshot_config` other than `sampler: first_n`".into()),
            },
        };
        let (mut until, max_tokens) = generation(read.take("generation_kwargs")?)?;
        let shot_delimiter = read.text("fewshot_delimiter")?.unwrap_or_else(|| "\n\n".into());
        if until.is_empty() {
            until.push(shot_delimiter.clone());
        }
        let metrics = match read.take("metric_list")? {
            None => Metric::usual(output),
            Some(Value::Array(list)) => {
                list.iter().map(|entry| Metric::read(entry, output)).collect::<Result<_, _>>()?
            }
            Some(_) => return Err("has a `metric_list` that is no list".into()),
        };
        let filters = match read.take("filter_list")? {
            None => vec![("none".to_owned(), vec![Filter::TakeFirst])],
            Some(Value::Array(list)) => list.iter().map(Filter::read_chain).collect::<Result<_, _>>()?,
            Some(_) => return Err("has a `filter_list` that is no list".into()),
        };
        let to_choice = read.take("doc_to_choice")?;
        if output == OutputType::MultipleChoice && to_choice.is_none() {
            return Err("is a `multiple_choice` without `doc_to_choice`".into());
        }
        let needs_text = output != OutputType::Rolling;
        let to_text = read.text("doc_to_text")?;
        let task = Self {
            name,
            path: path.to_owned(),
            output,
            documents,
            split,
            shots_split,
            named_shots,
            first_shots,
            description: read.text("description")?.unwrap_or_default(),
            to_text: match to_text {
                None if needs_text => return Err("has no `doc_to_text`".into()),
                text => text.unwrap_or_default(),
            },
            to_target: read.take("doc_to_target")?.ok_or("has no `doc_to_target`")?,
            to_choice,
            target_delimiter: read.text("target_delimiter")?.unwrap_or_else(|| " ".into()),
            shot_delimiter,
            shots: match read.take("num_fewshot")? {
                None | Some(Value::Null) => 0,
                Some(number) => number.as_u64().ok_or("has a `num_fewshot` that is no number")? as usize,
            },
            until,
            max_tokens,
            metrics,
            filters,
        };
        match read.take("repeats")? {
            Some(repeats) if repeats != 1 => return Err("has `repeats` other than 1".into()),
            _ => {}
        }
        read.finish()?;
        Ok(task)
    }
}

/// The strings that end an answer, and the most tokens of it.
fn generation(kwargs: Option<Value>) -> Result<(Vec<String>, Option<usize>), String> {
    let (mut until, mut max_tokens) = (Vec::new(), None);
    let kwargs = match kwargs {
        None => return Ok((until, max_tokens)),
        Some(Value::Object(kwargs)) => kwargs,
        Some(_) => return Err("has `generation_kwargs` that are no entries".into()),
    };
    for (key, value) in kwargs {
        match (key.as_str(), &value) {
            ("until", Value::String(stop)) => until.push(stop.clone()),
            ("until", Value::Array(stops)) => {
                until.extend(stops.iter().filter_map(|stop| stop.as_str().map(str::to_owned)));
            }
            ("max_gen_toks" | "max_new_tokens" | "max_tokens", Value::Number(most)) => {
                max_tokens = most.as_u64().map(|most| most as usize);
            }
            ("do_sample", Value::Bool(false)) => {}
            // What greedy answers are written with anyway.
            ("temperature", Value::Number(number)) if number.as_f64() == Some(0.0) => {}
            ("top_p", Value::Number(number)) if number.as_f64() == Some(1.0) => {}
            _ => return Err(format!("has `generation_kwargs.{key}: {value}`, which is not supported")),
        }
    }
    Ok((until, max_tokens))
}

/// The entries of a task, and which of them were read.
struct Entries {
    entries: Map<String, Value>,
    seen: Vec<String>,
}

impl Entries {
    fn take(&mut self, key: &str) -> Result<Option<Value>, String> {
        self.seen.push(key.to_owned());
        let value = self.entries.get(key).cloned().filter(|value| !value.is_null());
        match value.as_ref().is_some_and(is_function) {
            true => Err(format!("has a Python function as `{key}`, which is not run")),
            false => Ok(value),
        }
    }

    fn text(&mut self, key: &str) -> Result<Option<String>, String> {
        match self.take(key)? {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(format!("has a `{key}` that is no string")),
        }
    }

    /// Refuses what was not read.
    fn finish(&self) -> Result<(), String> {
        // What says only where a text came from, or is looked at by other parts of the harness.
        let idle = ["doc_to_decontamination_query", "unsafe_code"];
        let left = self
            .entries
            .iter()
            .find(|(key, value)| !self.seen.contains(key) && !idle.contains(&key.as_str()) && !value.is_null());
        left.map_or(Ok(()), |(key, _)| Err(format!("has `{key}`, which is not supported")))
    }
}

/// How a tag `!function` comes out of the reader below.
const FUNCTION: &str = "!function ";

fn is_function(value: &Value) -> bool {
    match value {
        Value::String(text) => text.starts_with(FUNCTION),
        Value::Array(list) => list.iter().any(is_function),
        Value::Object(map) => map.values().any(is_function),
        _ => false,
    }
}

/// The entries of a file over those of the one that it includes.
fn entries(path: &Path, depth: usize) -> Result<Map<String, Value>> {
    let wrong = |why: String| EvaluateError::Task { path: path.to_owned(), why };
    let text = io::read_to_string(path)?;
    // The tag makes no value of its own; as a string it is seen, and refused where it would be used.
    let text = text.replace(": !function ", &format!(": \"{FUNCTION}\" #"));
    let value: Value = serde_saphyr::from_str(&text).map_err(|error| wrong(format!("is no YAML: {error}")))?;
    let Value::Object(own) = value else { return Err(wrong("holds no entries".into()).into()) };
    let Some(base) = own.get("include").and_then(Value::as_str) else { return Ok(own) };
    if depth > 8 {
        return Err(wrong("includes files too deep".into()).into());
    }
    let mut all = entries(&path.parent().unwrap_or(Path::new("")).join(base), depth + 1)?;
    all.extend(own);
    Ok(all)
}
