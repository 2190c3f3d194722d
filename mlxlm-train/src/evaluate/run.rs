//! Answering the questions of a task, as lm-evaluation-harness asks them and Python mlx-lm's `evaluate` answers them.

use std::collections::BTreeMap;

use mlxlm_core::hub::{Hub, Progress};
use mlxlm_core::text::Tokenizer;
use mlxlm_models::CausalLm;
use mlxlm_sample::GenerateOptions;
use serde_json::{Map, Value, json};

use super::EvaluateError;
use super::ask::{Asking, MAX_TOKENS, Question};
use super::metric::Metric;
use super::numpy::PythonRandom;
use super::score::scores;
use super::task::{OutputType, Task};
use super::write::write;
use crate::Result;
use crate::data::Example;

/// The seed with which the harness draws examples.
const SHOTS_SEED: u32 = 1234;

/// How tasks are answered.
#[derive(Debug, Clone)]
pub struct EvaluateOptions {
    /// Questions that are answered together.
    pub batch_size: usize,
    /// Examples before each question, instead of the task's own number.
    pub num_shots: Option<usize>,
    /// The most tokens of a question with its answer, and of an answer that is written.
    pub max_tokens: Option<usize>,
    /// Only so many questions.
    pub limit: Option<usize>,
    /// Questions as messages; by default where the model has a template.
    pub apply_chat_template: Option<bool>,
    /// Each example as messages of its own.
    pub shots_as_multiturn: bool,
    /// Further variables of the template.
    pub template_kwargs: Map<String, Value>,
    /// How answers are written.
    pub generate: GenerateOptions,
}

impl Default for EvaluateOptions {
    fn default() -> Self {
        Self {
            batch_size: 8,
            num_shots: None,
            max_tokens: None,
            limit: None,
            apply_chat_template: None,
            shots_as_multiturn: false,
            template_kwargs: Map::new(),
            generate: GenerateOptions::default(),
        }
    }
}

/// One number of a task.
#[derive(Debug, Clone, PartialEq)]
pub struct Measure {
    /// The metric.
    pub metric: String,
    /// The filters before it; `none` for none.
    pub filter: String,
    /// The number.
    pub value: f64,
    /// Its standard error, if it has one.
    pub error: Option<f64>,
    /// Whether more is better.
    pub higher_is_better: bool,
}

/// What was answered to one question.
#[derive(Debug, Clone, PartialEq)]
pub struct Answered {
    /// What the model read.
    pub prompt: String,
    /// What it wrote, or the choice that it found most likely.
    pub answer: String,
    /// What would have been right.
    pub target: String,
}

/// The result of a task.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskResult {
    /// The task.
    pub task: String,
    /// Examples before each question.
    pub shots: usize,
    /// Questions.
    pub questions: usize,
    /// Its numbers.
    pub measures: Vec<Measure>,
    /// The answers, in the order of the questions.
    pub answers: Vec<Answered>,
}

impl TaskResult {
    /// The numbers as the harness writes them: `{"acc,none": …, "acc_stderr,none": …}`.
    pub fn to_json(&self) -> Value {
        let mut entries = Map::from_iter([("alias".to_owned(), json!(self.task))]);
        for Measure { metric, filter, value, error, .. } in &self.measures {
            entries.insert(format!("{metric},{filter}"), json!(value));
            entries.insert(format!("{metric}_stderr,{filter}"), error.map_or(json!("N/A"), |error| json!(error)));
        }
        Value::Object(entries)
    }
}

/// Answers a task. `done` hears how many of how many steps are done.
///
/// # Errors
/// [`EvaluateError::Document`] for documents that do not fit the templates; those of the dataset and the model.
pub fn run(
    task: &Task,
    model: &dyn CausalLm,
    tokenizer: &Tokenizer,
    options: &EvaluateOptions,
    hub: &Hub,
    progress: &Progress,
    done: &mut dyn FnMut(usize, usize),
) -> Result<TaskResult> {
    let mut records = task.documents.read(&task.split, &task.path, hub, progress)?;
    records.truncate(options.limit.unwrap_or(usize::MAX));
    let shots = options.num_shots.unwrap_or(task.shots);
    let pool = match shots {
        0 => Vec::new(),
        _ => {
            let split = task.shots_split.as_deref().unwrap_or(&task.split);
            task.documents.read(split, &task.path, hub, progress)?
        }
    };
    let chat = options.apply_chat_template.unwrap_or_else(|| tokenizer.has_chat_template());
    let asking = Asking { task, tokenizer, options, pool: &pool, shots, chat };
    let mut random = PythonRandom::new(SHOTS_SEED);
    let mut questions = Vec::with_capacity(records.len());
    for record in &records {
        let question = asking.question(record, &mut random);
        questions.push(question.map_err(|why| EvaluateError::Document { place: record.place.to_string(), why })?);
    }
    let (measures, answers) = match task.output {
        OutputType::Generate => asking.written(&questions, model, done)?,
        _ => asking.scored(&questions, model, done)?,
    };
    Ok(TaskResult { task: task.name.clone(), shots, questions: questions.len(), measures, answers })
}

