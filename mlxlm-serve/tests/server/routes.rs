//! The routes that are about the server itself.

use mlxlm_serve::{Server, ServerOptions};
use serde_json::json;

use crate::house::{House, NAME, options};

#[test]
fn models_are_listed_and_shown() {
    let house = House::demo();
    let list = house.get("/v1/models").ok();
    let entry = &list["data"][0];
    assert_eq!((&list["object"], &entry["id"], &entry["object"]), (&json!("list"), &json!(NAME), &json!("model")));
    assert!(entry["created"].as_u64().unwrap() > 1_700_000_000);
    assert_eq!(house.get("/models").ok(), list);
    assert_eq!(house.get(&format!("/v1/models/{NAME}")).ok(), *entry);
    house.get("/v1/models/org/other").refused(404);
    // An answer without the body being read leaves the connection as it was.
    let mut client = house.client();
    for path in ["/nothing", "/v1/models", "/v1/responses/other"] {
        client.request("POST", path, &[], b"{\"a\": 1}");
        assert!(matches!(client.answer().status, 404 | 405), "{path}");
    }
}

#[test]
fn the_metrics_are_in_the_format_of_prometheus() {
    let house = House::demo();
    house.chat("hi", json!({"max_tokens": 3})).ok();
    let answer = house.get("/metrics");
    assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4"));
    for line in answer.body.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').unwrap();
        let bare = name.split('{').next().unwrap();
        assert!(value.parse::<f64>().is_ok() && answer.body.contains(&format!("# TYPE {bare} ")), "{line}");
    }
    for name in ["vllm:num_requests_waiting", "vllm:num_requests_running", "vllm:kv_cache_usage_perc"] {
        assert!((0.0..=1.0).contains(&house.metric(name)), "{name}");
    }
    let adapters = answer.body.lines().find(|line| line.starts_with("vllm:lora_requests_info{")).unwrap();
    for label in ["max_lora", "running_lora_adapters", "waiting_lora_adapters"] {
        assert!(adapters.contains(&format!("{label}=\"")), "{adapters}");
    }
    house.wait(|| house.metric("mlxlm_requests_done_total") == 1.0, "mlxlm_requests_done_total to be 1");
    house.wait(|| house.metric("mlxlm_generated_tokens_total") == 3.0, "mlxlm_generated_tokens_total to be 3");
    assert!(answer.body.contains("mlxlm_http_requests_total{path=\"/v1/chat/completions\",status=\"200\"} 1"));
}

#[test]
fn a_port_that_is_taken_is_said_so() {
    let first = Server::bind(options()).unwrap();
    let port = first.addresses()[0].port();
    let error = Server::bind(ServerOptions { port, ..options() }).unwrap_err();
    assert!(error.to_string().starts_with(&format!("cannot listen on `127.0.0.1` at port {port}: ")), "{error}");
    let error = Server::bind(ServerOptions { host: "no.such.host.invalid".into(), ..options() }).unwrap_err();
    assert!(error.to_string().contains("no.such.host.invalid"), "{error}");
}

/// Every field that is described is taken, with the value that the description has as an example.
#[test]
fn what_is_described_is_taken() {
    let house = House::demo();
    let document = house.get("/openapi.json").ok();
    let schema = |name: &str| document["components"]["schemas"][name]["properties"].as_object().unwrap();
    let mut taken = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        let reference = &item["post"]["requestBody"]["content"]["application/json"]["schema"]["$ref"];
        let Some(name) = reference.as_str().and_then(|text| text.rsplit('/').next()) else { continue };
        let required = document["components"]["schemas"][name]["required"].as_array().cloned().unwrap_or_default();
        let mut base = json!({"max_tokens": 2});
        if path.ends_with("/responses") {
            base = json!({"max_output_tokens": 2});
        } else if ["Embeddings", "okenize", "Template", "Count", "Compact"].iter().any(|part| name.contains(part)) {
            base = json!({});
        }
        for field in required.iter().filter_map(|field| field.as_str()) {
            let example = schema(name)[field].get("example").cloned();
            // What may be of any kind is described without an example.
            base[field] = example.unwrap_or_else(|| json!("Once upon a time"));
        }
        let samples =
            ["Chat", "Completion", "Responses", "Messages"].iter().any(|part| name == format!("{part}Request"));
        let sampling = samples.then(|| schema("Sampling")).into_iter().flatten();
        for (field, described) in schema(name).iter().chain(sampling) {
            let Some(example) = described.get("example") else { continue };
            let mut body = base.clone();
            if field == "logprobs" || field == "top_logprobs" {
                body["logprobs"] = if name == "ChatRequest" { json!(true) } else { json!(1) };
            }
            if field == "add_generation_prompt" || field == "continue_final_message" {
                body["messages"] = json!([{"role": "user", "content": "a"}]);
            }
            body[field] = example.clone();
            let answer = house.post(path, &body);
            assert_eq!(answer.status, 200, "{path} {field}: {answer:?}");
            taken += 1;
        }
    }
    assert!(taken > 150, "{taken}");
}
