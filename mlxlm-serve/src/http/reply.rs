//! Answers.

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use serde_json::Value;

use crate::api::error::{ApiError, Dialect};

/// An answer of this type.
pub(crate) fn of(status: StatusCode, content_type: &'static str, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// JSON with this status.
pub(crate) fn json_with(status: StatusCode, value: &Value) -> Response {
    of(status, "application/json", value.to_string())
}

/// JSON.
pub(crate) fn json(value: &Value) -> Response {
    json_with(StatusCode::OK, value)
}

/// Why there is no answer.
pub(crate) fn error(error: &ApiError, dialect: Dialect) -> Response {
    let mut response = json_with(error.status, &error.body(dialect));
    if let Some(seconds) = error.retry_after_s {
        response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    }
    if error.status == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}
