//! `/v1/completions`: text that follows prompts as they are.

use std::sync::Arc;

use axum::response::Response;
use serde_json::{Value, json};

use super::logprobs::Lists;
use super::{MAX_CHOICES, amounts, common, head, model, streaming};
use crate::api::choices::{Answer, Progress};
use crate::api::error::{ApiError, Dialect, Result};
use crate::api::wanted::{self, Wanted};
use crate::api::{Fields, adapters, ids, prompt, sampling};
use crate::app::{App, blocking};
use crate::engine::{Card, Generate, Work};
use crate::http::events::{Events, Gone};
use crate::http::{events, reply};
use crate::options::ServerOptions;

/// A request that was read.
#[derive(Debug)]
struct CompletionRequest {
    model: String,
    /// A job for each prompt.
    jobs: Vec<Generate>,
    /// The prompts as text, where they are to be echoed.
    echo: Option<Vec<String>>,
    stream: bool,
    include_usage: bool,
}

pub(crate) async fn handle(app: Arc<App>, mut fields: Fields) -> Result<Response> {
    let app = app.seat(&fields).await?;
    let card = app.card()?;
    let adapter = adapters::requested(&app, &mut fields).await?;
    let (own, facts) = (Arc::clone(&app), Arc::clone(&card));
    let mut request = blocking(move || CompletionRequest::read(fields, &own.options, &facts)).await?;
    request.jobs.iter_mut().for_each(|job| job.adapter.clone_from(&adapter));
    let choices = request.jobs.first().map_or(1, |job| job.choices);
    let prompt_tokens = request.jobs.iter().map(|job| job.prompt.len()).sum();
    let works = request.jobs.iter().map(|job| Work::Generate(Box::new(job.clone()))).collect();
    let mut answer = Answer::new(app.engine.submit(works)?, choices, prompt_tokens);
    let mut text = Text::new(card, request, choices);
    if !text.request.stream {
        while let Some(progress) = answer.next().await? {
            text.take(progress);
        }
        return Ok(reply::json(&text.whole(&answer)));
    }
    answer.begin().await?;
    Ok(events::response(Dialect::OpenAi, move |events| async move { text.stream(&events, answer).await }))
}

impl CompletionRequest {
    fn read(mut fields: Fields, options: &ServerOptions, card: &Card) -> Result<Self> {
        let model = model(&mut fields, options)?;
        let echo = fields.boolean("echo")?.unwrap_or(false);
        let mut generate = sampling::read(&mut fields, &options.defaults, card)?;
        amounts(&mut fields, &mut generate, u64::from(!echo))?;
        generate.stop = sampling::stop(&mut fields, "stop")?;
        generate.logprobs = logprobs(&mut fields)?;
        generate.score_prompt = echo && (generate.logprobs.is_some() || generate.max_tokens == 0);
        let (stream, include_usage) = streaming(&mut fields)?;
        let choices = generate.choices as u64;
        fields.only("best_of", &[choices.into()], "can be `n` only")?;
        fields.only("suffix", &["".into()], "is not supported")?;
        if let Some(Wanted { spec, path }) = wanted::read(&mut fields)? {
            let matcher = card.grammars.matcher(&spec);
            generate.matcher = Some(matcher.map_err(|error| wanted::refused(&error, &path))?);
        }
        common(&mut fields)?;
        let given = fields.any("prompt");
        let given = fields.required("prompt", given)?;
        fields.finish()?;
        let mut jobs = Vec::new();
        for prompt in prompt::prompts(given, "prompt", card, MAX_CHOICES as usize)? {
            let mut job = Generate { prompt: prompt.into_tokens(card)?, ..generate.clone() };
            sampling::fit(&mut job, card, "prompt")?;
            jobs.push(job);
        }
        let texts = || jobs.iter().map(|job| Ok(card.tokenizer.decode_without_special_tokens(&job.prompt)?));
        let echo = if echo { Some(texts().collect::<Result<Vec<_>>>()?) } else { None };
        Ok(Self { model, jobs, echo, stream, include_usage })
    }
}

