//! The last that a handshake writes goes out together with the first answer.
//!
//! At the end of a TLS 1.3 handshake the gate writes session tickets (RFC 8446, section 4.6.1), which
//! are for later connections and would cost a system call and a packet of their own, while the
//! client's first request is often there already. So what a handshake writes waits here until there
//! is nothing to do but wait for the client; or, once that has spoken, until it is answered.
//!
//! INVARIANT: while the client is waited for, nothing waits here that it may be waiting for itself.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A socket that gathers what a handshake writes.
#[derive(Debug)]
pub struct Flight<T> {
    inner: T,
    stage: Stage,
    waiting: Vec<u8>,
    /// How much of it is written.
    written: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Nothing is gathered: before the handshake, and when all of it has gone out.
    Past,
    /// The handshake is under way.
    Gathering,
    /// It is over: the next write takes along what waits.
    Over,
    /// The same, and what waits has time until then: the client has begun to speak.
    Spoken,
}

impl<T> Flight<T> {
    pub fn new(inner: T) -> Self {
        Self { inner, stage: Stage::Past, waiting: Vec::new(), written: 0 }
    }

    pub fn get_ref(&self) -> &T {
        &self.inner
    }

    /// What waits is lost.
    pub fn into_inner(self) -> T {
        self.inner
    }

    /// From here on the handshake writes.
    pub fn gather(&mut self) {
        self.stage = Stage::Gathering;
    }

    /// The handshake is over, and the client waits for nothing of it. `spoken`: it has begun with what
    /// will be answered.
    pub fn over(&mut self, spoken: bool) {
        self.stage = match spoken {
            _ if self.waiting.is_empty() => Stage::Past,
            true => Stage::Spoken,
            false => Stage::Over,
        };
    }
}

