//! What an HTTP/2 connection writes in one turn goes out in one piece.
//!
//! `h2` flushes after each DATA frame. Streams that are answered together, as those of a page are,
//! would each cost a TLS record, a system call and often a packet of their own. A [`Corked`] socket
//! takes in what is written, up to a TLS record, and sends it when the connection's task has
//! nothing more to do: [`Turns`] sees to that.
//!
//! INVARIANT: after a turn nothing waits here but what the client doesn't take, and then the task
//! is woken when it does. What waits is at most [`RECORD`] bytes.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use parking_lot::{Mutex, MutexGuard};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What a TLS record holds, in bytes (RFC 8446, section 5.1).
const RECORD: usize = 16 * 1024;

/// One of the two handles of a socket: the connection writes to one, its task has the other. Only
/// that task locks it.
pub(super) struct Corked<T>(Arc<Mutex<Gathered<T>>>);

struct Gathered<T> {
    io: T,
    waiting: Vec<u8>,
    /// How much of it is written.
    written: usize,
    unflushed: bool,
    /// What went wrong at the end of a turn, for the connection's next call.
    broken: Option<io::Error>,
}

impl<T> Corked<T> {
    pub(super) fn new(io: T) -> Self {
        let gathered =
            Gathered { io, waiting: Vec::new(), written: 0, unflushed: false, broken: None };
        Self(Arc::new(Mutex::new(gathered)))
    }

    pub(super) fn handle(&self) -> Self {
        Self(Arc::clone(&self.0))
    }

    fn lock(&self) -> MutexGuard<'_, Gathered<T>> {
        self.0.lock()
    }
}

