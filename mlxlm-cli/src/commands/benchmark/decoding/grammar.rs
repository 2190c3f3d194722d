//! Answers that a JSON schema holds, against free ones, with the vocabulary of a real tokenizer.

use std::path::Path;
use std::time::Instant;

use mlxlm_core::device;
use mlxlm_core::text::{GgufTokenizer, TokenizerOptions};
use mlxlm_core::weights::gguf::GgufFile;
use mlxlm_models::CausalLm;
use mlxlm_sample::engine::Decoding;
use mlxlm_sample::grammar::{GrammarSpec, Grammars, Matcher};
use mlxlm_sample::{Error, GenerateOptions};
use serde_json::Value;

use super::{against, greedy};
use crate::failure::Result;

const TOKENS: usize = 48;
const ROUNDS: usize = 5;
const SCHEMA: &str = r#"{
    "type": "array", "minItems": 40,
    "items": {
        "type": "object", "additionalProperties": false, "required": ["name", "age", "tags"],
        "properties": {
            "name": {"type": "string"}, "age": {"type": "integer"}, "tags": {"type": "array", "items": {"type": "string"}}
        }
    }
}"#;

/// Tokens a second.
pub(super) fn measure(model: &dyn CausalLm, vocabulary: &Path) -> Result<Value> {
    let file = GgufFile::open(vocabulary)?;
    let tokenizer = GgufTokenizer::from_metadata(file.metadata())?.load(&TokenizerOptions::default())?;
    let vocab_size = usize::try_from(model.info().vocab_size).unwrap_or(0);
    let grammars = Grammars::new(&tokenizer, vocab_size);
    let spec = GrammarSpec::json_schema(SCHEMA).map_err(Error::from)?;
    let matcher = || grammars.matcher(&spec).map_err(Error::from);
    let mut times = [(0, 0.0); 2];
    for round in 0..=ROUNDS {
        for (sum, matcher) in times.iter_mut().zip([Some(matcher()?), None]) {
            let (tokens, seconds) = run(model, matcher)?;
            // The first round warms up.
            if round > 0 {
                *sum = (sum.0 + tokens, sum.1 + seconds);
            }
        }
    }
    let [ours, plain] = times.map(|(tokens, seconds)| tokens as f64 / seconds);
    Ok(against(ours, plain))
}

/// The tokens after the first, and the seconds that they take.
fn run(model: &dyn CausalLm, matcher: Option<Matcher>) -> Result<(usize, f64)> {
    let options = GenerateOptions { max_tokens: Some(TOKENS), ..GenerateOptions::default() };
    let mut decoding = Decoding::new(model, &[1, 2, 3], None, greedy()?, &options)?.with_matcher(matcher);
    decoding.next().transpose()?;
    let since = Instant::now();
    let mut count = 0;
    for token in decoding.by_ref() {
        token?;
        count += 1;
    }
    let seconds = since.elapsed().as_secs_f64();
    drop(decoding);
    device::synchronize()?;
    Ok((count, seconds))
}
