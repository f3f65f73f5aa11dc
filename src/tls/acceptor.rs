//! From a TCP connection to a TLS one, within a deadline.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::server::Acceptor as HelloReader;
use rustls::{HandshakeKind, ProtocolVersion, ServerConfig};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_rustls::server::TlsStream;
use tokio_rustls::{LazyConfigAcceptor, StartHandshake};

use super::ahead::Ahead;
use super::certificates::Certificates;
use super::server::ServerTls;
use crate::domain::canonical::Host;
use crate::domain::clock::{Clock, Timestamp};
use crate::pem::CertificateFacts;

/// A fatal `unrecognized_name` alert in a record of its own (RFC 8446, sections 5.1 and 6).
const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

/// What the handshake established.
#[derive(Clone, Debug)]
pub struct TlsFacts {
    /// The name that the client asked for (RFC 6066, section 3), canonical.
    pub server_name: Option<Host>,
    pub alpn: Alpn,
    /// DER of the client's end-entity certificate. Its chain leads to the device CA and it has
    /// not expired, on resumed connections as well.
    pub client_certificate: Option<Arc<[u8]>>,
    /// `1.2` or `1.3`.
    pub version: &'static str,
    pub resumed: bool,
}

/// The protocol that client and server agreed on (RFC 7301).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alpn {
    /// Also when the client named none.
    Http1,
    Http2,
}

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("the handshake took longer than allowed")]
    Timeout,
    #[error("the client closed the connection during the handshake")]
    Closed,
    #[error("no certificate covers the name that the client asked for")]
    UnknownName,
    #[error("the client's certificate was refused: {0}")]
    ClientCertificate(String),
    #[error("the handshake failed: {0}")]
    Protocol(rustls::Error),
    #[error("the connection broke during the handshake: {0}")]
    Io(io::Error),
}

impl TlsError {
    /// A fixed word for metrics.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Closed => "closed",
            Self::UnknownName => "unknown_name",
            Self::ClientCertificate(_) => "client_certificate",
            Self::Protocol(_) => "protocol",
            Self::Io(_) => "io",
        }
    }

    fn from_io(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::UnexpectedEof {
            return Self::Closed;
        }
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(rustls::Error::InvalidCertificate(reason)) => {
                Self::ClientCertificate(reason.to_string())
            }
            Some(tls) => Self::Protocol(tls.clone()),
            None => Self::Io(error),
        }
    }
}

/// Handshakes whose cryptography is done before other tasks of a worker have their turn: about a
/// millisecond's worth. Without it the answers of everybody who is connected already would wait
/// for all the handshakes that arrived at once.
const AT_ONCE: usize = 4;

/// Whose turn it is among the handshakes of one worker.
#[derive(Debug)]
pub struct Turns(pub(super) Semaphore);

impl Default for Turns {
    fn default() -> Self {
        Self(Semaphore::new(AT_ONCE))
    }
}

/// Accepts TLS connections with what was last swapped in.
#[derive(Debug)]
pub struct Acceptor {
    active: ArcSwap<Active>,
}

#[derive(Debug)]
struct Active {
    config: Arc<ServerConfig>,
    tls: ServerTls,
}

impl Active {
    fn certificates(&self) -> &Certificates {
        &self.tls.certificates
    }
}

impl Acceptor {
    pub fn new(tls: ServerTls) -> Self {
        let config = Arc::new(tls.config.clone());
        Self { active: ArcSwap::from_pointee(Active { config, tls }) }
    }

    /// Serves new handshakes with other certificates. Established connections stay, and clients
    /// can still resume their sessions, unless the device CA changed: a ticket carries the
    /// client's verified certificate, and what verified it may no longer be trusted.
    pub fn replace(&self, tls: ServerTls) {
        let old = self.active.load();
        let mut config = tls.config.clone();
        if old.tls.client_ca == tls.client_ca {
            config.ticketer = Arc::clone(&old.config.ticketer);
        }
        self.active.store(Arc::new(Active { config: Arc::new(config), tls }));
    }

