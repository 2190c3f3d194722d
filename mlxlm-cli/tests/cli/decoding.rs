//! Who proposes tokens, what the answer must be, and many prompts at once.

use std::fs;

use serde_json::{Value, json};

use crate::bench::{Bench, Ran};

#[track_caller]
fn fails(ran: &Ran, expected: &str) {
    assert!(ran.code.is_some_and(|code| code > 0) && ran.stderr.contains(expected), "{ran:?}");
}

const TEXT: &str = "hello there";

/// Whoever proposes, the text is the same.
#[test]
fn the_text_does_not_depend_on_who_proposes() {
    let bench = Bench::new();
    let plain = bench.text(&["--prompt", TEXT, "-m", "40"]);
    let drawn =
        |extra: &[&str]| bench.text(&[&["--prompt", TEXT, "-m", "40", "--temp", "0.8", "--seed", "3"], extra].concat());
    let expected = drawn(&[]);
    for extra in [
        &["--prompt-lookup-num-tokens", "5"][..],
        &["--auto-speculative"],
        &["--draft-model", "tiny", "--num-draft-tokens", "4"],
        &["--auto-speculative", "--draft-model", "tiny"],
    ] {
        assert_eq!(bench.text(&[&["--prompt", TEXT, "-m", "40"], extra].concat()), plain, "{extra:?}");
        assert_eq!(drawn(extra), expected, "{extra:?}");
    }
    let both = bench.run(&["generate", "--model", "tiny", "--draft-model", "tiny", "--prompt-lookup-num-tokens", "5"]);
    fails(&both, "`--draft-model` and `--prompt-lookup-num-tokens` both propose tokens");
}

#[test]
fn an_answer_is_what_a_grammar_allows() {
    let bench = Bench::new();
    let schema = bench.path("schema.json");
    let object = json!({
        "type": "object", "additionalProperties": false, "required": ["ok", "n"],
        "properties": {"ok": {"type": "boolean"}, "n": {"type": "integer", "minimum": 1, "maximum": 9}},
    });
    fs::write(&schema, object.to_string()).unwrap();
    for extra in [&[][..], &["--prompt-lookup-num-tokens", "4"]] {
        let text = bench.text(&[&["--json-schema", schema.to_str().unwrap(), "-m", "60"], extra].concat());
        let answer: Value = serde_json::from_str(&text).unwrap();
        assert!(answer["ok"].is_boolean() && (1..=9).contains(&answer["n"].as_i64().unwrap()), "{answer}");
    }
    let text = bench.text(&["--choice", "no", "--choice", "yes"]);
    assert!(["yes\n", "no\n"].contains(&text.as_str()), "{text:?}");
    let text = bench.text(&["--regex", "[0-9]{3}-[ab]{2}"]);
    assert!(text.len() == 7 && text.as_bytes()[3] == b'-', "{text:?}");
    fails(&bench.run(&["generate", "--model", "tiny", "--regex", "a("]), "regular expression");
}

#[test]
fn a_long_prompt_can_keep_what_its_end_looks_at() {
    let bench = Bench::new();
    let long = "hello there ".repeat(40);
    let whole = bench.text(&["--prompt", &long, "-m", "8"]);
    assert_eq!(bench.text(&["--prompt", &long, "-m", "8", "--snapkv"]), whole, "shorter than 49152 tokens");
    let few = ["--snapkv-min-tokens", "10", "--snapkv-top-k", "20", "--snapkv-sink", "4", "--snapkv-window", "8"];
    let text = bench.text(&[&["--prompt", &long, "-m", "8", "--snapkv"], &few[..]].concat());
    assert!(!text.is_empty());
    fails(&bench.run(&["generate", "--model", "tiny", "--snapkv-top-k", "20"]), "--snapkv");
}

/// Each prompt gets the answer that it would get alone, and what is answered is not made again.
#[test]
fn many_prompts_are_answered_into_a_file() {
    let bench = Bench::new();
    let (prompts, output) = (bench.path("prompts.jsonl"), bench.path("answers.jsonl"));
    let lines = [
        json!("hello"),
        json!({"id": "second", "prompt": TEXT}),
        json!({"messages": [{"role": "user", "content": "one two three"}]}),
        json!({"id": 7, "prompt": "there"}),
    ];
    fs::write(&prompts, lines.map(|line| line.to_string() + "\n\n").concat()).unwrap();
    let run = || {
        let (prompts, output) = (prompts.to_str().unwrap(), output.to_str().unwrap());
        bench.run(&[
            "generate",
            "--model",
            "tiny",
            "--prompts",
            prompts,
            "--output",
            output,
            "-m",
            "9",
            "--batch-size",
            "2",
        ])
    };
    let shown = run().ok();
    assert!(shown.starts_with("4 answers, "), "{shown}");
    let answers = || -> Vec<Value> {
        fs::read_to_string(&output).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let first = answers();
    assert_eq!(first.len(), 4);
    for (id, text) in [(json!(0), "hello"), (json!("second"), TEXT), (json!(2), "one two three"), (json!(7), "there")] {
        let answer = first.iter().find(|answer| answer["id"] == id).unwrap();
        assert_eq!(answer["text"].as_str().unwrap().to_owned() + "\n", bench.text(&["--prompt", text, "-m", "9"]));
    }

    // Killed in the middle of a line: what is whole stays, the rest is made again.
    let whole = fs::read_to_string(&output).unwrap();
    let second_line = whole.find('\n').unwrap() + 1;
    fs::write(&output, &whole[..second_line + 10]).unwrap();
    let again = run();
    assert!(
        again.stdout.starts_with("3 answers, ") && again.stderr.contains("1 of 4 prompts are answered"),
        "{again:?}"
    );
    assert_eq!(answers().len(), 4);
    assert!(whole.starts_with(&fs::read_to_string(&output).unwrap()[..second_line]));
    assert!(run().stdout.starts_with("0 answers, "));
}

#[test]
fn bad_files_of_prompts_are_refused_with_the_line() {
    let bench = Bench::new();
    let (prompts, output) = (bench.path("prompts.jsonl"), bench.path("answers.jsonl"));
    let check = |content: &str, expected: &str| {
        fs::write(&prompts, content).unwrap();
        let (prompts, output) = (prompts.to_str().unwrap(), output.to_str().unwrap());
        fails(&bench.run(&["generate", "--model", "tiny", "--prompts", prompts, "--output", output]), expected);
    };
    check("\"a\"\n{\"prompt\": \n", "line 2: not JSON");
    check("\"a\"\n\n[1]\n", "line 3: expected a string or an object");
    check("{\"text\": \"a\"}\n", "line 1: expected either a `prompt`, a string, or `messages`, a list");
    check("{\"prompt\": \"a\", \"temperature\": 1}\n", "line 1: unknown field `temperature`");
    check("{\"id\": 1, \"prompt\": \"a\"}\n{\"id\": 1, \"prompt\": \"b\"}\n", "line 2: the id 1 was there before");
    check("\n", "has no prompts");
    fs::write(&output, "{\"answer\": 42}\n").unwrap();
    check("\"a\"\n", "line 1: not an answer of this command");
}
