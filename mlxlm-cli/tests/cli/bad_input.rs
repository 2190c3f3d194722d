//! What users, files and machines do wrong: one clear line, a hint, the right exit code, and nothing half-written.

use std::fs;
use std::path::Path;

use mlxlm_core::io;
use serde_json::{Value, json};

use crate::bench::Bench;
use crate::tiny::{self, configure};

const MODEL: &str = "tiny/model.safetensors";

/// One fault.
struct Case {
    /// What is done to the folder before.
    fault: fn(&Bench),
    args: &'static [&'static str],
    code: i32,
    /// Parts of the message.
    says: &'static [&'static str],
    /// A part of the hint; nothing if there is none.
    hint: &'static str,
}

const GENERATE: &[&str] = &["generate", "--model", "tiny", "-m", "2"];

/// A fault of a model folder, which `generate` meets.
fn broken(fault: fn(&Bench), says: &'static [&'static str], hint: &'static str) -> Case {
    Case { fault, args: GENERATE, code: 1, says, hint }
}

/// Options that make no sense, whatever the folder is.
fn misused(args: &'static [&'static str], says: &'static [&'static str], hint: &'static str) -> Case {
    Case { fault: |_| (), args, code: 2, says, hint }
}

#[track_caller]
fn check(cases: &[Case]) {
    for case in cases {
        let bench = Bench::new();
        (case.fault)(&bench);
        let before = bench.names();
        let ran = bench.run(case.args);
        let (message, hint) = ran.refused(case.code);
        for part in case.says {
            assert!(message.contains(part), "{:?}: `{message}` does not say `{part}`", case.args);
        }
        assert_eq!(hint.is_empty(), case.hint.is_empty(), "{message}: {hint}");
        assert!(hint.contains(case.hint), "{message}: `{hint}` does not say `{}`", case.hint);
        assert_eq!(bench.names(), before, "{:?} left something behind", case.args);
    }
}

