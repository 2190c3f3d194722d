//! Who may ask: the names that the server answers to, the pages that may reach it, and keys.
//!
//! A server on a loopback address is reached by every page that a browser on the machine shows. So by default only pages of the
//! machine itself may ask, and only under a name of the machine: a page elsewhere can make a name of its own lead to 127.0.0.1.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use subtle::{Choice, ConstantTimeEq};

use super::{body, page, reply};
use crate::api::error::{ApiError, Dialect};
use crate::app::App;
use crate::options::{Access, Asked, Level};

/// Routes that need no key: what watches over the server asks them.
const OPEN: [&str; 2] = ["/health", "/ready"];

/// Lets a request through, or answers it.
pub(crate) async fn guard(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let begin = Instant::now();
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let dialect = dialect(&path);
    let origin = request.headers().get(header::ORIGIN).cloned();
    let mut response = match check(&app, &request, &path) {
        Err(error) => {
            body::discard(request).await;
            reply::error(&error, dialect)
        }
        Ok(()) if method == Method::OPTIONS => empty(StatusCode::NO_CONTENT),
        Ok(()) => next.run(request).await,
    };
    allow(&app.options.access, origin.as_ref(), response.headers_mut());
    let (status, time) = (response.status(), begin.elapsed());
    app.http.count(&path, status);
    let level = if status.is_server_error() { Level::Warning } else { Level::Info };
    app.options.log.say_asked(level, || Asked { method: method.to_string(), path, status: status.as_u16(), time });
    response
}

/// Whose errors a path has.
pub(crate) fn dialect(path: &str) -> Dialect {
    if path.starts_with("/v1/messages") { Dialect::Anthropic } else { Dialect::OpenAi }
}

fn empty(status: StatusCode) -> Response {
    let mut response = Response::default();
    *response.status_mut() = status;
    response
}

fn check(app: &App, request: &Request, path: &str) -> Result<(), ApiError> {
    let (access, headers) = (&app.options.access, request.headers());
    if !host_is_allowed(access, app.is_local, headers) {
        let message = "the server does not answer to the name in `Host`; see `--allowed-hosts`";
        return Err(ApiError::new(StatusCode::FORBIDDEN, message).code("host_not_allowed"));
    }
    let origin = headers.get(header::ORIGIN);
    if origin.is_some_and(|origin| !origin_is_allowed(access, origin) && !is_own(access, origin, headers)) {
        let message = "pages of this origin may not ask; see `--allowed-origins`";
        return Err(ApiError::new(StatusCode::FORBIDDEN, message).code("origin_not_allowed"));
    }
    let is_page = app.options.page && page::is_file(path);
    let is_open = OPEN.contains(&path) || is_page || *request.method() == Method::OPTIONS;
    if is_open || may_know(access, headers) {
        return Ok(());
    }
    let message = "the request brings no valid API key in `Authorization: Bearer` or `x-api-key`";
    Err(ApiError::new(StatusCode::UNAUTHORIZED, message).code("invalid_api_key"))
}

/// Whether whoever asks may know what a server with keys says to those who have one.
pub(super) fn may_know(access: &Access, headers: &HeaderMap) -> bool {
    access.api_keys.is_empty() || has_key(access, headers)
}

/// Whether a key is among those of the server. How long that takes says nothing of how much of a key was right.
fn has_key(access: &Access, headers: &HeaderMap) -> bool {
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| value.as_bytes().split_first_chunk::<7>());
    let bearer = bearer.filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"Bearer ")).map(|(_, key)| key);
    let given = bearer.into_iter().chain(headers.get("x-api-key").map(HeaderValue::as_bytes));
    let right =
        |found: Choice, key: &[u8]| access.api_keys.iter().fold(found, |found, own| found | own.bytes().ct_eq(key));
    given.fold(Choice::from(0), right).into()
}

fn host_is_allowed(access: &Access, is_local: bool, headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(header::HOST) else { return true };
    let Ok(host) = host.to_str() else { return false };
    let name = without_port(host);
    match &access.allowed_hosts {
        Some(hosts) => hosts.iter().any(|own| own == "*" || own.eq_ignore_ascii_case(name)),
        None => !is_local || is_of_this_machine(name),
    }
}

fn origin_is_allowed(access: &Access, origin: &HeaderValue) -> bool {
    let Ok(origin) = origin.to_str() else { return false };
    match &access.allowed_origins {
        Some(origins) => origins.iter().any(|own| own == "*" || own.eq_ignore_ascii_case(origin)),
        None => {
            let name = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
            name.is_some_and(|host| is_of_this_machine(without_port(host)))
        }
    }
}

