//! A sequence: what it is made of when it comes, and where it stands while it runs.

use mlxlm_cache::{CacheKind, Caches, Mark, SnapKv};
use mlxlm_core::ops::indexing::TryIndexOp;
use mlxlm_core::{Array, transforms};
use mlxlm_models::CausalLm;

use super::choose::{Choice, Chooser};
use super::{FinishReason, Kept, SequenceId, row_of};
use crate::grammar::Matcher;
use crate::propose::Proposer;
use crate::{Error, GenerateOptions, KvQuantization, Result};

/// A sequence to generate: a prompt, and how it goes on.
pub struct Sequence<'p> {
    /// Token ids of the prompt, at least one.
    pub prompt: Vec<u32>,
    /// How its tokens are chosen.
    pub chooser: Chooser,
    /// The most tokens to generate; `None` goes on until it is removed or ends by itself.
    pub max_tokens: Option<usize>,
    /// Tokens that end it. They are handed out, as its last.
    pub stop_tokens: Vec<u32>,
    /// What was read before the prompt; nothing if it is new.
    pub caches: Option<Caches>,
    /// Whether the caches are handed out in the end.
    pub keep_caches: bool,
    /// Positions in the prompt, ascending, at which a copy of the caches is handed out: see [`EventKind::Checkpoint`].
    ///
    /// [`EventKind::Checkpoint`]: super::EventKind::Checkpoint
    pub checkpoints: Vec<usize>,
    /// The most tokens that caches made here keep: the first four and the latest others. `None` keeps all.
    pub max_kv_size: Option<usize>,
    /// Whether keys and values are quantized.
    pub kv_quantization: Option<KvQuantization>,
    /// Whether the matrices that gated delta nets remember are kept in bf16, and not in f32.
    pub state_bf16: bool,
    /// Whether a long prompt keeps only what its end looks at.
    pub snapkv: Option<SnapKv>,
    /// What the answer must be, if anything.
    pub matcher: Option<Matcher>,
    /// Who guesses the next tokens, so that several are checked in one pass.
    pub proposer: Option<Box<dyn Proposer + 'p>>,
    /// The most tokens that are proposed at a time.
    pub num_draft_tokens: usize,
}

impl Sequence<'_> {
    /// A new sequence, with the options that one of its own would have. Samplers and processors of the options are not read: they
    /// are the chooser's.
    pub fn new(prompt: Vec<u32>, chooser: Chooser, options: &GenerateOptions) -> Self {
        Self {
            prompt,
            chooser,
            max_tokens: options.max_tokens,
            stop_tokens: Vec::new(),
            caches: None,
            keep_caches: false,
            checkpoints: Vec::new(),
            max_kv_size: options.max_kv_size,
            kv_quantization: options.kv_quantization,
            state_bf16: options.state_bf16,
            snapkv: options.snapkv,
            matcher: None,
            proposer: None,
            num_draft_tokens: options.num_draft_tokens,
        }
    }

    /// Refuses what the model cannot read; `given` are the caches that it goes on from.
    pub(super) fn check(&self, model: &dyn CausalLm, given: Option<&Caches>) -> Result<()> {
        if self.max_tokens == Some(0) {
            return Err(Error::parameter("max_tokens", 0, "a positive number, or none for no limit"));
        }
        if let Some(snapkv) = &self.snapkv {
            snapkv.check()?;
        }
        let kinds = model.cache_kinds();
        let made = match given {
            Some(given) => {
                self.check_given(given, &kinds)?;
                None
            }
            None => Some(self.empty_caches(&kinds)?),
        };
        if let Some(caches) = given.or(made.as_ref()) {
            check_prompt(model, &self.prompt, caches)?;
        }
        self.chooser.check_vocabulary(model.info().vocab_size)
    }

    fn check_given(&self, given: &Caches, kinds: &[CacheKind]) -> Result<()> {
        if let Some(size) = self.max_kv_size {
            let expected = "nothing, as the given caches have a size of their own";
            return Err(Error::parameter("max_kv_size", size, expected));
        }
        given.check_fits(kinds)?;
        self.kv_quantization.map_or(Ok(()), |kv| kv.check_held(given))
    }

    /// Empty caches for layers of these kinds.
    pub(super) fn empty_caches(&self, kinds: &[CacheKind]) -> Result<Caches> {
        let options = GenerateOptions { max_kv_size: self.max_kv_size, ..GenerateOptions::default() };
        options.caches(kinds)
    }
}

