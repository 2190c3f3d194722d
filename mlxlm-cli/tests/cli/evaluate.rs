//! `evaluate`.

use std::path::Path;

use mlxlm_core::io;
use serde_json::Value;

use crate::bench::Bench;

/// A bench with the tasks of the tests of mlxlm-train.
fn tasks() -> Bench {
    let bench = Bench::empty();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../mlxlm-train/tests/evaluate");
    for name in ["choice.yaml", "sums.yaml", "capitals.jsonl", "sums.jsonl"] {
        io::copy(folder.join(name), bench.path(name)).unwrap();
    }
    bench
}

#[test]
fn tasks_are_answered_and_measured() {
    let bench = tasks();
    let args = ["evaluate", "--model", "demo", "--tasks", "choice.yaml", "sums.yaml", "--no-apply-chat-template"];
    let shown = bench.run(&[&args[..], &["--output-dir", "out", "--log-samples"]].concat()).ok();
    assert!(
        shown.starts_with(
            "capitals_choice: 8 questions, 2 examples before each\n  acc: 0.6250 ± 0.1830, higher is better\n"
        ),
        "{shown}"
    );
    assert!(shown.ends_with("\nResults: out/eval_demo_capitals_choice_sums.json\n"), "{shown}");
    let report: Value = io::read_json(bench.path("out/eval_demo_capitals_choice_sums.json")).unwrap();
    assert_eq!(report["results"]["capitals_choice"]["acc_norm,none"], 0.75);
    assert_eq!(report["results"]["sums"]["exact_match,number"], 0.0);
    assert_eq!(report["n-samples"]["sums"], 6);
    let samples = io::read_to_string(bench.path("out/eval_demo_capitals_choice_samples.jsonl")).unwrap();
    assert_eq!(samples.lines().count(), 8);
    let few = ["--limit", "2", "--num-shots", "0", "--batch-size", "1"];
    let shown = bench.run(&[&args[..], &few].concat()).ok();
    assert!(shown.starts_with("capitals_choice: 2 questions, 0 examples before each\n"), "{shown}");
    assert!(bench.path("eval_demo_00_capitals_choice_sums.json").is_file());
}

#[test]
fn what_cannot_be_evaluated_is_said() {
    let bench = tasks();
    let refusal = |args: &[&str]| {
        let ran = bench.run(&[&["evaluate", "--model", "demo"], args].concat());
        let code = ran.code.unwrap();
        ran.refused(code).0.to_owned()
    };
    assert!(refusal(&["--tasks", "absent.yaml"]).contains("absent.yaml"));
    assert!(refusal(&["--tasks", "choice.yaml", "--confirm-run-unsafe-code"]).contains("no code is run"));
    assert!(refusal(&["--tasks", "choice.yaml", "--chat-template-args", "3"]).contains("not a JSON object"));
    std::fs::remove_file(bench.path("capitals.jsonl")).unwrap();
    assert!(refusal(&["--tasks", "choice.yaml"]).contains("capitals.jsonl"));
}
