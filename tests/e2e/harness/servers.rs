//! Real servers as upstreams, and a few that misbehave.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{HeaderMap, HeaderValue, Response};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{broadcast, mpsc};
use tokio_tungstenite::tungstenite::Message;

use super::port::Port;
use super::process::Process;
use super::raw::find;
use super::wait::eventually;

/// nginx with a folder of static files.
pub struct Nginx {
    _process: Process,
    _port: Port,
    pub url: String,
    pub folder: TempDir,
}

impl Nginx {
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        fs::create_dir(root.join("www")).unwrap();
        let port = Port::reserve();
        let config = format!(
            "daemon off; worker_processes 1; pid {0}/pid; error_log stderr;
             events {{}}
             http {{ access_log off; client_max_body_size 0;
               client_body_temp_path {0}/body; proxy_temp_path {0}/proxy;
               fastcgi_temp_path {0}/fastcgi; uwsgi_temp_path {0}/uwsgi; scgi_temp_path {0}/scgi;
               server {{ listen {1} reuseport; root {0}/www; }} }}",
            root.display(),
            port.address()
        );
        fs::write(root.join("nginx.conf"), config).unwrap();
        let mut command = Command::new("nginx");
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{path}:/usr/sbin"));
        command.arg("-p").arg(root).arg("-c").arg(root.join("nginx.conf"));
        let mut process = Process::spawn("nginx", &mut command);
        let address = port.address();
        eventually("nginx to listen", async || {
            assert!(process.exited().is_none(), "nginx ended: {}", process.output().join("\n"));
            TcpStream::connect(address).await.ok()
        })
        .await;
        Self { _process: process, _port: port, url: format!("http://{address}"), folder }
    }

    pub fn file(&self, name: &str, content: &[u8]) {
        fs::write(self.folder.path().join("www").join(name), content).unwrap();
    }
}

/// Python's own server: HTTP/1.0, closes after each answer.
pub struct Legacy {
    _process: Process,
    pub url: String,
}

impl Legacy {
    pub async fn start(folder: &Path) -> Self {
        let mut command = Command::new("python3");
        command.args(["-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory"]);
        let mut process = Process::spawn("python's http.server", command.arg(folder));
        let port: u16 = process
            .line("its port", |line| {
                line.strip_prefix("Serving HTTP on 127.0.0.1 port ")?
                    .split(' ')
                    .next()?
                    .parse()
                    .ok()
            })
            .await;
        Self { _process: process, url: format!("http://127.0.0.1:{port}") }
    }
}

/// Sends every WebSocket message back, and tells of each, and of each connection that ends.
pub struct Echo {
    pub url: String,
    pub heard: mpsc::UnboundedReceiver<Heard>,
    told: Arc<Mutex<Option<(u16, String)>>>,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Heard {
    Opened,
    Text(String),
    Ended,
}

impl Echo {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (tell, heard) = mpsc::unbounded_channel();
        let told: Arc<Mutex<Option<(u16, String)>>> = Arc::default();
        let closes = Arc::clone(&told);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (tell, closes) = (tell.clone(), Arc::clone(&closes));
                tokio::spawn(async move {
                    let Ok(mut socket) = tokio_tungstenite::accept_async(stream).await else {
                        return;
                    };
                    let _ = tell.send(Heard::Opened);
                    while let Some(Ok(message)) = socket.next().await {
                        if let Message::Close(frame) = &message {
                            let frame = frame.as_ref();
                            *closes.lock().unwrap() =
                                frame.map(|frame| (frame.code.into(), frame.reason.to_string()));
                        }
                        if let Ok(text) = message.to_text()
                            && message.is_text()
                        {
                            let _ = tell.send(Heard::Text(text.to_owned()));
                        }
                        if (message.is_text() || message.is_binary())
                            && socket.send(message).await.is_err()
                        {
                            break;
                        }
                    }
                    let _ = tell.send(Heard::Ended);
                });
            }
        });
        Self { url, heard, told }
    }

    /// Code and reason of the last close frame that came. One is here before [`Heard::Ended`].
    pub fn told(&self) -> Option<(u16, String)> {
        self.told.lock().unwrap().clone()
    }

    /// The next thing that happened.
    pub async fn next(&mut self) -> Heard {
        super::within("the WebSocket upstream", self.heard.recv()).await.unwrap()
    }
}

/// An event stream that a test feeds by hand.
pub struct Events {
    pub url: String,
    feed: broadcast::Sender<String>,
}

impl Events {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (feed, _) = broadcast::channel::<String>(16);
        let source = feed.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut events = source.subscribe();
                tokio::spawn(async move {
                    let mut head = Vec::new();
                    let mut buffer = [0; 4096];
                    while find(&head, b"\r\n\r\n").is_none() {
                        match stream.read(&mut buffer).await {
                            Ok(0) | Err(_) => return,
                            Ok(count) => head.extend_from_slice(&buffer[..count]),
                        }
                    }
                    let start = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\
                                 transfer-encoding: chunked\r\n\r\n9\r\n: hello\n\n\r\n";
                    let mut sent = stream.write_all(start.as_bytes()).await;
                    while let (Ok(()), Ok(event)) = (&sent, events.recv().await) {
                        let event = format!("data: {event}\n\n");
                        let chunk = format!("{:x}\r\n{event}\r\n", event.len());
                        sent = stream.write_all(chunk.as_bytes()).await;
                    }
                });
            }
        });
        Self { url, feed }
    }

    pub fn send(&self, event: &str) {
        self.feed.send(event.to_owned()).expect("somebody listens");
    }
}

