//! `/v1/messages`: what is answered, at once or as events. An answer is a list of blocks: thinking, text and calls of tools.

use std::sync::Arc;

use axum::response::Response;
use serde_json::{Value, json};

use super::request::{MessagesRequest, Thread};
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
    request: MessagesRequest,
    job: Ticket,
    prompt_tokens: usize,
) -> Result<Response> {
    let mut answer = Answer::new(vec![job], 1, prompt_tokens);
    let mut message = Message::new(card, request);
    if message.request.stream {
        answer.begin().await?;
        return Ok(events::response(Dialect::Anthropic, move |events| async move {
            message.stream(&app, &events, answer).await
        }));
    }
    while let Some(progress) = answer.next().await? {
        message.take(progress, &mut answer);
    }
    message.keep(&app);
    Ok(reply::json(&message.whole(&answer)))
}

/// A part of an answer.
enum Block {
    Text(String),
    Thinking(String),
    /// The input is JSON, as the model wrote it.
    Call {
        id: String,
        name: String,
        input: String,
    },
}

impl Block {
    fn value(self) -> Value {
        match self {
            Self::Text(text) => json!({"type": "text", "text": text, "citations": null}),
            Self::Thinking(thinking) => json!({"type": "thinking", "thinking": thinking, "signature": ""}),
            Self::Call { id, name, input } => {
                let input = object(&input);
                json!({"type": "tool_use", "id": id, "name": name, "input": input, "caller": {"type": "direct"}})
            }
        }
    }
}

/// What a call is given, which is JSON as the model wrote it.
fn object(input: &str) -> Value {
    serde_json::from_str(input).ok().filter(Value::is_object).unwrap_or_else(|| json!({}))
}

/// An answer while it is said.
struct Message {
    request: MessagesRequest,
    id: String,
    speech: Speech,
    blocks: Vec<Block>,
    /// Whether the last block may grow.
    is_open: bool,
    end: Option<End>,
}

/// How an answer ended.
struct End {
    reason: &'static str,
    stop: Option<String>,
}

