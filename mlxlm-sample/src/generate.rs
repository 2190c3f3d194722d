//! From a prompt to text (`stream_generate` and `generate` of `mlx_lm/generate.py` 0.32.2).
//!
//! Unusual: the last response is always given, with the text that the detokenizer still held back. Its token is the
//! one that ended the text, which is counted and has no text of its own.

use std::time::Instant;

use mlxlm_cache::Caches;
use mlxlm_core::text::{Detokenizer, Tokenizer};
use mlxlm_core::{Array, device};
use mlxlm_models::CausalLm;

use crate::engine::{Chooser, Counters, Decoding, FinishReason, Progress, Token, check_room};
use crate::grammar::Matcher;
use crate::propose::{Draft, DraftModel, Proposer};
use crate::{Error, GenerateOptions, LogitsProcessor, Prompt, Result, Sampler, logits_processors};

/// The next piece of text and what it took; the fields are those of the reference.
#[derive(Debug, Clone)]
pub struct GenerationResponse {
    /// The text since the last response; may be empty.
    pub text: String,
    /// The newest token.
    pub token: u32,
    /// The log-probabilities that it was drawn from: `[V]`.
    pub logprobs: Array,
    /// Whether a draft model had proposed it.
    pub from_draft: bool,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens of the prompt a second, until the first token was there.
    pub prompt_tps: f64,
    /// Tokens so far, one that ended the text included.
    pub generation_tokens: usize,
    /// Tokens a second since the first, which is not counted: zero as long as there is no second.
    pub generation_tps: f64,
    /// The most memory that arrays have taken so far, in GB of 10^9 bytes.
    pub peak_memory: f64,
    /// Set in the last response.
    pub finish_reason: Option<FinishReason>,
}

/// Streams the text that follows a prompt. For caches, a draft model or progress, see [`Generator`].
pub fn stream_generate<'a>(
    model: &'a dyn CausalLm,
    tokenizer: &'a Tokenizer,
    prompt: impl Into<Prompt<'a>>,
    options: &GenerateOptions,
) -> Result<Generation<'a>> {
    Generator::new(model, tokenizer).stream(prompt, options)
}

/// The text that follows a prompt. For caches, a draft model or progress, see [`Generator`].
pub fn generate<'a>(
    model: &'a dyn CausalLm,
    tokenizer: &'a Tokenizer,
    prompt: impl Into<Prompt<'a>>,
    options: &GenerateOptions,
) -> Result<String> {
    Generator::new(model, tokenizer).generate(prompt, options)
}

/// A model and its tokenizer, with what else takes part in one generation.
#[must_use]
pub struct Generator<'a> {
    model: &'a dyn CausalLm,
    tokenizer: &'a Tokenizer,
    caches: Option<&'a mut Caches>,
    draft: Option<Draft<'a>>,
    proposer: Option<Box<dyn Proposer + 'a>>,
    matcher: Option<Matcher>,
    progress: Option<Box<Progress<'a>>>,
    processors: Vec<Box<dyn LogitsProcessor>>,
}

impl<'a> Generator<'a> {
    /// A model that starts with empty caches.
    pub fn new(model: &'a dyn CausalLm, tokenizer: &'a Tokenizer) -> Self {
        Self {
            model,
            tokenizer,
            caches: None,
            draft: None,
            proposer: None,
            matcher: None,
            progress: None,
            processors: Vec::new(),
        }
    }

    /// Goes on from what these caches hold. In the end they hold the prompt and all that was generated, too.
    pub fn prompt_cache(mut self, caches: &'a mut Caches) -> Self {
        self.caches = Some(caches);
        self
    }

    /// Lets another model with the same tokenizer propose tokens.
    pub fn draft_model(mut self, draft: Draft<'a>) -> Self {
        self.draft = Some(draft);
        self
    }

    /// Lets somebody else propose tokens.
    pub fn proposer(mut self, proposer: Box<dyn Proposer + 'a>) -> Self {
        self.proposer = Some(proposer);
        self
    }

    /// Lets the answer be only what a grammar allows.
    pub fn matcher(mut self, matcher: Matcher) -> Self {
        self.matcher = Some(matcher);
        self
    }

    /// Reports the tokens of the prompt that are read, and how many there are.
    pub fn on_progress(mut self, progress: impl FnMut(usize, usize) + 'a) -> Self {
        self.progress = Some(Box::new(progress));
        self
    }

