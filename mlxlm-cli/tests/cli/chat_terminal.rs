//! `chat` at a terminal.

use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::bench::Bench;
use crate::pty::Terminal;
use crate::tiny;

/// A chat with the tiny model, which never runs out of positions.
fn chat(bench: &Bench, options: &[&str], columns: u16) -> Terminal {
    tiny::configure(&bench.path("tiny"), json!({"max_position_embeddings": 1_000_000}));
    let mut command = bench.command();
    command.args(["chat", "--model", "tiny"]).args(options).env("NO_COLOR", "1");
    Terminal::run(&mut command, columns, None)
}

const PROMPT: &str = "› ";
/// A part of the line below each answer.
const FOOTER: &str = "first after";

/// What was said, as `/save` writes it.
fn said(bench: &Bench, terminal: &mut Terminal) -> Vec<String> {
    terminal.send("/save said.json\r");
    terminal.expect("the conversation is in");
    let messages: Value = mlxlm_core::io::read_json(bench.path("said.json")).unwrap();
    let users = messages.as_array().unwrap().iter().filter(|message| message["role"] == "user");
    users.map(|message| message["content"].as_str().unwrap().to_owned()).collect()
}

fn quit(mut terminal: Terminal) {
    terminal.send("/quit\r");
    let (code, shown) = terminal.end();
    assert_eq!(code, Some(0), "{shown}");
    assert!(shown.trim_end().ends_with("bye"), "{shown}");
}

#[test]
fn lines_pasted_at_once_are_answered_in_turn() {
    let bench = Bench::new();
    let mut terminal = chat(&bench, &["-m", "5"], 80);
    terminal.expect(PROMPT);
    terminal.send("one\rtwo\rthree\r");
    for _ in 0..3 {
        terminal.expect(FOOTER);
    }
    assert_eq!(said(&bench, &mut terminal), ["one", "two", "three"]);
    quit(terminal);
}

#[test]
fn lines_typed_while_an_answer_runs_are_kept_and_not_shown_in_it() {
    let bench = Bench::new();
    let mut terminal = chat(&bench, &["-m", "20000"], 80);
    terminal.expect(PROMPT);
    terminal.send("one\r");
    terminal.expect("\n");
    std::thread::sleep(Duration::from_millis(200));
    terminal.send("second\rthird\rfou");
    terminal.send("\x03");
    let first = terminal.expect(FOOTER);
    assert!(!first.contains("second") && !first.contains("third"), "{first}");
    // Each is stopped, as the answers are long.
    for line in ["second", "third"] {
        terminal.expect(line);
        terminal.expect("\n");
        std::thread::sleep(Duration::from_millis(300));
        terminal.send("\x03");
        terminal.expect(FOOTER);
    }
    terminal.expect("fou");
    terminal.send("rth\r");
    terminal.expect("\n");
    std::thread::sleep(Duration::from_millis(300));
    terminal.send("\x03");
    terminal.expect(FOOTER);
    assert_eq!(said(&bench, &mut terminal), ["one", "second", "third", "fourth"]);
    quit(terminal);
}

#[test]
fn ctrl_c_stops_the_reading_of_a_prompt() {
    let bench = Bench::new();
    let long = "the quick brown fox jumps over the lazy dog ".repeat(2500);
    let mut terminal = chat(&bench, &["--system-prompt", &long, "-m", "5"], 80);
    terminal.expect(PROMPT);
    terminal.send("hello\r");
    terminal.expect("reading ");
    let begin = Instant::now();
    terminal.send("\x03");
    let progress = terminal.expect("stopped");
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    assert!(progress.contains('/'), "{progress}");
    assert_eq!(said(&bench, &mut terminal), [""; 0], "the question is forgotten");
    quit(terminal);
}

#[test]
fn several_lines_are_one_message() {
    let bench = Bench::new();
    let mut terminal = chat(&bench, &["-m", "3"], 80);
    for keys in ["a\\\rb\r", "\"\"\"c\rd\"\"\"\r", "e\x1b\rf\r", "\x1b[200~g\rh\x1b[201~\r"] {
        terminal.expect(PROMPT);
        terminal.send(keys);
        terminal.expect(FOOTER);
    }
    assert_eq!(said(&bench, &mut terminal), ["a\nb", "c\nd", "e\nf", "g\nh"]);
    quit(terminal);
}

