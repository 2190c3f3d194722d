//! What the rest of the server has to know of the model: plain data, and the tokenizer.

use std::sync::Arc;

use mlxlm_cache::store::Checkpoint;
use mlxlm_core::text::Tokenizer;
use mlxlm_sample::Result;
use mlxlm_sample::grammar::Grammars;

use super::thinking::ThinkingTokens;
use super::{EngineOptions, Models};
use crate::reasoning::Marks;
use crate::tools::{Format, Hints};

/// Facts of the model that runs.
#[derive(Debug, Clone)]
pub(crate) struct Card {
    pub(crate) tokenizer: Tokenizer,
    /// Logits for each token.
    pub(crate) vocab_size: usize,
    /// The longest sequence that it can read, in tokens, if it says so.
    pub(crate) context_length: Option<usize>,
    /// Whether its caches can be had later only as they are now, so that the ends of turns have to be known.
    pub(crate) needs_turns: bool,
    /// Newlines and the tokens that end an answer, which XTC never drops.
    pub(crate) xtc_special_tokens: Vec<u32>,
    /// Whether somebody proposes tokens.
    pub(crate) has_proposer: bool,
    /// How it writes calls of tools, where that is known.
    pub(crate) format: Option<Format>,
    /// What it writes around its thinking.
    pub(crate) marks: Option<Marks>,
    /// The same as tokens, or what gpt-oss has in place of marks.
    pub(crate) thinking: Option<Arc<ThinkingTokens>>,
    /// Compiles what answers must be.
    pub(crate) grammars: Arc<Grammars>,
}

impl Card {
    pub(super) fn new(models: &Models, options: &EngineOptions) -> Result<Self> {
        let (info, tokenizer) = (models.main.model.info(), models.main.tokenizer.clone());
        let mut xtc_special_tokens = tokenizer.encode("\n", true)?;
        xtc_special_tokens.extend(tokenizer.eos_token_ids());
        let vocab_size = usize::try_from(info.vocab_size).unwrap_or(0);
        let format = format(&tokenizer);
        let marks = Marks::detect(|token| tokenizer.token_to_id(token).is_some());
        Ok(Self {
            vocab_size,
            context_length: info
                .context_length
                .and_then(|limit| usize::try_from(limit).ok())
                .filter(|&limit| limit > 0),
            needs_turns: Checkpoint::are_needed(&models.main.model.cache_kinds()),
            xtc_special_tokens,
            has_proposer: models.draft.is_some() || options.proposes(),
            thinking: ThinkingTokens::of(&tokenizer, format, marks.as_ref()).map(Arc::new),
            grammars: Arc::new(Grammars::new(&tokenizer, vocab_size)),
            format,
            marks,
            tokenizer,
        })
    }
}

/// How calls are written, by the chat template and the vocabulary.
fn format(tokenizer: &Tokenizer) -> Option<Format> {
    let has = |token: &str| tokenizer.token_to_id(token).is_some();
    let hints = Hints { in_vocabulary: Some(&has), ..Hints::default() };
    // Only a name can be unknown, and there is none.
    Format::detect(tokenizer.chat_template(), &hints).ok().flatten()
}
