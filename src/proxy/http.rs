//! A request between hyper and the pipeline.
//!
//! INVARIANT: an upstream is reached only with the head of an [`Exchange<Authorized>`], which the
//! gate alone makes.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::header::SEC_WEBSOCKET_EXTENSIONS;
use http::{Method, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::{Body, Incoming};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::activity::InFlight;
use super::body::{Fate, Fault, Limited, ResponseBody};
use super::hold::LIVE_AFTER;
use super::leave::Leave;
use super::pace::Pace;
use super::websocket::{self, Ending, Rights};
use crate::config::model::UpstreamProtocol;
use crate::pipeline::client::ClientConnection;
use crate::pipeline::exchange::{Authorized, Exchange};
use crate::pipeline::gate::Outcome;
use crate::pipeline::kept::Pending;
use crate::pipeline::live::Watch;
use crate::pipeline::refusal::Refusal;
use crate::pipeline::respond::end_connection;
use crate::upstream::compact;

/// What serving a request needs, shared by the requests of one connection.
#[derive(Debug)]
pub struct Context {
    pub connection: Arc<ClientConnection>,
    /// Which of the upstreams' per-worker connections to use.
    pub worker: usize,
    /// Header fields that a request may have.
    pub max_headers: usize,
    /// How long a client may send nothing of a body, or take nothing of an answer.
    pub idle_timeout: Duration,
    /// How slowly it may do either.
    pub pace: Pace,
    /// Holds WebSockets, which outlive the HTTP connection they came from.
    pub streams: TaskTracker,
    pub stop: CancellationToken,
    pub leave: Arc<Leave>,
    /// Keeps the client's place among the listener's connections, and among its address's.
    pub _place: (super::accept::Place, Option<super::seats::Seat>),
}

impl Context {
    /// A gRPC stream may be quiet: what it carries is a conversation.
    fn pace(&self, exchange: &Exchange<Authorized>) -> Pace {
        match exchange.route().config.upstream.protocol {
            UpstreamProtocol::Http1 => self.pace,
            UpstreamProtocol::Http2 => Pace::ANY,
        }
    }
}

/// Serves one request.
///
/// # Errors
/// None: every failure before the response's head is an answer of the gate's.
pub fn answer(
    context: Arc<Context>,
    in_flight: InFlight,
    request: Request<Incoming>,
) -> impl Future<Output = Result<Response<ResponseBody>, Infallible>> {
    let version = request.version();
    // Small: hyper moves it about, and keeps room for it with each connection.
    let responding = boxed(|| respond(Arc::clone(&context), in_flight, request));
    async move {
        let mut response = responding.await?;
        context.leave.mark(version, &mut response);
        Ok(response)
    }
}

/// Makes a future where it is to be, rather than on the stack to be moved from there.
fn boxed<F>(make: impl FnOnce() -> F) -> Pin<Box<F>> {
    Box::into_pin(Box::write(Box::new_uninit(), make()))
}

async fn respond(
    context: Arc<Context>,
    in_flight: InFlight,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Infallible> {
    let (head, body) = request.into_parts();
    // Handed from one future to the next, each of which would else hold a copy of its own.
    let mut head = Box::new(head);
    let is_head = head.method == Method::HEAD;
    if let Some(ambiguity) = in_flight.ambiguity() {
        let refusal = Refusal::Malformed(ambiguity.text());
        let mut response =
            Box::pin(context.connection.gate.refuse_early(&context.connection, head, &refusal))
                .await;
        // Where this request ends is not agreed on: nothing after it is read.
        end_connection(Version::HTTP_11, response.headers_mut());
        return Ok(own(response, is_head, in_flight));
    }
    // HTTP/1 is held to it while it is parsed; HTTP/2 has only a limit of bytes there.
    if head.headers.len() > context.max_headers {
        let refusal = Refusal::TooManyFields { limit: context.max_headers };
        let response =
            Box::pin(context.connection.gate.refuse_early(&context.connection, head, &refusal))
                .await;
        return Ok(own(response, is_head, in_flight));
    }
    let version = head.version;
    let upgrade = head.extensions.remove::<OnUpgrade>();
    let mut exchange = match context.connection.gate.admit(&context.connection, head).await {
        Outcome::Forward(exchange) => exchange,
        Outcome::Keep(pending) => {
            let response = Box::pin(keep(&context, pending, body)).await;
            return Ok(own(response, is_head, in_flight));
        }
        Outcome::Reply(response) => return Ok(own(response, is_head, in_flight)),
        Outcome::Read(reading) => {
            let body = Box::pin(collected(&context, body, reading.limit())).await;
            let broken = body.is_err();
            let mut response = Box::pin(context.connection.gate.read(reading, body)).await;
            if broken {
                // What is left of it is not read.
                end_connection(version, response.headers_mut());
            }
            return Ok(own(response, is_head, in_flight));
        }
    };
    let Some(head) = exchange.take_head() else {
        return Ok(own(exchange.refused(&Refusal::Internal), is_head, in_flight));
    };
    if exchange.is_websocket() {
        let caller = exchange.caller(context.worker);
        return Ok(
            match Box::pin(exchange.pool().send(caller, head, Empty::<Bytes>::new())).await {
                Ok(mut response) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
                    let upstream = hyper::upgrade::on(&mut *response);
                    let (mut head, _) = response.into_parts();
                    exchange.respond(&mut head, true);
                    exchange.finished(head.status, exchange.elapsed());
                    in_flight.upgraded();
                    if let Some(client) = upgrade {
                        let compression = head.headers.contains_key(SEC_WEBSOCKET_EXTENSIONS);
                        let stream =
                            hold(Arc::clone(&context), exchange, compression, client, upstream);
                        context.streams.spawn(stream);
                    }
                    Response::from_parts(head, ResponseBody::own(Bytes::new(), in_flight))
                }
                // A handshake is no GET: what a GET would have brought was not decided on.
                Ok(response)
                    if response.status().is_client_error()
                        || response.status().is_server_error() =>
                {
                    let elapsed = exchange.elapsed();
                    streamed(&context, exchange, response, elapsed, in_flight).await
                }
                Ok(_) => own(exchange.refused(&Refusal::NotUpgraded), false, in_flight),
                Err(error) => own(failed(&exchange, error), false, in_flight),
            },
        );
    }
    match exchange.take_body() {
        None => Ok(forward(&context, exchange, head, body, version, in_flight).await),
        Some(kept) => {
            let kept = Full::new(kept);
            Ok(Box::pin(forward(&context, exchange, head, kept, version, in_flight)).await)
        }
    }
}

/// How long a form that may be kept is waited for.
const FORM_PATIENCE: Duration = Duration::from_secs(20);

/// Reads a form that is to be kept, bounded in every way, and has the gate keep it.
async fn keep(context: &Context, pending: Box<Pending>, body: Incoming) -> Response<Bytes> {
    let gate = &context.connection.gate;
    let limited = Limited::new(body, pending.limit(), context.idle_timeout, Fate::default());
    let read = async {
        let _place = gate.kept.reader()?;
        let whole = tokio::time::timeout(FORM_PATIENCE, limited.paced(context.pace).collect());
        Some(whole.await.ok()?.ok()?.to_bytes())
    };
    let body = read.await;
    gate.keep(pending, body).await
}

/// Sends a permitted request on, and answers with what comes back.
async fn forward<B>(
    context: &Arc<Context>,
    exchange: Box<Exchange<Authorized>>,
    head: Box<http::request::Parts>,
    body: B,
    version: Version,
    in_flight: InFlight,
) -> Response<ResponseBody>
where
    B: Body<Data = Bytes> + Unpin + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let is_head = head.method == Method::HEAD;
    let fate = Fate::default();
    let idle = context.idle_timeout.min(exchange.route().config.upstream.idle_timeout);
    let empty = body.is_end_stream();
    let pace = context.pace(&exchange);
    let mut body = Limited::new(body, exchange.max_body_bytes(), idle, fate.clone()).paced(pace);
    if !empty {
        body = body.held(exchange.holding());
    }
    let caller = exchange.caller(context.worker);
    let sent = exchange.pool().send(caller, head, body).await;
    let elapsed = exchange.elapsed();
    let response = match (sent, fate.fault()) {
        // A late answer is only for those who may still have it.
        (Ok(_), _)
            if elapsed >= LIVE_AFTER
                && let Some(reason) = exchange.watch().check() =>
        {
            exchange.refused(&Refusal::Cut(reason))
        }
        (_, Some(Fault::Cut(reason))) => exchange.refused(&Refusal::Cut(reason)),
        (Ok(response), _) => {
            return streamed(context, exchange, response, elapsed, in_flight).await;
        }
        (Err(_), Some(Fault::TooLarge)) => {
            exchange.refused(&Refusal::TooLarge { limit: exchange.max_body_bytes() })
        }
        (Err(_), Some(fault @ (Fault::Stalled | Fault::Slow))) => {
            let slow = fault == Fault::Slow;
            let refusal = if slow { Refusal::TooSlow } else { Refusal::Stalled };
            let mut response = exchange.refused(&refusal);
            // RFC 9110, section 15.5.9.
            end_connection(version, response.headers_mut());
            response
        }
        (Err(error), None) => failed(&exchange, error),
    };
    own(response, is_head, in_flight)
}

