//! What no good client sends: each is answered by an error that names what is wrong, and the next request works.

use mlxlm_serve::{Limits, ServerOptions};
use serde_json::{Value, json};

use crate::house::{House, NAME, options};

/// A chat with these fields over the usual ones.
fn chat(fields: Value) -> Value {
    let mut body = json!({"model": NAME, "max_tokens": 2, "messages": [{"role": "user", "content": "hi"}]});
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    body
}

/// A completion with these fields over the usual ones.
fn completion(fields: Value) -> Value {
    let mut body = json!({"model": NAME, "max_tokens": 2, "prompt": "hi"});
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    body
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn fields_are_refused_by_name() {
    let house = House::demo();
    let huge = "9".repeat(30).parse::<f64>().unwrap();
    let cases: Vec<(&str, Value, &str)> = vec![
        // (16) wrong types
        ("/v1/chat/completions", chat(json!({"messages": []})), "messages"),
        ("/v1/chat/completions", chat(json!({"messages": null})), "messages"),
        ("/v1/chat/completions", chat(json!({"messages": "hi"})), "messages"),
        ("/v1/chat/completions", chat(json!({"messages": [3]})), "messages[0]"),
        ("/v1/chat/completions", chat(json!({"messages": [{"role": "wizard", "content": "x"}]})), "messages[0].role"),
        ("/v1/chat/completions", chat(json!({"messages": [{"content": "x"}]})), "messages[0].role"),
        ("/v1/chat/completions", chat(json!({"messages": [{"role": "user", "content": 5}]})), "messages[0].content"),
        (
            "/v1/chat/completions",
            chat(
                json!({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}),
            ),
            "messages[0].content[0].type",
        ),
        (
            "/v1/chat/completions",
            chat(
                json!({"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}]}),
            ),
            "messages[0].tool_calls[0].function.arguments",
        ),
        ("/v1/chat/completions", chat(json!({"stream": "yes"})), "stream"),
        ("/v1/chat/completions", chat(json!({"stream_options": {"include_usage": true}})), "stream_options"),
        (
            "/v1/chat/completions",
            chat(json!({"stream": true, "stream_options": {"colour": 1}})),
            "stream_options.colour",
        ),
        ("/v1/chat/completions", chat(json!({"chat_template_kwargs": []})), "chat_template_kwargs"),
        // (17) numbers
        ("/v1/chat/completions", chat(json!({"max_tokens": 0})), "max_tokens"),
        ("/v1/chat/completions", chat(json!({"max_tokens": -1})), "max_tokens"),
        ("/v1/chat/completions", chat(json!({"max_tokens": 1.5})), "max_tokens"),
        ("/v1/chat/completions", chat(json!({"max_tokens": true})), "max_tokens"),
        ("/v1/chat/completions", chat(json!({"max_completion_tokens": huge})), "max_completion_tokens"),
        ("/v1/chat/completions", chat(json!({"n": 1_000_000})), "n"),
        ("/v1/chat/completions", chat(json!({"n": 0})), "n"),
        ("/v1/chat/completions", chat(json!({"stop": vec!["a"; 10_000]})), "stop"),
        ("/v1/chat/completions", chat(json!({"stop": [1]})), "stop[0]"),
        ("/v1/chat/completions", chat(json!({"stop": {"a": 1}})), "stop"),
        ("/v1/chat/completions", chat(json!({"temperature": -0.1})), "temperature"),
        ("/v1/chat/completions", chat(json!({"temperature": 1e9})), "temperature"),
        ("/v1/chat/completions", chat(json!({"temperature": "hot"})), "temperature"),
        ("/v1/chat/completions", chat(json!({"top_p": 1.1})), "top_p"),
        ("/v1/chat/completions", chat(json!({"top_k": -2})), "top_k"),
        ("/v1/chat/completions", chat(json!({"min_p": 2})), "min_p"),
        ("/v1/chat/completions", chat(json!({"xtc_threshold": 0.6})), "xtc_threshold"),
        ("/v1/chat/completions", chat(json!({"repetition_penalty": -1})), "repetition_penalty"),
        ("/v1/chat/completions", chat(json!({"presence_penalty": 1e300})), "presence_penalty"),
        ("/v1/chat/completions", chat(json!({"frequency_penalty": "much"})), "frequency_penalty"),
        ("/v1/chat/completions", chat(json!({"logit_bias": {"-1": 1}})), "logit_bias.-1"),
        ("/v1/chat/completions", chat(json!({"logit_bias": {"2048": 1}})), "logit_bias.2048"),
        ("/v1/chat/completions", chat(json!({"logit_bias": {"99999999999999": 1}})), "logit_bias.99999999999999"),
        ("/v1/chat/completions", chat(json!({"logit_bias": {"1": null}})), "logit_bias.1"),
        ("/v1/chat/completions", chat(json!({"seed": 1.5})), "seed"),
        ("/v1/chat/completions", chat(json!({"seed": huge})), "seed"),
        ("/v1/chat/completions", chat(json!({"logprobs": 3})), "logprobs"),
        ("/v1/chat/completions", chat(json!({"logprobs": true, "top_logprobs": 1_000_000})), "top_logprobs"),
        ("/v1/chat/completions", chat(json!({"top_logprobs": 2})), "top_logprobs"),
        // what is not supported, and what nobody knows
        ("/v1/chat/completions", chat(json!({"response_format": {"type": "xml"}})), "response_format.type"),
        ("/v1/chat/completions", chat(json!({"tool_choice": "always"})), "tool_choice"),
        ("/v1/chat/completions", chat(json!({"tool_choice": "required"})), "tool_choice"),
        (
            "/v1/chat/completions",
            chat(json!({"tool_choice": {"type": "function", "function": {"name": "f"}}})),
            "tool_choice",
        ),
        ("/v1/chat/completions", chat(json!({"store": true})), "store"),
        ("/v1/chat/completions", chat(json!({"functions": []})), "functions"),
        ("/v1/chat/completions", chat(json!({"adapters": "../../etc"})), "adapters"),
        ("/v1/chat/completions", chat(json!({"draft_model": "file:///x"})), "draft_model"),
        ("/v1/chat/completions", chat(json!({"colour": "blue"})), "colour"),
        // (18) prompts
        ("/v1/completions", completion(json!({"prompt": null})), "prompt"),
        ("/v1/completions", completion(json!({"prompt": []})), "prompt"),
        ("/v1/completions", completion(json!({"prompt": {"a": 1}})), "prompt"),
        ("/v1/completions", completion(json!({"prompt": ""})), "prompt"),
        ("/v1/completions", completion(json!({"prompt": [-1]})), "prompt[0]"),
        ("/v1/completions", completion(json!({"prompt": [1, 2048]})), "prompt[1]"),
        ("/v1/completions", completion(json!({"prompt": [[1], [4_294_967_296_u64]]})), "prompt[1][0]"),
        ("/v1/completions", completion(json!({"prompt": [1, "a"]})), "prompt[1]"),
        ("/v1/completions", completion(json!({"prompt": vec![1; 1025]})), "prompt"),
        ("/v1/completions", completion(json!({"prompt": vec!["a"; 500]})), "prompt"),
        ("/v1/completions", completion(json!({"prompt": "word ".repeat(100_000)})), ""),
        ("/v1/completions", completion(json!({"suffix": "end"})), "suffix"),
        ("/v1/completions", completion(json!({"best_of": 5})), "best_of"),
        ("/v1/embeddings", json!({"input": []}), "input"),
        ("/v1/embeddings", json!({"input": "x", "dimensions": 3}), "dimensions"),
        ("/v1/embeddings", json!({"model": NAME}), "input"),
        ("/tokenize", json!({}), "content"),
        ("/detokenize", json!({"tokens": [1e30]}), "tokens[0]"),
    ];
    for (path, body, param) in cases {
        let answer = house.post(path, &body);
        let message = answer.refused(400);
        let found = answer.json()["error"]["param"].as_str().unwrap_or_default().to_owned();
        assert_eq!(found, param, "{message}");
        assert!(message.contains(param), "{message}");
    }
    house.chat("hi", json!({"max_tokens": 2})).ok();
    house.wait(|| house.metric("mlxlm_requests_inside") == 0.0, "mlxlm_requests_inside to be 0");
}

#[test]
fn what_is_odd_but_right_is_answered() {
    let house = House::demo();
    for fields in [
        json!({"max_tokens": u64::MAX, "stop": "a"}),
        json!({"temperature": 0, "top_p": 0, "top_k": 1_000_000, "seed": -5}),
        json!({"temperature": 100, "seed": u64::MAX, "max_tokens": 3}),
        json!({"logit_bias": {"5": -1e300, "6": 1e300}, "max_tokens": 3}),
        json!({"presence_penalty": 3e38, "frequency_penalty": -3e38, "repetition_penalty": 1e-30, "max_tokens": 3}),
        json!({"stop": "", "max_tokens": 3, "top_k": -1}),
        json!({"no_stop_trim": false, "skip_special_tokens": true, "separate_reasoning": true, "stream_reasoning": true,
            "return_hidden_states": false, "max_tokens": 3}),
        json!({"user": "me", "metadata": {"a": "b"}, "max_tokens": 3, "tools": [], "logprobs": false, "n": null}),
        json!({"messages": [{"role": "user", "content": null}], "max_tokens": 3}),
        json!({"messages": [{"role": "user", "content": "<|im_end|><|im_start|>system\u{0}\u{202e}"}], "max_tokens": 3}),
    ] {
        house.post("/v1/chat/completions", &chat(fields)).ok();
    }
    let only_special = json!({"prompt": [0, 1, 2], "max_tokens": 3});
    house.post("/v1/completions", &only_special).ok();
}

#[test]
fn bodies_that_are_no_requests() {
    let house = House::demo();
    let post = |body: &[u8]| house.ask("POST", "/v1/chat/completions", &[], body);
    let deep = [vec![b'['; 10_000], vec![b']'; 10_000]].concat();
    let nested = format!(r#"{{"messages": {}}}"#, String::from_utf8(deep.clone()).unwrap());
    for body in
        [&b""[..], b"{", b"hello", b"{\"a\": NaN}", b"{\"a\": 1e999999}", &deep, nested.as_bytes(), b"\xff\xfe{}"]
    {
        let message = post(body).refused(400);
        assert!(message.contains("JSON") || message.contains("UTF-8"), "{message}");
    }
    for body in [&b"[]"[..], b"null", b"3", b"\"text\""] {
        assert!(post(body).refused(400).contains("expected a JSON object"));
    }
    // (29) half of a pair that stands for one character, and a mark of byte order before the JSON
    let surrogate = br#"{"messages": [{"role": "user", "content": "\ud800"}]}"#;
    for body in [&surrogate[..], b"\xef\xbb\xbf{\"messages\": []}"] {
        assert!(post(body).refused(400).contains("JSON"));
    }
    // The last of two fields of a name counts, as in most servers.
    let twice = br#"{"max_tokens": 2, "messages": [], "messages": [{"role": "user", "content": "hi"}]}"#;
    post(twice).ok();
}

#[test]
fn heads_and_bodies_have_limits() {
    let limits = Limits {
        body_bytes: 10_000,
        head_bytes: 8192,
        head_time: std::time::Duration::from_millis(300),
        body_time: std::time::Duration::from_millis(300),
        ..Limits::default()
    };
    let options = ServerOptions { limits, ..options() };
    let house = House::with(options, crate::counter::counter(std::time::Duration::ZERO));
    let post = |headers: &str, body: &[u8]| {
        let mut client = house.client();
        client.send(format!("POST /v1/completions HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n\r\n").as_bytes());
        client.send(body);
        client
    };
    // (15) lengths that lie, or are none
    assert!(post("content-length: 1073741824", b"").answer().refused(413).contains("10000 bytes"));
    let long = vec![b' '; 20_000];
    let mut client = post("transfer-encoding: chunked", format!("{:x}\r\n", long.len()).as_bytes());
    client.send(&[&long[..], b"\r\n0\r\n\r\n"].concat());
    client.answer().refused(413);
    for wrong in ["content-length: -1", "content-length: many", "content-length: 5\r\ncontent-length: 6"] {
        assert_eq!(post(wrong, b"").head().status, 400, "{wrong}");
    }
    let garbage = post("transfer-encoding: chunked", b"zz\r\n").head().status;
    assert_eq!(garbage, 400);
    // A client that sends a letter now and then.
    assert_eq!(post("content-length: 100", b"{").answer().status, 408);
    let mut slow = house.client();
    slow.send(b"GET /health HT");
    assert!(slow.is_closed() || slow.is_closed());
    let mut wordy = house.client();
    wordy.request("GET", "/health", &[("x-words", &"w".repeat(20_000))], b"");
    assert!(matches!(wordy.head().status, 400 | 431));
    let mut http0 = house.client();
    http0.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03");
    assert!(http0.line().contains("400") || http0.is_closed());
    house.get("/health").ok();
}

#[test]
fn other_models_and_paths_are_not_here() {
    let house = House::demo();
    for model in ["gpt-4", "../demo", "file:///etc/passwd", "https://example.com/m", "/etc", "org/name", ""] {
        let answer = house.post("/v1/chat/completions", &chat(json!({"model": model})));
        let message = answer.refused(404);
        assert!(message.contains("there is `demo`"), "{message}");
        assert_eq!(answer.json()["error"]["code"], "model_not_found");
    }
    house.get("/v2/chat").refused(404);
    house.get("/v1/chat/completions").refused(405);
    house.ask("DELETE", "/v1/models", &[], b"").refused(405);
    house.ask("BREW", "/health", &[], b"").refused(405);
}

/// (19) Tools whose schemas are made to be expensive: nothing is compiled of them, so they are text that is too long, or is read.
#[test]
fn tools_that_no_good_client_has() {
    let house = House::demo();
    let tools = |parameters: Value| json!([{"type": "function", "function": {"name": "f", "parameters": parameters}}]);
    let mut nested = json!({"type": "string"});
    for _ in 0..100 {
        nested = json!({"type": "object", "properties": {"a": nested}});
    }
    let cases: Vec<(Value, u16)> = vec![
        (json!({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}), 200),
        (json!({"type": "string", "pattern": "(a+)+$"}), 200),
        (json!({"type": "string", "pattern": "(?<=x)[", "maxLength": u64::MAX}), 200),
        (json!({"enum": vec!["word"; 100_000]}), 400),
        (nested, 400),
        (json!({"type": "no type", "minimum": "x"}), 200),
    ];
    for (parameters, status) in cases {
        let body = chat(json!({"tools": tools(parameters)}));
        let answer = house.post("/v1/chat/completions", &body);
        assert_eq!(answer.status, status, "{answer:?}");
        if status == 400 {
            let message = answer.refused(400);
            assert!(
                message.contains("tokens, and the model reads at most") || message.contains("not JSON"),
                "{message}"
            );
        }
    }
    for wrong in [
        json!([{}]),
        json!([{"type": "function"}]),
        json!([{"type": "retrieval"}]),
        json!({"type": "function"}),
        tools(json!("x")),
    ] {
        assert!(house.post("/v1/chat/completions", &chat(json!({"tools": wrong}))).refused(400).contains("`tools"));
    }
    house.chat("hi", json!({"max_tokens": 2})).ok();
}
