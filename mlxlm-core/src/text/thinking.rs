//! Which tokens enclose a model's thinking, found in its vocabulary.
//!
//! Reference: `_infer_thinking` and the `find_think_*` methods of `mlx_lm/tokenizer_utils.py` 0.32.2.

/// Pairs that are single tokens, in the order in which they are looked for.
const PAIRS: [(&str, &str); 3] =
    [("<think>", "</think>"), ("<longcat_think>", "</longcat_think>"), ("<|think:start|>", "<|think:end|>")];

/// The tokens of the markup in which Kimi K3 writes all that is not plain text.
const XTML: [&str; 4] = ["<|open|>", "<|close|>", "<|sep|>", "<|end_of_msg|>"];

/// The marks before and after a model's thinking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thinking {
    /// The text that starts it.
    pub start: String,
    /// The text that ends it.
    pub end: String,
    /// The ids of `start`, at least one.
    pub start_tokens: Vec<u32>,
    /// The ids of `end`, at least one.
    pub end_tokens: Vec<u32>,
}

impl Thinking {
    /// Looks for the marks that are known. `id` finds a token of the vocabulary, `encode` tokenizes without special
    /// tokens and may fail.
    pub(crate) fn infer<E>(
        id: impl Fn(&str) -> Option<u32>,
        encode: impl Fn(&str) -> Result<Vec<u32>, E>,
    ) -> Result<Option<Self>, E> {
        for (start, end) in PAIRS {
            if let (Some(start_id), Some(end_id)) = (id(start), id(end)) {
                return Ok(Some(Self {
                    start: start.into(),
                    end: end.into(),
                    start_tokens: vec![start_id],
                    end_tokens: vec![end_id],
                }));
            }
        }
        let (start, end) = if id("<|channel>").is_some() && id("<channel|>").is_some() {
            ("<|channel>thought", "<channel|>")
        } else if XTML.iter().all(|token| id(token).is_some()) {
            ("<|open|>think<|sep|>", "<|close|>think<|sep|>")
        } else {
            return Ok(None);
        };
        Ok(Some(Self { start: start.into(), end: end.into(), start_tokens: encode(start)?, end_tokens: encode(end)? }))
    }

    /// Where thinking first starts in `tokens`.
    pub fn find_start(&self, tokens: &[u32]) -> Option<usize> {
        find(tokens, &self.start_tokens)
    }

    /// Where thinking last starts in `tokens`.
    pub fn rfind_start(&self, tokens: &[u32]) -> Option<usize> {
        rfind(tokens, &self.start_tokens)
    }

    /// Where thinking first ends in `tokens`.
    pub fn find_end(&self, tokens: &[u32]) -> Option<usize> {
        find(tokens, &self.end_tokens)
    }

    /// Where thinking last ends in `tokens`.
    pub fn rfind_end(&self, tokens: &[u32]) -> Option<usize> {
        rfind(tokens, &self.end_tokens)
    }

    /// Whether `tokens` end inside the model's thinking: it started after it last ended.
    pub fn is_open(&self, tokens: &[u32]) -> bool {
        match (self.rfind_start(tokens), self.rfind_end(tokens)) {
            (Some(start), Some(end)) => start > end,
            (start, _) => start.is_some(),
        }
    }
}

fn find(tokens: &[u32], sequence: &[u32]) -> Option<usize> {
    tokens.windows(sequence.len().max(1)).position(|window| window == sequence)
}

fn rfind(tokens: &[u32], sequence: &[u32]) -> Option<usize> {
    tokens.windows(sequence.len().max(1)).rposition(|window| window == sequence)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A vocabulary of these tokens, in which `encode` gives one id for each known token at the front, else a byte.
    fn infer(vocabulary: &[&str]) -> Option<Thinking> {
        let id = |token: &str| vocabulary.iter().position(|v| *v == token).map(|i| 1000 + i as u32);
        let encode = |text: &str| {
            let mut ids = Vec::new();
            let mut rest = text;
            while let Some(byte) = rest.bytes().next() {
                let known = vocabulary.iter().find(|v| rest.starts_with(**v));
                ids.push(known.and_then(|v| id(v)).unwrap_or(u32::from(byte)));
                rest = &rest[known.map_or(1, |v| v.len())..];
            }
            Ok::<_, ()>(ids)
        };
        Thinking::infer(id, encode).unwrap()
    }

    #[test]
    fn single_tokens_come_first() {
        let found = infer(&["<|channel>", "<channel|>", "<think>", "</think>"]).unwrap();
        assert_eq!((found.start.as_str(), found.start_tokens, found.end_tokens), ("<think>", vec![1002], vec![1003]));
    }

    #[test]
    fn a_lone_start_is_not_enough() {
        assert_eq!(infer(&["<think>", "<|open|>"]), None);
    }

    #[test]
    fn marks_of_several_tokens_are_encoded() {
        let spelled = |word: &str| word.bytes().map(u32::from).collect::<Vec<_>>();
        let gemma = infer(&["<|channel>", "<channel|>"]).unwrap();
        assert_eq!(gemma.start_tokens, [vec![1000], spelled("thought")].concat());
        assert_eq!(gemma.end_tokens, [1001]);
        let kimi = infer(&XTML).unwrap();
        assert_eq!(kimi.start_tokens, [vec![1000], spelled("think"), vec![1002]].concat());
        assert_eq!(kimi.end, "<|close|>think<|sep|>");
    }

    #[test]
    fn first_and_last_places() {
        let t = Thinking { start: String::new(), end: String::new(), start_tokens: vec![7, 8], end_tokens: vec![9] };
        let tokens = [7, 8, 9, 7, 7, 8, 1];
        assert_eq!((t.find_start(&tokens), t.rfind_start(&tokens)), (Some(0), Some(4)));
        assert_eq!((t.find_end(&tokens), t.rfind_end(&tokens)), (Some(2), Some(2)));
        assert!(t.is_open(&tokens));
        assert!(!t.is_open(&tokens[..4]));
        assert!(t.is_open(&tokens[..2]));
        assert!(!t.is_open(&[1]));
        assert_eq!(t.find_start(&[7]), None);
    }
}
