//! The vocabulary in the metadata: tokens with their kinds, and those that have a name.

use std::collections::HashSet;

use serde_json::{Map, Value, json};

use crate::weights::gguf::{GgufError, Metadata};

const TOKENS: &str = "tokenizer.ggml.tokens";
const KINDS: &str = "tokenizer.ggml.token_type";

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Normal,
    Unknown,
    /// It is never written by a user: `<s>`.
    Control,
    /// It is matched before a text is split.
    UserDefined,
    Unused,
    /// It stands for a byte that is in no other token: `<0x0A>`.
    Byte,
}

impl Kind {
    fn of(number: i64) -> Option<Self> {
        Some(match number {
            1 => Self::Normal,
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            6 => Self::Byte,
            _ => return None,
        })
    }
}

/// The tokens of a file.
#[derive(Debug)]
pub(super) struct Vocab<'m> {
    pub(super) metadata: &'m Metadata,
    tokens: &'m [String],
    kinds: Vec<Kind>,
    /// Whether texts begin with a space that the user did not write.
    pub(super) adds_space: bool,
    /// Whether the vocabulary is one of pieces of text with `▁` for spaces.
    is_of_pieces: bool,
}

impl<'m> Vocab<'m> {
    pub(super) fn read(metadata: &'m Metadata) -> Result<Self, GgufError> {
        let tokens = metadata.texts(TOKENS)?.filter(|tokens| !tokens.is_empty());
        let tokens = tokens.ok_or_else(|| metadata.wrong(TOKENS, "is missing or empty"))?;
        let kinds = match metadata.integers(KINDS)? {
            None => vec![Kind::Normal; tokens.len()],
            Some(kinds) if kinds.len() != tokens.len() => {
                let why = format!("has {} elements for {} tokens", kinds.len(), tokens.len());
                return Err(metadata.wrong(KINDS, why));
            }
            Some(kinds) => {
                let known = |&number: &i64| {
                    Kind::of(number).ok_or_else(|| metadata.wrong(KINDS, format!("has {number}, expected 1 to 6")))
                };
                kinds.iter().map(known).collect::<Result<_, _>>()?
            }
        };
        let is_of_pieces = metadata.text("tokenizer.ggml.model")? == Some("llama");
        let adds_space = metadata.flag("tokenizer.ggml.add_space_prefix")?.unwrap_or(is_of_pieces);
        Ok(Self { metadata, tokens, kinds, adds_space, is_of_pieces })
    }

    pub(super) fn len(&self) -> usize {
        self.tokens.len()
    }

    /// All tokens with their ids and kinds.
    pub(super) fn tokens(&self) -> impl Iterator<Item = (u32, &'m str, Kind)> {
        (0..).zip(self.tokens).zip(&self.kinds).map(|((id, token), &kind)| (id, token.as_str(), kind))
    }

    /// The id and the text of the token whose id is the entry `key`.
    pub(super) fn named(&self, key: &str) -> Result<Option<(u32, &'m str)>, GgufError> {
        let Some(id) = self.metadata.integer(key)? else { return Ok(None) };
        let place = usize::try_from(id).ok();
        let token = place.and_then(|id| self.tokens.get(id)).ok_or_else(|| {
            self.metadata.wrong(key, format!("is {id}, and the vocabulary has {} tokens", self.len()))
        })?;
        Ok(Some((id as u32, token)))
    }

    /// The ids by token. Of equal tokens the first counts.
    pub(super) fn ids(&self) -> Map<String, Value> {
        self.ids_as(|token, _| token.to_owned())
    }

    /// The ids by token as `write` writes it.
    pub(super) fn ids_as(&self, write: impl Fn(&str, Kind) -> String) -> Map<String, Value> {
        let mut ids = Map::with_capacity(self.len());
        for (id, token, kind) in self.tokens() {
            ids.entry(write(token, kind)).or_insert_with(|| id.into());
        }
        ids
    }

    /// The tokens that are matched before a text is split.
    pub(super) fn added_tokens(&self) -> Vec<Value> {
        let mut seen = HashSet::new();
        self.tokens().filter(|(_, token, _)| seen.insert(*token)).filter_map(|token| self.added_token(token)).collect()
    }

    fn added_token(&self, (id, token, kind): (u32, &str, Kind)) -> Option<Value> {
        let special = match kind {
            Kind::Unknown | Kind::Control => true,
            Kind::UserDefined => false,
            _ => return None,
        };
        // A run of spaces is `▁▁` once spaces are replaced; where each text gets one more, merges have to find it.
        let normalized = self.is_of_pieces && token.contains('▁');
        if token.is_empty() || normalized && self.adds_space {
            return None;
        }
        Some(json!({
            "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": self.strips(token),
            "normalized": normalized, "special": special,
        }))
    }

    /// Phi-3 takes the spaces after its marks away, which the metadata does not say.
    fn strips(&self, token: &str) -> bool {
        let is_phi = self.is_of_pieces && self.metadata.text("general.architecture") == Ok(Some("phi3"));
        is_phi && !["<unk>", "<s>", "<|endoftext|>"].contains(&token)
    }

    /// What goes around a text: its start and its end token, if the metadata or else the kind of tokenizer asks for them.
    pub(super) fn surroundings(&self, adds_start: bool, adds_end: bool) -> Result<Value, GgufError> {
        let start = self.surrounding("bos", "cls", adds_start)?;
        let end = self.surrounding("eos", "seperator", adds_end)?;
        if start.is_none() && end.is_none() {
            return Ok(Value::Null);
        }
        let special = |token: &str, part: u8| json!({"SpecialToken": {"id": token, "type_id": part}});
        let around = |name: &str, part: u8| -> Vec<Value> {
            let text = json!({"Sequence": {"id": name, "type_id": part}});
            let (start, end) =
                (start.map(|(_, token)| special(token, part)), end.map(|(_, token)| special(token, part)));
            start.into_iter().chain([text]).chain(end).collect()
        };
        let (single, second) = (around("A", 0), around("B", 1));
        let tokens: Map<String, Value> = (start.iter().chain(&end))
            .map(|(id, token)| ((*token).to_owned(), json!({"id": token, "ids": [id], "tokens": [token]})))
            .collect();
        let pair: Vec<Value> = single.iter().cloned().chain(second).collect();
        Ok(json!({"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": tokens}))
    }

    /// The token `name`, or else `other`, if it is to be added.
    fn surrounding(&self, name: &str, other: &str, usual: bool) -> Result<Option<(u32, &'m str)>, GgufError> {
        let is_added = self.metadata.flag(&format!("tokenizer.ggml.add_{name}_token"))?.unwrap_or(usual);
        if !is_added {
            return Ok(None);
        }
        match self.named(&format!("tokenizer.ggml.{name}_token_id"))? {
            Some(found) => Ok(Some(found)),
            None => self.named(&format!("tokenizer.ggml.{other}_token_id")),
        }
    }
}
