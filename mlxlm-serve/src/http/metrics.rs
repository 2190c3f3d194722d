//! `/metrics` in the text format of Prometheus: numbers of our own, and those by which routers know vLLM.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Mutex, PoisonError};

use axum::http::StatusCode;

use crate::api::ids;
use crate::app::App;

/// Requests by path and status.
#[derive(Debug, Default)]
pub(crate) struct HttpNumbers(Mutex<BTreeMap<(&'static str, u16), u64>>);

/// The paths that are counted under their names.
const PATHS: [&str; 18] = [
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

/// The page.
pub(crate) fn page(app: &App) -> String {
    let numbers = &app.engine.status().numbers;
    let mut page = String::new();
    let mut gauge = |name: &str, help: &str, value: f64| number(&mut page, name, "gauge", help, value);
    let (waiting, running) = (numbers.waiting.get() as f64, numbers.running.get() as f64);
    let usage = numbers.cache_usage_ppm.get() as f64 / 1e6;
    gauge("mlxlm_requests_waiting", "Sequences that wait for their turn.", waiting);
    gauge("mlxlm_requests_running", "Sequences that are read or generated.", running);
    gauge("mlxlm_requests_inside", "Sequences in the server.", app.engine.inside() as f64);
    gauge("mlxlm_cache_bytes", "Memory of the caches of running sequences.", numbers.cache_bytes.get() as f64);
    gauge("mlxlm_prompt_cache_bytes", "Memory of caches kept for prompts to come.", numbers.kept_bytes.get() as f64);
    gauge("mlxlm_prompt_cache_sequences", "Sequences kept for prompts to come.", numbers.kept_sequences.get() as f64);
    gauge("mlxlm_cache_usage_ratio", "Share of the memory for caches that is taken, 0 to 1.", usage);
    gauge(
        "mlxlm_ready",
        "Whether the model takes requests.",
        f64::from(u8::from(app.engine.status().state().takes_jobs())),
    );
    gauge("vllm:num_requests_waiting", "Sequences that wait for their turn.", waiting);
    gauge("vllm:num_requests_running", "Sequences that are read or generated.", running);
    gauge("vllm:kv_cache_usage_perc", "Share of the memory for caches that is taken, 0 to 1.", usage);
    adapters(&mut page);
    let mut counter = |name: &str, help: &str, value: u64| number(&mut page, name, "counter", help, value as f64);
    counter("mlxlm_prompt_tokens_total", "Tokens of prompts that were read.", numbers.prompt_tokens.get());
    counter("mlxlm_cached_tokens_total", "Tokens of prompts that were known.", numbers.cached_tokens.get());
    counter("mlxlm_generated_tokens_total", "Tokens that were generated.", numbers.generated_tokens.get());
    counter("mlxlm_proposed_tokens_total", "Tokens that a draft model proposed.", numbers.proposed_tokens.get());
    counter("mlxlm_accepted_tokens_total", "Proposed tokens that were right.", numbers.accepted_tokens.get());
    counter("mlxlm_steps_total", "Steps of the engine.", numbers.steps.get());
    counter("mlxlm_requests_done_total", "Jobs that were done.", numbers.done.get());
    counter("mlxlm_requests_failed_total", "Jobs that failed.", numbers.failed.get());
    counter("mlxlm_requests_cancelled_total", "Jobs whose client went away.", numbers.cancelled.get());
    counter("mlxlm_prompt_cache_hits_total", "Prompts of which a beginning was known.", numbers.cache_hits.get());
    counter("mlxlm_prompt_cache_misses_total", "Prompts of which none was.", numbers.cache_misses.get());
    counter("mlxlm_disk_prompt_cache_hits_total", "Prompts that went on from the disk.", numbers.disk_hits.get());
    counter("mlxlm_disk_prompt_cache_written_total", "Texts written to the disk.", numbers.disk_written.get());
    counter("mlxlm_engine_restarts_total", "How often the engine was started anew.", numbers.restarts.get());
    let name = "mlxlm_http_requests_total";
    let _ = writeln!(page, "# HELP {name} Requests by path and status.\n# TYPE {name} counter");
    for ((path, status), count) in app.http.0.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        let _ = writeln!(page, "{name}{{path=\"{path}\",status=\"{status}\"}} {count}");
    }
    page
}

/// The adapters that requests may name, for routers that send a request to where its adapter is. The value is when that was true.
fn adapters(page: &mut String) {
    let name = "vllm:lora_requests_info";
    let now = ids::now_s();
    let labels = "max_lora=\"0\",running_lora_adapters=\"\",waiting_lora_adapters=\"\"";
    let _ = writeln!(page, "# HELP {name} Adapters of requests.\n# TYPE {name} gauge\n{name}{{{labels}}} {now}");
}

fn number(page: &mut String, name: &str, kind: &str, help: &str, value: f64) {
    // A string takes everything.
    let _ = writeln!(page, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
}