/// Changes bytes of a file.
fn damage(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

/// Changes the header of a safetensors file, and keeps its data.
fn change_header(path: &Path, change: impl FnOnce(&mut Value)) {
    damage(path, |bytes| {
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let mut header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
        change(&mut header);
        let header = header.to_string();
        let data = bytes.split_off(8 + length);
        *bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat();
    });
}

/// Lets the header say something else of the head.
fn claim(bench: &Bench, key: &str, value: Value) {
    change_header(&bench.path(MODEL), |header| {
        header["lm_head.weight"][key] = value;
    });
}

/// Makes the weights the first shard of two, of which the other has this name.
fn index(bench: &Bench, other: &str) {
    let first = "model-00001-of-00002.safetensors";
    fs::rename(bench.path(MODEL), bench.path("tiny").join(first)).unwrap();
    let index = json!({"metadata": {}, "weight_map": {"lm_head.weight": first, "model.norm.weight": other}});
    io::write_json(bench.path("tiny/model.safetensors.index.json"), &index).unwrap();
}

fn template(bench: &Bench, template: &str) {
    io::write(bench.path("tiny/chat_template.jinja"), template).unwrap();
}

#[test]
fn files_that_are_not_there() {
    check(&[
        Case { fault: |_| (), args: &["generate", "--model", "./absent"], code: 1, says: &["`./absent`"], hint: " " },
        broken(|b| fs::remove_file(b.path("tiny/config.json")).unwrap(), &["`tiny` has no `config.json`"], "folder"),
        broken(|b| fs::remove_file(b.path(MODEL)).unwrap(), &["model.safetensors"], "download the model again"),
        broken(
            |b| fs::remove_file(b.path("tiny/tokenizer.json")).unwrap(),
            &["no `tokenizer.json` or `tokenizer.model` in `tiny`"],
            "folder",
        ),
        broken(|b| index(b, "model-00002-of-00002.safetensors"), &["`model-00002-of-00002.safetensors`"], "download"),
        broken(|b| index(b, "../other.safetensors"), &["`../other.safetensors`"], "download"),
        Case {
            fault: |_| (),
            args: &["generate", "--model", "tiny", "--adapter-path", "absent"],
            code: 1,
            says: &["`absent` has no `adapter_config.json`"],
            hint: "mlxlm lora",
        },
        Case {
            fault: |_| (),
            args: &["generate", "--prompt-cache-file", "absent.safetensors"],
            code: 1,
            says: &["there is no prompt cache `absent.safetensors`"],
            hint: "mlxlm cache_prompt",
        },
        Case {
            fault: |_| (),
            args: &["generate", "--model", "tiny", "--draft-model", "./no"],
            code: 1,
            says: &["./no"],
            hint: " ",
        },
    ]);
}

#[test]
fn weights_that_lie() {
    let not_valid = &["`tiny/model.safetensors` is not a valid safetensors file"];
    check(&[
        broken(|b| damage(&b.path(MODEL), |bytes| bytes.truncate(bytes.len() / 2)), not_valid, "may be incomplete"),
        broken(|b| damage(&b.path(MODEL), |bytes| bytes.truncate(5)), not_valid, "may be incomplete"),
        broken(|b| damage(&b.path(MODEL), Vec::clear), not_valid, "may be incomplete"),
        broken(|b| damage(&b.path(MODEL), |bytes| bytes[..8].fill(0xFF)), not_valid, "may be incomplete"),
        broken(|b| damage(&b.path(MODEL), |bytes| bytes[8] = b'!'), not_valid, "may be incomplete"),
        broken(|b| claim(b, "data_offsets", json!([0, 1_u64 << 62])), not_valid, "may be incomplete"),
        broken(|b| claim(b, "shape", json!([900, 65])), not_valid, "may be incomplete"),
        broken(|b| claim(b, "shape", json!([u64::MAX, 2])), not_valid, "may be incomplete"),
        broken(
            |b| claim(b, "shape", json!([64, 900])),
            &["`lm_head.weight` is [64, 900], expected [900, 64]"],
            "different models",
        ),
        broken(
            |b| {
                change_header(&b.path(MODEL), |header| {
                    let tensor = header.as_object_mut().unwrap().remove("model.norm.weight").unwrap();
                    header["lm.norm.weight"] = tensor;
                });
            },
            &["`model.norm.weight` is missing (near: `lm.norm.weight`)", "`lm.norm.weight` is not part"],
            "model_type",
        ),
    ]);
}

#[test]
fn configurations_that_make_no_sense() {
    fn with(fault: fn(&Bench), says: &'static [&'static str]) -> Case {
        broken(fault, says, "")
    }
    check(&[
        broken(|b| fs::write(b.path("tiny/config.json"), "{").unwrap(), &["`tiny/config.json` is not valid JSON"], ""),
        with(|b| fs::write(b.path("tiny/config.json"), "[]").unwrap(), &["config.json: it is not an object"]),
        with(|b| configure(&b.path("tiny"), json!({"hidden_size": -64})), &["`hidden_size` is -64"]),
        with(|b| configure(&b.path("tiny"), json!({"hidden_size": 0})), &["`hidden_size` is 0"]),
        with(|b| configure(&b.path("tiny"), json!({"hidden_size": 1_u64 << 40})), &["`hidden_size`"]),
        with(|b| configure(&b.path("tiny"), json!({"hidden_size": "wide"})), &["`hidden_size`", "wide"]),
        with(|b| configure(&b.path("tiny"), json!({"hidden_size": null})), &["hidden_size"]),
        with(|b| configure(&b.path("tiny"), json!({"num_hidden_layers": 2_000_000_000})), &["`num_hidden_layers` is"]),
        with(|b| configure(&b.path("tiny"), json!({"num_attention_heads": 5})), &["`num_attention_heads` 5"]),
        with(|b| configure(&b.path("tiny"), json!({"num_key_value_heads": 0})), &["`num_key_value_heads` is 0"]),
        with(|b| configure(&b.path("tiny"), json!({"vocab_size": -1})), &["`vocab_size` is -1"]),
        with(|b| configure(&b.path("tiny"), json!({"rope_scaling": {"type": "spiral", "factor": 2.0}})), &["spiral"]),
        with(|b| configure(&b.path("tiny"), json!({"quantization": {"bits": 7, "group_size": 64}})), &["quantization"]),
        broken(
            |b| configure(&b.path("tiny"), json!({"model_type": "llamma"})),
            &["the model type `llamma` is not known; the nearest are `llama`"],
            "mlxlm models",
        ),
        broken(
            |b| configure(&b.path("tiny"), json!({"model_file": "model.py"})),
            &["`model.py`", "never run"],
            "model_type",
        ),
        broken(
            |b| {
                configure(&b.path("tiny"), json!({"quantization_config": {"quant_method": "gptq"}}));
                change_header(&b.path(MODEL), |header| {
                    let tensor = header.as_object_mut().unwrap().remove("lm_head.weight").unwrap();
                    header["lm_head.qweight"] = tensor;
                });
            },
            &["`lm_head.scales` is missing, which belongs to `lm_head.qweight`"],
            "download the model again",
        ),
    ]);
}

