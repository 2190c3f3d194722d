//! A model with the caches of one sequence, reading tokens (`generate_step` in `mlx_lm/generate.py` 0.32.2).
//!
//! Unusual: `max_kv_size` limits every architecture, where the reference ignores it for those that declare their caches.

use mlxlm_cache::{CacheKind, Caches, LayerCache, Offset};
use mlxlm_core::{Array, memory, transforms};
use mlxlm_models::CausalLm;

use super::{Progress, row_of};
use crate::{Error, GenerateOptions, KvQuantization, Result};

/// Empty caches for a model: `make_prompt_cache` of the reference.
pub fn make_prompt_cache(model: &dyn CausalLm, max_kv_size: Option<usize>) -> Result<Caches> {
    GenerateOptions { max_kv_size, ..GenerateOptions::default() }.caches(&model.cache_kinds())
}

/// Only reads a prompt into caches, as for a prompt cache that is saved.
///
/// `options` says in which steps, and whether the caches are quantized.
pub fn prefill(
    model: &dyn CausalLm,
    prompt: &[u32],
    caches: &mut Caches,
    options: &GenerateOptions,
    progress: &mut Progress,
) -> Result<()> {
    options.check()?;
    let mut lane = Lane::new(model, Some(Slot::Lent(caches)), options)?;
    lane.check_prompt(prompt)?;
    let (last, before) = prompt.split_last().ok_or(Error::EmptyPrompt)?;
    lane.prefill(before, &mut |done| progress(done, prompt.len()))?;
    lane.forward(&row_of(&[*last]))?;
    transforms::eval(lane.caches().arrays())?;
    progress(prompt.len(), prompt.len());
    Ok(())
}

/// A model with the caches of one sequence.
#[derive(Debug)]
pub(crate) struct Lane<'a> {
    model: &'a dyn CausalLm,
    caches: Slot<'a>,
    kv_quantization: Option<KvQuantization>,
    prefill_step_size: usize,
    /// From this position on tokens cannot be taken back, as far as is known.
    window: Option<i32>,
    /// Tokens that it has read, those in lent caches not counted.
    read: usize,
}

/// Caches of one's own, which nobody sees afterwards, or those of somebody else.
#[derive(Debug)]
pub(crate) enum Slot<'a> {
    Own(Caches),
    Lent(&'a mut Caches),
}

impl Slot<'_> {
    fn caches(&self) -> &Caches {
        match self {
            Self::Own(caches) => caches,
            Self::Lent(caches) => caches,
        }
    }

    fn caches_mut(&mut self) -> &mut Caches {
        match self {
            Self::Own(caches) => caches,
            Self::Lent(caches) => caches,
        }
    }
}

impl<'a> Lane<'a> {
    /// Goes on with the caches that are given, or makes some.
    pub(crate) fn new(model: &'a dyn CausalLm, given: Option<Slot<'a>>, options: &GenerateOptions) -> Result<Self> {
        let kinds = model.cache_kinds();
        let caches = match given {
            None => Slot::Own(options.caches(&kinds)?),
            Some(given) => {
                if let Some(size) = options.max_kv_size {
                    let expected = "nothing, as the given caches have a size of their own";
                    return Err(Error::parameter("max_kv_size", size, expected));
                }
                given.caches().check_fits(&kinds)?;
                given
            }
        };
        let window = kinds.iter().filter_map(smallest_window).chain(options.max_kv_size()?).min();
        let GenerateOptions { kv_quantization, prefill_step_size, .. } = *options;
        Ok(Self { model, caches, kv_quantization, prefill_step_size, window, read: 0 })
    }

    pub(crate) fn caches(&self) -> &Caches {
        self.caches.caches()
    }

    /// The caches, if they are its own.
    pub(crate) fn into_caches(self) -> Option<Caches> {
        match self.caches {
            Slot::Own(caches) => Some(caches),
            Slot::Lent(_) => None,
        }
    }

    /// Whether anyone sees the caches after the generation.
    pub(crate) fn is_lent(&self) -> bool {
        matches!(self.caches, Slot::Lent(_))
    }

    pub(crate) fn vocab_size(&self) -> i32 {
        self.model.info().vocab_size
    }

