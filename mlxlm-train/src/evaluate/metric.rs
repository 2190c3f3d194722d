//! How answers are measured, and what is done to them before.

use regex::Regex;
use serde_json::Value;

use super::perplexity::Mean;
use super::task::OutputType;

/// A measure of answers.
#[derive(Debug, Clone)]
pub(super) enum Metric {
    /// Whether the right answer has the highest log-probability.
    Accuracy,
    /// The same, each divided by the characters of the answer.
    AccuracyByLength,
    /// Whether the answer is the right one, after some changes to both.
    ExactMatch {
        ignore_case: bool,
        ignore_punctuation: bool,
        ignore_numbers: bool,
        ignored: Vec<Regex>,
    },
    /// The exponential of the mean negative log-probability of an answer.
    Perplexity,
    /// Of whole texts: for each word, for each byte, and in bits for each byte.
    WordPerplexity,
    BytePerplexity,
    BitsPerByte,
}

impl Metric {
    /// Those of an output type that says nothing.
    pub(super) fn usual(output: OutputType) -> Vec<Self> {
        match output {
            OutputType::MultipleChoice => vec![Self::Accuracy, Self::AccuracyByLength],
            OutputType::LogLikelihood => vec![Self::Perplexity, Self::Accuracy],
            OutputType::Rolling => vec![Self::WordPerplexity, Self::BytePerplexity, Self::BitsPerByte],
            OutputType::Generate => vec![Self::exact()],
        }
    }

    fn exact() -> Self {
        Self::ExactMatch { ignore_case: false, ignore_punctuation: false, ignore_numbers: false, ignored: Vec::new() }
    }

    pub(super) fn read(entry: &Value, output: OutputType) -> Result<Self, String> {
        let name = entry.get("metric").and_then(Value::as_str).ok_or("has a metric without a name")?;
        let flag = |key: &str| entry.get(key).and_then(Value::as_bool).unwrap_or(false);
        let metric = match (name, output) {
            ("acc", OutputType::MultipleChoice | OutputType::LogLikelihood) => Self::Accuracy,
            ("acc_norm", OutputType::MultipleChoice) => Self::AccuracyByLength,
            ("perplexity", OutputType::LogLikelihood) => Self::Perplexity,
            ("word_perplexity", OutputType::Rolling) => Self::WordPerplexity,
            ("byte_perplexity", OutputType::Rolling) => Self::BytePerplexity,
            ("bits_per_byte", OutputType::Rolling) => Self::BitsPerByte,
            ("exact_match", OutputType::Generate) => {
                let mut ignored = Vec::new();
                for pattern in entry.get("regexes_to_ignore").and_then(Value::as_array).into_iter().flatten() {
                    let pattern = pattern.as_str().unwrap_or_default();
                    ignored.push(Regex::new(pattern).map_err(|error| format!("has the pattern `{pattern}`: {error}"))?);
                }
                Self::ExactMatch {
                    ignore_case: flag("ignore_case"),
                    ignore_punctuation: flag("ignore_punctuation"),
                    ignore_numbers: flag("ignore_numbers"),
                    ignored,
                }
            }
            _ => return Err(format!("has the metric `{name}`, which is not supported for its output type")),
        };
        Ok(metric)
    }