#[test]
fn tokenizers_and_templates_that_cannot_work() {
    check(&[
        broken(|b| fs::write(b.path("tiny/tokenizer.json"), "{}").unwrap(), &["`tiny/tokenizer.json`"], "download"),
        broken(|b| fs::write(b.path("tiny/tokenizer_config.json"), "[").unwrap(), &["tokenizer_config.json"], ""),
        broken(
            |b| template(b, "{% for a in range(99999) %}{% for b in range(99999) %}.{% endfor %}{% endfor %}"),
            &["the chat template was stopped"],
            "--ignore-chat-template",
        ),
        broken(|b| template(b, "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}"), &["the chat template"], "template"),
        broken(|b| template(b, "{% for %}"), &["the chat template does not parse at line 1"], "template"),
        broken(
            |b| template(b, "{{ messages[0].content.no.thing }}"),
            &["the chat template failed at line 1"],
            "template",
        ),
        broken(|b| template(b, "{{ raise_exception('no users') }}"), &["rejects these messages: no users"], ""),
    ]);
}

/// Files of a model that are no files, or not the files that they stand for.
#[test]
fn what_is_no_file_is_named_at_once() {
    fn pipe(bench: &Bench, place: &str) {
        let place = bench.path(place);
        drop(fs::remove_file(&place));
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(place).status().unwrap().success());
    }
    const ADAPTED: &[&str] = &["generate", "--model", "tiny", "--adapter-path", "adapter"];
    const A_PIPE: &[&str] = &["it is a pipe, not a file"];
    fn adapter(bench: &Bench) {
        fs::create_dir(bench.path("adapter")).unwrap();
        let config = json!({"lora_parameters": {"rank": 2, "scale": 1.0}});
        io::write_json(bench.path("adapter/adapter_config.json"), &config).unwrap();
    }
    check(&[
        broken(|b| pipe(b, MODEL), A_PIPE, "path of a file"),
        broken(|b| pipe(b, "tiny/additional_chat_templates/rag.jinja"), A_PIPE, "path of a file"),
        Case { fault: |b| pipe(b, "adapter/adapter_config.json"), args: ADAPTED, code: 1, says: A_PIPE, hint: "file" },
        Case {
            fault: |b| {
                adapter(b);
                pipe(b, "adapter/adapters.safetensors");
            },
            args: ADAPTED,
            code: 1,
            says: A_PIPE,
            hint: "file",
        },
        Case {
            fault: |b| pipe(b, "cache"),
            args: &["generate", "--prompt-cache-file", "cache"],
            code: 1,
            says: A_PIPE,
            hint: "file",
        },
        broken(
            |b| {
                let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n";
                fs::write(b.path(MODEL), pointer).unwrap();
            },
            &["`tiny/model.safetensors` is a pointer of git-lfs"],
            "git lfs pull",
        ),
    ]);
}

/// Names and texts of a model may hold what a terminal obeys, and may be long.
#[test]
fn what_others_wrote_is_shown_with_care() {
    fn shown(change: impl FnOnce(&Bench)) -> String {
        let bench = Bench::new();
        change(&bench);
        bench.run(GENERATE).stderr
    }
    let long = "y".repeat(500_000);
    let texts = [
        shown(|b| configure(&b.path("tiny"), json!({"model_type": "\u{1b}[31mred\u{7}"}))),
        shown(|b| configure(&b.path("tiny"), json!({"model_type": long}))),
        shown(|b| configure(&b.path("tiny"), json!({"\u{1b}]0;title\u{7}\u{202e}": 1}))),
        shown(|b| {
            let many = (0..20_000).map(|n| (format!("unknown_{n}"), json!(1)));
            configure(&b.path("tiny"), Value::Object(many.collect()));
        }),
        shown(|b| template(b, "{{ raise_exception('\x1b]0;title\x07' * 40000) }}")),
        shown(|b| claim(b, "shape", json!(vec![1; 50_000]))),
        shown(|b| {
            change_header(&b.path(MODEL), |header| {
                let tensor = header.as_object_mut().unwrap().remove("model.norm.weight").unwrap();
                header["\u{1b}[2J"] = tensor;
            });
        }),
    ];
    for text in texts {
        assert!(!text.is_empty());
        let clean = text.chars().all(|c| c == '\n' || !c.is_control() && c != '\u{202e}');
        assert!(clean && text.lines().all(|line| line.chars().count() < 2100), "{text}");
    }
}

