//! The body of a request: not too long, not too slow, and JSON.

use std::time::Duration;

use axum::body;
use axum::extract::Request;
use axum::http::{StatusCode, header};

use crate::api::Fields;
use crate::api::error::{ApiError, Result};
use crate::options::Limits;

/// Reads the fields of a request.
pub(crate) async fn fields(request: Request, limits: &Limits) -> Result<Fields> {
    let bytes = read(request, limits).await?;
    let invalid =
        |error: &serde_json::Error| ApiError::bad(format!("the body is not JSON: {error}")).code("invalid_json");
    if std::str::from_utf8(&bytes).is_err() {
        return Err(ApiError::bad("the body is not UTF-8").code("invalid_json"));
    }
    Fields::of_request(serde_json::from_slice(&bytes).map_err(|error| invalid(&error))?)
}

/// Reads the body of a request that is answered without it, if it is short: the connection can then be used again, and the answer is
/// not lost to a client that still sends.
pub(crate) async fn discard(request: Request) {
    const MOST_BYTES: usize = 256 << 10;
    const MOST_TIME: Duration = Duration::from_secs(2);
    drop(tokio::time::timeout(MOST_TIME, body::to_bytes(request.into_body(), MOST_BYTES)).await);
}

async fn read(request: Request, limits: &Limits) -> Result<body::Bytes> {
    let most = limits.body_bytes;
    let too_long = || {
        let message = format!("the body has more than {most} bytes");
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, message).code("body_too_large")
    };
    let said = request.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok());
    if said.and_then(|length| length.parse::<u64>().ok()).is_some_and(|length| length > most as u64) {
        return Err(too_long());
    }
    let reading = body::to_bytes(request.into_body(), most);
    let too_slow = |_| ApiError::new(StatusCode::REQUEST_TIMEOUT, "the body did not come in time");
    match tokio::time::timeout(limits.body_time, reading).await.map_err(too_slow)? {
        Ok(bytes) => Ok(bytes),
        Err(error) if is_too_long(&error) => Err(too_long()),
        Err(error) => Err(ApiError::bad(format!("the body cannot be read: {error}"))),
    }
}

/// Whether reading ended because the limit was reached.
fn is_too_long(error: &axum::Error) -> bool {
    std::error::Error::source(error).is_some_and(|source| source.to_string().contains("length limit"))
}