#[test]
fn the_history_is_there_the_next_time_and_for_its_owner_only() {
    let bench = Bench::new();
    let mut terminal = chat(&bench, &["-m", "3"], 80);
    terminal.expect(PROMPT);
    terminal.send("remember this\r");
    terminal.expect(FOOTER);
    quit(terminal);
    let file = bench.path("home/.local/state/mlxlm/chat_history");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let mut terminal = chat(&bench, &["-m", "3"], 80);
    terminal.expect(PROMPT);
    // The last line was `/quit`.
    terminal.send("\x1b[A\x1b[A");
    terminal.expect("remember this");
    terminal.send("\r");
    terminal.expect(FOOTER);
    assert_eq!(said(&bench, &mut terminal), ["remember this"]);
    quit(terminal);
}

#[test]
fn commands_change_the_conversation() {
    let bench = Bench::new();
    let mut terminal = chat(&bench, &["-m", "4"], 80);
    let mut after = |keys: &str, text: &str| {
        terminal.expect(PROMPT);
        terminal.send(keys);
        terminal.expect(text);
    };
    after("/quux\r", "there is no command `/quux`");
    after("/set temp hot\r", "`temp` is `hot`, expected a number");
    after("/set colour 1\r", "there is no setting `colour`");
    after("/set top_p 2\r", "`--top-p` is 2");
    after("/set\r", "`/set` needs a name and a value");
    after("/regen\r", "there is no answer to generate again");
    after("/set max_tokens 2\r", "max_tokens is 2 from now on");
    after("one\r", "2 tokens");
    after("/set max-tokens 1\r", "from now on");
    after("/regen\r", "1 token ");
    after("/system Be brief.\r", "the next answer has this system prompt");
    after("/system\r", "Be brief.");
    after("/save talk.json\r", "the conversation is in talk.json");
    after("/reset\r", "context cleared");
    after("/load talk.json\r", "3 messages of talk.json");
    after("/load absent.json\r", "cannot read `absent.json`");
    after("/help\r", "/system TEXT");
    let messages: Value = mlxlm_core::io::read_json(bench.path("talk.json")).unwrap();
    let roles: Vec<&str> = messages.as_array().unwrap().iter().map(|m| m["role"].as_str().unwrap()).collect();
    assert_eq!(roles, ["system", "user", "assistant"]);
    assert_eq!(said(&bench, &mut terminal), ["one"]);
    quit(terminal);
}

#[test]
fn forty_columns_are_enough() {
    let bench = Bench::new();
    let system = "A long system prompt of more than forty columns, which is cut.";
    let mut terminal = chat(&bench, &["-m", "2", "--system-prompt", system], 40);
    let mut shown = terminal.expect(PROMPT);
    terminal.send("/help\r");
    shown += &terminal.expect(PROMPT);
    terminal.send("hi\r");
    terminal.expect("\n");
    shown += &terminal.expect(PROMPT);
    let lines = shown.split(['\n', '\r']).map(|line| line.split('\x1b').next().unwrap());
    let long: Vec<&str> = lines.filter(|line| line.chars().count() > 40).collect();
    assert_eq!(long, [""; 0], "{shown}");
    assert!(shown.contains("╭─ mlxlm chat ") && shown.contains("…"), "{shown}");
    quit(terminal);
}

#[test]
fn only_answers_go_into_a_file() {
    let bench = Bench::new();
    let answers = File::create(bench.path("answers.txt")).unwrap();
    let mut command = bench.command();
    command.args(["chat", "--model", "tiny", "-m", "4"]);
    let mut terminal = Terminal::run(&mut command, 80, Some(answers));
    terminal.expect("mlxlm chat");
    terminal.expect("›");
    terminal.send("hello\r");
    terminal.expect(FOOTER);
    terminal.send("/quit\r");
    terminal.expect("bye");
    assert_eq!(terminal.end().0, Some(0));
    let expected = bench.text(&["-p", "hello", "-m", "4"]);
    assert_eq!(std::fs::read_to_string(bench.path("answers.txt")).unwrap(), expected);
}

#[test]
fn colours_are_those_of_the_reference_and_can_be_switched_off() {
    let bench = Bench::new();
    for (variable, coloured) in [("UNRELATED", true), ("NO_COLOR", false)] {
        let mut command = bench.command();
        command.args(["chat", "--model", "tiny", "-m", "4"]).env(variable, "1");
        let mut terminal = Terminal::run(&mut command, 80, None);
        let shown = terminal.expect("›");
        assert_eq!(shown.contains("\x1b[34m╭─\x1b[0m") && shown.contains("\x1b[1mtiny\x1b[0m"), coloured, "{shown}");
        assert!(coloured || !shown.contains("\x1b[3"), "{shown}");
        terminal.send("\x04");
        assert_eq!(terminal.end().0, Some(0));
    }
}