    /// Adds a processor of the caller's own behind those of the options.
    pub fn logits_processor(mut self, processor: Box<dyn LogitsProcessor>) -> Self {
        self.processors.push(processor);
        self
    }

    /// Checks everything; the prompt is read when the first response is asked for.
    pub fn stream(self, prompt: impl Into<Prompt<'a>>, options: &GenerateOptions) -> Result<Generation<'a>> {
        let prompt = prompt.into().into_tokens(self.tokenizer)?;
        let mut processors = logits_processors(&options.processors)?;
        processors.extend(self.processors);
        let chooser = Chooser::new(Sampler::new(&options.sampler)?, processors);
        let proposer = match self.draft {
            Some(draft) => {
                check_room(draft.model, options, 1, prompt.len())?;
                Some(Box::new(DraftModel::new(draft, options)?) as Box<dyn Proposer + 'a>)
            }
            None => self.proposer,
        };
        let decoding = Decoding::new(self.model, &prompt, self.caches, chooser, options)?
            .with_progress(self.progress)
            .with_proposer(proposer)
            .with_matcher(self.matcher)
            .with_stop_tokens(self.tokenizer.eos_token_ids().iter().copied());
        Ok(Generation {
            decoding,
            detokenizer: self.tokenizer.detokenizer(),
            prompt_tokens: prompt.len(),
            prompt_tps: 0.0,
            generated: 0,
            since: None,
            is_over: false,
        })
    }

    /// The whole text.
    pub fn generate(self, prompt: impl Into<Prompt<'a>>, options: &GenerateOptions) -> Result<String> {
        self.stream(prompt, options)?.map(|response| Ok(response?.text)).collect()
    }
}

/// A text that is being generated: an iterator of [`GenerationResponse`]s, the last of which says why it is over.
pub struct Generation<'a> {
    decoding: Decoding<'a>,
    detokenizer: Detokenizer,
    prompt_tokens: usize,
    prompt_tps: f64,
    generated: usize,
    /// When the prompt was begun, then when the first token was there.
    since: Option<Instant>,
    is_over: bool,
}

impl Generation<'_> {
    /// What was done so far, in tokens, steps and time.
    pub fn counters(&self) -> Counters {
        self.decoding.counters()
    }

    /// Brings caches that are lent to where they hold the prompt and every token handed out. Needed only where a
    /// generation is left before it is over; it does so itself at its end.
    pub fn settle(&mut self) -> Result<()> {
        self.decoding.settle()
    }

    fn advance(&mut self) -> Result<Option<GenerationResponse>> {
        let begin = *self.since.get_or_insert_with(Instant::now);
        let Some(token) = self.decoding.next().transpose()? else { return Ok(None) };
        if self.generated == 0 {
            self.prompt_tps = per_second(self.prompt_tokens, begin);
            self.since = Some(Instant::now());
        }
        self.generated += 1;
        if token.finish != Some(FinishReason::Stop) {
            self.detokenizer.add_token(token.id);
        }
        if token.finish.is_some() {
            self.is_over = true;
            self.detokenizer.finalize();
        }
        self.respond(token).map(Some)
    }

    fn respond(&mut self, token: Token) -> Result<GenerationResponse> {
        let Token { id, logprobs, from_draft, finish: finish_reason } = token;
        Ok(GenerationResponse {
            text: self.detokenizer.last_segment(),
            token: id,
            logprobs,
            from_draft,
            prompt_tokens: self.prompt_tokens,
            prompt_tps: self.prompt_tps,
            generation_tokens: self.generated,
            generation_tps: self.since.map_or(0.0, |since| per_second(self.generated - 1, since)),
            peak_memory: device::peak_memory_bytes().map_err(Error::from)? as f64 / 1e9,
            finish_reason,
        })
    }
}

impl Iterator for Generation<'_> {
    type Item = Result<GenerationResponse>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_over {
            return None;
        }
        let response = self.advance();
        self.is_over |= response.is_err();
        response.transpose()
    }
}

/// A rate that stays finite, however short the time was.
fn per_second(count: usize, since: Instant) -> f64 {
    count as f64 / since.elapsed().as_secs_f64().max(1e-9)
}

#[cfg(test)]
mod tests;