/// Refuses prompts that the model cannot read after what the caches hold.
pub(super) fn check_prompt(model: &dyn CausalLm, prompt: &[u32], caches: &Caches) -> Result<()> {
    if prompt.is_empty() {
        return Err(Error::EmptyPrompt);
    }
    let vocab_size = model.info().vocab_size;
    if let Some(&id) = prompt.iter().find(|&&id| i64::from(id) >= i64::from(vocab_size)) {
        return Err(Error::TokenOutOfRange { name: "prompt", id, vocab_size });
    }
    // What a ring has dropped takes no place any more.
    let (held, after) = (caches.held_after(0), caches.held_after(prompt.len()));
    match model.info().context_length.and_then(|limit| usize::try_from(limit).ok()) {
        Some(limit) if limit > 0 && after > limit => Err(Error::PromptTooLong { tokens: prompt.len(), held, limit }),
        _ => Ok(()),
    }
}

/// A sequence that is under way.
pub(super) struct Row<'p> {
    pub id: SequenceId,
    pub caches: Caches,
    pub chooser: Chooser,
    pub proposer: Option<Box<dyn Proposer + 'p>>,
    pub matcher: Option<Matcher>,
    pub num_draft_tokens: usize,
    /// The prompt and every token that was handed out.
    pub text: Vec<u32>,
    pub prompt_len: usize,
    /// Tokens that the caches hold: those of `text`, and the pending one where it is on its way.
    pub read: usize,
    /// Tokens of the text that the chooser knows of.
    pub noted: usize,
    /// The token after the text, on its way.
    pub pending: Option<Choice>,
    /// Bytes that its prompt will take in the caches.
    pub reserved: u64,
    pub keep_caches: bool,
    pub stop_tokens: Vec<u32>,
    /// Where the caches were before the last pass of several tokens, and how many they held; only if they are kept.
    pub undo: Option<(Mark, usize)>,
    max_tokens: Option<usize>,
    checkpoints: Vec<usize>,
    kv_quantization: Option<KvQuantization>,
    snapkv: Option<SnapKv>,
}

impl<'p> Row<'p> {
    pub(super) fn new(id: SequenceId, sequence: Sequence<'p>, mut caches: Caches, reserved: u64) -> Self {
        caches.narrow_states(sequence.state_bf16);
        let prompt_len = sequence.prompt.len();
        Self {
            id,
            caches,
            chooser: sequence.chooser,
            proposer: sequence.proposer,
            matcher: sequence.matcher,
            num_draft_tokens: sequence.num_draft_tokens,
            text: sequence.prompt,
            prompt_len,
            read: 0,
            noted: 0,
            pending: None,
            reserved,
            keep_caches: sequence.keep_caches,
            undo: None,
            max_tokens: sequence.max_tokens,
            stop_tokens: sequence.stop_tokens,
            checkpoints: sequence.checkpoints,
            kv_quantization: sequence.kv_quantization,
            snapkv: sequence.snapkv.filter(|snapkv| prompt_len >= snapkv.min_tokens),
        }
    }

    /// Tokens handed out.
    pub(super) fn generated(&self) -> usize {
        self.text.len() - self.prompt_len
    }

    /// How many more tokens are wanted.
    pub(super) fn wanted(&self) -> usize {
        self.max_tokens.map_or(usize::MAX, |max| max.saturating_sub(self.generated()))
    }

    /// Whether each token has to be known before the next pass is begun.
    pub(super) fn is_checked(&self) -> bool {
        self.proposer.is_some() || self.matcher.is_some()
    }

    /// How many tokens can be read together, and taken back, before keys and values are quantized on the way: tokens that come
    /// together across that place would see what is not quantized yet.
    pub(super) fn room_before_quantization(&self) -> usize {
        match self.kv_quantization {
            Some(kv) if self.caches.format().is_none() => {
                (kv.start.saturating_sub(1)).saturating_sub(self.caches.held_after(0))
            }
            _ => usize::MAX,
        }
    }

    pub(super) fn quantize(&mut self) -> Result<()> {
        self.kv_quantization.map_or(Ok(()), |kv| kv.apply(&mut self.caches))
    }

