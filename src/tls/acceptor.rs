//! From a TCP connection to a TLS one, within a deadline.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use super::TlsStream;
use arc_swap::ArcSwap;
use rustls::server::{Acceptor as HelloReader, ClientHello};
use rustls::{HandshakeKind, ProtocolVersion, ServerConfig};
use rustls_pki_types::{CertificateDer, UnixTime};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_rustls::{LazyConfigAcceptor, StartHandshake};

use super::Socket;
use super::ahead::Ahead;
use super::certificates::Certificates;
use super::flight::Flight;
use super::server::{ServerTls, Worse};
use super::suites;
use super::term::Term;
use super::tickets::{OwnSecret, Tickets};
use crate::domain::canonical::Host;
use crate::domain::clock::Timestamp;

/// A fatal `unrecognized_name` alert in a record of its own (RFC 8446, sections 5.1 and 6).
const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

/// What the handshake established.
#[derive(Clone, Debug)]
pub struct TlsFacts {
    /// The name that the client asked for (RFC 6066, section 3), canonical.
    pub server_name: Option<Host>,
    pub alpn: Alpn,
    /// DER of the client's end-entity certificate. Its chain leads to the device CA and nothing in
    /// it has expired, on resumed connections as well.
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
    listener: Arc<str>,
    own: Arc<OwnSecret>,
    active: ArcSwap<Active>,
}

#[derive(Debug)]
struct Active {
    tls: ServerTls,
    tickets: Arc<Tickets>,
}

impl Active {
    fn certificates(&self) -> &Certificates {
        &self.tls.certificates
    }

    /// For one handshake.
    fn config(&self, hello: &ClientHello<'_>) -> Arc<ServerConfig> {
        let mut config = self.tls.config.clone();
        config.ignore_client_order = suites::is_servers_choice(hello.cipher_suites());
        config.ticketer = self.tickets.visit();
        Arc::new(config)
    }
}

impl Acceptor {
    /// Tickets are sealed with `own` where the listener has no secrets that it shares.
    pub fn new(listener: Arc<str>, tls: ServerTls, own: Arc<OwnSecret>) -> Self {
        let active = ArcSwap::from_pointee(active(&listener, tls, &own));
        Self { listener, own, active }
    }

    /// Serves new handshakes with other certificates. Established connections stay, and clients
    /// can still resume their sessions, unless the device CA changed: a ticket carries the
    /// client's verified certificate, and what verified it may no longer be trusted.
    pub fn replace(&self, tls: ServerTls) {
        self.active.store(Arc::new(active(&self.listener, tls, &self.own)));
    }

    /// Drops ticket keys whose time is over. For every now and then.
    pub fn refresh_tickets(&self) {
        self.active.load().tickets.refresh();
    }

    /// How long what is in force is good for.
    pub fn terms(&self) -> Vec<Term> {
        self.active.load().tls.terms().to_vec()
    }

    /// Makes `tls` fit to [replace](Self::replace) what is in force: where something in it is out
    /// of date, and what is in force in its place is not, the latter goes on. Otherwise all clients
    /// would refuse the gate. Returns what is out of date.
    pub fn keep_in_date(&self, tls: &mut ServerTls, now: Timestamp) -> Vec<Worse> {
        tls.keep_in_date(&self.active.load().tls, now)
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
    ) -> Result<(Box<TlsStream>, TlsFacts), TlsError> {
        let active = self.active.load_full();
        let handshake = pin!(handshake(&active, stream, turns));
        match tokio::time::timeout(deadline, handshake).await {
            Ok(result) => result,
            Err(_) => Err(TlsError::Timeout),
        }
    }
}

fn active(listener: &str, tls: ServerTls, own: &Arc<OwnSecret>) -> Active {
    let shared = tls.ticket_secrets.clone();
    let tickets = Tickets::new(listener, &tls.client_ca, shared, Arc::clone(own));
    Active { tls, tickets: Arc::new(tickets) }
}

async fn handshake(
    active: &Active,
    stream: TcpStream,
    turns: &Turns,
) -> Result<(Box<TlsStream>, TlsFacts), TlsError> {
    let io = Flight::new(Ahead::new(stream));
    let start = boxed(LazyConfigAcceptor::new(HelloReader::default(), io)).await;
    let mut start = start.map_err(TlsError::from_io)?;
    let asked = start.client_hello().server_name().map(Host::parse);
    let server_name = match asked {
        None => None,
        Some(Ok(name)) if active.certificates().has(name.as_str()) => Some(name),
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
    let chain = connection.peer_certificates().and_then(<[_]>::split_first);
    let client_certificate: Option<Arc<[u8]>> =
        chain.map(|(certificate, _)| Arc::from(certificate.as_ref()));
    if let (true, Some((certificate, others))) = (resumed, chain)
        && let Err(reason) = verify_again(active, certificate, others)
    {
        let _ = stream.shutdown().await;
        return Err(TlsError::ClientCertificate(reason));
    }
    Ok((stream, TlsFacts { server_name, alpn, client_certificate, version, resumed }))
}

/// Answers the client's hello when it is its turn, and completes the handshake.
async fn answer(
    active: &Active,
    mut start: Box<StartHandshake<Socket>>,
    turns: &Turns,
) -> io::Result<Box<TlsStream>> {
    // An error would say that nobody gives turns any more, which does not happen.
    let turn = turns.0.acquire().await.ok();
    // Key exchange and signature: nearly all that a handshake costs.
    let config = active.config(&start.client_hello());
    start.io.gather();
    let mut handshake = boxed(start.into_stream(config).into_fallible());
    let first = poll_fn(|cx| Poll::Ready(Pin::new(&mut handshake).poll(cx))).await;
    // Whatever else is ready goes before the next one's.
    tokio::task::yield_now().await;
    drop(turn);
    let ended = match first {
        Poll::Ready(ended) => ended,
        Poll::Pending => (&mut handshake).await,
    };
    match ended {
        Ok(mut stream) => {
            let (socket, connection) = stream.get_mut();
            if connection.protocol_version() != Some(ProtocolVersion::TLSv1_3) {
                // The client waits for this, though it may have spoken already (RFC 7918).
                poll_fn(|cx| socket.poll_drain(cx)).await?;
            }
            socket.over(!connection.wants_read());
            Ok(stream)
        }
        Err((error, mut socket)) => {
            // The handshake has failed already; that the alert arrives is a courtesy.
            let _ = poll_fn(|cx| socket.poll_drain(cx)).await;
            Err(error)
        }
    }
}

/// Boxes what comes as soon as it comes: a TLS connection is large, and each step outwards would
/// move it.
fn boxed<T, E>(
    mut future: impl Future<Output = Result<T, E>> + Unpin,
) -> impl Future<Output = Result<Box<T>, E>> + Unpin {
    poll_fn(move |cx| Pin::new(&mut future).poll(cx).map_ok(Box::new))
}

/// A resumed handshake takes the client's certificates from the ticket, which may outlive any of
/// them.
fn verify_again(
    active: &Active,
    certificate: &CertificateDer<'_>,
    others: &[CertificateDer<'_>],
) -> Result<(), String> {
    let now = u64::try_from(active.tickets.now().as_seconds()).unwrap_or(0);
    let now = UnixTime::since_unix_epoch(Duration::from_secs(now));
    match &active.tls.verifier {
        Some(verifier) => verifier
            .verify_client_cert(certificate, others, now)
            .map(drop)
            .map_err(|error| error.to_string()),
        None => Err("nothing verifies client certificates here any more".to_owned()),
    }
}
