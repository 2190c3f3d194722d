//! The page to chat on: files that are part of the program. Nothing of it is built, and it loads nothing from elsewhere.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use axum::routing::get;

use super::reply;
use super::routes::Table;

/// The files: path, type and content.
const FILES: [(&str, &str, &str); 7] = [
    ("/", "text/html; charset=utf-8", include_str!("../page/index.html")),
    ("/page/icon.svg", "image/svg+xml", include_str!("../page/icon.svg")),
    ("/page/style.css", "text/css; charset=utf-8", include_str!("../page/style.css")),
    ("/page/chat.js", "text/javascript; charset=utf-8", include_str!("../page/chat.js")),
    ("/page/markdown.js", "text/javascript; charset=utf-8", include_str!("../page/markdown.js")),
    ("/page/store.js", "text/javascript; charset=utf-8", include_str!("../page/store.js")),
    ("/page/stream.js", "text/javascript; charset=utf-8", include_str!("../page/stream.js")),
];

/// What the page may do: run and show its own files, ask its own server, and nothing else. Text cannot become markup in it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
    base-uri 'none'; form-action 'self'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

/// Whether a path is a file of the page. They hold no secrets and need no key: the page asks for it.
pub(crate) fn is_file(path: &str) -> bool {
    FILES.iter().any(|(own, ..)| *own == path)
}

/// Adds the files to the routes.
pub(crate) fn add(table: Table) -> Table {
    FILES
        .iter()
        .fold(table, |table, &(path, kind, content)| table.route(path, get(move || async move { file(kind, content) })))
}

fn file(kind: &'static str, content: &'static str) -> Response {
    let mut response = reply::of(StatusCode::OK, kind, content);
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        // Another version of the program may be there the next time.
        (header::CACHE_CONTROL, "no-cache"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}
