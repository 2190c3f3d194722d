//! `list`: the models on this machine, whatever brought them here.

use std::collections::BTreeSet;
use std::path::Path;

use mlxlm_models::ModelConfig;
use serde_json::{Value, json};

use crate::args::ListArgs;
use crate::failure::Result;
use crate::output::{print, say, warn};
use crate::settings::Settings;
use crate::{model, terminal, units};

/// A model by a name that `--model` takes.
struct Entry {
    name: String,
    /// What the name stands for, if not for itself.
    of: Option<String>,
    model_type: Option<String>,
    bytes: Option<u64>,
}

/// Runs the command.
pub(super) fn run(args: &ListArgs) -> Result {
    let entries = entries()?;
    if args.names {
        let names: BTreeSet<&str> = entries.iter().map(|entry| entry.name.as_str()).collect();
        return names.into_iter().try_for_each(|name| say!("{}", terminal::name(name)));
    }
    if args.json {
        let entries: Vec<Value> = entries
            .iter()
            .map(|entry| json!({"name": entry.name, "of": entry.of, "model_type": entry.model_type, "bytes": entry.bytes}))
            .collect();
        return say!("{:#}", Value::from(entries));
    }
    let rows: Vec<[String; 3]> = entries
        .iter()
        .map(|entry| {
            let name = match &entry.of {
                Some(of) => format!("{} = {}", terminal::name(&entry.name), terminal::name(of)),
                None => terminal::name(&entry.name),
            };
            let model_type = entry.model_type.as_deref().map_or_else(|| "-".to_owned(), terminal::name);
            [name, model_type, entry.bytes.map_or_else(|| "-".to_owned(), units::bytes)]
        })
        .collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let (name_width, type_width) = (width(0), width(1));
    rows.iter().try_for_each(|[name, model_type, size]| {
        print(format_args!("{name:name_width$}  {model_type:type_width$}  {size:>9}\n"))
    })
}

/// Short names, what is built in, and what is in the cache.
fn entries() -> Result<Vec<Entry>> {
    let settings = Settings::read()?;
    let short = settings.models().map(|(name, model)| Entry {
        name: name.to_owned(),
        of: Some(model.to_owned()),
        model_type: None,
        bytes: None,
    });
    let built_in = mlxlm_models::demo::names().map(|(name, bytes)| Entry {
        name: name.to_owned(),
        of: None,
        model_type: Some("built in".to_owned()),
        bytes: Some(bytes),
    });
    let mut entries: Vec<Entry> = short.chain(built_in).collect();
    let scan = model::hub()?.scan()?;
    scan.warnings.iter().for_each(warn);
    for repo in scan.repos.iter().filter(|repo| repo.kind == "model") {
        let newest = repo.revisions.iter().max_by_key(|revision| revision.last_modified);
        let model_type = newest.and_then(|revision| model_type(&revision.path));
        entries.push(Entry { name: repo.id.clone(), of: None, model_type, bytes: Some(repo.size_bytes) });
    }
    Ok(entries)
}

/// The type that a folder's configuration names, where it has one.
fn model_type(folder: &Path) -> Option<String> {
    ModelConfig::read(folder).ok()?.model_type().ok().map(str::to_owned)
}
