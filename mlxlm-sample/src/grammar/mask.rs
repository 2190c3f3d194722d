//! Which tokens may come next, and what that makes of logits.

use mlxlm_core::{Array, ops};

use crate::scalar::{never, vocab_size};
use crate::{Error, Result};

/// The tokens that may come next: a bit for each entry of the logits.
#[derive(Clone, PartialEq, Eq)]
pub struct Mask {
    /// Id `i` is bit `i % 32` of word `i / 32`; bits beyond the vocabulary are 0.
    words: Vec<u32>,
    vocab_size: usize,
}

/// The eight bits of a byte, the lowest first.
const BITS: [[bool; 8]; 256] = {
    let mut bits = [[false; 8]; 256];
    let mut at = 0;
    while at < 256 * 8 {
        bits[at / 8][at % 8] = (at / 8) >> (at % 8) & 1 == 1;
        at += 1;
    }
    bits
};

impl Mask {
    /// The words may be longer than the vocabulary.
    pub(super) fn new(mut words: Vec<u32>, vocab_size: usize) -> Self {
        words.resize(vocab_size.div_ceil(32), 0);
        if let Some(last) = words.last_mut().filter(|_| vocab_size % 32 != 0) {
            *last &= (1 << (vocab_size % 32)) - 1;
        }
        Self { words, vocab_size }
    }

    /// A mask of some ids, all within the vocabulary.
    pub(super) fn of(ids: &[u32], vocab_size: usize) -> Self {
        let mut words = vec![0; vocab_size.div_ceil(32)];
        for id in ids {
            words[*id as usize / 32] |= 1 << (id % 32);
        }
        Self { words, vocab_size }
    }

    /// Whether a token may come next.
    pub fn allows(&self, id: u32) -> bool {
        self.words.get(id as usize / 32).is_some_and(|word| word >> (id % 32) & 1 == 1)
    }

    /// The tokens that may come next, in order.
    pub fn ids(&self) -> impl Iterator<Item = u32> + '_ {
        let bits = |word: u32| (0..32).filter(move |bit| word >> bit & 1 == 1);
        self.words.iter().zip(0..).flat_map(move |(word, at)| bits(*word).map(move |bit| 32 * at + bit))
    }

    /// How many tokens may come next.
    pub fn count(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// The bits: id `i` is bit `i % 32` of word `i / 32`.
    pub fn words(&self) -> &[u32] {
        &self.words
    }

    /// The entries of the logits that it is for.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// Logits with minus infinity for all tokens that may not come next.
    ///
    /// # Shapes
    /// `logits` `[1, V]`, and the same shape and type come back.
    pub fn apply(&self, logits: &Array) -> Result<Array> {
        apply_rows(&[Some(self)], logits)
    }

    /// Sets the entries of one row of logits that are allowed.
    fn write_to(&self, allowed: &mut [bool]) {
        // Most masks are of few tokens, and most of their words are 0.
        let words = allowed.chunks_mut(32).zip(&self.words).filter(|(_, word)| **word != 0);
        for (entries, word) in words {
            for (entries, byte) in entries.chunks_mut(8).zip(word.to_le_bytes()) {
                entries.copy_from_slice(&BITS[usize::from(byte)][..entries.len()]);
            }
        }
    }
}

impl std::fmt::Debug for Mask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Mask({} of {})", self.count(), self.vocab_size)
    }
}

/// Logits of several rows, or of several places in one, with minus infinity for all tokens that may not come next. A row
/// without a mask stays as it is.
///
/// # Shapes
/// `logits` `[…, V]` with a mask for each row, `masks.len()` in all; the same shape and type come back.
pub fn apply_rows(masks: &[Option<&Mask>], logits: &Array) -> Result<Array> {
    let width = vocab_size(logits);
    let rows = logits.size().checked_div(width as usize).unwrap_or(0);
    if rows != masks.len() {
        return Err(Error::Count { name: "masks", got: masks.len(), expected: rows });
    }
    if let Some(other) = masks.iter().flatten().find(|mask| mask.vocab_size != width as usize) {
        let expected = format!("logits of {} entries, as the grammar was compiled for", other.vocab_size);
        return Err(Error::parameter("logits", width, expected));
    }
    if masks.iter().all(Option::is_none) {
        return Ok(logits.clone());
    }
    let mut allowed = vec![false; logits.size()];
    for (mask, entries) in masks.iter().zip(allowed.chunks_mut(width as usize)) {
        match mask {
            Some(mask) => mask.write_to(entries),
            None => entries.fill(true),
        }
    }
    let allowed = Array::from_slice(&allowed, logits.shape());
    Ok(ops::select(&allowed, logits, never(logits)?)?)
}
