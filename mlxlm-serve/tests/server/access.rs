//! Keys, origins and names: who may ask.

use std::time::Duration;

use mlxlm_serve::{Access, ApiKey, ServerOptions};

use crate::counter::counter;
use crate::house::{House, options};

fn house(access: Access) -> House {
    House::with(ServerOptions { access, ..options() }, counter(Duration::ZERO))
}

#[test]
fn every_route_but_two_needs_the_key() {
    let house = house(Access { api_keys: vec![ApiKey::new("sesame")], ..Access::default() });
    let routes = [
        ("POST", "/v1/chat/completions"),
        ("POST", "/chat/completions"),
        ("POST", "/v1/completions"),
        ("POST", "/completions"),
        ("POST", "/v1/embeddings"),
        ("GET", "/v1/models"),
        ("GET", "/models"),
        ("GET", "/v1/models/demo"),
        ("POST", "/tokenize"),
        ("POST", "/detokenize"),
        ("POST", "/apply-template"),
        ("GET", "/metrics"),
        ("GET", "/nothing"),
        ("GET", "/health/../metrics"),
        ("GET", "//health"),
    ];
    for (method, path) in routes {
        for headers in
            [&[][..], &[("authorization", "Bearer wrong")], &[("authorization", "Basic sesame")], &[("x-api-key", "")]]
        {
            let answer = house.ask(method, path, headers, b"{}");
            assert_eq!(
                answer.refused(401),
                "the request brings no valid API key in `Authorization: Bearer` or `x-api-key`",
                "{path}"
            );
            assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
        }
    }
    let anthropic = house.ask("POST", "/v1/messages", &[], b"{}");
    assert_eq!((anthropic.status, anthropic.json()["error"]["type"].as_str()), (401, Some("authentication_error")));
    // The names of models are for those who have the key.
    assert_eq!(house.get("/health").ok().get("models"), None);
    assert_eq!(house.ask("GET", "/health", &[("x-api-key", "sesame")], b"").ok()["models"]["demo"]["engine"], "ready");
    house.get("/ready").ok();
    for header in [("authorization", "Bearer sesame"), ("x-api-key", "sesame")] {
        house.ask("GET", "/v1/models", &[header], b"").ok();
    }
}

#[test]
fn pages_of_other_origins_may_not_ask() {
    let local = house(Access::default());
    for origin in ["https://evil.example", "null", "http://localhost.evil.example"] {
        assert_eq!(local.ask("GET", "/v1/models", &[("origin", origin)], b"").status, 403, "{origin}");
        assert_eq!(local.ask("OPTIONS", "/v1/models", &[("origin", origin)], b"").status, 403, "{origin}");
    }
    let origin = ("origin", "http://localhost:3000");
    let answer = local.ask("GET", "/v1/models", &[origin], b"");
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, Some(origin.1)));
    let asked = local.ask("OPTIONS", "/v1/chat/completions", &[origin], b"");
    assert_eq!((asked.status, asked.header("access-control-allow-methods")), (204, Some("*")));
    let open = house(Access { allowed_origins: Some(vec!["*".into()]), ..Access::default() });
    let answer = open.ask("GET", "/v1/models", &[("origin", "https://any.example")], b"");
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, Some("*")));
}

#[test]
fn a_name_that_was_made_to_lead_here_does_not() {
    let local = house(Access::default());
    assert_eq!(local.ask("GET", "/v1/models", &[("host", "evil.example:8080")], b"").status, 403);
    assert_eq!(local.ask("GET", "/v1/models", &[("host", "127.0.0.1:8080")], b"").status, 200);
    let named =
        house(Access { allowed_hosts: Some(vec!["models.example".into(), "localhost".into()]), ..Access::default() });
    assert_eq!(named.ask("GET", "/v1/models", &[("host", "models.example")], b"").status, 200);
    assert_eq!(named.ask("GET", "/v1/models", &[("host", "other.example")], b"").status, 403);
}
