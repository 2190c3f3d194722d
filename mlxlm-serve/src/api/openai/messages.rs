//! The messages of a chat, as templates take them.

use serde_json::{Map, Value, json};

use crate::api::conversation::arguments;
use crate::api::error::{ApiError, Result};
use crate::api::fields::{Fields, cut, wrong};

/// The most messages of a conversation.
const MAX_MESSAGES: usize = 10_000;

/// Checks messages and brings them into the form of templates.
pub(crate) fn read(items: Vec<Value>, path: &str) -> Result<Vec<Value>> {
    if items.is_empty() {
        return Err(ApiError::field(path, "is empty"));
    }
    if items.len() > MAX_MESSAGES {
        return Err(ApiError::field(path, format!("has {} messages, at most {MAX_MESSAGES}", items.len())));
    }
    items.into_iter().enumerate().map(|(i, item)| message(item, &format!("{path}[{i}]"))).collect()
}

fn message(item: Value, path: &str) -> Result<Value> {
    let mut fields = Fields::at(path, item)?;
    let role = fields.string("role")?;
    let role = match fields.required("role", role)?.as_str() {
        "developer" => "system".to_owned(),
        role @ ("system" | "user" | "assistant" | "tool" | "function") => role.to_owned(),
        other => {
            let message = format!("is `{}`, expected system, developer, user, assistant or tool", cut(other));
            return Err(fields.error("role", message));
        }
    };
    let mut message = Map::new();
    message.insert("role".into(), role.as_str().into());
    message.insert("content".into(), content(fields.any("content"), &fields.path("content"))?.into());
    for name in ["name", "tool_call_id", "reasoning_content", "reasoning", "refusal"] {
        if let Some(text) = fields.string(name)? {
            message.insert(name.into(), text.into());
        }
    }
    if let Some(calls) = fields.list("tool_calls")?.filter(|calls| !calls.is_empty()) {
        let path = fields.path("tool_calls");
        let calls = calls.into_iter().enumerate().map(|(i, item)| call(item, &format!("{path}[{i}]")));
        message.insert("tool_calls".into(), calls.collect::<Result<Vec<_>>>()?.into());
    }
    fields.pass_over(&["annotations"]);
    fields.only("audio", &[], "is not supported: no model that can be loaded speaks")?;
    fields.only("function_call", &[], "is not supported; use `tool_calls`")?;
    fields.finish()?;
    Ok(message.into())
}

/// Text, or parts of text put together.
pub(crate) fn content(value: Option<Value>, path: &str) -> Result<String> {
    let parts = match value {
        None => return Ok(String::new()),
        Some(Value::String(text)) => return Ok(text),
        Some(Value::Array(parts)) => parts,
        Some(other) => return Err(wrong(path, &other, "a string or a list of parts")),
    };
    let text = |(i, part): (usize, Value)| {
        let mut part = Fields::at(format!("{path}[{i}]"), part)?;
        let kind = part.string("type")?;
        match part.required("type", kind)?.as_str() {
            "text" | "input_text" | "output_text" => {
                let text = part.string("text")?;
                part.required("text", text)
            }
            "refusal" => Ok(part.string("refusal")?.unwrap_or_default()),
            other => Err(part.error("type", format!("is `{}`: only parts of text are supported", cut(other)))),
        }
    };
    parts.into_iter().enumerate().map(text).collect()
}

fn call(item: Value, path: &str) -> Result<Value> {
    let mut call = Fields::at(path, item)?;
    let id = call.string("id")?;
    call.only("type", &["function".into()], "can be `function` only")?;
    let function = call.fields("function")?;
    let mut function = call.required("function", function)?;
    let name = function.string("name")?;
    let name = function.required("name", name)?;
    let given = function.any("arguments").unwrap_or_default();
    let arguments = arguments(given, &function.path("arguments"))?;
    Ok(json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}))
}

/// Tools in OpenAI's form: each has a function with a name. An empty list is none.
pub(crate) fn tools(items: Option<Vec<Value>>, path: &str) -> Result<Option<Vec<Value>>> {
    const MAX_TOOLS: usize = 1024;
    let Some(items) = items.filter(|items| !items.is_empty()) else { return Ok(None) };
    if items.len() > MAX_TOOLS {
        return Err(ApiError::field(path, format!("has {} tools, at most {MAX_TOOLS}", items.len())));
    }
    for (i, item) in items.iter().enumerate() {
        let mut tool = Fields::at(format!("{path}[{i}]"), item.clone())?;
        let kind = tool.string("type")?;
        if tool.required("type", kind)? != "function" {
            return Err(ApiError::unsupported(tool.path("type"), "can be `function` only"));
        }
        let function = tool.fields("function")?;
        let mut function = tool.required("function", function)?;
        let name = function.string("name")?;
        if function.required("name", name)?.is_empty() {
            return Err(function.error("name", "is empty"));
        }
        function.object("parameters")?;
        function.string("description")?;
        function.boolean("strict")?;
    }
    Ok(Some(items))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_put_together_and_arguments_become_objects() {
        let messages = read(
            vec![
                json!({"role": "developer", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}),
                json!({"role": "assistant", "content": null, "tool_calls": [
                    {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{\"x\": 1}"}},
                ]}),
            ],
            "messages",
        );
        let messages = messages.unwrap();
        assert_eq!(messages[0], json!({"role": "system", "content": "ab"}));
        assert_eq!(messages[1]["tool_calls"][0]["function"]["arguments"], json!({"x": 1}));
    }

    #[test]
    fn what_is_wrong_is_named_by_its_path() {
        let error = |message: Value| read(vec![message], "messages").unwrap_err().message;
        assert!(error(json!({"role": "wizard", "content": "x"})).starts_with("`messages[0].role` is `wizard`"));
        let image = json!({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]});
        assert!(error(image).starts_with("`messages[0].content[0].type` is `image_url`"));
        assert_eq!(error(json!(3)), "`messages[0]` is 3, expected an object");
        assert_eq!(
            error(json!({"role": "user", "content": "x", "colour": 1})),
            "`messages[0].colour` is not a known field"
        );
    }
}
