//! Who comes in: everything that is settled about a connection before its first byte of TLS.
//!
//! In this order: who is at the other end (the PROXY protocol header, where the peer has to send
//! one), whether a connection from there is wanted, and whether that address has one left. Whoever
//! is refused is closed without a word: there is no protocol yet to say one in.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use super::proxy_protocol::{MAX_LENGTH, Malformed, parse};
use super::seats::{Seat, Seats};
use crate::config::model::ProxyProtocol;
use crate::domain::connection::{SourceAddr, SourceRules};

/// Why a connection was closed before it began.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    #[error("the listener has as many connections as it may have")]
    Limit,
    #[error("its address has as many connections as one may have")]
    AddressLimit,
    #[error("its address is not among those that may connect")]
    Source,
    #[error("it did not come through the proxy")]
    NotProxied,
    #[error("{0}")]
    ProxyHeader(#[from] Malformed),
    #[error("the PROXY protocol header did not come: {0}")]
    NoProxyHeader(io::Error),
    #[error("newer TLS handshakes needed its room")]
    Handshake,
    #[error("the process has no file descriptor left for it")]
    Descriptors,
    #[error("memory is short")]
    Memory,
}

impl Refused {
    /// A fixed word for metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Limit => "limit",
            Self::AddressLimit => "address-limit",
            Self::Source => "source",
            Self::NotProxied => "not-proxied",
            Self::ProxyHeader(_) | Self::NoProxyHeader(_) => "proxy-header",
            Self::Handshake => "handshakes",
            Self::Memory => "memory",
            Self::Descriptors => "descriptors",
        }
    }
}

/// A connection that may begin.
#[derive(Debug)]
pub struct Entry {
    pub source: SourceAddr,
    /// Its part of what the address may have; held for as long as it lasts.
    pub seat: Option<Seat>,
}

/// Lets a connection in, or says why not. The caller sets the deadline.
///
/// # Errors
/// [`Refused`]; the connection is to be closed.
pub async fn enter(
    stream: &mut TcpStream,
    peer: SocketAddr,
    proxy_protocol: Option<&ProxyProtocol>,
    rules: &SourceRules,
    seats: &Arc<Seats>,
) -> Result<Entry, Refused> {
    let source = match proxy_protocol {
        None => own(peer),
        Some(proxy) if proxy.trusted.contains(peer.ip()) => {
            Box::pin(read_header(stream)).await?.map_or(own(peer), own)
        }
        Some(proxy) if proxy.serves_others => own(peer),
        Some(_) => return Err(Refused::NotProxied),
    };
    if !rules.admits(source) {
        return Err(Refused::Source);
    }
    // A proxy's connections carry many clients.
    if rules.trusted_proxies.contains(source.0) {
        return Ok(Entry { source, seat: None });
    }
    let seat = seats.take(source).ok_or(Refused::AddressLimit)?;
    Ok(Entry { source, seat: Some(seat) })
}

fn own(address: SocketAddr) -> SourceAddr {
    SourceAddr(address.ip().to_canonical())
}

