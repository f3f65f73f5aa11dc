//! One try at sending a request over a connection, and what to make of its answer.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, HOST, HeaderName, TRANSFER_ENCODING, UPGRADE,
    WWW_AUTHENTICATE,
};
use http::{HeaderMap, Request, Response, StatusCode, Uri, Version, request, uri};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::time::Instant;

use super::body::{RequestBody, UpstreamBody, soon, within};
use super::error::UpstreamError;
use super::idle::{Idle, Lease};
use super::values;
use super::wire::Http1;

/// Header fields that a response may have.
const MAX_RESPONSE_HEADERS: usize = 100;
/// Header section of a response, in bytes.
const MAX_RESPONSE_HEADER_BYTES: u16 = u16::MAX;
const HTTP2_STREAM_WINDOW: u32 = 256 * 1024;
const HTTP2_CONNECTION_WINDOW: u32 = 1024 * 1024;
/// A shared connection on which nothing answers is found out this way while streams are open.
const HTTP2_PING_INTERVAL: Duration = Duration::from_secs(20);
const HTTP2_PING_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) fn http1_builder() -> http1::Builder {
    let mut builder = http1::Builder::new();
    // The default count of header fields is 100; naming it would cost an allocation a response.
    builder.max_header_size(usize::from(MAX_RESPONSE_HEADER_BYTES));
    builder
}

pub(super) fn http2_builder() -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(HTTP2_STREAM_WINDOW)
        .initial_connection_window_size(HTTP2_CONNECTION_WINDOW)
        .max_header_list_size(u32::from(MAX_RESPONSE_HEADER_BYTES))
        .keep_alive_interval(HTTP2_PING_INTERVAL)
        .keep_alive_timeout(HTTP2_PING_TIMEOUT);
    builder
}

/// A request on its way. Its head stays where it is, however often it is handed on.
pub(super) struct Outgoing {
    pub(super) head: Box<request::Parts>,
    pub(super) body: RequestBody,
}

impl Outgoing {
    /// Whether it may go out again where nothing says that it arrived.
    fn may_repeat(&self, reused: bool) -> bool {
        reused && self.head.method.is_idempotent() && self.body.is_empty()
    }
}

impl From<Request<RequestBody>> for Outgoing {
    fn from(request: Request<RequestBody>) -> Self {
        let (head, body) = request.into_parts();
        Self { head: Box::new(head), body }
    }
}

impl From<Outgoing> for Request<RequestBody> {
    fn from(Outgoing { head, body }: Outgoing) -> Self {
        Self::from_parts(*head, body)
    }
}

/// How one try ended.
pub(super) enum Try {
    Answered(Box<Response<UpstreamBody>>),
    /// A second one does no harm; the request may go out again.
    Again(Outgoing, UpstreamError),
    Failed(UpstreamError),
}

/// Deadlines of a try.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) response: Duration,
    pub(super) idle: Duration,
}

/// Brings a request into the form that HTTP/1.1 needs: origin-form target and `Host`.
pub(super) fn prepare_http1(head: &mut request::Parts) -> Result<(), UpstreamError> {
    head.version = Version::HTTP_11;
    head.extensions.clear();
    if !head.headers.contains_key(HOST) {
        return Err(UpstreamError::Request { cause: "it has no host".into() });
    }
    if head.uri.authority().is_some() {
        let mut parts = uri::Parts::default();
        parts.path_and_query = head.uri.path_and_query().cloned();
        head.uri = Uri::from_parts(parts)
            .map_err(|error| UpstreamError::Request { cause: error.to_string() })?;
    }
    Ok(())
}

/// Brings a request into the form that HTTP/2 needs: scheme and authority in the target.
pub(super) fn prepare_http2(head: &mut request::Parts, scheme: &str) -> Result<(), UpstreamError> {
    let failed = |error: String| UpstreamError::Request { cause: error };
    head.version = Version::HTTP_2;
    head.extensions.clear();
    let host = head.headers.remove(HOST).ok_or_else(|| failed("it has no host".into()))?;
    let mut parts = uri::Parts::default();
    parts.scheme =
        Some(scheme.parse().map_err(|error: uri::InvalidUri| failed(error.to_string()))?);
    parts.authority = Some(
        host.as_bytes().try_into().map_err(|error: uri::InvalidUri| failed(error.to_string()))?,
    );
    parts.path_and_query = head.uri.path_and_query().cloned();
    head.uri = Uri::from_parts(parts).map_err(|error| failed(error.to_string()))?;
    values::compact(&mut head.headers);
    Ok(())
}

