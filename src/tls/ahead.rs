//! Reads more at a time of a client that sends much.
//!
//! rustls asks its socket for 4 KiB at a time, which is plenty for requests, and four system calls
//! for each record of an upload. So when a read fills what was asked for, the next one asks for
//! [`AHEAD`] and keeps what is over.
//!
//! INVARIANT: a connection that waits for its client has no buffer here.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What the socket is asked for when there seems to be more, in bytes: two TLS records.
const AHEAD: usize = 32 * 1024;

/// A socket that may have been read further than was asked for.
#[derive(Debug)]
pub struct Ahead<T> {
    inner: T,
    /// Empty, or with what was read and not passed on yet between `from` and `to`.
    buffer: Vec<u8>,
    from: usize,
    to: usize,
    /// The last read filled what it was given.
    more: bool,
}

impl<T> Ahead<T> {
    pub fn new(inner: T) -> Self {
        Self { inner, buffer: Vec::new(), from: 0, to: 0, more: false }
    }

    pub fn get_ref(&self) -> &T {
        &self.inner
    }

    /// What was read ahead is lost.
    pub fn into_inner(self) -> T {
        self.inner
    }

    /// Passes on what is kept.
    fn give(&mut self, buf: &mut ReadBuf<'_>) {
        let kept = self.buffer.get(self.from..self.to).unwrap_or_default();
        let now = kept.get(..buf.remaining()).unwrap_or(kept);
        buf.put_slice(now);
        self.from += now.len();
        if self.from == self.to && !self.more {
            self.buffer = Vec::new();
        }
    }
}

impl<T: AsyncRead + Unpin> Ahead<T> {
    fn poll_ahead(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.more = false;
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(AHEAD, 0);
        let mut ahead = ReadBuf::new(&mut buffer);
        ready!(Pin::new(&mut self.inner).poll_read(cx, &mut ahead))?;
        (self.from, self.to, self.more) = (0, ahead.filled().len(), ahead.remaining() == 0);
        self.buffer = buffer;
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Ahead<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.remaining();
        if this.from == this.to {
            if !this.more || before >= AHEAD {
                ready!(Pin::new(&mut this.inner).poll_read(cx, buf))?;
                this.more = before > 0 && buf.remaining() == 0;
                return Poll::Ready(Ok(()));
            }
            ready!(this.poll_ahead(cx))?;
        }
        this.give(buf);
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Ahead<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // send(2) costs the kernel less than writev(2).
        if let [only] = bufs {
            return Pin::new(&mut self.inner).poll_write(cx, only);
        }
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// What comes through in reads of 4 KiB, and whether anything is kept at the end of it.
    async fn through(sizes: &[usize]) -> (Vec<u8>, Vec<u8>) {
        let (mut client, server) = tokio::io::duplex(1 << 20);
        let mut ahead = Ahead::new(server);
        let (mut sent, mut came) = (Vec::new(), Vec::new());
        let mut buffer = vec![0; 4096];
        for size in sizes {
            let piece: Vec<u8> =
                (sent.len()..sent.len() + size).map(|at| (at % 251) as u8).collect();
            client.write_all(&piece).await.unwrap();
            sent.extend(piece);
            while came.len() < sent.len() {
                let count = ahead.read(&mut buffer).await.unwrap();
                came.extend(buffer.iter().take(count));
            }
            let waiting = tokio::time::timeout(std::time::Duration::ZERO, ahead.read(&mut buffer));
            assert!(waiting.await.is_err(), "there is nothing more");
            assert_eq!(ahead.buffer.capacity(), 0, "after {size}");
        }
        drop(client);
        assert_eq!(ahead.read(&mut buffer).await.unwrap(), 0);
        (sent, came)
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_read_ahead_comes_in_order_and_leaves_no_buffer_behind() {
        let sizes = [1, 4095, 4096, 4097, AHEAD, 4096 + AHEAD, 4096 + 2 * AHEAD, 300_000, 1];
        let (sent, came) = through(&sizes).await;
        assert!(sent == came);
    }

    #[tokio::test]
    async fn much_is_read_in_few_reads() {
        struct Counted<T>(T, usize);
        impl<T: AsyncRead + Unpin> AsyncRead for Counted<T> {
            fn poll_read(
                mut self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buf: &mut ReadBuf<'_>,
            ) -> Poll<io::Result<()>> {
                self.1 += 1;
                Pin::new(&mut self.0).poll_read(cx, buf)
            }
        }
        let much = vec![7; 4096 + 4 * AHEAD];
        let mut ahead = Ahead::new(Counted(much.as_slice(), 0));
        let mut buffer = vec![0; 4096];
        let mut came = 0;
        while came < much.len() {
            came += ahead.read(&mut buffer).await.unwrap();
        }
        assert_eq!(ahead.inner.1, 5);
    }
}
