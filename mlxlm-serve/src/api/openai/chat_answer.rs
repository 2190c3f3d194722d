//! `/v1/chat/completions`: what is answered, at once or as events.

use std::sync::Arc;

use axum::response::Response;
use serde_json::{Map, Value, json};

use super::chat::ChatRequest;
use super::{head, logprobs};
use crate::api::choices::{Answer, Progress};
use crate::api::error::{Dialect, Result};
use crate::api::ids;
use crate::api::speech::{Speech, end_with_call};
use crate::engine::{Card, Finish, Ticket};
use crate::http::events::{Events, Gone};
use crate::http::{events, reply};
use crate::tools::Delta;

/// Answers a request whose job was sent.
pub(crate) async fn answer(
    card: &Arc<Card>,
    request: ChatRequest,
    job: Ticket,
    choices: usize,
    prompt_tokens: usize,
    wants_logprobs: bool,
) -> Result<Response> {
    let mut answer = Answer::new(vec![job], choices, prompt_tokens);
    let mut talk = Talk::new(card, request, choices, wants_logprobs);
    if !talk.request.stream {
        while let Some(progress) = answer.next().await? {
            talk.take(progress, &mut answer);
        }
        return Ok(reply::json(&talk.whole(&answer)));
    }
    answer.begin().await?;
    Ok(events::response(Dialect::OpenAi, move |events| async move { talk.stream(&events, answer).await }))
}

/// An answer with all its choices.
struct Talk {
    card: Arc<Card>,
    request: ChatRequest,
    id: String,
    created: u64,
    choices: Vec<Choice>,
    wants_logprobs: bool,
}

/// One choice while it is said.
struct Choice {
    speech: Speech,
    content: String,
    reasoning: String,
    calls: Vec<Call>,
    logprobs: Vec<Value>,
    finish: Option<&'static str>,
    is_begun: bool,
}

#[derive(Default)]
struct Call {
    id: String,
    name: String,
    arguments: String,
}

impl Talk {
    fn new(card: &Arc<Card>, request: ChatRequest, choices: usize, wants_logprobs: bool) -> Self {
        let choice = |_| Choice {
            speech: Speech::new(card, &request.prompt, &request.tools),
            content: String::new(),
            reasoning: String::new(),
            calls: Vec::new(),
            logprobs: Vec::new(),
            finish: None,
            is_begun: false,
        };
        let choices = (0..choices).map(choice).collect();
        Self {
            card: Arc::clone(card),
            id: ids::fresh("chatcmpl-"),
            created: ids::now_s(),
            choices,
            request,
            wants_logprobs,
        }
    }

    /// Takes what happened next, and gives which choice it was, what it said and whether it is over.
    fn take(&mut self, progress: Progress, answer: &mut Answer) -> Option<(usize, Vec<Delta>)> {
        let (index, text, finish) = match progress {
            Progress::Token { choice, text, scored } => {
                let own = self.choices.get_mut(choice)?;
                own.logprobs.extend(scored.map(|scored| logprobs::chat(&self.card.tokenizer, &scored)));
                (choice, text, None)
            }
            Progress::Finished { choice, text, finish } => (choice, text, Some(finish)),
            Progress::Read { .. } | Progress::PromptScored { .. } => return None,
        };
        let choice = self.choices.get_mut(index)?;
        let mut deltas = choice.speech.take(&text, finish, &mut answer.usage);
        if !self.request.parallel_calls && end_with_call(&mut deltas) {
            answer.end(index);
            choice.finish = Some("tool_calls");
        }
        for delta in &deltas {
            choice.add(delta);
        }
        if let Some(finish) = finish {
            choice.finish.get_or_insert(choice.reason(finish));
        }
        Some((index, deltas))
    }

    fn head(&self, object: &str) -> Value {
        head(&self.id, object, self.created, &self.request.model)
    }

    /// The answer, once it is over.
    fn whole(mut self, answer: &Answer) -> Value {
        let choices = std::mem::take(&mut self.choices).into_iter().enumerate().map(|(index, choice)| {
            let logprobs =
                if self.wants_logprobs { json!({"content": choice.logprobs, "refusal": null}) } else { Value::Null };
            let finish = choice.finish;
            json!({"index": index, "message": choice.message(), "logprobs": logprobs, "finish_reason": finish})
        });
        let choices: Vec<Value> = choices.collect();
        let mut whole = self.head("chat.completion");
        whole["choices"] = choices.into();
        whole["usage"] = answer.usage.openai();
        whole
    }