/// Whether the page is this server's own. That a browser calls it so is believed under addresses and names that were allowed: a name
/// that anybody can make lead here says nothing.
fn is_own(access: &Access, origin: &HeaderValue, headers: &HeaderMap) -> bool {
    let (Ok(origin), Some(Ok(host))) = (origin.to_str(), headers.get(header::HOST).map(HeaderValue::to_str)) else {
        return false;
    };
    let name = without_port(host);
    let is_address = name.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok();
    let is_named = access.allowed_hosts.iter().flatten().any(|own| own.eq_ignore_ascii_case(name));
    let asked = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    (is_address || is_named) && asked.is_some_and(|asked| asked.eq_ignore_ascii_case(host))
}

/// `name:port` or `[address]:port` without the port.
fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !name.ends_with(':') => name,
        _ => host,
    }
}

fn is_of_this_machine(name: &str) -> bool {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    name == "localhost" || name.ends_with(".localhost") || name == "[::1]" || {
        name.parse::<std::net::Ipv4Addr>().is_ok_and(|address| address.is_loopback())
    }
}

/// Tells a browser that the page may read the answer.
fn allow(access: &Access, origin: Option<&HeaderValue>, headers: &mut HeaderMap) {
    let Some(origin) = origin.filter(|origin| origin_is_allowed(access, origin)) else { return };
    let is_any = access.allowed_origins.as_ref().is_some_and(|origins| origins.iter().any(|own| own == "*"));
    let allowed = if is_any { HeaderValue::from_static("*") } else { origin.clone() };
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("*"));
    // `Authorization` is not among those that `*` stands for.
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("*, Authorization"));
    if !is_any {
        headers.append(header::VARY, HeaderValue::from_static("Origin"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::ApiKey;

    fn headers(entries: &[(&'static str, &str)]) -> HeaderMap {
        let entry = |(name, value): &(&'static str, &str)| (name.parse().unwrap(), value.parse().unwrap());
        entries.iter().map(entry).collect()
    }

    #[test]
    fn only_names_of_the_machine_reach_a_local_server() {
        let allowed = |host| host_is_allowed(&Access::default(), true, &headers(&[("host", host)]));
        for host in ["localhost", "localhost:8080", "127.0.0.1:1", "[::1]:80", "[::1]", "app.localhost", "127.1.2.3"] {
            assert!(allowed(host), "{host}");
        }
        for host in ["evil.example", "evil.example:8080", "127.0.0.1.evil.example", "192.168.1.5", "[::2]:80", ""] {
            assert!(!allowed(host), "{host}");
        }
        assert!(host_is_allowed(&Access::default(), false, &headers(&[("host", "api.example")])));
        let access = Access { allowed_hosts: Some(vec!["api.example".into()]), ..Access::default() };
        assert!(host_is_allowed(&access, true, &headers(&[("host", "API.example:443")])));
        assert!(!host_is_allowed(&access, true, &headers(&[("host", "localhost")])));
    }

    #[test]
    fn only_pages_of_the_machine_may_ask() {
        let allowed = |access: &Access, origin: &str| origin_is_allowed(access, &origin.parse().unwrap());
        let local = Access::default();
        assert!(allowed(&local, "http://localhost:3000") && allowed(&local, "https://127.0.0.1"));
        assert!(!allowed(&local, "https://evil.example") && !allowed(&local, "null"));
        let named = Access { allowed_origins: Some(vec!["https://a.example".into()]), ..Access::default() };
        assert!(allowed(&named, "https://a.example") && !allowed(&named, "http://localhost:3000"));
        let any = Access { allowed_origins: Some(vec!["*".into()]), ..Access::default() };
        assert!(allowed(&any, "null"));
    }

    #[test]
    fn the_page_of_the_server_may_ask_it() {
        let own = |access: &Access, origin: &str, host: &str| {
            is_own(access, &origin.parse().unwrap(), &headers(&[("host", host)]))
        };
        let access = Access { allowed_hosts: Some(vec!["models.example".into()]), ..Access::default() };
        assert!(
            own(&access, "http://192.168.1.5:8080", "192.168.1.5:8080")
                && own(&access, "https://[fd00::1]", "[fd00::1]")
        );
        assert!(own(&access, "https://models.example", "models.example"));
        assert!(
            !own(&access, "http://192.168.1.6:8080", "192.168.1.5:8080")
                && !own(&access, "http://192.168.1.5", "192.168.1.5:8080")
        );
        assert!(!own(&access, "http://evil.example:8080", "evil.example:8080") && !own(&access, "null", "192.168.1.5"));
    }

    #[test]
    fn a_key_is_taken_from_either_header() {
        let access = Access { api_keys: vec![ApiKey::new("one"), ApiKey::new("two")], ..Access::default() };
        for entry in [("authorization", "Bearer two"), ("authorization", "bearer one"), ("x-api-key", "one")] {
            assert!(has_key(&access, &headers(&[entry])), "{entry:?}");
        }
        for entry in [("authorization", "Bearer thr"), ("authorization", "two"), ("x-api-key", ""), ("x-key", "one")] {
            assert!(!has_key(&access, &headers(&[entry])), "{entry:?}");
        }
        assert_eq!(format!("{:?}", access.api_keys[0]), "ApiKey(…)");
    }
}
