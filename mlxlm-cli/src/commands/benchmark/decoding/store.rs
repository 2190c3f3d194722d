//! Prompts that are restored from the store on disk, against reading them, and the first token after that.

use std::path::Path;

use mlxlm_cache::store::{DiskOptions, DiskStore, Key};
use mlxlm_models::CausalLm;
use mlxlm_sample::{GenerateOptions, make_prompt_cache, prefill};
use serde_json::{Map, Value, json};

use super::{gaps, median, timed, tokens};
use crate::failure::{Failure, Result};

const PROMPTS: [usize; 2] = [4096, 32_768];
const ROUNDS: usize = 5;

/// Seconds by the length of the prompt.
pub(super) fn measure(model: &dyn CausalLm, folder: &Path) -> Result<Value> {
    let key = Key { model: "benchmark".to_owned(), adapter: String::new() };
    let mut found = Map::new();
    for count in PROMPTS {
        let prompt = tokens(model, count, count as u64);
        let mut caches = make_prompt_cache(model, None)?;
        let options = GenerateOptions::default();
        let ((), read) = timed(|| Ok(prefill(model, &prompt, &mut caches, &options, &mut |_, _| {})?))?;
        DiskStore::open(folder, DiskOptions::default())?.insert(&key, &prompt, &caches, &[])?;
        let more = [&prompt[..], &[1]].concat();
        let (mut restored, mut first) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            // As a process that has just begun, which knows of no entry yet.
            let mut store = DiskStore::open(folder, DiskOptions::default())?;
            let (hit, took) = timed(|| Ok(store.fetch(&key, &more)))?;
            let mut hit = hit.ok_or_else(|| Failure::new("the store has lost a prompt"))?;
            restored.push(took.as_secs_f64());
            first.extend(gaps(model, &mut hit.caches, &more[hit.tokens..], 1)?);
        }
        // The first token of a text has no pass of another one beside it, whose graph would be built meanwhile.
        let mut warm = Vec::new();
        for _ in 0..ROUNDS {
            warm.extend(gaps(model, &mut caches, &[1], 1)?);
        }
        let step = median(gaps(model, &mut caches, &[1], 24)?.split_off(1));
        let seconds = json!({
            "read": read.as_secs_f64(), "restored": median(restored), "first_token": median(first), "step": step,
            "first_token_in_memory": median(warm),
        });
        found.insert(count.to_string(), seconds);
    }
    Ok(Value::Object(found))
}
