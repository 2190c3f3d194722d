//! From what the user typed to the tokens that the model reads.

use std::io::Read;

use mlxlm_core::text::{TemplateOptions, Tokenizer};
use mlxlm_models::CausalLm;
use serde_json::{Map, Value, json};

use crate::failure::{Failure, Result};

/// The text of a `--prompt`: standard input for `-`.
pub(crate) fn text(prompt: &str) -> Result<String> {
    if prompt != "-" {
        return Ok(prompt.to_owned());
    }
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).map_err(|error| Failure::input(&error))?;
    Ok(text)
}

/// The tokens of a prompt given as plain text, with the special tokens that it does not bring.
pub(crate) fn plain_tokens(text: &str, tokenizer: &Tokenizer, model: &dyn CausalLm) -> Result<Vec<u32>> {
    check_length(text, tokenizer, model)?;
    Ok(tokenizer.encode_prompt(text)?)
}

/// The tokens of a prompt that a chat template wrote, special ones included.
pub(crate) fn rendered_tokens(text: &str, tokenizer: &Tokenizer, model: &dyn CausalLm) -> Result<Vec<u32>> {
    check_length(text, tokenizer, model)?;
    Ok(tokenizer.encode(text, false)?)
}

/// Refuses a text that is far longer than the model reads, before all of it is tokenized.
fn check_length(text: &str, tokenizer: &Tokenizer, model: &dyn CausalLm) -> Result<()> {
    let limit = model.info().context_length.and_then(|limit| usize::try_from(limit).ok());
    match limit.filter(|&limit| limit > 0) {
        Some(limit) => Ok(tokenizer.check_length(text, limit)?),
        None => Ok(()),
    }
}

/// What a `--prompt` of `generate` means: `\n` and `\t` are typed as two characters.
pub(crate) fn unescaped(prompt: &str) -> String {
    prompt.replace("\\n", "\n").replace("\\t", "\t")
}

/// One turn of a user, ready to be rendered.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    pub(crate) system: Option<String>,
    pub(crate) user: String,
    /// How the answer begins.
    pub(crate) prefill: Option<String>,
    /// Values for the template.
    pub(crate) kwargs: Map<String, Value>,
}

impl Turn {
    /// The prompt in the model's own chat format.
    pub(crate) fn render(&self, tokenizer: &Tokenizer) -> Result<String> {
        let message = |role: &str, content: &str| json!({"role": role, "content": content});
        let mut messages: Vec<Value> = self.system.iter().map(|system| message("system", system)).collect();
        messages.push(message("user", &self.user));
        messages.extend(self.prefill.iter().map(|prefill| message("assistant", prefill)));
        let options = TemplateOptions {
            add_generation_prompt: self.prefill.is_none(),
            continue_final_message: self.prefill.is_some(),
            kwargs: self.kwargs.clone(),
            ..TemplateOptions::default()
        };
        Ok(tokenizer.apply_chat_template(&messages, &options)?)
    }

    /// The part of the rendered prompt from the last message on, for a cache that holds what comes before.
    pub(crate) fn render_suffix(&self, tokenizer: &Tokenizer) -> Result<String> {
        const QUERY: &str = "<query>";
        let whole = self.render(tokenizer)?;
        let marked = match &self.prefill {
            Some(_) => Self { prefill: Some(QUERY.into()), user: self.user.clone(), ..self.settings() },
            None => Self { user: QUERY.into(), ..self.settings() },
        };
        let suffix = marked.render(tokenizer)?.rfind(QUERY).and_then(|start| whole.get(start..));
        suffix.map(str::to_owned).ok_or_else(|| {
            Failure::new("the chat template does not say where the prompt begins")
                .hint("continue the prompt cache with `--ignore-chat-template`")
        })
    }

    fn settings(&self) -> Self {
        Self { system: self.system.clone(), kwargs: self.kwargs.clone(), ..Self::default() }
    }
}

/// The object of an option with values for the template.
pub(crate) fn template_values(option: &str, json: Option<&str>) -> Result<Map<String, Value>> {
    let Some(json) = json else { return Ok(Map::new()) };
    match serde_json::from_str(json) {
        Ok(Value::Object(values)) => Ok(values),
        Ok(_) => Err(Failure::usage(format!("`{option}` is not a JSON object"))),
        Err(error) => Err(Failure::usage(format!("`{option}` is not JSON: {error}"))),
    }
    .map_err(|failure| failure.hint(format!(r#"as in {option} '{{"enable_thinking": false}}'"#)))
}

/// `--max-tokens`: -1 is no bound.
pub(crate) fn max_tokens(given: i64) -> Result<Option<usize>> {
    match given {
        -1 => Ok(None),
        1.. => Ok(Some(given as usize)),
        _ => Err(Failure::usage(format!("`--max-tokens` is {given}, expected 1 or more, or -1 for no limit"))),
    }
}
