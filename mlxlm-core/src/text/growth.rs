//! How long a normalizer makes a text, found out before it does so.
//!
//! `Replace` may put hundreds of bytes for each one, step after step; the library would make all of them, with 16 bytes of
//! bookkeeping beside each.

use tokenizers::normalizers::replace::ReplacePattern;
use tokenizers::normalizers::{NormalizerWrapper, Replace};
use tokenizers::utils::SysRegex;
use tokenizers::{Decoder, NormalizedString, Normalizer};

/// How many times longer a text may become; `▁` for a space is three times.
const MAX_FACTOR: usize = 16;

/// What may be added to any text, in bytes.
const MAX_ADDED_BYTES: usize = 1024;

/// The steps of a normalizer, where they could make a text much longer; empty where they cannot.
#[derive(Default)]
pub(crate) struct Growth {
    steps: Vec<Step>,
}

enum Step {
    /// A replacement with its pattern, to count where it matches.
    Replace(Replace, SysRegex),
    Other(NormalizerWrapper),
}

impl Growth {
    pub(crate) fn of(normalizer: Option<&NormalizerWrapper>) -> tokenizers::Result<Self> {
        let mut wrappers = Vec::new();
        flatten(normalizer, &mut wrappers);
        let (mut factor, mut added) = (1, 0);
        let mut steps = Vec::new();
        for wrapper in wrappers {
            match wrapper {
                NormalizerWrapper::Replace(replace) => {
                    let (regex, most) = pattern(replace)?;
                    factor = most.saturating_mul(factor);
                    steps.push(Step::Replace(replace.clone(), regex));
                }
                NormalizerWrapper::Prepend(prepend) => {
                    added += prepend.prepend.len();
                    steps.push(Step::Other(wrapper.clone()));
                }
                other => steps.push(Step::Other(other.clone())),
            }
        }
        let harmless = factor <= MAX_FACTOR && added <= MAX_ADDED_BYTES;
        Ok(if harmless { Self::default() } else { Self { steps } })
    }

    /// Refuses a text that would become too long.
    pub(crate) fn check(&self, text: &str) -> tokenizers::Result<()> {
        let limit = text.len().saturating_mul(MAX_FACTOR).saturating_add(MAX_ADDED_BYTES);
        let within = |bytes: usize| match bytes > limit {
            true => Err(format!("its normalizer makes {bytes} bytes of a text of {}", text.len())),
            false => Ok(()),
        };
        let mut now = text.to_owned();
        for step in &self.steps {
            match step {
                Step::Replace(replace, regex) => {
                    let (count, matched) =
                        regex.find_iter(&now).fold((0, 0), |(count, sum), (start, end)| (count + 1, sum + end - start));
                    within((now.len() - matched).saturating_add(replace.content.len().saturating_mul(count)))?;
                    now = replace.decode_chain(vec![now])?.concat();
                }
                Step::Other(normalizer) => {
                    let mut normalized = NormalizedString::from(now);
                    normalizer.normalize(&mut normalized)?;
                    now = normalized.get().into();
                    within(now.len())?;
                }
            }
        }
        Ok(())
    }
}

fn flatten<'w>(normalizer: Option<&'w NormalizerWrapper>, into: &mut Vec<&'w NormalizerWrapper>) {
    match normalizer {
        Some(NormalizerWrapper::Sequence(steps)) => {
            steps.as_ref().iter().for_each(|step| flatten(Some(step), into));
        }
        Some(step) => into.push(step),
        None => {}
    }
}

/// The pattern of a replacement, and how many times longer it can make a text.
fn pattern(replace: &Replace) -> tokenizers::Result<(SysRegex, usize)> {
    let mut fields = serde_json::to_value(replace)?;
    match serde_json::from_value(fields["pattern"].take())? {
        // A regular expression may match between any two characters.
        ReplacePattern::Regex(regex) => Ok((SysRegex::new(&regex)?, replace.content.len() + 1)),
        ReplacePattern::String(text) => {
            let most = replace.content.len().div_ceil(text.len().max(1)).max(1);
            Ok((SysRegex::new(&escaped(&text))?, most))
        }
    }
}

/// A regular expression that matches `text`.
fn escaped(text: &str) -> String {
    text.chars().flat_map(|c| (!c.is_alphanumeric()).then_some('\\').into_iter().chain([c])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokenizers::normalizers::{NFC, Prepend, Sequence};

    fn growth(steps: Vec<NormalizerWrapper>) -> Growth {
        Growth::of(Some(&Sequence::new(steps).into())).unwrap()
    }

    fn replace(pattern: &str, content: &str) -> NormalizerWrapper {
        Replace::new(pattern, content).unwrap().into()
    }

    #[test]
    fn common_normalizers_are_not_run_twice() {
        assert!(Growth::of(None).unwrap().steps.is_empty());
        assert!(growth(vec![Prepend::new("▁".into()).into(), replace(" ", "▁"), NFC.into()]).steps.is_empty());
    }

    #[test]
    fn a_text_that_explodes_is_refused() {
        let eight = growth(vec![replace("a", &"a".repeat(100)); 8]);
        let error = eight.check(&"a".repeat(1000)).unwrap_err().to_string();
        assert_eq!(error, "its normalizer makes 100000 bytes of a text of 1000");
        assert!(eight.check(&"b".repeat(1000)).is_ok());
        assert!(eight.check(&("a".to_owned() + &"b".repeat(1000))).is_err(), "it grows in the second step");
        let regex = Replace::new(ReplacePattern::Regex("(?=.)".into()), "x".repeat(60)).unwrap();
        assert!(growth(vec![regex.into()]).check(&"é".repeat(100)).is_err());
        let marks = growth(vec![replace("\n", "<newline>"), replace("\t", "<tab>"), replace("[.]", "<dot>")]);
        assert!(!marks.steps.is_empty());
        assert!(marks.check("a\n\tb [.]").is_ok());
    }
}
