//! Texts for several prompts at once (`batch_generate` of `mlx_lm/generate.py` and `BatchStats` of
//! `mlx_lm/generate_utils.py` 0.32.2).
//!
//! Unusual: row i draws with the seed plus i, as a generation of its own with that seed would.

use std::time::{Duration, Instant};

use mlxlm_cache::Caches;
use mlxlm_core::device;
use mlxlm_core::text::Tokenizer;
use mlxlm_models::CausalLm;

use crate::engine::{Chooser, Counters, Engine, EngineOptions, Event, EventKind, FinishReason, Kept, Sequence, Token};
use crate::{Error, GenerateOptions, Result, SamplerOptions};

/// How to generate a batch.
#[derive(Debug, Clone)]
pub struct BatchOptions {
    /// How to generate each text; its `max_tokens` is for all, unless [`max_tokens`](Self::max_tokens) says otherwise.
    pub generate: GenerateOptions,
    /// The most tokens of each text; empty for the same for all.
    pub max_tokens: Vec<usize>,
    /// What was read before each prompt; empty for nothing. They are not changed.
    pub prompt_caches: Vec<Caches>,
    /// The most sequences that are generated at the same time.
    pub batch_size: usize,
    /// Hands out the caches of each sequence.
    pub return_prompt_caches: bool,
    /// Hands out the log-probability of each token.
    pub return_logprobs: bool,
}

impl Default for BatchOptions {
    fn default() -> Self {
        Self {
            generate: GenerateOptions { max_tokens: Some(128), ..GenerateOptions::default() },
            max_tokens: Vec::new(),
            prompt_caches: Vec::new(),
            batch_size: 32,
            return_prompt_caches: false,
            return_logprobs: false,
        }
    }
}

/// What became of one prompt.
#[derive(Debug, Clone)]
pub struct BatchText {
    /// The text.
    pub text: String,
    /// Its tokens, without one that ended it.
    pub token_ids: Vec<u32>,
    /// The log-probability of each token, where they were asked for.
    pub logprobs: Option<Vec<f32>>,
    /// The caches, where they were asked for: they hold the prompt and every token, one that ended the text included.
    pub caches: Option<Caches>,
    /// Why it is over.
    pub finish_reason: FinishReason,
}

/// What a batch took.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct BatchStats {
    /// What was counted.
    pub counters: Counters,
    /// The time from beginning to end.
    pub wall_time: Duration,
    /// The most memory that arrays have taken so far, in GB of 10^9 bytes.
    pub peak_memory: f64,
}

impl BatchStats {
    /// Tokens of prompts a second; a rate over no time is 0.
    pub fn prompt_tps(&self) -> f64 {
        rate(self.counters.prompt_tokens, self.counters.prompt_time)
    }

    /// Tokens a second, of the steps that made them alone.
    pub fn decode_tps(&self) -> f64 {
        rate(self.counters.generation_tokens, self.counters.decode_time)
    }

    /// The time that was not spent on prompts.
    pub fn generation_time(&self) -> Duration {
        self.wall_time.saturating_sub(self.counters.prompt_time)
    }

    /// Tokens a second, of all the time that was not spent on prompts.
    pub fn generation_tps(&self) -> f64 {
        rate(self.counters.generation_tokens, self.generation_time())
    }

    /// The time that went neither into prompts nor into tokens.
    pub fn overhead_time(&self) -> Duration {
        self.generation_time().saturating_sub(self.counters.decode_time)
    }
}

fn rate(count: usize, time: Duration) -> f64 {
    if time.is_zero() { 0.0 } else { count as f64 / time.as_secs_f64() }
}

