//! What a client's connection is doing, kept cheaply enough to be known at every moment.
//!
//! hyper's own header timeout also runs while a connection rests between two requests, so it can't
//! be short without closing idle connections, nor long without waiting for slow headers. Here
//! both have limits of their own, and a request costs no timer: [`Activity`] is a few atomics that
//! the socket and the requests touch, and the connection compares them with the clock only when
//! its one coarse timer fires.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::flood::Purse;
use super::h2_frames::{Frames, Step};
use super::head::{Ambiguity, Observer};
use super::header_blocks::HeaderBlocks;
use super::linger::Bare;
use super::pace::Pace;
use crate::config::model::ListenerLimits;

/// What a client's connection is doing. Relaxed atomics suffice: all that touches it runs on the
/// one thread of its worker.
#[derive(Debug)]
pub struct Activity {
    opened: Instant,
    /// HTTP/1: bytes between two requests begin a header. HTTP/2 has frames of its own there.
    reads_begin_header: bool,
    in_flight: AtomicU32,
    /// Whether part of a request's header has arrived.
    in_header: AtomicBool,
    /// When the current phase began.
    since: AtomicU64,
    /// Since when the client takes no bytes; zero when it does.
    blocked: AtomicU64,
    /// Milliseconds for which it took none before that, and bytes that it took.
    was_blocked: AtomicU64,
    taken: AtomicU64,
    ended: AtomicBool,
    /// What read in two ways. It stays: a connection has no next request after that.
    ambiguity: OnceLock<Ambiguity>,
    upgraded: AtomicBool,
    /// HTTP/1: what was read ends with a request's end.
    between: AtomicBool,
    /// The last byte was written, or is about to be.
    closing: AtomicBool,
    /// Too many frames came that only cost work.
    flooded: AtomicBool,
    /// Its client had more to send than there is memory for.
    let_go: AtomicBool,
    /// Since when the client is to leave; zero when it may stay.
    leaving: AtomicU64,
    /// Answers over HTTP/2 that are complete here and not yet with the client: how many were made
    /// in each [`SLICE`], the oldest first.
    untaken: Mutex<VecDeque<(u64, u32)>>,
}

/// How long a client may take to see that the connection is closing, and how long it is heard out
/// after the last answer.
pub const CLOSING: Duration = Duration::from_secs(2);

/// How exactly it is known since when an answer waits to be taken, in milliseconds.
const SLICE: u64 = 5000;

impl Activity {
    pub fn new(reads_begin_header: bool) -> Arc<Self> {
        Arc::new(Self {
            opened: Instant::now(),
            reads_begin_header,
            in_flight: AtomicU32::new(0),
            in_header: AtomicBool::new(false),
            since: AtomicU64::new(0),
            blocked: AtomicU64::new(0),
            was_blocked: AtomicU64::new(0),
            taken: AtomicU64::new(0),
            ended: AtomicBool::new(false),
            ambiguity: OnceLock::new(),
            upgraded: AtomicBool::new(false),
            between: AtomicBool::new(true),
            closing: AtomicBool::new(false),
            flooded: AtomicBool::new(false),
            let_go: AtomicBool::new(false),
            leaving: AtomicU64::new(0),
            untaken: Mutex::default(),
        })
    }

    /// A request's header is complete. The request lasts until the guard is dropped: with the end
    /// of its response's body.
    pub fn begin(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        if self.reads_begin_header {
            self.in_header.store(false, Ordering::Relaxed);
        }
        InFlight(Arc::clone(self))
    }

    /// Whether a request is under way.
    pub fn in_flight(&self) -> bool {
        self.in_flight.load(Ordering::Relaxed) > 0
    }

    /// Whether part of a request's header has arrived.
    pub fn in_header(&self) -> bool {
        self.in_header.load(Ordering::Relaxed)
    }

    /// Whether the client has closed its side.
    pub fn ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    /// Whether the connection was given up for a flood of frames.
    pub fn flooded(&self) -> bool {
        self.flooded.load(Ordering::Relaxed)
    }

    /// The connection is given up for want of memory.
    pub fn let_go(&self) {
        self.let_go.store(true, Ordering::Relaxed);
    }

    /// Whether the connection was given up for want of memory.
    pub fn is_let_go_of(&self) -> bool {
        self.let_go.load(Ordering::Relaxed)
    }

    /// Whether requests share the connection, which is then HTTP/2.
    pub fn is_multiplexed(&self) -> bool {
        !self.reads_begin_header
    }

