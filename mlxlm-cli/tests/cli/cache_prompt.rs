//! `cache_prompt`, and `generate --prompt-cache-file`.

use crate::bench::{Bench, Ran};
use crate::tiny;

const START: &str = "The quick brown fox jumps over";
const QUESTION: &str = " the lazy dog";

fn cache(bench: &Bench, options: &[&str]) -> Ran {
    let args = ["cache_prompt", "--model", "tiny", "--prompt", START, "--prompt-cache-file", "cache.safetensors"];
    bench.run(&[&args, options].concat())
}

/// The answer to the cached prompt and a question behind it.
fn from_cache(bench: &Bench, options: &[&str]) -> String {
    let args = ["generate", "--verbose", "false", "-m", "12", "--prompt-cache-file", "cache.safetensors", "--prompt"];
    let mut ran = bench.run(&[&args, &[QUESTION][..], options].concat());
    if !options.contains(&"--model") {
        let warning = "note: loading `tiny`, the model of the prompt cache\n";
        let rest = ran.stderr.strip_prefix(warning).map(str::to_owned);
        ran.stderr = rest.unwrap_or_else(|| panic!("{}", ran.stderr));
    }
    ran.ok()
}

fn from_the_whole(bench: &Bench, options: &[&str]) -> String {
    bench.text(&[&["--prompt", &format!("{START}{QUESTION}"), "-m", "12"], options].concat())
}

#[test]
fn a_cached_prompt_gives_the_text_of_the_whole() {
    let bench = Bench::new();
    let shown = cache(&bench, &[]).ok();
    let lines: Vec<&str> = shown.lines().collect();
    assert!(lines[0].contains("\rProcessed     23 tokens ("), "{shown}");
    assert!(
        lines[1].starts_with("Peak memory: ") && lines[2] == "Saving to cache.safetensors..." && lines.len() == 3,
        "{shown}"
    );
    assert_eq!(from_cache(&bench, &[]), from_the_whole(&bench, &[]));
    assert_eq!(from_cache(&bench, &["--model", "tiny"]), from_the_whole(&bench, &[]), "the file is as it was");
}

#[test]
fn the_older_name_of_the_file_is_taken() {
    let bench = Bench::new();
    let args = ["cache_prompt", "--model", "tiny", "--prompt", START, "--save-prompt-cache", "cache.safetensors"];
    bench.run(&args).ok();
    assert_eq!(from_cache(&bench, &[]), from_the_whole(&bench, &[]));
}

#[test]
fn the_system_prompt_and_a_prefill_are_where_they_would_be() {
    let bench = Bench::new();
    cache(&bench, &[]).ok();
    let prefilled = from_cache(&bench, &["--prefill-response", "Well,"]);
    // With a prefill only what follows the mark of the last message is new, as in the reference.
    assert_eq!(
        prefilled,
        bench.text(&["--ignore-chat-template", "-m", "12", "--prompt", &format!("<|im_start|>user\n{START}Well,")])
    );
}