    /// When the certificates in use expire, by file.
    pub fn expiries(&self) -> Vec<(String, Timestamp)> {
        self.active.load().tls.expiries()
    }

    /// Performs the handshake.
    ///
    /// # Errors
    /// [`TlsError`]; the client was sent the fitting alert where there is one. `deadline` bounds
    /// everything from the first byte of the client's hello to the end, the alert included.
    pub async fn accept(
        &self,
        stream: TcpStream,
        deadline: Duration,
        turns: &Turns,
    ) -> Result<(TlsStream<Ahead<TcpStream>>, TlsFacts), TlsError> {
        let active = self.active.load_full();
        match tokio::time::timeout(deadline, handshake(&active, stream, turns)).await {
            Ok(result) => result,
            Err(_) => Err(TlsError::Timeout),
        }
    }
}

async fn handshake(
    active: &Active,
    stream: TcpStream,
    turns: &Turns,
) -> Result<(TlsStream<Ahead<TcpStream>>, TlsFacts), TlsError> {
    let mut start = LazyConfigAcceptor::new(HelloReader::default(), Ahead::new(stream))
        .await
        .map_err(TlsError::from_io)?;
    let asked = start.client_hello().server_name().map(Host::parse);
    let server_name = match asked {
        None => None,
        Some(Ok(name)) if active.certificates().for_name(name.as_str()).is_some() => Some(name),
        Some(_) => {
            // The handshake has failed already; that the alert arrives is a courtesy.
            let _ = start.io.write_all(&UNRECOGNIZED_NAME).await;
            let _ = start.io.shutdown().await;
            return Err(TlsError::UnknownName);
        }
    };
    let mut stream = answer(active, start, turns).await.map_err(TlsError::from_io)?;

    let (_, connection) = stream.get_ref();
    let resumed = connection.handshake_kind() == Some(HandshakeKind::Resumed);
    let alpn = match connection.alpn_protocol() {
        Some(b"h2") => Alpn::Http2,
        _ => Alpn::Http1,
    };
    let version = match connection.protocol_version() {
        Some(ProtocolVersion::TLSv1_3) => "1.3",
        _ => "1.2",
    };
    let client_certificate: Option<Arc<[u8]>> = connection
        .peer_certificates()
        .and_then(|chain| chain.first())
        .map(|certificate| Arc::from(certificate.as_ref()));
    if resumed
        && let Some(certificate) = &client_certificate
        && !is_current(certificate)
    {
        // A resumed handshake doesn't verify the chain again, and a ticket may outlive the
        // certificate in it.
        let _ = stream.shutdown().await;
        return Err(TlsError::ClientCertificate("it expired since the session began".into()));
    }
    Ok((stream, TlsFacts { server_name, alpn, client_certificate, version, resumed }))
}

/// Answers the client's hello when it is its turn, and completes the handshake.
async fn answer(
    active: &Active,
    start: StartHandshake<Ahead<TcpStream>>,
    turns: &Turns,
) -> io::Result<TlsStream<Ahead<TcpStream>>> {
    // An error would say that nobody gives turns any more, which does not happen.
    let turn = turns.0.acquire().await.ok();
    // Key exchange and signature: nearly all that a handshake costs.
    let mut handshake = start.into_stream(Arc::clone(&active.config));
    let first = poll_fn(|cx| Poll::Ready(Pin::new(&mut handshake).poll(cx))).await;
    // Whatever else is ready goes before the next one's.
    tokio::task::yield_now().await;
    drop(turn);
    match first {
        Poll::Ready(stream) => stream,
        Poll::Pending => handshake.await,
    }
}

fn is_current(certificate: &[u8]) -> bool {
    CertificateFacts::of(certificate).is_some_and(|facts| facts.is_current(Clock::System.now()))
}
