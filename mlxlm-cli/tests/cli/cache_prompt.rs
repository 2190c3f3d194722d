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
    bench.run(&[&args, &[QUESTION][..], options].concat()).ok()
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
    assert!(lines[1].starts_with("Peak memory: ") && lines[2] == "Saving..." && lines.len() == 3, "{shown}");
    assert_eq!(from_cache(&bench, &[]), from_the_whole(&bench, &[]));
    assert_eq!(from_cache(&bench, &["--model", "tiny"]), from_the_whole(&bench, &[]), "the file is as it was");
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
    assert_eq!(from_cache(&bench, &[]), from_the_whole(&bench, &[]));
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
            ("the prompt cache is quantized to 8 bits in groups of 32", "give `--kv-bits 8 --kv-group-size 32`");
        assert_eq!(ran.refused(2), expected, "{wrong:?}");
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
        "leave `--model` out to take the model of the cache",
    );
    assert_eq!(ran.refused(2), expected);

    let unnamed = bench.path("unnamed.safetensors");
    let (caches, _) = mlxlm_cache::Caches::load(bench.path("cache.safetensors")).unwrap();
    caches.save(&unnamed, &std::collections::BTreeMap::new()).unwrap();
    let ran = bench.run(&["generate", "--prompt-cache-file", "unnamed.safetensors"]);
    assert_eq!(ran.refused(2).0, "the prompt cache does not say which model it was made with");
}
