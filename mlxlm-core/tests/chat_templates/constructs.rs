//! Small constructs of every kind against Jinja2. `fixtures/templates/record.py` makes them and records the texts.

use std::path::Path;

use mlxlm_core::text::{ChatTemplate, TemplateOptions, TextError};
use serde::Deserialize;
use serde_json::{Map, Value, json};

#[derive(Deserialize)]
struct Recorded {
    context: Map<String, Value>,
    constructs: Vec<(String, Option<String>)>,
}

/// What a construct may be refused with although Jinja2 renders it: never another text.
const REFUSALS: [&str; 9] = [
    "not supported",
    "has no text of its own",
    "must not depend on chance",
    "cannot be compared here",
    "Python's own affair",
    // Jinja2 reads these three as an undefined value, an item of a list, or nothing.
    "slice indices must be integers",
    "`truncate` takes a string",
    "Missing end of raw directive",
    "integers of more than 38 digits",
];

/// The most of them that may be refused, of more than four thousand.
const MAX_REFUSED: usize = 40;

#[test]
fn constructs_of_every_kind_render_as_in_jinja2_or_are_refused() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/templates/constructs.json");
    let recorded: Recorded = serde_json::from_str(&mlxlm_core::io::read_to_string(path).unwrap()).unwrap();
    let mut context = recorded.context;
    let messages = context.remove("messages").unwrap();
    let options = TemplateOptions { kwargs: context, ..TemplateOptions::default() };
    let (mut refused, mut wrong) = (0, Vec::new());
    for (template, expected) in &recorded.constructs {
        let got = render(template, messages.as_array().unwrap(), &options);
        match (&got, expected) {
            (Ok(got), Some(expected)) if got == expected => {}
            (Err(_), None) => {}
            (Err(error), Some(_)) if REFUSALS.iter().any(|reason| error.to_string().contains(reason)) => refused += 1,
            _ => wrong.push(format!("{template}\n    got      {got:?}\n    expected {expected:?}")),
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), recorded.constructs.len(), wrong.join("\n"));
    assert!(refused <= MAX_REFUSED, "{refused} are refused");
}

fn render(template: &str, messages: &[Value], options: &TemplateOptions) -> Result<String, TextError> {
    ChatTemplate::new(template)?.render(messages, Map::new(), options)
}

#[test]
fn an_error_names_the_line() {
    let render = |template: &str| render(template, &[json!({"role": "user"})], &TemplateOptions::default());
    for (template, expected) in [
        ("a\n{{ 1 +\n none }}", "failed at line 2"),
        ("a\n\n{% if %}", "does not parse at line 3"),
        ("{{ 1 }}\n{{ 1|nofilter }}", "does not parse at line 2: No filter named 'nofilter'."),
        ("{# \n #}\n{{ 'a\n' }}\n{{ missing.x }}", "failed at line 5: 'missing' is undefined"),
        ("\n{{ 2 ** 200 }}", "failed at line 2: integers of more than 38 digits"),
    ] {
        let error = render(template).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}, expected {expected}");
    }
}
