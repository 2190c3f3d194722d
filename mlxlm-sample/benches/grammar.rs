//! Grammars over 128,000 tokens: `cargo bench --package mlxlm-sample --bench grammar`.

use std::hint::black_box;
use std::time::Duration;

use criterion::Criterion;
use mlxlm_core::text::{Tokenizer, TokenizerOptions};
use mlxlm_core::{Array, Dtype, transforms};
use mlxlm_sample::grammar::{GrammarSpec, Grammars, Matcher, apply_rows};
use serde_json::{Map, Value, json};

const VOCAB: usize = 128_256;

fn main() {
    let short = Criterion::default().sample_size(20);
    let short = short.warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_secs(1));
    let mut criterion = short.configure_from_args();
    let grammars = Grammars::new(&tokenizer(), VOCAB);
    let person = json!({"type": "object", "required": ["name", "age", "tags"], "additionalProperties": false, "properties": {
        "name": {"type": "string"}, "age": {"type": "integer"}, "tags": {"type": "array", "items": {"type": "string"}},
    }});
    let spec = GrammarSpec::JsonSchema(person);
    criterion.bench_function("matcher, cached", |bencher| bencher.iter(|| grammars.matcher(&spec).expect("a grammar")));
    for (name, text) in [("forced", "{"), ("string", "{\"name\":\"An"), ("number", "{\"name\":\"An\",\"age\":1")] {
        let mut matcher = grammars.matcher(&spec).expect("a grammar");
        text.bytes().for_each(|byte| matcher.accept(u32::from(byte)).expect("a token"));
        step(&mut criterion, name, &matcher);
    }
    let mut matcher = grammars.matcher(&spec).expect("a grammar");
    let mask = matcher.mask().expect("a mask");
    for dtype in [Dtype::Float32, Dtype::Bfloat16] {
        let logits = Array::from_slice(&vec![1.0_f32; VOCAB], &[1, VOCAB as i32]).as_dtype(dtype).expect("logits");
        transforms::eval([&logits]).expect("logits");
        criterion.bench_function(&format!("apply, {dtype:?}"), |bencher| {
            bencher.iter(|| transforms::eval([&apply_rows(&[Some(&mask)], &logits).expect("logits")]));
        });
        criterion.bench_function(&format!("greatest without a mask, {dtype:?}"), |bencher| {
            bencher.iter(|| transforms::eval([&mlxlm_core::ops::indexing::argmax(&logits, None).expect("logits")]));
        });
    }
    criterion.final_summary();
}

/// What a token takes: a mask, and going on by one that it allows.
fn step(criterion: &mut Criterion, name: &str, matcher: &Matcher) {
    let first = matcher.clone().mask().expect("a mask").ids().next().expect("a token");
    criterion.bench_function(&format!("copy, {name}"), |bencher| bencher.iter(|| black_box(matcher.clone())));
    criterion.bench_function(&format!("copy, accept and mask, {name}"), |bencher| {
        bencher.iter(|| {
            let mut matcher = matcher.clone();
            matcher.accept(first).expect("a token");
            matcher.mask().expect("a mask")
        });
    });
}

/// A vocabulary of bytes and of made words, with and without a blank before them.
fn tokenizer() -> Tokenizer {
    let is_own = |byte: &u32| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let mut others = 0x100..;
    let bytes = (0..256).map(|byte| if is_own(&byte) { byte } else { others.next().unwrap_or_default() });
    let mut vocab: Map<String, Value> = Map::new();
    let mut add = |token: String| {
        let id = vocab.len();
        vocab.entry(token).or_insert_with(|| id.into());
        vocab.len()
    };
    for letter in bytes.filter_map(char::from_u32) {
        add(letter.to_string());
    }
    for token in ["{\"", "\":", "\",", "\"}", "},", "ĊĊ", "ĠĠ", "ĠĠĠĠ", ":Ġ\"", ",Ġ\""] {
        add(token.to_owned());
    }
    let mut state = 1u64;
    let mut draw = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let letters: Vec<char> = "etaoinshrdlcumwfgypbvkjxqz".chars().collect();
    let mut count = 0;
    while count < VOCAB - 1 {
        let blank = if draw(2) == 0 { "Ġ" } else { "" };
        let length = 2 + draw(8);
        let word: String = (0..length).map(|_| letters[draw(26).min(draw(26)) as usize]).collect();
        count = add(format!("{blank}{word}"));
    }
    add("<end>".into());
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    let model = json!({"type": "BPE", "vocab": vocab, "merges": []});
    let content = json!({"decoder": bytes, "pre_tokenizer": bytes, "model": model});
    let options = TokenizerOptions { eos_token_ids: Some(vec![VOCAB as u32 - 1]), ..TokenizerOptions::default() };
    Tokenizer::from_json("made", &content, &options).expect("a tokenizer")
}
