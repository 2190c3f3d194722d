//! What would stop a text half way, found before its first token: keys and values that the quantization does not fit, more of them
//! than there is memory for, and states to be narrow where there are none.
//!
//! The model reads one token, and one more from quantized caches. Nothing is computed for it: the graph alone shows the shapes, and
//! who refuses what.

use mlxlm_cache::Caches;
use mlxlm_core::free_memory;
use mlxlm_models::CausalLm;

use super::{Sequence, row_of};
use crate::{Error, GenerateOptions, KvQuantization, Result};

/// Tokens below which nobody asks whether there is memory for their keys and values.
const MANY: usize = 2048;

/// Refuses a quantization of keys and values that does not fit the model, whenever it would begin, states in bf16 for a model that has
/// none to keep so, and sequences whose keys and values would take more memory than is free.
///
/// `tokens` are those that each of the `rows` sequences will read for certain.
pub fn check_room(model: &dyn CausalLm, options: &GenerateOptions, rows: usize, tokens: usize) -> Result<()> {
    bytes_needed(model, options, rows, tokens, 0).map(drop)
}

/// The same for a sequence of an engine, where `reserved` bytes will be taken by others: the bytes that its prompt will take.
pub(super) fn check_sequence(model: &dyn CausalLm, sequence: &Sequence, reserved: u64) -> Result<u64> {
    let Sequence { max_kv_size, kv_quantization, state_bf16, .. } = *sequence;
    let options = GenerateOptions { max_kv_size, kv_quantization, state_bf16, ..GenerateOptions::default() };
    bytes_needed(model, &options, 1, sequence.prompt.len(), reserved)
}

fn bytes_needed(
    model: &dyn CausalLm,
    options: &GenerateOptions,
    rows: usize,
    tokens: usize,
    reserved: u64,
) -> Result<u64> {
    let are_many = rows.saturating_mul(tokens) >= MANY;
    if options.kv_quantization.is_none() && !options.state_bf16 && !are_many {
        return Ok(0);
    }
    let mut caches = options.caches(&model.cache_kinds())?;
    caches.narrow_states(options.state_bf16);
    read_one(model, &mut caches)?;
    if options.state_bf16 && !caches.have_narrow_states() {
        return Err(Error::NothingToNarrow);
    }
    let mut each = caches.nbytes_of(tokens);
    if let Some(kv) = options.kv_quantization {
        KvQuantization { start: 0, ..kv }.apply(&mut caches)?;
        read_one(model, &mut caches)?;
        if tokens >= kv.start {
            each = caches.nbytes_of(tokens);
        }
    }
    let needed = each.saturating_mul(rows as u64);
    match free_memory::bytes() {
        Some(free) if are_many && needed.saturating_add(reserved) > free => {
            Err(Error::NoRoom { rows, tokens, needed, free: free.saturating_sub(reserved) })
        }
        _ => Ok(needed),
    }
}

fn read_one(model: &dyn CausalLm, caches: &mut Caches) -> Result<()> {
    model.forward(&row_of(&[0]), Some(caches))?;
    Ok(())
}
