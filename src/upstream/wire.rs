//! An HTTP/1 connection to an upstream, moved on by the request that uses it.
//!
//! hyper's connection is a future that reads and writes. It has no task of its own here: the
//! request's task polls it, so that a request wakes nobody else on its way out and its answer
//! nobody else on its way in. While a connection waits in the pool nobody polls it; what happened
//! to it meanwhile is found when it is used again, before anything is sent, or when the pool is
//! swept.

use std::fmt;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use hyper::client::conn::http1::{Connection, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::time::Sleep;

use super::body::RequestBody;
use super::connect::Stream;
use super::error::UpstreamError;
use super::send;
use super::signal::Signal;
use super::trace::Trace;

type Wire = Connection<TokioIo<Stream>, RequestBody>;

pub(super) struct Http1 {
    pub(super) address: SocketAddr,
    pub(super) sender: SendRequest<RequestBody>,
    pub(super) trace: Arc<Trace>,
    /// The timer of its answers, kept with it: moving one on costs less than making one.
    pub(super) patience: Option<Pin<Box<Sleep>>>,
    /// None once it has ended, or has a task of its own.
    wire: Option<Wire>,
    signal: Signal,
}

impl fmt::Debug for Http1 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http1").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Http1 {
    pub(super) async fn open(
        address: SocketAddr,
        stream: Stream,
        trace: Arc<Trace>,
    ) -> Result<Box<Self>, UpstreamError> {
        let (sender, wire) = send::http1_builder()
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| UpstreamError::from_hyper(&error))?;
        // It is handed from one request to the next.
        Ok(Box::new(Self {
            address,
            sender,
            trace,
            patience: None,
            wire: Some(wire),
            signal: Signal::default(),
        }))
    }

    /// Polls what waits for the connection and moves the connection on, until neither can go on.
    pub(super) fn poll<T>(
        &mut self,
        cx: &Context<'_>,
        mut waiting: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        let Self { wire, signal, .. } = self;
        signal.poll(cx, |cx| {
            let polled = waiting(cx);
            if polled.is_pending() {
                drive(wire, cx);
            }
            polled
        })
    }

    /// The request is over; what happens to the connection from here on wakes nobody.
    pub(super) fn rest(&self) {
        self.signal.rest();
    }
    /// Gives the connection a task of its own, in which it can become something else than HTTP.
    pub(super) fn release(&mut self) {
        if let Some(wire) = self.wire.take() {
            tokio::spawn(async move {
                let _ = wire.with_upgrades().await;
            });
        }
    }

    /// Whether it is done with its last exchange, and open as far as is known.
    pub(super) fn is_ready(&mut self) -> bool {
        if !self.sender.is_ready() {
            drive(&mut self.wire, &mut Context::from_waker(Waker::noop()));
        }
        self.sender.is_ready()
    }

    /// Whether the other side has hung up.
    pub(super) fn is_closed(&mut self) -> bool {
        drive(&mut self.wire, &mut Context::from_waker(Waker::noop()));
        self.sender.is_closed()
    }
}

/// Reads and writes what can be read and written now.
fn drive(wire: &mut Option<Wire>, cx: &mut Context<'_>) {
    if let Some(open) = wire
        && Pin::new(open).poll(cx).is_ready()
    {
        // Its errors reach whoever waits for the response.
        *wire = None;
    }
}
