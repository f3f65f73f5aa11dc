//! Connections from an address of one's choice: all of 127.0.0.0/8 is this machine.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;

use super::gate::{Gate, HOST};
use super::raw::Raw;
use super::wait::within;

/// A TCP connection to the gate from `127.0.0.LAST`, with nothing sent yet.
pub async fn call(gate: &Gate, last: u8) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), 0))).unwrap();
    let stream = socket.connect(gate.address()).await.unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Sends these bytes, then does TLS. `None` when the gate closes instead.
pub async fn call_with(gate: &Gate, last: u8, first: &[u8]) -> Option<Raw> {
    let mut stream = call(gate, last).await;
    stream.write_all(first).await.ok()?;
    let name = ServerName::try_from(HOST).unwrap();
    let tls = TlsConnector::from(Arc::clone(&gate.client_tls()));
    let tls = within("a handshake or its end", tls.connect(name, stream)).await.ok()?;
    Some(Raw::over(Box::new(tls)))
}

/// Whether the gate closes the connection without a word.
pub async fn is_hung_up(stream: &mut TcpStream) -> bool {
    within("the end of the connection", async {
        let mut byte = [0];
        !matches!(stream.read(&mut byte).await, Ok(count) if count > 0)
    })
    .await
}
