//! From tokens to text, one token at a time: the decoder of a `tokenizer.json` as a pipeline whose output only grows.
//!
//! A decoder is a list of steps, each from tokens to tokens. Here every step takes a part of a token when it comes and
//! gives on what no later part can change; the rest it keeps. So a text decoded token by token equals the text decoded at
//! once, at any split, in linear time. The steps are those of the `tokenizers` crate: what looks at whole tokens is done
//! by the crate itself (`library.rs`), what works across tokens is written for streams and tested against the crate.
//!
//! Unusual: an added token is its own text in a vocabulary of bytes, where the crate takes its letters for bytes if it can
//! (`õ` became U+FFFD).

mod between;
mod bytes;
mod fallback;
mod library;
mod strings;

use tokenizers::DecoderWrapper;
use tokenizers::normalizers::replace::ReplacePattern;

use bytes::Bytes;
use fallback::Fallback;
use library::{Library, Neighbours};
use strings::{Replace, Strip};

/// A part of a token on its way through the steps.
#[derive(Clone, Debug, Default)]
struct Part {
    text: String,
    /// The token ends here.
    ends: bool,
    /// The token is an added one.
    added: bool,
}

impl Part {
    fn token(text: impl Into<String>) -> Self {
        Self { text: text.into(), ends: true, added: false }
    }

    /// A part of a token that goes on.
    fn open(text: impl Into<String>) -> Self {
        Self { text: text.into(), ..Self::default() }
    }

    /// The same part of the token with another text.
    fn with(&self, text: String) -> Self {
        Self { text, ends: self.ends, added: self.added }
    }
}

/// A step with what it keeps of the tokens so far.
#[derive(Clone, Debug)]
enum Step {
    /// Puts a space between tokens, as is done without a decoder.
    Spaces {
        any: bool,
    },
    /// Makes one token of all.
    Fuse,
    Bytes(Bytes),
    Fallback(Fallback),
    Replace(Replace),
    Strip(Strip),
    Library(Library),
}

impl Step {
    fn take(&mut self, part: Part, out: &mut Vec<Part>) {
        match self {
            Self::Spaces { any } => {
                if std::mem::replace(any, true) {
                    out.push(Part::open(" "));
                }
                out.push(part);
            }
            Self::Fuse => out.push(Part::open(part.text)),
            Self::Bytes(step) => step.take(&part, out),
            Self::Fallback(step) => step.take(&part, out),
            Self::Replace(step) => step.take(&part, out),
            Self::Strip(step) => step.take(&part, out),
            Self::Library(step) => step.take(&part, out),
        }
    }

    fn take_all(&mut self, parts: Vec<Part>) -> Vec<Part> {
        let mut out = Vec::with_capacity(parts.len());
        for part in parts {
            self.take(part, &mut out);
        }
        out
    }

    /// There are no more tokens.
    fn finish(&mut self, out: &mut Vec<Part>) {
        match self {
            Self::Spaces { .. } | Self::Replace(_) | Self::Strip(_) => {}
            Self::Fuse => out.push(Part::token("")),
            Self::Bytes(step) => step.finish(out),
            Self::Fallback(step) => step.finish(out),
            Self::Library(step) => step.finish(out),
        }
    }
}

/// The steps of a decoder. A clone of an unused one decodes a text.
#[derive(Clone, Debug)]
pub(crate) struct Decoding {
    steps: Vec<Step>,
}

impl Decoding {
    pub(crate) fn new(decoder: Option<&DecoderWrapper>) -> tokenizers::Result<Self> {
        let mut steps = Vec::new();
        match decoder {
            Some(decoder) => push_steps(decoder, &mut steps)?,
            None => steps.push(Step::Spaces { any: false }),
        }
        Ok(Self { steps })
    }

    /// Replaces further strings in the text that the decoder makes.
    pub(crate) fn then_replace(&mut self, replacements: &[(&str, &str)]) {
        self.steps.push(Step::Fuse);
        self.steps
            .extend(replacements.iter().map(|(pattern, content)| Step::Replace(Replace::new(*pattern, *content))));
    }

    /// Takes a token, and appends to `text` what is certain by now.
    pub(crate) fn add(&mut self, token: String, added: bool, text: &mut String) {
        let token = Part { text: token, ends: true, added };
        let parts = self.steps.iter_mut().fold(vec![token], |parts, step| step.take_all(parts));
        text.extend(parts.into_iter().map(|part| part.text));
    }

    /// Appends to `text` what was kept, since there are no more tokens.
    pub(crate) fn finish(&mut self, text: &mut String) {
        let parts = self.steps.iter_mut().fold(Vec::new(), |parts, step| {
            let mut out = step.take_all(parts);
            step.finish(&mut out);
            out
        });
        text.extend(parts.into_iter().map(|part| part.text));
    }

    /// Why a step failed, after which it left tokens as they were.
    pub(crate) fn failure(&self) -> Option<&str> {
        self.steps.iter().find_map(|step| match step {
            Step::Library(step) => step.failure(),
            _ => None,
        })
    }
}

fn push_steps(decoder: &DecoderWrapper, steps: &mut Vec<Step>) -> tokenizers::Result<()> {
    let library = |neighbours| Step::Library(Library::new(decoder.clone(), neighbours));
    steps.push(match decoder {
        DecoderWrapper::Sequence(sequence) => {
            return sequence.get_decoders().iter().try_for_each(|decoder| push_steps(decoder, steps));
        }
        DecoderWrapper::Fuse(_) => Step::Fuse,
        DecoderWrapper::ByteLevel(_) => Step::Bytes(Bytes::default()),
        DecoderWrapper::ByteFallback(_) => Step::Fallback(Fallback::default()),
        DecoderWrapper::Strip(strip) => Step::Strip(Strip::new(strip.content, strip.start, strip.stop)),
        DecoderWrapper::Replace(replace) => {
            let mut fields = serde_json::to_value(replace)?;
            match serde_json::from_value(fields["pattern"].take())? {
                ReplacePattern::String(pattern) => Step::Replace(Replace::new(pattern, replace.content.clone())),
                ReplacePattern::Regex(_) => library(Neighbours::Any),
            }
        }
        DecoderWrapper::WordPiece(_) | DecoderWrapper::Metaspace(_) => library(Neighbours::Before),
        DecoderWrapper::BPE(_) => library(Neighbours::After),
        DecoderWrapper::CTC(_) => library(Neighbours::Same),
    });
    Ok(())
}

/// What the tests of the steps share.
#[cfg(test)]
mod testing {
    use super::*;

    /// Feeds parts, `|` at the end of one that ends its token, to a step alone; gives what came out before and after the
    /// end, written the same way.
    pub(super) fn run(step: Step, parts: &[&str]) -> (Vec<String>, Vec<String>) {
        let mut step = step;
        let mut out = Vec::new();
        for part in parts {
            let (text, ends) = part.strip_suffix('|').map_or((*part, false), |text| (text, true));
            step.take(Part { text: text.into(), ends, added: false }, &mut out);
        }
        let before = written(&mut out);
        step.finish(&mut out);
        (before, written(&mut out))
    }

    fn written(parts: &mut Vec<Part>) -> Vec<String> {
        let texts = parts.drain(..).map(|part| part.text + if part.ends { "|" } else { "" });
        texts.filter(|text| !text.is_empty()).collect()
    }

    pub(super) fn check(step: Step, parts: &[&str], before: &[&str], after: &[&str]) {
        let (got_before, got_after) = run(step, parts);
        assert_eq!(got_before, before, "{parts:?}");
        assert_eq!(got_after, after, "{parts:?}: at the end");
    }
}