#[test]
fn prompts_that_cannot_be_read() {
    fn small(bench: &Bench) {
        configure(&bench.path("tiny"), json!({"max_position_embeddings": 8}));
    }
    check(&[
        misused(
            &["generate", "--model", "tiny", "--ignore-chat-template", "--prompt", ""],
            &["the prompt is empty"],
            "at least one token",
        ),
        Case {
            fault: |b| template(b, "{# nothing #}"),
            args: GENERATE,
            code: 2,
            says: &["the prompt is empty"],
            hint: "token",
        },
        broken(small, &["the prompt has", "reads at most 8"], "shorten the prompt"),
        Case {
            fault: small,
            args: &[
                "cache_prompt",
                "--model",
                "tiny",
                "--prompt",
                "one two three",
                "--prompt-cache-file",
                "c.safetensors",
            ],
            code: 1,
            says: &["reads at most 8"],
            hint: "shorten",
        },
    ]);
    let bench = Bench::new();
    let ran = bench.run_with(&["generate", "--model", "tiny", "--prompt", "-"], b"\xFF\xFE");
    assert_eq!(ran.refused(1).0, "cannot read standard input: stream did not contain valid UTF-8");
}

#[test]
fn options_that_make_no_sense() {
    check(&[
        misused(&["--cpu"], &["no command is given"], "mlxlm --help"),
        misused(&["genrate"], &["there is no command `genrate`"], "mlxlm generate"),
        misused(&["generate", "--promt", "x"], &["`mlxlm generate` has no option `--promt`"], "--prompt"),
        misused(&["generate", "--max", "7"], &["`--max` may be `--max-kv-size` or `--max-tokens`"], "generate --help"),
        misused(&["generate", "hello"], &["takes only options, not `hello`"], "--prompt \"hello\""),
        misused(&["convert", "d-f32"], &["takes only options, not `d-f32`"], "--model d-f32"),
        misused(
            &["generate", "--max-tokens", "many"],
            &["`--max-tokens` is `many`, expected a whole number"],
            "--help",
        ),
        misused(&["generate", "--max-tokens", "0"], &["`--max-tokens` is 0"], ""),
        misused(&["generate", "--max-tokens", "-2"], &["`--max-tokens` is -2"], ""),
        misused(&["generate", "--temp", "-1"], &["`--temp` is -1"], ""),
        misused(&["generate", "--temp", "nan"], &["`--temp` is NaN"], ""),
        misused(&["generate", "--top-p", "1.5"], &["`--top-p` is 1.5"], ""),
        misused(&["generate", "--min-p", "-0.1"], &["`--min-p` is -0.1"], ""),
        misused(&["generate", "--xtc-threshold", "0.9", "--xtc-probability", "0.5"], &["`--xtc-threshold` is 0.9"], ""),
        misused(&["generate", "--prefill-step-size", "0"], &["--prefill-step-size"], "--help"),
        misused(&["generate", "--kv-bits", "7"], &["7 bits"], "2, 3, 4, 5, 6 or 8 bits"),
        misused(&["generate", "--kv-bits", "8", "--kv-group-size", "48"], &["48"], "32, 64 or 128"),
        misused(&["generate", "--kv-bits", "8,7"], &["7 bits"], "2, 3, 4, 5, 6 or 8 bits"),
        misused(&["generate", "--kv-bits", "8,4,2"], &["`8,4,2`", "as in 8,4"], "--help"),
        misused(&["generate", "--kv-bits", "8", "--kv-rotate", "maybe"], &["`maybe`", "`on` or `off`"], "--help"),
        misused(&["generate", "--kv-rotate"], &["`--kv-rotate` needs a quantized KV cache"], "`--kv-bits`"),
        misused(&["chat", "--kv-bits", "7"], &["7 bits"], "2, 3, 4, 5, 6 or 8 bits"),
        misused(
            &["cache_prompt", "--kv-bits", "4,7", "--prompt-cache-file", "x", "--prompt", "y"],
            &["7 bits"],
            "bits",
        ),
        misused(
            &["generate", "--model", "tiny", "--max-kv-size", "4"],
            &["a rotating cache of 4 tokens"],
            "more than 4",
        ),
        misused(&["generate", "--model", "tiny", "--temp", "1", "--top-k", "901"], &["`--top-k` is 901"], ""),
        misused(
            &["generate", "--chat-template-config", "{"],
            &["`--chat-template-config` is not JSON"],
            "enable_thinking",
        ),
        misused(&["generate", "--chat-template-config", "3"], &["is not a JSON object"], "enable_thinking"),
        misused(
            &["generate", "--model", "tiny", "--extra-eos-token", "900"],
            &["`--extra-eos-token` is 900, expected a token of the vocabulary, below 900"],
            "",
        ),
        misused(&["generate", "--image", "cat.png"], &["`--image`"], ""),
        misused(&["generate", "-qa"], &["`--quantize-activations` is not supported"], ""),
        misused(&["chat", "--pipeline"], &["`--pipeline` is not supported"], ""),
        misused(&["chat", "--top-p", "-1"], &["`--top-p` is -1"], ""),
        misused(&["cache_prompt", "--prompt", "x"], &["--prompt-cache-file"], "--help"),
        misused(&["convert"], &["--model"], "--help"),
        misused(
            &["convert", "--model", "tiny", "-q", "-d"],
            &["`--quantize` cannot be used with `--dequantize`"],
            "convert --help",
        ),
        misused(&["convert", "--model", "tiny", "--q-bits", "4"], &["`--q-bits` needs `-q`"], "convert --help"),
        misused(&["convert", "--model", "tiny", "-q", "--q-bits", "7"], &["7 bits"], "2, 3, 4, 5, 6 or 8 bits"),
        misused(
            &["convert", "--model", "tiny", "-q", "--q-mode", "mxfp4", "--q-bits", "8"],
            &["mxfp4"],
            "always 4 bits",
        ),
        misused(
            &["convert", "--model", "tiny", "-q", "--q-mode", "nvfp4", "--quant-predicate", "mixed_2_6"],
            &["`mixed_2_6` is for the mode affine"],
            "--q-mode",
        ),
        misused(
            &["convert", "--model", "tiny", "--q-mode", "q4_k", "-q"],
            &["`--q-mode` is `q4_k`, expected one of affine"],
            "--help",
        ),
        misused(&["convert", "--model", "tiny", "--upload-repo", "a/b/c"], &["a/b/c"], "org/name"),
        misused(&["completions", "tcsh"], &["is `tcsh`, expected one of bash"], "--help"),
    ]);
}

