//! The vocabulary as a grammar sees it: the bytes of every token, and how a text that is forced is cut into tokens.
//!
//! Unusual:
//! - A token with a meaning of its own has no bytes, only a name behind a byte that no text has ([`MARKER`]).
//! - What the tokenizer makes of a forced text is taken only if it decodes to that text; else, the longest tokens that fit are.
//! - Tokenizers treat the beginning of a text in a way of their own (`▁`), so a forced text is put behind a text that is known.

use std::collections::HashSet;
use std::sync::Arc;

use llguidance::toktrie::{INVALID_TOKEN, SimpleVob, TokEnv, TokRxInfo, TokTrie, TokenId, TokenizerEnv};
use mlxlm_core::text::Tokenizer;

use super::error::GrammarError;
use super::parts::Part;

/// What the name of a token stands behind that is no text.
const MARKER: u8 = TokTrie::SPECIAL_TOKEN_MARKER;

/// The trie's nodes count up to 1024 levels.
const MAX_TOKEN_BYTES: usize = 1000;

/// The trie has 24 bits for an id, of which one value means none.
const MAX_VOCABULARY: usize = (1 << 24) - 2;

/// How much of a forced text is given to the tokenizer; the rest is forced still when that is done.
const MAX_TOKENIZED_BYTES: usize = 4 << 10;

/// Texts that may come before a forced one.
const LEADS: [&str; 3] = ["\u{2}", "\n", "|"];

/// The tokens of a model.
pub(super) struct Vocabulary {
    tokenizer: Tokenizer,
    trie: TokTrie,
    /// Ids that are tokens, in bits.
    known: SimpleVob,
    eos: Vec<u32>,
    cutting: Cutting,
}

/// How a text is cut into tokens.
enum Cutting {
    /// Not at all, since the vocabulary cannot spell every text.
    None,
    /// By the tokenizer.
    Plain,
    /// By the tokenizer, behind another text with these ids.
    Behind(&'static str, Vec<u32>),
}

impl Vocabulary {
    /// The vocabulary of a model whose logits have `vocab_size` entries, more or fewer than its tokenizer has tokens.
    pub(super) fn new(tokenizer: &Tokenizer, vocab_size: usize) -> Result<Self, GrammarError> {
        if vocab_size == 0 || vocab_size > MAX_VOCABULARY {
            let reason = format!("its vocabulary has {vocab_size} tokens, expected 1 to {MAX_VOCABULARY}");
            return Err(GrammarError::Tokenizer { reason });
        }
        let ids = 0..vocab_size as u32;
        let eos: Vec<u32> = tokenizer.eos_token_ids().iter().copied().filter(|id| ids.contains(id)).collect();
        let controls: HashSet<u32> = eos.iter().copied().chain(thinking_marks(tokenizer)).collect();
        let words: Vec<Vec<u8>> = ids.clone().map(|id| word(tokenizer, id, controls.contains(&id))).collect();
        if words.iter().all(|word| word.is_empty() || word[0] == MARKER) {
            let reason = "the text of its tokens depends on the tokens beside them".to_owned();
            return Err(GrammarError::Tokenizer { reason });
        }
        let info = TokRxInfo::new(vocab_size as u32, eos.first().copied().unwrap_or(INVALID_TOKEN));
        let mut trie = TokTrie::from(&info, &words);
        if !eos.is_empty() {
            trie = trie.with_eos_tokens(&eos);
        }
        let mut known = trie.alloc_token_set();
        ids.filter(|id| !words[*id as usize].is_empty()).for_each(|id| known.allow_token(id));
        let mut vocabulary = Self { tokenizer: tokenizer.clone(), trie, known, eos, cutting: Cutting::None };
        vocabulary.cutting = vocabulary.find_cutting();
        Ok(vocabulary)
    }

    pub(super) fn size(&self) -> usize {
        self.trie.vocab_size()
    }

    /// Ids that are tokens, in bits: id `i` is bit `i % 32` of word `i / 32`.
    pub(super) fn known(&self) -> &[u32] {
        self.known.as_slice()
    }

    /// Whether a token ends a text.
    pub(super) fn ends(&self, id: u32) -> bool {
        self.eos.contains(&id)
    }

    /// Ids that end a text.
    pub(super) fn eos(&self) -> &[u32] {
        &self.eos
    }

