//! Stops taking in what clients send while memory is critically short.
//!
//! Turning requests and connections away doesn't stop those that were let in before: a few hundred
//! connections whose clients fill their HTTP/2 windows, or send the rest of their headers, all at
//! once, take more than any limit leaves. So from a connection that has a request under way
//! nothing is read until there is room again, nor more than [`HEADER`] of a header; its client
//! waits, as for any receiver that is full. What is under way goes on to its end, runs into its own
//! deadline, or ends with its client: that one has gone is noticed without reading what it sent, as
//! far as the kernel knows.
//!
//! Over HTTP/2 nothing is read at all then, and a connection on which something arrives while nothing
//! is under way ends: its client decides what the header table holds (RFC 7541, section 2.3.2), which
//! may be a mebibyte, and every further header may add to it. That alone frees nothing of what is
//! under way, and the end of a client that has gone may stand behind bytes that the kernel has no room
//! for. So after [`PATIENCE`] of it connections whose clients have more to say are ended, a few at a
//! time, until there is room.
//!
//! INVARIANT: over HTTP/1 a request with a header of an ordinary size is read, so that whoever asks is
//! told no.

use std::cell::Cell;
use std::io::{ErrorKind, IoSlice, Result};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;

use super::activity::Activity;
use super::linger::Bare;
use crate::pipeline::pressure::{Level, Pressure};
use crate::tls::TlsStream;

/// How soon it is looked again.
const AGAIN: Duration = Duration::from_millis(100);

/// How often it is looked before a client that has more to say over HTTP/2 is let go of: five seconds
/// of shortage, with whatever relief between them that wasn't enough for requests to be taken again.
const PATIENCE: u32 = 50;

/// In so many parts of as many looks they are let go of, so that no more are than it takes.
const PARTS: u32 = 50;

/// Of a header, in bytes.
const HEADER: usize = 8 * 1024;

/// What can tell of its client, before all is read that the client has sent.
pub trait Closable {
    /// Whether it sends no more.
    fn is_closed(&self) -> bool;

    /// Whether something is there to be read.
    fn has_more(&self) -> bool;
}

/// The kernel is asked: what the runtime knows is as old as its last look (poll(2)).
impl Closable for TcpStream {
    fn is_closed(&self) -> bool {
        is_told(self, PollFlags::RDHUP)
    }

    fn has_more(&self) -> bool {
        is_told(self, PollFlags::IN)
    }
}

/// Whether one of these is so, or an error.
fn is_told(socket: &TcpStream, what: PollFlags) -> bool {
    let mut asked = [PollFd::new(socket, what)];
    let asked = poll(&mut asked, Some(&Timespec::default())).map(|_| asked[0].revents());
    asked.is_ok_and(|told| !told.is_empty())
}

impl Closable for Box<TlsStream> {
    fn is_closed(&self) -> bool {
        self.get_ref().0.get_ref().get_ref().is_closed()
    }

    fn has_more(&self) -> bool {
        self.get_ref().0.get_ref().get_ref().has_more()
    }
}

/// A client's socket that is not always read.
#[derive(Debug)]
pub struct Restrained<T> {
    inner: T,
    activity: Arc<Activity>,
    pressure: Pressure,
    again: Option<Pin<Box<Sleep>>>,
    /// Bytes of a header that were read while memory was critically short.
    header: usize,
    /// How often it was looked since requests were last taken.
    looks: u32,
    /// After how many its client is let go of.
    patience: u32,
}

impl<T> Restrained<T> {
    /// `activity` is that of the connection's requests.
    pub fn new(inner: T, activity: &Arc<Activity>, pressure: &Pressure) -> Self {
        let (activity, pressure) = (Arc::clone(activity), pressure.clone());
        Self { inner, activity, pressure, again: None, header: 0, looks: 0, patience: patience() }
    }
}

/// Each connection has another than the one before.
fn patience() -> u32 {
    thread_local! {
        static PART: Cell<u32> = const { Cell::new(0) };
    }
    let part = PART.get();
    PART.set((part + 1) % PARTS);
    PATIENCE + part
}

/// What is thrown away as it arrives takes no memory.
impl<T: Bare> Bare for Restrained<T> {
    type Socket = T::Socket;

    fn bare(self) -> T::Socket {
        self.inner.bare()
    }

    fn ends(&self) {
        self.inner.ends();
    }
}

impl<T> Restrained<T> {
    /// Whether what would be read now belongs to something that is to wait.
    fn waits(&mut self) -> bool {
        if self.activity.is_multiplexed() {
            if self.activity.is_at_rest() {
                self.activity.leave();
            }
            return true;
        }
        if !self.activity.in_header() {
            self.header = 0;
        }
        self.activity.in_flight() || self.header >= HEADER
    }

