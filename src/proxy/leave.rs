//! How workers end, in two steps.
//!
//! First they **leave**: nothing new is accepted, every HTTP/1 answer says `connection: close`,
//! HTTP/2 connections get GOAWAY, and all that is open goes on. A kept HTTP/1 connection is not
//! closed while it rests, because a request may be on its way on it; it ends with its next answer.
//! Then they **stop**: WebSockets get a close frame, resting connections are closed, and running
//! requests may end.

use std::sync::atomic::{AtomicBool, Ordering};

use http::{Response, StatusCode, Version};
use tokio_util::sync::CancellationToken;

use super::websocket::Ending;
use crate::pipeline::respond::end_connection;

/// Shared by the workers. Read once a response, so the first step is a plain flag, too.
#[derive(Debug)]
pub struct Leave {
    stop: CancellationToken,
    farewell: CancellationToken,
    leaving: AtomicBool,
    replaced: AtomicBool,
}

impl Leave {
    pub(super) fn new(stop: &CancellationToken) -> Self {
        Self {
            stop: stop.clone(),
            // A stop is a farewell, too.
            farewell: stop.child_token(),
            leaving: AtomicBool::new(false),
            replaced: AtomicBool::new(false),
        }
    }

    /// The first step. `replaced`: another process serves already.
    pub(super) fn leave(&self, replaced: bool) {
        self.replaced.store(replaced, Ordering::Relaxed);
        self.leaving.store(true, Ordering::Release);
        self.farewell.cancel();
    }

    /// The second.
    pub(super) fn stop(&self) {
        self.leaving.store(true, Ordering::Release);
        self.stop.cancel();
    }

    /// Cancelled with the first step.
    pub fn farewell(&self) -> &CancellationToken {
        &self.farewell
    }

    /// Tells an HTTP/1 client that its next request needs another connection.
    pub fn mark<B>(&self, asked_in: Version, response: &mut Response<B>) {
        if self.leaving.load(Ordering::Acquire)
            && response.status() != StatusCode::SWITCHING_PROTOCOLS
        {
            end_connection(asked_in, response.headers_mut());
        }
    }

    /// How WebSockets are closed: 1001, going away (RFC 6455, section 7.4.1), or 1012, service
    /// restart (IANA's WebSocket close code registry), after which a client connects again.
    pub fn ending(&self) -> Ending {
        if self.replaced.load(Ordering::Relaxed) {
            Ending::new(1012, "the gate was replaced by a newer one: connect again")
        } else {
            Ending::new(1001, "the gate is stopping")
        }
    }
}
