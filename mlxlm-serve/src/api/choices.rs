//! The answer to a request while it comes: updates of its jobs, put into the order of choices.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use serde_json::{Value, json};

use super::error::{ApiError, Result};
use crate::engine::{Finish, Scored, Ticket, Update};

/// What comes for a request, job after job in the order in which it happens.
#[derive(Debug)]
pub(crate) enum Progress {
    /// So much of a prompt is read.
    Read { done: usize, total: usize },
    /// The tokens of the prompt of a job from the second on.
    PromptScored { job: usize, scored: Vec<Scored> },
    /// A token of a choice, counted over all jobs.
    Token { choice: usize, text: String, scored: Option<Scored> },
    /// A choice is over.
    Finished { choice: usize, finish: Finish, text: String },
}

impl Progress {
    /// The text that is new, and why it is the last, if it is.
    pub(crate) fn text(self) -> Option<(String, Option<Finish>)> {
        match self {
            Self::Token { text, .. } => Some((text, None)),
            Self::Finished { text, finish, .. } => Some((text, Some(finish))),
            Self::Read { .. } | Self::PromptScored { .. } => None,
        }
    }
}

/// The jobs of a request.
#[derive(Debug)]
pub(crate) struct Answer {
    jobs: Vec<Option<Ticket>>,
    /// Choices of each job.
    choices: usize,
    /// Choices that are not over, of each job.
    open: Vec<usize>,
    pub(crate) usage: Usage,
    /// What happened already and was not handed out.
    first: Option<Progress>,
}

/// How long the head of a stream waits for the engine to say whether it takes the request.
const HEAD: Duration = Duration::from_secs(1);

/// Tokens that a request took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) prompt_tokens: usize,
    /// Tokens of the prompts that were known.
    pub(crate) cached_tokens: usize,
    pub(crate) completion_tokens: usize,
    /// Tokens of the answer that were thinking, where that is known.
    pub(crate) reasoning_tokens: usize,
}

impl Usage {
    /// In OpenAI's form.
    pub(crate) fn openai(&self) -> Value {
        json!({
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
            "completion_tokens_details": {"reasoning_tokens": self.reasoning_tokens},
        })
    }
}

impl Answer {
    /// Jobs of `choices` each, whose prompts have `prompt_tokens` in all.
    pub(crate) fn new(jobs: Vec<Ticket>, choices: usize, prompt_tokens: usize) -> Self {
        let open = vec![choices; jobs.len()];
        let usage = Usage { prompt_tokens, ..Usage::default() };
        Self { jobs: jobs.into_iter().map(Some).collect(), choices, open, usage, first: None }
    }

    /// Waits for the engine to begin, so that a request which it refuses has a status of its own; not for long.
    pub(crate) async fn begin(&mut self) -> Result<()> {
        if let Ok(first) = tokio::time::timeout(HEAD, self.next()).await {
            self.first = first?;
        }
        Ok(())
    }

    /// Gives up a choice whose job has no other: the engine need not go on with it.
    pub(crate) fn end(&mut self, choice: usize) {
        let job = choice / self.choices;
        if self.choices == 1
            && let Some(ticket) = self.jobs.get_mut(job)
        {
            *ticket = None;
            self.open[job] = 0;
        }
    }

    /// What happens next; nothing once all choices are over.
    pub(crate) async fn next(&mut self) -> Result<Option<Progress>> {
        if let Some(first) = self.first.take() {
            return Ok(Some(first));
        }
        loop {
            let (job, update) = if let [Some(only)] = self.jobs.as_mut_slice() {
                (0, only.next().await)
            } else {
                let open = self.jobs.iter_mut().enumerate().filter_map(|(i, job)| job.as_mut().map(|job| (i, job)));
                let mut updates: FuturesUnordered<_> =
                    open.map(|(i, job)| async move { (i, job.next().await) }).collect();
                match updates.next().await {
                    Some(update) => update,
                    None => return Ok(None),
                }
            };
            if let Some(progress) = self.take(job, update)? {
                return Ok(Some(progress));
            }
        }
    }

    fn take(&mut self, job: usize, update: Update) -> Result<Option<Progress>> {
        let first = job * self.choices;
        Ok(match update {
            Update::Read { done, total, cached } => {
                if done == cached {
                    self.usage.cached_tokens += cached;
                }
                Some(Progress::Read { done, total })
            }
            Update::PromptScored(scored) => Some(Progress::PromptScored { job, scored }),
            Update::Token { choice, text, scored } => Some(Progress::Token { choice: first + choice, text, scored }),
            Update::Finished { choice, finish, text, tokens } => {
                self.usage.completion_tokens += tokens;
                self.open[job] = self.open[job].saturating_sub(1);
                if self.open[job] == 0 {
                    self.jobs[job] = None;
                }
                Some(Progress::Finished { choice: first + choice, finish, text })
            }
            Update::Embedding(_) => None,
            Update::Failed(fault) => return Err(ApiError::from(fault)),
        })
    }
}

/// The embeddings of a job's prompts, in their order.
pub(crate) async fn embeddings(mut job: Ticket, count: usize) -> Result<Vec<Vec<f32>>> {
    let mut all = Vec::with_capacity(count);
    while all.len() < count {
        match job.next().await {
            Update::Embedding(embedding) => all.push(embedding),
            Update::Failed(fault) => return Err(fault.into()),
            _ => {}
        }
    }
    Ok(all)
}
