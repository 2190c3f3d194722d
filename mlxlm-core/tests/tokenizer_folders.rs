//! Model folders of many shapes, against what Python mlx-lm 0.32.2 with transformers 5 makes of them, and folders that
//! are refused. `fixtures/tokenizer_folders/record.py` writes the expected values.
#![cfg(feature = "text")]
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use mlxlm_core::text::{TemplateOptions, TextError, Tokenizer, TokenizerOptions};
use mlxlm_core::{Error, Hint, Result, io};
use serde::Deserialize;
use serde_json::{Map, Value, json};

#[derive(Deserialize)]
struct Cases {
    texts: Vec<String>,
    folders: BTreeMap<String, Folder>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Folder {
    base: String,
    config: Map<String, Value>,
    tokenizer: Map<String, Value>,
    files: Map<String, Value>,
}

#[derive(Deserialize)]
struct Expected {
    vocab_size: usize,
    eos_token_ids: Vec<u32>,
    special_tokens: BTreeMap<String, String>,
    texts: Vec<Text>,
    prompt: Option<String>,
    prompt_with_tools: Option<String>,
}

#[derive(Debug, Deserialize, PartialEq)]
struct Text {
    ids: Vec<u32>,
    plain: Vec<u32>,
    decoded: String,
    skipped: String,
}

fn fixtures(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

impl Folder {
    fn of(base: &str) -> Self {
        Self { base: base.into(), ..Self::default() }
    }

    fn config(mut self, key: &str, value: Value) -> Self {
        self.config.insert(key.into(), value);
        self
    }

    fn file(mut self, name: &str, content: Value) -> Self {
        self.files.insert(name.into(), content);
        self
    }

    /// Loads the folder as the recorder makes it.
    fn load_with(&self, options: &TokenizerOptions) -> Result<Tokenizer> {
        let folder = tempfile::tempdir().unwrap();
        for (name, changes) in [("tokenizer.json", &self.tokenizer), ("tokenizer_config.json", &self.config)] {
            let mut content: Map<String, Value> =
                io::read_json(fixtures("tokenizer").join(&self.base).join(name)).unwrap();
            for (key, value) in changes {
                match value {
                    Value::Null => drop(content.remove(key)),
                    value => drop(content.insert(key.clone(), value.clone())),
                }
            }
            io::write(folder.path().join(name), Value::Object(content).to_string()).unwrap();
        }
        for (name, content) in &self.files {
            let path = folder.path().join(name);
            io::create_dir_all(path.parent().unwrap()).unwrap();
            io::write(path, content.as_str().map_or_else(|| content.to_string(), str::to_owned)).unwrap();
        }
        Tokenizer::from_folder(folder.path(), options)
    }

    fn load(&self) -> Result<Tokenizer> {
        self.load_with(&TokenizerOptions::default())
    }
}

fn prompt(tokenizer: &Tokenizer, tools: Option<Value>) -> Result<String> {
    let options = TemplateOptions { tools, ..TemplateOptions::default() };
    tokenizer.apply_chat_template(&[json!({"role": "user", "content": "hi"})], &options)
}

#[test]
fn folders_load_as_in_python() {
    let cases: Cases = io::read_json(fixtures("tokenizer_folders/cases.json")).unwrap();
    let expected: BTreeMap<String, Expected> = io::read_json(fixtures("tokenizer_folders/expected.json")).unwrap();
    assert_eq!(cases.folders.len(), expected.len());
    for (name, folder) in &cases.folders {
        let expected = &expected[name];
        let tokenizer = folder.load().unwrap();
        assert_eq!(tokenizer.vocab_size(), expected.vocab_size, "{name}");
        let eos: Vec<u32> = tokenizer.eos_token_ids().iter().copied().collect();
        assert_eq!(eos, expected.eos_token_ids, "{name}");
        for token in ["bos_token", "eos_token", "unk_token", "pad_token", "image_token"] {
            let named = expected.special_tokens.get(token).map(String::as_str);
            assert_eq!(tokenizer.special_token(token), named, "{name}: {token}");
        }
        for (text, expected) in cases.texts.iter().zip(&expected.texts) {
            let ids = tokenizer.encode(text, true).unwrap();
            let got = Text {
                plain: tokenizer.encode(text, false).unwrap(),
                decoded: tokenizer.decode(&ids).unwrap(),
                skipped: tokenizer.decode_without_special_tokens(&ids).unwrap(),
                ids,
            };
            assert_eq!(got, *expected, "{name}: {text:?}");
        }
        let tools = json!([{"type": "function", "function": {"name": "f"}}]);
        assert_eq!(prompt(&tokenizer, None).ok(), expected.prompt, "{name}");
        assert_eq!(prompt(&tokenizer, Some(tools)).ok(), expected.prompt_with_tools, "{name}");
    }
}

fn text_error(result: Result<impl std::fmt::Debug>) -> TextError {
    match result {
        Err(Error::Text(error)) => error,
        other => panic!("expected an error of the text, got {other:?}"),
    }
}

#[test]
fn a_folder_without_a_tokenizer_names_what_it_has() {
    let folder = tempfile::tempdir().unwrap();
    let load = || text_error(Tokenizer::from_folder(folder.path(), &TokenizerOptions::default()));
    assert!(matches!(load(), TextError::NoTokenizer { found: None, .. }));
    io::write(folder.path().join("tekken.json"), "{}").unwrap();
    let error = load();
    assert!(error.to_string().ends_with(", only `tekken.json`"), "{error}");
    assert!(error.hint().unwrap().contains("save_pretrained"));
}

#[test]
fn a_field_of_another_kind_is_named() {
    let check = |folder: Folder, expected_key: &str| match text_error(folder.load()) {
        TextError::BadField { key, .. } => assert_eq!(key, expected_key),
        other => panic!("{expected_key}: {other}"),
    };
    let gpt2 = || Folder::of("bpe_gpt2");
    check(gpt2().config("eos_token", json!(5)), "eos_token");
    check(gpt2().config("bos_token", json!({"text": "x"})), "bos_token");
    check(gpt2().config("chat_template", json!(5)), "chat_template");
    check(gpt2().config("chat_template", json!([{"name": "default"}])), "chat_template");
    check(gpt2().config("added_tokens_decoder", json!([])), "added_tokens_decoder");
    check(gpt2().config("added_tokens_decoder", json!({"x": {}})), "added_tokens_decoder.x");
    check(gpt2().config("added_tokens_decoder", json!({"1": "a"})), "added_tokens_decoder.1");
    check(gpt2().config("extra_special_tokens", json!("a")), "extra_special_tokens");
    check(gpt2().config("additional_special_tokens", json!([1])), "additional_special_tokens");
    check(gpt2().config("tokenizer_class", json!([])), "tokenizer_class");
    check(gpt2().file("config.json", json!({"eos_token_id": "x"})), "eos_token_id");
    check(gpt2().file("generation_config.json", json!({"eos_token_id": [1, "2"]})), "eos_token_id");
    check(gpt2().file("added_tokens.json", json!({"a": "b"})), "a");
    let error = gpt2().file("config.json", json!("{")).load().unwrap_err();
    assert!(matches!(error, Error::Json { .. }), "{error}");
}

#[test]
fn chat_templates_that_cannot_be_used() {
    let gpt2 = || Folder::of("bpe_gpt2");
    let failure = |folder: Folder| text_error(prompt(&folder.load().unwrap(), None));
    assert!(matches!(failure(gpt2().config("chat_template", Value::Null)), TextError::NoChatTemplate));
    let only_rag = gpt2().config("chat_template", json!({"rag": "x", "b": "y"}));
    let error = failure(only_rag);
    assert_eq!(error.to_string(), "no chat template is named `default`; there are `rag`, `b`");
    let python = gpt2().config("chat_template_type", json!("deepseek_v32"));
    assert!(python.load().unwrap().has_chat_template());
    assert!(matches!(failure(python), TextError::TemplateType(name) if name == "deepseek_v32"));
    let syntax = gpt2().config("chat_template", json!("{% if %}"));
    assert!(matches!(failure(syntax), TextError::TemplateSyntax { line: Some(1), .. }));
}

#[test]
fn a_template_can_be_chosen() {
    let named = json!([{"name": "default", "template": "d"}, {"name": "rag", "template": "r{{ documents|length }}"}]);
    let folder = Folder::of("bpe_gpt2").config("chat_template", named);
    let tokenizer = folder.load().unwrap();
    let render = |tokenizer: &Tokenizer, template: Option<&str>| {
        let documents = Some(json!([{"title": "t"}]));
        let options =
            TemplateOptions { template: template.map(str::to_owned), documents, ..TemplateOptions::default() };
        tokenizer.apply_chat_template(&[json!({"role": "user", "content": "hi"})], &options)
    };
    assert_eq!(render(&tokenizer, None).unwrap(), "d");
    assert_eq!(render(&tokenizer, Some("rag")).unwrap(), "r1");
    assert!(matches!(text_error(render(&tokenizer, Some("none"))), TextError::NoSuchTemplate { .. }));
    assert_eq!(tokenizer.chat_template(), Some("d"));
    let own = TokenizerOptions { chat_template: Some("own".into()), ..TokenizerOptions::default() };
    assert_eq!(render(&folder.load_with(&own).unwrap(), None).unwrap(), "own");
    let config = json!({"chat_template": "over"}).as_object().unwrap().clone();
    let over = TokenizerOptions { config, ..TokenizerOptions::default() };
    let with_file = folder.file("chat_template.jinja", json!("file"));
    assert_eq!(render(&with_file.load_with(&over).unwrap(), None).unwrap(), "over");
    let legacy = Folder::of("bpe_gpt2")
        .config("chat_template", Value::Null)
        .file("chat_template.json", json!({"chat_template": "json"}));
    assert_eq!(render(&legacy.load().unwrap(), None).unwrap(), "json");
}

#[test]
fn a_template_without_text_counts_as_absent() {
    let blank = || Folder::of("bpe_gpt2").config("chat_template", json!(""));
    assert!(!blank().load().unwrap().has_chat_template());
    assert!(matches!(text_error(prompt(&blank().load().unwrap(), None)), TextError::NoChatTemplate));
    let named = Folder::of("bpe_gpt2").config("chat_template", json!({"default": " \n", "b": "y"}));
    assert!(matches!(text_error(prompt(&named.load().unwrap(), None)), TextError::NoSuchTemplate { .. }));
    let in_file =
        Folder::of("bpe_gpt2").config("chat_template", json!("config")).file("chat_template.jinja", json!(""));
    assert_eq!(prompt(&in_file.load().unwrap(), None).unwrap(), "config");
    let given = TokenizerOptions { chat_template: Some(String::new()), ..TokenizerOptions::default() };
    assert!(!Folder::of("bpe_gpt2").load_with(&given).unwrap().has_chat_template());
}

#[test]
fn thinking_is_on_unless_told_otherwise() {
    let folder = Folder::of("bpe_gpt2").config("chat_template", json!("{{ enable_thinking }} {{ x }}"));
    let tokenizer = folder.load().unwrap();
    assert!(tokenizer.has_thinking());
    assert_eq!(prompt(&tokenizer, None).unwrap(), "True ");
    let kwargs = json!({"enable_thinking": false, "x": [1]}).as_object().unwrap().clone();
    let options = TemplateOptions { kwargs, ..TemplateOptions::default() };
    let messages = [json!({"role": "user", "content": "hi"})];
    assert_eq!(tokenizer.apply_chat_template(&messages, &options).unwrap(), "False [1]");
}

#[test]
fn tokens_that_end_a_text() {
    let mut tokenizer = Folder::of("bpe_gpt2").load().unwrap();
    assert_eq!(tokenizer.add_eos_token("<think>").unwrap(), 3);
    assert_eq!(tokenizer.add_eos_token(" 17 ").unwrap(), 17);
    let error = text_error(tokenizer.add_eos_token("<nothing>"));
    assert!(matches!(&error, TextError::UnknownToken(token) if token == "<nothing>"), "{error}");
    assert!(error.hint().is_some());
    assert_eq!(tokenizer.eos_token_ids().iter().copied().collect::<Vec<_>>(), [2, 3, 17]);
    let given = TokenizerOptions { eos_token_ids: Some(vec![5]), ..TokenizerOptions::default() };
    let folder = Folder::of("bpe_gpt2").file("config.json", json!({"eos_token_id": 7}));
    let ids = folder.load_with(&given).unwrap().eos_token_ids().clone();
    assert_eq!(ids.into_iter().collect::<Vec<_>>(), [2, 5]);
}

#[test]
fn an_end_that_names_no_token_counts_as_absent() {
    let check = |generation: Value, config: Value, expected: &[u32]| {
        let folder = Folder::of("bpe_gpt2")
            .file("generation_config.json", json!({"eos_token_id": generation}))
            .file("config.json", json!({"eos_token_id": config}));
        let tokenizer = folder.load().unwrap();
        assert!(tokenizer.eos_token_ids().iter().eq(expected), "{generation} {config}");
    };
    check(json!([]), json!(7), &[2, 7]);
    check(json!([null, -1]), json!([7, null]), &[2, 7]);
    check(json!([9, -1]), json!(7), &[2, 9]);
    check(json!(0), json!(7), &[0, 2]);
    check(json!(-1), json!(-1), &[2]);
}

#[test]
fn a_tokenizer_is_built_from_memory_as_from_a_folder() {
    for base in ["bpe_gpt2", "bpe_llama3", "spm_llama2", "spm_gemma", "unigram"] {
        let folder = fixtures("tokenizer").join(base);
        let content: Value = io::read_json(folder.join("tokenizer.json")).unwrap();
        let options = TokenizerOptions {
            config: io::read_json(folder.join("tokenizer_config.json")).unwrap(),
            eos_token_ids: Some(vec![5]),
            ..TokenizerOptions::default()
        };
        let from_memory = Tokenizer::from_json("a.gguf", &content, &options).unwrap();
        let from_folder = Tokenizer::from_folder(&folder, &options).unwrap();
        assert_eq!(format!("{from_memory:?}"), format!("{from_folder:?}"), "{base}");
        assert_eq!(from_memory.chat_template(), from_folder.chat_template(), "{base}");
        let text = "Hello <|bos|><s> wörld\n  two";
        assert_eq!(from_memory.encode(text, true).unwrap(), from_folder.encode(text, true).unwrap(), "{base}");
    }
    let error = Tokenizer::from_json("a.gguf", &json!({}), &TokenizerOptions::default()).unwrap_err();
    assert!(error.to_string().starts_with("`a.gguf` is not a usable tokenizer"), "{error}");
}

#[test]
fn a_prompt_gets_one_start_token() {
    let tokenizer = Folder::of("bpe_llama3").load().unwrap();
    let bos = tokenizer.special_token_id("bos_token").unwrap();
    for text in ["hello", "<|bos|>hello"] {
        let ids = tokenizer.encode_prompt(text).unwrap();
        assert_eq!(ids.iter().filter(|id| **id == bos).count(), 1, "{text}");
        assert_eq!(ids[0], bos);
    }
}

#[test]
fn a_text_that_is_far_too_long_is_found_by_its_beginning() {
    let tokenizer = Folder::of("bpe_gpt2").load().unwrap();
    let text = "9".repeat(200);
    assert!(tokenizer.check_length(&text, 100).is_ok(), "the beginning is all of it");
    let error = text_error(tokenizer.check_length(&text, 10));
    assert_eq!(error.to_string(), "the prompt has more than 80 tokens, and the model reads at most 10");
    assert!(error.hint().is_some());
    assert!(tokenizer.check_length(&"é".repeat(200), 1).is_err(), "it is cut between characters");
    assert!(tokenizer.check_length("", 0).is_ok());
}

#[test]
fn tokenizers_cross_threads() {
    fn check<T: Send + Sync + 'static>() {}
    check::<Tokenizer>();
    check::<mlxlm_core::text::Detokenizer>();
}
