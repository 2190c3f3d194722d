//! One timed generation: prompts are read, then tokens follow, of one sequence or of several at once.

use std::time::Instant;

use mlxlm_cache::Caches;
use mlxlm_core::device;
use mlxlm_models::CausalLm;
use mlxlm_sample::engine::{Chooser, Decoding, Engine, EngineOptions, EventKind, Sequence};
use mlxlm_sample::{GenerateOptions, KvQuantization, ProcessorOptions, SamplerOptions};
use serde_json::{Value, json};

use crate::failure::{Failure, Result};

/// What is timed.
pub(super) struct Setting<'a> {
    pub(super) model: &'a dyn CausalLm,
    /// Of one length; as many as there are sequences.
    pub(super) prompts: Vec<Vec<u32>>,
    /// What every sequence has read before. A trial leaves it as it was.
    pub(super) context: Option<Caches>,
    pub(super) kv_quantization: Option<KvQuantization>,
    pub(super) state_bf16: bool,
    /// Tokens that follow each prompt, at least one.
    pub(super) generation_tokens: usize,
    pub(super) prefill_step_size: usize,
}

/// What it took.
#[derive(Debug, Clone, Default)]
pub(super) struct Trial {
    /// Tokens of all prompts a second, until the first tokens were there.
    pub(super) prompt_tps: f64,
    /// Tokens of all sequences a second, after the first of each; 0 if there is but one.
    pub(super) generation_tps: f64,
    /// From beginning to end, in seconds.
    pub(super) total_s: f64,
    /// The most that arrays have taken so far.
    pub(super) peak_memory_bytes: usize,
}

impl Trial {
    /// As `--json` has it.
    pub(super) fn to_json(&self) -> Value {
        json!({"prompt_tps": self.prompt_tps, "generation_tps": self.generation_tps, "total_s": self.total_s})
    }

    fn new(setting: &Setting, begin: Instant, first: Instant) -> Result<Self> {
        let end = Instant::now();
        let rows = setting.prompts.len();
        let rate = |count: usize, from: Instant, to: Instant| count as f64 / (to - from).as_secs_f64().max(1e-9);
        Ok(Self {
            prompt_tps: rate(setting.prompts.iter().map(Vec::len).sum(), begin, first),
            generation_tps: rate(rows * (setting.generation_tokens - 1), first, end),
            total_s: (end - begin).as_secs_f64(),
            peak_memory_bytes: device::peak_memory_bytes()?,
        })
    }
}

impl Setting<'_> {
    /// Does it once, from what the context holds.
    pub(super) fn run(&mut self) -> Result<Trial> {
        // What the last trial left behind must not be timed here.
        device::synchronize()?;
        device::clear_cache()?;
        match &self.prompts[..] {
            [_] => self.single(),
            _ => self.batch(),
        }
    }

    fn single(&mut self) -> Result<Trial> {
        let options = self.options();
        // Where it can be emptied again, the context itself: a second one would be most of the peak memory.
        let is_copied = !self.context.as_ref().is_some_and(Caches::is_trimmable);
        let mut copy = if is_copied { self.context.clone() } else { None };
        let context = if is_copied { copy.as_mut() } else { self.context.as_mut() };
        let begin = Instant::now();
        let mut tokens = Decoding::new(self.model, &self.prompts[0], context, greedy()?, &options)?;
        tokens.next().transpose()?;
        let first = Instant::now();
        tokens.try_for_each(|token| token.map(drop))?;
        drop(tokens);
        let trial = Trial::new(self, begin, first);
        device::synchronize()?;
        if !is_copied {
            self.forget()?;
        }
        trial
    }

    /// Takes back what a trial added to the context.
    fn forget(&mut self) -> Result {
        let added = (self.prompts[0].len() + self.generation_tokens) as i32;
        let taken_back = self.context.as_mut().map_or(added, |context| context.trim(added));
        if taken_back == added {
            return Ok(());
        }
        Err(Failure::new("a window of the model is full with this context and cannot be emptied again")
            .hint("choose `--context-tokens` well above or below the model's window"))
    }

    fn batch(&self) -> Result<Trial> {
        let options = self.options();
        let mut engine = Engine::new(EngineOptions {
            prefill_step_size: self.prefill_step_size,
            max_running: self.prompts.len(),
            prefer_prefill_when_pending: true,
        })?;
        let begin = Instant::now();
        for prompt in &self.prompts {
            let mut sequence = Sequence::new(prompt.clone(), greedy()?, &options);
            sequence.caches.clone_from(&self.context);
            engine.insert(self.model, sequence)?;
        }
        let mut first = None;
        while !engine.is_idle() {
            for event in engine.step(self.model)? {
                if let EventKind::Failed { error, .. } = event.kind {
                    return Err(error.into());
                }
            }
            if engine.counters().generation_steps == 1 {
                first.get_or_insert_with(Instant::now);
            }
        }
        Trial::new(self, begin, first.unwrap_or(begin))
    }

    fn options(&self) -> GenerateOptions {
        GenerateOptions {
            max_tokens: Some(self.generation_tokens),
            prefill_step_size: self.prefill_step_size,
            kv_quantization: self.kv_quantization,
            state_bf16: self.state_bf16,
            ..GenerateOptions::default()
        }
    }
}

/// The first token after a prompt of one: whatever a model puts off until it is used has been done then.
pub(super) fn first_token(model: &dyn CausalLm) -> Result {
    let options = GenerateOptions { max_tokens: Some(1), ..GenerateOptions::default() };
    Decoding::new(model, &[0], None, greedy()?, &options)?.try_for_each(|token| token.map(drop))?;
    Ok(device::synchronize()?)
}

pub(super) fn greedy() -> Result<Chooser> {
    Ok(Chooser::from_options(&SamplerOptions::default(), &ProcessorOptions::default())?)
}
