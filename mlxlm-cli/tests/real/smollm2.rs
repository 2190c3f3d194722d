//! SmolLM2-135M-Instruct from a GGUF file with weights of `Q4_1`: as Python mlx-lm has it after our conversion.

use std::process::Command;

use mlxlm_cache::{Caches, KvFormat};
use mlxlm_core::text::TemplateOptions;
use mlxlm_core::{Array, Dtype, io, ops};
use mlxlm_models::{LoadOptions, Loaded, load};
use mlxlm_sample::{GenerateOptions, stream_generate};
use serde::Deserialize;
use serde_json::Value;

use crate::real;

/// What is asked: `prompts.json`.
#[derive(Deserialize)]
struct Asked {
    conversations: Vec<Vec<Value>>,
    text: String,
}

/// What Python says: `expected.json`.
#[derive(Deserialize)]
struct Expected {
    plain: Vec<Answer>,
    chat: Vec<Answer>,
    rendered: Vec<String>,
    perplexity: Perplexity,
}

#[derive(Deserialize)]
struct Answer {
    prompt: Vec<u32>,
    tokens: Vec<u32>,
    text: String,
}

#[derive(Deserialize)]
struct Perplexity {
    tokens: usize,
    value: f64,
}

fn read<T: serde::de::DeserializeOwned>(name: &str) -> T {
    io::read_json(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/real").join(name)).unwrap()
}

fn model() -> Loaded {
    load(real("smollm2-135m"), &LoadOptions::default()).unwrap()
}

#[test]
fn templates_are_rendered_as_transformers_renders_them() {
    let (asked, expected): (Asked, Expected) = (read("prompts.json"), read("expected.json"));
    let Loaded { tokenizer, .. } = model();
    let options = TemplateOptions { add_generation_prompt: true, ..TemplateOptions::default() };
    for ((messages, rendered), answer) in asked.conversations.iter().zip(expected.rendered).zip(expected.chat) {
        assert_eq!(tokenizer.apply_chat_template(messages, &options).unwrap(), rendered);
        assert_eq!(tokenizer.encode_chat(messages, &options).unwrap(), answer.prompt);
    }
}

#[test]
fn greedy_answers_are_those_of_python() {
    let expected: Expected = read("expected.json");
    let Loaded { model, tokenizer, .. } = model();
    let answers: Vec<Answer> = expected.plain.into_iter().chain(expected.chat).collect();
    assert_eq!(answers.len(), 10);
    for answer in answers {
        let prompt = tokenizer.decode(&answer.prompt).unwrap();
        assert_eq!(tokenizer.encode(&prompt, false).unwrap(), answer.prompt);
        let options = GenerateOptions { max_tokens: Some(answer.tokens.len()), ..GenerateOptions::default() };
        let responses = stream_generate(&*model, &tokenizer, &prompt, &options).unwrap();
        let tokens: Vec<u32> = responses.map(|response| response.unwrap().token).collect();
        assert_eq!(tokens, answer.tokens, "{prompt:?}");
        assert_eq!(tokenizer.decode(&tokens).unwrap(), answer.text, "{prompt:?}");
    }
}

#[test]
fn perplexity_is_that_of_python() {
    let (asked, expected): (Asked, Expected) = (read("prompts.json"), read("expected.json"));
    let Loaded { model, tokenizer, .. } = model();
    let tokens = tokenizer.encode(&asked.text, true).unwrap();
    assert_eq!(tokens.len(), expected.perplexity.tokens);
    let (next, all) = (&tokens[1..], &tokens[..tokens.len() - 1]);
    let length = all.len() as i32;
    let logits = model.forward(&Array::from_slice(all, &[1, length]), None).unwrap();
    let logits = logits.reshape(&[length, -1]).unwrap();
    let whole = ops::logsumexp_axis(&logits, -1, true).unwrap();
    let of_next = logits.take_along_axis(Array::from_slice(next, &[length, 1]), -1).unwrap();
    let loss = whole.subtract(of_next).unwrap().mean(None).unwrap().try_item_exact::<f32>().unwrap();
    let found = f64::from(loss).exp();
    let expected = expected.perplexity.value;
    assert!((found / expected - 1.0).abs() < 1e-3, "{found} for {expected}");
}

/// What keys and values in few bits do to the distribution of each next token: the mean divergence (Kullback-Leibler, in nats) from
/// that with keys and values as they come. Printed too, for BENCHMARKS.md.
#[test]
fn keys_and_values_in_few_bits_say_nearly_the_same() {
    let asked: Asked = read("prompts.json");
    let Loaded { model, tokenizer, .. } = model();
    let tokens = tokenizer.encode(&asked.text, true).unwrap();
    let distributions = |format: Option<KvFormat>| {
        let mut caches = Caches::new(&model.cache_kinds());
        if let Some(format) = format {
            caches.quantize(format, 0).unwrap();
        }
        let input = Array::from_slice(&tokens, &[1, tokens.len() as i32]);
        let logits = model.forward(&input, Some(&mut caches)).unwrap().as_dtype(Dtype::Float32).unwrap();
        logits.subtract(ops::logsumexp_axis(&logits, -1, true).unwrap()).unwrap()
    };
    let whole = distributions(None);
    let divergence = |bits: [i32; 2], group_size, rotated| {
        let format = KvFormat::mixed(bits, group_size).unwrap().rotated(rotated);
        let terms = whole.exp().unwrap().multiply(whole.subtract(distributions(Some(format))).unwrap()).unwrap();
        let divergence = terms.sum_axis(-1, false).unwrap().mean(None).unwrap().try_item_exact::<f32>().unwrap();
        println!("{format}: {divergence:.2e}");
        divergence
    };
    let (as_they_are, keys, values, both) = ([false; 2], [true, false], [false, true], [true; 2]);
    assert!(divergence([8, 8], 64, as_they_are) < 1e-3);
    assert!(divergence([8, 8], 32, both) < 3e-4);
    assert!(divergence([8, 4], 64, values) < 1e-2);
    // The reason why what has 4 bits is rotated where nobody says otherwise.
    let plain = divergence([4, 4], 64, as_they_are);
    assert!(divergence([4, 4], 64, keys) < 0.6 * plain);
    assert!(divergence([4, 4], 64, both) < 0.5 * plain);
}

#[test]
fn the_file_itself_knows_the_capital_of_france() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mlxlm"));
    command.args(["generate", "--model"]).arg(real("smollm2-135m.gguf"));
    command.args(["--prompt", "The capital of France is", "--ignore-chat-template", "-m", "3", "--verbose", "false"]);
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("Paris"), "{text}");
}
