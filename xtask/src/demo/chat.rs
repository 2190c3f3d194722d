//! Conversations and how they look in the ChatML template, which `data/chat_template.jinja` is; a test holds the two together.
//! Tools are written in the manner of Qwen2.5: their schemas in the system turn, calls as JSON between `<tool_call>` marks,
//! results in a user turn.

use serde::Serialize;
use serde_json::{Value, json};

pub(crate) const CHAT_TEMPLATE: &str = include_str!("data/chat_template.jinja");

/// Ends a document.
pub(crate) const END_OF_TEXT: &str = "<|endoftext|>";
/// Begins and ends a turn.
pub(crate) const TURN: (&str, &str) = ("<|im_start|>", "<|im_end|>");

/// What is said, by whom, and with which tools at hand.
#[derive(Debug, Clone, Default)]
pub(crate) struct Conversation {
    pub(crate) tools: Vec<Value>,
    pub(crate) messages: Vec<Message>,
}

#[derive(Debug, Clone)]
pub(crate) struct Message {
    pub(crate) role: &'static str,
    pub(crate) content: Content,
}

#[derive(Debug, Clone)]
pub(crate) enum Content {
    Text(String),
    Call { name: &'static str, arguments: Value },
}

impl Conversation {
    pub(crate) fn turn(mut self, role: &'static str, text: impl Into<String>) -> Self {
        self.messages.push(Message { role, content: Content::Text(text.into()) });
        self
    }

    pub(crate) fn call(mut self, name: &'static str, arguments: Value) -> Self {
        self.messages.push(Message { role: "assistant", content: Content::Call { name, arguments } });
        self
    }

    /// One question and its answer.
    pub(crate) fn exchange(self, user: impl Into<String>, assistant: impl Into<String>) -> Self {
        self.turn("user", user).turn("assistant", assistant)
    }

    /// The messages as OpenAI's API and `transformers` have them.
    #[cfg(test)]
    pub(crate) fn to_json(&self) -> Value {
        self.messages
            .iter()
            .map(|message| match &message.content {
                Content::Text(text) => json!({"role": message.role, "content": text}),
                Content::Call { name, arguments } => json!({
                    "role": message.role,
                    "content": null,
                    "tool_calls": [{"type": "function", "function": {"name": name, "arguments": arguments}}],
                }),
            })
            .collect()
    }

    /// What the chat template makes of it, without a generation prompt.
    pub(crate) fn render(&self) -> String {
        let mut text = String::new();
        let mut messages = self.messages.iter().peekable();
        let mut system = messages.next_if(|first| first.role == "system").map(|first| first.content.render());
        if !self.tools.is_empty() {
            let schemas: String = self.tools.iter().map(|tool| python_json(tool) + "\n").collect();
            let own = system.take().map(|own| own + "\n\n").unwrap_or_default();
            system = Some(format!(
                "{own}You may call these tools:\n<tools>\n{schemas}</tools>\nA call looks like this:\n<tool_call>\n\
                 {{\"name\": NAME, \"arguments\": OBJECT}}\n</tool_call>"
            ));
        }
        if let Some(system) = system {
            text.push_str(&turn("system", &system));
        }
        for message in messages {
            let body = message.content.render();
            text.push_str(&match message.role {
                "tool" => turn("user", &format!("<tool_response>\n{body}\n</tool_response>")),
                role => turn(role, &body),
            });
        }
        text
    }
}

fn turn(role: &str, body: &str) -> String {
    let (start, end) = TURN;
    format!("{start}{role}\n{body}{end}\n")
}

impl Content {
    fn render(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Call { name, arguments } => {
                let call = python_json(&json!({"name": name, "arguments": arguments}));
                format!("<tool_call>\n{call}\n</tool_call>")
            }
        }
    }
}

/// JSON on one line as Python's `json.dumps` writes it: with a space after each comma and colon.
pub(crate) fn python_json(value: &Value) -> String {
    let mut bytes = Vec::new();
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, Spaced);
    // Values serialise into memory without fail.
    value.serialize(&mut serializer).map(|()| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

struct Spaced;

impl serde_json::ser::Formatter for Spaced {
    fn begin_array_value<W: ?Sized + std::io::Write>(&mut self, writer: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(&mut self, writer: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, writer: &mut W) -> std::io::Result<()> {
        writer.write_all(b": ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::corpus::conversations;
    use minijinja::value::Serde;
    use minijinja::{Environment, context};

    fn through_template(conversation: &Conversation, add_generation_prompt: bool) -> String {
        let mut environment = Environment::new();
        environment.add_filter("tojson", |value: Serde<Value>| python_json(&value));
        let template = environment.template_from_str(CHAT_TEMPLATE).expect("the template compiles");
        let (messages, tools) = (Serde(conversation.to_json()), Serde(&conversation.tools));
        template.render(context! { messages, tools, add_generation_prompt }).expect("the template renders")
    }

    #[test]
    fn the_template_renders_what_the_corpus_holds() {
        let mut with_tools = 0;
        for conversation in conversations(3, 400) {
            assert_eq!(through_template(&conversation, false), conversation.render());
            with_tools += usize::from(!conversation.tools.is_empty());
        }
        assert!(with_tools > 5);
    }

    #[test]
    fn a_generation_prompt_opens_the_assistants_turn() {
        let conversation = Conversation::default().turn("user", "Hi");
        let expected = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n";
        assert_eq!(through_template(&conversation, true), expected);
    }

    #[test]
    fn json_has_the_spaces_of_python() {
        let value = json!({"a": [1, 2, "x"], "b": {}});
        assert_eq!(python_json(&value), r#"{"a": [1, 2, "x"], "b": {}}"#);
    }
}