    /// How the tokenizer can be asked, seen from what it makes of a word.
    fn find_cutting(&self) -> Cutting {
        let spells = |byte: u8| self.trie.token_id_at_bytes(&[byte]).is_some();
        // The bytes that UTF-8 has.
        if !(0..=0xf4).filter(|byte| !matches!(byte, 0xc0 | 0xc1)).all(spells) {
            return Cutting::None;
        }
        let probe = "abc";
        let encode = |text: &str| self.tokenizer.encode(text, false).unwrap_or_default();
        if self.trie.decode_raw(&encode(probe)) == probe.as_bytes() {
            return Cutting::Plain;
        }
        let behind = LEADS.into_iter().map(|lead| (lead, encode(lead))).find(|(lead, ids)| {
            let all = encode(&format!("{lead}{probe}"));
            !ids.is_empty()
                && all.strip_prefix(&ids[..]).is_some_and(|rest| self.trie.decode_raw(rest) == probe.as_bytes())
        });
        // Even without the tokenizer's help every text can be forced, in its longest tokens.
        behind.map_or(Cutting::Plain, |(lead, ids)| Cutting::Behind(lead, ids))
    }

    /// What the tokenizer makes of a text in the middle of another, if it is that text again.
    fn cut(&self, text: &str) -> Option<Vec<TokenId>> {
        let ids = match &self.cutting {
            Cutting::None => return None,
            Cutting::Plain => self.tokenizer.encode(text, false).ok()?,
            Cutting::Behind(lead, lead_ids) => {
                self.tokenizer.encode(&format!("{lead}{text}"), false).ok()?.strip_prefix(&lead_ids[..])?.to_vec()
            }
        };
        (self.trie.decode_raw(&ids) == text.as_bytes()).then_some(ids)
    }
}

impl TokenizerEnv for Vocabulary {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<TokenId> {
        let cut = |text: &str| {
            let (head, tail) = text.split_at(text.floor_char_boundary(MAX_TOKENIZED_BYTES));
            let mut ids = self.cut(head).unwrap_or_else(|| self.trie.greedy_tokenize(head.as_bytes()));
            ids.extend(self.trie.greedy_tokenize(tail.as_bytes()));
            ids
        };
        self.trie.tokenize_with_greedy_fallback(bytes, cut)
    }

    fn tokenize_is_canonical(&self) -> bool {
        !matches!(self.cutting, Cutting::None)
    }
}

/// The vocabulary as the parser wants it.
pub(super) fn environment(vocabulary: &Arc<Vocabulary>) -> TokEnv {
    Arc::clone(vocabulary) as TokEnv
}

/// The tokens before and after thinking. A mark of several tokens is made of such as mean something in a text too.
fn thinking_marks(tokenizer: &Tokenizer) -> Vec<u32> {
    let marks = tokenizer.thinking().map(|marks| [&marks.start_tokens[..], &marks.end_tokens[..]]);
    marks.into_iter().flatten().filter(|mark| mark.len() == 1).flatten().copied().collect()
}

/// A text as parts of a grammar: tokens with a meaning of their own, and the text between them.
pub(super) fn markup(tokenizer: &Tokenizer, text: &str) -> Vec<Part> {
    let marks = thinking_marks(tokenizer);
    let is_control = |id: u32| {
        let control = marks.contains(&id) || tokenizer.eos_token_ids().contains(&id);
        word(tokenizer, id, control).first() == Some(&MARKER)
    };
    let controls = tokenizer.encode(text, false).unwrap_or_default().into_iter().filter(|id| is_control(*id));
    let (mut parts, mut rest) = (Vec::new(), text);
    for id in controls {
        let spelled = tokenizer.id_to_token(id).unwrap_or_default();
        let Some((before, after)) = rest.split_once(&spelled) else { continue };
        if !before.is_empty() {
            parts.push(Part::Text(before.to_owned()));
        }
        parts.push(Part::Token(id));
        rest = after;
    }
    if !rest.is_empty() {
        parts.push(Part::Text(rest.to_owned()));
    }
    parts
}

/// The bytes of a token as the trie has them: none if it cannot be chosen.
fn word(tokenizer: &Tokenizer, id: u32, control: bool) -> Vec<u8> {
    let Some(spelled) = tokenizer.id_to_token(id) else { return Vec::new() };
    let is_mark = spelled.len() > 4 && spelled.starts_with("<|") && spelled.ends_with("|>");
    if control || is_mark || tokenizer.is_special_token(id) {
        // Behind the marker, a name in angle brackets can be asked for; one in square brackets would be a number.
        let name = if spelled.starts_with('<') && spelled.ends_with('>') { spelled } else { format!("<{spelled}>") };
        let name = if name.len() < MAX_TOKEN_BYTES { name } else { format!("<token {id}>") };
        return [&[MARKER], name.as_bytes()].concat();
    }
    let bytes = tokenizer.token_bytes(id).unwrap_or_default();
    if bytes.len() > MAX_TOKEN_BYTES || bytes.first() == Some(&MARKER) { Vec::new() } else { bytes }
}
