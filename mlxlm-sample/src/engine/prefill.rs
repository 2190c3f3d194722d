//! Prompts that are only read, as for a prompt cache in a file.

use mlxlm_cache::Caches;
use mlxlm_core::{memory, transforms};
use mlxlm_models::CausalLm;

use super::sequence::check_prompt;
use super::{check_room, row_of};
use crate::{GenerateOptions, Result};

/// Empty caches for a model: `make_prompt_cache` of the reference.
pub fn make_prompt_cache(model: &dyn CausalLm, max_kv_size: Option<usize>) -> Result<Caches> {
    GenerateOptions { max_kv_size, ..GenerateOptions::default() }.caches(&model.cache_kinds())
}

/// Only reads a prompt into caches, as for a prompt cache that is saved.
///
/// `options` says in which steps, whether the caches are quantized, and what states are kept in. `progress` hears of zero tokens and then, after each chunk,
/// how many of them are read.
pub fn prefill(
    model: &dyn CausalLm,
    prompt: &[u32],
    caches: &mut Caches,
    options: &GenerateOptions,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<()> {
    let step = options.prefill_step_size;
    prefill_by(model, prompt, caches, options, &mut |done, total| {
        progress(done, total);
        step
    })
    .map(drop)
}

/// As [`prefill`], in steps of the caller's choice, so that reading can stop in the middle of a prompt.
///
/// `next` is called with the tokens that are read and with all of them, and gives how many to read next; zero ends the reading. How
/// many tokens are then in the caches comes back.
pub fn prefill_by(
    model: &dyn CausalLm,
    prompt: &[u32],
    caches: &mut Caches,
    options: &GenerateOptions,
    next: &mut dyn FnMut(usize, usize) -> usize,
) -> Result<usize> {
    options.check()?;
    check_prompt(model, prompt, caches)?;
    check_room(model, options, 1, prompt.len())?;
    caches.narrow_states(options.state_bf16);
    let mut done = 0;
    loop {
        let step = next(done, prompt.len()).min(prompt.len() - done);
        if step == 0 {
            return Ok(done);
        }
        model.hidden(&row_of(&prompt[done..done + step]), Some(caches))?;
        if let Some(kv) = options.kv_quantization {
            kv.apply(caches)?;
        }
        transforms::eval(caches.arrays())?;
        done += step;
        memory::clear_cache()?;
    }
}
