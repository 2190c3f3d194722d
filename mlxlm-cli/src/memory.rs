//! What a model will take in memory, before it is loaded: its weights, and the KV cache of a conversation.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use mlxlm_cache::Caches;
use mlxlm_core::{Array, free_memory, io};
use mlxlm_models::{CausalLm, ModelConfig, measure};

use crate::failure::{Failure, Result};
use crate::output::warn;
use crate::units;

/// Whether too little memory is an error (`--strict-memory`).
static STRICT: AtomicBool = AtomicBool::new(false);

/// The tokens whose KV cache is counted in, where nobody says how many there will be.
pub(crate) const USUAL_TOKENS: usize = 4096;

/// Sets whether too little memory is an error.
pub(crate) fn be_strict(strict: bool) {
    STRICT.store(strict, Ordering::Relaxed);
}

/// Warns of a model in a folder or file that needs more memory than is free, or refuses it.
pub(crate) fn check(model: &Path) -> Result {
    let Some(free) = free_memory::bytes() else { return Ok(()) };
    let weights = weight_bytes(model);
    // Of a model that is small beside what is free, the cache need not be counted.
    if weights < free / 2 {
        return Ok(());
    }
    let cache = cache_bytes(model, USUAL_TOKENS).unwrap_or(0);
    let needed = weights.saturating_add(cache);
    // As in the reference, which warns from nine tenths on.
    if needed <= free / 10 * 9 {
        return Ok(());
    }
    let what = format!(
        "`{}` needs about {} of memory ({} for weights, {} for {USUAL_TOKENS} tokens of context), but only {} are free",
        model.display(),
        units::bytes(needed),
        units::bytes(weights),
        units::bytes(cache),
        units::bytes(free)
    );
    match STRICT.load(Ordering::Relaxed) {
        true => Err(Failure::new(what).hint("use a smaller model, or quantize this one with `mlxlm convert -q`")),
        false => {
            warn(format_args!("{what}; it may be slow, or run out of memory"));
            Ok(())
        }
    }
}

/// The bytes of the files with weights.
pub(crate) fn weight_bytes(model: &Path) -> u64 {
    let size = |path: &Path| std::fs::metadata(path).map_or(0, |file| file.len());
    if !model.is_dir() {
        return size(model);
    }
    let files = io::read_dir(model).unwrap_or_default();
    let is_weights = |path: &&std::path::PathBuf| {
        path.file_name()
            .and_then(|name| name.to_str())
            .is_some_and(|name| name.starts_with("model") && name.ends_with(".safetensors"))
    };
    files.iter().filter(is_weights).map(|path| size(path)).sum()
}

/// The bytes that the caches of so many tokens take, where the configuration can be read.
fn cache_bytes(model: &Path, tokens: usize) -> Option<u64> {
    let config = ModelConfig::read(model).ok()?;
    let (each, states) = remembered(&*measure(&config).ok()?.model).ok()?;
    Some(each.saturating_mul(tokens as u64).saturating_add(states))
}

/// Caches make room for so many tokens at a time.
const STEP: usize = 256;

/// The bytes that a token adds to keys and values, and those that states take: from a graph of one token, which nobody computes.
pub(crate) fn remembered(model: &dyn CausalLm) -> Result<(u64, u64)> {
    let mut caches = Caches::new(&model.cache_kinds());
    model.hidden(&Array::from_slice(&[0_u32], &[1, 1]), Some(&mut caches))?;
    let states = caches.nbytes_of(0);
    Ok((caches.nbytes_of(STEP).saturating_sub(states) / STEP as u64, states))
}