impl<T: AsyncWrite + Unpin> Gathered<T> {
    fn drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(error) = self.broken.take() {
            return Poll::Ready(Err(error));
        }
        while let Some(rest) = self.waiting.get(self.written..).filter(|rest| !rest.is_empty()) {
            match ready!(Pin::new(&mut self.io).poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.written += count,
            }
        }
        // A connection at rest keeps no buffer.
        self.waiting = Vec::new();
        self.written = 0;
        if self.unflushed {
            ready!(Pin::new(&mut self.io).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    fn write(&mut self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let length = slices.iter().map(|slice| slice.len()).sum::<usize>();
        if self.waiting.len().saturating_add(length) > RECORD {
            ready!(self.drain(cx))?;
        }
        self.unflushed = true;
        if length >= RECORD {
            return Pin::new(&mut self.io).poll_write_vectored(cx, slices);
        }
        if self.waiting.capacity() == 0 {
            self.waiting.reserve_exact(RECORD);
        }
        for slice in slices {
            self.waiting.extend_from_slice(slice);
        }
        Poll::Ready(Ok(length))
    }

    fn end_turn(&mut self, cx: &mut Context<'_>) {
        if self.broken.is_none()
            && let Poll::Ready(Err(error)) = self.drain(cx)
        {
            self.broken = Some(error);
            cx.waker().wake_by_ref();
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Corked<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.lock().io).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Corked<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.lock().write(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.lock().write(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// The end of the turn does it, which is at hand.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.lock().broken.take().map_or(Ok(()), Err))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut gathered = self.lock();
        ready!(gathered.drain(cx))?;
        Pin::new(&mut gathered.io).poll_shutdown(cx)
    }
}

/// A connection over a [`Corked`] socket, each of whose turns ends with what it wrote on its way.
pub(super) struct Turns<C, T> {
    connection: Pin<Box<C>>,
    io: Corked<T>,
    /// The connection has ended, and not with an error.
    ended_well: bool,
}

impl<C, T> Turns<C, T> {
    /// `io` is the other handle of the connection's socket.
    pub(super) fn new(connection: C, io: Corked<T>) -> Self {
        Self { connection: Box::pin(connection), io, ended_well: false }
    }

    pub(super) fn connection(self: Pin<&mut Self>) -> Pin<&mut C> {
        self.get_mut().connection.as_mut()
    }

    /// The socket, without the connection. `None`: that has failed, or was given up.
    pub(super) fn into_io(self) -> Option<T> {
        let Self { connection, io, ended_well } = self;
        // With it goes the other handle.
        drop(connection);
        Arc::into_inner(io.0).filter(|_| ended_well).map(|gathered| gathered.into_inner().io)
    }
}

impl<C, T, E> Future for Turns<C, T>
where
    C: Future<Output = Result<(), E>>,
    T: AsyncWrite + Unpin,
{
    type Output = C::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let result = self.connection.as_mut().poll(cx);
        self.ended_well = matches!(result, Poll::Ready(Ok(())));
        self.io.lock().end_turn(cx);
        result
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    /// Counts what arrives in one call each.
    struct Counting {
        io: DuplexStream,
        pieces: Arc<Mutex<Vec<usize>>>,
        broken: bool,
    }

    impl AsyncWrite for Counting {
        fn poll_write(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &[u8],
        ) -> Poll<io::Result<usize>> {
            if self.broken {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
            let result = Pin::new(&mut self.io).poll_write(cx, buf);
            if let Poll::Ready(Ok(count)) = result {
                self.pieces.lock().push(count);
            }
            result
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.io).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.io).poll_shutdown(cx)
        }
    }

    type Pieces = Arc<Mutex<Vec<usize>>>;

    fn corked(buffer: usize) -> (Corked<Counting>, DuplexStream, Pieces) {
        let (io, client) = duplex(buffer);
        let pieces = Pieces::default();
        let io = Counting { io, pieces: Arc::clone(&pieces), broken: false };
        (Corked::new(io), client, pieces)
    }

    /// One turn of a connection that writes and flushes these one after another.
    async fn turn(io: &Corked<Counting>, writes: &[&[u8]]) -> io::Result<()> {
        let mut socket = io.handle();
        let mut connection = Turns::new(
            async {
                for piece in writes {
                    socket.write_all(piece).await?;
                    socket.flush().await?;
                }
                Ok(())
            },
            io.handle(),
        );
        Pin::new(&mut connection).await
    }

    #[tokio::test]
    async fn what_is_written_in_one_turn_arrives_in_one_piece() {
        let (io, mut client, pieces) = corked(RECORD);
        turn(&io, &[b"one", b" two", b" three"]).await.unwrap();
        let mut read = [0; 13];
        client.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"one two three");
        assert_eq!(*pieces.lock(), [13]);
        turn(&io, &[b"four"]).await.unwrap();
        assert_eq!(*pieces.lock(), [13, 4]);
    }

    #[tokio::test]
    async fn more_than_a_record_is_not_held_back() {
        let (io, _client, pieces) = corked(1 << 20);
        let (small, large) = (vec![1; 1000], vec![2; RECORD]);
        turn(&io, &[&small, &large, &small]).await.unwrap();
        assert_eq!(*pieces.lock(), [1000, RECORD, 1000]);
    }

    #[tokio::test]
    async fn a_client_that_takes_nothing_blocks_the_connection_and_gets_all_of_it_later() {
        let (io, mut client, _) = corked(100);
        let written: Vec<u8> = (0..40_000_u32).map(|byte| byte.to_le_bytes()[0]).collect();
        let pieces: Vec<&[u8]> = written.chunks(900).collect();
        let mut connection = Box::pin(turn(&io, &pieces));
        let blocked = poll_fn(|cx| Poll::Ready(connection.as_mut().poll(cx).is_pending())).await;
        assert!(blocked);
        assert!(io.lock().waiting.len() <= RECORD);
        let (mut socket, mut read) = (io.handle(), Vec::new());
        let (ended, got) = tokio::join!(
            async {
                connection.await?;
                socket.shutdown().await
            },
            client.read_to_end(&mut read)
        );
        ended.unwrap();
        got.unwrap();
        assert_eq!(read, written);
    }

    #[tokio::test]
    async fn what_fails_at_the_end_of_a_turn_is_told_at_the_next_call() {
        let (io, _client, _) = corked(RECORD);
        io.lock().io.broken = true;
        turn(&io, &[b"lost"]).await.unwrap();
        let error = io.handle().flush().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }

    #[tokio::test]
    async fn nothing_is_kept_when_there_is_nothing_to_write() {
        let (io, _client, _) = corked(RECORD);
        turn(&io, &[b"one"]).await.unwrap();
        assert_eq!(io.lock().waiting.capacity(), 0);
    }
}
