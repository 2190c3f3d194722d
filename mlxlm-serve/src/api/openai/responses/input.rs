//! What a request of `/v1/responses` is about: text, or items of a conversation.

use serde_json::{Value, json};

use super::compact;
use crate::api::conversation::arguments;
use crate::api::error::{ApiError, Result};
use crate::api::fields::{Fields, cut, wrong};
use crate::api::openai::messages::content;

/// The most items of a request.
const MAX_ITEMS: usize = 10_000;

/// Adds the input to a conversation in the form of templates.
pub(super) fn read(input: Value, messages: &mut Vec<Value>) -> Result<()> {
    let items = match input {
        Value::String(text) => {
            messages.push(json!({"role": "user", "content": text}));
            return Ok(());
        }
        Value::Array(items) if items.is_empty() => return Err(ApiError::field("input", "is empty")),
        Value::Array(items) => items,
        other => return Err(wrong("input", &other, "a string or a list of items")),
    };
    if items.len() > MAX_ITEMS {
        return Err(ApiError::field("input", format!("has {} items, at most {MAX_ITEMS}", items.len())));
    }
    let mut thought = None;
    for (i, item) in items.into_iter().enumerate() {
        let mut item = Fields::at(format!("input[{i}]"), item)?;
        let kind = item.string("type")?;
        item.pass_over(&["id", "status", "phase"]);
        match kind.as_deref().unwrap_or("message") {
            "message" => message(&mut item, &mut thought, messages)?,
            "reasoning" => thought = Some(reasoning(&mut item)?),
            "function_call" => call(&mut item, &mut thought, messages)?,
            "function_call_output" => output(&mut item, messages)?,
            "compaction" => messages.extend(compact::open(&mut item)?),
            other => return Err(item.error("type", format!("is `{}`, which is not supported here", cut(other)))),
        }
        item.finish()?;
    }
    Ok(())
}

fn message(item: &mut Fields, thought: &mut Option<String>, messages: &mut Vec<Value>) -> Result<()> {
    let role = item.string("role")?;
    let role = match item.required("role", role)?.as_str() {
        "developer" | "system" => "system",
        "user" => "user",
        "assistant" => "assistant",
        other => {
            let message = format!("is `{}`, expected system, developer, user or assistant", cut(other));
            return Err(item.error("role", message));
        }
    };
    let text = content(item.any("content"), &item.path("content"))?;
    match messages.last_mut().filter(|last| role == "system" && last["role"] == "system") {
        // Templates know one system prompt.
        Some(last) => last["content"] = format!("{}\n\n{text}", last["content"].as_str().unwrap_or_default()).into(),
        None => messages.push(json!({"role": role, "content": text})),
    }
    if let (Some(thought), Some(last)) = (thought.take_if(|_| role == "assistant"), messages.last_mut()) {
        last["reasoning_content"] = thought.into();
    }
    Ok(())
}

fn reasoning(item: &mut Fields) -> Result<String> {
    item.pass_over(&["encrypted_content"]);
    let mut parts = item.list("content")?.unwrap_or_default();
    let summary = item.list("summary")?.unwrap_or_default();
    if parts.is_empty() {
        parts = summary;
    }
    let texts = parts.iter().filter_map(|part| part["text"].as_str());
    Ok(texts.collect::<Vec<_>>().join("\n"))
}

fn call(item: &mut Fields, thought: &mut Option<String>, messages: &mut Vec<Value>) -> Result<()> {
    let (id, name) = (item.string("call_id")?, item.string("name")?);
    let (id, name) = (item.required("call_id", id)?, item.required("name", name)?);
    let given = item.any("arguments").unwrap_or_default();
    let arguments = arguments(given, &item.path("arguments"))?;
    let call = json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}});
    // Calls are part of what the assistant said before them.
    if messages.last().is_none_or(|last| last["role"] != "assistant") {
        messages.push(json!({"role": "assistant", "content": ""}));
    }
    let Some(last) = messages.last_mut() else { return Ok(()) };
    if let Some(thought) = thought.take() {
        last["reasoning_content"] = thought.into();
    }
    match last["tool_calls"].as_array_mut() {
        Some(calls) => calls.push(call),
        None => last["tool_calls"] = json!([call]),
    }
    Ok(())
}

fn output(item: &mut Fields, messages: &mut Vec<Value>) -> Result<()> {
    let id = item.string("call_id")?;
    let id = item.required("call_id", id)?;
    let text = content(item.any("output"), &item.path("output"))?;
    messages.push(json!({"role": "tool", "tool_call_id": id, "content": text}));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_become_messages() {
        let mut messages = vec![json!({"role": "system", "content": "be kind"})];
        let input = json!([
            {"type": "message", "role": "developer", "content": "be short"},
            {"role": "user", "content": [{"type": "input_text", "text": "weather?"}]},
            {"type": "reasoning", "id": "r", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
            {"type": "function_call", "call_id": "c", "name": "weather", "arguments": "{\"city\": \"Rome\"}"},
            {"type": "function_call", "call_id": "d", "name": "weather", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": "sunny"},
        ]);
        read(input, &mut messages).unwrap();
        assert_eq!(messages[0]["content"], "be kind\n\nbe short");
        assert_eq!(messages[1], json!({"role": "user", "content": "weather?"}));
        assert_eq!(messages[2]["tool_calls"][0]["function"]["arguments"], json!({"city": "Rome"}));
        assert_eq!(
            (messages[2]["tool_calls"][1]["id"].clone(), &messages[2]["reasoning_content"]),
            (json!("d"), &json!("hm"))
        );
        assert_eq!(messages[3], json!({"role": "tool", "tool_call_id": "c", "content": "sunny"}));
    }

    #[test]
    fn other_items_are_refused_by_name() {
        let error = read(json!([{"type": "computer_call"}]), &mut Vec::new()).unwrap_err();
        assert!(error.message.starts_with("`input[0].type` is `computer_call`"), "{}", error.message);
    }
}