/// Sends over an HTTP/1 connection that is ready.
pub(super) async fn over_http1(
    mut connection: Box<Http1>,
    reused: bool,
    request: Outgoing,
    limits: Limits,
    worker: usize,
    now: Instant,
    idle: &Arc<Idle>,
) -> Try {
    connection.trace.begin(request.may_repeat(reused));
    let upgrade = asks_for_upgrade(&request.head.headers);
    let signs_in = signs_the_connection_in(&request.head.headers, &AUTHORIZATION);
    let progress = request.body.progress();
    if upgrade {
        connection.release();
    }
    let mut patience = connection.patience.take();
    let mut sending = pin!(connection.sender.try_send_request(request.into()));
    let driven = poll_fn(|cx| connection.poll(cx, |cx| sending.as_mut().poll(cx)));
    let result = match progress {
        None => soon(driven, &mut patience, now + limits.response).await,
        Some(progress) => within(driven, progress, limits.response, limits.idle).await,
    };
    connection.patience = patience;
    let result = match result {
        Ok(result) => result,
        Err(timeout) => return Try::Failed(timeout),
    };
    let response = match result {
        Ok(response) => response,
        Err(mut failed) => {
            let untouched = failed.take_message();
            let error = UpstreamError::from_hyper(failed.error());
            let died = matches!(error, UpstreamError::Closed { .. }) && !connection.trace.heard();
            let again = untouched.or_else(|| connection.trace.request().filter(|_| died));
            return match again {
                Some(request) => Try::Again(request.into(), error),
                None => Try::Failed(error),
            };
        }
    };
    connection.trace.settled();
    if let Err(error) = check(&response, upgrade) {
        return Try::Failed(error);
    }
    let lease = (response.status() != StatusCode::SWITCHING_PROTOCOLS).then(|| Lease {
        idle: Arc::clone(idle),
        worker,
        keep: response.version() == Version::HTTP_11
            && !signs_in
            && !(response.status() == StatusCode::UNAUTHORIZED
                && signs_the_connection_in(response.headers(), &WWW_AUTHENTICATE)),
        connection,
        since: now,
    });
    Try::Answered(Box::new(response.map(|body| UpstreamBody::new(body, lease, limits.idle))))
}

fn copy(head: &request::Parts) -> Request<RequestBody> {
    let mut copy = Request::new(RequestBody::Empty);
    *copy.method_mut() = head.method.clone();
    *copy.uri_mut() = head.uri.clone();
    *copy.version_mut() = head.version;
    *copy.headers_mut() = head.headers.clone();
    copy
}

/// Sends over a shared HTTP/2 connection.
pub(super) async fn over_http2(
    mut sender: http2::SendRequest<RequestBody>,
    reused: bool,
    request: Outgoing,
    limits: Limits,
) -> Try {
    let spare = request.may_repeat(reused).then(|| copy(&request.head));
    let progress = request.body.progress();
    let sending = sender.try_send_request(request.into());
    let result = match progress {
        None => soon(sending, &mut None, Instant::now() + limits.response).await,
        Some(progress) => within(sending, progress, limits.response, limits.idle).await,
    };
    let result = match result {
        Ok(result) => result,
        Err(timeout) => return Try::Failed(timeout),
    };
    match result {
        Ok(response) => match check(&response, false) {
            Ok(()) => Try::Answered(Box::new(
                response.map(|body| UpstreamBody::new(body, None, limits.idle)),
            )),
            Err(error) => Try::Failed(error),
        },
        Err(mut failed) => {
            let untouched = failed.take_message();
            let error = UpstreamError::from_hyper(failed.error());
            match (untouched, spare) {
                (Some(request), _) => Try::Again(request.into(), error),
                (None, Some(copy)) if sender.is_closed() => Try::Again(copy.into(), error),
                _ => Try::Failed(error),
            }
        }
    }
}

/// Whether a field speaks of a scheme with which the server signs in the connection, and not the
/// request: whoever came next on it would be taken for this user (RFC 4559, section 6).
fn signs_the_connection_in(headers: &HeaderMap, field: &HeaderName) -> bool {
    headers.get_all(field).iter().any(|value| {
        let scheme = value.as_bytes().split(|byte| *byte == b' ').next().unwrap_or_default();
        scheme.eq_ignore_ascii_case(b"ntlm") || scheme.eq_ignore_ascii_case(b"negotiate")
    })
}

fn asks_for_upgrade(headers: &HeaderMap) -> bool {
    headers.contains_key(UPGRADE) && names_token(headers, "upgrade")
}

fn names_token(headers: &HeaderMap, token: &str) -> bool {
    headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|named| named.trim().eq_ignore_ascii_case(token))
}

/// Refuses answers that could be read in two ways (RFC 9112, section 6.3) or were not asked for.
fn check(response: &Response<Incoming>, upgrade: bool) -> Result<(), UpstreamError> {
    let headers = response.headers();
    if headers.len() > MAX_RESPONSE_HEADERS {
        return Err(UpstreamError::protocol("it has too many header fields"));
    }
    if response.status() == StatusCode::SWITCHING_PROTOCOLS && !upgrade {
        return Err(UpstreamError::protocol("it switches protocols without having been asked to"));
    }
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let length = lengths.next();
    if lengths.next().is_some() || length.is_some_and(|value| value.as_bytes().contains(&b',')) {
        return Err(UpstreamError::protocol("it has several Content-Length"));
    }
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    if let Some(coding) = codings.next() {
        if length.is_some() {
            return Err(UpstreamError::protocol("it has Transfer-Encoding and Content-Length"));
        }
        if codings.next().is_some() || !coding.as_bytes().eq_ignore_ascii_case(b"chunked") {
            return Err(UpstreamError::protocol("it has a Transfer-Encoding other than chunked"));
        }
    }
    Ok(())
}
