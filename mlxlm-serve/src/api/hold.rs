//! What holds a model to what a request wants: a format of the answer, calls of tools, an end of its thinking.
//!
//! Thinking comes before what is held, and is free itself. A model without marks around its thinking does none that could be recognized, so
//! that a budget for it changes nothing.

use mlxlm_sample::grammar::{GrammarError, GrammarSpec, Matcher, Part};
use serde_json::Value;

use super::conversation::Rendered;
use super::error::{ApiError, Result};
use super::fields::Fields;
use super::wanted::{Wanted, parts, refused};
use crate::engine::{Card, Generate, ThinkingBudget};
use crate::tools::{Format, Held};

/// What a request wants of its answers.
pub(crate) struct Wishes<'a> {
    pub(crate) wanted: Option<Wanted>,
    /// The tools that may be called, in OpenAI's form.
    pub(crate) tools: &'a [Value],
    /// Whether the answer has to begin with a call, whose marker is in the prompt.
    pub(crate) must_call: bool,
    /// Whether an answer may call more than one.
    pub(crate) parallel_calls: bool,
    /// The most tokens of thinking.
    pub(crate) thinking_budget: Option<usize>,
}

/// `thinking_budget`, under the names that it has in other servers.
pub(crate) fn thinking_budget(fields: &mut Fields) -> Result<Option<usize>> {
    let mut budget = None;
    for name in ["thinking_budget", "thinking_token_budget", "thinking_budget_tokens", "reasoning_budget"] {
        let given = fields.count(name, 0..=u64::MAX)?;
        if given.is_some() && budget.is_some() {
            return Err(fields.error(name, "is given under two names"));
        }
        budget = budget.or(given);
    }
    Ok(budget)
}

/// Has the answers held to what is wanted.
pub(crate) fn hold(generate: &mut Generate, wishes: Wishes<'_>, prompt: &mut Rendered, card: &Card) -> Result<()> {
    let mut thinking = Thinking::of(prompt, card);
    if let (Some(0), Thinking::Begun, Some(tokens)) = (wishes.thinking_budget, &thinking, &card.thinking) {
        // Thinking that may not be is over before it begins.
        generate.prompt.extend(tokens.close());
        let end = card.marks.as_ref().map_or("", |marks| &marks.end);
        prompt.text.push_str(end);
        thinking = Thinking::None;
    }
    let budget = wishes.thinking_budget.filter(|_| !wishes.must_call).zip(card.thinking.clone());
    let plan = plan(wishes, card)?;
    let mut then = None;
    if let Some(Plan { exact, loose, path, is_strict }) = plan {
        let compile = |own: &[Part]| {
            let first = thinking.before(own, card);
            let then = if budget.is_some() { Some(matcher(card, own.to_vec())?) } else { None };
            Ok::<_, GrammarError>((matcher(card, first)?, then))
        };
        let compiled = match compile(&exact) {
            Err(error) if !is_strict && !matches!(error, GrammarError::Busy { .. }) => match loose {
                // A schema that grammars do not know is left to the model, if nobody asked for more.
                Some(loose) => compile(&loose),
                None => Err(error),
            },
            compiled => compiled,
        };
        let (first, after) = compiled.map_err(|error| refused(&error, &path))?;
        generate.matcher = Some(first);
        then = after;
    }
    generate.thinking = budget.map(|(most, tokens)| ThinkingBudget {
        tokens,
        most,
        is_begun: matches!(thinking, Thinking::Begun),
        then,
    });
    Ok(())
}

fn matcher(card: &Card, parts: Vec<Part>) -> Result<Matcher, GrammarError> {
    // What stands alone is compiled as what it is, and found again by its name.
    let spec = match <[Part; 1]>::try_from(parts) {
        Ok([Part::Json(schema)]) => GrammarSpec::JsonSchema(schema),
        Ok([Part::Regex(source)]) => GrammarSpec::Regex(source),
        Ok([Part::Lark(source)]) => GrammarSpec::Lark(source),
        Ok([part]) => GrammarSpec::Parts(vec![part]),
        Err(parts) => GrammarSpec::Parts(parts),
    };
    card.grammars.matcher(&spec)
}

/// What answers are held to, after the thinking.
struct Plan {
    exact: Vec<Part>,
    /// The same with arguments that are any objects, where that is enough.
    loose: Option<Vec<Part>>,
    /// The field that is to blame where it cannot be held.
    path: String,
    /// Whether nothing but `exact` will do.
    is_strict: bool,
}

