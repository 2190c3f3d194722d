//! `/v1/responses`: what is answered, at once or as events.

use std::sync::Arc;

use axum::response::Response;
use serde_json::{Map, Value, json};

use super::request::ResponsesRequest;
use crate::api::choices::{Answer, Progress, Usage};
use crate::api::error::{Dialect, Result};
use crate::api::ids;
use crate::api::speech::{Speech, end_with_call};
use crate::app::App;
use crate::engine::{Card, Finish, Ticket};
use crate::http::events::{Events, Gone};
use crate::http::{events, reply};
use crate::tools::Delta;

/// Answers a request whose job was sent.
pub(super) async fn answer(
    app: Arc<App>,
    card: &Arc<Card>,
    request: ResponsesRequest,
    job: Ticket,
    prompt_tokens: usize,
) -> Result<Response> {
    let mut answer = Answer::new(vec![job], 1, prompt_tokens);
    let mut said = Said::new(card, request);
    if said.request.stream {
        answer.begin().await?;
        return Ok(events::response(Dialect::Responses, move |events| async move {
            said.stream(&app, &events, answer).await
        }));
    }
    while let Some(progress) = answer.next().await? {
        said.take(progress, &mut answer);
    }
    let response = said.response(Some(&answer.usage));
    said.keep(&app, &response);
    Ok(reply::json(&response))
}

/// A part of an answer.
struct Item {
    id: String,
    kind: Kind,
    text: String,
}

enum Kind {
    Message,
    Reasoning,
    Call { call_id: String, name: String },
}

impl Item {
    /// The item as it is answered.
    fn value(&self, status: &str) -> Value {
        match &self.kind {
            Kind::Message => json!({
                "type": "message", "id": self.id, "status": status, "role": "assistant",
                "content": if self.text.is_empty() && status == "in_progress" { json!([]) } else { json!([part(&self.text)]) },
            }),
            Kind::Reasoning => json!({
                "type": "reasoning", "id": self.id, "summary": [],
                "content": if self.text.is_empty() { json!([]) } else { json!([{"type": "reasoning_text", "text": self.text}]) },
            }),
            Kind::Call { call_id, name } => json!({
                "type": "function_call", "id": self.id, "status": status, "call_id": call_id, "name": name,
                "arguments": self.text,
            }),
        }
    }
}

fn part(text: &str) -> Value {
    json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []})
}

/// An answer while it is said.
struct Said {
    request: ResponsesRequest,
    id: String,
    created: u64,
    speech: Speech,
    items: Vec<Item>,
    /// Whether the last item may grow.
    is_open: bool,
    finish: Option<Finish>,
}

impl Said {
    fn new(card: &Card, request: ResponsesRequest) -> Self {
        let speech = Speech::new(card, &request.prompt, &request.tools);
        let (id, created) = (ids::fresh("resp_"), ids::now_s());
        Self { request, id, created, speech, items: Vec::new(), is_open: false, finish: None }
    }

    /// Takes what happened next, and gives the events of it.
    fn take(&mut self, progress: Progress, answer: &mut Answer) -> Vec<Value> {
        let Some((text, finish)) = progress.text() else { return Vec::new() };
        let mut deltas = self.speech.take(&text, finish, &mut answer.usage);
        if !self.request.parallel_calls && end_with_call(&mut deltas) {
            answer.end(0);
            self.finish = Some(Finish::Stop);
        }
        let mut events = Vec::new();
        for delta in deltas {
            self.add(delta, &mut events);
        }
        if finish.is_some() {
            self.finish = finish;
            self.close(&mut events);
        }
        events
    }

    fn add(&mut self, delta: Delta, events: &mut Vec<Value>) {
        let is_last =
            |own: &Self, is: fn(&Kind) -> bool| own.is_open && own.items.last().is_some_and(|item| is(&item.kind));
        match delta {
            Delta::Text(text) => {
                let goes_on = is_last(self, |kind| matches!(kind, Kind::Message));
                // Blank lines between calls are nobody's words.
                if !goes_on && text.trim().is_empty() {
                    return;
                }
                if !goes_on {
                    self.open(ids::fresh("msg_"), Kind::Message, events);
                }
                self.grow("response.output_text.delta", &text, events);
            }
            Delta::Reasoning(text) => {
                if !is_last(self, |kind| matches!(kind, Kind::Reasoning)) {
                    self.open(ids::fresh("rs_"), Kind::Reasoning, events);
                }
                self.grow("response.reasoning_text.delta", &text, events);
            }
            Delta::CallStart { id, name, .. } => self.open(ids::fresh("fc_"), Kind::Call { call_id: id, name }, events),
            Delta::CallArguments { delta, .. } => self.grow("response.function_call_arguments.delta", &delta, events),
            Delta::CallEnd { .. } => self.close(events),
            Delta::Invalid(_) => {}
        }
    }

    fn open(&mut self, id: String, kind: Kind, events: &mut Vec<Value>) {
        self.close(events);
        let (index, is_message) = (self.items.len(), matches!(kind, Kind::Message));
        let item = Item { id, kind, text: String::new() };
        events.push(
            json!({"type": "response.output_item.added", "output_index": index, "item": item.value("in_progress")}),
        );
        if is_message {
            events.push(json!({
                "type": "response.content_part.added", "item_id": item.id, "output_index": index, "content_index": 0,
                "part": part(""),
            }));
        }
        self.items.push(item);
        self.is_open = true;
    }

