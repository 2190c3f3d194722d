//! Prompts that begin as an earlier sequence did go on from its caches: what the engine asks of the store of prompts.
//!
//! Sequences of a model with an adapter are kept apart from those of another: an adapter changes what caches hold.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use mlxlm_cache::store::{Checkpoint, DiskOptions, DiskStore, Hit, Key, Limits, PromptStore, StoreStats};
use mlxlm_cache::{Caches, Error};
use mlxlm_models::CausalLm;

use super::{EngineOptions, fingerprint};

/// Where prompts that were read are kept beyond the life of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskPromptCache {
    /// The folder, which several servers may share.
    pub folder: PathBuf,
    /// The most that its files take, in bytes.
    pub limit_bytes: u64,
    /// The fewest tokens of a sequence that is kept.
    pub min_tokens: usize,
}

impl DiskPromptCache {
    /// A folder with the limits of [`DiskOptions`].
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        let DiskOptions { limit_bytes, min_tokens, .. } = DiskOptions::default();
        Self { folder: folder.into(), limit_bytes, min_tokens }
    }
}

/// What is written to the disk at a time while nothing else is to be done, and while sequences wait for it.
const IDLE_BYTES: usize = 8 << 20;
const BUSY_BYTES: usize = 1 << 20;

/// How long writing waits for a moment without work.
const PATIENCE: Duration = Duration::from_secs(5);

/// The caches of sequences that are over.
#[derive(Debug)]
pub(super) struct Reuse {
    store: PromptStore,
    limits: Limits,
    has_disk: bool,
    model: String,
    needs_checkpoints: bool,
    /// Since when something waits to be written.
    waits: Option<Instant>,
}

impl Reuse {
    /// An empty store, over a folder if the options name one.
    pub(super) fn new(options: &EngineOptions, model: &dyn CausalLm) -> Result<Self, String> {
        let bytes = options.prompt_cache_bytes.unwrap_or(usize::MAX);
        let limits = Limits { sequences: options.prompt_cache_size, bytes };
        let mut store = PromptStore::new(limits);
        let mut key = String::new();
        if let Some(disk) = &options.disk_prompt_cache {
            let DiskPromptCache { limit_bytes, min_tokens, .. } = *disk;
            let opened = DiskStore::open(
                &disk.folder,
                DiskOptions { limit_bytes, min_tokens: min_tokens.max(1), ..DiskOptions::default() },
            );
            let folder = disk.folder.display();
            let opened = opened.map_err(|error| format!("the folder `{folder}` of the prompt cache: {error}"))?;
            store = store.with_disk(opened);
            let says = fingerprint::of_model(model).map_err(|error| error.to_string())?;
            key = format!("{says} {:?}", options.kv_quantization);
        }
        let needs_checkpoints = Checkpoint::are_needed(&model.cache_kinds());
        let has_disk = options.disk_prompt_cache.is_some();
        Ok(Self { store, limits, has_disk, model: key, needs_checkpoints, waits: None })
    }

    /// Whether caches of sequences that are over are of any use.
    pub(super) fn keeps(&self) -> bool {
        self.limits.sequences > 0 || self.has_disk
    }

    fn key(&self, adapter: &str) -> Key {
        Key { model: self.model.clone(), adapter: adapter.to_owned() }
    }

    /// The caches of the longest beginning of a prompt that is known. At least one token is left to read.
    pub(super) fn fetch(&mut self, adapter: &str, prompt: &[u32]) -> Option<Hit> {
        if !self.keeps() {
            return None;
        }
        self.store.fetch(&self.key(adapter), prompt)
    }

    /// Where a prompt is to be cut, so that others that leave it there find a place to go on from.
    pub(super) fn cuts(&self, adapter: &str, prompt: &[u32], from: usize, turns: &[usize]) -> Vec<usize> {
        match self.needs_checkpoints && self.keeps() {
            true => self.store.cuts(&self.key(adapter), prompt, from, turns),
            false => Vec::new(),
        }
    }

    /// What later caches have lost of these, which have read so many tokens; nothing where they lose nothing.
    pub(super) fn checkpoint(&self, caches: &Caches, tokens: usize) -> Option<Checkpoint> {
        (self.needs_checkpoints && self.keeps()).then(|| Checkpoint::take(caches, tokens).ok()).flatten()
    }

    /// Keeps caches that have read exactly these tokens.
    pub(super) fn insert(
        &mut self,
        adapter: &str,
        tokens: &[u32],
        caches: Caches,
        checkpoints: Vec<Checkpoint>,
    ) -> Result<(), Error> {
        if !self.keeps() || tokens.is_empty() {
            return Ok(());
        }
        let kept = self.store.insert(&self.key(adapter), tokens, caches, checkpoints).map(drop);
        if self.store.stats().pending > 0 {
            self.waits.get_or_insert_with(Instant::now);
        }
        kept
    }

    /// Whether something is to be written.
    pub(super) fn has_to_write(&self) -> bool {
        self.waits.is_some()
    }

    /// Writes a piece of what is to be written; while there is other work, only what has waited for long.
    pub(super) fn write(&mut self, is_busy: bool) -> Result<(), Error> {
        let Some(since) = self.waits else { return Ok(()) };
        if is_busy && since.elapsed() < PATIENCE {
            return Ok(());
        }
        let more = self.store.write(if is_busy { BUSY_BYTES } else { IDLE_BYTES });
        if !matches!(more, Ok(true)) && self.store.stats().pending == 0 {
            self.waits = None;
        }
        more.map(drop)
    }

    /// Writes all that is to be written.
    pub(super) fn flush(&mut self) -> Result<(), Error> {
        self.waits = None;
        self.store.flush()
    }

    /// Drops everything that is in memory, as when memory is scarce; whether there was anything.
    pub(super) fn clear(&mut self) -> bool {
        let was_there = self.store.stats().sequences > 0;
        self.store.limit(Limits { sequences: 0, bytes: 0 });
        self.store.limit(self.limits);
        was_there
    }

    /// What is kept, and what became of it.
    pub(super) fn stats(&self) -> StoreStats {
        self.store.stats()
    }
}
