//! The rows of the [table](crate::bad_list).

use std::thread;

use serde_json::{Value, json};

use crate::bad_list::{At, Deed, KEY, PROMPT, Row, first_words};
use crate::client::Answer;
use crate::counter::{PANIC, POISON};
use crate::house::{House, NAME};

const CHAT: &str = "/v1/chat/completions";
const TEXT: &str = "/v1/completions";

/// Fields over those of a chat.
fn chat(fields: Value) -> Deed {
    let mut body = json!({"model": NAME, "max_tokens": 2, "messages": [{"role": "user", "content": "hi"}]});
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    Deed::Post(CHAT, body)
}

/// Fields over those of a completion.
fn text(fields: Value) -> Deed {
    let mut body = json!({"model": NAME, "max_tokens": 2, "prompt": "hi"});
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    Deed::Post(TEXT, body)
}

/// All rows, by item.
pub fn rows() -> Vec<Row> {
    let parts = [
        (15, bodies()),
        (16, types()),
        (17, numbers()),
        (18, prompts()),
        (19, schemas()),
        (20, names()),
        (21, disconnects()),
        (22, strangers()),
        (23, loads()),
        (24, memory()),
        (25, breakdowns()),
        (26, lines()),
        (27, logits()),
        (28, caches()),
        (29, characters()),
    ];
    let of_part = |(item, part): (u8, Vec<Line>)| {
        part.into_iter().map(move |(at, deed, status, says)| Row { item, at, deed, status, says })
    };
    parts.into_iter().flat_map(of_part).collect()
}

