//! An answer to each prompt of a file: a continuous batch, with the answers in a JSON Lines file as they come.
//!
//! The file may be interrupted at any time: a line is written whole or not at all, and the next run goes on with the prompts that
//! have no answer yet.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};
use mlxlm_core::text::{TemplateOptions, Tokenizer};
use mlxlm_models::CausalLm;
use mlxlm_sample::engine::{
    Chooser, Engine, EngineOptions, Event, EventKind, FinishReason, Sequence, SequenceId, Token,
};
use mlxlm_sample::grammar::Matcher;
use mlxlm_sample::{GenerateOptions, SamplerOptions};
use serde_json::{Map, Value, json};

use super::decoding::Speculation;
use crate::args::{GenerateArgs, PromptsArgs};
use crate::failure::{Failure, Result};
use crate::output::{note, say};
use crate::prompt::{self, Turn};

/// Prompts that have no answer yet, and where answers go.
pub(super) struct Many {
    prompts: VecDeque<Prompt>,
    /// Prompts of the file.
    total: usize,
    output: PathBuf,
    batch_size: usize,
}

/// A line of the file.
struct Prompt {
    /// Its place in the file, from zero on.
    place: usize,
    id: Value,
    content: Content,
}

enum Content {
    Text(String),
    Messages(Vec<Value>),
}

/// What all answers share.
pub(super) struct Answering<'a> {
    pub(super) args: &'a GenerateArgs,
    pub(super) kwargs: Map<String, Value>,
    pub(super) tokenizer: &'a Tokenizer,
    pub(super) model: &'a dyn CausalLm,
    pub(super) options: GenerateOptions,
    pub(super) speculation: Speculation,
    pub(super) matcher: Option<Matcher>,
}

/// An answer that is under way.
struct Answer {
    id: Value,
    prompt_tokens: usize,
    tokens: Vec<u32>,
}

impl Many {
    /// Reads and checks the whole file before anything is loaded.
    pub(super) fn open(args: &PromptsArgs) -> Result<Option<Self>> {
        let (Some(path), Some(output)) = (&args.prompts, &args.output) else { return Ok(None) };
        let answered = answered(output)?;
        let (mut prompts, mut ids) = (VecDeque::new(), HashSet::new());
        let mut total = 0;
        for (at, line) in mlxlm_core::io::lines(path)?.enumerate() {
            let line = line?;
            if line.trim().is_empty() {
                continue;
            }
            let prompt = Prompt::parse(&line, total).map_err(|what| at_line(path, at, &what))?;
            if !ids.insert(prompt.id.to_string()) {
                return Err(at_line(path, at, &format!("the id {} was there before", prompt.id)));
            }
            total += 1;
            if !answered.contains(&prompt.id.to_string()) {
                prompts.push_back(prompt);
            }
        }
        if total == 0 {
            return Err(Failure::new(format!("`{}` has no prompts", path.display())));
        }
        Ok(Some(Self { prompts, total, output: output.clone(), batch_size: args.batch_size.get() }))
    }

    /// Answers all prompts.
    pub(super) fn answer(mut self, with: &Answering) -> Result {
        let done = self.total - self.prompts.len();
        if done > 0 {
            note(format_args!("{done} of {} prompts are answered in `{}` already", self.total, self.output.display()));
        }
        let mut file = append_to(&self.output)?;
        let bar = bar(self.total, done);
        let mut engine = Engine::new(EngineOptions {
            prefill_step_size: with.options.prefill_step_size,
            max_running: self.batch_size,
            prefer_prefill_when_pending: true,
        })?;
        let mut answers: BTreeMap<SequenceId, Answer> = BTreeMap::new();
        let (mut failed, mut generated, begin) = (0, 0, Instant::now());
        loop {
            while answers.len() < self.batch_size
                && let Some(prompt) = self.prompts.pop_front()
            {
                match with.insert(&mut engine, &prompt) {
                    Ok((id, prompt_tokens)) => {
                        answers.insert(id, Answer { id: prompt.id, prompt_tokens, tokens: Vec::new() });
                    }
                    Err(failure) => {
                        failed += 1;
                        write(&mut file, &self.output, &json!({"id": prompt.id, "error": failure.to_string()}))?;
                        bar.inc(1);
                    }
                }
            }
            if engine.is_idle() {
                break;
            }
            for Event { id, kind } in engine.step(with.model)? {
                let line = match kind {
                    EventKind::Token { token, .. } => {
                        generated += 1;
                        let Some(answer) = answers.get_mut(&id) else { continue };
                        answer.add(&token);
                        let Some(finish) = token.finish else { continue };
                        answer.line(with.tokenizer, finish)?
                    }
                    EventKind::Failed { error, .. } => {
                        failed += 1;
                        json!({"id": answers.get(&id).map(|answer| &answer.id), "error": error.to_string()})
                    }
                    EventKind::Read { .. } | EventKind::Checkpoint(_) => continue,
                };
                answers.remove(&id);
                write(&mut file, &self.output, &line)?;
                bar.inc(1);
            }
            bar.set_message(format!("{:.1} tokens/s", f64::from(generated) / begin.elapsed().as_secs_f64()));
        }
        bar.finish_and_clear();
        if with.args.verbose {
            let seconds = begin.elapsed().as_secs_f64();
            let answers = self.total - done;
            say!(
                "{answers} answers, {generated} tokens in {seconds:.1} s: {:.3} tokens-per-sec",
                f64::from(generated) / seconds
            )?;
        }
        match failed {
            0 => Ok(()),
            n => Err(Failure::new(format!("{n} of {} prompts have no answer", self.total))
                .hint(format!("`{}` says why, in the lines with an `error`", self.output.display()))),
        }
    }
}

