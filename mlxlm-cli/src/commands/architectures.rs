//! `models` without a configuration: every architecture with its names, its caches and what can be done with it.

use mlxlm_models::arch::ARCHITECTURES;
use mlxlm_models::{Abilities, Architecture};
use serde_json::{Value, json};

use crate::args::ModelsArgs;
use crate::failure::Result;
use crate::output::{print, say};

/// Prints the list in the form that was asked for.
pub(super) fn list(args: &ModelsArgs) -> Result {
    let all = ARCHITECTURES.iter().map(|arch| Ok((*arch, arch.abilities()?))).collect::<Result<Vec<_>>>()?;
    if args.json {
        return say!("{:#}", Value::Array(all.iter().map(|(arch, abilities)| listed(arch, abilities)).collect()));
    }
    if args.markdown {
        print(format_args!("{HEAD}"))?;
        return all.iter().try_for_each(|(arch, abilities)| say!("{}", row(arch, abilities)));
    }
    all.iter().try_for_each(|(arch, abilities)| say!("{}", line(arch, abilities)))
}

/// What stands above the table of `docs/architectures.md`.
const HEAD: &str = "\
# Architectures

Every `model_type` that can be loaded, as `mlxlm models` lists them. This page is made by

    cargo run -p mlxlm-cli -- models --markdown > docs/architectures.md

and `cargo xtask test` fails if it is not current. The columns: what layers keep of a sequence, in the words of Python mlx-lm; whether
sequences of different lengths can be read as one batch; whether `--kv-bits` quantizes the KV cache; whether every block says how
its weights are cut over several devices; and whether heads that predict further tokens (multi-token prediction, MTP) are loaded
where a checkpoint has them. All of them can be quantized and fine-tuned with LoRA.

| model type | also | caches | batches | quantized KV cache | sharding | MTP |
| --- | --- | --- | --- | --- | --- | --- |
";

fn row(arch: &Architecture, abilities: &Abilities) -> String {
    let (own, others) = names(arch);
    let quoted = |names: &[String]| names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    let yes = |can: bool| if can { "yes" } else { "–" };
    let caches = if abilities.caches.is_empty() { "none".to_owned() } else { abilities.caches.join(", ") };
    let notes = if arch.is_wrapper() { format!("`{own}` (the text model inside)") } else { format!("`{own}`") };
    let abilities = [abilities.batches, abilities.quantized_kv, abilities.shards, abilities.mtp].map(yes).join(" | ");
    format!("| {notes} | {} | {caches} | {abilities} |", quoted(&others))
}

/// An architecture's own name, and what else means it.
fn names(arch: &Architecture) -> (&str, Vec<String>) {
    let (own, others) = arch.names.split_first().unwrap_or((&"", &[]));
    let by_class = arch.classes().iter().map(|(model_type, class)| format!("{model_type} of {class}"));
    (own, others.iter().map(ToString::to_string).chain(by_class).collect())
}

/// One line for people: its name, its caches, its abilities, what else it serves.
fn line(arch: &Architecture, abilities: &Abilities) -> String {
    let (own, others) = names(arch);
    let mut notes = vec![if abilities.caches.is_empty() { "no cache".to_owned() } else { abilities.caches.join(", ") }];
    notes.extend(able(abilities).into_iter().map(str::to_owned));
    if arch.is_wrapper() {
        notes.push("the text model inside".to_owned());
    }
    if !others.is_empty() {
        notes.push(format!("also {}", others.join(", ")));
    }
    format!("{own:<22} {}", notes.join("; "))
}

/// What it can do, by name.
fn able(abilities: &Abilities) -> Vec<&'static str> {
    let all = [
        ("batches", abilities.batches),
        ("quantized KV cache", abilities.quantized_kv),
        ("sharding", abilities.shards),
        ("MTP", abilities.mtp),
    ];
    all.into_iter().filter(|(_, can)| *can).map(|(name, _)| name).collect()
}

fn listed(arch: &Architecture, abilities: &Abilities) -> Value {
    let classes: Vec<Value> = arch
        .classes()
        .iter()
        .map(|(model_type, class)| json!({"model_type": model_type, "architecture": class}))
        .collect();
    let (own, others) = arch.names.split_first().unwrap_or((&"", &[]));
    json!({
        "model_type": own,
        "also": others,
        "also_by_class": classes,
        "wraps_text_model": arch.is_wrapper(),
        "caches": abilities.caches,
        "batches": abilities.batches,
        "quantized_kv_cache": abilities.quantized_kv,
        "sharding": abilities.shards,
        "training": true,
        "multi_token_prediction": abilities.mtp,
    })
}
