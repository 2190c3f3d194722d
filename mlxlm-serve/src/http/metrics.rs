//! `/metrics` in the text format of Prometheus: numbers of our own, and those by which routers know vLLM.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write};
use std::sync::{Mutex, PoisonError};

use axum::http::StatusCode;

use crate::api::{adapters, ids};
use crate::app::App;
use crate::engine::{AdapterUse, Handle, Number};

/// Requests by path and status.
#[derive(Debug, Default)]
pub(crate) struct HttpNumbers(Mutex<BTreeMap<(&'static str, u16), u64>>);

/// The paths that are counted under their names.
const PATHS: [&str; 21] = [
    "/v1/chat/completions",
    "/chat/completions",
    "/v1/completions",
    "/completions",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/v1/responses",
    "/v1/responses/compact",
    "/v1/embeddings",
    "/v1/models",
    "/v1/models/load",
    "/v1/models/unload",
    "/v1/adapters",
    "/tokenize",
    "/detokenize",
    "/apply-template",
    "/health",
    "/ready",
    "/metrics",
    "/openapi.json",
    "/",
];

impl HttpNumbers {
    /// Counts a request. Paths that clients make up are one.
    pub(crate) fn count(&self, path: &str, status: StatusCode) {
        let path = PATHS.iter().find(|own| **own == path).copied().unwrap_or("other");
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry((path, status.as_u16())).or_default() += 1;
    }
}

/// A number of an engine: its name, what it is, and where it is found.
type Family = (&'static str, &'static str, fn(&Handle) -> f64);

/// What goes up and down.
const GAUGES: [Family; 11] = [
    ("mlxlm_requests_waiting", "Sequences that wait for their turn.", waiting),
    ("mlxlm_requests_running", "Sequences that are read or generated.", running),
    ("mlxlm_requests_inside", "Sequences in the server.", |engine| engine.inside() as f64),
    ("mlxlm_cache_bytes", "Memory of the caches of running sequences.", |engine| count(&engine.numbers().cache_bytes)),
    ("mlxlm_prompt_cache_bytes", "Memory of caches kept for prompts to come.", |engine| {
        count(&engine.numbers().kept_bytes)
    }),
    ("mlxlm_prompt_cache_sequences", "Sequences kept for prompts to come.", |engine| {
        count(&engine.numbers().kept_sequences)
    }),
    ("mlxlm_cache_usage_ratio", "Share of the memory for caches that is taken, 0 to 1.", usage),
    ("mlxlm_ready", "Whether the model takes requests.", |engine| {
        f64::from(u8::from(engine.status().state().takes_jobs()))
    }),
    ("vllm:num_requests_waiting", "Sequences that wait for their turn.", waiting),
    ("vllm:num_requests_running", "Sequences that are read or generated.", running),
    ("vllm:kv_cache_usage_perc", "Share of the memory for caches that is taken, 0 to 1.", usage),
];

/// What only grows.
const COUNTERS: [Family; 14] = [
    ("mlxlm_prompt_tokens_total", "Tokens of prompts that were read.", |engine| count(&engine.numbers().prompt_tokens)),
    ("mlxlm_cached_tokens_total", "Tokens of prompts that were known.", |engine| {
        count(&engine.numbers().cached_tokens)
    }),
    ("mlxlm_generated_tokens_total", "Tokens that were generated.", |engine| count(&engine.numbers().generated_tokens)),
    ("mlxlm_proposed_tokens_total", "Tokens that were proposed.", |engine| count(&engine.numbers().proposed_tokens)),
    ("mlxlm_accepted_tokens_total", "Proposed tokens that were right.", |engine| {
        count(&engine.numbers().accepted_tokens)
    }),
    ("mlxlm_steps_total", "Steps of the engine.", |engine| count(&engine.numbers().steps)),
    ("mlxlm_requests_done_total", "Jobs that were done.", |engine| count(&engine.numbers().done)),
    ("mlxlm_requests_failed_total", "Jobs that failed.", |engine| count(&engine.numbers().failed)),
    ("mlxlm_requests_cancelled_total", "Jobs whose client went away.", |engine| count(&engine.numbers().cancelled)),
    ("mlxlm_prompt_cache_hits_total", "Prompts of which a beginning was known.", |engine| {
        count(&engine.numbers().cache_hits)
    }),
    ("mlxlm_prompt_cache_misses_total", "Prompts of which none was.", |engine| count(&engine.numbers().cache_misses)),
    ("mlxlm_disk_prompt_cache_hits_total", "Prompts that went on from the disk.", |engine| {
        count(&engine.numbers().disk_hits)
    }),
    ("mlxlm_disk_prompt_cache_written_total", "Texts written to the disk.", |engine| {
        count(&engine.numbers().disk_written)
    }),
    ("mlxlm_engine_restarts_total", "How often the engine was started anew.", |engine| {
        count(&engine.numbers().restarts)
    }),
];

fn count(number: &Number) -> f64 {
    number.get() as f64
}

fn waiting(engine: &Handle) -> f64 {
    count(&engine.numbers().waiting)
}

fn running(engine: &Handle) -> f64 {
    count(&engine.numbers().running)
}

fn usage(engine: &Handle) -> f64 {
    count(&engine.numbers().cache_usage_ppm) / 1e6
}

/// The page: every number once for each model that was loaded, under its first name.
pub(crate) fn page(app: &App) -> String {
    let engines: Vec<(String, Handle)> = app.shelf.engines().collect();
    let mut page = String::new();
    for (kind, families) in [("gauge", &GAUGES[..]), ("counter", &COUNTERS[..])] {
        for (name, help, value) in families {
            // A string takes everything.
            let _ = writeln!(page, "# HELP {name} {help}\n# TYPE {name} {kind}");
            for (model, engine) in &engines {
                let _ = writeln!(page, "{name}{{model_name=\"{}\"}} {}", escaped(model), value(engine));
            }
        }
    }
    let most = if app.options.adapter_roots.is_empty() { 0 } else { adapters::MOST };
    let _ = write!(page, "{}", Adapters::of(&engines, most));
    let name = "mlxlm_http_requests_total";
    let _ = writeln!(page, "# HELP {name} Requests by path and status.\n# TYPE {name} counter");
    for ((path, status), count) in app.http.0.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        let _ = writeln!(page, "{name}{{path=\"{path}\",status=\"{status}\"}} {count}");
    }
    page
}

/// The adapters of requests, for routers that send a request to where its adapter is: one series, under the names by which requests
/// ask for them as models, with the time as its value.
#[derive(Debug)]
struct Adapters {
    most: usize,
    running: String,
    waiting: String,
}

impl Adapters {
    fn of(engines: &[(String, Handle)], most: usize) -> Self {
        let uses: Vec<_> = engines.iter().map(|(model, engine)| (model, engine.status().adapter_use())).collect();
        let list = |which: fn(&AdapterUse) -> &BTreeSet<String>| {
            let names =
                uses.iter().flat_map(|(model, own)| which(own).iter().map(move |name| format!("{model}:{name}")));
            escaped(&names.collect::<Vec<_>>().join(","))
        };
        Self { most, running: list(|own| &own.running), waiting: list(|own| &own.waiting) }
    }
}

impl fmt::Display for Adapters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { most, running, waiting } = self;
        let name = "vllm:lora_requests_info";
        writeln!(f, "# HELP {name} Adapters of requests; the value is the time.\n# TYPE {name} gauge")?;
        write!(f, "{name}{{max_lora=\"{most}\",running_lora_adapters=\"{running}\",")?;
        writeln!(f, "waiting_lora_adapters=\"{waiting}\"}} {}", ids::now_s())
    }
}

/// The value of a label as it is written between quotes.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_cannot_end_their_quotes() {
        assert_eq!(escaped("a\"b\\c\nd"), r#"a\"b\\c\nd"#);
    }
}
