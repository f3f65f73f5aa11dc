//! What is known of a client's connection before its first request.
//!
//! Three addresses, each of a type of its own: the [peer](PeerAddr) that the socket names, the
//! [source](SourceAddr) that a PROXY protocol header put in its place, and the
//! [client](ClientAddr), which only a request knows, because trusted proxies carry the requests of
//! many clients on one connection. What is decided, limited, recorded or forwarded uses the last.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::canonical::Host;
use super::network::Networks;

/// The address at the other end of the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PeerAddr(pub SocketAddr);

/// The address that the connection comes from: the peer's own, or the one that a trusted peer gave
/// in a PROXY protocol header. IPv4 is never written as IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SourceAddr(pub IpAddr);

/// The address that a request comes from: the connection's source, or the one that trusted proxies
/// say. The pipeline finds it (`pipeline::source`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClientAddr(pub IpAddr);

/// What a listener makes of addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceRules {
    /// Whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Networks,
    /// Who may connect; everybody where it is absent. Of a trusted proxy's requests, their client.
    pub allow_from: Option<Networks>,
}

impl SourceRules {
    /// Whether a client at this address may use the listener.
    pub fn allows(&self, client: ClientAddr) -> bool {
        self.allow_from.as_ref().is_none_or(|allowed| allowed.contains(client.0))
    }

    /// Whether a connection from this address may be opened: whose requests it carries is known
    /// later where it is a trusted proxy's.
    pub fn admits(&self, source: SourceAddr) -> bool {
        self.allows(ClientAddr(source.0)) || self.trusted_proxies.contains(source.0)
    }
}

/// Facts about a TLS connection.
#[derive(Clone, Debug)]
pub struct Connection {
    pub listener: Arc<str>,
    pub peer: PeerAddr,
    pub source: SourceAddr,
    pub rules: Arc<SourceRules>,
    /// The port that the listener is reached at, for links and redirects.
    pub local_port: u16,
    /// Server name indication (RFC 6066, section 3), normalised; absent when the client sent none.
    pub server_name: Option<Host>,
    /// DER of the client's end-entity certificate, after its chain was verified.
    pub client_certificate: Option<Arc<[u8]>>,
}
