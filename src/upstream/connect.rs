//! Opens connections to endpoints: TCP, then TLS where the route says so.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::balance::Target;
use super::error::UpstreamError;
use super::trace::Trace;

/// How a route's endpoints are reached.
#[derive(Clone, Debug)]
pub(super) struct Connector {
    pub(super) tls: Option<Arc<ClientConfig>>,
    /// Whether ALPN must have agreed on h2.
    pub(super) http2: bool,
}

impl Connector {
    /// Connects within `budget`, TLS handshake included.
    pub(super) async fn connect(
        &self,
        target: &Target,
        budget: Duration,
    ) -> Result<(Stream, Arc<Trace>), UpstreamError> {
        let address = target.address;
        match tokio::time::timeout(budget, self.open(target)).await {
            Ok(result) => result,
            Err(_) => Err(UpstreamError::ConnectTimeout { address }),
        }
    }

    async fn open(&self, target: &Target) -> Result<(Stream, Arc<Trace>), UpstreamError> {
        let address = target.address;
        let failed = |cause| UpstreamError::Connect { address, cause };
        let tcp = TcpStream::connect(address).await.map_err(failed)?;
        tcp.set_nodelay(true).map_err(failed)?;
        let trace = Arc::new(Trace::default());
        let io = match (&self.tls, &target.server_name) {
            (None, _) => Transport::Plain(tcp),
            (Some(config), Some(name)) => {
                let stream = TlsConnector::from(Arc::clone(config))
                    .connect(name.clone(), tcp)
                    .await
                    .map_err(|cause| UpstreamError::Tls { address, cause: cause.to_string() })?;
                if self.http2 && stream.get_ref().1.alpn_protocol() != Some(b"h2") {
                    return Err(UpstreamError::Tls {
                        address,
                        cause: "the server doesn't speak HTTP/2 (no `h2` in ALPN)".into(),
                    });
                }
                Transport::Tls(Box::new(stream))
            }
            (Some(_), None) => {
                let cause = "the endpoint's host can't be a server name".into();
                return Err(UpstreamError::Tls { address, cause });
            }
        };
        Ok((Stream { io, trace: Arc::clone(&trace) }, trace))
    }
}

/// A connection to an upstream.
#[derive(Debug)]
pub(super) struct Stream {
    io: Transport,
    trace: Arc<Trace>,
}

#[derive(Debug)]
enum Transport {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    fn traced(
        &mut self,
        data: &[io::IoSlice<'_>],
        write: impl FnOnce(&mut Transport) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if self.trace.keeps() {
            self.trace.offer(data);
        }
        let result = write(&mut self.io);
        let offered = data.iter().map(|part| part.len()).sum();
        let taken = if let Poll::Ready(Ok(taken)) = &result { *taken } else { 0 };
        self.trace.wrote(offered, taken);
        result
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let result = match &mut this.io {
            Transport::Plain(io) => Pin::new(io).poll_read(cx, buf),
            Transport::Tls(io) => Pin::new(io).poll_read(cx, buf),
        };
        if buf.filled().len() > before {
            this.trace.hear();
        }
        result
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().traced(&[io::IoSlice::new(data)], |transport| match transport {
            Transport::Plain(io) => Pin::new(io).poll_write(cx, data),
            Transport::Tls(io) => Pin::new(io).poll_write(cx, data),
        })
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().io {
            Transport::Plain(io) => Pin::new(io).poll_flush(cx),
            Transport::Tls(io) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().io {
            Transport::Plain(io) => Pin::new(io).poll_shutdown(cx),
            Transport::Tls(io) => Pin::new(io).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // send(2) costs the kernel less than writev(2).
        if let [only] = data {
            return self.poll_write(cx, only);
        }
        self.get_mut().traced(data, |transport| match transport {
            Transport::Plain(io) => Pin::new(io).poll_write_vectored(cx, data),
            Transport::Tls(io) => Pin::new(io).poll_write_vectored(cx, data),
        })
    }

    fn is_write_vectored(&self) -> bool {
        match &self.io {
            Transport::Plain(io) => io.is_write_vectored(),
            Transport::Tls(io) => io.is_write_vectored(),
        }
    }
}