    /// Whether nothing is under way: no request, and no answer that the client has yet to take.
    pub fn is_at_rest(&self) -> bool {
        !self.in_flight()
            && self.blocked.load(Ordering::Relaxed) == 0
            && self.untaken.lock().is_empty()
    }

    /// The connection is to end with what is under way. HTTP/2 tells the client so, and waits for
    /// what that says to it for as long as [`CLOSING`] only.
    pub fn leave(&self) {
        if !self.leaves() {
            self.leaving.store(self.now().max(1), Ordering::Relaxed);
        }
    }

    /// Whether the connection is to end with what is under way.
    pub fn leaves(&self) -> bool {
        self.leaving.load(Ordering::Relaxed) != 0
    }

    /// Since when an HTTP/1 connection has nothing to do: the last answer is with the client, and
    /// nothing of a next request has arrived.
    pub fn resting_since(&self) -> Option<Instant> {
        let busy = [&self.in_header, &self.ended, &self.upgraded, &self.closing];
        let rests = self.in_flight.load(Ordering::Relaxed) == 0
            && self.blocked.load(Ordering::Relaxed) == 0
            && self.between.load(Ordering::Relaxed)
            && !busy.iter().any(|flag| flag.load(Ordering::Relaxed));
        let since = Duration::from_millis(self.since.load(Ordering::Relaxed));
        rests.then(|| self.opened.checked_add(since)).flatten()
    }

    /// When this connection has to end if nothing changes.
    pub fn deadline(&self, limits: &ListenerLimits) -> Option<Instant> {
        let since = self.since.load(Ordering::Relaxed);
        let resting = if self.in_header.load(Ordering::Relaxed) {
            // Over HTTP/2 with other requests in flight: they have to end with it.
            self.after(since, limits.header_timeout)
        } else if self.in_flight.load(Ordering::Relaxed) > 0 {
            None
        } else {
            self.after(since, limits.idle_timeout)
        };
        let resting = if self.leaves() && self.is_at_rest() {
            let since = self.leaving.load(Ordering::Relaxed).max(since);
            resting.into_iter().chain(self.after(since, CLOSING)).min()
        } else {
            resting
        };
        let resting = match self.untaken.lock().front() {
            Some((slice, _)) => {
                let taking = self.after((slice + 1).saturating_mul(SLICE), limits.idle_timeout);
                resting.into_iter().chain(taking).min()
            }
            None => resting,
        };
        match self.blocked.load(Ordering::Relaxed) {
            0 => resting,
            blocked => {
                let patience = self.patience(limits).min(limits.idle_timeout);
                let taking = self.after(blocked, patience);
                let header = resting.filter(|_| self.in_header.load(Ordering::Relaxed));
                taking.into_iter().chain(header).min()
            }
        }
    }

    /// For how long the client may take nothing now.
    fn patience(&self, limits: &ListenerLimits) -> Duration {
        let pace = Pace { rate: limits.min_data_rate, grace: limits.data_rate_grace };
        let blocked = Duration::from_millis(self.was_blocked.load(Ordering::Relaxed));
        pace.left(self.taken.load(Ordering::Relaxed), blocked)
    }

    fn after(&self, millis: u64, limit: Duration) -> Option<Instant> {
        self.opened.checked_add(Duration::from_millis(millis))?.checked_add(limit)
    }

    /// Milliseconds since the connection was opened; never zero, which stands for "not".
    fn now(&self) -> u64 {
        u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX).max(1)
    }

    fn read(&self, bytes: usize) {
        if bytes == 0 {
            self.ended.store(true, Ordering::Relaxed);
        } else if self.reads_begin_header
            && self.in_flight.load(Ordering::Relaxed) == 0
            && !self.in_header.load(Ordering::Relaxed)
        {
            self.in_header.store(true, Ordering::Relaxed);
            self.since.store(self.now(), Ordering::Relaxed);
        }
    }

    /// Over HTTP/2: a header has begun, or goes on, or has ended.
    fn read_frames(&self, (open, ended): (bool, bool)) {
        if open && (ended || !self.in_header.load(Ordering::Relaxed)) {
            self.since.store(self.now(), Ordering::Relaxed);
        }
        self.in_header.store(open, Ordering::Relaxed);
    }

    fn wrote(&self, result: &Poll<std::io::Result<usize>>) {
        if let Poll::Ready(Ok(bytes)) = result {
            // One thread: no other addition can come in between.
            let taken = self.taken.load(Ordering::Relaxed);
            let bytes = u64::try_from(*bytes).unwrap_or(u64::MAX);
            self.taken.store(taken.saturating_add(bytes), Ordering::Relaxed);
        }
        self.flushed(result);
    }

    fn flushed<T>(&self, result: &Poll<T>) {
        let blocked = self.blocked.load(Ordering::Relaxed);
        if result.is_pending() == (blocked != 0) {
            return;
        }
        let now = self.now();
        if blocked == 0 {
            self.blocked.store(now, Ordering::Relaxed);
        } else {
            let before = self.was_blocked.load(Ordering::Relaxed);
            let now = before.saturating_add(now.saturating_sub(blocked));
            self.was_blocked.store(now, Ordering::Relaxed);
            self.blocked.store(0, Ordering::Relaxed);
        }
    }
}

