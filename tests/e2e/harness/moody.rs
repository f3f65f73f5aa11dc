//! A server that behaves as the test says, and can be told something else while it runs.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use super::port::Port;
use super::raw::find;
use super::recorder::OK;

/// What a request is answered with.
#[derive(Clone, Copy, Debug)]
pub enum Mood {
    Well,
    /// An empty answer with this status.
    Status(u16),
    /// These bytes, and the connection stays open.
    Says(&'static str),
    /// These bytes, and then the end of the connection.
    EndsAfter(&'static str),
}

pub struct Moody {
    port: Port,
    world: Arc<Mutex<World>>,
    serving: Option<JoinHandle<()>>,
}

struct World {
    mood: Mood,
    /// The first line of every request that was read whole.
    lines: Vec<String>,
}

impl Moody {
    pub async fn start() -> Self {
        let world = Arc::new(Mutex::new(World { mood: Mood::Well, lines: Vec::new() }));
        let mut moody = Self { port: Port::reserve(), world, serving: None };
        moody.up();
        moody
    }

    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    pub fn set(&self, mood: Mood) {
        self.world.lock().unwrap().mood = mood;
    }

    /// From now on connections are refused; open ones have ended when this returns.
    pub async fn down(&mut self) {
        if let Some(serving) = self.serving.take() {
            serving.abort();
            let _ = serving.await;
        }
    }

    pub fn up(&mut self) {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_reuse_port(true).unwrap();
        socket.bind(&self.address().into()).unwrap();
        socket.listen(64).unwrap();
        socket.set_nonblocking(true).unwrap();
        let listener = TcpListener::from_std(socket.into()).unwrap();
        let world = Arc::clone(&self.world);
        self.serving = Some(tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(converse(stream, Arc::clone(&world)));
            }
        }));
    }

    /// The first lines of the requests up to now that hold this text.
    pub fn lines(&self, text: &str) -> Vec<String> {
        let world = self.world.lock().unwrap();
        world.lines.iter().filter(|line| line.contains(text)).cloned().collect()
    }
}

async fn converse(mut stream: TcpStream, world: Arc<Mutex<World>>) {
    let mut pending = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        while let Some((line, length)) = request(&pending) {
            pending.drain(..length);
            let mood = {
                let mut world = world.lock().unwrap();
                world.lines.push(line);
                world.mood
            };
            let (answer, last) = match mood {
                Mood::Well => (OK.to_owned(), false),
                Mood::Status(status) => {
                    (format!("HTTP/1.1 {status} Moody\r\ncontent-length: 0\r\n\r\n"), false)
                }
                Mood::Says(text) => (text.to_owned(), false),
                Mood::EndsAfter(text) => (text.to_owned(), true),
            };
            if stream.write_all(answer.as_bytes()).await.is_err() || last {
                return;
            }
        }
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(count) => pending.extend_from_slice(&buffer[..count]),
        }
    }
}

/// The first line of the first whole request, and its length. Bodies have a `content-length`.
fn request(bytes: &[u8]) -> Option<(String, usize)> {
    let end = find(bytes, b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let whole = end + length.map_or(0, |length| length.trim().parse::<usize>().unwrap());
    let line = String::from_utf8_lossy(bytes).lines().next()?.to_owned();
    (bytes.len() >= whole).then_some((line, whole))
}
