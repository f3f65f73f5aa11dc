//! One client connection, from the end of the TLS handshake to its close.
//!
//! hyper speaks the protocol that ALPN chose; this module sets its limits, ends what rests or
//! stalls for too long, and closes so that the last answer reaches a client that is still sending.
//!
//! Most connections rest most of the time, and hyper keeps its buffers meanwhile: more than all else
//! together. So an HTTP/1 connection gets a hyper connection only with the first byte of a request,
//! and gives it back after [`REST_AFTER`] without one. What remains is the socket with its TLS
//! state, and a timer.
//!
//! INVARIANT: bytes of a request's body are never read as a next request. hyper closes the reading
//! side when a response ends before its request did, and nothing is parsed from what follows. hyper
//! is given back only between two requests, with nothing read and nothing to be written.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::Service;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::CancellationToken;

use super::activity::{Activity, CLOSING, Observed};
use super::bell::Bell;
use super::cork::{Corked, Turns};
use super::linger::{Bare, linger};
use crate::config::model::ListenerLimits;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// How long an HTTP/1 connection is kept ready for its next request. A busy one never gets to rest;
/// one that does pays a twentieth of a request for waking up. Of many that come one after the other,
/// as many hold buffers at a time as come while one of them waits for its rest.
const REST_AFTER: Duration = Duration::from_millis(50);

/// How often it is looked whether a connection rests that had a request in flight the last time.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// hyper allocates for another number of headers than this, its own default.
const HYPER_MAX_HEADERS: usize = 100;

/// What a client may make the gate hold or do on one HTTP/2 connection (RFC 9113, section 10.5).
///
/// More bounds are not set here: `h2` takes as many CONTINUATION frames as the header list size
/// calls for (CVE-2024-2758), a hundred empty DATA frames, and tiny ones only as fast as they are
/// read (RUSTSEC-2026-0258); and `super::flood` counts resets, pings and their like by time.
mod h2 {
    use std::time::Duration;

    /// The least that RFC 9113 recommends (section 6.5.2). Times the windows below it is what a
    /// connection can have the gate hold.
    pub(super) const STREAMS: u32 = 100;
    /// Of a request's body, unread: enough for 100 Mbit/s at 20 ms.
    pub(super) const STREAM_WINDOW: u32 = 256 * 1024;
    /// Over all bodies of a connection, so that a hundred streams hold no more than four.
    pub(super) const CONNECTION_WINDOW: u32 = 1024 * 1024;
    /// Of an answer, for each stream, that the client doesn't take (CVE-2019-9511, -9517).
    pub(super) const SEND_BUFFER: usize = 64 * 1024;
    /// Requests taken back before they were even looked at (CVE-2023-44487): one read brings
    /// hundreds of an attack, and hardly one of a browser.
    pub(super) const PENDING_RESETS: usize = 20;
    /// Streams that the gate had to reset for what the client did on them, in the connection's
    /// life (CVE-2025-8671). Who keeps the protocol causes none.
    pub(super) const LOCAL_RESETS: usize = 100;
    /// A client that is gone without a word is noticed after the two together.
    pub(super) const PING_INTERVAL: Duration = Duration::from_secs(30);
    pub(super) const PING_TIMEOUT: Duration = Duration::from_secs(20);
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Http1,
    Http2,
}

/// How a connection ended.
#[derive(Debug)]
pub enum End {
    /// By either side, as the protocol has it.
    Closed,
    /// It rested, or took too long over a header, or stopped reading.
    Expired,
    /// Malformed bytes, or a broken transport.
    Failed(hyper::Error),
}