/// A request between the end of its header and the end of its response.
#[derive(Debug)]
pub struct InFlight(Arc<Activity>);

impl InFlight {
    /// Whether something that the client sent on this connection up to now reads in two ways.
    pub fn ambiguity(&self) -> Option<Ambiguity> {
        self.0.ambiguity.get().copied()
    }

    /// Whether other requests share the connection, so that a client which takes nothing of one
    /// answer does not show as a blocked socket.
    pub fn is_multiplexed(&self) -> bool {
        self.0.is_multiplexed()
    }

    /// Keeps in mind that an answer waits for the client to take it. Unlike a request in flight it
    /// doesn't keep the connection: one that isn't taken within the idle timeout ends it, whatever
    /// else goes on there.
    pub fn untaken(&self) -> Untaken {
        let slice = self.0.now() / SLICE;
        let mut untaken = self.0.untaken.lock();
        match untaken.back_mut() {
            Some((last, count)) if *last == slice => *count += 1,
            _ => untaken.push_back((slice, 1)),
        }
        drop(untaken);
        Untaken { activity: Arc::clone(&self.0), slice }
    }

    /// From here on the connection carries something else than HTTP.
    pub fn upgraded(&self) {
        self.0.upgraded.store(true, Ordering::Relaxed);
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if self.0.in_flight.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.0.since.store(self.0.now(), Ordering::Relaxed);
        }
    }
}

/// An answer that the client has yet to take.
#[derive(Debug)]
pub struct Untaken {
    activity: Arc<Activity>,
    slice: u64,
}

impl Drop for Untaken {
    fn drop(&mut self) {
        let mut untaken = self.activity.untaken.lock();
        if let Some((_, count)) = untaken.iter_mut().find(|(slice, _)| *slice == self.slice) {
            *count = count.saturating_sub(1);
        }
        while untaken.front().is_some_and(|(_, count)| *count == 0) {
            untaken.pop_front();
        }
    }
}

/// A socket that reports to an [`Activity`].
#[derive(Debug)]
pub struct Observed<T> {
    inner: T,
    activity: Arc<Activity>,
    /// HTTP/1 only: HTTP/2 has no lines to disagree about.
    observer: Option<Observer>,
    /// HTTP/2 only.
    http2: Option<Http2>,
    /// A byte that was read and not passed on.
    first: Option<u8>,
    /// Nothing more is written. It is said once, however often it is asked for.
    shut: bool,
}

/// What is followed of an HTTP/2 connection.
#[derive(Debug, Default)]
struct Http2 {
    frames: Frames,
    purse: Purse,
    blocks: HeaderBlocks,
}

impl Http2 {
    fn observe(&mut self, bytes: &[u8], activity: &Activity) {
        let Self { frames, purse, blocks } = self;
        let (mut flooded, mut ended) = (false, false);
        frames.observe(bytes, |step| {
            ended |= blocks.follow(step);
            if let Step::Begins(frame) = step {
                flooded |= purse.pay(frame, || activity.now());
            }
        });
        if flooded {
            activity.flooded.store(true, Ordering::Relaxed);
        }
        let seen = (blocks.is_open(), ended);
        if seen != (false, false) || activity.in_header.load(Ordering::Relaxed) {
            activity.read_frames(seen);
        }
    }
}

impl<T> Observed<T> {
    pub fn new(inner: T, activity: Arc<Activity>) -> Self {
        let observer = activity.reads_begin_header.then(Observer::default);
        let http2 = (!activity.reads_begin_header).then(Http2::default);
        Self { inner, activity, observer, http2, first: None, shut: false }
    }

