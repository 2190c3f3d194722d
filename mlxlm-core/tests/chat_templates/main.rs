//! Chat templates against what Python's transformers renders: single constructs, and templates with those of the
//! well-known families. `fixtures/chat_templates/record.py` writes the expected texts.
#![cfg(feature = "text")]
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod constructs;
mod hostile;
mod properties;

use std::path::{Path, PathBuf};

use mlxlm_core::text::{ChatTemplate, TemplateOptions, TextError};
use serde::Deserialize;
use serde_json::{Map, Value, json};

#[derive(Deserialize)]
struct Cases {
    variables: Map<String, Value>,
    snippets: Vec<Snippet>,
    conversations: Map<String, Value>,
    tools: Map<String, Value>,
    chats: Vec<Chat>,
}

#[derive(Deserialize)]
struct Snippet {
    template: String,
}

#[derive(Deserialize)]
struct Chat {
    template: String,
    conversation: String,
    options: Map<String, Value>,
}

#[derive(Deserialize)]
struct Expected {
    snippets: Vec<Outcome>,
    chats: Vec<Outcome>,
}

#[derive(Debug, Deserialize)]
struct Outcome {
    text: Option<String>,
    error: Option<String>,
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/chat_templates")
}

fn load() -> (Cases, Expected) {
    let read = |name| mlxlm_core::io::read_to_string(fixtures().join(name)).unwrap();
    (serde_json::from_str(&read("cases.json")).unwrap(), serde_json::from_str(&read("expected.json")).unwrap())
}

/// Where ours differs from Python's, one line each.
fn differences(got: &Result<String, TextError>, expected: &Outcome) -> Option<String> {
    match (got, &expected.text) {
        (Ok(got), Some(text)) if got == text => None,
        (Err(_), None) if expected.error.is_some() => None,
        _ => Some(format!("got      {got:?}\n    expected {expected:?}")),
    }
}

fn report(differences: &[String]) {
    assert!(differences.is_empty(), "{} differences:\n{}", differences.len(), differences.join("\n"));
}

#[test]
fn constructs_render_as_in_jinja2() {
    let (cases, expected) = load();
    assert_eq!(cases.snippets.len(), expected.snippets.len());
    let message = json!({"role": "user", "content": ""});
    let mut found = Vec::new();
    for (case, expected) in cases.snippets.iter().zip(&expected.snippets) {
        let options = TemplateOptions { kwargs: cases.variables.clone(), ..TemplateOptions::default() };
        let got = ChatTemplate::new(&case.template)
            .and_then(|template| template.render(std::slice::from_ref(&message), Map::new(), &options));
        found.extend(differences(&got, expected).map(|d| format!("{}\n    {d}", case.template)));
    }
    report(&found);
}

/// Renders a chat with the tools and the switches that its options name.
fn render_chat(
    source: &str,
    cases: &Cases,
    conversation: &str,
    options: &Map<String, Value>,
) -> Result<String, TextError> {
    let names = json!({"bos_token": "<|bos|>", "eos_token": "<|im_end|>"});
    let mut kwargs = options.clone();
    let mut flag = |name: &str| kwargs.remove(name) == Some(Value::Bool(true));
    let (add_generation_prompt, continue_final_message) =
        (flag("add_generation_prompt"), flag("continue_final_message"));
    let options = TemplateOptions {
        add_generation_prompt,
        continue_final_message,
        tools: kwargs.remove("tools").map(|name| cases.tools[name.as_str().unwrap()].clone()),
        documents: None,
        template: None,
        kwargs,
    };
    let messages = cases.conversations[conversation].as_array().unwrap();
    ChatTemplate::new(source)?.render(messages, names.as_object().unwrap().clone(), &options)
}

#[test]
fn families_render_as_in_transformers() {
    let (cases, expected) = load();
    assert_eq!(cases.chats.len(), expected.chats.len());
    let mut found = Vec::new();
    for (case, expected) in cases.chats.iter().zip(&expected.chats) {
        let source = mlxlm_core::io::read_to_string(fixtures().join("templates").join(&case.template)).unwrap();
        let got = render_chat(&source, &cases, &case.conversation, &case.options);
        let place = format!("{} {} {}", case.template, case.conversation, json!(case.options));
        found.extend(differences(&got, expected).map(|d| format!("{place}\n    {d}")));
    }
    report(&found);
}

#[derive(Deserialize)]
struct Folder {
    /// The day on which it was recorded; templates that print the date are compared on that day only.
    date: String,
    chats: Vec<FolderChat>,
}

#[derive(Deserialize)]
struct FolderChat {
    #[serde(flatten)]
    chat: Chat,
    #[serde(flatten)]
    expected: Outcome,
}

