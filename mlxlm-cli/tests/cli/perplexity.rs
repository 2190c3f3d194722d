//! `perplexity`: the numbers of Python mlx-lm, differences between models, and bad input.

use serde_json::Value;

use crate::bench::Bench;

/// The texts of which the numbers below are.
fn write_texts(bench: &Bench) {
    let (names, things, colours) =
        (["Ann", "Ben", "Cora", "Dan", "Eve"], ["cat", "dog", "ball", "boat"], ["red", "blue", "green"]);
    let row = |i: usize| {
        let (a, b, c) = (names[i % 5], things[i % 4], colours[i % 3]);
        let text =
            format!("Once upon a time {a} had a {c} {b}. The {b} was in the garden, and {a} looked for it all day.");
        format!("{}\n", serde_json::json!({"text": text}))
    };
    mlxlm_core::io::write(bench.path("rows.jsonl"), (0..30).map(row).collect::<String>()).unwrap();
}

fn report(bench: &Bench, options: &[&str]) -> Value {
    let args = ["perplexity", "--data-path", "rows.jsonl", "--sequence-length", "32", "--json"];
    serde_json::from_str(&bench.run(&[&args[..], options].concat()).ok()).unwrap()
}

fn near(found: &Value, expected: f64) -> bool {
    (found.as_f64().unwrap() / expected - 1.0).abs() < 1e-3
}

/// `eval_ppl` of Python mlx-lm 0.32.2 on the same texts in the order that `numpy.random.seed(123)` gives.
#[test]
fn the_numbers_are_those_of_the_reference() {
    let bench = Bench::empty();
    write_texts(&bench);
    for (samples, tokens, perplexity, error) in
        [("-1", 26 * 31, 752.171_160_676_997, 146.057_281_859), ("8", 8 * 31, 688.806_089_003, 244.639_498_553)]
    {
        let report = report(&bench, &["--model", "demo", "--num-samples", samples]);
        assert_eq!(report["tokens"], tokens);
        assert!(near(&report["perplexity"], perplexity), "{report}");
        assert!(near(&report["perplexity_stderr"], error), "{report}");
    }
    // More tokens than have their logits at once.
    let report = report(&bench, &["--model", "demo", "--num-samples", "-1", "--batch-size", "26"]);
    assert!(near(&report["perplexity"], 752.171_160_676_997), "{report}");
}

#[test]
fn a_model_is_compared_with_another() {
    let bench = Bench::new();
    write_texts(&bench);
    bench.run(&["convert", "--model", "demo", "--mlx-path", "plain", "-d"]).ok();
    bench.run(&["convert", "--model", "plain", "--mlx-path", "packed", "-q", "--q-bits", "3"]).ok();
    let same = report(&bench, &["--model", "demo", "--against", "demo"]);
    assert_eq!(same["against"]["same_top_1"], 1.0);
    assert!(same["against"]["kl_divergence"].as_f64().unwrap() < 1e-6, "{same}");
    let packed = report(&bench, &["--model", "packed", "--against", "demo"]);
    let against = &packed["against"];
    assert!(against["kl_divergence"].as_f64().unwrap() > 1e-4, "{packed}");
    assert!(against["kl_divergence_stderr"].as_f64().unwrap() > 0.0, "{packed}");
    let top = against["same_top_1"].as_f64().unwrap();
    assert!((0.5..1.0).contains(&top), "{packed}");
    assert_eq!(against["tokens"], packed["tokens"]);
    assert!(near(&against["perplexity"], 752.171_160_676_997), "{packed}");
    assert_eq!(against["tokens"], 26 * 31);
    let shown = bench.run(&[
        "perplexity",
        "--model",
        "demo",
        "--against",
        "packed",
        "--data-path",
        "rows.jsonl",
        "--sequence-length",
        "32",
    ]);
    let shown = shown.ok();
    assert!(
        shown.contains("\nPerplexity: 752.")
            && shown.contains("\nAgainst packed (perplexity ")
            && shown.contains("\n  KL divergence: "),
        "{shown}"
    );
    let ran = bench.run(&[
        "perplexity",
        "--model",
        "demo",
        "--against",
        "tiny",
        "--data-path",
        "rows.jsonl",
        "--sequence-length",
        "32",
    ]);
    assert!(ran.refused(1).0.starts_with("the models have vocabularies of "), "{ran:?}");
}

#[test]
fn texts_that_cannot_be_used_are_named() {
    let bench = Bench::empty();
    let refusal = |text: &str, options: &[&str]| {
        mlxlm_core::io::write(bench.path("rows.jsonl"), text).unwrap();
        let args = ["perplexity", "--model", "demo", "--data-path", "rows.jsonl"];
        let ran = bench.run(&[&args[..], options].concat());
        let code = ran.code.unwrap();
        ran.refused(code).0.to_owned()
    };
    assert!(refusal("{\"text\": \"a b\"}\n", &[]).contains("fewer than one sequence of 512"));
    assert!(refusal("{\"text\": \"a b\"\n", &[]).contains("`rows.jsonl` line 1, column"));
    assert!(refusal("{\"txt\": \"a b\"}\n", &[]).contains("`rows.jsonl` line 1: it has the fields `txt`"));
    assert!(refusal("{\"text\": \"a b\"}\n", &["--split", "test"]).contains("no rows in the split `test`"));
    assert!(refusal("{\"text\": \"a b\"}\n", &["--num-samples", "0"]).contains("`--num-samples` is 0"));
    let ran = bench.run(&["perplexity", "--model", "demo", "--data-path", "org/absent"]);
    assert!(ran.refused(1).0.contains("org/absent"), "{ran:?}");
}
