//! GGUF files that `fuse` writes, in llama.cpp: they load, and say what the model says.
//!
//! It needs a Python with the package `xllamacpp`, which is llama.cpp ready to run; the environment variable `LLAMA_CPP_PYTHON` names it
//! (`python3` if it is not set). Without, the test is skipped.

use std::path::Path;
use std::process::Command;

use mlxlm_core::io;
use serde_json::{Value, json};

use crate::program::{Server, run};
use crate::real;

/// The greedy text after each prompt.
const ASK: &str = "
import json, sys
import xllamacpp
path, count, prompts = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
settings = xllamacpp.CommonParams()
settings.model.path = path
settings.n_ctx = 512
settings.n_parallel = 1
settings.warmup = False
server = xllamacpp.Server(settings)
texts = []
for prompt in prompts:
    asked = {'prompt': prompt, 'max_tokens': count, 'temperature': 0.0, 'top_k': 1, 'cache_prompt': False}
    texts.append(server.handle_completions(asked)['choices'][0]['text'])
print(json.dumps(texts))
";

const PROMPTS: [&str; 4] = [
    "The capital of France is",
    "Once upon a time there was a",
    "Water boils at a temperature of",
    "The first ten numbers are one, two, three,",
];
const TOKENS: &str = "24";

/// How much less likely than our own choice a token of llama.cpp may be, in nats: it rounds activations to 8 bits before it multiplies them
/// with weights of 8 and 4 bits, which decides between tokens that are nearly as likely.
const CLOSE: f64 = 0.25;

fn python() -> Command {
    Command::new(std::env::var_os("LLAMA_CPP_PYTHON").unwrap_or_else(|| "python3".into()))
}

fn of_llama_cpp(file: &Path) -> Vec<String> {
    let output = python().args(["-c", ASK]).arg(file).arg(TOKENS).args(PROMPTS).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let shown = String::from_utf8(output.stdout).unwrap();
    serde_json::from_str(shown.lines().last().unwrap()).unwrap()
}

fn ours(server: &Server, model: &str) -> Vec<String> {
    let answer = |prompt: &str| {
        let body = json!({"model": model, "prompt": prompt, "max_tokens": 24, "temperature": 0.0});
        server.post("/v1/completions", &body)["choices"][0]["text"].as_str().unwrap().to_owned()
    };
    PROMPTS.into_iter().map(answer).collect()
}

/// By how much the likeliest token beats that of a text, where it does so most.
fn widest_gap(server: &Server, model: &str, prompt: &str, text: &str) -> f64 {
    let whole = format!("{prompt}{text}");
    let body =
        json!({"model": model, "prompt": whole, "max_tokens": 1, "echo": true, "logprobs": 1, "temperature": 0.0});
    let answer = server.post("/v1/completions", &body);
    let said = &answer["choices"][0]["logprobs"];
    let list = |key: &str| said[key].as_array().unwrap().clone();
    let mut widest = 0.0;
    for ((own, top), offset) in list("token_logprobs").iter().zip(list("top_logprobs")).zip(list("text_offset")) {
        let offset = offset.as_u64().unwrap() as usize;
        if offset >= prompt.chars().count() && offset < whole.chars().count() {
            let best = top.as_object().unwrap().values().filter_map(Value::as_f64).fold(f64::MIN, f64::max);
            widest = f64::max(widest, best - own.as_f64().unwrap());
        }
    }
    widest
}

#[test]
fn exported_files_say_in_llama_cpp_what_they_say_here() {
    if !python().args(["-c", "import xllamacpp"]).output().is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: `LLAMA_CPP_PYTHON` names no Python with `xllamacpp`");
        return;
    }
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    let model = real("smollm2-135m");
    run(folder, &["convert", "-d", "--dtype", "bfloat16", "--mlx-path", "dense", "--model", model.to_str().unwrap()]);
    let row = |i| format!("{}\n", json!({"text": format!("The number {i} comes before the number {}.", i + 1)}));
    io::create_dir_all(folder.join("data")).unwrap();
    io::write(folder.join("data/train.jsonl"), (0..4).map(row).collect::<String>()).unwrap();
    let options = ["--data", "data", "--num-layers", "2", "--iters", "2", "--learning-rate", "1e-4"];
    run(folder, &[&["lora", "--model", "dense", "--train"][..], &options].concat());
    for kind in ["f16", "q8_0", "q4_0"] {
        run(folder, &["fuse", "--model", "dense", "--save-path", kind, "--export-gguf", "--gguf-type", kind]);
        let file = format!("{kind}/ggml-model-f16.gguf");
        let theirs = of_llama_cpp(&folder.join(&file));
        let server = Server::start(folder, &["--model", &file]);
        if kind == "f16" {
            assert_eq!(theirs, ours(&server, &file));
            assert!(theirs[0].contains("Paris"), "{theirs:?}");
        }
        for (prompt, text) in PROMPTS.into_iter().zip(&theirs) {
            assert!(!text.trim().is_empty(), "{kind}: {theirs:?}");
            let gap = widest_gap(&server, &file, prompt, text);
            println!("{kind}: {gap:.3} nats at most after {prompt:?}");
            assert!(gap <= CLOSE, "{kind}: {gap} nats, {prompt:?} {text:?}");
        }
    }
}