    /// Reads the next chunk of the prompt, of at most `most` tokens. After the last of them the first token is pending.
    pub(super) fn read_chunk(&mut self, model: &dyn CausalLm, most: usize) -> Result<()> {
        let stop = self.checkpoints.iter().copied().find(|&at| at > self.read).unwrap_or(usize::MAX);
        let mut to = (self.read + most).min(self.prompt_len).min(stop);
        // A full ring that keeps its first tokens shows others to tokens that come together: the last one comes alone, as in mlx-lm.
        let comes_alone = to == self.prompt_len && to - self.read > 1;
        if comes_alone && !self.caches.sees_alike((to - self.read) as i32) {
            to -= 1;
        }
        let tokens = row_of(&self.text[self.read..to]);
        let snapkv = self.snapkv.filter(|snapkv| snapkv.while_reading || to == self.prompt_len);
        if let Some(snapkv) = &snapkv {
            self.caches.watch(snapkv);
        }
        let hidden = model.hidden(&tokens, Some(&mut self.caches))?;
        self.quantize()?;
        if let Some(snapkv) = &snapkv
            && self.caches.evict(snapkv)? == 0
        {
            return Err(Error::NothingToEvict);
        }
        if let Some(proposer) = self.proposer.as_mut().filter(|proposer| proposer.wants_states()) {
            proposer.observe(model, self.read, &self.text[self.read..to], &hidden)?;
        }
        self.read = to;
        self.chooser.note(&tokens)?;
        self.noted = to;
        if to == self.prompt_len {
            let last = hidden.try_index((.., hidden.dim(1) - 1.., ..))?;
            let mut logits = model.head(&last)?.try_index((.., -1, ..))?;
            if let Some(matcher) = &mut self.matcher {
                logits = matcher.mask()?.apply(&logits)?;
            }
            let choice = self.chooser.choose(&logits)?;
            let caches = self.caches.arrays().into_iter();
            transforms::eval(caches.chain(choice.arrays()).chain(self.chooser.arrays()))?;
            self.pending = Some(choice);
        } else {
            transforms::eval(self.caches.arrays().into_iter().chain(self.chooser.arrays()))?;
        }
        Ok(())
    }

    /// The caches as they are, where a checkpoint is wanted.
    pub(super) fn checkpoint(&self) -> Option<Kept> {
        let kept = || Kept { tokens: self.text[..self.read].to_vec(), caches: self.caches.clone() };
        self.checkpoints.contains(&self.read).then(kept)
    }

    /// Adds a token that is handed out, and says whether it is the last.
    pub(super) fn push(&mut self, id: u32) -> Result<Option<FinishReason>> {
        self.text.push(id);
        if let Some(matcher) = &mut self.matcher {
            matcher.accept(id)?;
        }
        if self.stop_tokens.contains(&id) {
            return Ok(Some(FinishReason::Stop));
        }
        Ok((self.wanted() == 0).then_some(FinishReason::Length))
    }

    /// Takes back the last `n` tokens, which one step has handed out.
    pub(super) fn unsay(&mut self, n: usize) {
        let len = self.text.len().saturating_sub(n);
        self.text.truncate(len);
        self.noted = self.noted.min(len);
        if self.read <= len {
            return;
        }
        if self.caches.is_trimmable() {
            self.caches.trim((self.read - len) as i32);
            self.read = len;
        } else if let Some((mark, read)) = self.undo.take() {
            self.caches.rewind(mark);
            self.read = read;
        }
    }

    /// Reads what the caches do not hold yet of the text, and hands them out.
    pub(super) fn settle(mut self, model: &dyn CausalLm) -> Result<Option<Kept>> {
        if let Some(proposer) = &mut self.proposer {
            proposer.settle(&self.text)?;
        }
        if !self.keep_caches {
            return Ok(None);
        }
        // A prompt that was not read to its end stays so.
        if self.read >= self.prompt_len && self.read < self.text.len() {
            model.hidden(&row_of(&self.text[self.read..]), Some(&mut self.caches))?;
            self.quantize()?;
            self.read = self.text.len();
        }
        transforms::async_eval(self.caches.arrays())?;
        self.text.truncate(self.read);
        Ok(Some(Kept { tokens: self.text, caches: self.caches }))
    }

    /// The token on its way as input of the next pass: `[1]`.
    pub(super) fn pending_token(&self) -> Option<&Array> {
        self.pending.as_ref().map(|choice| &choice.token)
    }
}
