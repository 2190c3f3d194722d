//! The page to chat on, as a browser gets it. What it does in one is tested by `cargo xtask test --clients`.

use std::time::Duration;

use mlxlm_serve::{Access, ApiKey, Images, ServerOptions};
use serde_json::json;

use crate::counter::counter;
use crate::house::{House, options};

fn house(options: ServerOptions) -> House {
    House::with(options, counter(Duration::ZERO))
}

#[test]
fn the_page_is_served_whole_and_may_do_little() {
    let access = Access { api_keys: vec![ApiKey::new("sesame")], ..Access::default() };
    let house = house(ServerOptions { access, ..options() });
    let page = house.get("/");
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    let policy = page.header("content-security-policy").unwrap();
    assert!(
        policy.starts_with("default-src 'none'") && !policy.contains("unsafe") && !policy.contains("http"),
        "{policy}"
    );
    assert_eq!(page.header("x-content-type-options"), Some("nosniff"));
    // All that it refers to is there, also what its scripts import, and nothing of it lies elsewhere.
    let mut files: Vec<String> =
        page.body.split('"').filter(|word| word.starts_with("page/")).map(|file| format!("/{file}")).collect();
    let mut at = 0;
    while let Some(file) = files.get(at).cloned() {
        let content = house.get(&file);
        assert_eq!(content.status, 200, "{file}");
        assert!(!content.body.contains("https://") || file.ends_with(".js"), "{file}");
        assert!(!content.body.contains("innerHTML") && !content.body.contains("eval("), "{file}");
        let imported =
            content.body.split('"').filter(|word| word.starts_with("./")).map(|word| word.replacen("./", "/page/", 1));
        let new: Vec<String> = imported.filter(|file| !files.contains(file)).collect();
        files.extend(new);
        at += 1;
    }
    assert!(files.len() >= 6, "{files:?}");
    // The page is no way around the key.
    house.get("/v1/models").refused(401);
    house.get("/page/../metrics").refused(401);
}

#[test]
fn a_server_may_have_no_page() {
    let house = house(ServerOptions { page: false, ..options() });
    house.get("/").refused(404);
    house.get("/page/chat.js").refused(404);
}

#[test]
fn images_are_mentioned_and_models_named_where_that_is_wanted() {
    let house = House::with(
        ServerOptions { images: Images::Mention, requires_model: true, ..options() },
        std::sync::Arc::new(|| Ok(mlxlm_serve::Models { main: crate::house::demo(), draft: None })),
    );
    let part = json!({"type": "image_url", "image_url": {"url": "data:image/png;base64,"}});
    let ask = |content| {
        house.post(
            "/v1/chat/completions",
            &json!({"model": "demo", "max_tokens": 5, "messages": [{"role": "user", "content": content}]}),
        )
    };
    let (image, text) = (ask(json!([{"type": "text", "text": "See "}, part])).ok(), ask(json!("See [image]")).ok());
    assert_eq!(image["choices"], text["choices"]);
    let nameless = json!({"messages": [{"role": "user", "content": "hi"}]});
    let answer = house.post("/v1/chat/completions", &nameless);
    assert_eq!(
        (answer.refused(400).as_str(), &answer.json()["error"]["param"]),
        ("`model` is missing", &json!("model"))
    );
}