    /// Whether memory has been short for long enough, and its client, who has more to say, is to go.
    fn is_let_go(&self) -> bool
    where
        T: Closable,
    {
        let let_go =
            self.activity.is_multiplexed() && self.looks >= self.patience && self.inner.has_more();
        if let_go {
            self.activity.let_go();
        }
        let_go
    }
}

impl<T: AsyncRead + Closable + Unpin> AsyncRead for Restrained<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<Result<()>> {
        let mut waited = self.again.is_some();
        let level = self.pressure.level();
        if level == Level::Normal {
            self.looks = 0;
        }
        if !waited && level != Level::Critical {
            return Pin::new(&mut self.inner).poll_read(cx, buf);
        }
        loop {
            let waits = self.pressure.level() == Level::Critical && self.waits();
            // Also once there is room again: for what they left behind there may be none.
            if (waits || waited) && self.inner.is_closed() {
                return Poll::Ready(Err(ErrorKind::ConnectionAborted.into()));
            }
            if !waits {
                self.again = None;
                break;
            }
            if self.is_let_go() {
                return Poll::Ready(Err(ErrorKind::ConnectionAborted.into()));
            }
            let again = || Box::pin(tokio::time::sleep(AGAIN));
            ready!(self.again.get_or_insert_with(again).as_mut().poll(cx));
            self.again = None;
            self.looks = self.looks.saturating_add(1);
            waited = true;
        }
        let before = buf.filled().len();
        let result = Pin::new(&mut self.inner).poll_read(cx, buf);
        self.header = self.header.saturating_add(buf.filled().len().saturating_sub(before));
        result
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Restrained<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::super::activity::{InFlight, Observed};
    use super::*;