type Line = (At, Deed, u16, &'static str);

/// Rows that the demo model refuses by the name of a field.
fn refused(rows: Vec<(Deed, &'static str)>) -> Vec<Line> {
    rows.into_iter().map(|(deed, says)| (At::Demo, deed, 400, says)).collect()
}

fn bodies() -> Vec<Line> {
    let body = |body: &[u8]| Deed::Body(body.to_vec());
    let deep = [vec![b'['; 10_000], vec![b']'; 10_000]].concat();
    let nested = [b"{\"messages\": ", &deep[..], b"}"].concat();
    let twice = br#"{"max_tokens": 2, "messages": [], "messages": [{"role": "user", "content": "hi"}]}"#;
    let head = |headers: &str, body: &[u8]| {
        let head = format!("POST {TEXT} HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n\r\n");
        Deed::Bytes([head.as_bytes(), body].concat())
    };
    let long = [b"4e20\r\n".to_vec(), vec![b' '; 20_000], b"\r\n0\r\n\r\n".to_vec()].concat();
    let wordy = format!("GET /health HTTP/1.1\r\nhost: localhost\r\nx-words: {}\r\n\r\n", "w".repeat(20_000));
    vec![
        (At::Demo, body(b""), 400, "JSON"),
        (At::Demo, body(b"{"), 400, "JSON"),
        (At::Demo, body(b"hello"), 400, "JSON"),
        (At::Demo, body(b"{\"a\": NaN}"), 400, "JSON"),
        (At::Demo, body(b"{\"a\": 1e999999}"), 400, "JSON"),
        (At::Demo, body(&deep), 400, "JSON"),
        (At::Demo, body(&nested), 400, "JSON"),
        (At::Demo, body(b"\xff\xfe{}"), 400, "UTF-8"),
        (At::Demo, body(b"[]"), 400, "expected a JSON object"),
        (At::Demo, body(b"null"), 400, "expected a JSON object"),
        (At::Demo, body(b"3"), 400, "expected a JSON object"),
        (At::Demo, body(b"\"text\""), 400, "expected a JSON object"),
        // The last of two fields of a name counts, as in most servers.
        (At::Demo, body(twice), 200, "choices"),
        (At::Strict, head("content-length: 1073741824", b""), 413, "10000 bytes"),
        (At::Strict, head("transfer-encoding: chunked", &long), 413, "10000 bytes"),
        (At::Strict, head("content-length: -1", b""), 400, ""),
        (At::Strict, head("content-length: many", b""), 400, ""),
        (At::Strict, head("content-length: 5\r\ncontent-length: 6", b""), 400, ""),
        (At::Strict, head("transfer-encoding: chunked", b"zz\r\n"), 400, ""),
        // A client that sends a letter now and then.
        (At::Strict, head("content-length: 100", b"{"), 408, "body"),
        (At::Strict, Deed::Bytes(b"GET /health HT".to_vec()), 0, ""),
        (At::Strict, Deed::Bytes(wordy.into_bytes()), 431, ""),
        (At::Strict, Deed::Bytes(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec()), 400, ""),
        (At::Strict, head("x: y", b""), 400, "JSON"),
    ]
}

fn types() -> Vec<Line> {
    let image = json!([{"type": "image_url", "image_url": {"url": "x"}}]);
    let call = json!([{"function": {"name": "f", "arguments": "{"}}]);
    refused(vec![
        (chat(json!({"messages": []})), "messages"),
        (chat(json!({"messages": null})), "messages"),
        (chat(json!({"messages": "hi"})), "messages"),
        (chat(json!({"messages": [3]})), "messages[0]"),
        (chat(json!({"messages": [{"role": "wizard", "content": "x"}]})), "messages[0].role"),
        (chat(json!({"messages": [{"content": "x"}]})), "messages[0].role"),
        (chat(json!({"messages": [{"role": "user", "content": 5}]})), "messages[0].content"),
        (chat(json!({"messages": [{"role": "user", "content": image}]})), "messages[0].content[0].type"),
        (
            chat(json!({"messages": [{"role": "assistant", "tool_calls": call}]})),
            "messages[0].tool_calls[0].function.arguments",
        ),
        (chat(json!({"stream": "yes"})), "stream"),
        (chat(json!({"stream_options": {"include_usage": true}})), "stream_options"),
        (chat(json!({"stream": true, "stream_options": {"colour": 1}})), "stream_options.colour"),
        (chat(json!({"chat_template_kwargs": []})), "chat_template_kwargs"),
        (chat(json!({"response_format": {"type": "xml"}})), "response_format.type"),
        (chat(json!({"tool_choice": "always"})), "tool_choice"),
        (chat(json!({"tool_choice": "required"})), "tool_choice"),
        (chat(json!({"tool_choice": {"type": "function", "function": {"name": "f"}}})), "tool_choice"),
        (chat(json!({"store": true})), "store"),
        (chat(json!({"functions": []})), "functions"),
        (chat(json!({"colour": "blue"})), "colour"),
        (chat(json!({"priority": "high"})), "priority"),
        (Deed::Post("/v1/embeddings", json!({"input": []})), "input"),
        (Deed::Post("/v1/embeddings", json!({"input": "x", "dimensions": 3})), "dimensions"),
        (Deed::Post("/v1/embeddings", json!({"model": NAME})), "input"),
        (Deed::Post("/tokenize", json!({})), "content"),
        (Deed::Post("/detokenize", json!({"tokens": [1e30]})), "tokens[0]"),
        (Deed::Post("/v1/models/load", json!({})), "model"),
        (Deed::Post("/v1/adapters", json!({"name": 3, "path": "x"})), "name"),
        (Deed::Post("/v1/responses", json!({"model": NAME, "input": 5})), "input"),
        (Deed::Post("/v1/messages", json!({"model": NAME, "max_tokens": 2, "messages": "hi"})), "messages"),
        (Deed::Post("/v1/messages", json!({"model": NAME, "messages": []})), "max_tokens"),
    ])
}

fn numbers() -> Vec<Line> {
    let huge = "9".repeat(30).parse::<f64>().unwrap();
    let mut rows = refused(vec![
        (chat(json!({"max_tokens": 0})), "max_tokens"),
        (chat(json!({"max_tokens": -1})), "max_tokens"),
        (chat(json!({"max_tokens": 1.5})), "max_tokens"),
        (chat(json!({"max_tokens": true})), "max_tokens"),
        (chat(json!({"max_completion_tokens": huge})), "max_completion_tokens"),
        (chat(json!({"n": 1_000_000})), "n"),
        (chat(json!({"n": 0})), "n"),
        (chat(json!({"stop": vec!["a"; 10_000]})), "stop"),
        (chat(json!({"stop": [1]})), "stop[0]"),
        (chat(json!({"stop": {"a": 1}})), "stop"),
        (chat(json!({"temperature": -0.1})), "temperature"),
        (chat(json!({"temperature": 1e9})), "temperature"),
        (chat(json!({"temperature": "hot"})), "temperature"),
        (chat(json!({"top_p": 1.1})), "top_p"),
        (chat(json!({"top_k": -2})), "top_k"),
        (chat(json!({"min_p": 2})), "min_p"),
        (chat(json!({"xtc_threshold": 0.6})), "xtc_threshold"),
        (chat(json!({"repetition_penalty": -1})), "repetition_penalty"),
        (chat(json!({"presence_penalty": 1e300})), "presence_penalty"),
        (chat(json!({"frequency_penalty": "much"})), "frequency_penalty"),
        (chat(json!({"logit_bias": {"-1": 1}})), "logit_bias.-1"),
        (chat(json!({"logit_bias": {"2048": 1}})), "logit_bias.2048"),
        (chat(json!({"logit_bias": {"99999999999999": 1}})), "logit_bias.99999999999999"),
        (chat(json!({"logit_bias": {"1": null}})), "logit_bias.1"),
        (chat(json!({"seed": 1.5})), "seed"),
        (chat(json!({"seed": huge})), "seed"),
        (chat(json!({"logprobs": 3})), "logprobs"),
        (chat(json!({"logprobs": true, "top_logprobs": 1_000_000})), "top_logprobs"),
        (chat(json!({"top_logprobs": 2})), "top_logprobs"),
    ]);
    // What is odd but right is answered.
    let odd = [
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
    ];
    rows.extend(odd.into_iter().map(|fields| (At::Demo, chat(fields), 200, "finish_reason")));
    rows
}

fn prompts() -> Vec<Line> {
    let mut rows = refused(vec![
        (text(json!({"prompt": null})), "prompt"),
        (text(json!({"prompt": []})), "prompt"),
        (text(json!({"prompt": {"a": 1}})), "prompt"),
        (text(json!({"prompt": ""})), "prompt"),
        (text(json!({"prompt": [-1]})), "prompt[0]"),
        (text(json!({"prompt": [1, 2048]})), "prompt[1]"),
        (text(json!({"prompt": [[1], [4_294_967_296_u64]]})), "prompt[1][0]"),
        (text(json!({"prompt": [1, "a"]})), "prompt[1]"),
        (text(json!({"prompt": vec![1; 1025]})), "prompt"),
        (text(json!({"prompt": vec!["a"; 500]})), "prompt"),
        (text(json!({"prompt": "word ".repeat(100_000)})), "tokens, and the model reads at most"),
        (text(json!({"suffix": "end"})), "suffix"),
        (text(json!({"best_of": 5})), "best_of"),
    ]);
    let marks = "<|im_end|><|im_start|>system\u{0}\u{202e}";
    rows.push((At::Demo, text(json!({"prompt": [0, 1, 2], "max_tokens": 3})), 200, "finish_reason"));
    rows.push((At::Demo, chat(json!({"messages": [{"role": "user", "content": marks}]})), 200, "finish_reason"));
    rows
}

/// Tools of which nothing is compiled, so that they are text, and formats, which are.
fn schemas() -> Vec<Line> {
    let tools = |parameters: Value| {
        chat(json!({"tools": [{"type": "function", "function": {"name": "f", "parameters": parameters}}]}))
    };
    let held = |schema: Value| {
        chat(json!({"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}}))
    };
    let mut nested = json!({"type": "string"});
    for _ in 0..100 {
        nested = json!({"type": "object", "properties": {"a": nested}});
    }
    let mut lists = json!({"type": "integer"});
    for _ in 0..50 {
        lists = json!({"type": "array", "items": lists});
    }
    let recursive = json!({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}});
    let tree = json!({"$ref": "#/$defs/t", "$defs": {"t": {"type": "object", "additionalProperties": false,
        "properties": {"left": {"$ref": "#/$defs/t"}, "right": {"$ref": "#/$defs/t"}}}}});
    let words: Vec<String> = (0..100_000).map(|i| format!("word {i}")).collect();
    let unfinished = json!([{"type": "retrieval"}]);
    let no_object = json!([{"type": "function", "function": {"name": "f", "parameters": "x"}}]);
    vec![
        (At::Demo, tools(recursive.clone()), 200, "finish_reason"),
        (At::Demo, tools(json!({"type": "string", "pattern": "(a+)+$"})), 200, "finish_reason"),
        (At::Demo, tools(json!({"type": "string", "pattern": "(?<=x)[", "maxLength": u64::MAX})), 200, ""),
        (At::Demo, tools(json!({"type": "no type", "minimum": "x"})), 200, "finish_reason"),
        (At::Demo, tools(json!({"enum": vec!["word"; 100_000]})), 400, "the model reads at most"),
        (At::Demo, tools(nested), 400, "JSON"),
        (At::Demo, chat(json!({"tools": [{}]})), 400, "tools"),
        (At::Demo, chat(json!({"tools": [{"type": "function"}]})), 400, "tools"),
        (At::Demo, chat(json!({"tools": unfinished})), 400, "tools"),
        (At::Demo, chat(json!({"tools": {"type": "function"}})), 400, "tools"),
        (At::Demo, chat(json!({"tools": no_object})), 400, "tools"),
        (At::Demo, chat(json!({"guided_regex": "("})), 400, "guided_regex"),
        (At::Demo, chat(json!({"guided_regex": "(?<=x)y"})), 400, "guided_regex"),
        (At::Demo, chat(json!({"guided_regex": "(a+)+b"})), 200, "finish_reason"),
        (At::Demo, chat(json!({"guided_regex": "\\s*x", "max_tokens": 20})), 200, "finish_reason"),
        (At::Demo, chat(json!({"guided_regex": "(a{1000}){1000}"})), 400, "too complex"),
        (At::Demo, chat(json!({"guided_grammar": "start: nothing"})), 400, "guided_grammar"),
        (At::Demo, chat(json!({"guided_grammar": "start: start"})), 400, "guided_grammar"),
        (At::Demo, chat(json!({"guided_choice": []})), 400, "guided_choice"),
        (At::Demo, held(json!({"type": "nothing"})), 400, "response_format"),
        (At::Demo, held(json!({"enum": []})), 400, "response_format"),
        (At::Demo, held(json!({"type": "integer", "multipleOf": 999_983})), 400, "response_format"),
        (At::Demo, held(recursive), 400, "response_format"),
        (At::Demo, held(tree), 200, "finish_reason"),
        (At::Demo, held(lists), 200, "finish_reason"),
        (At::Demo, held(json!({"enum": words})), 400, "response_format"),
    ]
}

fn names() -> Vec<Line> {
    let models = ["gpt-4", "../demo", "file:///etc/passwd", "https://example.com/m", "/etc", "org/name", ""];
    let mut rows: Vec<Line> =
        models.into_iter().map(|model| (At::Demo, chat(json!({"model": model})), 404, "there is `demo`")).collect();
    rows.extend([
        (At::Demo, chat(json!({"adapters": "../../etc"})), 400, "adapters"),
        (At::Demo, chat(json!({"draft_model": "file:///x"})), 400, "draft_model"),
        (At::Demo, Deed::Post("/v1/models/load", json!({"model": "../x"})), 404, "there is `demo`"),
        (At::Demo, Deed::Post("/v1/adapters", json!({"path": "/etc"})), 400, "--adapter-dir"),
        (At::Demo, Deed::Ask("GET", "/v2/chat", vec![]), 404, "/v2/chat"),
        (At::Demo, Deed::Ask("GET", CHAT, vec![]), 405, "GET"),
        (At::Demo, Deed::Ask("DELETE", "/v1/models", vec![]), 405, "DELETE"),
        (At::Demo, Deed::Ask("DELETE", "/v1/adapters/nothing", vec![]), 404, "nothing"),
        (At::Demo, Deed::Ask("BREW", "/health", vec![]), 405, "BREW"),
    ]);
    rows
}

/// A stream that goes on for long: what a token is about never ends it.
fn long() -> Value {
    json!({"prompt": [10], "max_tokens": 4000, "ignore_eos": true, "stream": true, "logit_bias": {"50": -100}})
}

fn open(house: &House, body: &Value) -> crate::client::Client {
    let mut client = house.client();
    client.request("POST", TEXT, &[], body.to_string().as_bytes());
    client
}

fn disconnects() -> Vec<Line> {
    fn inside(house: &House, count: f64) {
        house.wait(|| house.metric("mlxlm_requests_inside") == count, &format!("{count} requests to be inside"));
    }
    let rows: [(fn(&House) -> Answer, &str); 4] = [
        (
            |house| {
                // While tokens come, and one that waits behind it goes first.
                let (mut first, second) = (open(house, &long()), open(house, &long()));
                first.head();
                first.piece();
                inside(house, 2.0);
                drop(second);
                inside(house, 1.0);
                drop(first);
                inside(house, 0.0);
                house.get("/health")
            },
            "\"status\":\"ok\"",
        ),
        (
            |house| {
                // While the prompt is read, before the first byte of an answer.
                let prompt: Vec<u32> = (0..1000).map(|i| i % 40).collect();
                let reading = open(house, &json!({"prompt": prompt, "max_tokens": 4}));
                inside(house, 1.0);
                drop(reading);
                inside(house, 0.0);
                house.get("/health")
            },
            "\"status\":\"ok\"",
        ),
        (
            |house| {
                // Before the body was sent whole.
                let mut client = house.client();
                client.send(b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n{");
                drop(client);
                house.get("/health")
            },
            "\"status\":\"ok\"",
        ),
        (
            |house| {
                // 500 that ask nothing.
                let idle: Vec<_> = (0..500).map(|_| house.client()).collect();
                let answer = house.get("/health");
                drop(idle);
                answer
            },
            "\"status\":\"ok\"",
        ),
    ];
    rows.into_iter().map(|(act, says)| (At::Slow, Deed::Act(act), 200, says)).collect()
}

fn strangers() -> Vec<Line> {
    let routes = [
        ("POST", CHAT),
        ("POST", TEXT),
        ("POST", "/chat/completions"),
        ("POST", "/v1/embeddings"),
        ("POST", "/v1/responses"),
        ("POST", "/v1/messages"),
        ("POST", "/tokenize"),
        ("POST", "/v1/models/load"),
        ("POST", "/v1/adapters"),
        ("GET", "/v1/models"),
        ("GET", "/metrics"),
        ("GET", "/openapi.json"),
        ("GET", "//health"),
        ("DELETE", "/v1/adapters/x"),
    ];
    let wrong = || vec![("authorization", "Bearer wrong")];
    let mut rows: Vec<Line> = routes
        .into_iter()
        .map(|(method, path)| (At::Keyed, Deed::Ask(method, path, wrong()), 401, "no valid API key"))
        .collect();
    rows.extend([
        (At::Keyed, Deed::Ask("GET", "/v1/models", vec![]), 401, "no valid API key"),
        (At::Keyed, Deed::Ask("GET", "/v1/models", vec![("x-api-key", "")]), 401, "no valid API key"),
        (At::Keyed, Deed::Ask("GET", "/v1/models", vec![("x-api-key", KEY)]), 200, NAME),
        (At::Keyed, Deed::Ask("GET", "/health", vec![]), 200, "ok"),
        (At::Demo, Deed::Ask("GET", "/v1/models", vec![("origin", "https://evil.example")]), 403, "origin"),
        (At::Demo, Deed::Ask("GET", "/v1/models", vec![("origin", "null")]), 403, "origin"),
        (At::Demo, Deed::Ask("GET", "/v1/models", vec![("host", "evil.example")]), 403, "--allowed-hosts"),
    ]);
    rows
}

fn loads() -> Vec<Line> {
    fn of_model(model: &str) -> Value {
        json!({"model": model, "prompt": "w20", "max_tokens": 3})
    }
    let together: fn(&House) -> Answer = |house| {
        thread::scope(|scope| {
            for i in 0..8 {
                scope.spawn(move || {
                    let model = if i % 2 == 0 { "a" } else { "b" };
                    let path = ["/v1/models/load", "/v1/models/unload", TEXT][i % 3];
                    let body = if path == TEXT { of_model(model) } else { json!({"model": model}) };
                    let status = house.post(path, &body).status;
                    assert!([200, 409, 503, 507].contains(&status), "{path} {model}: {status}");
                });
            }
        });
        house.wait(|| house.post(TEXT, &of_model("b")).status == 200, "a model to answer");
        house.post(TEXT, &of_model("a"))
    };
    let in_use: fn(&House) -> Answer = |house| {
        let mut client = open(house, &long());
        client.head();
        client.piece();
        house.post("/v1/models/unload", &json!({"model": NAME}))
    };
    vec![(At::Shelf, Deed::Act(together), 200, "w21 w22 w23"), (At::Slow, Deed::Act(in_use), 409, "in use")]
}

fn memory() -> Vec<Line> {
    let large = json!({"model": "large", "prompt": "w20"});
    vec![
        (At::Shelf, Deed::Post(TEXT, large), 507, "needs about"),
        (At::Shelf, Deed::Post("/v1/models/load", json!({"model": "large"})), 507, "needs about"),
    ]
}

fn breakdowns() -> Vec<Line> {
    vec![(At::Frail, text(json!({"prompt": [PANIC], "max_tokens": 3})), 503, "the engine stopped")]
}

fn lines() -> Vec<Line> {
    vec![
        (At::Demo, Deed::Ask("GET", "/a%0aERROR%1b[31mb", vec![("x-api-key", KEY)]), 404, "there is no route"),
        (At::Demo, chat(json!({"messages": [{"role": "user", "content": PROMPT}]})), 200, "finish_reason"),
        (At::Demo, chat(json!({"messages": [{"role": "user", "content": PROMPT}], "n": 0})), 400, "n"),
    ]
}

fn logits() -> Vec<Line> {
    let low: serde_json::Map<String, Value> = (0..100).map(|id: u32| (id.to_string(), json!(-1e300))).collect();
    vec![
        (At::Strict, text(json!({"prompt": [POISON]})), 500, "the logits are not finite"),
        (At::Strict, text(json!({"prompt": [POISON - 1], "max_tokens": 5})), 500, "the logits are not finite"),
        (At::Strict, text(json!({"prompt": [10], "logit_bias": low})), 200, "finish_reason"),
        (At::Strict, text(json!({"prompt": [10], "logit_bias": {"11": 3e38}, "temperature": 1.0})), 200, ""),
    ]
}

fn caches() -> Vec<Line> {
    let twice: fn(&House) -> Answer = |house| {
        let body = json!({"prompt": "A prompt that is known to its end", "max_tokens": 6});
        let first = house.post(TEXT, &body).ok();
        let again = house.post(TEXT, &body);
        assert_eq!(first["choices"], again.ok()["choices"]);
        // A prompt that ends within what is known.
        house.post(TEXT, &json!({"prompt": "A prompt that is", "max_tokens": 6})).ok();
        again
    };
    let meet: fn(&House) -> Answer = |house| {
        let one = |i: usize| json!({"prompt": "w10 ".repeat(i + 1), "max_tokens": 1 + i * 3, "ignore_eos": true});
        let answers = thread::scope(|scope| {
            let spawned: Vec<_> = (0..12).map(|i| scope.spawn(move || house.post(TEXT, &one(i)))).collect();
            spawned.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
        });
        for (i, answer) in answers.iter().enumerate() {
            assert_eq!(answer.ok()["usage"]["completion_tokens"], 1 + i as u64 * 3);
        }
        answers.into_iter().next_back().unwrap()
    };
    vec![(At::Demo, Deed::Act(twice), 200, "cached_tokens"), (At::Strict, Deed::Act(meet), 200, "usage")]
}

fn characters() -> Vec<Line> {
    let body = |body: &[u8]| Deed::Body(body.to_vec());
    let half: fn(&House) -> Answer = |house| {
        // The server reads a body whose characters are cut between two packets.
        let text = r#"{"model": "demo", "max_tokens": 2, "messages": [{"role": "user", "content": "naïve 🦀"}]}"#;
        let cut = text.find('🦀').unwrap() + 2;
        let head = format!("POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n", text.len());
        let mut client = house.client();
        client.send(&[head.as_bytes(), &text.as_bytes()[..cut]].concat());
        thread::sleep(std::time::Duration::from_millis(20));
        client.send(&text.as_bytes()[cut..]);
        first_words(client)
    };
    let stop = json!({"prompt": [20], "max_tokens": 30, "stop": ["w24 w2"], "stream": false});
    vec![
        (At::Demo, body(br#"{"messages": [{"role": "user", "content": "\ud800"}]}"#), 400, "JSON"),
        (At::Demo, body(b"\xef\xbb\xbf{\"messages\": []}"), 400, "JSON"),
        (At::Demo, Deed::Act(half), 200, "finish_reason"),
        // A stop string over tokens, in the middle of the last.
        (At::Strict, text(stop), 200, "\"w21 w22 w23 \""),
        (At::Demo, text(json!({"prompt": [255, 254, 200, 128], "max_tokens": 4})), 200, "finish_reason"),
        (At::Demo, chat(json!({"stop": ["\u{1f980}", "é"], "max_tokens": 4})), 200, "finish_reason"),
    ]
}