    fn grow(&mut self, kind: &str, more: &str, events: &mut Vec<Value>) {
        let index = self.items.len().saturating_sub(1);
        let Some(item) = self.items.last_mut() else { return };
        item.text += more;
        let mut event = json!({"type": kind, "item_id": item.id, "output_index": index, "delta": more});
        match item.kind {
            Kind::Message => {
                event["content_index"] = 0.into();
                event["logprobs"] = json!([]);
            }
            Kind::Reasoning => event["content_index"] = 0.into(),
            Kind::Call { .. } => {}
        }
        events.push(event);
    }

    fn close(&mut self, events: &mut Vec<Value>) {
        if !std::mem::take(&mut self.is_open) {
            return;
        }
        let Some((index, item)) = self.items.iter().enumerate().next_back() else { return };
        let (id, text) = (&item.id, &item.text);
        match &item.kind {
            Kind::Message => {
                events.push(json!({
                    "type": "response.output_text.done", "item_id": id, "output_index": index, "content_index": 0,
                    "text": text, "logprobs": [],
                }));
                events.push(json!({
                    "type": "response.content_part.done", "item_id": id, "output_index": index, "content_index": 0,
                    "part": part(text),
                }));
            }
            Kind::Reasoning => events.push(json!({
                "type": "response.reasoning_text.done", "item_id": id, "output_index": index, "content_index": 0, "text": text,
            })),
            Kind::Call { name, .. } => events.push(json!({
                "type": "response.function_call_arguments.done", "item_id": id, "output_index": index, "name": name,
                "arguments": text,
            })),
        }
        let item = item.value(self.status());
        events.push(json!({"type": "response.output_item.done", "output_index": index, "item": item}));
    }

    /// The status of what is over.
    fn status(&self) -> &'static str {
        if self.finish == Some(Finish::Length) { "incomplete" } else { "completed" }
    }

    /// The answer as it is now; with `usage` it is over.
    fn response(&self, usage: Option<&Usage>) -> Value {
        let mut response = Map::new();
        let is_over = usage.is_some();
        let status = if is_over { self.status() } else { "in_progress" };
        response.insert("id".into(), self.id.as_str().into());
        response.insert("object".into(), "response".into());
        response.insert("created_at".into(), self.created.into());
        response.insert("completed_at".into(), if is_over { ids::now_s().into() } else { Value::Null });
        response.insert("status".into(), status.into());
        let details = if status == "incomplete" { json!({"reason": "max_output_tokens"}) } else { Value::Null };
        response.insert("incomplete_details".into(), details);
        response.insert("error".into(), Value::Null);
        let last = self.items.len().wrapping_sub(1);
        let item = |(i, item): (usize, &Item)| item.value(if i == last { self.status() } else { "completed" });
        let output = if is_over { self.items.iter().enumerate().map(item).collect() } else { Vec::new() };
        response.insert("output".into(), output.into());
        response.extend(self.request.echo.clone());
        response.insert("usage".into(), usage.map_or(Value::Null, counted));
        response.into()
    }

    /// Keeps the answer for requests that go on from it.
    fn keep(&self, app: &App, response: &Value) {
        if !self.request.store {
            return;
        }
        let text = |is: fn(&Kind) -> bool| {
            self.items.iter().filter(|item| is(&item.kind)).map(|item| item.text.as_str()).collect::<String>()
        };
        let mut message = json!({"role": "assistant", "content": text(|kind| matches!(kind, Kind::Message))});
        let thought = text(|kind| matches!(kind, Kind::Reasoning));
        if !thought.is_empty() {
            message["reasoning_content"] = thought.into();
        }
        let call = |item: &Item| match &item.kind {
            Kind::Call { call_id, name } => {
                let arguments: Value = serde_json::from_str(&item.text).unwrap_or_else(|_| json!({}));
                Some(json!({"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}))
            }
            _ => None,
        };
        let calls: Vec<Value> = self.items.iter().filter_map(call).collect();
        if !calls.is_empty() {
            message["tool_calls"] = calls.into();
        }
        let messages = self.request.said.iter().cloned().chain([message]).collect();
        app.responses.keep(&self.id, messages, response.clone());
    }

    async fn stream(mut self, app: &App, events: &Events, mut answer: Answer) -> Result<(), Gone> {
        let mut number = 0_u64;
        let mut send = async |mut event: Value| {
            event["sequence_number"] = number.into();
            number += 1;
            let name = event["type"].as_str().unwrap_or_default().to_owned();
            events.named(&name, &event).await
        };
        for kind in ["response.created", "response.in_progress"] {
            send(json!({"type": kind, "response": self.response(None)})).await?;
        }
        while let Some(progress) = events.next(&mut answer).await? {
            for event in self.take(progress, &mut answer) {
                send(event).await?;
            }
        }
        let response = self.response(Some(&answer.usage));
        self.keep(app, &response);
        send(json!({"type": format!("response.{}", self.status()), "response": response})).await
    }
}

pub(super) fn counted(usage: &Usage) -> Value {
    json!({
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    })
}
