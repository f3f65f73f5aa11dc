//! A WebSocket between a client and a back end, held to session and policies for as long as it is
//! open.
//!
//! What the client sends goes through the [scanner](super::frames); what the back end sends passes
//! untouched. Each direction has one buffer and reads on only when it is written: a slow reader on
//! one side slows the other, and memory stays flat.
//!
//! INVARIANT: after a cut not one byte of either side reaches the other.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::Instant;

use super::frames::{Boundary, FrameError, Scanner, client_close, server_close};
use crate::config::model::WebSocketLimits;

/// Buffer of each direction, in bytes: a TLS record and a frame's header, so that a message of 16 KiB,
/// which is what many send at a time, passes in one piece.
const BUFFER: usize = 17 * 1024;

/// From the decision to close to the closed sockets.
const CLOSING: Duration = Duration::from_millis(900);

/// Why a WebSocket ends, as its close frame says it (RFC 6455, section 7.4.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    pub code: u16,
    pub reason: String,
}

impl Ending {
    pub fn new(code: u16, reason: impl Into<String>) -> Self {
        Self { code, reason: reason.into() }
    }
}

/// What the client may do.
pub trait Rights {
    fn may_send(&self) -> bool;
    fn frame_dropped(&self);
    /// The client sent data that passed. Pings, pongs and the close frame don't count: browsers
    /// answer a back end's pings with nobody there.
    fn active(&self);
}

/// Relays until either side closes, nothing moves for `idle`, the client breaks the protocol, or
/// `end` says so. `None`: the two sides ended it between them.
pub async fn relay<C, U>(
    client: C,
    upstream: U,
    compression: bool,
    limits: WebSocketLimits,
    idle: Duration,
    rights: &impl Rights,
    end: impl Future<Output = Ending>,
) -> Option<Ending>
where
    C: AsyncRead + AsyncWrite,
    U: AsyncRead + AsyncWrite,
{
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_upstream, mut to_upstream) = tokio::io::split(upstream);
    let mut scanner = Scanner::new(compression, limits);
    let mut pace = Pace::new(limits.frames_per_second);
    let mut boundary = Boundary::default();
    // Whether all that the scanner let pass was also written.
    let mut written = true;
    let moved = Moved::begin();
    let ending = {
        let up = async {
            let mut buffer = vec![0; BUFFER];
            let mut out = Vec::new();
            loop {
                let count = from_client.read(&mut buffer).await.unwrap_or(0);
                if count == 0 {
                    // Half-closed: what the back end still has to say arrives.
                    let _ = to_upstream.shutdown().await;
                    return None;
                }
                moved.now();
                let input = buffer.get(..count).unwrap_or_default();
                let scanned = scanner.scan(input, &mut out, || rights.may_send());
                if let Err(error) = pace.spend(scanner.take_begun(), moved.millis()) {
                    // Nothing passes of what came too fast, so a frame may stay half written.
                    written = false;
                    return Some(Ending::new(error.close_code(), error.to_string()));
                }
                if scanner.take_data_passed() {
                    rights.active();
                }
                if !out.is_empty() {
                    written = false;
                    to_upstream.write_all(&out).await.ok()?;
                    to_upstream.flush().await.ok()?;
                    written = true;
                    out.clear();
                    moved.now();
                }
                match scanned {
                    Ok(0) => {}
                    Ok(_) => rights.frame_dropped(),
                    Err(error) => return Some(Ending::new(error.close_code(), error.to_string())),
                }
            }
        };
        let down = async {
            let mut buffer = vec![0; BUFFER];
            loop {
                let count = from_upstream.read(&mut buffer).await.unwrap_or(0);
                if count == 0 {
                    return;
                }
                let mut rest = buffer.get(..count).unwrap_or_default();
                while !rest.is_empty() {
                    moved.now();
                    match to_client.write(rest).await {
                        Ok(sent) if sent > 0 => {
                            let (done, after) = rest.split_at(sent.min(rest.len()));
                            boundary.follow(done);
                            rest = after;
                        }
                        _ => return,
                    }
                }
                if to_client.flush().await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            // What ends the connection goes before what still waits to pass.
            biased;
            ending = end => Some(ending),
            () = moved.idle_for(idle) => Some(Ending::new(1001, "nothing was sent for too long")),
            ending = async {
                match up.await {
                    Some(ending) => ending,
                    None => std::future::pending().await,
                }
            } => Some(ending),
            () = down => None,
        }
    };
    let close = async {
        if let Some(Ending { code, reason }) = &ending {
            if boundary.is_between_frames() {
                let _ = to_client.write_all(&server_close(*code, reason)).await;
            }
            if written && scanner.at_boundary() && !scanner.closed() {
                let _ = to_upstream.write_all(&client_close(1001, "")).await;
            }
        }
        let _ = tokio::join!(to_client.shutdown(), to_upstream.shutdown());
        // Unread bytes would turn the close into a reset that can overtake the close frame.
        let mut sink = vec![0; 1024];
        while ending.is_some() && from_client.read(&mut sink).await.is_ok_and(|count| count > 0) {}
    };
    // When the time is up the sockets are closed all the same.
    let _ = tokio::time::timeout(CLOSING, close).await;
    ending
}

/// A token bucket of frames, of a second's worth.
struct Pace {
    limit: u32,
    /// Thousandths of a frame that may still come at once.
    left: u64,
    /// When they were last added to, in milliseconds.
    filled: u64,
}

impl Pace {
    fn new(limit: u32) -> Self {
        Self { limit, left: u64::from(limit) * 1000, filled: 0 }
    }

    /// Takes off what came; `now` is in milliseconds.
    fn spend(&mut self, frames: u32, now: u64) -> Result<(), FrameError> {
        let limit = u64::from(self.limit);
        let since = now.saturating_sub(self.filled).min(1000);
        self.filled = now.max(self.filled);
        self.left = (self.left + since * limit).min(limit * 1000);
        match self.left.checked_sub(u64::from(frames) * 1000) {
            Some(left) => self.left = left,
            None => return Err(FrameError::TooMany(self.limit)),
        }
        Ok(())
    }
}

/// When a byte last went either way.
struct Moved {
    begun: Instant,
    millis: AtomicU64,
}

impl Moved {
    fn begin() -> Self {
        Self { begun: Instant::now(), millis: AtomicU64::new(0) }
    }

    fn now(&self) {
        let millis = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.millis.store(millis, Ordering::Relaxed);
    }

    /// Since the beginning.
    fn millis(&self) -> u64 {
        self.millis.load(Ordering::Relaxed)
    }

    async fn idle_for(&self, limit: Duration) {
        loop {
            let last = Duration::from_millis(self.millis.load(Ordering::Relaxed));
            let deadline = self.begun + last + limit;
            if deadline <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(deadline).await;
        }
    }
}

#[cfg(test)]
mod tests;
