//! The end of a connection whose client may still be sending.
//!
//! A socket that is closed with bytes unread, or that gets some after it was closed, answers with a
//! reset, and that throws away whatever of the last answer is still on its way (RFC 9112, section 9.6;
//! RFC 2525, section 2.17). Over HTTP/2 that is nothing unusual: a client goes on granting windows and
//! answering pings while it reads, and after a GOAWAY it may have asked for more already. So the
//! writing side is shut first, and what comes is thrown away until the client has closed its own, for
//! no longer than [`CLOSING`] and no more than [`BYTES`].
//!
//! Over HTTP/2, whoever makes a flood or breaks the protocol isn't waited for: that is for the caller
//! to know.
//!
//! INVARIANT: what lingers is a socket and no more. Of TLS and HTTP nothing is left, and nothing that
//! arrives is kept, so that there is no need to stop while memory is short.

use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};
use tokio::net::TcpStream;

use super::activity::CLOSING;
use crate::tls::TlsStream;

/// What is thrown away at most, in bytes: more than a route takes by default, so that whoever sends
/// a file that is a little too large still reads why.
pub(super) const BYTES: usize = 16 * 1024 * 1024;

/// What is thrown away at a time, in bytes.
const SINK: usize = 16 * 1024;

/// What has a socket below everything that is made of its bytes.
pub trait Bare {
    type Socket: AsyncRead + Unpin + Send;

    fn bare(self) -> Self::Socket;

    /// What is written from here on leaves together with the end of the writing side.
    fn ends(&self) {}
}

impl Bare for TcpStream {
    type Socket = Self;

    fn bare(self) -> Self {
        self
    }
}

/// A pipe, in tests and under a fuzzer.
impl Bare for DuplexStream {
    type Socket = Self;

    fn bare(self) -> Self {
        self
    }
}

impl Bare for Box<TlsStream> {
    type Socket = TcpStream;

    fn bare(self) -> TcpStream {
        let (socket, _) = (*self).into_inner();
        socket.into_inner().into_inner()
    }

    /// `close_notify` (RFC 8446, section 6.1) and the end of the connection are one packet instead of
    /// two, each of which the client would be woken for.
    fn ends(&self) {
        let socket = self.get_ref().0.get_ref().get_ref();
        // Where it can't be had they are two.
        let _ = rustix::net::sockopt::set_tcp_cork(socket, true);
    }
}

/// Shuts the writing side, hears the client out and closes.
pub(super) async fn linger<T: AsyncWrite + Bare + Unpin>(mut io: T) {
    let hear = async {
        if io.shutdown().await.is_err() {
            return;
        }
        let mut socket = io.bare();
        let mut left = BYTES;
        std::future::poll_fn(|cx| {
            while left > 0 {
                let mut sink = [const { MaybeUninit::uninit() }; SINK];
                let mut sink = ReadBuf::uninit(&mut sink);
                if ready!(Pin::new(&mut socket).poll_read(cx, &mut sink)).is_err() {
                    break;
                }
                match sink.filled().len() {
                    0 => break,
                    count => left = left.saturating_sub(count),
                }
            }
            Poll::Ready(())
        })
        .await;
    };
    // When the time is up the socket is closed all the same.
    let _ = tokio::time::timeout(CLOSING, hear).await;
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use rustls::{ClientConfig, RootCertStore};
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;
    use tokio_rustls::TlsConnector;

    use super::super::activity::{Activity, Observed};
    use super::super::restraint::Restrained;
    use super::*;
    use crate::config::model::{ListenerTls, TlsVersion};
    use crate::domain::clock::Clock;
    use crate::pem::testing::TestCa;
    use crate::pipeline::pressure::{Level, Pressure};
    use crate::tls::{Acceptor, OwnSecret, ServerTls, Turns, install_provider};

    #[tokio::test]
    async fn the_end_of_tls_and_that_of_the_connection_leave_together() {
        install_provider();
        let ca = TestCa::new();
        let tls = ListenerTls {
            certificates: vec![ca.issue("one", &["localhost"])],
            client_ca: None,
            client_crl: None,
            minimum_version: TlsVersion::Tls12,
            ticket_keys: None,
        };
        let own = Arc::new(OwnSecret::new(Clock::System).unwrap());
        let tls = ServerTls::load(&tls, &Clock::System).unwrap();
        let acceptor = Acceptor::new("public".into(), tls, own);
        let mut roots = RootCertStore::empty();
        roots.add(ca.der.clone()).unwrap();
        let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let connector = TlsConnector::from(Arc::new(config));
        let connecting = connector.connect("localhost".try_into().unwrap(), client);
        let accepting = async {
            let (stream, _) = listener.accept().await.unwrap();
            acceptor.accept(stream, Duration::from_secs(20), &Turns::default()).await.unwrap()
        };
        let (client, (server, _)) = tokio::join!(connecting, accepting);
        let (activity, pressure) = (Activity::new(true), Pressure::default());
        let server = Restrained::new(server, &activity, &pressure);
        let mut server = Observed::new(server, activity);
        server.write_all(b"the last answer").await.unwrap();
        server.shutdown().await.unwrap();
        let mut read = Vec::new();
        // An end without `close_notify` would be an error.
        client.unwrap().read_to_end(&mut read).await.unwrap();
        assert_eq!(read, b"the last answer");
        assert!(rustix::net::sockopt::tcp_cork(server.bare()).unwrap());
    }

    #[tokio::test]
    async fn while_memory_is_short_a_client_is_heard_out_as_ever() {
        for is_http1 in [true, false] {
            let (activity, pressure) = (Activity::new(is_http1), Pressure::default());
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (server, _) = listener.accept().await.unwrap();
            let server = Restrained::new(server, &activity, &pressure);
            let mut server = Observed::new(server, activity);
            server.write_all(b"the last answer").await.unwrap();
            pressure.set(Level::Critical);
            let lingering = tokio::spawn(linger(server));
            // More than fits between the two.
            client.write_all(&vec![0; BYTES - 1]).await.unwrap();
            let mut read = Vec::new();
            client.read_to_end(&mut read).await.unwrap();
            assert_eq!(read, b"the last answer");
            drop(client);
            lingering.await.unwrap();
        }
    }
}