/// HTTP/2 with prior knowledge: sends the request's body back, then gRPC's trailers.
pub async fn grpc() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let Ok(mut connection) = h2::server::handshake(stream).await else { return };
                while let Some(Ok((request, respond))) = connection.accept().await {
                    tokio::spawn(answer_grpc(request, respond));
                }
            });
        }
    });
    format!("http://{address}")
}

async fn answer_grpc(
    request: http::Request<h2::RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
) -> Option<()> {
    let te = request.headers().get("te").cloned();
    let mut body = request.into_body();
    let response = Response::builder().header("content-type", "application/grpc").body(()).ok()?;
    let mut stream = respond.send_response(response, false).ok()?;
    while let Some(Ok(chunk)) = body.data().await {
        let _ = body.flow_control().release_capacity(chunk.len());
        stream.send_data(chunk, false).ok()?;
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    if let Some(te) = te {
        trailers.insert("x-te", te);
    }
    stream.send_trailers(trailers).ok()
}

/// HTTP/2 with prior knowledge: tells in a header which trailers the request had, and sends some
/// that an upstream has no business with.
pub async fn trailing() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let Ok(mut connection) = h2::server::handshake(stream).await else { return };
                while let Some(Ok((request, respond))) = connection.accept().await {
                    tokio::spawn(answer_with_trailers(request, respond));
                }
            });
        }
    });
    format!("http://{address}")
}

async fn answer_with_trailers(
    request: http::Request<h2::RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
) -> Option<()> {
    let mut body = request.into_body();
    while let Some(Ok(chunk)) = body.data().await {
        let _ = body.flow_control().release_capacity(chunk.len());
    }
    let seen = body.trailers().await.ok()?.unwrap_or_default();
    let mut names: Vec<&str> = seen.keys().map(|name| name.as_str()).collect();
    names.sort_unstable();
    let response = Response::builder().header("x-seen", names.join(" ")).body(()).ok()?;
    let mut stream = respond.send_response(response, false).ok()?;
    stream.send_data(Bytes::from_static(b"ok"), false).ok()?;
    let mut trailers = HeaderMap::new();
    for name in ["set-cookie", "x-wicketgate-user", "x-sum"] {
        trailers.insert(name, HeaderValue::from_static("__Host-wicketgate=1"));
    }
    stream.send_trailers(trailers).ok()
}

/// Answers as soon as it has a head, whatever of the body is still to come, and keeps what came on
/// each connection.
pub struct Early {
    pub url: String,
    connections: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Early {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let connections: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
        let kept = Arc::clone(&connections);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let kept = Arc::clone(&kept);
                tokio::spawn(async move {
                    let index = {
                        let mut kept = kept.lock().unwrap();
                        kept.push(Vec::new());
                        kept.len() - 1
                    };
                    let mut answered = false;
                    let mut buffer = [0; 4096];
                    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                        let whole = {
                            let mut kept = kept.lock().unwrap();
                            kept[index].extend_from_slice(&buffer[..count]);
                            find(&kept[index], b"\r\n\r\n").is_some()
                        };
                        // A request without a body is whole, and its connection used again.
                        if whole && (!answered || buffer.starts_with(b"GET ")) {
                            answered = true;
                            let _ = stream.write_all(super::recorder::OK.as_bytes()).await;
                        }
                    }
                });
            }
        });
        Self { url, connections }
    }

    /// What came on each connection up to now.
    pub fn connections(&self) -> Vec<String> {
        let connections = self.connections.lock().unwrap();
        connections.iter().map(|bytes| String::from_utf8_lossy(bytes).into_owned()).collect()
    }
}

/// Sends without end, and tells when it is hung up on.
pub struct Flood {
    pub url: String,
    hung_up: mpsc::UnboundedReceiver<()>,
}

impl Flood {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (tell, hung_up) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let tell = tell.clone();
                tokio::spawn(async move {
                    let _ = stream.read(&mut [0; 4096]).await;
                    let start = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
                    let mut sent = stream.write_all(start.as_bytes()).await;
                    let chunk = format!("1000\r\n{}\r\n", "x".repeat(0x1000));
                    while sent.is_ok() {
                        sent = stream.write_all(chunk.as_bytes()).await;
                    }
                    let _ = tell.send(());
                });
            }
        });
        Self { url, hung_up }
    }

    pub async fn hung_up(&mut self) {
        super::within("the upstream to be hung up on", self.hung_up.recv()).await.unwrap();
    }
}

/// Accepts and says nothing.
pub async fn silent() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            held.push(stream);
        }
    });
    address
}
