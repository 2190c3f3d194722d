//! The names of the files in a store's folder, which say what they hold without being opened.
//!
//! `mlxlm-{key}-{head}-{tokens}-{hash}.safetensors`: hashes of the key, of the first tokens and of all tokens, and how many those
//! are. So the longest sequence that a prompt begins with is found in a listing, and so are those that share a beginning with it.

use sha2::{Digest, Sha256};

use crate::store::Key;

/// The version of the entries: those of others are not looked at, and go when room is needed.
const VERSION: &str = "mlxlm prompt cache 1";
/// The tokens of which the head is a hash: sequences that share fewer are not found through one another.
pub(super) const HEAD: usize = 32;
const PREFIX: &str = "mlxlm-";
const SUFFIX: &str = ".safetensors";

/// What a file name says.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Name {
    key: String,
    head: String,
    pub(super) tokens: usize,
    hash: String,
}

impl Name {
    /// What the name of an entry says; nothing if it is the name of something else.
    pub(super) fn parse(name: &str) -> Option<Self> {
        let mut parts = name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?.split('-');
        let mut hex = |len: usize| {
            let part = parts.next()?;
            let is_hex = part.len() == len && part.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'a'..=b'f'));
            is_hex.then(|| part.to_owned())
        };
        let (key, head) = (hex(16)?, hex(16)?);
        let tokens = parts.next()?;
        let hash = parts.next()?.to_owned();
        let parsed = Self { key, head, tokens: tokens.parse().ok()?, hash };
        (parts.next().is_none() && parsed.to_string() == name && parsed.hash.len() == 32).then_some(parsed)
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { key, head, tokens, hash } = self;
        write!(f, "{PREFIX}{key}-{head}-{tokens}-{hash}{SUFFIX}")
    }
}

/// The hashes of a prompt, to be compared with those in names.
#[derive(Debug)]
pub(super) struct Hashes<'a> {
    key: String,
    seed: Sha256,
    tokens: &'a [u32],
}

impl<'a> Hashes<'a> {
    pub(super) fn new(key: &Key, tokens: &'a [u32]) -> Self {
        let mut seed = Sha256::new();
        for part in [VERSION, &key.model, &key.adapter] {
            seed.update((part.len() as u64).to_le_bytes());
            seed.update(part);
        }
        Self { key: hex(&seed, 16), seed, tokens }
    }

    /// The name of the sequence itself.
    pub(super) fn name(&self) -> Name {
        let tokens = self.tokens.len();
        let at = self.at([tokens.min(HEAD), tokens]);
        Name { key: self.key.clone(), head: cut(&at[0], 16), tokens, hash: cut(&at[1], 32) }
    }

    /// Which of these entries, sorted by their tokens, belong to the same key and are beginnings of the prompt (`true`) or share its
    /// first tokens (`false`).
    pub(super) fn related<'n>(&self, names: impl IntoIterator<Item = &'n Name>) -> Vec<(&'n Name, bool)> {
        let len = self.tokens.len();
        let mut names: Vec<&Name> = names.into_iter().filter(|name| name.key == self.key).collect();
        names.sort_by_key(|name| name.tokens);
        let fitting = names.iter().map(|name| name.tokens).filter(|&tokens| tokens <= len);
        let at = self.at(std::iter::once(len.min(HEAD)).chain(fitting.filter(|&tokens| tokens >= len.min(HEAD))));
        let short = self.at(names.iter().map(|name| name.tokens).filter(|&tokens| tokens < len.min(HEAD)));
        let head = at.first().map(|hash| cut(hash, 16)).unwrap_or_default();
        let mut hashes = short.iter().chain(at.iter().skip(1));
        let related = |name: &'n Name| {
            let is_beginning = name.tokens <= len && hashes.next().is_some_and(|hash| cut(hash, 32) == name.hash);
            let shares = is_beginning || (name.tokens > HEAD && len > HEAD && name.head == head);
            shares.then_some((name, is_beginning))
        };
        names.into_iter().filter_map(related).collect()
    }

    /// The hashes of the first tokens, for numbers of them that do not fall.
    fn at(&self, lens: impl IntoIterator<Item = usize>) -> Vec<String> {
        let (mut hasher, mut from) = (self.seed.clone(), 0);
        let hash = |len: usize| {
            let new = self.tokens.get(from..len).unwrap_or_default();
            hasher.update(new.iter().flat_map(|token| token.to_le_bytes()).collect::<Vec<u8>>());
            from = len.max(from);
            hex(&hasher, 64)
        };
        lens.into_iter().map(hash).collect()
    }
}

fn hex(hasher: &Sha256, digits: usize) -> String {
    let mut all = String::with_capacity(64);
    for byte in hasher.clone().finalize() {
        all.extend([byte >> 4, byte & 15].into_iter().filter_map(|digit| char::from_digit(digit.into(), 16)));
    }
    cut(&all, digits)
}

fn cut(hash: &str, digits: usize) -> String {
    hash.chars().take(digits).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(model: &str, adapter: &str) -> Key {
        Key { model: model.into(), adapter: adapter.into() }
    }

    #[test]
    fn a_name_is_read_as_it_is_written() {
        let tokens: Vec<u32> = (0..100).collect();
        let name = Hashes::new(&key("m", ""), &tokens).name();
        assert_eq!(Name::parse(&name.to_string()), Some(name.clone()));
        let text = name.to_string();
        for wrong in [
            text.replace("mlxlm-", "other-"),
            text.replace(".safetensors", ".safetensors.bak"),
            text.replace("-100-", "-0100-"),
            text.replace("-100-", "-1e2-"),
            text.replace("-100-", "-100-1-"),
            text[..text.len() - 13].to_owned(),
            String::new(),
        ] {
            assert_eq!(Name::parse(&wrong), None, "{wrong}");
        }
    }

    #[test]
    fn beginnings_and_what_shares_one_are_told_apart() {
        let tokens: Vec<u32> = (0..100).collect();
        let name = |key: &Key, tokens: &[u32]| Hashes::new(key, tokens).name();
        let m = key("m", "a");
        let mut parted = tokens.clone();
        parted[60] = 7;
        let mut early = tokens.clone();
        early[3] = 7;
        let longer: Vec<u32> = (0..130).collect();
        let names = [
            name(&m, &longer),
            name(&m, &tokens[..5]),
            name(&m, &tokens[..40]),
            name(&m, &tokens[..32]),
            name(&m, &tokens),
            name(&m, &parted),
            name(&m, &early),
            name(&m, &early[..5]),
            name(&key("m", ""), &tokens[..40]),
            name(&key("", "ma"), &tokens[..40]),
        ];
        let found = |tokens: &[u32]| -> Vec<(usize, bool)> {
            let hashes = Hashes::new(&m, tokens);
            hashes.related(&names).into_iter().map(|(name, is_beginning)| (name.tokens, is_beginning)).collect()
        };
        let all = [(5, true), (32, true), (40, true), (100, true), (100, false), (130, false)];
        assert_eq!(found(&tokens), all);
        assert_eq!(found(&tokens[..50]), [(5, true), (32, true), (40, true), (100, false), (100, false), (130, false)]);
        assert_eq!(found(&tokens[..20]), [(5, true)]);
        assert_eq!(found(&early[..20]), [(5, true)]);
        assert_eq!(found(&[]), []);
    }
}
