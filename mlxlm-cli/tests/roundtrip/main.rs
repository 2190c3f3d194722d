//! Folders that go from here to Python mlx-lm and back: models converted in several forms, a prompt cache, a fine-tune.
//!
//! `cargo xtask golden exchange` runs Python on all of them and leaves two things in `tests/golden`: `roundtrip.json`, the text and
//! the tokens that Python gets from each folder, ours and its own; and some of its own folders, `mlx_lm_0.32.2`. These tests
//! make our folders anew, as the seeds are (`seeds.rs`), and want the same texts and tokens of all that is there.
//!
//! With `MLXLM_ROUNDTRIP` set to a folder, everything is made and looked for there, and stays: so `cargo xtask golden exchange`
//! first has our folders made, and then, when Python's lie beside them, has all of them compared.
#![allow(clippy::unwrap_used, reason = "helpers of tests may fail as tests do")]
#![allow(unreachable_pub, reason = "the modules of a test binary are its whole world")]

mod seeds;
mod work;

use mlxlm_models::{LoadOptions, Loaded, load};
use mlxlm_sample::{GenerateOptions, stream_generate};
use serde::Deserialize;

use work::Work;

/// What Python said: a file `roundtrip.json`.
#[derive(Deserialize)]
struct Record {
    texts: Vec<Answer>,
}

/// One text that Python generated, greedily.
#[derive(Deserialize)]
struct Answer {
    /// The model's folder.
    model: String,
    /// The folder of the fine-tune.
    adapter: Option<String>,
    /// The prompt cache that the prompt continues.
    cache: Option<String>,
    prompt: String,
    text: String,
    /// Its tokens, as many as are well ahead of the second best; unknown with a cache.
    tokens: Option<Vec<u32>>,
    max_tokens: usize,
}

impl Answer {
    /// The folder or file that is tested with it.
    fn subject(&self) -> &str {
        self.adapter.as_deref().or(self.cache.as_deref()).unwrap_or(&self.model)
    }

    /// What the binary says, separate from what Python did.
    fn check_text(&self, work: &Work) -> Result<(), String> {
        let max_tokens = self.max_tokens.to_string();
        let mut args = vec!["generate", "--model", &self.model, "--prompt", &self.prompt, "--verbose", "false"];
        args.extend(["--max-tokens", &max_tokens]);
        match &self.cache {
            Some(cache) => args.extend(["--prompt-cache-file", cache]),
            None => args.push("--ignore-chat-template"),
        }
        args.extend(self.adapter.iter().flat_map(|adapter| ["--adapter-path", adapter]));
        let got = work.mlxlm(&args)?;
        // Python strips a leading space, and streams broken characters as they come; the tokens below are compared exactly.
        let words = |text: &str| text.replace('\u{fffd}', "").trim().to_owned();
        if words(&got) == words(&self.text) { Ok(()) } else { Err(format!("{got:?}, in Python {:?}", self.text)) }
    }

    /// What the library generates.
    fn check_tokens(&self, work: &Work) -> Result<(), String> {
        let Some(tokens) = &self.tokens else { return Ok(()) };
        let adapter_path = self.adapter.as_ref().map(|adapter| work.path(adapter));
        let options = LoadOptions { adapter_path, ..LoadOptions::default() };
        let Loaded { model, tokenizer, .. } = load(work.path(&self.model), &options).map_err(|e| e.to_string())?;
        let options = GenerateOptions { max_tokens: Some(self.max_tokens), ..GenerateOptions::default() };
        let responses = stream_generate(&*model, &tokenizer, self.prompt.as_str(), &options).unwrap();
        let got: Vec<u32> = responses.map(|response| response.unwrap().token).collect();
        if &got == tokens { Ok(()) } else { Err(format!("{got:?}, in Python {tokens:?}")) }
    }
}

#[test]
fn what_goes_to_python_and_back_says_the_same() {
    let work = Work::open();
    work.make_ours();
    let Some(record) = work.record::<Record>() else { return };
    let there: Vec<&Answer> = record.texts.iter().filter(|text| work.path(text.subject()).exists()).collect();
    let count = |side: &str| there.iter().filter(|text| text.subject().starts_with(side)).count();
    assert_eq!(count("ours/"), work::CASES.len() + 2, "texts of our folders");
    assert!(count("theirs/") >= 3, "{} texts of Python's folders", count("theirs/"));
    let check = |text: &&Answer| {
        let result = text.check_text(&work).and_then(|()| text.check_tokens(&work));
        result.err().map(|why| format!("{} after {:?}: {why}", text.subject(), text.prompt))
    };
    let wrong: Vec<String> = there.iter().filter_map(check).collect();
    assert!(wrong.is_empty(), "{} of {} texts differ:\n{}", wrong.len(), there.len(), wrong.join("\n"));
}