impl Prompt {
    fn parse(line: &str, place: usize) -> std::result::Result<Self, String> {
        let value: Value = serde_json::from_str(line).map_err(|error| format!("not JSON: {error}"))?;
        let (id, content) = match value {
            Value::String(text) => (None, Content::Text(text)),
            Value::Object(mut fields) => {
                let id = fields.remove("id");
                let content = match (fields.remove("prompt"), fields.remove("messages")) {
                    (Some(Value::String(text)), None) => Content::Text(text),
                    (None, Some(Value::Array(messages))) if !messages.is_empty() => Content::Messages(messages),
                    _ => return Err("expected either a `prompt`, a string, or `messages`, a list".into()),
                };
                if let Some(unknown) = fields.keys().next() {
                    return Err(format!("unknown field `{unknown}`; known are `id`, `prompt` and `messages`"));
                }
                (id, content)
            }
            _ => return Err("expected a string or an object".into()),
        };
        Ok(Self { place, id: id.unwrap_or_else(|| json!(place)), content })
    }
}

impl Answering<'_> {
    /// Gives a prompt to the engine: its sequence, and the tokens of the prompt.
    fn insert<'p>(&'p self, engine: &mut Engine<'p>, prompt: &Prompt) -> Result<(SequenceId, usize)> {
        let tokens = self.tokens(&prompt.content)?;
        let seed = self.options.sampler.seed.map(|seed| seed.wrapping_add(prompt.place as u64));
        let sampler = SamplerOptions { seed, ..self.options.sampler.clone() };
        let chooser = Chooser::from_options(&sampler, &self.options.processors)?;
        let count = tokens.len();
        let mut sequence = Sequence::new(tokens, chooser, &self.options);
        sequence.stop_tokens = self.tokenizer.eos_token_ids().iter().copied().collect();
        sequence.proposer = self.speculation.proposer(self.model, &self.options)?;
        sequence.matcher.clone_from(&self.matcher);
        Ok((engine.insert(self.model, sequence)?, count))
    }

    fn tokens(&self, content: &Content) -> Result<Vec<u32>> {
        let has_template = !self.args.ignore_chat_template && self.tokenizer.has_chat_template();
        let rendered = match content {
            Content::Text(text) if !has_template => {
                return prompt::plain_tokens(text, self.tokenizer, self.model);
            }
            Content::Text(text) => {
                let (system, prefill) = (self.args.system_prompt.clone(), self.args.prefill_response.clone());
                Turn { system, user: text.clone(), prefill, kwargs: self.kwargs.clone() }.render(self.tokenizer)?
            }
            Content::Messages(_) if !has_template => {
                return Err(Failure::new("`messages` need a chat template, which is not there or ignored"));
            }
            Content::Messages(messages) => {
                let options = TemplateOptions {
                    add_generation_prompt: true,
                    kwargs: self.kwargs.clone(),
                    ..TemplateOptions::default()
                };
                self.tokenizer.apply_chat_template(messages, &options)?
            }
        };
        prompt::rendered_tokens(&rendered, self.tokenizer, self.model)
    }
}

impl Answer {
    fn add(&mut self, token: &Token) {
        if token.finish != Some(FinishReason::Stop) {
            self.tokens.push(token.id);
        }
    }

    fn line(&self, tokenizer: &Tokenizer, finish: FinishReason) -> Result<Value> {
        Ok(json!({
            "id": self.id,
            "text": tokenizer.decode(&self.tokens)?,
            "finish_reason": finish.name(),
            "prompt_tokens": self.prompt_tokens,
            "generation_tokens": self.tokens.len() + usize::from(finish == FinishReason::Stop),
        }))
    }
}

/// The ids that have an answer in a file that may not exist. Errors are tried again; a last line that was cut off is taken away.
fn answered(path: &Path) -> Result<HashSet<String>> {
    if !path.exists() {
        return Ok(HashSet::new());
    }
    let text = mlxlm_core::io::read_to_string(path)?;
    let whole = text.rfind('\n').map_or(0, |end| end + 1);
    let mut ids = HashSet::new();
    let mut kept = String::with_capacity(whole);
    for (at, line) in text[..whole].lines().enumerate() {
        let value: Value =
            serde_json::from_str(line).map_err(|error| at_line(path, at, &format!("not JSON: {error}")))?;
        let (Some(id), true) = (value.get("id"), value.get("text").is_some() || value.get("error").is_some()) else {
            return Err(at_line(path, at, "not an answer of this command").hint("name another file with `--output`"));
        };
        if value.get("text").is_some() {
            ids.insert(id.to_string());
            kept.push_str(line);
            kept.push('\n');
        }
    }
    if kept.len() < text.len() {
        mlxlm_core::io::write(path, &kept)?;
    }
    Ok(ids)
}

fn append_to(path: &Path) -> Result<File> {
    let cannot = |error| Failure::new(format!("cannot write `{}`: {error}", path.display()));
    OpenOptions::new().create(true).append(true).open(path).map_err(cannot)
}

/// Writes a line at once, so that an interrupt leaves whole lines.
fn write(file: &mut File, path: &Path, line: &Value) -> Result {
    let cannot = |error| Failure::new(format!("cannot write `{}`: {error}", path.display()));
    file.write_all(format!("{line}\n").as_bytes()).map_err(cannot)
}

fn at_line(path: &Path, at: usize, what: &str) -> Failure {
    Failure::new(format!("`{}` line {}: {what}", path.display(), at + 1))
}

fn bar(total: usize, done: usize) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg} {eta}");
    let bar = ProgressBar::new(total as u64).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.set_position(done as u64);
    bar
}