/// Serves one connection to its end. `activity` must be the one that `service` begins its
/// requests with. After `stop` the connection ends with its last running request.
///
/// INVARIANT: `service`, and with it what keeps the client's place, lives as long as the socket.
pub async fn serve<T, S, B>(
    io: T,
    protocol: Protocol,
    limits: &ListenerLimits,
    activity: &Arc<Activity>,
    stop: &CancellationToken,
    service: S,
) -> End
where
    T: AsyncRead + AsyncWrite + Bare + Unpin + Send + 'static,
    S: Service<Request<Incoming>, Response = Response<B>>,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    let io = Observed::new(io, Arc::clone(activity));
    match protocol {
        Protocol::Http1 => {
            // The close of the socket is the whole goodbye.
            let watch = Watch { limits, activity, stop, closing: Duration::ZERO, rests: true };
            http1(io, &watch, service).await
        }
        Protocol::Http2 => {
            let watch = Watch { limits, activity, stop, closing: CLOSING, rests: false };
            let builder = http2_builder(limits);
            let io = Corked::new(io);
            let connection = builder.serve_connection(TokioIo::new(io.handle()), &service);
            let mut turns = Turns::new(connection, io);
            let shut = |turns: Pin<&mut Turns<http2::Connection<_, _, _>, _>>| {
                turns.connection().graceful_shutdown();
            };
            let end = watch.drive(Pin::new(&mut turns), shut).await.unwrap_or(End::Closed);
            // A flood and a breach of the protocol are errors.
            if let Some(io) = turns.into_io()
                && !activity.ended()
            {
                Box::pin(linger(io)).await;
            }
            drop(service);
            end
        }
    }
}

/// Rests, and serves while there is something to serve.
async fn http1<T, S, B>(mut io: Observed<T>, watch: &Watch<'_>, mut service: S) -> End
where
    T: AsyncRead + AsyncWrite + Bare + Unpin + Send + 'static,
    S: Service<Request<Incoming>, Response = Response<B>>,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    loop {
        if let Some(end) = watch.rest(&mut io).await {
            return end;
        }
        let connection = http1_builder(watch.limits).serve_connection(TokioIo::new(io), service);
        let mut connection = Box::pin(connection.with_upgrades());
        let end = watch.drive(connection.as_mut(), |connection| connection.graceful_shutdown());
        let end = end.await;
        let parts = match end {
            Some(End::Expired) => None,
            // A stop finds connections at rest, with nothing to take in.
            Some(_) if watch.activity.ended() || watch.stop.is_cancelled() => None,
            _ => Pin::into_inner(connection).into_parts(),
        };
        match (end, parts) {
            (None, Some(parts)) if is_blank(&parts.read_buf) => {
                (io, service) = (parts.io.into_inner(), parts.service);
            }
            (end, Some(parts)) => {
                drop(parts.read_buf);
                // Room for this is taken at the end only.
                Box::pin(linger(parts.io.into_inner())).await;
                return end.unwrap_or(End::Closed);
            }
            (end, None) => return end.unwrap_or(End::Closed),
        }
    }
}

/// Empty lines before a request are skipped (RFC 9112, section 2.2), by hyper as well.
fn is_blank(left: &[u8]) -> bool {
    left.iter().all(|byte| matches!(byte, b'\r' | b'\n'))
}

fn http1_builder(limits: &ListenerLimits) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .header_read_timeout(None)
        .max_header_size(limits.max_header_bytes)
        .max_buf_size(limits.max_header_bytes.max(64 * 1024));
    if limits.max_headers != HYPER_MAX_HEADERS {
        builder.max_headers(limits.max_headers);
    }
    builder
}

fn http2_builder(limits: &ListenerLimits) -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(h2::STREAMS)
        .initial_stream_window_size(h2::STREAM_WINDOW)
        .initial_connection_window_size(h2::CONNECTION_WINDOW)
        .max_send_buf_size(h2::SEND_BUFFER)
        .max_pending_accept_reset_streams(h2::PENDING_RESETS)
        .max_local_error_reset_streams(h2::LOCAL_RESETS)
        .max_header_list_size(u32::try_from(limits.max_header_bytes).unwrap_or(u32::MAX))
        .keep_alive_interval(h2::PING_INTERVAL)
        .keep_alive_timeout(h2::PING_TIMEOUT);
    builder
}

/// Ends a connection that is at rest for too long, or when the worker stops.
struct Watch<'a> {
    limits: &'a ListenerLimits,
    activity: &'a Activity,
    stop: &'a CancellationToken,
    /// How long the client may take to see the goodbye.
    closing: Duration,
    /// Whether it is told when the connection has nothing to do for [`REST_AFTER`].
    rests: bool,
}

/// What a connection's time has come for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    Nothing,
    Rest,
    End,
}

