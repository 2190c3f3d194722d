//! `/v1/responses/compact`: a long conversation becomes its summary, with which the next request goes on.
//!
//! The model writes the summary. Clients send it back as an item that they do not look into (`encrypted_content`, as OpenAI calls
//! it). Here it is the summary itself, in base 64: nothing has to be kept for it, and it outlives the server.

use std::sync::Arc;

use axum::response::Response;
use base64::Engine;
use base64::prelude::BASE64_STANDARD as BASE64;
use serde_json::{Value, json};

use super::answer::counted;
use super::{input, not_kept};
use crate::api::choices::Answer;
use crate::api::conversation::{Conversation, Rendered};
use crate::api::error::{ApiError, Result};
use crate::api::openai::model;
use crate::api::speech::Speech;
use crate::api::{Fields, ids, sampling};
use crate::app::{App, blocking};
use crate::engine::{Card, Finish, Generate, Work};
use crate::http::reply;
use crate::tools::{Delta, Tools};

/// What the model is asked to do, and what it reads in the place of the conversation later on.
const ASK: &str =
    "Summarize our conversation so far: what I asked for, what was decided, what was done, and what is left to do.";

/// A request that was read.
struct Asked {
    generate: Generate,
    prompt: Rendered,
    /// System prompts, which stay as they are.
    systems: Vec<Value>,
}

/// Answers a request.
pub(crate) async fn handle(app: Arc<App>, fields: Fields) -> Result<Response> {
    let card = app.card()?;
    let (own, facts) = (Arc::clone(&app), Arc::clone(&card));
    let Asked { generate, prompt, systems } = blocking(move || read(fields, &own, &facts)).await?;
    let tokens = generate.prompt.len();
    let job = app.engine.submit_one(Work::Generate(Box::new(generate)))?;
    let mut answer = Answer::new(vec![job], 1, tokens);
    let summary = summary(Speech::new(&card, &prompt, &Tools::default()), &mut answer).await?;
    let body = json!({
        "id": ids::fresh("resp_"),
        "object": "response.compaction",
        "created_at": ids::now_s(),
        "output": systems.into_iter().chain([item(&summary)]).collect::<Vec<_>>(),
        "usage": counted(&answer.usage),
    });
    Ok(reply::json(&body))
}

fn read(mut fields: Fields, app: &App, card: &Card) -> Result<Asked> {
    let named = fields.is_given("model");
    model(&mut fields, &app.options)?;
    fields.required("model", named.then_some(()))?;
    let mut generate = sampling::read(&mut fields, &app.options.defaults, card)?;
    let mut messages = match fields.string("previous_response_id")? {
        Some(id) => app.responses.get(&id).ok_or_else(|| not_kept(&id))?.messages.clone(),
        None => Vec::new(),
    };
    let instructions = fields.string("instructions")?;
    match fields.any("input") {
        None if !messages.is_empty() => {}
        given => input::read(fields.required("input", given)?, &mut messages)?,
    }
    fields.pass_over(&["prompt_cache_key", "prompt_cache_retention", "safety_identifier", "metadata"]);
    fields.finish()?;
    let is_system = |message: &&Value| message["role"] == "system";
    let systems = messages.iter().filter(is_system).map(|message| {
        let part = json!({"type": "input_text", "text": message["content"]});
        json!({"type": "message", "id": ids::fresh("msg_"), "role": "system", "status": "completed", "content": [part]})
    });
    let systems = systems.collect();
    if let Some(text) = instructions {
        messages.insert(0, json!({"role": "system", "content": text}));
    }
    super::request::join_systems(&mut messages);
    match messages.last_mut().filter(|last| last["role"] == "user") {
        // Templates want the roles to take turns.
        Some(last) => last["content"] = format!("{}\n\n{ASK}", last["content"].as_str().unwrap_or_default()).into(),
        None => messages.push(json!({"role": "user", "content": ASK})),
    }
    let kwargs = app.options.defaults.chat_template_args.clone();
    let conversation = Conversation { messages, kwargs, ..Conversation::default() };
    let mut prompt = conversation.rendered(card)?;
    (generate.prompt, generate.turns) = (std::mem::take(&mut prompt.tokens), std::mem::take(&mut prompt.turns));
    sampling::fit(&mut generate, card, "input")?;
    Ok(Asked { generate, prompt, systems })
}

/// What the model says, without its thinking.
async fn summary(mut speech: Speech, answer: &mut Answer) -> Result<String> {
    let mut summary = String::new();
    let mut add = |deltas: Vec<Delta>| {
        for delta in deltas {
            if let Delta::Text(text) = delta {
                summary += &text;
            }
        }
    };
    let mut last = Finish::Stop;
    while let Some(progress) = answer.next().await? {
        if let Some((text, finish)) = progress.text() {
            add(speech.push(&text));
            last = finish.unwrap_or(last);
        }
    }
    add(speech.finish(last));
    Ok(summary.trim().to_owned())
}

fn item(summary: &str) -> Value {
    json!({"type": "compaction", "id": ids::fresh("cmp_"), "encrypted_content": BASE64.encode(summary)})
}

/// The messages that stand for a conversation that was summarized.
pub(super) fn open(item: &mut Fields) -> Result<[Value; 2]> {
    let content = item.string("encrypted_content")?;
    let content = item.required("encrypted_content", content)?;
    item.pass_over(&["created_by"]);
    let summary = BASE64.decode(content).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let summary = summary.ok_or_else(|| {
        let message = "was not made by this server: it is no summary in base 64";
        ApiError::field(item.path("encrypted_content"), message)
    })?;
    Ok([json!({"role": "user", "content": ASK}), json!({"role": "assistant", "content": summary})])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_comes_back_as_it_was() {
        let read = |item: Value| open(&mut Fields::of_request(item).unwrap());
        let summary = "We launch on Tuesday — “surely”.";
        assert_eq!(read(item(summary)).unwrap()[1], json!({"role": "assistant", "content": summary}));
        let error = read(json!({"encrypted_content": "gAAAAABpM0Yj-..."})).unwrap_err();
        assert_eq!(error.param.as_deref(), Some("encrypted_content"));
    }
}
