//! Chat templates: messages to a prompt, as `transformers` renders them.
//!
//! Reference: `apply_chat_template` and `render_jinja_template` of transformers 5.24 over Jinja2 3.1.
//!
//! The engine is our own. A prompt that differs by one character is a wrong prompt, and Jinja2 is Python at heart: its
//! numbers, its strings and their methods, its scopes that are decided before a template runs. So the values here are those
//! of Python, and what is not supported is an error with its line, never another text.
//!
//! Source goes through `parse` (words, tree, scopes) to `ast`, which `eval` runs with `value`s, `ops`, `methods`,
//! `filters`, `tests` and `globals`.
//!
//! Unusual:
//! - Templates come with the model and are foreign code: they run within bounds on steps, time, depth, and the size of each
//!   value and of all of them (`limits`), on a thread of their own, and see nothing but the messages and the options.
//! - Integers have 38 digits. `random`, `lipsum`, `bytes` and what prints an address in memory are refused.
//! - `{% generation %}`, which marks the assistant's words for training, is read as a plain scope.

mod access;
mod ast;
mod engine;
mod eval;
mod fault;
mod filters;
mod format;
mod globals;
mod json;
mod limits;
mod markup;
mod methods;
mod ops;
mod parse;
mod sink;
mod strftime;
mod tests;
mod value;

use serde_json::{Map, Value, json};

use crate::text::{TextError, python};

use engine::Engine;

/// Names under which a message's reasoning comes; the first is the standard one, which templates read.
const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// Stands after the final message while it is rendered, to find where it ends.
const FINAL_TAG: &str = "CONTINUE_FINAL_MESSAGE_TAG ";

/// Names that [`TemplateOptions::kwargs`] may not set: they have fields of their own, or make no sense for text.
const RESERVED: [&str; 16] = [
    "add_generation_prompt",
    "chat_template",
    "continue_final_message",
    "conversation",
    "max_length",
    "messages",
    "padding",
    "return_assistant_tokens_mask",
    "return_dict",
    "return_tensors",
    "sanitize_control_tokens",
    "self",
    "tokenize",
    "tokenizer_kwargs",
    "truncation",
    "verbose",
];

/// What a prompt is rendered with, besides the messages.
#[derive(Clone, Debug, Default)]
pub struct TemplateOptions {
    /// Ends the prompt where the assistant's answer begins.
    pub add_generation_prompt: bool,
    /// Ends the prompt with the final message, for the model to continue it.
    pub continue_final_message: bool,
    /// Tools as a list of JSON schemas.
    pub tools: Option<Value>,
    /// Documents to answer from, each an object, most often with `title` and `text`.
    pub documents: Option<Value>,
    /// The name of one of the model's templates; `None` takes the default one, or the one for tools where there are some.
    pub template: Option<String>,
    /// Further variables that the template sees, such as `enable_thinking`; `tools` and `documents` may be here too.
    pub kwargs: Map<String, Value>,
}

impl TemplateOptions {
    /// The tools, which an option or a keyword may hold.
    pub(crate) fn tools(&self) -> Option<&Value> {
        self.tools.as_ref().or_else(|| self.kwargs.get("tools")).filter(|tools| !tools.is_null())
    }

    fn documents(&self) -> Option<&Value> {
        self.documents.as_ref().or_else(|| self.kwargs.get("documents")).filter(|documents| !documents.is_null())
    }
}

/// A compiled chat template.
#[derive(Debug)]
pub struct ChatTemplate {
    source: String,
    engine: Engine,
}

impl ChatTemplate {
    /// Compiles a template.
    pub fn new(source: &str) -> Result<Self, TextError> {
        Ok(Self { source: source.to_owned(), engine: Engine::compile(source)? })
    }

