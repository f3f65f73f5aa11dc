//! An upstream that keeps every byte that reached it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::pki::Identity;
use super::raw::find;

pub const OK: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 2\r\n\r\nok";

#[derive(Clone)]
pub struct Recorder {
    pub address: SocketAddr,
    log: Arc<Mutex<Log>>,
}

#[derive(Default)]
struct Log {
    bytes: Vec<u8>,
    requests: Vec<Recorded>,
}

#[derive(Clone, Debug)]
pub struct Recorded {
    /// Request line and header lines, as received.
    pub head: String,
    /// As received: chunked bodies with their chunk sizes.
    pub body: Vec<u8>,
}

impl Recorded {
    pub fn line(&self) -> &str {
        self.head.lines().next().unwrap_or_default()
    }

    /// All values of a header, in order.
    pub fn values(&self, name: &str) -> Vec<&str> {
        let fits = |line: &&str| {
            line.split_once(':').is_some_and(|(own, _)| own.eq_ignore_ascii_case(name))
        };
        let lines = self.head.lines().skip(1).filter(fits);
        lines.filter_map(|line| Some(line.split_once(':')?.1.trim())).collect()
    }

    pub fn value(&self, name: &str) -> Option<&str> {
        let values = self.values(name);
        assert!(values.len() < 2, "{name} came {} times: {self:?}", values.len());
        values.first().copied()
    }
}

impl Recorder {
    pub async fn start() -> Self {
        Self::answering(OK).await
    }

    /// Answers every request with these bytes; nothing at all when they are empty.
    pub async fn answering(response: &str) -> Self {
        Self::serve(response, None).await
    }

    /// The same over TLS.
    pub async fn tls(identity: &Identity) -> Self {
        let acceptor = TlsAcceptor::from(identity.server_config(&["http/1.1"]));
        Self::serve(OK, Some(acceptor)).await
    }

    async fn serve(response: &str, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let log = Arc::new(Mutex::new(Log::default()));
        let (kept, response) = (Arc::clone(&log), response.as_bytes().to_vec());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (log, response, tls) = (Arc::clone(&kept), response.clone(), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => converse(stream, &response, &log).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                converse(stream, &response, &log).await;
                            }
                        }
                    }
                });
            }
        });
        Self { address, log }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Every byte on every connection, in the order of arrival.
    pub fn bytes(&self) -> Vec<u8> {
        self.log.lock().unwrap().bytes.clone()
    }

    pub fn requests(&self) -> Vec<Recorded> {
        self.log.lock().unwrap().requests.clone()
    }

    #[track_caller]
    pub fn last(&self) -> Recorded {
        self.requests().pop().expect("a request reached the upstream")
    }
}

async fn converse(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    response: &[u8],
    log: &Mutex<Log>,
) {
    let mut pending = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        while let Some((request, length)) = parse(&pending) {
            pending.drain(..length);
            let is_head = request.head.starts_with("HEAD ");
            log.lock().unwrap().requests.push(request);
            let end = find(response, b"\r\n\r\n").map_or(response.len(), |at| at + 4);
            let reply = if is_head { &response[..end] } else { response };
            if stream.write_all(reply).await.is_err() || stream.flush().await.is_err() {
                return;
            }
        }
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(count) => {
                log.lock().unwrap().bytes.extend_from_slice(&buffer[..count]);
                pending.extend_from_slice(&buffer[..count]);
            }
        }
    }
}

/// The first whole request in `bytes` and its length.
fn parse(bytes: &[u8]) -> Option<(Recorded, usize)> {
    let body_start = find(bytes, b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&bytes[..body_start]).into_owned();
    let mut request = Recorded { head, body: Vec::new() };
    let rest = &bytes[body_start..];
    let length = if request.value("transfer-encoding").is_some() {
        if rest.starts_with(b"0\r\n\r\n") { 5 } else { find(rest, b"\r\n0\r\n\r\n")? + 7 }
    } else {
        request.value("content-length").map_or(0, |value| value.parse().unwrap())
    };
    request.body = rest.get(..length)?.to_vec();
    Some((request, body_start + length))
}