/// The texts that follow `prompts`, in their order. The first error ends them all.
pub fn batch_generate(
    model: &dyn CausalLm,
    tokenizer: &Tokenizer,
    prompts: &[Vec<u32>],
    options: &BatchOptions,
) -> Result<(Vec<BatchText>, BatchStats)> {
    let begin = Instant::now();
    options.generate.check()?;
    if options.batch_size == 0 {
        return Err(Error::parameter("batch_size", 0, "a positive number"));
    }
    let mut engine = Engine::new(EngineOptions {
        prefill_step_size: options.generate.prefill_step_size,
        max_running: options.batch_size,
        prefer_prefill_when_pending: true,
    })?;
    for mut sequence in sequences(prompts, options)? {
        sequence.stop_tokens = tokenizer.eos_token_ids().iter().copied().collect();
        engine.insert(model, sequence)?;
    }
    let mut texts: Vec<Growing> = prompts.iter().map(|_| Growing::default()).collect();
    while !engine.is_idle() {
        for Event { id, kind } in engine.step(model)? {
            let Some(text) = usize::try_from(id).ok().and_then(|row| texts.get_mut(row)) else { continue };
            match kind {
                EventKind::Token { token, kept } => text.add(&token, kept, options.return_logprobs)?,
                EventKind::Failed { error, .. } => return Err(error),
                EventKind::Read { .. } | EventKind::Checkpoint(_) => {}
            }
        }
    }
    let texts = texts.into_iter().map(|text| text.finish(tokenizer, options.return_logprobs)).collect::<Result<_>>()?;
    let stats = BatchStats {
        counters: engine.counters(),
        wall_time: begin.elapsed(),
        peak_memory: device::peak_memory_bytes()? as f64 / 1e9,
    };
    Ok((texts, stats))
}

fn sequences<'p>(prompts: &[Vec<u32>], options: &BatchOptions) -> Result<Vec<Sequence<'p>>> {
    let check = |name, got| match got {
        0 => Ok(()),
        got if got == prompts.len() => Ok(()),
        got => Err(Error::Count { name, got, expected: prompts.len() }),
    };
    check("max_tokens", options.max_tokens.len())?;
    check("prompt_caches", options.prompt_caches.len())?;
    let row = |(i, prompt): (usize, &Vec<u32>)| {
        let GenerateOptions { sampler, processors, max_tokens, .. } = &options.generate;
        let seed = sampler.seed.map(|seed| seed.wrapping_add(i as u64));
        let sampler = SamplerOptions { seed, ..sampler.clone() };
        let chooser = Chooser::from_options(&sampler, processors)?;
        let mut sequence = Sequence::new(prompt.clone(), chooser, &options.generate);
        sequence.max_tokens = options.max_tokens.get(i).copied().or(*max_tokens);
        sequence.caches = options.prompt_caches.get(i).cloned();
        sequence.keep_caches = options.return_prompt_caches;
        Ok(sequence)
    };
    prompts.iter().enumerate().map(row).collect()
}

/// A text on its way.
#[derive(Debug, Default)]
struct Growing {
    token_ids: Vec<u32>,
    logprobs: Vec<f32>,
    caches: Option<Caches>,
    is_stopped: bool,
}

impl Growing {
    fn add(&mut self, token: &Token, kept: Option<Kept>, with_logprobs: bool) -> Result<()> {
        self.caches = kept.map(|kept| kept.caches);
        if token.finish == Some(FinishReason::Stop) {
            self.is_stopped = true;
            return Ok(());
        }
        if with_logprobs {
            self.logprobs.push(token.logprob()?);
        }
        self.token_ids.push(token.id);
        Ok(())
    }

    fn finish(self, tokenizer: &Tokenizer, with_logprobs: bool) -> Result<BatchText> {
        Ok(BatchText {
            text: tokenizer.decode(&self.token_ids)?,
            token_ids: self.token_ids,
            logprobs: with_logprobs.then_some(self.logprobs),
            caches: self.caches,
            finish_reason: if self.is_stopped { FinishReason::Stop } else { FinishReason::Length },
        })
    }
}

#[cfg(test)]
mod tests;