    /// Renders messages, each an object with `role` and mostly `content`. `variables` are those of the tokenizer, such as
    /// `bos_token`; the keywords in `options` go before them.
    pub fn render(
        &self,
        messages: &[Value],
        mut variables: Map<String, Value>,
        options: &TemplateOptions,
    ) -> Result<String, TextError> {
        let bad = |reason: &str| Err(TextError::BadMessages(reason.into()));
        if messages.is_empty() {
            return bad("there are no messages to render");
        }
        if options.continue_final_message && options.add_generation_prompt {
            return bad("`continue_final_message` and `add_generation_prompt` exclude each other");
        }
        if let Some(name) = options.kwargs.keys().find(|name| RESERVED.contains(&name.as_str())) {
            return Err(TextError::BadMessages(format!("`{name}` cannot be set as a variable of the chat template")));
        }
        check_objects(options.tools(), "tools")?;
        check_objects(options.documents(), "documents")?;

        let mut messages = messages.iter().map(plain_message).collect::<Result<Vec<_>, _>>()?;
        let final_text =
            if options.continue_final_message { Some(self.tag_final_message(&mut messages)?) } else { None };

        variables.extend(options.kwargs.clone());
        variables.insert("messages".into(), messages.into_iter().map(Value::Object).collect());
        variables.insert("tools".into(), options.tools().cloned().unwrap_or_default());
        variables.insert("documents".into(), options.documents().cloned().unwrap_or_default());
        variables.insert("add_generation_prompt".into(), options.add_generation_prompt.into());
        let prompt = self.engine.render(&variables)?;
        match final_text {
            Some(text) => cut_at_tag(&prompt, &text),
            None => Ok(prompt),
        }
    }

    /// Marks the end of the final message's text, and returns that text.
    fn tag_final_message(&self, messages: &mut [Map<String, Value>]) -> Result<String, TextError> {
        let bad = |reason: &str| TextError::BadMessages(format!("the final message cannot be continued: {reason}"));
        if !self.source.contains("content") {
            return Err(bad("the chat template does not read `content`"));
        }
        let content = messages.last_mut().and_then(|message| message.get_mut("content"));
        let text = match content.ok_or_else(|| bad("it has no `content`"))? {
            Value::Array(parts) => parts.iter_mut().rev().find_map(|part| part.get_mut("text")),
            single => Some(single),
        };
        let Some(Value::String(text)) = text else { return Err(bad("it has no text")) };
        let plain = text.clone();
        text.push_str(FINAL_TAG);
        Ok(plain)
    }
}

/// A list of objects, or nothing.
fn check_objects(value: Option<&Value>, name: &str) -> Result<(), TextError> {
    match value {
        None => Ok(()),
        Some(Value::Array(items)) if items.iter().all(Value::is_object) => Ok(()),
        Some(_) => Err(TextError::BadMessages(format!("`{name}` is not a list of objects"))),
    }
}

/// A message as templates get it: keys without a value are left out, and reasoning is there under its standard name and
/// under `thinking`.
fn plain_message(message: &Value) -> Result<Map<String, Value>, TextError> {
    let Value::Object(fields) = message else {
        return Err(TextError::BadMessages(format!("a message is not an object: {message}")));
    };
    let mut fields: Map<String, Value> =
        fields.iter().filter(|(_, value)| !value.is_null()).map(|(key, value)| (key.clone(), value.clone())).collect();
    if let Some(reasoning) = REASONING.iter().find_map(|name| fields.get(*name)).cloned() {
        // Python merges `{"thinking": …}`, the message and `{"reasoning_content": …}`, and templates see that order.
        let mut merged = Map::from_iter([("thinking".to_owned(), reasoning.clone())]);
        merged.extend(fields);
        merged.insert(REASONING[0].into(), reasoning);
        fields = merged;
    }
    Ok(fields)
}

/// The prompt up to the end of the final message. Where the template cut the space after the tag, it cuts the spaces at
/// the end of messages, and the message keeps none.
fn cut_at_tag(prompt: &str, final_text: &str) -> Result<String, TextError> {
    let at = prompt.rfind(python::strip(FINAL_TAG)).filter(|_| prompt.contains(python::strip(final_text)));
    let Some(at) = at else {
        return Err(TextError::BadMessages(
            "the final message cannot be continued: the chat template leaves out a part of it".into(),
        ));
    };
    let kept = &prompt[..at];
    let text = if prompt[at..].starts_with(FINAL_TAG) { kept } else { python::rstrip(kept) };
    Ok(text.to_owned())
}
