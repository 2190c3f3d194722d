//! The `tokenizers` crate behind the few calls that the rest of `text` makes.
//!
//! Unusual:
//! - A tokenizer is foreign data for a library that was written for friendly data: sizes and ids are checked first, and
//!   a panic while it loads becomes an error.
//! - Tokens are looked up by id one by one, so that no table as long as the largest id is ever built.
//! - Truncation and padding that a `tokenizer.json` may ask for are for batches of an encoder, and are left off, as in
//!   the reference.

use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use serde::Deserialize;
use tokenizers::AddedToken;

use crate::text::{DetokenizerKind, TextError};
use crate::{Result, io};

/// The largest `tokenizer.json` that is read; real ones stay below 50 MB.
const MAX_BYTES: u64 = 512 << 20;

/// Ids live in MLX arrays of `i32`.
const MAX_ID: u64 = i32::MAX as u64;

/// A loaded `tokenizer.json`.
pub(crate) struct Codec {
    backend: tokenizers::Tokenizer,
    /// New lines are written `<n>` in this vocabulary (`NewlineTokenizer` of the reference).
    newline_marks: bool,
    /// Spaces before punctuation go away when text is decoded.
    clean_up_spaces: bool,
}

/// What is needed of `tokenizer.json` besides what the `tokenizers` crate reads itself.
#[derive(Deserialize)]
struct Outline {
    #[serde(default)]
    added_tokens: Vec<Added>,
    #[serde(default)]
    decoder: serde_json::Value,
}

#[derive(Deserialize)]
struct Added {
    id: u64,
}

impl Codec {
    /// Reads a `tokenizer.json`, and tells which streaming detokenizer its decoder asks for.
    pub(crate) fn open(path: &Path) -> Result<(Self, DetokenizerKind)> {
        let bad = |reason: String| TextError::BadTokenizer { path: path.to_owned(), reason };
        let bytes = read_limited(path)?;
        let outline: Outline = serde_json::from_slice(&bytes).map_err(|error| bad(error.to_string()))?;
        if let Some(token) = outline.added_tokens.iter().find(|token| token.id > MAX_ID) {
            return Err(bad(format!("the id {} of an added token is above {MAX_ID}", token.id)).into());
        }
        let backend = catch_unwind(AssertUnwindSafe(|| tokenizers::Tokenizer::from_bytes(&bytes)))
            .map_err(|_| bad("its tables contradict each other".into()))?
            .map_err(|error| bad(error.to_string()))?;
        let mut codec = Self { backend, newline_marks: false, clean_up_spaces: false };
        codec.backend.with_padding(None);
        codec.backend.with_truncation(None).map_err(|error| bad(error.to_string()))?;
        Ok((codec, DetokenizerKind::of(&outline.decoder)))
    }

    /// Takes `\n` for `<n>` and back.
    pub(crate) fn use_newline_marks(&mut self) {
        self.newline_marks = true;
    }

    /// Removes spaces before punctuation from decoded text. The reference does not do so for BPE, whose text it would
    /// spoil.
    pub(crate) fn clean_up_spaces(&mut self) {
        self.clean_up_spaces = !matches!(self.backend.get_model(), tokenizers::ModelWrapper::BPE(_));
    }

    /// Adds tokens that `tokenizer.json` does not have with the same properties.
    pub(crate) fn add_tokens(&mut self, tokens: &[AddedToken]) {
        self.backend.add_tokens(tokens);
    }

    /// The tokens that are matched before the text is split, in no particular order.
    pub(crate) fn added_tokens(&self) -> Vec<AddedToken> {
        self.backend.get_added_tokens_decoder().into_values().collect()
    }

    /// The number of tokens.
    pub(crate) fn len(&self) -> usize {
        self.backend.get_vocab_size(true)
    }

    pub(crate) fn id(&self, token: &str) -> Option<u32> {
        self.backend.token_to_id(token)
    }

    pub(crate) fn token(&self, id: u32) -> Option<String> {
        self.backend.id_to_token(id)
    }

    pub(crate) fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, TextError> {
        let marked = if self.newline_marks { text.replace('\n', "<n>") } else { text.to_owned() };
        let encoding = self
            .backend
            .encode_fast(marked, add_special_tokens)
            .map_err(|error| TextError::Encode(error.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of ids; ids that are no tokens are left out, as in the reference.
    pub(crate) fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String, TextError> {
        let mut text =
            self.backend.decode(ids, skip_special_tokens).map_err(|error| TextError::Decode(error.to_string()))?;
        if self.clean_up_spaces {
            for (spaced, closed) in [
                (" .", "."),
                (" ?", "?"),
                (" !", "!"),
                (" ,", ","),
                (" ' ", "'"),
                (" n't", "n't"),
                (" 'm", "'m"),
                (" 's", "'s"),
                (" 've", "'ve"),
                (" 're", "'re"),
            ] {
                text = text.replace(spaced, closed);
            }
        }
        Ok(if self.newline_marks { text.replace("<n>", "\n") } else { text })
    }
}

/// Reads a file of at most [`MAX_BYTES`].
fn read_limited(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = io::open(path)?;
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(|source| crate::Error::Io {
        action: "read",
        path: path.to_owned(),
        source,
    })?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(TextError::TooLarge { path: path.to_owned(), limit_bytes: MAX_BYTES }.into());
    }
    Ok(bytes)
}