    /// Tokens that it has read since it was made.
    pub(crate) fn read(&self) -> usize {
        self.read
    }

    /// Refuses prompts that the model cannot read.
    pub(crate) fn check_prompt(&self, prompt: &[u32]) -> Result<()> {
        if prompt.is_empty() {
            return Err(Error::EmptyPrompt);
        }
        let vocab_size = self.vocab_size();
        if let Some(&id) = prompt.iter().find(|&&id| i64::from(id) >= i64::from(vocab_size)) {
            return Err(Error::TokenOutOfRange { name: "prompt", id, vocab_size });
        }
        let held = self.offset().max(0) as usize;
        match self.model.info().context_length.and_then(|limit| usize::try_from(limit).ok()) {
            Some(limit) if limit > 0 && held + prompt.len() > limit => {
                Err(Error::PromptTooLong { tokens: prompt.len(), held, limit })
            }
            _ => Ok(()),
        }
    }

    fn offset(&self) -> i32 {
        match self.caches().offset() {
            Offset::Same(offset) => offset,
            Offset::Rows(_) => 0,
        }
    }

    /// Reads tokens; nothing is computed yet.
    ///
    /// # Shapes
    /// `tokens` `[1, L]` → `[1, L, V]`
    pub(crate) fn forward(&mut self, tokens: &Array) -> Result<Array> {
        let (model, kv_quantization) = (self.model, self.kv_quantization);
        let logits = model.forward(tokens, Some(self.caches.caches_mut()))?;
        self.read += tokens.size();
        if let Some(kv) = kv_quantization {
            kv.apply(self.caches.caches_mut())?;
        }
        Ok(logits)
    }

    /// Reads tokens chunk by chunk; `progress` hears of zero and then of each chunk how many are read.
    pub(crate) fn prefill(&mut self, tokens: &[u32], progress: &mut dyn FnMut(usize)) -> Result<()> {
        let mut done = 0;
        progress(done);
        for chunk in tokens.chunks(self.prefill_step_size) {
            self.forward(&row_of(chunk))?;
            transforms::eval(self.caches().arrays())?;
            done += chunk.len();
            progress(done);
            memory::clear_cache()?;
        }
        Ok(())
    }

    /// Whether `n` more tokens could be read and taken back.
    pub(crate) fn can_take_back(&self, n: usize) -> bool {
        let within = |window| (self.offset() as usize).saturating_add(n) < window as usize;
        self.caches().is_trimmable() && self.window.is_none_or(within)
    }

    /// Refuses caches that can never take a token back.
    pub(crate) fn check_trimmable(&self) -> Result<()> {
        if self.caches().is_trimmable() { Ok(()) } else { Err(self.not_trimmable()) }
    }

    fn not_trimmable(&self) -> Error {
        let layers = self.caches().layers().iter().filter(|layer| !layer.is_trimmable());
        let mut kinds: Vec<&str> = layers.map(LayerCache::name).collect();
        kinds.sort_unstable();
        kinds.dedup();
        Error::NotTrimmable { kinds: kinds.join(", ") }
    }

    /// Takes back all but the first `read` tokens that it has read.
    pub(crate) fn rewind(&mut self, read: usize) -> Result<()> {
        let surplus = self.read.saturating_sub(read) as i32;
        if surplus > 0 && self.caches.caches_mut().trim(surplus) != surplus {
            return Err(self.not_trimmable());
        }
        self.read = self.read.min(read);
        Ok(())
    }

    /// Brings caches that are lent to the end of `text`, and no further.
    pub(crate) fn settle(&mut self, text: &[u32]) -> Result<()> {
        if !self.is_lent() {
            return Ok(());
        }
        self.rewind(text.len())?;
        if self.read < text.len() {
            self.forward(&row_of(&text[self.read..]))?;
        }
        Ok(transforms::async_eval(self.caches().arrays())?)
    }
}

/// The smallest window of a layer.
fn smallest_window(kind: &CacheKind) -> Option<i32> {
    match kind {
        CacheKind::Rotating { max_size, .. } => Some(*max_size),
        CacheKind::List(kinds) => kinds.iter().filter_map(smallest_window).min(),
        CacheKind::Kv | CacheKind::Chunked { .. } | CacheKind::State { .. } => None,
    }
}
