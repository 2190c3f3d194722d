//! `chat`, with a script instead of a user.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::Stdio;

use crate::bench::{Bench, Ran};
use crate::tiny::turn;

fn chat(bench: &Bench, options: &[&str], script: &str) -> Ran {
    bench.run_with(&[&["chat", "--model", "tiny", "-m", "10"], options].concat(), script.as_bytes())
}

/// The answers: what stands before each line of speeds.
fn answers(shown: &str) -> Vec<String> {
    let (mut answers, mut rest) = (Vec::new(), shown.split_once("h help\n").unwrap().1);
    while let Some((answer, after)) = rest.split_once(" tokens · ") {
        let (answer, _count) = answer.rsplit_once("\n  ").unwrap();
        answers.push(answer.to_owned());
        rest = after.split_once(" GB\n").unwrap().1;
    }
    answers
}

/// What follows a text that is rendered already.
fn continued(bench: &Bench, rendered: &str) -> String {
    let text = bench.text(&["--ignore-chat-template", "-m", "10", "--prompt", rendered]);
    text.strip_suffix('\n').unwrap().to_owned()
}

#[test]
fn the_header_says_who_talks() {
    let bench = Bench::new();
    let system = format!("{} and no longer", "very ".repeat(12));
    let shown = chat(&bench, &["--system-prompt", &system, "-m", "4096"], "q\n").ok();
    insta::assert_snapshot!(shown);
}

#[test]
fn an_answer_is_that_of_generate_and_has_a_footer() {
    let bench = Bench::new();
    let shown = chat(&bench, &[], "hello there\n").ok();
    assert_eq!(answers(&shown), [continued(&bench, &turn("hello there"))]);
    let footer = shown.lines().last().unwrap();
    let words: Vec<&str> = footer.split(' ').filter(|word| word.parse::<f64>().is_err()).collect();
    assert_eq!(words.join(" "), "  tokens · tok/s · prompt tok/s · peak GB", "{footer}");
    assert!(footer.starts_with("  10 tokens · "), "{footer}");
}

#[test]
fn the_whole_conversation_is_remembered() {
    let bench = Bench::new();
    let shown = chat(&bench, &["--system-prompt", "Be brief."], "one\ntwo\nthree\n").ok();
    let given = answers(&shown);
    let mut rendered = "<|im_start|>system\nBe brief.<|im_end|>\n".to_owned();
    for (question, answer) in ["one", "two", "three"].into_iter().zip(&given) {
        rendered += &turn(question);
        assert_eq!(*answer, continued(&bench, &rendered), "{question}");
        rendered.extend([answer, "<|im_end|>\n"]);
    }
    assert_eq!(given.len(), 3);
}

#[test]
fn a_reset_forgets_all_but_the_system_prompt() {
    let bench = Bench::new();
    let shown = chat(&bench, &["--system-prompt", "Be brief."], "one\nr\none\n/reset\none\n").ok();
    assert_eq!(shown.matches("  reset context cleared\n").count(), 2);
    let given = answers(&shown.replace("  reset context cleared\n", ""));
    assert_eq!(given.len(), 3);
    assert!(given.iter().all(|answer| *answer == given[0]), "{given:?}");
}

#[test]
fn commands_have_a_short_and_a_long_name() {
    let bench = Bench::new();
    for end in ["q", "/q", "/quit", "/exit"] {
        let shown = chat(&bench, &[], &format!("h\n/h\n/help\n\n{end}\nunheard\n")).ok();
        assert_eq!(shown.matches("commands    q exit   r reset   h help\n").count(), 4, "{shown}");
        assert!(shown.ends_with("h help\nbye\n"), "{shown}");
    }
}

#[test]
fn drawn_answers_repeat_with_the_seed() {
    let bench = Bench::new();
    let drawn = |seed: &[&str]| answers(&chat(&bench, &[&["--temp", "1"], seed].concat(), "one\nr\none\n").ok());
    let first = drawn(&[]);
    assert_eq!(first, drawn(&["--seed", "0"]));
    assert_ne!(first, drawn(&["--seed", "5"]));
    assert_ne!(first[0], first[1], "each turn draws anew");
}

#[test]
fn a_bounded_cache_goes_on_where_the_conversation_is_longer() {
    let bench = Bench::new();
    let shown = chat(&bench, &["--max-kv-size", "24", "--prefill-step-size", "7"], "one\ntwo\nthree\nfour\n").ok();
    assert_eq!(answers(&shown).len(), 4);
}

#[test]
fn a_turn_that_fails_has_never_been() {
    let bench = Bench::new();
    let long = "word ".repeat(600);
    let ran = chat(&bench, &[], &format!("one\n{long}\nr\none\n"));
    assert_eq!(ran.code, Some(0));
    let mut complaint = ran.stderr.lines();
    let message = complaint.next().unwrap();
    assert!(message.starts_with("error: the prompt has ") && message.ends_with("reads at most 512"), "{message}");
    assert!(complaint.next().unwrap().starts_with("hint: "));
    let given = answers(&ran.stdout.replace("  reset context cleared\n", ""));
    assert!(given.len() == 2 && given[0] == given[1], "{given:?}");
}

/// An interrupt ends an answer that would go on for long; the next question is answered.
#[cfg(unix)]
#[test]
fn ctrl_c_stops_the_answer_and_not_the_program() {
    let bench = Bench::new();
    crate::tiny::configure(&bench.path("tiny"), serde_json::json!({"max_position_embeddings": 1_000_000}));
    let mut command = bench.command();
    command.args(["chat", "--model", "tiny", "-m", "20000"]);
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    stdin.write_all(b"one\n").unwrap();
    let mut line = String::new();
    while !line.contains("h help") {
        line.clear();
        stdout.read_line(&mut line).unwrap();
    }
    stdout.read_exact(&mut [0; 32]).unwrap();
    let pid = child.id().to_string();
    assert!(std::process::Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    stdin.write_all(b"r\nh\nq\n").unwrap();
    let mut rest = Vec::new();
    stdout.read_to_end(&mut rest).unwrap();
    let rest = String::from_utf8_lossy(&rest);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let footer = rest.lines().find(|line| line.contains(" tokens · ")).unwrap();
    let count: usize = footer.trim().split(' ').next().unwrap().parse().unwrap();
    assert!(count < 20_000, "{footer}");
    assert!(rest.ends_with("h help\nbye\n"), "{rest}");
}

#[test]
fn a_model_without_a_template_cannot_talk() {
    let bench = Bench::new();
    mlxlm_core::io::write(bench.path("tiny").join("tokenizer_config.json"), "{}").unwrap();
    let ran = chat(&bench, &[], "one\n");
    assert_eq!(ran.refused(1), ("`tiny` has no chat template", "`mlxlm generate` continues a text without one"));
}
