//! How a call to an upstream fails.

use std::net::SocketAddr;
use std::time::Duration;

use http::StatusCode;

#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    #[error("no endpoint is healthy")]
    NoHealthyEndpoint,
    /// Every endpoint has failed too many requests of late.
    #[error("every endpoint failed of late; the next request may try one in {retry_after:?}")]
    BreakerOpen { retry_after: Duration },
    #[error("no connection to `{address}`: {cause}")]
    Connect { address: SocketAddr, cause: std::io::Error },
    #[error("no connection to `{address}` in time")]
    ConnectTimeout { address: SocketAddr },
    /// The time went by with waiting for a turn to connect, so it says nothing of the endpoint.
    #[error("no connection to `{address}` in time: too many others are being opened")]
    ConnectQueue { address: SocketAddr },
    /// Also an expired or foreign certificate of the upstream.
    #[error("the TLS handshake with `{address}` failed: {cause}")]
    Tls { address: SocketAddr, cause: String },
    /// No header section within the response timeout, or no byte within the idle timeout.
    #[error("the upstream took too long to {what}")]
    Timeout { what: &'static str },
    /// What the upstream sent is not HTTP, is ambiguous, or exceeds the limits.
    #[error("the upstream's answer is not usable: {cause}")]
    Protocol { cause: String },
    /// The connection ended in the middle of something.
    #[error("the upstream closed the connection early: {cause}")]
    Closed { cause: String },
    /// The request's own body failed: the client went away, or sent too much.
    #[error("the request's body failed: {cause}")]
    RequestBody { cause: String },
    #[error("the request can't be sent: {cause}")]
    Request { cause: String },
}

impl UpstreamError {
    /// What the client is answered when the failure comes before the response's header.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::NoHealthyEndpoint | Self::BreakerOpen { .. } | Self::ConnectQueue { .. } => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::ConnectTimeout { .. } | Self::Timeout { .. } => StatusCode::GATEWAY_TIMEOUT,
            Self::RequestBody { .. } => StatusCode::BAD_REQUEST,
            Self::Connect { .. }
            | Self::Tls { .. }
            | Self::Protocol { .. }
            | Self::Closed { .. }
            | Self::Request { .. } => StatusCode::BAD_GATEWAY,
        }
    }

    /// A fixed word for metrics and records.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::NoHealthyEndpoint => "no_healthy_endpoint",
            Self::BreakerOpen { .. } => "breaker_open",
            Self::Connect { .. } => "connect",
            Self::ConnectTimeout { .. } => "connect_timeout",
            Self::ConnectQueue { .. } => "connect_queue",
            Self::Tls { .. } => "tls",
            Self::Timeout { .. } => "timeout",
            Self::Protocol { .. } => "protocol",
            Self::Closed { .. } => "closed",
            Self::RequestBody { .. } => "request_body",
            Self::Request { .. } => "request",
        }
    }

    /// Whole seconds, at least one, after which asking again makes sense, where that is known.
    pub fn retry_after(&self) -> Option<u64> {
        match self {
            Self::BreakerOpen { retry_after } => {
                Some(u64::try_from(retry_after.as_millis().div_ceil(1000)).unwrap_or(1).max(1))
            }
            Self::ConnectQueue { .. } => Some(1),
            _ => None,
        }
    }

    pub(super) fn protocol(cause: impl Into<String>) -> Self {
        Self::Protocol { cause: cause.into() }
    }

    pub(super) fn from_hyper(error: &hyper::Error) -> Self {
        let cause = chain(error);
        if error.is_user() {
            return Self::RequestBody { cause };
        }
        if error.is_parse() {
            return Self::Protocol { cause };
        }
        // hyper reports HTTP/2 violations as errors of the h2 crate, which has no predicate here.
        if error.is_incomplete_message() || error.is_canceled() || error.is_closed() || is_io(error)
        {
            return Self::Closed { cause };
        }
        Self::Protocol { cause }
    }
}

fn is_io(error: &hyper::Error) -> bool {
    let mut next = std::error::Error::source(error);
    while let Some(error) = next {
        if error.is::<std::io::Error>() {
            return true;
        }
        next = error.source();
    }
    false
}

fn chain(error: &hyper::Error) -> String {
    let mut text = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(error) = next {
        text.push_str(": ");
        text.push_str(&error.to_string());
        next = error.source();
    }
    text
}