/// A body that the gate itself reads: whole, small, and at the pace that every client has to keep.
async fn collected(context: &Context, body: Incoming, limit: u64) -> Result<Bytes, Refusal> {
    let fate = Fate::default();
    let body = Limited::new(body, limit, context.idle_timeout, fate.clone()).paced(context.pace);
    match (body.collect().await, fate.fault()) {
        (Ok(body), _) => Ok(body.to_bytes()),
        (Err(_), Some(Fault::TooLarge)) => Err(Refusal::TooLarge { limit }),
        (Err(_), Some(Fault::Slow)) => Err(Refusal::TooSlow),
        // The client may have gone away, too: then nobody hears it.
        (Err(_), Some(Fault::Stalled | Fault::Cut(_)) | None) => Err(Refusal::Stalled),
    }
}

fn failed(
    exchange: &Exchange<Authorized>,
    error: crate::upstream::UpstreamError,
) -> Response<Bytes> {
    let response = exchange.failed(error);
    exchange.finished(response.status(), exchange.elapsed());
    response
}

/// An answer of at most this many bytes, one HTTP/2 frame, that has arrived whole is passed on at
/// once and needs no watching.
const AT_ONCE: u64 = 16 * 1024;

/// The upstream's answer, whose head came `elapsed` after the request's, its body streamed.
async fn streamed(
    context: &Context,
    exchange: Box<Exchange<Authorized>>,
    response: Box<Response<crate::upstream::UpstreamBody>>,
    elapsed: Duration,
    in_flight: InFlight,
) -> Response<ResponseBody> {
    let (mut head, mut body) = response.into_parts();
    if in_flight.is_multiplexed() {
        compact(&mut head.headers);
    }
    exchange.respond(&mut head, false);
    exchange.finished(head.status, elapsed);
    let whole = poll_fn(|cx| Poll::Ready(body.whole(AT_ONCE, cx))).await;
    let body = match whole {
        Some(whole) => ResponseBody::own(whole, in_flight),
        None if in_flight.is_multiplexed() => {
            let pace = context.pace(&exchange);
            ResponseBody::http2(body, exchange, in_flight, context.idle_timeout, pace)
        }
        None => ResponseBody::http1(body, exchange, in_flight),
    };
    Response::from_parts(head, body)
}

