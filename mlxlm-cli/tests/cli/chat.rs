//! `chat`, with a script instead of a user.

use std::io::{Read, Write};
use std::process::Stdio;

use crate::bench::{Bench, Ran};
use crate::tiny::turn;

fn chat(bench: &Bench, options: &[&str], script: &str) -> Ran {
    bench.run_with(&[&["chat", "--model", "tiny", "-m", "10"], options].concat(), script.as_bytes())
}

/// What follows a text that is rendered already.
fn continued(bench: &Bench, rendered: &str) -> String {
    let text = bench.text(&["--ignore-chat-template", "-m", "10", "--prompt", rendered]);
    text.strip_suffix('\n').unwrap().to_owned()
}

#[test]
fn answers_are_those_of_generate_and_nothing_else_is_printed() {
    let bench = Bench::new();
    let shown = chat(&bench, &["--system-prompt", "Be brief."], "/help\nhello there\n/system\nq\nunheard\n").ok();
    let rendered = format!("<|im_start|>system\nBe brief.<|im_end|>\n{}", turn("hello there"));
    assert_eq!(shown, continued(&bench, &rendered) + "\n");
}

#[test]
fn keys_and_values_are_quantized_as_in_generate() {
    let bench = Bench::new();
    let answer = |bits: &str| {
        let kv = ["--kv-bits", bits, "--kv-group-size", "32", "--quantized-kv-start", "0"];
        let shown = chat(&bench, &kv, "hello there\n").ok();
        let whole = ["--ignore-chat-template", "-m", "10", "--prompt", &turn("hello there")];
        assert_eq!(shown, bench.text(&[&whole[..], &kv].concat()));
        shown
    };
    assert_ne!(answer("2"), answer("8,6"));
}

#[test]
fn the_whole_conversation_is_remembered() {
    let bench = Bench::new();
    let shown = chat(&bench, &["--system-prompt", "Be brief."], "one\ntwo\nthree\n").ok();
    let mut rendered = "<|im_start|>system\nBe brief.<|im_end|>\n".to_owned();
    let mut expected = String::new();
    for question in ["one", "two", "three"] {
        rendered += &turn(question);
        let answer = continued(&bench, &rendered);
        expected.extend([&answer, "\n"]);
        rendered.extend([&answer, "<|im_end|>\n"]);
    }
    assert_eq!(shown, expected);
}

#[test]
fn a_reset_forgets_all_but_the_system_prompt() {
    let bench = Bench::new();
    let answer = chat(&bench, &["--system-prompt", "Be brief."], "one\n").ok();
    let shown = chat(&bench, &["--system-prompt", "Be brief."], "one\nr\none\n/reset\none\n").ok();
    assert_eq!(shown, answer.repeat(3));
}

#[test]
fn lines_that_belong_together_are_one_message() {
    let bench = Bench::new();
    let shown = chat(&bench, &[], "a\\\nb\nr\n\"\"\"a\nb\"\"\"\n").ok();
    assert_eq!(shown, (continued(&bench, &turn("a\nb")) + "\n").repeat(2));
}

#[test]
fn commands_have_a_short_and_a_long_name() {
    let bench = Bench::new();
    for end in ["q", "/q", "/quit", "/exit"] {
        assert_eq!(chat(&bench, &[], &format!("h\n/h\n/help\n\n{end}\nunheard\n")).ok(), "");
    }
    let ran = chat(&bench, &[], "/quux\n");
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), ""));
    assert!(ran.stderr.starts_with("error: there is no command `/quux`\nhint: "), "{}", ran.stderr);
}

#[test]
fn drawn_answers_repeat_with_the_seed() {
    let bench = Bench::new();
    let drawn = |script: &str, seed: &[&str]| chat(&bench, &[&["--temp", "1"], seed].concat(), script).ok();
    let both = drawn("one\nr\none\n", &[]);
    assert_eq!(both, drawn("one\nr\none\n", &["--seed", "0"]));
    assert_ne!(both, drawn("one\nr\none\n", &["--seed", "5"]));
    let first = drawn("one\n", &[]);
    assert!(both.starts_with(&first) && both != first.repeat(2), "each turn draws anew");
}

#[test]
fn a_bounded_cache_goes_on_where_the_conversation_is_longer() {
    let bench = Bench::new();
    let shown = chat(&bench, &["--max-kv-size", "24", "--prefill-step-size", "7"], "one\ntwo\nthree\nfour\n").ok();
    assert!(shown.lines().count() >= 4, "{shown}");
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
    assert_eq!(complaint.next(), Some("hint: shorten the message, or use `/reset` to start again"));
    assert_eq!(ran.stdout, chat(&bench, &[], "one\n").ok().repeat(2));
}

#[test]
fn bytes_that_are_no_text_do_not_end_the_conversation() {
    let bench = Bench::new();
    let ran = bench.run_with(&["chat", "--model", "tiny", "-m", "10"], b"one\xff\xfe\r\nr\ntwo\nq\n");
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(ran.stderr, "warning: a line of the input is not UTF-8; what is not is replaced by U+FFFD\n");
    assert!(ran.stdout.ends_with(&chat(&bench, &[], "two\n").ok()), "{ran:?}");
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
    let mut stdout = child.stdout.take().unwrap();
    stdin.write_all(b"one\n").unwrap();
    stdout.read_exact(&mut [0; 32]).unwrap();
    let pid = child.id().to_string();
    assert!(std::process::Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    let mut rest = Vec::new();
    let begin = std::time::Instant::now();
    stdin.write_all(b"q\n").unwrap();
    stdout.read_to_end(&mut rest).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(rest.ends_with(b"\n") && begin.elapsed().as_secs() < 20, "20,000 tokens take longer");
}

#[test]
fn a_model_without_a_template_cannot_talk() {
    let bench = Bench::new();
    mlxlm_core::io::write(bench.path("tiny").join("tokenizer_config.json"), "{}").unwrap();
    let ran = chat(&bench, &[], "one\n");
    assert_eq!(ran.refused(1), ("`tiny` has no chat template", "`mlxlm generate` works without one"));
}