#[test]
fn models_that_do_not_fit() {
    check(&[
        Case {
            fault: |_| (),
            args: &["convert", "--model", "tiny", "-d"],
            code: 1,
            says: &["not quantized"],
            hint: "--dequantize",
        },
        Case {
            fault: |b| drop(b.run(&["convert", "--model", "tiny", "-q", "--mlx-path", "packed"]).ok()),
            args: &["convert", "--model", "packed", "-q"],
            code: 1,
            says: &["already quantized"],
            hint: "--dequantize",
        },
        Case {
            fault: |b| configure(&b.path("tiny"), json!({"model_type": "nothing"})),
            args: &["convert", "--model", "tiny"],
            code: 1,
            says: &["`nothing` is not known"],
            hint: "mlxlm models",
        },
        Case {
            fault: |b| {
                tiny::make(&b.path("other"), 8);
                let tokenizer = b.path("other/tokenizer.json");
                let mut json: Value = io::read_json(&tokenizer).unwrap();
                json["added_tokens"].as_array_mut().unwrap().push(json!({"id": 900, "content": "<|more|>",
                    "special": true, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false}));
                io::write_json(tokenizer, &json).unwrap();
            },
            args: &["generate", "--model", "tiny", "--draft-model", "other"],
            code: 2,
            says: &["the draft model `other` has another tokenizer than the model"],
            hint: "same family",
        },
        Case {
            fault: |b| fs::write(b.path("c.safetensors"), "no cache at all").unwrap(),
            args: &["generate", "--prompt-cache-file", "c.safetensors"],
            code: 1,
            says: &["`c.safetensors` is not a prompt cache"],
            hint: "mlxlm cache_prompt",
        },
        Case {
            fault: |_| (),
            args: &["generate", "--model", "tiny", "--prompt-cache-file", MODEL],
            code: 1,
            says: &["`tiny/model.safetensors` is not a usable prompt cache"],
            hint: "mlxlm cache_prompt",
        },
        Case {
            fault: |b| {
                let cache = ["--prompt", "one", "--prompt-cache-file", "c.safetensors"];
                drop(b.run(&[&["cache_prompt", "--model", "tiny"], &cache[..]].concat()).ok());
                template(b, "{{ messages[0].role }}");
            },
            args: &["generate", "--prompt-cache-file", "c.safetensors"],
            code: 1,
            says: &["the chat template does not say where the prompt begins"],
            hint: "--ignore-chat-template",
        },
        Case {
            fault: |_| (),
            args: &["generate", "--model", "tiny", "--extra-eos-token", "no such token"],
            code: 1,
            says: &["`no such token` is not a token"],
            hint: "its id",
        },
        Case {
            fault: |_| (),
            args: &["generate", "--model", "tiny/config.json"],
            code: 1,
            says: &["is a file"],
            hint: " ",
        },
    ]);
}

