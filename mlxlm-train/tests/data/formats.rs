//! What becomes of rows. `expected.json` has the tokens and offsets that Python mlx-lm 0.32.2 makes of the same rows
//! (`create_dataset(rows, tokenizer, …).process(row)`).

use mlxlm_train::data::{DatasetOptions, Example, Keys, Rows, Source};
use serde_json::{Value, json};

use crate::{Bench, examples};

fn expected() -> Value {
    serde_json::from_str(include_str!("expected.json")).unwrap()
}

fn lines(rows: &Value) -> String {
    rows.as_array().unwrap().iter().map(Value::to_string).collect::<Vec<_>>().join("\n")
}

fn check(name: &str, mask_prompt: bool) {
    let case = &expected()[name];
    let bench = Bench::new();
    bench.write("set/train.jsonl", lines(&case["rows"]));
    let options = DatasetOptions { mask_prompt, ..DatasetOptions::new(bench.name("set")) };
    let splits = bench.load(&options).unwrap();
    let theirs: Vec<Example> = case["tokens"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| Example {
            tokens: serde_json::from_value(row[0].clone()).unwrap(),
            start: serde_json::from_value(row[1].clone()).unwrap(),
        })
        .collect();
    assert_eq!(examples(&splits.train), theirs, "{name}");
    assert!(splits.valid.is_empty() && splits.test.is_empty());
}

#[test]
fn tokens_are_those_of_the_reference() {
    for name in ["chat", "completions", "text", "tools"] {
        check(name, false);
    }
    for name in ["chat_masked", "completions_masked", "tools_masked"] {
        check(name, true);
    }
}

#[test]
fn an_array_of_json_and_a_file_alone_are_read() {
    let rows = expected()["completions"]["rows"].clone();
    let bench = Bench::new();
    bench.write("set/train.jsonl", lines(&rows)).write("all.json", serde_json::to_string_pretty(&rows).unwrap());
    bench.write("lines.json", lines(&rows));
    let from = |name: &str| bench.load(&DatasetOptions::new(bench.name(name))).unwrap().train;
    assert_eq!(from("all.json"), from("set"));
    assert_eq!(from("lines.json"), from("set"));
    let test = DatasetOptions { train: false, test: true, ..DatasetOptions::new(bench.name("all.json")) };
    assert_eq!(bench.load(&test).unwrap().test, from("set"));
    let mut source = Source::new(bench.name("all.json"));
    (source.train_split, source.valid_split) = (Some("train[:50%]".into()), Some("train[-1:]".into()));
    let splits = bench.load(&DatasetOptions { sources: vec![source], ..DatasetOptions::default() }).unwrap();
    let Rows::Examples(all) = from("set") else { panic!() };
    assert_eq!((examples(&splits.train), examples(&splits.valid)), (&all[..1], &all[1..]));
}

#[test]
fn parquet_is_read_in_both_usual_compressions() {
    let bench = Bench::new();
    let rows = expected()["chat"]["rows"].clone();
    bench.write("set/train.jsonl", lines(&rows));
    bench.write("a.parquet", include_bytes!("chat.snappy.parquet"));
    bench.write("b.parquet", include_bytes!("chat.zstd.parquet"));
    let from = |name: &str| bench.load(&DatasetOptions::new(bench.name(name))).unwrap().train;
    assert_eq!(from("a.parquet"), from("set"));
    assert_eq!(from("b.parquet"), from("set"));
}

#[test]
fn fields_may_have_other_names() {
    let bench = Bench::new();
    bench.write("a.jsonl", "{\"q\": \"What is red?\", \"a\": \"The cat.\"}\n");
    bench.write("b.jsonl", "{\"prompt\": \"What is red?\", \"completion\": \"The cat.\"}\n");
    let mut source = Source::new(bench.name("a.jsonl"));
    source.keys = Keys { prompt: "q".into(), completion: "a".into(), ..Keys::default() };
    let renamed = DatasetOptions { sources: vec![source], ..DatasetOptions::default() };
    let plain = DatasetOptions::new(bench.name("b.jsonl"));
    assert_eq!(bench.load(&renamed).unwrap(), bench.load(&plain).unwrap());
}

#[test]
fn several_sets_count_as_much_as_they_weigh() {
    let bench = Bench::new();
    let text = |word: &str, count: usize| -> String {
        (0..count).map(|i| format!("{{\"text\": \"{word} number {i}.\"}}")).collect::<Vec<_>>().join("\n")
    };
    bench.write("a/train.jsonl", text("cat", 10)).write("a/valid.jsonl", text("cat", 2));
    bench.write("b/train.jsonl", text("dog", 4));
    let weigh = |name: &str, weight| Source { weight, ..Source::new(bench.name(name)) };
    let sources = vec![weigh("a", 0.5), weigh("b", 2.25)];
    let splits = bench.load(&DatasetOptions { sources, ..DatasetOptions::default() }).unwrap();
    assert_eq!((splits.train.len(), splits.valid.len()), (5 + 8 + 1, 1));
    let refused = bench.refusal(&DatasetOptions { sources: vec![weigh("a", 0.0)], ..DatasetOptions::default() });
    assert!(refused.contains("has the weight 0"), "{refused}");
}

#[test]
fn preferences_have_one_prompt_and_two_answers() {
    let bench = Bench::new();
    let say = |role: &str, text: &str| json!({"role": role, "content": text});
    let (ask, good, bad) = (say("user", "What is red?"), say("assistant", "The cat."), say("assistant", "No."));
    let rows = [
        json!({"prompt": "What is red?", "chosen": "The cat.", "rejected": "No."}),
        json!({"prompt": [ask], "chosen": [good], "rejected": [bad]}),
        json!({"chosen": [ask, good], "rejected": [ask, bad]}),
    ];
    bench.write("train.jsonl", lines(&json!(rows)));
    let Rows::Preferences(pairs) = bench.load(&DatasetOptions::new(bench.name("train.jsonl"))).unwrap().train else {
        panic!("they are no preferences")
    };
    assert_eq!(pairs.len(), 3);
    assert!(pairs[0] == pairs[1] && pairs[1] == pairs[2]);
    // The same as a masked conversation.
    bench.write("chat.jsonl", lines(&json!([{"messages": [ask, good]}, {"messages": [ask, bad]}])));
    let options = DatasetOptions { mask_prompt: true, ..DatasetOptions::new(bench.name("chat.jsonl")) };
    let chat = bench.load(&options).unwrap().train;
    assert_eq!(examples(&chat), [pairs[0].chosen.clone(), pairs[0].rejected.clone()]);
}
