//! Steps that look at whole tokens: the `tokenizers` crate does them itself, token by token.
//!
//! A step sees as much of its neighbours as it needs to; where a neighbour only has to be there, an empty one stands for it.

use std::sync::Arc;

use tokenizers::{Decoder, DecoderWrapper};

use super::Part;
use crate::text::guard::{guarded, timed};

/// What a step does with a token depends on this.
#[derive(Clone, Copy, Debug)]
pub(super) enum Neighbours {
    /// Nothing but the token.
    Any,
    /// Whether there is a token before it.
    Before,
    /// Whether there is one after it.
    After,
    /// Whether the one before it is the same.
    Same,
}

/// A step of the crate, with the token that has not ended.
#[derive(Clone, Debug)]
pub(super) struct Library {
    decoder: Arc<DecoderWrapper>,
    neighbours: Neighbours,
    token: String,
    /// The token before.
    previous: Option<String>,
    /// A token that waits for the next one.
    waiting: Option<String>,
    failure: Option<String>,
}

impl Library {
    pub(super) fn new(decoder: DecoderWrapper, neighbours: Neighbours) -> Self {
        let decoder = Arc::new(decoder);
        Self { decoder, neighbours, token: String::new(), previous: None, waiting: None, failure: None }
    }

    pub(super) fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    pub(super) fn take(&mut self, part: &Part, out: &mut Vec<Part>) {
        self.token.push_str(&part.text);
        if !part.ends {
            return;
        }
        let token = std::mem::take(&mut self.token);
        let mut give = |tokens: Vec<String>| out.extend(tokens.into_iter().map(|text| part.with(text)));
        match self.neighbours {
            Neighbours::Any => give(self.run(vec![token])),
            Neighbours::Before if self.previous.is_none() => {
                self.previous = Some(String::new());
                give(self.run(vec![token]));
            }
            Neighbours::Before => give(self.run(vec![String::new(), token]).split_off(1)),
            Neighbours::Same if self.previous.as_ref() == Some(&token) => {}
            Neighbours::Same => {
                self.previous = Some(token.clone());
                give(self.run(vec![token]));
            }
            Neighbours::After => {
                if let Some(waiting) = self.waiting.take() {
                    give(self.run_before_another(waiting));
                }
                let inner = self.run_before_another(token.clone());
                match self.run(vec![token.clone()]) == inner {
                    true => give(inner),
                    false => self.waiting = Some(token),
                }
            }
        }
    }

    pub(super) fn finish(&mut self, out: &mut Vec<Part>) {
        if let Some(waiting) = self.waiting.take() {
            out.extend(self.run(vec![waiting]).into_iter().map(Part::token));
        }
    }

    /// What becomes of a token between two others; nothing where that depends on which they are, or where the step fails.
    pub(super) fn between(&self, token: String) -> Option<String> {
        let mut step = self.clone();
        let tokens = match self.neighbours {
            Neighbours::Any => step.run(vec![token]),
            Neighbours::Before => step.run(vec![String::new(), token]).split_off(1),
            Neighbours::After => step.run_before_another(token),
            Neighbours::Same => return None,
        };
        if step.failure.is_some() { None } else { Some(tokens.concat()) }
    }

    fn run_before_another(&mut self, token: String) -> Vec<String> {
        let mut tokens = self.run(vec![token, String::new()]);
        tokens.truncate(1);
        tokens
    }

    /// The step over `tokens`, which stay as they are if it fails, or failed before.
    fn run(&mut self, tokens: Vec<String>) -> Vec<String> {
        if self.failure.is_some() {
            return tokens;
        }
        let (decoder, given) = (Arc::clone(&self.decoder), tokens.clone());
        let result = match &*self.decoder {
            // Its regular expression may take long.
            DecoderWrapper::Replace(_) => {
                timed(given.iter().map(String::len).sum(), move || decoder.decode_chain(given))
            }
            _ => guarded(|| decoder.decode_chain(given)),
        };
        result.unwrap_or_else(|reason| {
            self.failure = Some(reason);
            tokens
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::Step;
    use super::super::testing::check;
    use super::*;

    fn step(decoder: &str, neighbours: Neighbours) -> Step {
        Step::Library(Library::new(serde_json::from_str(decoder).unwrap(), neighbours))
    }

    #[test]
    fn tokens_see_their_neighbours() {
        let words = step(r###"{"type":"WordPiece","prefix":"##","cleanup":true}"###, Neighbours::Before);
        check(words, &["a|", "##b|", "c", "d|", "!|"], &["a|", "b|", " cd|", "!|"], &[]);
        let meta = step(r#"{"type":"Metaspace","replacement":"▁","prepend_scheme":"always"}"#, Neighbours::Before);
        check(meta, &["▁a▁b|", "▁c|"], &["ab|", " c|"], &[]);
        let suffix = r#"{"type":"BPEDecoder","suffix":"</w>"}"#;
        check(step(suffix, Neighbours::After), &["a|", "b</w>|"], &["a|"], &["b|"]);
        check(step(suffix, Neighbours::After), &["a</w>|", "b</w>|", "c|"], &["a |", "b |", "c|"], &[]);
        let ctc = r#"{"type":"CTC","pad_token":"<pad>","word_delimiter_token":"|","cleanup":false}"#;
        check(step(ctc, Neighbours::Same), &["a|", "a|", "<pad>|", "a|"], &["a|", "a|"], &[]);
    }

    #[test]
    fn a_step_that_fails_leaves_tokens_as_they_are() {
        let regex = r#"{"type":"Replace","pattern":{"Regex":"(a+)+$"},"content":"x"}"#;
        let long = "a".repeat(40) + "b|";
        check(step(regex, Neighbours::Any), &["aab|", &long, "aa|"], &["aab|", &long, "aa|"], &[]);
        check(step(regex, Neighbours::Any), &["aa|"], &["x|"], &[]);
    }
}
