//! `generate`.

use serde_json::json;

use crate::bench::Bench;
use crate::tiny::{self, continuation, turn};

const TEXT: &str = "hello there";

#[test]
fn the_text_is_that_of_the_library() {
    let bench = Bench::new();
    let (_, expected) = continuation(&bench.path("tiny"), &turn(TEXT), 12);
    assert_eq!(bench.text(&["--prompt", TEXT, "-m", "12"]), expected.clone() + "\n");
    assert_eq!(bench.text(&["-p", TEXT, "--max_tokens=12"]), expected + "\n");
}

/// Digits that depend on the machine become `N`.
fn without_numbers(text: &str) -> String {
    let mut words: Vec<String> = Vec::new();
    for word in text.split(' ') {
        words.push(if word.contains('.') && word.trim_end().parse::<f64>().is_ok() { "N".into() } else { word.into() });
    }
    words.join(" ")
}

#[test]
fn verbose_shows_rules_and_speeds() {
    let bench = Bench::new();
    let text = bench.text(&["--prompt", TEXT, "-m", "5"]);
    let shown = bench.run(&["generate", "--model", "tiny", "--prompt", TEXT, "-m", "5"]).ok();
    let expected = format!(
        "==========\n{}\n==========\nPrompt: 18 tokens, N tokens-per-sec\nGeneration: 5 tokens, N tokens-per-sec\n\
         Peak memory: N GB\nLoad: N s, first token after N s\nContext: 23 of 512 tokens\n",
        text.trim_end_matches('\n')
    );
    assert_eq!(without_numbers(&shown), expected);
}

#[test]
fn one_token_has_no_rate_and_drafts_say_whether_they_pay() {
    let bench = Bench::new();
    let shown = bench.run(&["generate", "--model", "tiny", "--prompt", TEXT, "-m", "1"]).ok();
    assert!(shown.contains("\nGeneration: 1 token\n"), "{shown}");
    let shown = bench.run(&["generate", "--model", "tiny", "--prompt", TEXT, "-m", "2"]).ok();
    assert!(shown.contains("\nGeneration: 2 tokens\n"), "{shown}");
    let draft = ["--draft-model", "tiny", "--num-draft-tokens", "2", "--prompt", TEXT, "-m", "9"];
    let shown = bench.run(&[&["generate", "--model", "tiny"], &draft[..]].concat()).ok();
    let drafts = shown.lines().find(|line| line.starts_with("Drafts: ")).expect(&shown);
    assert!(drafts.contains(" of ") && drafts.contains(" accepted ("), "{drafts}");
}

#[test]
fn what_a_small_cache_forgets_is_warned_of() {
    let bench = Bench::new();
    let ran = bench.run(&["generate", "--model", "tiny", "--prompt", TEXT, "-m", "2", "--max-kv-size", "8"]);
    assert_eq!(ran.code, Some(0));
    let expected = "warning: the prompt has 18 tokens and `--max-kv-size` is 8: the start of the prompt is dropped\n";
    assert_eq!(ran.stderr, expected);
}

#[test]
fn keys_that_cannot_be_quantized_are_refused_before_the_first_token() {
    let bench = Bench::new();
    let args = ["generate", "--model", "tiny", "--kv-bits", "8", "--kv-group-size", "64", "--quantized-kv-start", "40"];
    let ran = bench.run(&args);
    assert_ne!(ran.code, Some(0));
    assert!(ran.stderr.contains("64") && ran.stderr.contains("hint: "), "{ran:?}");
    assert!(!ran.stdout.contains(char::is_alphabetic), "no text comes before it: {ran:?}");
}

