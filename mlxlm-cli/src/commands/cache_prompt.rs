//! `cache_prompt`: reads a prompt once and keeps what the model remembers in a file.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use mlxlm_core::text::{TemplateOptions, Tokenizer, TokenizerOptions};
use mlxlm_core::{device, io};
use mlxlm_models::{CausalLm, Loaded};
use mlxlm_sample::{GenerateOptions, make_prompt_cache, prefill};
use serde_json::{Map, Value, json};

use super::generate::{kv_quantization, prefill_step_size};
use crate::args::{CONVERTED_MODEL, CachePromptArgs};
use crate::failure::{Failure, Result};
use crate::model::load_model;
use crate::output::{print, say};
use crate::{prompt, terminal};

/// Runs the command.
pub(super) fn run(args: &CachePromptArgs) -> Result {
    let name = args.model.model.clone().unwrap_or_else(|| CONVERTED_MODEL.to_owned());
    check_place(&args.prompt_cache_file)?;
    let options = GenerateOptions {
        prefill_step_size: prefill_step_size(None, args.kv.max_kv_size),
        kv_quantization: kv_quantization(&args.kv.precision)?,
        state_bf16: args.kv.precision.gdn_state_bf16,
        ..GenerateOptions::default()
    };
    let mut config = Map::new();
    if let Some(token) = &args.eos_token {
        config.insert("eos_token".into(), json!(token));
    }
    let tokenizer_options = TokenizerOptions { config: config.clone(), ..TokenizerOptions::default() };
    let Loaded { model, tokenizer, .. } = load_model(&name, &args.model.variant, tokenizer_options)?;
    let tokens = prompt_tokens(&prompt::text(&args.prompt)?, &tokenizer, &*model)?;

    let mut caches = make_prompt_cache(&*model, args.kv.max_kv_size)?;
    let start = Instant::now();
    let mut printed = Ok(());
    prefill(&*model, &tokens, &mut caches, &options, &mut |done, _total| {
        let speed = done as f64 / start.elapsed().as_secs_f64().max(1e-9);
        let line = print(format_args!("\rProcessed {done:6} tokens ({speed:6.2} tok/s)"));
        printed = std::mem::replace(&mut printed, Ok(())).and(line);
    })?;
    printed?;
    say!("\nPeak memory: {:.3} GB", device::peak_memory_bytes()? as f64 / 1e9)?;
    say!("Saving to {}...", terminal::name(&args.prompt_cache_file.display().to_string()))?;
    let metadata = BTreeMap::from([
        ("model".to_owned(), name),
        ("tokenizer_config".to_owned(), Value::Object(config).to_string()),
    ]);
    Ok(caches.save(&args.prompt_cache_file, &metadata)?)
}

/// Refuses a file that could not be written, before a long prompt is read.
fn check_place(file: &Path) -> Result {
    match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() && !folder.is_dir() => {
            let (file, folder) = (file.display(), folder.display());
            Err(Failure::new(format!("cannot write `{file}`: `{folder}` is not a folder")))
        }
        _ => Ok(io::target(file).map(drop)?),
    }
}

/// The prompt as the beginning of a user's message, which a later query continues.
fn prompt_tokens(text: &str, tokenizer: &Tokenizer, model: &dyn CausalLm) -> Result<Vec<u32>> {
    if !tokenizer.has_chat_template() {
        return prompt::plain_tokens(text, tokenizer, model);
    }
    let options =
        TemplateOptions { add_generation_prompt: false, continue_final_message: true, ..TemplateOptions::default() };
    let rendered = tokenizer.apply_chat_template(&[json!({"role": "user", "content": text})], &options)?;
    prompt::rendered_tokens(&rendered, tokenizer, model)
}
