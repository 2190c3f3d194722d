//! What a model is asked: the questions of a task as texts, with examples before them, and what would be right.

use mlxlm_core::text::{TemplateOptions, Tokenizer};
use serde_json::{Value, json};

use super::EvaluateOptions;
use super::numpy::PythonRandom;
use super::task::{OutputType, Task};
use super::template;
use crate::Result;
use crate::data::{Example, Record};

/// The most tokens of a question with its answer, as in the reference.
pub(super) const MAX_TOKENS: usize = 8192;

/// A question as the model is asked it.
pub(super) struct Question {
    pub(super) context: String,
    pub(super) choices: Vec<String>,
    /// The index of the right choice.
    pub(super) right: usize,
    /// The right answers as texts.
    pub(super) targets: Vec<String>,
}

/// A task with all that its questions are made of.
pub(super) struct Asking<'a> {
    pub(super) task: &'a Task,
    pub(super) tokenizer: &'a Tokenizer,
    pub(super) options: &'a EvaluateOptions,
    pub(super) pool: &'a [Record],
    pub(super) shots: usize,
    pub(super) chat: bool,
}

impl Asking<'_> {
    /// The question of a document.
    pub(super) fn question(&self, record: &Record, random: &mut PythonRandom) -> Result<Question, String> {
        let (choices, right, targets) = self.answers(record)?;
        let context = match self.task.output {
            OutputType::Rolling => String::new(),
            _ => self.context(record, random)?,
        };
        Ok(Question { context, choices, right, targets })
    }

    /// The choices of a document, the index of the right one, and the right answers.
    fn answers(&self, record: &Record) -> Result<(Vec<String>, usize, Vec<String>), String> {
        let fields = &record.fields;
        let choices = match &self.task.to_choice {
            None => Vec::new(),
            Some(Value::String(template)) => texts(template::value(template, fields)?)?,
            Some(Value::Object(choices)) => texts(choices.values().cloned().collect())?,
            Some(list) => texts(list.clone())?,
        };
        let target = match &self.task.to_target {
            Value::String(template) => template::value(template, fields)?,
            other => other.clone(),
        };
        let index = match &target {
            Value::Number(number) => number.as_u64().map(|index| index as usize),
            Value::String(text) if !choices.is_empty() => {
                choices.iter().position(|choice| choice == text).or_else(|| text.trim().parse().ok())
            }
            _ => None,
        };
        if self.task.output == OutputType::MultipleChoice {
            let right = index.filter(|&index| index < choices.len());
            let right = right.ok_or_else(|| format!("its target {target} is none of its {} choices", choices.len()))?;
            return Ok((choices.clone(), right, vec![choices[right].clone()]));
        }
        let targets = match (index, target) {
            (Some(index), _) if index < choices.len() => vec![choices[index].clone()],
            (_, Value::Array(list)) => texts(Value::Array(list))?,
            (_, other) => texts(Value::Array(vec![other]))?,
        };
        Ok((choices, 0, targets))
    }

    /// What stands before the answer: description, examples, and the question.
    fn context(&self, record: &Record, random: &mut PythonRandom) -> Result<String, String> {
        let Task { description, shot_delimiter, target_delimiter, .. } = self.task;
        let description = template::render(description, &record.fields)?;
        let text = self.text(record)?;
        let mut shots = Vec::new();
        for record in self.examples(record, random) {
            let target = self.answers(record)?.2.into_iter().next().unwrap_or_default();
            shots.push((self.text(record)?, target));
        }
        let mut joined = String::new();
        for (text, target) in &shots {
            joined.extend([text, target_delimiter, target, shot_delimiter].map(String::as_str));
        }
        if !self.chat {
            return Ok(format!("{description}{joined}{text}"));
        }
        let say = |role: &str, content: &str| json!({"role": role, "content": content});
        let mut messages = Vec::new();
        if !description.is_empty() {
            messages.push(say("system", &description));
        }
        if self.options.shots_as_multiturn {
            for (text, target) in &shots {
                messages.extend([say("user", text), say("assistant", target)]);
            }
            messages.push(say("user", &text));
        } else {
            messages.push(say("user", &format!("{joined}{text}")));
        }
        let options = TemplateOptions {
            add_generation_prompt: true,
            kwargs: self.options.template_kwargs.clone(),
            ..TemplateOptions::default()
        };
        self.tokenizer.apply_chat_template(&messages, &options).map_err(|error| error.to_string())
    }

    fn text(&self, record: &Record) -> Result<String, String> {
        match record.fields.get(&self.task.to_text) {
            Some(Value::String(text)) => Ok(text.clone()),
            _ => template::render(&self.task.to_text, &record.fields),
        }
    }

    /// The examples before a question, which is none of them.
    fn examples(&self, record: &Record, random: &mut PythonRandom) -> Vec<&Record> {
        if self.shots == 0 {
            return Vec::new();
        }
        // The question itself is among them where both are said to be of one split.
        let excluded = self.task.named_shots.as_deref() == Some(self.task.split.as_str());
        let is_other = |shot: &&Record| !excluded || shot.fields != record.fields;
        if self.task.first_shots {
            return self.pool.iter().filter(is_other).take(self.shots).collect();
        }
        let drawn = random.sample(self.pool.len(), self.shots + usize::from(excluded));
        let chosen: Vec<&Record> = drawn.into_iter().map(|i| &self.pool[i]).filter(is_other).take(self.shots).collect();
        if chosen.len() == self.shots {
            return chosen;
        }
        let pool: Vec<&Record> = self.pool.iter().filter(is_other).collect();
        random.sample(pool.len(), self.shots).into_iter().map(|i| pool[i]).collect()
    }

    /// The tokens of a text; a chat template writes its special ones itself.
    pub(super) fn encode(&self, text: &str) -> Result<Vec<u32>> {
        Ok(self.tokenizer.encode(text, !self.chat)?)
    }

    /// A context and what follows it, cut at the front to what the model reads.
    pub(super) fn pair(&self, context: &str, rest: &str) -> Result<Example> {
        let mut tokens = self.encode(context)?;
        let whole = self.encode(&format!("{context}{rest}"))?;
        let mut start = tokens.len();
        tokens.extend_from_slice(whole.get(start..).unwrap_or_default());
        if start == 0 {
            // Something has to be read before the first token is predicted.
            let named = |name: &str| self.tokenizer.special_token_id(name);
            let first = named("bos_token").or_else(|| named("eos_token"));
            tokens.splice(0..0, first);
            start = 1;
        }
        let most = self.options.max_tokens.unwrap_or(MAX_TOKENS) + 1;
        let cut = tokens.len().saturating_sub(most).min(start.saturating_sub(1));
        Ok(Example { tokens: tokens.split_off(cut), start: start - cut })
    }
}

/// A list of strings; numbers are taken as they are written.
fn texts(value: Value) -> Result<Vec<String>, String> {
    let text = |value: &Value| match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        other => Err(format!("{other} is no text")),
    };
    match &value {
        Value::Array(list) => list.iter().map(text).collect(),
        // A list in a string, as Python or JSON writes it.
        Value::String(list) if list.trim_start().starts_with('[') => match serde_json::from_str(list) {
            Ok(Value::Array(list)) => list.iter().map(text).collect(),
            _ => {
                serde_json::from_str::<Vec<String>>(&list.replace('\'', "\"")).map_err(|_| format!("{list} is no list"))
            }
        },
        other => Err(format!("{other} is no list of choices")),
    }
}