/// Published templates, which are not ours to keep here: `MLXLM_TEMPLATES` names a folder of them with the
/// `expected.json` that `fixtures/chat_templates/record_folder.py` wrote into it.
#[test]
fn templates_of_a_folder_render_as_in_transformers() {
    let Some(folder) = std::env::var_os("MLXLM_TEMPLATES").map(PathBuf::from) else {
        eprintln!("skipped: MLXLM_TEMPLATES names no folder of templates");
        return;
    };
    let (cases, _) = load();
    let recorded = mlxlm_core::io::read_to_string(folder.join("expected.json")).unwrap();
    let recorded: Folder = serde_json::from_str(&recorded).unwrap();
    let hi = json!([{"role": "user", "content": "hi"}]);
    let today = render("{{ strftime_now('%Y-%m-%d') }}", &hi, &TemplateOptions::default()).unwrap();
    let (mut compared, mut refused, mut found) = (0, 0, Vec::new());
    for FolderChat { chat, expected } in &recorded.chats {
        let source = mlxlm_core::io::read_to_string(folder.join(&chat.template)).unwrap();
        if source.contains("strftime_now") && today != recorded.date {
            continue;
        }
        let got = render_chat(&source, &cases, &chat.conversation, &chat.options);
        let place = format!("{} {} {}", chat.template, chat.conversation, json!(chat.options));
        refused += usize::from(expected.error.is_some());
        compared += 1;
        found.extend(differences(&got, expected).map(|d| format!("{place}\n    {d}")));
    }
    eprintln!("{compared} prompts compared, {refused} of them refused by both");
    assert!(compared > 0, "nothing was compared");
    report(&found);
}

fn options(kwargs: &Value) -> TemplateOptions {
    TemplateOptions { kwargs: kwargs.as_object().unwrap().clone(), ..TemplateOptions::default() }
}

fn render(source: &str, messages: &Value, options: &TemplateOptions) -> Result<String, TextError> {
    ChatTemplate::new(source).unwrap().render(messages.as_array().unwrap(), Map::new(), options)
}

#[test]
fn messages_that_cannot_be_rendered_are_refused() {
    let check = |messages: Value, options: &TemplateOptions, expected: &str| {
        let error = render("{{ messages[-1].content }}", &messages, options).unwrap_err();
        assert!(matches!(error, TextError::BadMessages(_)), "{error}");
        assert!(error.to_string().contains(expected), "{error}, expected {expected}");
    };
    let plain = TemplateOptions::default();
    let hi = json!([{"role": "user", "content": "hi"}]);
    check(json!([]), &plain, "no messages");
    check(json!(["hi"]), &plain, "not an object: \"hi\"");
    for name in ["messages", "add_generation_prompt", "chat_template", "tokenize"] {
        check(hi.clone(), &options(&json!({name: true})), &format!("`{name}` cannot be set"));
    }
    check(hi.clone(), &options(&json!({"tools": "x"})), "`tools` is not a list of objects");
    check(hi.clone(), &options(&json!({"documents": [1]})), "`documents` is not a list of objects");

    let both = TemplateOptions { continue_final_message: true, add_generation_prompt: true, ..plain.clone() };
    check(hi, &both, "exclude each other");
    let continued = TemplateOptions { continue_final_message: true, ..plain };
    check(json!([{"role": "assistant", "content": null}]), &continued, "it has no `content`");
    check(json!([{"role": "assistant", "content": [{"type": "image"}]}]), &continued, "it has no text");
    let messages = json!([{"role": "assistant", "content": "x"}]);
    let error = render("{{ messages[0]['role'] }}", &messages, &continued).unwrap_err();
    assert!(error.to_string().contains("does not read `content`"), "{error}");
    let error = render("{{ messages[0].content|length }}", &messages, &continued).unwrap_err();
    assert!(error.to_string().contains("leaves out a part of it"), "{error}");
}

#[test]
fn the_final_message_keeps_its_space_where_the_template_does() {
    let messages = json!([{"role": "assistant", "content": "So "}]);
    let continued = TemplateOptions { continue_final_message: true, ..TemplateOptions::default() };
    assert_eq!(render("<{{ messages[0].content }}>", &messages, &continued).unwrap(), "<So ");
    assert_eq!(render("<{{ messages[0].content|trim }}>", &messages, &continued).unwrap(), "<So");
}

#[test]
fn reasoning_has_all_its_names() {
    let source = "{{ messages[0].reasoning_content }}{{ messages[0].thinking }}{{ messages[0].reasoning }}";
    let messages = json!([{"role": "assistant", "content": "a", "reasoning": "r"}]);
    assert_eq!(render(source, &messages, &TemplateOptions::default()).unwrap(), "rrr");
    // In the order in which transformers puts them.
    for (message, expected) in [
        (json!({"role": "x", "reasoning": "r"}), "thinking role reasoning reasoning_content"),
        (json!({"role": "x", "thinking": "r", "a": 1}), "thinking role a reasoning_content"),
        (json!({"role": "x", "reasoning_content": "r", "a": null}), "thinking role reasoning_content"),
    ] {
        let keys = render("{{ messages[0]|join(' ') }}", &json!([message]), &TemplateOptions::default()).unwrap();
        assert_eq!(keys, expected);
    }
}

#[test]
fn today_is_known() {
    let messages = json!([{"role": "user", "content": ""}]);
    let year = render("{{ strftime_now('%Y') }}", &messages, &TemplateOptions::default()).unwrap();
    assert!(year.parse::<u32>().unwrap() >= 2024, "{year}");
}