    /// Long enough for what is to be read to be read.
    const MOMENT: Duration = Duration::from_millis(300);

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (client, listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn nothing_is_read_for_what_is_under_way_until_there_is_room_again() {
        let (activity, pressure) = (Activity::new(true), Pressure::default());
        let (mut client, server) = pair().await;
        let mut server = Restrained::new(server, &activity, &pressure);
        client.write_all(b"abc").await.unwrap();
        for level in [Level::Normal, Level::High] {
            pressure.set(level);
            let _under_way = activity.begin();
            assert!(server.read_u8().await.is_ok(), "{level:?}");
        }
        pressure.set(Level::Critical);
        let under_way = activity.begin();
        let mut waiting = Box::pin(server.read_u8());
        assert!(tokio::time::timeout(MOMENT, &mut waiting).await.is_err());
        pressure.set(Level::High);
        assert_eq!(waiting.await.unwrap(), b'c');

        pressure.set(Level::Critical);
        drop(under_way);
        client.write_all(b"d").await.unwrap();
        assert_eq!(server.read_u8().await.unwrap(), b'd', "whoever asks is told no");
    }

    #[tokio::test]
    async fn over_http_2_nothing_is_read_and_who_has_nothing_under_way_is_to_leave() {
        let (activity, pressure) = (Activity::new(false), Pressure::default());
        let (mut client, server) = pair().await;
        let mut server = Restrained::new(server, &activity, &pressure);
        client.write_all(b"a").await.unwrap();
        let mut reads = async || tokio::time::timeout(MOMENT, server.read_u8()).await.is_ok();
        pressure.set(Level::Critical);
        let under_way = activity.begin();
        assert!(!reads().await && !activity.leaves());
        let untaken = under_way.untaken();
        drop(under_way);
        assert!(!reads().await && !activity.leaves());
        drop(untaken);
        assert!(!reads().await && activity.leaves());
        // Where there is room again it hears the client out.
        pressure.set(Level::High);
        assert!(reads().await && activity.leaves());
    }

    #[tokio::test(start_paused = true)]
    async fn over_http_2_who_has_more_to_say_for_long_is_let_go_of() {
        let (activity, pressure) = (Activity::new(false), Pressure::default());
        let (mut client, server) = pair().await;
        let mut server = Restrained::new(server, &activity, &pressure);
        let _under_way = activity.begin();
        pressure.set(Level::Critical);
        // Time passes by itself where there is nothing else to do.
        let longest = AGAIN * (PATIENCE + PARTS + 1);
        let looks = async |server: &mut Restrained<TcpStream>, time| {
            tokio::time::timeout(time, server.read_u8()).await
        };
        assert!(looks(&mut server, longest * 2).await.is_err(), "who only waits may wait");
        client.write_all(b"ab").await.unwrap();
        client.flush().await.unwrap();
        pressure.set(Level::High);
        assert_eq!(server.read_u8().await.unwrap(), b'a');
        assert!(server.looks > PATIENCE);
        // Where requests are taken again, everybody has all of the time once more.
        pressure.set(Level::Normal);
        assert_eq!(server.read_u8().await.unwrap(), b'b');
        client.write_all(b"c").await.unwrap();
        pressure.set(Level::Critical);
        assert!(looks(&mut server, AGAIN * (PATIENCE - 1)).await.is_err());
        assert!(!activity.is_let_go_of());
        let ended = looks(&mut server, longest).await.unwrap();
        assert_eq!(ended.unwrap_err().kind(), ErrorKind::ConnectionAborted);
        assert!(activity.is_let_go_of());
    }

    #[tokio::test(start_paused = true)]
    async fn over_http_1_who_has_more_to_say_waits() {
        let (activity, pressure) = (Activity::new(true), Pressure::default());
        let (mut client, server) = pair().await;
        let mut server = Restrained::new(server, &activity, &pressure);
        let _under_way = activity.begin();
        client.write_all(b"a").await.unwrap();
        pressure.set(Level::Critical);
        let long = AGAIN * (PATIENCE + PARTS) * 2;
        assert!(tokio::time::timeout(long, server.read_u8()).await.is_err());
        pressure.set(Level::High);
        assert_eq!(server.read_u8().await.unwrap(), b'a');
    }

    #[test]
    fn connections_are_let_go_of_one_after_the_other() {
        let mut patience: Vec<u32> = (0..PARTS).map(|_| patience()).collect();
        patience.sort_unstable();
        assert!(patience.into_iter().eq(PATIENCE..PATIENCE + PARTS));
    }

    /// A request is under way while memory is critically short, and its client sends the rest.
    async fn critical() -> (TcpStream, Restrained<TcpStream>, InFlight) {
        let (activity, pressure) = (Activity::new(false), Pressure::default());
        let (mut client, server) = pair().await;
        let server = Restrained::new(server, &activity, &pressure);
        pressure.set(Level::Critical);
        client.write_all(b"the rest").await.unwrap();
        (client, server, activity.begin())
    }

    #[tokio::test]
    async fn who_goes_away_is_let_go_of_with_all_that_was_not_read() {
        let (client, mut server, _under_way) = critical().await;
        let mut waiting = Box::pin(server.read_u8());
        assert!(tokio::time::timeout(MOMENT, &mut waiting).await.is_err());
        drop(client);
        let ended = tokio::time::timeout(MOMENT * 30, waiting).await.unwrap();
        assert_eq!(ended.unwrap_err().kind(), ErrorKind::ConnectionAborted);
    }

    #[tokio::test]
    async fn what_somebody_left_behind_who_went_away_meanwhile_is_not_read_later() {
        let (client, mut server, _under_way) = critical().await;
        {
            let mut byte = [0];
            let mut byte = ReadBuf::new(&mut byte);
            let waits = std::future::poll_fn(|cx| {
                Poll::Ready(Pin::new(&mut server).poll_read(cx, &mut byte).is_pending())
            });
            assert!(waits.await);
        }
        drop(client);
        server.pressure.set(Level::Normal);
        let ended = tokio::time::timeout(MOMENT * 30, server.read_u8()).await.unwrap();
        assert_eq!(ended.unwrap_err().kind(), ErrorKind::ConnectionAborted);
    }

    #[tokio::test]
    async fn a_header_is_read_as_far_as_ordinary_ones_go() {
        let (activity, pressure) = (Activity::new(true), Pressure::default());
        pressure.set(Level::Critical);
        let (mut client, server) = pair().await;
        let restrained = Restrained::new(server, &activity, &pressure);
        let mut server = Observed::new(restrained, Arc::clone(&activity));
        client.write_all(b"GET / HTTP/1.1\r\nx: ").await.unwrap();
        // As a connection at rest does.
        assert!(std::future::poll_fn(|cx| server.poll_first(cx)).await.unwrap());
        client.write_all(&vec![b'x'; HEADER]).await.unwrap();
        let mut head = vec![0; HEADER];
        let mut read = 0;
        while read < HEADER {
            read += server.read(&mut head).await.unwrap();
        }
        client.write_all(&vec![b'x'; HEADER]).await.unwrap();
        let more = async { while server.read(&mut head).await.unwrap() > 0 {} };
        assert!(tokio::time::timeout(MOMENT, more).await.is_err());
        pressure.set(Level::Normal);
        assert!(server.read(&mut head).await.unwrap() > 0);
    }
}
