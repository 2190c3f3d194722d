//! What can go wrong between text and tokens.

use std::path::PathBuf;

use crate::Hint;

/// An error of the tokenizer, its files or a chat template.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// The folder has no tokenizer in a format that is read here.
    #[error("no `tokenizer.json` or `tokenizer.model` in `{folder}`{also}", folder = folder.display(), also = found.map(|f| format!(", only `{f}`")).unwrap_or_default())]
    NoTokenizer {
        /// The model folder.
        folder: PathBuf,
        /// A tokenizer file of another format that is there instead.
        found: Option<&'static str>,
    },

    /// `tokenizer.json` is not one, or one that cannot work.
    #[error("`{path}` is not a usable tokenizer: {reason}", path = path.display())]
    BadTokenizer {
        /// The file.
        path: PathBuf,
        /// What the parser says.
        reason: String,
    },

    /// A tokenizer file is larger than any real one.
    #[error("`{path}` has more than {limit_bytes} bytes", path = path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The largest size that is read.
        limit_bytes: u64,
    },

    /// A JSON file beside the tokenizer has a value of another kind than its format asks for.
    #[error("`{key}` in `{path}` is not {expected}", path = path.display())]
    BadField {
        /// The file.
        path: PathBuf,
        /// The key, with the keys above it.
        key: String,
        /// What belongs there.
        expected: &'static str,
    },

    /// A token is named that the vocabulary does not have.
    #[error("`{0}` is not a token of this tokenizer")]
    UnknownToken(String),

    /// The tokenizer refused a text or ids, as a vocabulary without an unknown token does.
    #[error("the tokenizer failed: {0}")]
    Failed(String),

    /// A text is longer than is tokenized.
    #[error("the text has {bytes} bytes, but at most {limit_bytes} are allowed")]
    TextTooLong {
        /// The length of the text.
        bytes: usize,
        /// The longest text that is taken.
        limit_bytes: usize,
    },

    /// A text is far longer than the model can read.
    #[error("the prompt has more than {tokens} tokens, and the model reads at most {limit}")]
    TooManyTokens {
        /// The tokens of the beginning that was looked at.
        tokens: usize,
        /// The context length of the model.
        limit: usize,
    },

    /// The model has no chat template.
    #[error("this model has no chat template")]
    NoChatTemplate,

    /// The model has several named templates and none is the one asked for.
    #[error("no chat template is named `{asked}`; there are {}", .names.iter().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", "))]
    NoSuchTemplate {
        /// The name that was looked for.
        asked: String,
        /// The names that exist.
        names: Vec<String>,
    },

    /// The model asks for a chat template written in Python code.
    #[error("the chat template type `{0}` is not supported")]
    TemplateType(String),

    /// The chat template does not parse.
    #[error("the chat template does not parse{at}: {reason}", at = at_line(*.line))]
    TemplateSyntax {
        /// The line, from 1, where known.
        line: Option<usize>,
        /// What is wrong there.
        reason: String,
    },

    /// The chat template failed while it ran.
    #[error("the chat template failed{at}: {reason}", at = at_line(*.line))]
    TemplateFailed {
        /// The line, from 1, where known.
        line: Option<usize>,
        /// What is wrong there.
        reason: String,
    },

    /// The chat template itself refused the messages, by `raise_exception`.
    #[error("the chat template rejects these messages: {0}")]
    TemplateRaised(String),

    /// The chat template runs longer, or writes more, than any real one.
    #[error("the chat template was stopped: {0}")]
    TemplateLimit(String),

    /// The messages, or options beside them, are not what a template can take.
    #[error("{0}")]
    BadMessages(String),
}

fn at_line(line: Option<usize>) -> String {
    line.map(|line| format!(" at line {line}")).unwrap_or_default()
}

impl Hint for TextError {
    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::NoTokenizer { found: Some(_), .. } => {
                "load the model once in Python with transformers' AutoTokenizer and call `save_pretrained`: it writes tokenizer.json"
            }
            Self::NoTokenizer { found: None, .. } => {
                "check that the path is a model folder and that its download is complete"
            }
            Self::TooLarge { .. } | Self::BadTokenizer { .. } => {
                "download the file again; it may be incomplete or not a tokenizer"
            }
            Self::TextTooLong { .. } | Self::TooManyTokens { .. } => "use a shorter text",
            Self::UnknownToken(_) => "use the token exactly as in the vocabulary, or its id",
            Self::NoChatTemplate => "use a chat model, set a chat template, or use `--ignore-chat-template`",
            Self::TemplateType(_) => "use a Jinja template",
            Self::TemplateSyntax { .. } | Self::TemplateFailed { .. } | Self::TemplateLimit(_) => {
                "use another chat template, or `--ignore-chat-template`"
            }
            _ => return None,
        };
        Some(hint.into())
    }
}
