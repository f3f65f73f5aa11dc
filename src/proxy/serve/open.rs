//! What leads to a connection: whose it is, whether it may begin, and its TLS handshake.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::time::Instant;

use super::{Door, Listener, Role, Worker};
use crate::domain::canonical::Host;
use crate::domain::connection::{Connection, PeerAddr, SourceAddr};
use crate::domain::network::Subscriber;
use crate::pipeline::client::ClientConnection;
use crate::proxy::accept::Place;
use crate::proxy::connection::Protocol;
use crate::proxy::entry::{self, Entry, Refused};
use crate::proxy::http::Context;
use crate::proxy::pace::Pace;
use crate::proxy::seats::Seat;
use crate::tls::{Acceptor, Alpn, TlsStream};

/// A connection that may begin.
struct Arrived {
    stream: TcpStream,
    peer: SocketAddr,
    source: SourceAddr,
    begun: Instant,
}

/// A connection that HTTP can be spoken on.
pub(super) enum Opened {
    Tls {
        stream: Box<TlsStream>,
        protocol: Protocol,
        context: Arc<Context>,
    },
    Plain {
        stream: TcpStream,
        port: u16,
        connection: Arc<ClientConnection>,
        place: (Place, Option<Seat>),
    },
}

impl Door {
    fn connection(
        &self,
        peer: SocketAddr,
        source: SourceAddr,
        server_name: Option<Host>,
        client_certificate: Option<Arc<[u8]>>,
    ) -> Connection {
        Connection {
            listener: Arc::clone(&self.listener.name),
            peer: PeerAddr(peer),
            source,
            rules: Arc::clone(&self.listener.source),
            local_port: self.port,
            server_name,
            client_certificate,
        }
    }
}

impl Worker {
    /// Everything before the first byte of HTTP. `None`: it is refused or failed, or the worker
    /// stops.
    pub(super) async fn open(
        &self,
        door: &Door,
        mut stream: TcpStream,
        peer: SocketAddr,
        place: Place,
    ) -> Option<Opened> {
        let begun = Instant::now();
        let Entry { source, seat } = self.enter(door, &mut stream, peer).await?;
        match &door.listener.role {
            Role::Tls(acceptor) => {
                let arrived = Arrived { stream, peer, source, begun };
                self.handshake(door, acceptor, arrived, (place, seat)).await
            }
            Role::RedirectToHttps { port } => Some(Opened::Plain {
                stream,
                port: *port,
                connection: ClientConnection::new(
                    Arc::clone(&self.gate),
                    door.connection(peer, source, None, None),
                ),
                place: (place, seat),
            }),
        }
    }

    /// Settles whose connection it is and whether it may begin. `None`: it may not, which is
    /// counted, or the worker stops.
    async fn enter(&self, door: &Door, stream: &mut TcpStream, peer: SocketAddr) -> Option<Entry> {
        let Listener { proxy_protocol, source, limits, .. } = &door.listener;
        let entering = entry::enter(stream, peer, proxy_protocol.as_ref(), source, &door.seats);
        let entered = tokio::select! {
            // Only a header has to be waited for.
            biased;
            entered = entering => entered,
            () = self.stop.cancelled() => return None,
            () = tokio::time::sleep(limits.handshake_timeout) => {
                Err(Refused::NoProxyHeader(io::ErrorKind::TimedOut.into()))
            }
        };
        entered
            .inspect_err(|refused| {
                self.refused(door, refused);
                tracing::debug!(%peer, reason = %refused, "refused a connection");
            })
            .ok()
    }

    async fn handshake(
        &self,
        door: &Door,
        acceptor: &Acceptor,
        arrived: Arrived,
        place: (Place, Option<Seat>),
    ) -> Option<Opened> {
        let Arrived { stream, peer, source, begun } = arrived;
        let limits = &door.listener.limits;
        let left = limits.handshake_timeout.saturating_sub(begun.elapsed());
        // Only a proxy, whose clients are many, has no seat.
        let subscriber = place.1.is_some().then(|| Subscriber::of(source.0));
        let handshake = door.handshakes.begin(subscriber);
        let accepting = pin!(acceptor.accept(stream, left, &self.turns));
        let accepted = tokio::select! {
            accepted = accepting => accepted,
            () = handshake.given_up() => {
                self.refused(door, &Refused::Handshake);
                return None;
            }
            () = self.stop.cancelled() => return None,
        };
        drop(handshake);
        let (stream, facts) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                self.gate.metrics.tls_handshakes("-", error.kind());
                tracing::debug!(%peer, %error, "a TLS handshake failed");
                return None;
            }
        };
        let result = if facts.resumed { "resumed" } else { "full" };
        self.gate.metrics.tls_handshakes(facts.version, result);
        let protocol = match facts.alpn {
            Alpn::Http1 => Protocol::Http1,
            Alpn::Http2 => Protocol::Http2,
        };
        let connection = door.connection(peer, source, facts.server_name, facts.client_certificate);
        let context = Arc::new(Context {
            connection: ClientConnection::new(Arc::clone(&self.gate), connection),
            worker: self.index,
            max_headers: limits.max_headers,
            idle_timeout: limits.idle_timeout,
            pace: Pace { rate: limits.min_data_rate, grace: limits.data_rate_grace },
            streams: self.streams.clone(),
            stop: self.stop.clone(),
            leave: Arc::clone(&self.leave),
            _place: place,
        });
        Some(Opened::Tls { stream, protocol, context })
    }
}