    /// The answer as events.
    async fn stream(mut self, events: &Events, mut answer: Answer) -> Result<(), Gone> {
        while let Some(progress) = events.next(&mut answer).await? {
            let Some((index, deltas)) = self.take(progress, &mut answer) else { continue };
            for delta in &deltas {
                self.send_delta(events, index, chunk(delta)).await?;
            }
            let choice = &mut self.choices[index];
            if !choice.logprobs.is_empty() && deltas.is_empty() {
                self.send_delta(events, index, Some(json!({}))).await?;
            }
            if let Some(finish) = self.choices[index].finish {
                self.send_delta(events, index, Some(Value::Null)).await?;
                self.send(events, index, json!({}), Some(finish)).await?;
            }
        }
        if self.request.include_usage {
            let mut chunk = self.head("chat.completion.chunk");
            chunk["choices"] = json!([]);
            chunk["usage"] = answer.usage.openai();
            events.data(&chunk).await?;
        }
        events.done().await
    }

    /// Sends a part of a message; the first of a choice says whose it is. `null` is a part that only makes sure of that.
    async fn send_delta(&mut self, events: &Events, index: usize, delta: Option<Value>) -> Result<(), Gone> {
        let Some(delta) = delta else { return Ok(()) };
        if !std::mem::replace(&mut self.choices[index].is_begun, true) {
            self.send(events, index, json!({"role": "assistant", "content": ""}), None).await?;
        }
        if delta.is_null() { Ok(()) } else { self.send(events, index, delta, None).await }
    }

    async fn send(&mut self, events: &Events, index: usize, delta: Value, finish: Option<&str>) -> Result<(), Gone> {
        let mut chunk = self.head("chat.completion.chunk");
        let mut choice = json!({"index": index, "delta": delta, "logprobs": null, "finish_reason": finish});
        let is_said = choice["delta"].get("role").is_none();
        let own = &mut self.choices[index].logprobs;
        if is_said && !own.is_empty() {
            choice["logprobs"] = json!({"content": std::mem::take(own), "refusal": null});
        }
        chunk["choices"] = json!([choice]);
        if self.request.include_usage {
            chunk["usage"] = Value::Null;
        }
        events.data(&chunk).await
    }
}

impl Choice {
    fn add(&mut self, delta: &Delta) {
        match delta {
            Delta::Text(text) => self.content += text,
            Delta::Reasoning(text) => self.reasoning += text,
            Delta::CallStart { id, name, .. } => {
                self.calls.push(Call { id: id.clone(), name: name.clone(), arguments: String::new() });
            }
            Delta::CallArguments { index, delta } => {
                self.calls.get_mut(*index).into_iter().for_each(|call| call.arguments += delta);
            }
            Delta::CallEnd { .. } | Delta::Invalid(_) => {}
        }
    }

    fn reason(&self, finish: Finish) -> &'static str {
        if finish == Finish::Stop && !self.calls.is_empty() { "tool_calls" } else { finish.name() }
    }

    fn message(self) -> Value {
        let mut message = Map::new();
        message.insert("role".into(), "assistant".into());
        message.insert("content".into(), if self.content.is_empty() { Value::Null } else { self.content.into() });
        message.insert("refusal".into(), Value::Null);
        message.insert("annotations".into(), json!([]));
        if !self.reasoning.is_empty() {
            message.insert("reasoning".into(), self.reasoning.as_str().into());
            message.insert("reasoning_content".into(), self.reasoning.into());
        }
        if !self.calls.is_empty() {
            let call = |call: Call| {
                let function = json!({"name": call.name, "arguments": call.arguments});
                json!({"id": call.id, "type": "function", "function": function})
            };
            message.insert("tool_calls".into(), self.calls.into_iter().map(call).collect());
        }
        message.into()
    }
}

/// A part of a message in a stream; nothing if there is none.
fn chunk(delta: &Delta) -> Option<Value> {
    Some(match delta {
        Delta::Text(text) => json!({"content": text}),
        Delta::Reasoning(text) => json!({"reasoning": text, "reasoning_content": text}),
        Delta::CallStart { index, id, name } => json!({"tool_calls": [
            {"index": index, "id": id, "type": "function", "function": {"name": name, "arguments": ""}},
        ]}),
        Delta::CallArguments { index, delta } => {
            json!({"tool_calls": [{"index": index, "function": {"arguments": delta}}]})
        }
        Delta::CallEnd { .. } | Delta::Invalid(_) => return None,
    })
}