fn plan(wishes: Wishes<'_>, card: &Card) -> Result<Option<Plan>> {
    let Wishes { wanted, tools, must_call, parallel_calls, .. } = wishes;
    let strict = tools.iter().position(|tool| tool["function"]["strict"] == true);
    let is_strict = strict.is_some();
    let markup = |text: &str| card.grammars.markup(text);
    let held = |format| Held::new(format, tools, &markup);
    let held = || card.format.and_then(held).filter(|_| !tools.is_empty());
    let path = strict.map_or_else(|| "tools".to_owned(), |i| format!("tools[{i}].function.strict"));
    let unknown = |path: &str| {
        ApiError::unsupported(path, "is not supported for this model: there is no grammar for its tool call format")
    };
    if must_call {
        // Where the notation is not known, the marker of the call is all that can be done.
        let Some(calls) = held() else {
            return if is_strict { Err(unknown(&path)) } else { Ok(None) };
        };
        let exact = calls.calls(parallel_calls);
        let loose = Some(calls.loose().calls(parallel_calls));
        return Ok(Some(Plan { exact, loose, path, is_strict }));
    }
    // These have markers of their own around all that they write.
    let in_channels = matches!(card.format, Some(Format::Harmony | Format::MuseSpark | Format::KimiK3));
    if let Some(Wanted { spec, path }) = wanted {
        let is_known = card.format == Some(Format::Harmony) && tools.is_empty();
        if in_channels && !is_known {
            return Err(unknown(&path));
        }
        let own = parts(spec);
        if tools.is_empty() {
            return Ok(Some(Plan { exact: own, loose: None, path, is_strict: true }));
        }
        let with = |held: Held<'_>| {
            let start = held.start().map(markup)?;
            Some(vec![Part::Either(vec![own.clone(), [start, held.calls(parallel_calls)].concat()])])
        };
        let exact = held().and_then(with).ok_or_else(|| unknown(&path))?;
        let loose = held().and_then(|held| with(held.loose()));
        return Ok(Some(Plan { exact, loose, path, is_strict }));
    }
    if !is_strict {
        return Ok(None);
    }
    let calls = held().ok_or_else(|| unknown(&path))?;
    // What may stand alone as a call cannot be distinguished from text.
    let start = calls.start().map(markup).filter(|_| card.format != Some(Format::Llama3Json) && !in_channels);
    let start = start.ok_or_else(|| unknown(&path))?;
    let body = calls.calls(parallel_calls);
    let (least, most) = (0, if parallel_calls { None } else { Some(1) });
    let exact = match &start[..] {
        // Text does not spell a token with a meaning of its own.
        [Part::Token(_), ..] => {
            vec![Part::Anything, Part::Times { parts: [start, body, vec![Part::Anything]].concat(), least, most }]
        }
        [Part::Text(text), ..] => vec![
            Part::Times { parts: [vec![Part::Until(text.clone())], start[1..].to_vec(), body].concat(), least, most },
            Part::Times { parts: vec![Part::Without(text.clone())], least: 0, most: Some(1) },
        ],
        _ => return Err(unknown(&path)),
    };
    Ok(Some(Plan { exact, loose: None, path, is_strict: true }))
}

/// How an answer stands to thinking.
enum Thinking {
    /// The prompt ends within it.
    Begun,
    /// The model may begin it.
    Possible,
    /// It has a channel of its own, as in gpt-oss.
    Channels,
    /// There is none, or it is over.
    None,
}

impl Thinking {
    fn of(prompt: &Rendered, card: &Card) -> Self {
        if !prompt.begun.is_empty() {
            return Self::None;
        }
        if card.format == Some(Format::Harmony) {
            return Self::Channels;
        }
        let Some(marks) = &card.marks else { return Self::None };
        if marks.is_opened_by(&prompt.text) {
            Self::Begun
        } else if prompt.text.trim_end().ends_with(&marks.end) {
            Self::None
        } else {
            Self::Possible
        }
    }

    /// An answer with the thinking before it.
    fn before(&self, own: &[Part], card: &Card) -> Vec<Part> {
        if matches!(self, Self::Channels) {
            return in_final_channel(own, card);
        }
        let Some(marks) = card.marks.as_ref().filter(|_| !matches!(self, Self::None)) else { return own.to_vec() };
        let end = card.grammars.markup(&marks.end);
        let mut thought = match &end[..] {
            [Part::Text(text), rest @ ..] => [&[Part::Until(text.clone())], rest].concat(),
            _ => [vec![Part::Anything], end].concat(),
        };
        thought.push(Part::Regex(r"[ \n]{0,4}".into()));
        match self {
            Self::Begun => [thought, own.to_vec()].concat(),
            _ => {
                let thought = [card.grammars.markup(&marks.start), thought, own.to_vec()].concat();
                vec![Part::Either(vec![own.to_vec(), thought])]
            }
        }
    }
}

/// An answer of gpt-oss, which thinks in one channel and answers in another.
fn in_final_channel(own: &[Part], card: &Card) -> Vec<Part> {
    let thought =
        ["<|channel|>analysis<|message|>", "<|end|><|start|>assistant"].map(|text| card.grammars.markup(text));
    let [begin, end] = thought;
    let thought = [begin, vec![Part::Anything], end].concat();
    let answer = card.grammars.markup("<|channel|>final<|message|>");
    let mut parts = vec![Part::Times { parts: thought, least: 0, most: Some(1) }];
    parts.extend(answer);
    parts.extend_from_slice(own);
    parts
}
