//! The vocabularies of llama.cpp with the tokenizations that are kept beside them, which come from the models' own tokenizers.

use mlxlm_core::io;
use mlxlm_core::text::{GgufTokenizer, TokenizerOptions};
use mlxlm_core::weights::gguf::GgufFile;

use crate::real;

/// What stands between the texts of a file.
const BETWEEN: &str = "\n__ggml_vocab_test__\n";

/// Those that have tokenizations.
const WITH_RESULTS: [&str; 15] = [
    "bert-bge",
    "command-r",
    "deepseek-coder",
    "deepseek-llm",
    "falcon",
    "gemma-4",
    "gpt-2",
    "llama-bpe",
    "llama-spm",
    "mpt",
    "phi-3",
    "qwen2",
    "qwen35",
    "refact",
    "starcoder",
];

fn tokenizer(name: &str) -> mlxlm_core::Result<GgufTokenizer> {
    let file = GgufFile::open(real("vocabularies").join(format!("ggml-vocab-{name}.gguf")))?;
    GgufTokenizer::from_metadata(file.metadata())
}

#[test]
fn texts_have_the_tokens_that_llama_cpp_records() {
    let (mut count, mut wrong) = (0, Vec::new());
    for name in WITH_RESULTS {
        let tokenizer = tokenizer(name).unwrap().load(&TokenizerOptions::default()).unwrap();
        let read = |kind: &str| {
            io::read_to_string(real("vocabularies").join(format!("ggml-vocab-{name}.gguf.{kind}"))).unwrap()
        };
        let (texts, results) = (read("inp"), read("out"));
        let texts: Vec<&str> = texts.split(BETWEEN).collect();
        let results: Vec<&str> = results.lines().collect();
        assert!(results.len() > 30 && texts.len() >= results.len(), "{name}: {} {}", texts.len(), results.len());
        for (text, result) in texts.into_iter().zip(results) {
            let expected: Vec<u32> = result.split_whitespace().map(|id| id.parse().unwrap()).collect();
            let found = tokenizer.encode(text, false).unwrap();
            count += 1;
            if found != expected {
                wrong.push(format!("{name}: {text:?} is {found:?}, expected {expected:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {count} differ:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn text_comes_back_from_its_tokens() {
    for name in ["gpt-2", "llama-bpe", "llama-spm", "qwen2", "gemma-4"] {
        let tokenizer = tokenizer(name).unwrap().load(&TokenizerOptions::default()).unwrap();
        for text in ["Hello, world!", "  two spaces\n\nand lines", "ÄÖÜ 你好 🦙 \u{1f468}\u{200d}\u{1f469}"] {
            assert_eq!(tokenizer.decode(&tokenizer.encode(text, false).unwrap()).unwrap(), text, "{name}");
        }
    }
}

#[test]
fn the_other_vocabularies_are_read_or_refused_by_name() {
    for name in ["aquila", "baichuan", "gpt-neox"] {
        let tokenizer = tokenizer(name).unwrap().load(&TokenizerOptions::default()).unwrap();
        let tokens = tokenizer.encode("Hello world", false).unwrap();
        assert_eq!(tokenizer.decode(&tokens).unwrap(), "Hello world", "{name}");
    }
    let error = tokenizer("nomic-bert-moe").unwrap_err().to_string();
    assert!(error.contains("is `t5`"), "{error}");
}
