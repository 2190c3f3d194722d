//! Conversations as chat templates take them, and the prompts that come of them.

use mlxlm_core::text::TemplateOptions;
use serde_json::{Map, Value, json};

use super::error::{ApiError, Result};
use super::prompt::check_length;
use crate::engine::Card;

/// What is put before messages of a role, for models without a chat template.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RoleMapping(Map<String, Value>);

impl Default for RoleMapping {
    /// That of mlx-lm.
    fn default() -> Self {
        let entries =
            [("system", "ASSISTANT's RULE: "), ("user", "USER: "), ("assistant", "ASSISTANT: "), ("stop", "\n")];
        Self(entries.into_iter().map(|(role, prefix)| (role.to_owned(), prefix.into())).collect())
    }
}

impl RoleMapping {
    pub(crate) fn new(entries: Map<String, Value>) -> Self {
        Self(entries)
    }

    fn of(&self, role: &str) -> &str {
        self.0.get(role).and_then(Value::as_str).unwrap_or_default()
    }

    fn render(&self, messages: &[Value]) -> String {
        let text = |message: &Value, key: &str| message[key].as_str().unwrap_or_default().to_owned();
        let line = |message: &Value| {
            let prefix = self.of(&text(message, "role")).to_owned();
            prefix + &text(message, "content") + self.of("stop")
        };
        let lines: String = messages.iter().map(line).collect();
        (lines + self.of("assistant")).trim_end().to_owned()
    }
}

/// What was said, as templates take it: objects with `role` and `content`, arguments of calls as objects.
#[derive(Debug, Clone, Default)]
pub(crate) struct Conversation {
    pub(crate) messages: Vec<Value>,
    /// Tools in OpenAI's form.
    pub(crate) tools: Option<Value>,
    /// Variables for the template.
    pub(crate) kwargs: Map<String, Value>,
    pub(crate) roles: Option<RoleMapping>,
    /// Whether the model goes on with the last message instead of answering it.
    pub(crate) continues: bool,
    /// Whether the answer has to begin with a call of a tool.
    pub(crate) must_call: bool,
}

/// A prompt with what has to be known of it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rendered {
    pub(crate) text: String,
    /// What of the text is the beginning of the answer already.
    pub(crate) begun: &'static str,
    pub(crate) tokens: Vec<u32>,
    /// Numbers of tokens after which other conversations may leave this one; only where the caches need to know.
    pub(crate) turns: Vec<usize>,
}

impl Conversation {
    /// The prompt as text.
    pub(crate) fn text(&self, card: &Card) -> Result<String> {
        self.render(card, &self.messages, !self.continues)
    }

    /// The prompt as tokens.
    pub(crate) fn rendered(&self, card: &Card) -> Result<Rendered> {
        let mut text = self.text(card)?;
        let begun = if self.must_call { begin_call(&mut text, card)? } else { "" };
        let tokens = encode(&text, card)?;
        let turns = if card.needs_turns { self.turns(card, &tokens) } else { Vec::new() };
        Ok(Rendered { text, begun, tokens, turns })
    }

    fn render(&self, card: &Card, messages: &[Value], answers: bool) -> Result<String> {
        if !card.tokenizer.has_chat_template() {
            return Ok(self.roles.clone().unwrap_or_default().render(messages));
        }
        let options = TemplateOptions {
            add_generation_prompt: answers,
            continue_final_message: self.continues && !answers && messages.len() == self.messages.len(),
            tools: self.tools.clone(),
            kwargs: self.kwargs.clone(),
            ..TemplateOptions::default()
        };
        Ok(card.tokenizer.apply_chat_template(messages, &options)?)
    }

    /// The ends of the system prompt and of everything before the last message of the user.
    fn turns(&self, card: &Card, tokens: &[u32]) -> Vec<usize> {
        let role = |message: &Value, role: &str| message["role"] == role;
        let system: Vec<Value> = self.messages.iter().take_while(|message| role(message, "system")).cloned().collect();
        let with_nothing = [system.clone(), vec![json!({"role": "user", "content": ""})]].concat();
        let last = self.messages.iter().rposition(|message| role(message, "user")).unwrap_or(0);
        let others = [with_nothing.as_slice(), &self.messages[..last]];
        let common = |messages: &[Value]| {
            // A template that refuses the shorter conversation says nothing of where it would end.
            let other = encode(&self.render(card, messages, false).ok()?, card).ok()?;
            Some(other.iter().zip(tokens).take_while(|(a, b)| a == b).count())
        };
        let known = others.into_iter().filter(|messages| !messages.is_empty());
        known.filter_map(common).filter(|&at| at > 0).collect()
    }
}

/// Ends a prompt with the marker that begins a call, after thinking that the template has begun. The model will likely go on with a
/// call; no grammar holds it to one, and text that is none comes out as text.
fn begin_call(text: &mut String, card: &Card) -> Result<&'static str> {
    let marker = card.format.and_then(|format| format.starts().first().copied());
    let marker = marker.ok_or_else(|| {
        let message = "cannot be `required`: how this model begins a call is not known";
        ApiError::unsupported("tool_choice", message)
    })?;
    if let Some(marks) = card.marks.as_ref().filter(|marks| marks.is_opened_by(text)) {
        *text = format!("{}\n{}\n\n", text.trim_end(), marks.end);
    }
    text.push_str(marker);
    Ok(marker)
}

/// The tool of a name, alone, for a request that wants that one to be called.
pub(crate) fn only_tool(tools: Option<Vec<Value>>, name: &str, path: &str) -> Result<Vec<Value>> {
    let mut tools = tools.unwrap_or_default();
    tools.retain(|tool| tool["function"]["name"] == name);
    match tools.is_empty() {
        true => Err(ApiError::field(
            path,
            format!("names the tool `{}`, which is not in `tools`", super::fields::cut(name)),
        )),
        false => Ok(tools),
    }
}

fn encode(text: &str, card: &Card) -> Result<Vec<u32>> {
    check_length(text, card)?;
    match card.tokenizer.has_chat_template() {
        true => Ok(card.tokenizer.encode(text, false)?),
        false => Ok(card.tokenizer.encode_prompt(text)?),
    }
}

/// Arguments of a call as templates want them: an object, which clients send as a string of JSON.
pub(crate) fn arguments(value: Value, path: &str) -> Result<Value> {
    match value {
        Value::String(text) if text.trim().is_empty() => Ok(Value::Object(Map::new())),
        Value::String(text) => match serde_json::from_str(&text) {
            Ok(Value::Object(map)) => Ok(Value::Object(map)),
            Ok(_) => Err(ApiError::field(path, "is not a JSON object")),
            Err(error) => Err(ApiError::field(path, format!("is not JSON: {error}"))),
        },
        Value::Object(map) => Ok(Value::Object(map)),
        Value::Null => Ok(Value::Object(Map::new())),
        _ => Err(ApiError::field(path, "is neither a JSON object nor a string of one")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_without_a_template_get_lines() {
        let messages = [json!({"role": "system", "content": "be kind"}), json!({"role": "user", "content": "hi"})];
        assert_eq!(RoleMapping::default().render(&messages), "ASSISTANT's RULE: be kind\nUSER: hi\nASSISTANT:");
    }
}
