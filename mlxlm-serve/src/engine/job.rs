//! What goes to the engine thread and what comes back: plain data only.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use mlxlm_sample::grammar::Matcher;
use mlxlm_sample::{FinishReason, ProcessorOptions, SamplerOptions};
use tokio::sync::mpsc::UnboundedSender;

use super::adapters::Order;
use super::gate::Permit;
use super::thinking::ThinkingBudget;

/// What is sent to the engine's thread.
#[derive(Debug)]
pub(crate) enum Message {
    /// Something to compute.
    Job(Job),
    /// A change of the adapters.
    Adapters(Order),
    /// A model that was let go is wanted again.
    Wake,
    /// The model is to be let go, if there is nothing to do.
    Unload,
    /// The server ends: what is kept is written, and the thread is over.
    Leave,
}

/// What a client asks of the engine.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) work: Work,
    /// Where the updates go. A client that is gone has dropped its end.
    pub(crate) updates: UnboundedSender<Update>,
    /// Set when nobody waits for the job any more.
    pub(crate) cancelled: Cancelled,
    /// When it fails if it is not done.
    pub(crate) deadline: Option<Instant>,
    /// Its place in the server, given back when the job is dropped.
    pub(crate) _permit: Permit,
}

/// A flag that one side sets and the other reads.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cancelled(Arc<AtomicBool>);

impl Cancelled {
    pub(crate) fn set(&self) {
        self.0.store(true, Ordering::Release);
    }

    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// The kinds of work.
#[derive(Debug)]
pub(crate) enum Work {
    /// Text that follows a prompt.
    Generate(Box<Generate>),
    /// For each prompt the mean of the states after the last block, made one long.
    Embed {
        /// Token ids, at least one for each prompt.
        prompts: Vec<Vec<u32>>,
    },
}

impl Work {
    /// The sequences that it is.
    pub(crate) fn places(&self) -> usize {
        match self {
            Self::Generate(generate) => generate.choices,
            Self::Embed { .. } => 1,
        }
    }
}

/// A prompt, and how it goes on.
#[derive(Debug, Clone, Default)]
pub(crate) struct Generate {
    /// Token ids, at least one.
    pub(crate) prompt: Vec<u32>,
    /// How many texts follow it, at least one. Text `i` draws with the seed plus `i`.
    pub(crate) choices: usize,
    pub(crate) sampler: SamplerOptions,
    pub(crate) processors: ProcessorOptions,
    /// The most tokens of each text; 0 only with `score_prompt`.
    pub(crate) max_tokens: usize,
    /// Strings that end a text and are not part of it.
    pub(crate) stop: Vec<String>,
    /// Whether tokens that end a text are tokens like others.
    pub(crate) ignore_eos: bool,
    /// Log-probabilities are wanted, with those of so many of the best tokens.
    pub(crate) logprobs: Option<usize>,
    /// Whether the tokens of the prompt get log-probabilities too.
    pub(crate) score_prompt: bool,
    /// Tokens that are proposed at once, where somebody proposes; `None` is the server's default.
    pub(crate) num_draft_tokens: Option<usize>,
    /// What each text must be, if anything.
    pub(crate) matcher: Option<Matcher>,
    /// How long it may think, if that has an end.
    pub(crate) thinking: Option<ThinkingBudget>,
    /// The adapter by its name; `None` is the model as it was loaded.
    pub(crate) adapter: Option<String>,
    /// What comes first among those that wait: the larger, the earlier.
    pub(crate) priority: i64,
    /// Numbers of tokens after which other prompts may leave this one: the ends of the system prompt and of turns.
    pub(crate) turns: Vec<usize>,
}

/// A token with its log-probability.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Scored {
    pub(crate) id: u32,
    pub(crate) logprob: f32,
    /// The best tokens with theirs, the best first.
    pub(crate) top: Vec<(u32, f32)>,
}

/// Why a text is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Finish {
    /// A token that ends texts.
    Stop,
    /// A stop string, by its place in the request's list.
    StopString(usize),
    /// As many tokens as were wanted.
    Length,
}

impl Finish {
    /// The name in OpenAI's responses.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Stop | Self::StopString(_) => "stop",
            Self::Length => "length",
        }
    }
}

impl From<FinishReason> for Finish {
    fn from(reason: FinishReason) -> Self {
        match reason {
            FinishReason::Stop => Self::Stop,
            FinishReason::Length => Self::Length,
        }
    }
}

/// What became of a job so far.
#[derive(Debug)]
pub(crate) enum Update {
    /// So much of the prompt is read; `cached` tokens of it were known.
    Read { done: usize, total: usize, cached: usize },
    /// The tokens of the prompt from the second on, with their log-probabilities.
    PromptScored(Vec<Scored>),
    /// A token of a choice. The text of the last one is followed by `Finished`.
    Token { choice: usize, text: String, scored: Option<Scored> },
    /// A choice is over; `tokens` are all that were generated for it, one that ended it included.
    Finished { choice: usize, finish: Finish, text: String, tokens: usize },
    /// The embedding of the next prompt, `[D]`.
    Embedding(Vec<f32>),
    /// The job is over without a result.
    Failed(Fault),
}

/// Why a job failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) kind: FaultKind,
    pub(crate) message: String,
}

/// What a failure means to who asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FaultKind {
    /// The request cannot be done.
    Request,
    /// There is no memory for it now.
    NoRoom,
    /// It took too long.
    Deadline,
    /// The model gave something that is no text.
    Model,
    /// The engine broke down, or the server ends.
    Unavailable,
}

impl Fault {
    pub(crate) fn new(kind: FaultKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// The engine has broken down, or the server ends.
    pub(crate) fn gone() -> Self {
        Self::new(FaultKind::Unavailable, "the engine stopped before this request was done")
    }
}

impl From<&mlxlm_sample::Error> for Fault {
    fn from(error: &mlxlm_sample::Error) -> Self {
        use mlxlm_sample::Error;
        let kind = match error {
            Error::Parameter { .. }
            | Error::TokenOutOfRange { .. }
            | Error::EmptyPrompt
            | Error::PromptTooLong { .. }
            | Error::Grammar(_) => FaultKind::Request,
            Error::NoRoom { .. } => FaultKind::NoRoom,
            _ => FaultKind::Model,
        };
        Self::new(kind, error.to_string())
    }
}
