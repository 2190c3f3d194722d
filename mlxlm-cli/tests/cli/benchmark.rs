//! `benchmark`: what it prints, and what it refuses.

use serde_json::{Value, json};

use crate::bench::Bench;

const SHORT: &[&str] = &["benchmark", "--model", "tiny", "-p", "5", "-g", "4", "-n", "2"];

fn json(bench: &Bench, options: &[&str]) -> Value {
    serde_json::from_str(&bench.run(&[SHORT, &["--json"], options].concat()).ok()).unwrap()
}

/// The numbers behind `name=` in a line.
fn figure(line: &str, name: &str) -> f64 {
    let (_, rest) = line.split_once(&format!("{name}=")).unwrap_or_else(|| panic!("no {name} in {line}"));
    rest.split(',').next().unwrap().parse().unwrap()
}

#[test]
fn it_prints_what_the_reference_prints() {
    let shown = Bench::new().run(SHORT).ok();
    let lines: Vec<&str> = shown.lines().collect();
    assert_eq!(lines[..2], ["Running warmup..", "Timing with prompt_tokens=5, generation_tokens=4, batch_size=1."]);
    assert!(lines[2].starts_with("Trial 1:  prompt_tps=") && lines[3].starts_with("Trial 2:  prompt_tps="), "{shown}");
    assert!(lines[4].starts_with("Averages: prompt_tps=") && lines.len() == 5, "{shown}");
    for line in &lines[2..4] {
        assert!(["prompt_tps", "generation_tps", "total_time"].iter().all(|name| figure(line, name) > 0.0), "{line}");
    }
    let mean = f64::midpoint(figure(lines[2], "generation_tps"), figure(lines[3], "generation_tps"));
    assert!((figure(lines[4], "generation_tps") - mean).abs() < 0.01, "{shown}");
}

#[test]
fn json_is_one_object_without_a_tokenizer() {
    let bench = Bench::new();
    std::fs::remove_file(bench.path("tiny/tokenizer.json")).unwrap();
    let one = json(&bench, &[]);
    assert_eq!(one["model_type"], "llama");
    assert_eq!(one["trials"].as_array().unwrap().len(), 2);
    // Two tables of 900 × 64, two layers of 36,864 weights, five norms of 64, in f32.
    assert_eq!(one["weight_bytes"], 4 * (2 * 900 * 64 + 2 * 36_864 + 5 * 64));
    assert!(
        one["ready_s"].as_f64().unwrap() > 0.0 && one["peak_memory_bytes"].as_u64() >= one["weight_bytes"].as_u64()
    );
    #[cfg(target_os = "linux")]
    assert!(one["peak_resident_bytes"].as_u64() > one["weight_bytes"].as_u64());
}

#[test]
fn batches_and_contexts_are_measured_too() {
    let bench = Bench::new();
    for options in [&["-b", "3"][..], &["--context-tokens", "70"], &["-b", "2", "--context-tokens", "70", "-g", "1"]] {
        let measured = json(&bench, options);
        let trial = &measured["trials"][1];
        assert!(trial["prompt_tps"].as_f64().unwrap() > 0.0, "{measured}");
        assert_eq!(trial["generation_tps"].as_f64().unwrap() > 0.0, measured["generation_tokens"] == 4, "{measured}");
    }
    let kv = ["--kv-bits", "8,4", "--quantized-kv-start", "0", "--kv-group-size"];
    assert!(json(&bench, &[&kv[..], &["32"]].concat())["trials"][0]["generation_tps"].as_f64().unwrap() > 0.0);
    let wide = bench.run(&[SHORT, &kv, &["64"]].concat());
    assert!(wide.refused(1).0.contains("cannot be quantized in groups of 64"), "keys and values are quantized");
    let full = bench.run(&[SHORT, &["--context-tokens", "510"]].concat());
    assert!(full.refused(1).0.contains("512"), "a context counts");
}

#[test]
fn what_is_not_supported_is_refused() {
    let bench = Bench::new();
    for (option, says) in [("--pipeline", "runs on one machine"), ("-qa", "not supported")] {
        assert!(bench.run(&[SHORT, &[option]].concat()).refused(2).0.contains(says), "{option}");
    }
    for option in ["--prompt-tokens", "--generation-tokens", "--batch-size", "--num-trials"] {
        assert!(bench.run(&["benchmark", option, "0"]).refused(2).0.contains(option));
    }
    for option in ["--prompt-tokens", "--generation-tokens", "--batch-size", "--context-tokens"] {
        for number in ["2147483648", "18446744073709551615"] {
            let ran = bench.run(&["benchmark", "--model", "tiny", option, number]);
            assert!(ran.refused(2).0.contains(option), "{ran:?}");
        }
    }
}

#[test]
fn what_no_memory_can_hold_is_refused() {
    let bench = Bench::new();
    crate::tiny::configure(&bench.path("tiny"), json!({"max_position_embeddings": null}));
    for options in [
        &["--context-tokens", "2000000000"][..],
        &["-p", "2147483647", "-b", "2147483647"],
        &["-g", "2147483647", "-b", "1000000"],
    ] {
        let ran = bench.run(&[SHORT, options].concat());
        let (message, hint) = ran.refused(1);
        assert!(message.starts_with("the KV cache of ") && message.ends_with(" are free"), "{message}");
        assert!(hint.contains("shorter prompts"), "{hint}");
    }
}
