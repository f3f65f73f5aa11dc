//! What is known of a client's connection before its first request.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::canonical::Host;

/// The address that the connection comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PeerAddr(pub SocketAddr);

/// The address that decisions and records use. Today that is the peer's own; a newtype, so that
/// the two can't be mixed up once trusted proxies come in between.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClientAddr(pub IpAddr);

/// Facts about a TLS connection.
#[derive(Clone, Debug)]
pub struct Connection {
    pub listener: Arc<str>,
    pub peer: PeerAddr,
    pub client: ClientAddr,
    /// The port that the listener is reached at, for links and redirects.
    pub local_port: u16,
    /// Server name indication (RFC 6066, section 3), normalised; absent when the client sent none.
    pub server_name: Option<Host>,
    /// DER of the client's end-entity certificate, after its chain was verified.
    pub client_certificate: Option<Arc<[u8]>>,
}