impl Asking<'_> {
    /// The measures of a task that asks how likely answers are.
    fn scored(
        &self,
        questions: &[Question],
        model: &dyn CausalLm,
        done: &mut dyn FnMut(usize, usize),
    ) -> Result<(Vec<Measure>, Vec<Answered>)> {
        let delimiter = if self.chat { "" } else { &self.task.target_delimiter };
        let mut rows = Vec::new();
        for question in questions {
            match self.task.output {
                OutputType::MultipleChoice => {
                    for choice in &question.choices {
                        rows.push(self.pair(&question.context, &format!("{delimiter}{choice}"))?);
                    }
                }
                // As the reference does it, nothing is read before a text: its first token is not scored.
                OutputType::Rolling => {
                    let tokens = self.encode(question.targets.first().map_or("", String::as_str))?;
                    rows.push(Example { tokens, start: 0 });
                }
                _ => rows.push(self.pair(&question.context, question.targets.first().map_or("", String::as_str))?),
            }
        }
        let total = rows.len();
        let scored = scores(model, &rows, self.options.batch_size, |count| done(count, total))?;
        let mut scored = scored.into_iter();
        let mut values: BTreeMap<usize, (Vec<f64>, Vec<f64>)> = BTreeMap::new();
        let mut answers = Vec::new();
        for question in questions {
            let count = if self.task.output == OutputType::MultipleChoice { question.choices.len() } else { 1 };
            let own: Vec<_> = scored.by_ref().take(count).collect();
            let likely = |by: &dyn Fn(usize) -> f64| {
                let best = (0..own.len()).map(|i| own[i].log_probability / by(i));
                // Of equals the first, as there.
                best.enumerate().fold((0, f64::NEG_INFINITY), |best, now| if now.1 > best.1 { now } else { best }).0
            };
            let first = likely(&|_| 1.0);
            let hit = |is_hit: bool| if is_hit { 1.0 } else { 0.0 };
            let target = question.targets.first().map_or("", String::as_str);
            for (i, metric) in self.task.metrics.iter().enumerate() {
                let (value, weight) = match (metric, self.task.output) {
                    (Metric::Accuracy, OutputType::MultipleChoice) => (hit(first == question.right), 1.0),
                    (Metric::AccuracyByLength, _) => {
                        let by_length = likely(&|i| question.choices[i].chars().count().max(1) as f64);
                        (hit(by_length == question.right), 1.0)
                    }
                    (Metric::Accuracy, _) => (hit(own[0].is_greedy), 1.0),
                    (Metric::WordPerplexity, _) => (own[0].log_probability, target.split_whitespace().count() as f64),
                    (Metric::BytePerplexity | Metric::BitsPerByte, _) => (own[0].log_probability, target.len() as f64),
                    _ => (own[0].log_probability, 1.0),
                };
                let (all, weights) = values.entry(i).or_default();
                all.push(value);
                weights.push(weight);
            }
            answers.push(Answered {
                prompt: question.context.clone(),
                answer: question.choices.get(first).cloned().unwrap_or_default(),
                target: target.to_owned(),
            });
        }
        let none = (Vec::new(), Vec::new());
        let measures = self.task.metrics.iter().enumerate().map(|(i, metric)| {
            let (values, weights) = values.get(&i).unwrap_or(&none);
            measure(metric, "none", values, weights)
        });
        Ok((measures.collect(), answers))
    }

    /// The measures of a task whose answers are written.
    fn written(
        &self,
        questions: &[Question],
        model: &dyn CausalLm,
        done: &mut dyn FnMut(usize, usize),
    ) -> Result<(Vec<Measure>, Vec<Answered>)> {
        let prompts: Vec<Vec<u32>> =
            questions.iter().map(|question| self.encode(&question.context)).collect::<Result<_>>()?;
        let most = self.options.max_tokens.or(self.task.max_tokens).unwrap_or(MAX_TOKENS);
        let generate = GenerateOptions { max_tokens: Some(most), ..self.options.generate.clone() };
        let total = prompts.len();
        let (until, batch_size) = (&self.task.until, self.options.batch_size);
        let texts = write(model, self.tokenizer, &prompts, until, batch_size, &generate, |count| done(count, total))?;
        let answers: Vec<Answered> = questions
            .iter()
            .zip(texts)
            .map(|(question, answer)| Answered {
                prompt: question.context.clone(),
                answer,
                target: question.targets.first().cloned().unwrap_or_default(),
            })
            .collect();
        let mut measures = Vec::new();
        for (name, filters) in &self.task.filters {
            let filtered: Vec<String> = answers
                .iter()
                .map(|answered| filters.iter().fold(answered.answer.clone(), |answer, filter| filter.apply(answer)))
                .collect();
            for metric in &self.task.metrics {
                let hits = questions.iter().zip(&filtered);
                let hits = hits.map(|(question, answer)| metric.matches(answer, &question.targets));
                let hits: Vec<f64> = hits.map(|is_hit| if is_hit { 1.0 } else { 0.0 }).collect();
                measures.push(measure(metric, name, &hits, &[]));
            }
        }
        Ok((measures, answers))
    }
}

fn measure(metric: &Metric, filter: &str, values: &[f64], weights: &[f64]) -> Measure {
    let (value, error) = metric.result(values, weights);
    let higher_is_better = metric.higher_is_better();
    Measure { metric: metric.name().to_owned(), filter: filter.to_owned(), value, error, higher_is_better }
}
