//! What is answered when a request cannot be done, in the shape of each API.

use axum::http::StatusCode;
use serde_json::{Value, json};

use crate::engine::{Fault, FaultKind, Refused};

/// Whose shape an answer has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// OpenAI's.
    OpenAi,
    /// OpenAI's, of events that all have a type.
    Responses,
    /// Anthropic's.
    Anthropic,
}

/// A request that cannot be done: its status, what is wrong, and with which field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ApiError {
    pub(crate) status: StatusCode,
    pub(crate) message: String,
    /// The field that is wrong, as in `messages[0].role`.
    pub(crate) param: Option<String>,
    /// A word for programs.
    pub(crate) code: Option<&'static str>,
    /// After how many seconds to try again.
    pub(crate) retry_after_s: Option<u32>,
}

pub(crate) type Result<T, E = ApiError> = std::result::Result<T, E>;

impl ApiError {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), param: None, code: None, retry_after_s: None }
    }

    /// The request is wrong: 400.
    pub(crate) fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// A field is wrong: 400.
    pub(crate) fn field(param: impl Into<String>, message: impl std::fmt::Display) -> Self {
        let param = param.into();
        Self { message: format!("`{param}` {message}"), param: Some(param), ..Self::bad("") }
    }

    /// A field that this server does not act on: 400.
    pub(crate) fn unsupported(param: impl Into<String>, message: impl std::fmt::Display) -> Self {
        Self { code: Some("unsupported_parameter"), ..Self::field(param, message) }
    }

    /// There is no such model: 404.
    pub(crate) fn no_model(asked: &str, names: &[String]) -> Self {
        let names = names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        let message = format!("there is no model `{asked}` here; there is {names}");
        let (param, code) = (Some("model".to_owned()), Some("model_not_found"));
        Self { param, code, ..Self::new(StatusCode::NOT_FOUND, message) }
    }

    pub(crate) fn code(self, code: &'static str) -> Self {
        Self { code: Some(code), ..self }
    }

    pub(crate) fn retry_after(self, seconds: u32) -> Self {
        Self { retry_after_s: Some(seconds), ..self }
    }

    /// The body of the answer.
    pub(crate) fn body(&self, dialect: Dialect) -> Value {
        match dialect {
            Dialect::OpenAi | Dialect::Responses => json!({"error": {
                "message": self.message, "type": self.openai_type(), "param": self.param, "code": self.code,
            }}),
            Dialect::Anthropic => {
                let mut error = json!({"type": self.anthropic_type(), "message": self.message});
                if let Some(code) = self.code {
                    error["details"] = json!({"error_code": code});
                }
                json!({"type": "error", "error": error})
            }
        }
    }

    fn openai_type(&self) -> &'static str {
        match self.status.as_u16() {
            401 => "authentication_error",
            403 => "permission_error",
            404 => "not_found_error",
            408 | 504 => "timeout_error",
            429 => "rate_limit_error",
            503 | 507 => "service_unavailable_error",
            500.. => "server_error",
            _ => "invalid_request_error",
        }
    }

    fn anthropic_type(&self) -> &'static str {
        match self.status.as_u16() {
            401 => "authentication_error",
            403 => "permission_error",
            404 => "not_found_error",
            413 => "request_too_large",
            429 => "rate_limit_error",
            408 | 504 => "timeout_error",
            503 | 507 | 529 => "overloaded_error",
            500.. => "api_error",
            _ => "invalid_request_error",
        }
    }
}

impl From<Fault> for ApiError {
    fn from(fault: Fault) -> Self {
        let (status, code) = match fault.kind {
            FaultKind::Request => (StatusCode::BAD_REQUEST, None),
            FaultKind::NoRoom => (StatusCode::INSUFFICIENT_STORAGE, Some("insufficient_memory")),
            FaultKind::Deadline => (StatusCode::GATEWAY_TIMEOUT, Some("deadline_exceeded")),
            FaultKind::Model => (StatusCode::INTERNAL_SERVER_ERROR, Some("model_failed")),
            FaultKind::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, Some("engine_stopped")),
        };
        let error = Self { code, ..Self::new(status, fault.message) };
        if matches!(fault.kind, FaultKind::NoRoom | FaultKind::Unavailable) { error.retry_after(5) } else { error }
    }
}

impl From<Refused> for ApiError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Full => Self::new(StatusCode::TOO_MANY_REQUESTS, "the server has as many requests as it takes")
                .code("queue_full")
                .retry_after(2),
            Refused::TooMany { capacity } => Self::bad(format!(
                "the request asks for more completions than the {capacity} that this server generates at once"
            )),
            Refused::Unavailable => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "the model is not ready").code("not_ready").retry_after(5)
            }
        }
    }
}

impl From<mlxlm_core::Error> for ApiError {
    /// Errors of the tokenizer and the chat template, which are about what the client sent.
    fn from(error: mlxlm_core::Error) -> Self {
        Self::bad(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_api_has_its_shape() {
        let error = ApiError::field("top_p", "is 2, expected 0 to 1");
        let openai = json!({"error": {
            "message": "`top_p` is 2, expected 0 to 1", "type": "invalid_request_error", "param": "top_p", "code": null,
        }});
        assert_eq!(error.body(Dialect::OpenAi), openai);
        let anthropic = json!({"type": "error", "error": {
            "type": "invalid_request_error", "message": "`top_p` is 2, expected 0 to 1",
        }});
        assert_eq!(error.body(Dialect::Anthropic), anthropic);
    }
}