/// An answer of the gate's. To HEAD it keeps its length and loses its body, which hyper would
/// send over HTTP/2 (RFC 9110, section 9.3.2).
fn own(response: Response<Bytes>, is_head: bool, in_flight: InFlight) -> Response<ResponseBody> {
    let (mut head, body) = response.into_parts();
    let body = if is_head {
        head.headers.insert(http::header::CONTENT_LENGTH, body.len().into());
        Bytes::new()
    } else {
        body
    };
    Response::from_parts(head, ResponseBody::own(body, in_flight))
}

impl Rights for Watch {
    fn may_send(&self) -> bool {
        Watch::may_send(self)
    }

    fn frame_dropped(&self) {
        Watch::frame_dropped(self);
    }

    fn active(&self) {
        self.client_active();
    }
}

/// Holds an upgraded connection until it ends, and keeps the client's place meanwhile.
async fn hold(
    context: Arc<Context>,
    mut exchange: Box<Exchange<Authorized>>,
    compression: bool,
    client: OnUpgrade,
    upstream: OnUpgrade,
) {
    let watch = exchange.watch();
    let idle = exchange.route().config.upstream.idle_timeout;
    let limits = exchange.route().config.bounds.websocket;
    let decision = exchange.decision_id();
    // Its place is taken for as long as it lives.
    let _held = exchange.take_held();
    drop(exchange);
    // The client's side is handed over once the 101 is written; a client that goes away before
    // that is an error here.
    let (client, upstream) = match tokio::try_join!(client, upstream) {
        Ok((client, upstream)) => (TokioIo::new(client), TokioIo::new(upstream)),
        Err(error) => {
            tracing::debug!(%decision, %error, "a WebSocket ended before it began");
            return;
        }
    };
    let end = async {
        tokio::select! {
            reason = watch.cut() => Ending::new(1008, reason.to_string()),
            () = context.stop.cancelled() => context.leave.ending(),
        }
    };
    let ending = websocket::relay(client, upstream, compression, limits, idle, &watch, end).await;
    if let Some(Ending { code, reason }) = ending {
        tracing::info!(%decision, code, reason, "closed a WebSocket");
    }
}
