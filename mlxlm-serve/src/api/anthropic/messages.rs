//! Anthropic's messages, as templates take them.
//!
//! Results of tools are blocks of a user's message there and messages of their own here. Instructions that come in the middle, as
//! some clients send them, stay where they are, as words of the user: templates know one system prompt, at the beginning.

use serde_json::{Map, Value, json};

use crate::api::error::{ApiError, Result};
use crate::api::fields::{Fields, cut, wrong};

/// The most messages of a conversation.
const MAX_MESSAGES: usize = 10_000;

/// The system prompt, which is text or blocks of text.
pub(super) fn system(value: Option<Value>) -> Result<Option<String>> {
    let text = text(value, "system")?;
    Ok((!text.is_empty()).then_some(text))
}

/// Text, or blocks of text put together.
fn text(value: Option<Value>, path: &str) -> Result<String> {
    let blocks = match value {
        None => return Ok(String::new()),
        Some(Value::String(text)) => return Ok(text),
        Some(Value::Array(blocks)) => blocks,
        Some(other) => return Err(wrong(path, &other, "a string or a list of blocks")),
    };
    let texts = blocks.into_iter().enumerate().map(|(i, block)| {
        let (kind, mut block) = block_of(block, format!("{path}[{i}]"))?;
        if kind == "text" { text_of(&mut block, "text") } else { Err(unknown(&block, &kind)) }
    });
    Ok(texts.collect::<Result<Vec<_>>>()?.join("\n"))
}

fn block_of(value: Value, path: String) -> Result<(String, Fields)> {
    let mut block = Fields::at(path, value)?;
    let kind = block.string("type")?;
    let kind = block.required("type", kind)?;
    block.pass_over(&["cache_control", "citations", "caller"]);
    Ok((kind, block))
}

fn text_of(block: &mut Fields, name: &str) -> Result<String> {
    let text = block.string(name)?;
    block.required(name, text)
}

fn unknown(block: &Fields, kind: &str) -> ApiError {
    block.error("type", format!("is `{}`, which is not supported here", cut(kind)))
}

/// Checks messages and brings them into the form of templates.
pub(super) fn read(items: Vec<Value>) -> Result<Vec<Value>> {
    if items.is_empty() {
        return Err(ApiError::field("messages", "is empty"));
    }
    if items.len() > MAX_MESSAGES {
        return Err(ApiError::field("messages", format!("has {} messages, at most {MAX_MESSAGES}", items.len())));
    }
    let mut messages: Vec<Value> = Vec::new();
    for (i, item) in items.into_iter().enumerate() {
        let path = format!("messages[{i}]");
        let mut fields = Fields::at(&path, item)?;
        let role = fields.string("role")?;
        let role = fields.required("role", role)?;
        let content = fields.any("content");
        fields.finish()?;
        let blocks = match content {
            None => Vec::new(),
            Some(Value::String(text)) => vec![json!({"type": "text", "text": text})],
            Some(Value::Array(blocks)) => blocks,
            Some(other) => return Err(wrong(&format!("{path}.content"), &other, "a string or a list of blocks")),
        };
        match role.as_str() {
            "user" | "system" => user(blocks, &path, &mut messages)?,
            "assistant" => messages.push(assistant(blocks, &path)?),
            other => {
                let message = format!("is `{}`, expected user or assistant", cut(other));
                return Err(ApiError::field(format!("{path}.role"), message));
            }
        }
    }
    Ok(messages)
}

/// A user's blocks: results of tools first, as they follow the calls, and then what the user says.
fn user(blocks: Vec<Value>, path: &str, messages: &mut Vec<Value>) -> Result<()> {
    let mut said = Vec::new();
    for (i, block) in blocks.into_iter().enumerate() {
        let (kind, mut block) = block_of(block, format!("{path}.content[{i}]"))?;
        match kind.as_str() {
            "text" => said.push(text_of(&mut block, "text")?),
            "tool_result" => {
                let id = text_of(&mut block, "tool_use_id")?;
                let failed = block.boolean("is_error")?.unwrap_or(false);
                let content = block.any("content");
                let content = text(content, &block.path("content"))?;
                let content = if failed { format!("Error: {content}") } else { content };
                messages.push(json!({"role": "tool", "tool_call_id": id, "content": content}));
            }
            other => return Err(unknown(&block, other)),
        }
    }
    let said = said.join("\n");
    if said.is_empty() && messages.last().is_some_and(|last| last["role"] == "tool") {
        return Ok(());
    }
    match messages.last_mut().filter(|last| last["role"] == "user") {
        // Templates want the roles to take turns.
        Some(last) => {
            let before = last["content"].as_str().unwrap_or_default();
            last["content"] = format!("{before}\n{said}").into();
        }
        None => messages.push(json!({"role": "user", "content": said})),
    }
    Ok(())
}

fn assistant(blocks: Vec<Value>, path: &str) -> Result<Value> {
    let (mut said, mut thought, mut calls) = (String::new(), String::new(), Vec::new());
    for (i, block) in blocks.into_iter().enumerate() {
        let (kind, mut block) = block_of(block, format!("{path}.content[{i}]"))?;
        match kind.as_str() {
            "text" => said += &text_of(&mut block, "text")?,
            "thinking" => thought += &text_of(&mut block, "thinking")?,
            // Nobody but its maker can read it.
            "redacted_thinking" => {}
            "tool_use" => {
                let (id, name) = (text_of(&mut block, "id")?, text_of(&mut block, "name")?);
                let input = block.object("input")?.unwrap_or_default();
                calls.push(json!({"id": id, "type": "function", "function": {"name": name, "arguments": input}}));
            }
            other => return Err(unknown(&block, other)),
        }
    }
    let mut message = Map::new();
    message.insert("role".into(), "assistant".into());
    message.insert("content".into(), said.into());
    if !thought.is_empty() {
        message.insert("reasoning_content".into(), thought.into());
    }
    if !calls.is_empty() {
        message.insert("tool_calls".into(), calls.into());
    }
    Ok(message.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_tools_become_messages() {
        let messages = read(vec![
            json!({"role": "user", "content": "weather?"}),
            json!({"role": "assistant", "content": [
                {"type": "thinking", "thinking": "hm", "signature": "s"},
                {"type": "text", "text": "let me see"},
                {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Rome"}},
            ]}),
            json!({"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "sunny"}]},
                {"type": "text", "text": "go on", "cache_control": {"type": "ephemeral"}},
            ]}),
        ]);
        let messages = messages.unwrap();
        assert_eq!(messages[1]["tool_calls"][0]["function"]["arguments"], json!({"city": "Rome"}));
        assert_eq!(messages[1]["reasoning_content"], "hm");
        assert_eq!(messages[2], json!({"role": "tool", "tool_call_id": "t1", "content": "sunny"}));
        assert_eq!(messages[3], json!({"role": "user", "content": "go on"}));
    }

    #[test]
    fn instructions_in_the_middle_stay_where_they_are() {
        let messages = read(vec![
            json!({"role": "user", "content": "a"}),
            json!({"role": "assistant", "content": "b"}),
            json!({"role": "system", "content": "be short"}),
            json!({"role": "user", "content": "c"}),
        ]);
        assert_eq!(messages.unwrap()[2], json!({"role": "user", "content": "be short\nc"}));
    }

    #[test]
    fn what_is_not_text_is_refused_by_its_path() {
        let error = read(vec![json!({"role": "user", "content": [{"type": "image", "source": {}}]})]).unwrap_err();
        assert!(error.message.starts_with("`messages[0].content[0].type` is `image`"), "{}", error.message);
    }
}
