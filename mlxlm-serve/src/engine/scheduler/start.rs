//! From a job to sequences of an engine.

use std::rc::Rc;

use mlxlm_cache::Caches;
use mlxlm_cache::store::Checkpoint;
use mlxlm_sample::engine::{Chooser, Sequence};
use mlxlm_sample::grammar::Matcher;
use mlxlm_sample::{GenerateOptions, Result, SamplerOptions};

use super::{Asked, Row, RowId, Scheduler, Scoring};
use crate::engine::adapters::Adapter;
use crate::engine::job::Generate;
use crate::engine::thinking::Watch;
use crate::text::RunningText;

/// Where a text goes on from.
#[derive(Clone)]
pub(super) struct Origin {
    pub(super) adapter: Rc<Adapter>,
    /// Caches that have read some tokens.
    pub(super) caches: Option<Caches>,
    /// Those tokens.
    pub(super) before: Vec<u32>,
    /// Places among them that caches can go back to.
    pub(super) checkpoints: Vec<Checkpoint>,
}

/// A sequence to be made: what differs between the beginning of a text and one that goes on.
pub(super) struct Part<'a> {
    pub(super) from: Origin,
    /// The tokens to read.
    pub(super) prompt: &'a [u32],
    pub(super) choice: usize,
    pub(super) max_tokens: usize,
    pub(super) matcher: Option<Matcher>,
    /// Added to the seed, so that no part draws what another has drawn.
    pub(super) reseed: u64,
    /// Where copies of the caches are wanted, counted from the first token of all.
    pub(super) cuts: Vec<usize>,
}

impl Scheduler<'_> {
    /// Starts a job that is due.
    pub(super) fn start(&mut self, asked: &Rc<Asked>) -> Result<()> {
        let Some(generate) = asked.generate() else {
            self.embedding.push_back((Rc::clone(asked), 0));
            return Ok(());
        };
        let adapter = match self.adapter(generate) {
            Ok(adapter) => adapter,
            Err(fault) => {
                self.status.numbers.failed.add(1);
                asked.fail(fault);
                return Ok(());
            }
        };
        if generate.score_prompt {
            self.adapters.put_on(&adapter, &mut *self.main.model);
            let scoring = Scoring::new(&*self.main.model, &generate.prompt, generate.logprobs.unwrap_or(0))?;
            self.scoring.push_back((Rc::clone(asked), scoring));
            return Ok(());
        }
        let hit = self.reuse.fetch(&adapter.key, &generate.prompt);
        let mut from = Origin { adapter, caches: None, before: Vec::new(), checkpoints: Vec::new() };
        if let Some(hit) = hit {
            self.status.numbers.cached_tokens.add(hit.tokens);
            from.before.extend(&generate.prompt[..hit.tokens]);
            from = Origin { caches: Some(hit.caches), checkpoints: hit.checkpoints, ..from };
        }
        self.insert_all(asked, generate, from)
    }

    /// Gives the engine the first choice, and all of them if they cannot be copied from it.
    pub(super) fn insert_all(&mut self, asked: &Rc<Asked>, generate: &Generate, from: Origin) -> Result<()> {
        let copied_later = generate.choices > 1 && from.before.len() + 1 < generate.prompt.len();
        let choices = if copied_later { 0..1 } else { 0..generate.choices };
        for choice in choices {
            self.insert_choice(asked, generate, choice, from.clone())?;
        }
        Ok(())
    }

    /// Gives the engine a choice.
    pub(super) fn insert_choice(
        &mut self,
        asked: &Rc<Asked>,
        generate: &Generate,
        choice: usize,
        from: Origin,
    ) -> Result<()> {
        let prompt = &generate.prompt[from.before.len()..];
        let cuts = if choice == 0 { self.cuts(generate, &from.adapter.key, from.before.len()) } else { Vec::new() };
        let max_tokens = generate.max_tokens;
        let part = Part { from, prompt, choice, max_tokens, matcher: generate.matcher.clone(), reseed: 0, cuts };
        let (id, before, checkpoints) = self.insert(generate, part)?;
        let text = RunningText::new(&self.main.tokenizer, &generate.stop);
        let watch = generate.thinking.as_ref().map(Watch::new);
        let is_reported = choice == 0;
        let asked = Rc::clone(asked);
        let row = Row { asked, choice, before, checkpoints, text, generated: 0, watch, is_reported };
        self.rows.insert(id, row);
        Ok(())
    }

    /// Gives an engine a sequence; what was before it comes back.
    pub(super) fn insert(&mut self, generate: &Generate, part: Part<'_>) -> Result<(RowId, Vec<u32>, Vec<Checkpoint>)> {
        let Part { from, prompt, choice, max_tokens, matcher, reseed, cuts } = part;
        let Origin { adapter, caches, before, checkpoints } = from;
        let seed = generate.sampler.seed.map(|seed| seed.wrapping_add(choice as u64).wrapping_add(reseed << 32));
        let sampler = SamplerOptions { seed, ..generate.sampler.clone() };
        let mut chooser = Chooser::from_options(&sampler, &generate.processors)?;
        if !before.is_empty() {
            chooser.note_before(&before)?;
        }
        let mut options = GenerateOptions {
            max_tokens: Some(max_tokens),
            kv_quantization: self.options.kv_quantization,
            state_bf16: self.options.state_bf16,
            prefill_step_size: self.options.prefill_step_size,
            ..GenerateOptions::default()
        };
        let proposer = self.proposer(generate, &before, &mut options)?;
        let mut sequence = Sequence::new(prompt.to_vec(), chooser, &options);
        if !generate.ignore_eos {
            sequence.stop_tokens = self.main.tokenizer.eos_token_ids().iter().copied().collect();
        }
        sequence.caches = caches;
        // Who may have to end its thinking goes on from its caches.
        sequence.keep_caches = choice == 0 && self.reuse.keeps() || generate.thinking.is_some();
        sequence.checkpoints = cuts.into_iter().filter_map(|at| at.checked_sub(before.len())).collect();
        sequence.matcher = matcher;
        sequence.proposer = proposer;
        let number = self.lane(&adapter)?;
        let Some(lane) = self.lanes.get_mut(&number) else { return Err(mlxlm_sample::Error::EmptyPrompt) };
        let id = lane.engine.insert(&*self.main.model, sequence)?;
        Ok(((number, id), before, checkpoints))
    }

    /// Where copies of the caches are wanted: for prompts that will leave this one there, and for the other choices.
    fn cuts(&self, generate: &Generate, key: &str, before: usize) -> Vec<usize> {
        let last = generate.prompt.len() - 1;
        let mut at = self.reuse.cuts(key, &generate.prompt, before, &generate.turns);
        at.extend((generate.choices > 1).then_some(last));
        at.retain(|&at| at > before && at <= last);
        at.sort_unstable();
        at.dedup();
        at
    }
}
