//! What holds in every format for every answer: it is read back as it was, however the text is cut.

use mlxlm_serve::tools::{Format, Reply};
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Map, Value, json};

use super::Setting;
use super::generate::{MARKUP, PARTS, WORDS, answer, text, tools};
use super::render::{Answer, lead, marks, render};

/// Cuts a text where the numbers say.
fn pieces<'t>(text: &'t str, cuts: &[usize]) -> Vec<&'t str> {
    let mut places: Vec<_> = cuts.iter().map(|cut| text.floor_char_boundary(cut % (text.len() + 1))).collect();
    places.extend([0, text.len()]);
    places.sort_unstable();
    places.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect()
}

fn check(format: Format, answer: &Answer, cuts: &[usize]) -> Result<(), TestCaseError> {
    let mut answer = answer.clone();
    // A schema tells the types of a tool's parameters once, so each call is of a tool of its own.
    for (i, (name, _)) in answer.calls.iter_mut().enumerate() {
        *name = format!("{name}{i}");
    }
    let mut setting = Setting::of(format).tools(&tools(&answer));
    if let Some((start, end)) = marks(format) {
        setting = setting.marks(start, end);
    }
    let text = render(format, &answer);
    let whole = setting.read([text.as_str()]);

    let calls: Vec<_> = whole.calls.iter().map(|call| (call.name.clone(), arguments_of(&call.arguments))).collect();
    prop_assert_eq!(calls, answer.calls.clone(), "calls of {}", text);
    prop_assert!(whole.calls.iter().all(|call| call.is_whole), "broken calls in {}", text);
    prop_assert_eq!(&whole.invalid, &[], "{}", text);
    prop_assert_eq!(&whole.reasoning, answer.reasoning.as_deref().unwrap_or_default().trim(), "reasoning of {}", text);
    prop_assert_eq!(&whole.text, &expected_text(format, &answer), "text of {}", text);

    let ids: std::collections::BTreeSet<_> = whole.calls.iter().map(|call| &call.id).collect();
    prop_assert!(ids.len() == whole.calls.len());

    prop_assert_eq!(&setting.read(pieces(&text, cuts)), &whole, "in pieces: {}", text);
    let characters: Vec<String> = text.chars().map(String::from).collect();
    prop_assert_eq!(&setting.read(characters.iter().map(String::as_str)), &whole, "in characters: {}", text);
    Ok(())
}

fn arguments_of(json: &str) -> Map<String, Value> {
    serde_json::from_str(json).unwrap_or_else(|error| panic!("{error}: {json}"))
}

/// The text that comes out. White space beside markers is not part of it, except between two texts: that before the markers, else
/// that after them.
fn expected_text(format: Format, answer: &Answer) -> String {
    let Answer { reasoning, before, calls, after } = answer;
    let is_wrapped = marks(format).is_none() || format == Format::KimiK3;
    let whole = format!("{before}{after}");
    let before = format!("{before}{}", if calls.is_empty() { "" } else { lead(format) });
    let texts = match calls.is_empty() && !is_wrapped {
        true => vec![whole.as_str()],
        false => vec![before.as_str(), after.as_str()],
    };
    let (mut text, mut gap) = (String::new(), "");
    let last = texts.len() - 1;
    for (i, part) in texts.into_iter().enumerate() {
        let is_first = i == 0 && !is_wrapped && reasoning.is_none();
        let is_last = i == last && !is_wrapped && (last == 0 || !part.trim().is_empty());
        let (words, from_words) = (part.trim(), part.trim_start());
        let (space, rest) = (&part[..part.len() - from_words.len()], &from_words[words.len()..]);
        if words.is_empty() {
            // White space alone is text where no marker is near.
            text += if is_first && is_last { part } else { "" };
            gap = if gap.is_empty() { part } else { gap };
            continue;
        }
        text += match (is_first, text.is_empty()) {
            (true, _) => space,
            (false, true) => "",
            // Messages are paragraphs.
            (false, false) if gap.is_empty() && marks(format).is_none() => "\n\n",
            (false, false) if gap.is_empty() => space,
            (false, false) => gap,
        };
        text += words;
        text += if is_last { rest } else { "" };
        gap = rest;
    }
    text
}

#[test]
fn every_format_reads_what_it_writes() {
    for format in Format::ALL {
        let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
            failure_persistence: None,
            ..ProptestConfig::with_cases(400)
        });
        let cases = (answer(), prop::collection::vec(any::<usize>(), 0..12));
        let result = runner.run(&cases, |(answer, cuts)| check(format, &answer, &cuts));
        result.unwrap_or_else(|error| panic!("{}: {error}", format.name()));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    /// Whatever a model writes, pieces give what the whole gives, and no text outside of markup is lost.
    #[test]
    fn any_text_is_read_alike_in_pieces(
        format in select(&Format::ALL[..]),
        parts in prop::collection::vec(prop_oneof![select(PARTS), select(WORDS), select(MARKUP)], 0..40),
        cuts in prop::collection::vec(any::<usize>(), 0..12),
    ) {
        let text = parts.concat();
        let setting = Setting::of(format).thinking().tools(&json!([{"name": "f"}]));
        for setting in [setting.clone(), setting.cut()] {
            let whole = setting.read([text.as_str()]);
            prop_assert_eq!(&setting.read(pieces(&text, &cuts)), &whole, "{:?}", text);
            for call in whole.calls.iter().filter(|call| call.is_whole) {
                arguments_of(&call.arguments);
            }
        }
    }

    /// Text without a marker comes out as it went in.
    #[test]
    fn plain_text_stays(format in select(&Format::ALL[..]), text in text(WORDS, 30), cuts in prop::collection::vec(any::<usize>(), 0..12)) {
        let setting = Setting::of(format).thinking().tools(&json!([{"name": "f"}]));
        let headed = marks(format).is_none();
        let expected = Reply { text: text.clone(), ..Reply::default() };
        let got = setting.read(pieces(&text, &cuts));
        if headed {
            prop_assert_eq!(got.text.trim(), text.trim());
        } else {
            prop_assert_eq!(got, expected);
        }
    }
}