/// The spinner is wiped out before the text begins.
#[cfg(target_os = "linux")]
#[test]
fn nothing_of_the_spinner_stays_above_the_text() {
    let bench = Bench::new();
    tiny::configure(&bench.path("tiny"), json!({"max_position_embeddings": 1_000_000}));
    let long = "the quick brown fox jumps over the lazy dog ".repeat(400);
    let mut command = bench.command();
    command.args(["generate", "--model", "tiny", "-m", "3", "--prefill-step-size", "64", "--prompt", &long]);
    let (code, shown) = crate::pty::Terminal::run(&mut command, 80, None).end();
    assert_eq!(code, Some(0), "{shown}");
    let (before, _) = shown.split_once("==========").expect(&shown);
    let (_, last) = before.rsplit_once("reading ").expect(before);
    assert!(last.contains("\x1b[2K"), "{last:?}");
}

/// Short names and defaults of the settings.
#[test]
fn settings_name_models_and_defaults() {
    let bench = Bench::new();
    let expected = bench.text(&["-p", TEXT, "-m", "6"]);
    let settings = bench.path("home/.config/mlxlm/config.toml");
    std::fs::create_dir_all(settings.parent().unwrap()).unwrap();
    let text = "[models]\nsmall = \"tiny\"\n[defaults]\nmodel = \"small\"\nverbose = false\nmax-tokens = 6\n";
    std::fs::write(&settings, text).unwrap();
    assert_eq!(bench.run(&["generate", "-p", TEXT]).ok(), expected, "defaults are taken");
    assert_ne!(bench.run(&["generate", "-p", TEXT, "-m", "2"]).ok(), expected, "what is given wins");
    std::fs::write(&settings, "[defaults]\ntemperature = 1\n").unwrap();
    let ran = bench.run(&["generate", "-p", TEXT]);
    let (message, _) = ran.refused(2);
    assert!(message.ends_with("config.toml`: `defaults.temperature`: there is no option `--temperature`"), "{message}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_model_that_memory_has_no_room_for_is_warned_of_or_refused() {
    let bench = Bench::new();
    // A file with a hole takes no room on the disk, and is refused for its content if anybody reads it.
    let file = std::fs::File::create(bench.path("tiny/model.safetensors")).unwrap();
    if file.set_len(1 << 42).is_err() {
        return;
    }
    let ran = bench.run(&["--strict-memory", "generate", "--model", "tiny"]);
    let (message, hint) = ran.refused(1);
    assert!(message.starts_with("`tiny` needs about 4.4 TB of memory") && hint.contains("convert -q"), "{ran:?}");
    let ran = bench.run(&["generate", "--model", "tiny"]);
    assert!(ran.stderr.starts_with("warning: `tiny` needs about 4.4 TB of memory"), "{ran:?}");
    assert!(ran.refused(1).0.contains("safetensors"), "{ran:?}");
}

#[test]
fn no_text_is_said_to_be_none() {
    let bench = Bench::new();
    let (tokens, _) = continuation(&bench.path("tiny"), &turn("hello"), 1);
    let end = tokens[0].to_string();
    let shown = bench.run(&["generate", "--model", "tiny", "--extra-eos-token", &end]).ok();
    assert_eq!(shown, "==========\n\n==========\nNo text generated for this prompt\n");
}

#[test]
fn extra_tokens_end_the_text() {
    let bench = Bench::new();
    let folder = bench.path("tiny");
    let (tokens, _) = continuation(&folder, &turn(TEXT), 6);
    let first = tokens.iter().position(|token| *token == tokens[5]).unwrap();
    let (_, expected) = continuation(&folder, &turn(TEXT), first);
    let end = tokens[5].to_string();
    assert_eq!(bench.text(&["--prompt", TEXT, "--extra-eos-token", "<think>", &end]), expected + "\n");
}

#[test]
fn the_older_name_of_the_option_is_taken() {
    let bench = Bench::new();
    let (tokens, _) = continuation(&bench.path("tiny"), &turn(TEXT), 6);
    let end = tokens[5].to_string();
    let expected = bench.text(&["-p", TEXT, "-m", "6", "--extra-eos-token", &end]);
    assert_eq!(bench.text(&["-p", TEXT, "-m", "6", "--eos-token", &end]), expected);
}

#[test]
fn the_prompt_comes_from_standard_input() {
    let bench = Bench::new();
    let args = ["generate", "--model", "tiny", "--verbose", "f", "-m", "8", "--prompt", "-"];
    assert_eq!(bench.run_with(&args, TEXT.as_bytes()).ok(), bench.text(&["--prompt", TEXT, "-m", "8"]));
}

#[test]
fn escapes_in_the_prompt_are_characters() {
    let bench = Bench::new();
    let typed = bench.text(&["--prompt", r"a\nb\tc", "-m", "8"]);
    assert_eq!(typed, bench.text(&["--prompt", "a\nb\tc", "-m", "8"]));
    assert_ne!(typed, bench.text(&["--prompt", "a b c", "-m", "8"]));
}

#[test]
fn a_seed_makes_the_text_repeatable() {
    let bench = Bench::new();
    let drawn =
        |seed: &str| bench.text(&["--prompt", TEXT, "--temp", "1", "--top-p", "0.95", "--seed", seed, "-m", "16"]);
    assert_eq!(drawn("1"), drawn("1"));
    assert_ne!(drawn("1"), drawn("2"));
}

#[test]
fn every_sampling_option_is_taken() {
    let bench = Bench::new();
    let plain = bench.text(&["--prompt", TEXT, "-m", "16"]);
    let options: [&[&str]; 4] = [
        &["--top-k", "1"],
        &["--top-p", "0.000001"],
        &["--min-p", "1", "--min-tokens-to-keep", "1"],
        &["--xtc-probability", "0", "--xtc-threshold", "0.2", "--top-k", "1"],
    ];
    for filter in options {
        let args = [&["--prompt", TEXT, "-m", "16", "--temp", "1", "--seed", "3"], filter].concat();
        assert_eq!(bench.text(&args), plain, "{filter:?} leaves one token");
    }
}

#[test]
fn the_template_is_filled_or_left_out() {
    let bench = Bench::new();
    let plain = |prompt: &str| bench.text(&["--ignore-chat-template", "--prompt", prompt, "-m", "8"]);
    let system = "<|im_start|>system\nBe brief.<|im_end|>\n";
    let rendered = [
        (turn(TEXT), &["--prompt", TEXT][..]),
        (format!("{system}{}", turn(TEXT)), &["--prompt", TEXT, "--system-prompt", "Be brief."]),
        (format!("{}Well,", turn(TEXT)), &["--prompt", TEXT, "--prefill-response", "Well,"]),
    ];
    for (prompt, options) in rendered {
        assert_eq!(bench.text(&[options, &["-m", "8"]].concat()), plain(&prompt), "{options:?}");
    }
}

#[test]
fn a_prompt_that_brings_its_start_token_gets_no_second() {
    let bench = Bench::new();
    let path = bench.path("tiny/tokenizer.json");
    let mut tokenizer: serde_json::Value = mlxlm_core::io::read_json(&path).unwrap();
    let start = json!({"SpecialToken": {"id": "<|bos|>", "type_id": 0}});
    let text = json!({"Sequence": {"id": "A", "type_id": 0}});
    tokenizer["post_processor"] = json!({"type": "TemplateProcessing", "single": [start, text], "pair": [],
        "special_tokens": {"<|bos|>": {"id": "<|bos|>", "ids": [0], "tokens": ["<|bos|>"]}}});
    mlxlm_core::io::write_json(path, &tokenizer).unwrap();
    let plain = |prompt: &str| {
        let args = ["generate", "--model", "tiny", "--ignore-chat-template", "--prompt", prompt, "-m", "4"];
        bench.run(&args).ok().lines().find(|line| line.starts_with("Prompt: ")).map(without_numbers).unwrap()
    };
    assert_eq!(plain("hello"), "Prompt: 4 tokens, N tokens-per-sec");
    assert_eq!(plain("<|bos|>hello"), plain("hello"));
}

#[test]
fn an_empty_template_counts_as_none() {
    let bench = Bench::new();
    let plain = bench.text(&["--ignore-chat-template", "--prompt", TEXT, "-m", "8"]);
    mlxlm_core::io::write(bench.path("tiny/tokenizer_config.json"), r#"{"chat_template": ""}"#).unwrap();
    let ran = bench.run(&["generate", "--model", "tiny", "--verbose", "false", "--prompt", TEXT, "-m", "8"]);
    assert_eq!((ran.code, ran.stdout), (Some(0), plain));
    assert_eq!(ran.stderr, "warning: the model has no chat template: the prompt is used unchanged\n");
}

#[test]
fn values_reach_the_template() {
    let bench = Bench::new();
    let template = "{{ mood | default('calm') }}: {{ messages[0].content }}";
    mlxlm_core::io::write(bench.path("tiny").join("chat_template.jinja"), template).unwrap();
    let plain = |prompt: &str| bench.text(&["--ignore-chat-template", "--prompt", prompt, "-m", "8"]);
    assert_eq!(bench.text(&["--prompt", TEXT, "-m", "8"]), plain("calm: hello there"));
    let config = ["--chat-template-config", r#"{"mood": "gay"}"#];
    assert_eq!(bench.text(&[&["--prompt", TEXT, "-m", "8"], &config[..]].concat()), plain("gay: hello there"));
}

#[test]
fn small_steps_through_the_prompt_change_nothing() {
    let bench = Bench::new();
    let whole = bench.text(&["--prompt", TEXT, "-m", "8"]);
    assert_eq!(bench.text(&["--prompt", TEXT, "-m", "8", "--prefill-step-size", "3"]), whole);
}

#[test]
fn a_bounded_cache_forgets_and_goes_on() {
    let bench = Bench::new();
    let long = "the quick brown fox jumps over the lazy dog ".repeat(3);
    let bounded = |size: &str| bench.shown(&["--prompt", &long, "-m", "12", "--max-kv-size", size]);
    let all = bench.text(&["--prompt", &long, "-m", "12"]);
    assert_eq!(bounded("400").ok(), all);
    let short = bounded("16");
    assert_ne!(short.stdout, all);
    let warning = "warning: the prompt has 90 tokens and `--max-kv-size` is 16: the start of the prompt is dropped\n";
    assert_eq!((short.code, short.stderr.as_str()), (Some(0), warning));
}

#[test]
fn quantized_keys_and_values_are_close() {
    let bench = Bench::new();
    let text = |options: &[&str]| bench.text(&[&["--prompt", TEXT, "-m", "4"], options].concat());
    let plain = text(&[]);
    assert_eq!(text(&["--kv-bits", "8", "--kv-group-size", "32", "--quantized-kv-start", "0"]), plain);
    assert_eq!(text(&["--kv-bits", "2", "--kv-group-size", "32"]), plain, "the start is far away");
    let coarse = ["--kv-bits", "2", "--kv-group-size", "32", "--quantized-kv-start", "0"];
    assert_ne!(
        bench.text(&[&["--prompt", TEXT, "-m", "24"], &coarse[..]].concat()),
        bench.text(&["--prompt", TEXT, "-m", "24"])
    );
}

#[test]
fn a_draft_model_changes_no_text() {
    let bench = Bench::new();
    tiny::make(&bench.path("other"), 8);
    let plain = bench.text(&["--prompt", TEXT, "-m", "24"]);
    for draft in ["tiny", "other"] {
        let drafted = bench.text(&["--prompt", TEXT, "-m", "24", "--draft-model", draft, "--num-draft-tokens", "4"]);
        assert_eq!(drafted, plain, "{draft}");
    }
}

#[test]
fn more_proposals_than_one_pass_reads_and_none_are_warned_of() {
    let bench = Bench::new();
    let args = ["generate", "--model", "tiny", "--verbose", "false", "--draft-model", "tiny", "-m", "4"];
    let many = bench.run(&[&args[..], &["--num-draft-tokens", "18446744073709551615"]].concat());
    let expected =
        "warning: `--num-draft-tokens` is 18446744073709551615, but at most 63 tokens are proposed at once\n";
    assert_eq!((many.code, many.stderr.as_str()), (Some(0), expected));
    assert_eq!(many.stdout, bench.text(&["-m", "4"]));
    let none = bench.run(&[&args[..], &["--num-draft-tokens", "0"]].concat());
    let expected = "warning: `--num-draft-tokens` is 0, so the draft model is loaded and never asked\n";
    assert_eq!((none.code, none.stderr.as_str()), (Some(0), expected));
    assert_eq!(none.stdout, many.stdout);
}

#[test]
fn the_cpu_can_be_asked_for_and_foreign_code_is_never_run() {
    let bench = Bench::new();
    let plain = bench.text(&["--prompt", TEXT, "-m", "8"]);
    let args =
        ["--cpu", "generate", "--model", "tiny", "-p", TEXT, "-m", "8", "--verbose=false", "--trust-remote-code"];
    let ran = bench.run(&args);
    assert_eq!((ran.code, ran.stdout), (Some(0), plain));
    assert!(ran.stderr.starts_with("warning: `--trust-remote-code` has no effect"), "{}", ran.stderr);
}

#[test]
fn entries_that_are_not_understood_are_warned_of() {
    let bench = Bench::new();
    tiny::configure(&bench.path("tiny"), serde_json::json!({"hidden_sizes": 64}));
    let ran = bench.run(&["generate", "--model", "tiny", "-m", "1"]);
    assert_eq!(ran.code, Some(0));
    assert_eq!(ran.stderr, "warning: config.json has unknown entries: `hidden_sizes`\n");
}

#[test]
fn options_for_a_template_that_is_not_used_are_warned_of() {
    let bench = Bench::new();
    let options = ["--ignore-chat-template", "--system-prompt", "Be brief.", "--prefill-response", "Well,"];
    let ran = bench.run(&[&["generate", "--model", "tiny", "-m", "1"], &options[..]].concat());
    assert_eq!(ran.code, Some(0));
    let warnings = ["--system-prompt", "--prefill-response"]
        .map(|option| format!("warning: `{option}` has no effect: the chat template is ignored\n"));
    assert_eq!(ran.stderr, warnings.concat());
}

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
#[test]
fn threads_and_instructions_change_no_text() {
    let bench = Bench::new();
    let plain = bench.text(&["--prompt", TEXT, "-m", "8"]);
    let args = ["generate", "--model", "tiny", "-p", TEXT, "-m", "8", "--verbose=false"];
    let ran = bench.run(&[&["--threads", "3"], &args[..]].concat());
    assert_eq!((ran.code, &ran.stdout), (Some(0), &plain), "{}", ran.stderr);
    for (level, is_there) in [
        ("portable", true),
        ("avx2", is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")),
        ("avx512", is_x86_feature_detected!("avx512bf16") && is_x86_feature_detected!("avx512vnni")),
    ] {
        let output = bench.command().env("MLXLM_ISA", level).args(args).output().unwrap();
        let (text, said) = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).into();
        assert_eq!(output.status.success(), is_there, "{level}: {said}");
        assert!(!is_there || text == plain, "{level}: {text}");
    }
}

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
#[test]
fn threads_and_instructions_are_checked_at_the_start() {
    let bench = Bench::new();
    for (name, value, refused) in [
        ("MLXLM_ISA", "sse", "`MLXLM_ISA` is `sse`, expected one of"),
        ("MLXLM_THREADS", "0", "`MLXLM_THREADS` is `0`, expected a number from 1 to 1024"),
    ] {
        let output = bench.command().env(name, value).arg("models").output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && said.contains(refused), "{said}");
    }
    let many = bench.run(&["--threads", "1024", "generate", "--model", "tiny", "-m", "1"]);
    assert_eq!(many.code, Some(0));
    assert!(many.stderr.starts_with("warning: `--threads` is 1024, more than there are cores ("), "{}", many.stderr);
}