    /// Its name in results.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Accuracy => "acc",
            Self::AccuracyByLength => "acc_norm",
            Self::ExactMatch { .. } => "exact_match",
            Self::Perplexity => "perplexity",
            Self::WordPerplexity => "word_perplexity",
            Self::BytePerplexity => "byte_perplexity",
            Self::BitsPerByte => "bits_per_byte",
        }
    }

    /// Whether more is better.
    pub(super) fn higher_is_better(&self) -> bool {
        matches!(self, Self::Accuracy | Self::AccuracyByLength | Self::ExactMatch { .. })
    }

    /// Whether an answer is one of the right ones.
    pub(super) fn matches(&self, answer: &str, right: &[String]) -> bool {
        let Self::ExactMatch { ignore_case, ignore_punctuation, ignore_numbers, ignored } = self else { return false };
        let plain = |text: &str| {
            let mut text =
                ignored.iter().fold(text.to_owned(), |text, regex| regex.replace_all(&text, "").into_owned());
            if *ignore_case {
                text = text.to_lowercase();
            }
            text.retain(|c| {
                !(*ignore_punctuation && c.is_ascii_punctuation() || *ignore_numbers && c.is_ascii_digit())
            });
            text
        };
        let answer = plain(answer);
        right.iter().any(|right| plain(right) == answer)
    }

    /// The result and its standard error, of a mean of what this measures of each document: a hit, a loss, or the
    /// log-probability of a text.
    pub(super) fn result(&self, values: &[f64], weights: &[f64]) -> (f64, Option<f64>) {
        let mut mean = Mean::default();
        for &value in values {
            mean.add(value);
        }
        let per_weight = || -values.iter().sum::<f64>() / weights.iter().sum::<f64>().max(1.0);
        match self {
            Self::Accuracy | Self::AccuracyByLength | Self::ExactMatch { .. } => (mean.mean, Some(mean.error())),
            Self::Perplexity => ((-mean.mean).exp(), Some((-mean.mean).exp() * mean.error())),
            Self::WordPerplexity | Self::BytePerplexity => (per_weight().exp(), None),
            Self::BitsPerByte => (per_weight() / std::f64::consts::LN_2, None),
        }
    }
}

/// What is done to an answer before it is measured.
#[derive(Debug, Clone)]
pub(super) enum Filter {
    TakeFirst,
    Regex { pattern: Regex, select: i64, fallback: String },
    RemoveWhitespace,
    Lowercase,
    Uppercase,
}

impl Filter {
    /// A named chain of filters.
    pub(super) fn read_chain(entry: &Value) -> Result<(String, Vec<Self>), String> {
        let name = entry.get("name").and_then(Value::as_str).ok_or("has a filter without a name")?;
        let steps = entry.get("filter").and_then(Value::as_array).ok_or("has a filter without steps")?;
        Ok((name.to_owned(), steps.iter().map(Self::read).collect::<Result<_, _>>()?))
    }

    fn read(step: &Value) -> Result<Self, String> {
        let text = |key: &str| step.get(key).and_then(Value::as_str);
        match text("function").ok_or("has a step of a filter without `function`")? {
            "take_first" => Ok(Self::TakeFirst),
            "remove_whitespace" => Ok(Self::RemoveWhitespace),
            "lowercase" => Ok(Self::Lowercase),
            "uppercase" => Ok(Self::Uppercase),
            "regex" => {
                let pattern = text("regex_pattern").unwrap_or(r"#### (\-?[0-9\.\,]+)");
                let select = step.get("group_select").and_then(Value::as_i64).unwrap_or(0);
                let fallback = text("fallback").unwrap_or("[invalid]").to_owned();
                let pattern = Regex::new(pattern).map_err(|error| format!("has the pattern `{pattern}`: {error}"))?;
                Ok(Self::Regex { pattern, select, fallback })
            }
            other => Err(format!("has the filter `{other}`, which is not supported")),
        }
    }

    pub(super) fn apply(&self, answer: String) -> String {
        match self {
            Self::TakeFirst => answer,
            Self::RemoveWhitespace => answer.trim_start().to_owned(),
            Self::Lowercase => answer.to_lowercase(),
            Self::Uppercase => answer.to_uppercase(),
            Self::Regex { pattern, select, fallback } => {
                let found: Vec<_> = pattern.captures_iter(&answer).collect();
                let place = if *select < 0 { found.len() as i64 + select } else { *select };
                let chosen = usize::try_from(place).ok().and_then(|place| found.get(place));
                let part = chosen.and_then(|found| {
                    // The first group that took part, or all if there are none.
                    found.iter().skip(1).flatten().next().or_else(|| found.get(0))
                });
                part.map_or_else(|| fallback.clone(), |part| part.as_str().trim().to_owned())
            }
        }
    }
}