/// `logprobs` is a number in OpenAI's API and true or false in mlx-lm's, which has `top_logprobs` besides.
fn logprobs(fields: &mut Fields) -> Result<Option<usize>> {
    const MOST: u64 = 20;
    let wanted = match fields.any("logprobs") {
        None | Some(Value::Bool(false)) => None,
        Some(Value::Bool(true)) => Some(0),
        Some(value) => match value.as_u64().filter(|&top| top <= MOST) {
            Some(top) => Some(top as usize),
            None => return Err(ApiError::field("logprobs", format!("is not a number from 0 to {MOST}, or a boolean"))),
        },
    };
    let top = fields.count("top_logprobs", 0..=MOST)?;
    if wanted.is_none() && top.is_some_and(|top| top > 0) {
        return Err(fields.error("top_logprobs", "needs `logprobs`"));
    }
    Ok(wanted.map(|wanted| top.unwrap_or(wanted)))
}

/// An answer with all its choices.
struct Text {
    card: Arc<Card>,
    request: CompletionRequest,
    id: String,
    created: u64,
    choices: Vec<Choice>,
    /// Choices of each prompt.
    each: usize,
}

#[derive(Default)]
struct Choice {
    text: String,
    logprobs: Lists,
    finish: Option<&'static str>,
}

impl Text {
    fn new(card: Arc<Card>, request: CompletionRequest, each: usize) -> Self {
        let mut choices: Vec<Choice> = Vec::new();
        choices.resize_with(request.jobs.len() * each, Choice::default);
        if let Some(prompts) = &request.echo {
            choices.iter_mut().enumerate().for_each(|(i, choice)| choice.text.clone_from(&prompts[i / each]));
        }
        Self { card, request, id: ids::fresh("cmpl-"), created: ids::now_s(), choices, each }
    }

    /// Takes what happened next, and gives the choices that it happened to.
    fn take(&mut self, progress: Progress) -> std::ops::Range<usize> {
        let tokenizer = &self.card.tokenizer;
        match progress {
            Progress::Read { .. } => 0..0,
            Progress::PromptScored { job, scored } => {
                let own = job * self.each..(job + 1) * self.each;
                if self.request.jobs[job].logprobs.is_some() {
                    for choice in &mut self.choices[own.clone()] {
                        choice.logprobs.first(tokenizer, self.request.jobs[job].prompt[0]);
                        for scored in &scored {
                            choice.logprobs.push(tokenizer, scored);
                        }
                    }
                }
                own
            }
            Progress::Token { choice: i, text, scored } => {
                let choice = &mut self.choices[i];
                choice.text += &text;
                if let Some(scored) = &scored {
                    choice.logprobs.push(tokenizer, scored);
                }
                i..i + 1
            }
            Progress::Finished { choice: i, finish, text } => {
                let choice = &mut self.choices[i];
                choice.text += &text;
                choice.finish = Some(finish.name());
                i..i + 1
            }
        }
    }

    fn head(&self) -> Value {
        head(&self.id, "text_completion", self.created, &self.request.model)
    }

    /// A choice as it is now; what is given is taken out of it.
    fn choice(&mut self, index: usize) -> Value {
        let wants_logprobs = self.request.jobs[index / self.each].logprobs.is_some();
        let choice = &mut self.choices[index];
        let logprobs = if wants_logprobs { choice.logprobs.take() } else { Value::Null };
        let text = std::mem::take(&mut choice.text);
        json!({"index": index, "text": text, "logprobs": logprobs, "finish_reason": choice.finish})
    }

    fn whole(mut self, answer: &Answer) -> Value {
        let choices: Vec<Value> = (0..self.choices.len()).map(|index| self.choice(index)).collect();
        let mut whole = self.head();
        whole["choices"] = choices.into();
        whole["usage"] = answer.usage.openai();
        whole
    }

    async fn stream(mut self, events: &Events, mut answer: Answer) -> Result<(), Gone> {
        while let Some(progress) = events.next(&mut answer).await? {
            for index in self.take(progress) {
                let choice = self.choice(index);
                if choice["text"] == "" && choice["finish_reason"].is_null() && choice["logprobs"].is_null() {
                    continue;
                }
                let mut chunk = self.head();
                chunk["choices"] = json!([choice]);
                if self.request.include_usage {
                    chunk["usage"] = Value::Null;
                }
                events.data(&chunk).await?;
            }
        }
        if self.request.include_usage {
            let mut chunk = self.head();
            chunk["choices"] = json!([]);
            chunk["usage"] = answer.usage.openai();
            events.data(&chunk).await?;
        }
        events.done().await
    }
}