/// Takes the header off the stream, and not one byte more: it is looked at where it lies, and read
/// once it is known to be the header's.
async fn read_header(stream: &mut TcpStream) -> Result<Option<SocketAddr>, Refused> {
    let mut bytes = vec![0; MAX_LENGTH];
    let mut taken = 0;
    loop {
        let room = bytes.get_mut(taken..).unwrap_or_default();
        let waiting = stream.peek(room).await.map_err(Refused::NoProxyHeader)?;
        if waiting == 0 {
            return Err(Refused::NoProxyHeader(io::ErrorKind::UnexpectedEof.into()));
        }
        let header = parse(bytes.get(..taken + waiting).unwrap_or_default())?;
        let end = header.map_or(taken + waiting, |header| header.length);
        let part = bytes.get_mut(taken..end).unwrap_or_default();
        stream.read_exact(part).await.map_err(Refused::NoProxyHeader)?;
        taken = end;
        if let Some(header) = header {
            return Ok(header.source);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::network::{Networks, network};
    use std::time::Duration;
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    const LINE: &[u8] = b"PROXY TCP4 192.0.2.7 10.0.0.1 50000 443\r\n";

    fn networks(texts: &[&str]) -> Networks {
        texts.iter().map(|text| network(text).unwrap()).collect()
    }

    fn proxied(trusted: &str, serves_others: bool) -> ProxyProtocol {
        ProxyProtocol { trusted: networks(&[trusted]), serves_others }
    }

    /// Both ends of a connection over the loopback interface.
    async fn pair() -> (TcpStream, TcpStream, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        client.set_nodelay(true).unwrap();
        let (server, peer) = listener.accept().await.unwrap();
        (client, server, peer)
    }

    /// The source that these pieces make, and all that is left to read after them.
    async fn enters(
        pieces: &[&[u8]],
        proxy: Option<&ProxyProtocol>,
        rules: &SourceRules,
    ) -> Result<(String, Vec<u8>), Refused> {
        let (mut client, mut server, peer) = pair().await;
        let send = async {
            for piece in pieces {
                client.write_all(piece).await.unwrap();
                // Another segment, most likely; the outcome must not depend on it.
                tokio::task::yield_now().await;
            }
            client.shutdown().await.unwrap();
        };
        let seats = Seats::new(1);
        let (entry, ()) = tokio::join!(enter(&mut server, peer, proxy, rules, &seats), send);
        let mut rest = Vec::new();
        let entry = entry?;
        server.read_to_end(&mut rest).await.unwrap();
        Ok((entry.source.0.to_string(), rest))
    }

    #[tokio::test]
    async fn a_header_is_read_whole_and_nothing_after_it_however_it_arrives() {
        let (proxy, rules) = (proxied("127.0.0.0/8", false), SourceRules::default());
        let all = [LINE, b"\x16\x03\x01"].concat();
        let single: Vec<&[u8]> = all.chunks(1).collect();
        for pieces in [&[&all[..]][..], &[LINE, b"\x16\x03\x01"], &single, &[&all[..9], &all[9..]]]
        {
            let (source, rest) = enters(pieces, Some(&proxy), &rules).await.unwrap();
            assert_eq!(source, "192.0.2.7");
            assert_eq!(rest, b"\x16\x03\x01");
        }
        let local = [&b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"[..], b"after"].concat();
        let (source, rest) = enters(&[&local], Some(&proxy), &rules).await.unwrap();
        assert_eq!((source.as_str(), &rest[..]), ("127.0.0.1", &b"after"[..]));
    }

    #[tokio::test]
    async fn a_trusted_peer_has_to_send_a_header_and_nobody_elses_is_read() {
        let rules = SourceRules::default();
        let trusted = proxied("127.0.0.0/8", true);
        for bytes in [&b"\x16\x03\x01"[..], b"PROXY NONSENSE\r\n", b"PROXY TCP4 192.0.2", b""] {
            let refused = enters(&[bytes], Some(&trusted), &rules).await.unwrap_err();
            assert_eq!(refused.reason(), "proxy-header", "{refused}");
        }
        let others = proxied("192.0.2.0/24", true);
        let (source, rest) = enters(&[LINE], Some(&others), &rules).await.unwrap();
        assert_eq!((source.as_str(), &rest[..]), ("127.0.0.1", LINE), "as itself");
        let refused = enters(&[LINE], Some(&proxied("192.0.2.0/24", false)), &rules).await;
        assert_eq!(refused.unwrap_err().reason(), "not-proxied");
        let (source, rest) = enters(&[LINE], None, &rules).await.unwrap();
        assert_eq!((source.as_str(), &rest[..]), ("127.0.0.1", LINE), "where none is asked for");
    }

    #[tokio::test]
    async fn the_rules_are_about_the_address_in_the_header() {
        let proxy = proxied("127.0.0.0/8", false);
        for (allowed, trusted, good) in [
            (&["192.0.2.0/24"][..], &[][..], true),
            (&["127.0.0.0/8"], &[], false),
            (&["198.51.100.0/24"], &["192.0.2.7"], true),
            (&["198.51.100.0/24"], &["127.0.0.1"], false),
        ] {
            let rules = SourceRules {
                trusted_proxies: networks(trusted),
                allow_from: Some(networks(allowed)),
            };
            let entered = enters(&[LINE], Some(&proxy), &rules).await;
            assert_eq!(entered.is_ok(), good, "{rules:?} {entered:?}");
            if let Err(refused) = entered {
                assert_eq!(refused.reason(), "source");
            }
        }
    }

    #[tokio::test]
    async fn one_address_has_so_many_seats_and_a_trusted_proxy_any_number() {
        let seats = Seats::new(1);
        let (_client, mut server, peer) = pair().await;
        let rules = SourceRules::default();
        let first = enter(&mut server, peer, None, &rules, &seats).await.unwrap();
        let refused = enter(&mut server, peer, None, &rules, &seats).await.unwrap_err();
        assert_eq!(refused.reason(), "address-limit");
        let proxies = SourceRules { trusted_proxies: networks(&["127.0.0.1"]), allow_from: None };
        assert!(enter(&mut server, peer, None, &proxies, &seats).await.is_ok());
        drop(first);
        assert!(enter(&mut server, peer, None, &rules, &seats).await.is_ok());
    }

    #[tokio::test]
    async fn an_unfinished_header_is_waited_for_without_spinning() {
        let (mut client, mut server, peer) = pair().await;
        let proxy = proxied("127.0.0.0/8", false);
        client.write_all(&LINE[..20]).await.unwrap();
        let (rules, seats) = (SourceRules::default(), Seats::new(1));
        let mut polls = 0;
        let entering = enter(&mut server, peer, Some(&proxy), &rules, &seats);
        let mut entering = std::pin::pin!(entering);
        let counted = std::future::poll_fn(|cx| {
            polls += 1;
            entering.as_mut().poll(cx)
        });
        assert!(tokio::time::timeout(Duration::from_millis(50), counted).await.is_err());
        assert!(polls < 10, "{polls}");
    }
}
