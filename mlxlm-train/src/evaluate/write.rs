//! Answers that are written until a string ends them, several at a time.

use mlxlm_core::text::{Detokenizer, Tokenizer};
use mlxlm_models::CausalLm;
use mlxlm_sample::engine::{Chooser, Engine, EngineOptions, Event, EventKind, Sequence};
use mlxlm_sample::{FinishReason, GenerateOptions, SamplerOptions};

use crate::Result;

/// The answers to prompts, each up to the first of the strings `until`. `done` hears how many are finished.
pub(super) fn write(
    model: &dyn CausalLm,
    tokenizer: &Tokenizer,
    prompts: &[Vec<u32>],
    until: &[String],
    batch_size: usize,
    options: &GenerateOptions,
    mut done: impl FnMut(usize),
) -> Result<Vec<String>> {
    let mut engine = Engine::new(EngineOptions {
        prefill_step_size: options.prefill_step_size,
        max_running: batch_size,
        prefer_prefill_when_pending: true,
    })?;
    let mut texts: Vec<Detokenizer> = Vec::with_capacity(prompts.len());
    for (i, prompt) in (0_u64..).zip(prompts) {
        let seed = options.sampler.seed.map(|seed| seed.wrapping_add(i));
        let sampler = SamplerOptions { seed, ..options.sampler.clone() };
        let chooser = Chooser::from_options(&sampler, &options.processors)?;
        let mut sequence = Sequence::new(prompt.clone(), chooser, options);
        sequence.stop_tokens = tokenizer.eos_token_ids().iter().copied().collect();
        engine.insert(model, sequence)?;
        texts.push(tokenizer.detokenizer());
    }
    let mut finished = 0;
    while !engine.is_idle() {
        for Event { id, kind } in engine.step(model)? {
            let Some(text) = usize::try_from(id).ok().and_then(|row| texts.get_mut(row)) else { continue };
            match kind {
                EventKind::Token { token, .. } => {
                    if token.finish != Some(FinishReason::Stop) {
                        text.add_token(token.id);
                    }
                    let is_cut = end(text.text(), until).is_some();
                    if is_cut && token.finish.is_none() {
                        engine.remove(model, id)?;
                    }
                    if is_cut || token.finish.is_some() {
                        finished += 1;
                        done(finished);
                    }
                }
                EventKind::Failed { error, .. } => return Err(error.into()),
                EventKind::Read { .. } | EventKind::Checkpoint(_) => {}
            }
        }
    }
    let finish = |mut text: Detokenizer| {
        text.finalize();
        let text = text.text();
        text[..end(text, until).unwrap_or(text.len())].to_owned()
    };
    Ok(texts.into_iter().map(finish).collect())
}

/// Where the first of the strings that end a text begins.
fn end(text: &str, until: &[String]) -> Option<usize> {
    until.iter().filter(|until| !until.is_empty()).filter_map(|until| text.find(until.as_str())).min()
}
