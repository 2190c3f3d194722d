//! Sets that cannot be used: each fault has its file and line, and all are listed before anything is learned.

use mlxlm_core::Hint;
use mlxlm_train::data::{DatasetOptions, Source};

use crate::Bench;

/// What is said of a `train.jsonl`, line by line.
fn check(text: impl AsRef<[u8]>, options: DatasetOptions, expected: &[&str]) {
    let bench = Bench::new();
    bench.write("train.jsonl", text);
    let sources = vec![Source::new(bench.name("train.jsonl"))];
    let said = bench.refusal(&DatasetOptions { sources, ..options });
    let faults: Vec<&str> = said.lines().skip(1).map(|line| line.trim_start_matches("  - ")).collect();
    assert_eq!(faults, expected, "{said}");
}

#[test]
fn broken_json_has_a_line_and_a_column() {
    let text = "{\"text\": \"a b\"}\n\n{\"text\": \"a\" \"b\"}\n[1]\n{\"text\": \n";
    check(
        text,
        DatasetOptions::default(),
        &[
            "`train.jsonl` line 3, column 14: expected `,` or `}`",
            "`train.jsonl` line 4: it is a list, expected a JSON object",
            "`train.jsonl` line 5, column 9: EOF while parsing a value",
        ],
    );
    let bench = Bench::new();
    bench.write("a.json", "[\n {\"text\": \"a\"},\n {\"text\": }\n]");
    let said = bench.refusal(&DatasetOptions::new(bench.name("a.json")));
    assert!(said.ends_with("`a.json` line 3, column 11: expected value"), "{said}");
    bench.write("b.json", "[\n {\"text\": \"a b\"},\n\n 7]");
    let said = bench.refusal(&DatasetOptions::new(bench.name("b.json")));
    assert!(said.ends_with("`b.json` line 4: it is a number, expected a JSON object"), "{said}");
}

#[test]
fn bytes_that_are_no_text_have_a_column() {
    let line = "`train.jsonl` line 2, column 12: it is not UTF-8";
    check(b"{\"text\": \"a b\"}\n{\"text\": \"a\xff\"}\n", DatasetOptions::default(), &[line]);
}

#[test]
fn rows_of_mixed_formats_are_named() {
    check(
        "{\"text\": \"a b\"}\n{\"messages\": [{\"role\": \"user\", \"content\": \"x\"}]}\n{\"words\": 1}\n",
        DatasetOptions::default(),
        &[
            "`train.jsonl` line 2: it is a conversation, and the first row is a text",
            "`train.jsonl` line 3: it has the fields `words`; expected `messages`, or `prompt` and `completion`, or \
             `text`, or `chosen` and `rejected`",
        ],
    );
}

#[test]
fn fields_of_another_kind_are_named() {
    check(
        "{\"messages\": []}\n{\"messages\": [{\"content\": \"x\"}]}\n{\"messages\": \"x\"}\n\
         {\"messages\": [{\"role\": \"user\", \"content\": \"x\"}], \"tools\": 3}\n",
        DatasetOptions::default(),
        &[
            "`train.jsonl` line 1: `messages` is empty",
            "`train.jsonl` line 2: the message 1 of `messages` has no `role`",
            "`train.jsonl` line 3: `messages` is a string, expected a list of messages",
            "`train.jsonl` line 4: `tools` is a number, expected a list",
        ],
    );
    let masked = DatasetOptions { mask_prompt: true, ..DatasetOptions::default() };
    let text = "`train.jsonl` line 1: it is a text, which has no prompt that could be masked";
    check("{\"text\": \"a b\"}\n", masked, &[text]);
}

#[test]
fn rows_that_are_all_too_long_are_refused() {
    let bench = Bench::new();
    let long = "the cat is red and the dog is blue ".repeat(4);
    bench.write("train.jsonl", format!("{{\"text\": \"{long}\"}}\n{{\"text\": \"{long}{long}\"}}\n"));
    let options = |max_len| DatasetOptions { max_len: Some(max_len), ..DatasetOptions::new(bench.name("train.jsonl")) };
    let error = bench.load(&options(8)).unwrap_err();
    assert!(error.to_string().starts_with("all 2 rows of the split `train` have more than 8 tokens"), "{error}");
    assert!(error.hint().unwrap().contains("maximum sequence length"));
    bench.load(&options(60)).unwrap();
}

#[test]
fn an_empty_split_is_refused() {
    let bench = Bench::new();
    bench.write("a/train.jsonl", "\n \n").write("b/test.jsonl", "{\"text\": \"a b\"}\n").write("c/notes.txt", "");
    bench.write("d/train.jsonl", "{\"text\": \"a b\"}\n").write("d/valid.jsonl", "");
    let said = |name: &str| bench.refusal(&DatasetOptions::new(bench.name(name)));
    assert_eq!(said("a"), "`a` has no rows in the split `train`");
    assert_eq!(said("b"), "`b` has no rows in the split `train`; it has `test`");
    assert_eq!(said("c"), "`c` is a folder without data: there is no `train.jsonl`");
    assert_eq!(said("d"), "`d` has no rows in the split `valid`");
    assert_eq!(said("e.jsonl"), "`e.jsonl` does not exist");
    let test = DatasetOptions { train: false, test: true, ..DatasetOptions::new(bench.name("b")) };
    assert_eq!(bench.load(&test).unwrap().test.len(), 1);
}

#[test]
fn texts_and_preferences_do_not_go_together() {
    let bench = Bench::new();
    bench.write("a.jsonl", "{\"text\": \"a b\"}\n");
    bench.write("b.jsonl", "{\"prompt\": \"a\", \"chosen\": \"b\", \"rejected\": \"c\"}\n");
    let sources = ["a.jsonl", "b.jsonl"].map(|name| Source::new(bench.name(name))).to_vec();
    let said = bench.refusal(&DatasetOptions { sources, ..DatasetOptions::default() });
    assert!(said.starts_with("`b.jsonl` has preferences, and the datasets before it have texts"), "{said}");
}

#[test]
fn a_damaged_parquet_file_is_refused() {
    let bench = Bench::new();
    let whole = include_bytes!("chat.snappy.parquet");
    let mut spoiled = whole.to_vec();
    spoiled[40..200].fill(0xab);
    for (i, bytes) in [&whole[..whole.len() - 9], &b"PAR1"[..], &spoiled[..], &[][..]].into_iter().enumerate() {
        let name = format!("{i}.parquet");
        bench.write(&name, bytes);
        let said = bench.refusal(&DatasetOptions::new(bench.name(&name)));
        assert!(said.starts_with(&format!("`{name}` cannot be read: ")), "{said}");
    }
}