    /// Waits for the first byte of a request, which the next read brings. False: the client sends
    /// none any more.
    pub fn poll_first(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<bool>>
    where
        T: AsyncRead + Unpin,
    {
        if self.first.is_none() {
            let mut byte = [0];
            let mut byte = ReadBuf::new(&mut byte);
            ready!(Pin::new(&mut self.inner).poll_read(cx, &mut byte))?;
            self.activity.read(byte.filled().len());
            self.first = byte.filled().first().copied();
        }
        Poll::Ready(Ok(self.first.is_some()))
    }

    fn observe(&mut self, bytes: &[u8]) {
        self.activity.read(bytes.len());
        if let Some(http2) = &mut self.http2 {
            http2.observe(bytes, &self.activity);
        }
        let Some(observer) = &mut self.observer else { return };
        if self.activity.upgraded.load(Ordering::Relaxed) {
            self.observer = None;
        } else if let Some(ambiguity) = observer.observe(bytes) {
            let _ = self.activity.ambiguity.set(ambiguity);
            self.activity.between.store(false, Ordering::Relaxed);
            self.observer = None;
        } else {
            self.activity.between.store(observer.is_between(), Ordering::Relaxed);
        }
    }
}

impl<T: Bare> Bare for Observed<T> {
    type Socket = T::Socket;

    fn bare(self) -> T::Socket {
        self.inner.bare()
    }

    fn ends(&self) {
        self.inner.ends();
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Observed<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buf.filled().len();
        let first = self.first.filter(|_| buf.remaining() > 0);
        if let Some(byte) = first {
            buf.put_slice(&[byte]);
            self.first = None;
        }
        let mut result = Pin::new(&mut self.inner).poll_read(cx, buf);
        if first.is_some() && result.is_pending() {
            result = Poll::Ready(Ok(()));
        }
        if let Poll::Ready(Ok(())) = result {
            self.observe(buf.filled().get(before..).unwrap_or_default());
            if self.activity.flooded() {
                return Poll::Ready(Err(std::io::Error::other("a flood of HTTP/2 frames")));
            }
        }
        result
    }
}

impl<T: AsyncWrite + Bare + Unpin> AsyncWrite for Observed<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let result = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.activity.wrote(&result);
        result
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        let result = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.activity.wrote(&result);
        result
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        let result = Pin::new(&mut self.inner).poll_flush(cx);
        self.activity.flushed(&result);
        result
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        self.activity.closing.store(true, Ordering::Relaxed);
        if !self.shut {
            self.inner.ends();
            ready!(Pin::new(&mut self.inner).poll_shutdown(cx))?;
            self.shut = true;
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    /// What is noticed while these bytes are read, the second ones after an upgrade.
    async fn noticed(is_http1: bool, before: &[u8], after: &[u8]) -> Option<Ambiguity> {
        let activity = Activity::new(is_http1);
        let mut io = Observed::new(before.chain(after), Arc::clone(&activity));
        let mut read = vec![0; before.len()];
        io.read_exact(&mut read).await.unwrap();
        let request = activity.begin();
        request.upgraded();
        io.read_to_end(&mut read).await.unwrap();
        request.ambiguity()
    }

    #[tokio::test]
    async fn what_is_read_is_observed_until_it_is_no_longer_http_1() {
        let (legal, ambiguous) = (b"GET / HTTP/1.1\r\nhost: a\r\n\r\n", b"GET /#a HTTP/1.1\r\n");
        assert_eq!(noticed(true, legal, b"").await, None);
        assert_eq!(noticed(true, ambiguous, b"").await, Some(Ambiguity::Fragment));
        assert_eq!(noticed(true, legal, ambiguous).await, None, "after an upgrade");
        assert_eq!(noticed(false, ambiguous, b"").await, None, "HTTP/2");
    }

    #[tokio::test]
    async fn the_byte_that_was_waited_for_is_passed_on_and_observed_like_the_others() {
        let activity = Activity::new(true);
        let mut io = Observed::new(&b"\nGET"[..], Arc::clone(&activity));
        assert!(std::future::poll_fn(|cx| io.poll_first(cx)).await.unwrap());
        assert!(std::future::poll_fn(|cx| io.poll_first(cx)).await.unwrap());
        let mut read = Vec::new();
        io.read_to_end(&mut read).await.unwrap();
        assert_eq!(read, b"\nGET");
        assert_eq!(activity.begin().ambiguity(), Some(Ambiguity::LineFeed));
        assert!(!std::future::poll_fn(|cx| io.poll_first(cx)).await.unwrap());
        assert!(activity.ended());
    }
}
