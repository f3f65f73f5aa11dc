//! How an HTTP/2 connection ends, frame by frame, for a client that has not heard of it yet.

use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::harness::client::authority;
use crate::harness::frames::{
    ACK, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, PREFACE, SETTINGS, WINDOW_UPDATE,
    frame,
};
use crate::harness::gate::HOST;
use crate::harness::pki::client_config;
use crate::harness::{Browser, Gate, Recorder, eventually, within};

/// In bytes: less than the gate's kernel takes of it at once...
const LARGE: usize = 1024 * 1024;
/// ... so that most of the answer is there still when the gate has nothing more to say.
const RECEIVES: u32 = 16 * 1024;

struct Frame {
    kind: u8,
    flags: u8,
    payload: Vec<u8>,
}

struct Client {
    wire: TlsStream<TcpStream>,
}

impl Client {
    /// Asks for the page, and takes nothing of the answer but its head for now.
    async fn ask(gate: &Gate, signed_in: &Browser) -> Self {
        let url = signed_in.url("/");
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(RECEIVES).unwrap();
        let tcp = socket.connect(gate.address()).await.unwrap();
        tcp.set_nodelay(true).unwrap();
        let tls = TlsConnector::from(client_config(&gate.authority, None, &["h2"]));
        let tls = tls.connect(ServerName::try_from(HOST).unwrap(), tcp).await.unwrap();
        let mut client = Self { wire: tls };
        client.wire.write_all(PREFACE).await.unwrap();
        let no_window = [0, 4, 0, 0, 0, 0];
        client.send(SETTINGS, 0, 0, &no_window).await.unwrap();
        client.grant(0, 1 << 30).await.unwrap();
        // GET, https and `/`, then literals: the authority and, never indexed, the cookie (RFC 7541).
        let head = [
            &[0x82, 0x87, 0x84, 0x41][..],
            &text(&authority(&url)),
            &[0x1f, 32 - 15],
            &text(&signed_in.cookies_for(&url)),
        ];
        client.send(HEADERS, END_STREAM | END_HEADERS, 1, &head.concat()).await.unwrap();
        client.until("the head of the answer", |frame| frame.kind == HEADERS).await;
        client
    }

    async fn send(
        &mut self,
        kind: u8,
        flags: u8,
        stream: u32,
        payload: &[u8],
    ) -> std::io::Result<()> {
        self.wire.write_all(&frame(kind, flags, stream, payload)).await?;
        self.wire.flush().await
    }

    async fn grant(&mut self, stream: u32, bytes: u32) -> std::io::Result<()> {
        self.send(WINDOW_UPDATE, 0, stream, &bytes.to_be_bytes()).await
    }

    /// `None`: the gate has closed its side.
    async fn next(&mut self) -> std::io::Result<Option<Frame>> {
        let mut head = [0; 9];
        if self.wire.read(&mut head[..1]).await? == 0 {
            return Ok(None);
        }
        self.wire.read_exact(&mut head[1..]).await?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        self.wire.read_exact(&mut payload).await?;
        Ok(Some(Frame { kind: head[3], flags: head[4], payload }))
    }

    /// Reads on, answering pings.
    async fn until(&mut self, what: &str, is_it: impl Fn(&Frame) -> bool) {
        within(what, async {
            loop {
                let frame = self.next().await.unwrap().expect(what);
                if is_it(&frame) {
                    return;
                }
                if frame.kind == PING && frame.flags == 0 {
                    self.send(PING, ACK, 0, &frame.payload).await.unwrap();
                }
            }
        })
        .await;
    }

    /// Has the gate know that nothing is on its way when it has said goodbye.
    async fn hears_goodbye(&mut self) {
        self.until("the goodbye", |frame| frame.kind == GOAWAY).await;
        self.until("the last stream", |frame| frame.kind == GOAWAY).await;
    }

    /// Takes the answer, and grants what it takes as clients do. How much came.
    async fn take(&mut self) -> std::io::Result<usize> {
        self.grant(1, 1 << 30).await?;
        let (mut came, mut whole) = (0, false);
        while let Some(frame) = self.next().await? {
            if frame.kind == DATA {
                came += frame.payload.len();
                whole |= frame.flags & END_STREAM != 0;
                let bytes = u32::try_from(frame.payload.len().max(1)).unwrap();
                self.grant(0, bytes).await?;
            }
        }
        assert!(whole, "the end came after {came} bytes");
        Ok(came)
    }
}

/// A literal as it is (RFC 7541, section 5.2).
fn text(text: &str) -> Vec<u8> {
    let mut literal = Vec::new();
    match text.len().checked_sub(0x7f) {
        None => literal.push(u8::try_from(text.len()).unwrap()),
        Some(mut rest) => {
            literal.push(0x7f);
            while rest >= 0x80 {
                literal.push(0x80 | u8::try_from(rest & 0x7f).unwrap());
                rest >>= 7;
            }
            literal.push(u8::try_from(rest).unwrap());
        }
    }
    literal.extend(text.bytes());
    literal
}

/// A gate that has been told to stop while a client has a large answer before it.
async fn stopping() -> (Gate, Client) {
    let body = "x".repeat(LARGE);
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {LARGE}\r\n\r\n{body}");
    let upstream = Recorder::answering(&answer).await;
    let gate = Gate::with_upstream(&upstream).start().await;
    let vera = gate.login("vera").await;
    let mut client = Client::ask(&gate, &vera).await;
    gate.process.signal("TERM");
    client.hears_goodbye().await;
    (gate, client)
}

async fn ended(gate: &mut Gate) {
    let status = eventually("the end of the gate", async || gate.process.exited()).await;
    assert!(status.success(), "{status}");
    gate.assert_audit_verifies();
}

#[tokio::test]
async fn the_last_answer_arrives_whole_although_its_client_goes_on_sending() {
    let (mut gate, mut client) = stopping().await;
    let came = within("the answer", client.take()).await;
    assert_eq!(came.expect("no reset"), LARGE);
    drop(client);
    ended(&mut gate).await;
}

#[tokio::test]
async fn a_client_that_never_closes_its_side_does_not_use_up_the_time_for_a_stop() {
    let (mut gate, mut client) = stopping().await;
    within("the answer", client.take()).await.unwrap();
    ended(&mut gate).await;
    let said = gate.process.output().join("\n");
    assert!(!said.contains("still open at the end of the grace period"), "{said}");
    drop(client);
}