impl Watch<'_> {
    /// Waits for the first byte of a request. `Some`: it ended before that.
    async fn rest<T: AsyncRead + AsyncWrite + Bare + Unpin>(
        &self,
        io: &mut Observed<T>,
    ) -> Option<End> {
        let mut stopped = std::pin::pin!(self.stop.cancelled());
        let mut timer = std::pin::pin!(tokio::time::sleep(self.limits.idle_timeout));
        std::future::poll_fn(|cx| {
            let end = match io.poll_first(cx) {
                Poll::Ready(Ok(true)) => return Poll::Ready(None),
                Poll::Ready(Ok(false) | Err(_)) => End::Closed,
                Poll::Pending if stopped.as_mut().poll(cx).is_ready() => End::Closed,
                Poll::Pending if self.due(timer.as_mut(), cx, false, false) == Due::End => {
                    End::Expired
                }
                Poll::Pending => return Poll::Pending,
            };
            // Nothing is on its way that the client's end of TLS would have to wait behind.
            let _ = Pin::new(&mut *io).poll_shutdown(cx);
            Poll::Ready(Some(end))
        })
        .await
    }

    /// `None`: there is nothing to do, and nothing left of hyper's that would be needed again.
    async fn drive<C>(&self, mut connection: Pin<&mut C>, shut: impl Fn(Pin<&mut C>)) -> Option<End>
    where
        C: Future<Output = hyper::Result<()>>,
    {
        let stopped = std::pin::pin!(self.stop.cancelled());
        let mut stopped = Bell::new(stopped);
        let patience = self.limits.idle_timeout;
        let first = if self.rests { REST_AFTER.min(patience) } else { patience };
        let mut timer = std::pin::pin!(tokio::time::sleep(first));
        let mut stopping = false;
        let mut expired = false;
        std::future::poll_fn(|cx| {
            if !stopping && (self.activity.leaves() || stopped.poll(cx).is_ready()) {
                stopping = true;
                shut(connection.as_mut());
            }
            loop {
                if let Poll::Ready(result) = connection.as_mut().poll(cx) {
                    return Poll::Ready(Some(match result {
                        _ if expired => End::Expired,
                        Ok(()) => End::Closed,
                        Err(error) => End::Failed(error),
                    }));
                }
                match self.due(timer.as_mut(), cx, expired, self.rests && !stopping) {
                    Due::Nothing => return Poll::Pending,
                    Due::Rest => return Poll::Ready(None),
                    Due::End if expired => return Poll::Ready(Some(End::Expired)),
                    Due::End => {}
                }
                // Says goodbye where the protocol has a word for it, and waits no longer than
                // `closing` for the client to hear it.
                expired = true;
                shut(connection.as_mut());
                timer.as_mut().reset(Instant::now() + self.closing);
            }
        })
        .await
    }

    /// What the time has come for. Most calls only poll a timer that is far from firing.
    fn due(
        &self,
        mut timer: Pin<&mut Sleep>,
        cx: &mut std::task::Context<'_>,
        expired: bool,
        rests: bool,
    ) -> Due {
        loop {
            let deadline = if expired { None } else { self.activity.deadline(self.limits) };
            if let Some(deadline) = deadline
                && deadline < timer.deadline()
            {
                timer.as_mut().reset(deadline);
            }
            if timer.as_mut().poll(cx).is_pending() {
                return Due::Nothing;
            }
            if expired {
                return Due::End;
            }
            let now = Instant::now();
            if deadline.is_some_and(|deadline| deadline <= now) {
                return Due::End;
            }
            let resting = self.activity.resting_since();
            let next = match resting.filter(|_| rests).map(|since| since + REST_AFTER) {
                Some(rest) if rest <= now => return Due::Rest,
                Some(rest) => rest,
                None if rests => now + LOOK_AGAIN,
                None => now + self.limits.idle_timeout,
            };
            timer.as_mut().reset(deadline.map_or(next, |deadline| deadline.min(next)));
        }
    }
}

#[cfg(test)]
mod closing;
#[cfg(test)]
mod framing;
#[cfg(test)]
mod resting;
#[cfg(test)]
pub(super) mod tests;