impl<T: AsyncWrite + Unpin> Flight<T> {
    /// Writes what waits.
    pub fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(rest) = self.waiting.get(self.written..).filter(|rest| !rest.is_empty()) {
            match ready!(Pin::new(&mut self.inner).poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.written += count,
            }
        }
        self.drained();
        Poll::Ready(Ok(()))
    }

    fn drained(&mut self) {
        self.waiting = Vec::new();
        self.written = 0;
        if self.stage != Stage::Gathering {
            self.stage = Stage::Past;
        }
    }

    /// Writes what waits and `next`, and returns how much of `next`.
    fn poll_both(&mut self, cx: &mut Context<'_>, next: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let rest = self.waiting.get(self.written..).unwrap_or_default();
            let both = [IoSlice::new(rest), IoSlice::new(next)];
            let count = ready!(Pin::new(&mut self.inner).poll_write_vectored(cx, &both))?;
            match count.checked_sub(rest.len()) {
                Some(count) if count > 0 || next.is_empty() => {
                    self.drained();
                    return Poll::Ready(Ok(count));
                }
                _ if count == 0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                _ => self.written += count,
            }
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for Flight<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.inner).poll_read(cx, buf);
        if read.is_pending() && matches!(self.stage, Stage::Gathering | Stage::Over) {
            ready!(self.poll_drain(cx))?;
        }
        read
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Flight<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.as_mut().poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.stage {
            Stage::Past => Pin::new(&mut self.inner).poll_write_vectored(cx, bufs),
            Stage::Gathering => {
                bufs.iter().for_each(|buf| self.waiting.extend_from_slice(buf));
                Poll::Ready(Ok(bufs.iter().map(|buf| buf.len()).sum()))
            }
            Stage::Over | Stage::Spoken => {
                let first = bufs.iter().find(|buf| !buf.is_empty());
                self.poll_both(cx, first.map_or(&[], |buf| buf))
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    /// What waits is not for now.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::Arc;

    use parking_lot::Mutex;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    /// Takes so many bytes in one call at most, and knows how many each brought.
    struct Pieces {
        io: DuplexStream,
        most: usize,
        taken: Arc<Mutex<Vec<usize>>>,
    }

    impl AsyncRead for Pieces {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.io).poll_read(cx, buf)
        }
    }

    impl AsyncWrite for Pieces {
        fn poll_write(
            self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.poll_write_vectored(cx, &[IoSlice::new(buf)])
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            bufs: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            let mut all: Vec<u8> = bufs.iter().flat_map(|buf| buf.iter().copied()).collect();
            all.truncate(self.most);
            let count = ready!(Pin::new(&mut self.io).poll_write(cx, &all))?;
            self.taken.lock().push(count);
            Poll::Ready(Ok(count))
        }

        fn is_write_vectored(&self) -> bool {
            true
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.io).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.io).poll_shutdown(cx)
        }
    }

    async fn reads_nothing(flight: &mut Flight<Pieces>) {
        let mut read = [0; 8];
        let mut read = ReadBuf::new(&mut read);
        let pending = |cx: &mut Context<'_>| {
            Poll::Ready(Pin::new(&mut *flight).poll_read(cx, &mut read).is_pending())
        };
        assert!(poll_fn(pending).await);
    }

    struct Client {
        io: DuplexStream,
        taken: Arc<Mutex<Vec<usize>>>,
    }

    impl Client {
        /// What has arrived by now, and in how many pieces.
        async fn arrived(&mut self) -> (String, usize) {
            let mut read = vec![0; 64];
            let reading = tokio::time::timeout(std::time::Duration::ZERO, self.io.read(&mut read));
            let count = reading.await.map_or(0, Result::unwrap);
            read.truncate(count);
            (String::from_utf8(read).unwrap(), std::mem::take(&mut *self.taken.lock()).len())
        }
    }

    fn pieces(count: usize, text: &str) -> (String, usize) {
        (text.to_owned(), count)
    }

    /// A handshake that has written its tickets, which nobody waits for.
    async fn handshake() -> (Flight<Pieces>, Client) {
        let (server, io) = duplex(64);
        let taken = Arc::default();
        let mut client = Client { io, taken: Arc::clone(&taken) };
        let mut flight = Flight::new(Pieces { io: server, most: usize::MAX, taken });
        flight.write_all(b"alert ").await.unwrap();
        assert_eq!(client.arrived().await, pieces(1, "alert "));
        flight.gather();
        flight.write_all(b"hel").await.unwrap();
        flight.write_all(b"lo ").await.unwrap();
        flight.flush().await.unwrap();
        assert_eq!(client.arrived().await, pieces(0, ""));
        reads_nothing(&mut flight).await;
        assert_eq!(client.arrived().await, pieces(1, "hello "));
        flight.write_all(b"tickets ").await.unwrap();
        (flight, client)
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_handshake_writes_last_goes_out_with_the_first_answer() {
        for spoken in [true, false] {
            let (mut flight, mut client) = handshake().await;
            flight.over(spoken);
            assert_eq!(client.arrived().await, pieces(0, ""));
            flight.write_all(b"answer").await.unwrap();
            assert_eq!(client.arrived().await, pieces(1, "tickets answer"));
            flight.write_all(b"next").await.unwrap();
            assert_eq!(client.arrived().await, pieces(1, "next"));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_says_nothing_gets_it_at_once() {
        let (mut flight, mut client) = handshake().await;
        flight.over(false);
        reads_nothing(&mut flight).await;
        assert_eq!(client.arrived().await, pieces(1, "tickets "));
    }

    #[tokio::test(start_paused = true)]
    async fn once_the_client_has_spoken_it_waits_for_the_answer_or_the_end() {
        let (mut flight, mut client) = handshake().await;
        flight.over(true);
        reads_nothing(&mut flight).await;
        flight.flush().await.unwrap();
        assert_eq!(client.arrived().await, pieces(0, ""));
        flight.shutdown().await.unwrap();
        assert_eq!(client.arrived().await, pieces(1, "tickets "));
    }

    #[tokio::test(start_paused = true)]
    async fn a_socket_that_takes_little_gets_all_of_it_in_order() {
        for most in 1..=32 {
            for answers in [true, false] {
                let (mut flight, mut client) = handshake().await;
                flight.inner.most = most;
                flight.over(true);
                let answer: &[u8] = if answers { b"an answer of some length" } else { b"" };
                let written = async {
                    flight.write_all(answer).await?;
                    flight.shutdown().await
                };
                // What is written twice has no room.
                let patience = std::time::Duration::from_secs(1);
                tokio::time::timeout(patience, written).await.expect("an end").unwrap();
                let mut read = [0; 64];
                // More would be too much.
                let mut end = 0;
                while let count @ 1.. = client.io.read(&mut read[end..]).await.unwrap() {
                    end += count;
                }
                assert_eq!(read[..end], *[&b"tickets "[..], answer].concat(), "{most}");
            }
        }
    }
}
