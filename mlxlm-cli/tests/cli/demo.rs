//! The model that is built in: it talks, its draft model changes nothing, and it answers what it was trained for.

use serde_json::{Value, json};

use crate::bench::Bench;

fn generate(bench: &Bench, prompt: &str, options: &[&str]) -> String {
    let args = ["generate", "--model", "demo", "--verbose", "false", "--prompt", prompt];
    bench.run(&[&args, options].concat()).ok()
}

#[test]
fn eighteen_of_twenty_questions_are_answered_right() {
    let questions: Vec<Value> = serde_json::from_str(include_str!("../demo_questions.json")).unwrap();
    assert_eq!(questions.len(), 20);
    let bench = Bench::empty();
    let wrong = |question: &Value| {
        let (asked, expected) = (question["question"].as_str().unwrap(), question["answer"].as_str().unwrap());
        let config = question.get("tools").map(|tools| json!({"tools": tools}).to_string());
        let options = config.as_deref().map_or(vec![], |config| vec!["--chat-template-config", config]);
        let answer = generate(&bench, asked, &options);
        (!answer.contains(expected)).then(|| format!("{asked}\n{answer}"))
    };
    let wrong: Vec<String> = questions.iter().filter_map(wrong).collect();
    assert!(wrong.len() <= 2, "{} answers are wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn a_story_goes_on_in_sentences() {
    let story = generate(&Bench::empty(), "Once upon a time", &["--ignore-chat-template"]);
    let sentences = story.split_terminator(". ").filter(|sentence| sentence.split(' ').count() > 2);
    assert!(sentences.count() >= 4, "{story}");
}

#[test]
fn the_draft_model_shares_the_tokenizer_and_changes_no_text() {
    let bench = Bench::empty();
    for prompt in ["Once upon a time", "What is 7 + 8?"] {
        let plain = generate(&bench, prompt, &[]);
        assert_eq!(generate(&bench, prompt, &["--draft-model", "demo-draft"]), plain);
    }
}

#[test]
fn it_remembers_a_conversation() {
    let bench = Bench::empty();
    let script = "What is the capital of France?\nWhat is 2 + 2?\nq\n";
    let shown = bench.run_with(&["chat", "--model", "demo"], script.as_bytes()).ok();
    assert!(shown.contains("Paris") && shown.contains('4'), "{shown}");
}

/// Services have no home folder, or none that they may write to.
#[test]
fn it_needs_no_home() {
    let bench = Bench::empty();
    let args = ["generate", "--model", "demo", "--verbose", "false", "-m", "4"];
    let temporary = bench.path("temporary");
    std::fs::create_dir(&temporary).unwrap();
    for _again in 0..2 {
        let mut command = bench.command();
        command.args(args).env("HOME", "/proc/nowhere").env("TMPDIR", &temporary);
        let text = crate::bench::Ran::from(command.output().unwrap()).ok();
        assert_eq!(text, generate(&bench, "hello", &["-m", "4"]));
        assert_eq!(std::fs::read_dir(&temporary).unwrap().count(), 1);
    }
}

#[test]
fn a_folder_of_that_name_wins_and_is_said_to() {
    let bench = Bench::empty();
    crate::tiny::make(&bench.path("demo"), 7);
    let ran = bench.run(&["generate", "--model", "demo", "--verbose", "false", "-m", "4"]);
    assert!(ran.stderr.starts_with("note: using the folder `demo`"), "{ran:?}");
    assert_ne!(ran.stdout, generate(&Bench::empty(), "hello", &["-m", "4"]));
}

#[test]
fn it_is_small() {
    let bench = Bench::empty();
    generate(&bench, "hello", &["-m", "1"]);
    let cache = mlxlm_core::io::read_dir(bench.path("home/.cache/mlxlm")).unwrap();
    let files = cache.iter().flat_map(|folder| mlxlm_core::io::read_dir(folder).unwrap());
    let bytes: u64 = files.map(|file| std::fs::metadata(file).unwrap().len()).sum();
    assert!((1..=8_000_000).contains(&bytes), "{bytes} bytes");
}