/// An event: its name and what it holds.
type Event = (&'static str, Value);

impl Message {
    fn new(card: &Card, request: MessagesRequest) -> Self {
        let speech = Speech::new(card, &request.prompt, &request.tools);
        Self { request, id: ids::fresh("msg_"), speech, blocks: Vec::new(), is_open: false, end: None }
    }

    /// Takes what happened next, and gives the events of it.
    fn take(&mut self, progress: Progress, answer: &mut Answer) -> Vec<Event> {
        let Some((text, finish)) = progress.text() else { return Vec::new() };
        let mut deltas = self.speech.take(&text, finish, &mut answer.usage);
        if !self.request.parallel_calls && end_with_call(&mut deltas) {
            answer.end(0);
            self.end = Some(End { reason: "tool_use", stop: None });
        }
        let mut events = Vec::new();
        for delta in deltas {
            self.add(delta, &mut events);
        }
        if let Some(finish) = finish {
            self.end = Some(self.ended(finish));
        }
        if self.end.is_some() {
            self.close(&mut events);
        }
        events
    }

    fn ended(&self, finish: Finish) -> End {
        let calls = self.blocks.iter().any(|block| matches!(block, Block::Call { .. }));
        match finish {
            Finish::Length => End { reason: "max_tokens", stop: None },
            Finish::StopString(index) => End { reason: "stop_sequence", stop: self.request.stop.get(index).cloned() },
            Finish::Stop => End { reason: if calls { "tool_use" } else { "end_turn" }, stop: None },
        }
    }

    fn add(&mut self, delta: Delta, events: &mut Vec<Event>) {
        match delta {
            Delta::Text(text) => {
                // Blank lines between calls are nobody's words.
                if text.trim().is_empty() && !matches!(self.blocks.last(), Some(Block::Text(_))) {
                    return;
                }
                if !(self.is_open && matches!(self.blocks.last(), Some(Block::Text(_)))) {
                    self.open(
                        Block::Text(String::new()),
                        &json!({"type": "text", "text": "", "citations": null}),
                        events,
                    );
                }
                self.grow(&text, "text_delta", "text", events);
            }
            Delta::Reasoning(text) => {
                if !(self.is_open && matches!(self.blocks.last(), Some(Block::Thinking(_)))) {
                    let empty = json!({"type": "thinking", "thinking": "", "signature": ""});
                    self.open(Block::Thinking(String::new()), &empty, events);
                }
                self.grow(&text, "thinking_delta", "thinking", events);
            }
            Delta::CallStart { id, name, .. } => {
                let id = fit(&id);
                let empty =
                    json!({"type": "tool_use", "id": id, "name": name, "input": {}, "caller": {"type": "direct"}});
                self.open(Block::Call { id, name, input: String::new() }, &empty, events);
            }
            Delta::CallArguments { delta, .. } => self.grow(&delta, "input_json_delta", "partial_json", events),
            Delta::CallEnd { .. } => self.close(events),
            Delta::Invalid(_) => {}
        }
    }

    fn open(&mut self, block: Block, empty: &Value, events: &mut Vec<Event>) {
        self.close(events);
        self.blocks.push(block);
        self.is_open = true;
        let index = self.blocks.len() - 1;
        let start = json!({"type": "content_block_start", "index": index, "content_block": empty});
        events.push(("content_block_start", start));
    }

    fn grow(&mut self, more: &str, kind: &str, name: &str, events: &mut Vec<Event>) {
        let Some(last) = self.blocks.last_mut() else { return };
        let (Block::Text(text) | Block::Thinking(text) | Block::Call { input: text, .. }) = last;
        text.push_str(more);
        let index = self.blocks.len() - 1;
        let delta = json!({"type": "content_block_delta", "index": index, "delta": {"type": kind, name: more}});
        events.push(("content_block_delta", delta));
    }

    fn close(&mut self, events: &mut Vec<Event>) {
        if std::mem::take(&mut self.is_open) {
            let index = self.blocks.len() - 1;
            events.push(("content_block_stop", json!({"type": "content_block_stop", "index": index})));
        }
    }

    /// The message with these blocks.
    fn message(&self, content: Vec<Value>, usage: &Usage) -> Value {
        json!({
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": self.request.model,
            "content": content,
            "stop_reason": self.end.as_ref().map(|end| end.reason),
            "stop_sequence": self.end.as_ref().and_then(|end| end.stop.clone()),
            "stop_details": null,
            "container": null,
            "usage": counted(usage),
        })
    }

    fn whole(mut self, answer: &Answer) -> Value {
        let blocks = std::mem::take(&mut self.blocks).into_iter().map(Block::value).collect();
        self.message(blocks, &answer.usage)
    }

    /// Keeps the conversation, if the next request is to go on from it.
    fn keep(&mut self, app: &App) {
        let Some(Thread { mut messages, tools }) = self.request.thread.take() else { return };
        let (mut said, mut thought, mut calls) = (String::new(), String::new(), Vec::new());
        for block in &self.blocks {
            match block {
                Block::Text(text) => said += text,
                Block::Thinking(text) => thought += text,
                Block::Call { id, name, input } => {
                    let function = json!({"name": name, "arguments": object(input)});
                    calls.push(json!({"id": id, "type": "function", "function": function}));
                }
            }
        }
        let mut message = json!({"role": "assistant", "content": said});
        if !thought.is_empty() {
            message["reasoning_content"] = thought.into();
        }
        if !calls.is_empty() {
            message["tool_calls"] = calls.into();
        }
        messages.push(message);
        app.threads.keep(&self.id, messages, tools);
    }

    async fn stream(mut self, app: &App, events: &Events, mut answer: Answer) -> Result<(), Gone> {
        let start = json!({"type": "message_start", "message": self.message(Vec::new(), &answer.usage)});
        events.named("message_start", &start).await?;
        events.named("ping", &json!({"type": "ping"})).await?;
        while let Some(progress) = events.next(&mut answer).await? {
            for (name, event) in self.take(progress, &mut answer) {
                events.named(name, &event).await?;
            }
        }
        self.keep(app);
        let end = self.end.take().unwrap_or(End { reason: "end_turn", stop: None });
        let delta = json!({
            "type": "message_delta",
            "delta": {"stop_reason": end.reason, "stop_sequence": end.stop},
            "usage": counted(&answer.usage),
        });
        events.named("message_delta", &delta).await?;
        events.named("message_stop", &json!({"type": "message_stop"})).await
    }
}

/// Tokens in Anthropic's form, where those that were known do not count as input.
fn counted(usage: &Usage) -> Value {
    json!({
        "input_tokens": usage.prompt_tokens.saturating_sub(usage.cached_tokens),
        "cache_read_input_tokens": usage.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_creation": null,
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"thinking_tokens": usage.reasoning_tokens},
        "server_tool_use": null,
        "service_tier": "standard",
        "inference_geo": null,
    })
}

/// An id with no other characters than this API has: some models make their own.
fn fit(id: &str) -> String {
    id.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' }).collect()
}