#[test]
fn without_a_template_the_prompt_is_plain() {
    let bench = Bench::new();
    let config = bench.path("tiny").join("tokenizer_config.json");
    mlxlm_core::io::write(config, r#"{"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>"}"#)
        .unwrap();
    cache(&bench, &[]).ok();
    let warning = "warning: the model has no chat template: the prompt is used unchanged\n";
    let whole = bench.shown(&["--prompt", &format!("{START}{QUESTION}"), "-m", "12"]);
    assert_eq!((whole.code, whole.stderr.as_str()), (Some(0), warning));
    let ran = bench.shown(&["--prompt-cache-file", "cache.safetensors", "--prompt", QUESTION, "-m", "12"]);
    assert_eq!((ran.code, ran.stderr.as_str(), ran.stdout), (Some(0), warning, whole.stdout));
}

#[test]
fn a_quantized_cache_needs_its_own_options() {
    let bench = Bench::new();
    let kv = ["--kv-bits", "8", "--kv-group-size", "32"];
    cache(&bench, &[&kv[..], &["--quantized-kv-start", "0"]].concat()).ok();
    assert_eq!(from_cache(&bench, &kv), from_the_whole(&bench, &[&kv[..], &["--quantized-kv-start", "0"]].concat()));
    for wrong in [&["--kv-bits", "4", "--kv-group-size", "32"][..], &["--kv-bits", "8"], &[]] {
        let args = ["generate", "--prompt-cache-file", "cache.safetensors"];
        let ran = bench.run(&[&args, wrong].concat());
        let expected =
            ("the prompt cache is quantized to 8 bits in groups of 32", "use `--kv-bits 8 --kv-group-size 32`");
        assert_eq!(ran.refused(2), expected, "{wrong:?}");
    }
}

#[test]
fn keys_and_values_with_bits_of_their_own_come_back() {
    let bench = Bench::new();
    let kv = ["--kv-bits", "8,4", "--kv-group-size", "32"];
    let from_start = ["--quantized-kv-start", "0"];
    cache(&bench, &[&kv[..], &from_start].concat()).ok();
    // Not the text of the whole: what follows the cache is read over keys and values in few bits.
    assert_eq!(from_cache(&bench, &kv), from_cache(&bench, &["--kv-group-size", "32"]));
    let wrong = ["--kv-bits", "8", "--kv-group-size", "32"];
    let ran = bench.run(&[&["generate", "--prompt-cache-file", "cache.safetensors"][..], &wrong].concat());
    let quantized = "the prompt cache is quantized to 8 bits for keys and 4 for values in groups of 32, values rotated";
    assert_eq!(ran.refused(2), (quantized, "use `--kv-bits 8,4 --kv-group-size 32`"));
}

#[test]
fn what_is_rotated_stays_so_unless_something_else_is_said() {
    let bench = Bench::new();
    let kv = ["--kv-bits", "4", "--kv-group-size", "32"];
    let from_start = ["--quantized-kv-start", "0"];
    for (rotate, other) in [("on", "off"), ("off", "on")] {
        let made = [&kv[..], &["--kv-rotate", rotate], &from_start].concat();
        cache(&bench, &made).ok();
        assert_eq!(from_cache(&bench, &kv), from_cache(&bench, &["--kv-group-size", "32"]));
        let ran = bench
            .run(&[&["generate", "--prompt-cache-file", "cache.safetensors", "--kv-rotate", other][..], &kv].concat());
        let (said, hint) = ran.refused(2);
        assert_eq!(said.ends_with(", rotated"), rotate == "on", "{said}");
        assert_eq!(hint, "use `--kv-bits 4 --kv-group-size 32`, and omit `--kv-rotate`");
    }
}

#[test]
fn a_bounded_cache_stays_bounded() {
    let bench = Bench::new();
    cache(&bench, &["--max-kv-size", "8"]).ok();
    assert_eq!(from_cache(&bench, &[]), {
        // Positions and what is kept differ from those of one long prompt only if the size were not kept.
        let again = from_cache(&bench, &[]);
        assert_ne!(again, from_the_whole(&bench, &[]));
        again
    });
}

#[test]
fn the_end_token_is_kept_with_the_cache() {
    let bench = Bench::new();
    cache(&bench, &[]).ok();
    let text = from_cache(&bench, &[]);
    let (tokens, _) = tiny::continuation(&bench.path("tiny"), &tiny::turn(&format!("{START}{QUESTION}")), 12);
    let options = mlxlm_core::text::TokenizerOptions::default();
    let tokenizer = mlxlm_core::text::Tokenizer::from_folder(bench.path("tiny"), &options).unwrap();
    let fourth = tokenizer.id_to_token(tokens[3]).unwrap();
    cache(&bench, &["--eos-token", &fourth]).ok();
    let ended = from_cache(&bench, &[]);
    assert!(text.starts_with(ended.trim_end_matches('\n')) && ended.len() < text.len(), "{text:?} {ended:?}");
}

#[test]
fn a_cache_is_of_one_model() {
    let bench = Bench::new();
    cache(&bench, &[]).ok();
    tiny::make(&bench.path("other"), 8);
    let ran = bench.run(&["generate", "--prompt-cache-file", "cache.safetensors", "--model", "other"]);
    let expected = (
        "the prompt cache was made with the model `tiny`, not `other`",
        "omit `--model` to use the model of the cache",
    );
    assert_eq!(ran.refused(2), expected);

    let unnamed = bench.path("unnamed.safetensors");
    let (caches, _) = mlxlm_cache::Caches::load(bench.path("cache.safetensors")).unwrap();
    caches.save(&unnamed, &std::collections::BTreeMap::new()).unwrap();
    let ran = bench.run(&["generate", "--prompt-cache-file", "unnamed.safetensors"]);
    assert_eq!(ran.refused(2).0, "the prompt cache does not name its model");
}

/// A file says of itself which model is loaded for it: as long as that is any name, it is shown as one.
#[test]
fn what_a_cache_says_of_itself_is_shown_with_care() {
    let bench = Bench::new();
    cache(&bench, &[]).ok();
    let (caches, _) = mlxlm_cache::Caches::load(bench.path("cache.safetensors")).unwrap();
    for name in ["\x1b[31mred", &"n".repeat(100_000)] {
        let metadata = std::collections::BTreeMap::from([("model".to_owned(), name.to_owned())]);
        caches.save(bench.path("odd.safetensors"), &metadata).unwrap();
        let ran = bench.run(&["generate", "--prompt-cache-file", "odd.safetensors"]);
        assert!(ran.refused(1).0.contains("neither a folder nor a repository id"), "{}", ran.stderr);
        assert!(!ran.stderr.contains('\x1b') && ran.stderr.len() < 1500, "{}", ran.stderr);
    }
}