/// Changes an entry of the tokenizer.
fn retokenize(bench: &Bench, pointer: &str, value: Value) {
    let path = bench.path("tiny/tokenizer.json");
    let mut content: Value = io::read_json(&path).unwrap();
    *content.pointer_mut(pointer).unwrap() = value;
    io::write_json(path, &content).unwrap();
}

/// A regular expression that tries every way to read a row of `a`, at each of its letters.
const EXPLODES: &str = "(?:(?:a|a){18}[^a!]|a)";

#[test]
fn tokenizers_that_would_panic_or_hang() {
    check(&[
        broken(
            |bench| retokenize(bench, "/model/continuing_subword_prefix", json!("##########")),
            &["tokenizer.json", "its tables contradict each other"],
            "download the file again",
        ),
        broken(
            |bench| {
                let step = json!({"type": "Replace", "pattern": {"String": ""}, "content": "x"});
                retokenize(bench, "/normalizer", step);
            },
            &["tokenizer.json", "a step replaces the empty text"],
            "download the file again",
        ),
        broken(
            |bench| {
                let step = json!({"type": "Precompiled", "precompiled_charsmap": "/////wAAAAA="});
                retokenize(bench, "/normalizer", step);
            },
            &["tokenizer.json", "`precompiled_charsmap` has 8 bytes and says that 4294967295 follow"],
            "download the file again",
        ),
        broken(
            |bench| retokenize(bench, "/normalizer", json!({"type": "Prepend", "prepend": "x".repeat(1 << 20)})),
            &["tokenizer.json", "has 1048576 bytes, more than 64"],
            "download the file again",
        ),
        broken(
            |bench| retokenize(bench, "/added_tokens/0/content", json!("x".repeat(5 << 20))),
            &["tokenizer.json", "an added token has 5242880 bytes, more than 1024"],
            "download the file again",
        ),
        broken(
            |bench| {
                let step = json!({"type": "Replace", "pattern": {"String": "e"}, "content": "e".repeat(100)});
                retokenize(bench, "/normalizer", json!({"type": "Sequence", "normalizers": vec![step; 8]}));
            },
            &["its normalizer makes"],
            "download the file again",
        ),
    ]);
}

#[test]
fn a_regular_expression_without_end_is_stopped() {
    let bench = Bench::new();
    let step = json!({"type": "Split", "pattern": {"Regex": EXPLODES}, "behavior": "Isolated", "invert": false});
    retokenize(&bench, "/pre_tokenizer", step);
    let prompt = "a".repeat(20_000);
    let ran = bench.run(&["generate", "--model", "tiny", "--prompt", &prompt, "-m", "2"]);
    let (message, _) = ran.refused(1);
    assert!(message.contains("the tokenizer failed: it was stopped after 5 seconds"), "{message}");
}

#[test]
fn a_prompt_that_is_far_too_long_is_refused_by_its_beginning() {
    let bench = Bench::new();
    let prompt = "9".repeat(100_000);
    for command in ["generate", "cache_prompt"] {
        let args = [command, "--model", "tiny", "--prompt", "-"];
        let file: &[&str] = if command == "cache_prompt" { &["--prompt-cache-file", "c.safetensors"] } else { &[] };
        let ran = bench.run_with(&[&args[..], file].concat(), prompt.as_bytes());
        let (message, hint) = ran.refused(1);
        assert_eq!(message, "the prompt has more than 4092 tokens, and the model reads at most 512");
        assert_eq!(hint, "use a shorter text");
    }
}
