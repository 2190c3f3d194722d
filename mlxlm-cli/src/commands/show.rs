//! `show`: what is known of one model, without loading it.

use std::path::Path;

use mlxlm_core::text::{Tokenizer, TokenizerOptions};
use mlxlm_models::{ModelConfig, gguf};
use serde_json::{Value, json};

use super::models::Report;
use crate::args::ShowArgs;
use crate::failure::Result;
use crate::memory::{self, USUAL_TOKENS};
use crate::model::{self, Source};
use crate::output::{print, say, warn};
use crate::{terminal, units};

/// Runs the command.
pub(super) fn run(args: &ShowArgs) -> Result {
    let Source { folder, repo } = model::resolve(&args.model, args.revision.as_deref())?;
    let config = match folder.is_dir() {
        true => ModelConfig::read(&folder)?,
        false => gguf::open(&folder)?.config,
    };
    let report = Report::of(&config)?;
    let template = has_template(&folder);
    let weights = memory::weight_bytes(&folder);
    let bits = weights as f64 * 8.0 / report.parameters.max(1) as f64;
    let with = |tokens: usize| {
        weights
            .saturating_add(report.state_bytes)
            .saturating_add(report.kv_bytes_per_token.saturating_mul(tokens as u64))
    };
    let limit = report.context_length.and_then(|tokens| usize::try_from(tokens).ok()).filter(|tokens| *tokens > 0);
    let usual = limit.map_or(USUAL_TOKENS, |limit| limit.min(USUAL_TOKENS));
    if args.json {
        return say!(
            "{:#}",
            json!({
                "model": args.model,
                "repository": repo.as_ref().map(|repo| repo.as_str()),
                "folder": folder,
                "model_type": report.model_type,
                "parameters": report.parameters,
                "weight_bytes": weights,
                "bits_per_weight": bits,
                "quantization": quantization(&config),
                "context_length": limit,
                "chat_template": template,
                "kv_bytes_per_token": report.kv_bytes_per_token,
                "state_bytes": report.state_bytes,
                "memory_bytes": {usual.to_string(): with(usual)},
            })
        );
    }
    report.warnings.iter().for_each(warn);
    let mut rows = vec![
        ("model", terminal::name(&args.model)),
        ("folder", terminal::name(&folder.to_string_lossy())),
        ("model type", terminal::name(&report.model_type)),
        ("parameters", format!("{} ({})", units::short(report.parameters), report.parameters)),
        ("weights", format!("{}, {bits:.2} bits each", units::bytes(weights))),
        ("chat template", if template { "yes" } else { "no" }.to_owned()),
        ("KV cache", format!("{} for each token", units::bytes(report.kv_bytes_per_token))),
        ("memory", format!("{} with {usual} tokens of context", units::bytes(with(usual)))),
    ];
    if let Some(limit) = limit {
        rows.insert(5, ("context", format!("{limit} tokens")));
        if limit > usual {
            rows.push(("", format!("{} with all {limit}", units::bytes(with(limit)))));
        }
    }
    rows.iter().try_for_each(|(what, value)| print(format_args!("{what:<15}{value}\n")))
}

/// How the configuration says the weights are packed.
fn quantization(config: &ModelConfig) -> Option<Value> {
    config.get("quantization").or_else(|| config.get("quantization_config")).cloned()
}

fn has_template(folder: &Path) -> bool {
    let tokenizer = match folder.is_dir() {
        true => Tokenizer::from_folder(folder, &TokenizerOptions::default()).ok(),
        false => gguf::tokenizer(folder).ok().and_then(|tokenizer| tokenizer.load(&TokenizerOptions::default()).ok()),
    };
    tokenizer.is_some_and(|tokenizer| tokenizer.has_chat_template())
}
