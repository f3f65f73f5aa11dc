//! A real Valkey or Redis of Debian's, and a way to it that can be cut.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::port;
use super::process::Process;

/// The server that this machine has.
pub fn program(kind: &str) -> String {
    let there = |name: &str| {
        Command::new(name).arg("--version").output().is_ok_and(|output| output.status.success())
    };
    let valkey = format!("valkey-{kind}");
    if there(&valkey) { valkey } else { format!("redis-{kind}") }
}

/// A server of a test's own. What it was told survives `kill`, as it does with `appendfsync always`.
pub struct Redis {
    pub process: Process,
    address: SocketAddr,
    folder: TempDir,
    arguments: Vec<String>,
}

impl Redis {
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    pub async fn start_with(arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let arguments: Vec<String> = arguments.iter().map(|&text| text.to_owned()).collect();
        // The port was free a moment ago; when somebody else has it now, there is another.
        for _ in 0..10 {
            let address = port::free();
            let mut process = spawn(address, folder.path(), &arguments);
            if is_ready(&mut process).await {
                return Self { process, address, folder, arguments };
            }
        }
        panic!("no server could be started");
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// On the same port, with what it kept.
    pub async fn again(&mut self) {
        self.process = spawn(self.address, self.folder.path(), &self.arguments);
        assert!(is_ready(&mut self.process).await, "{}", self.process.output().join("\n"));
    }

    /// What it has on the disk at this moment.
    pub fn copy(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let files = std::fs::read_dir(self.log()).unwrap();
        files
            .map(|file| file.unwrap().path())
            .map(|p| (p.clone(), std::fs::read(p).unwrap()))
            .collect()
    }

    /// While it doesn't run: as if nothing had happened since.
    pub fn put_back(&self, copy: &[(PathBuf, Vec<u8>)]) {
        std::fs::remove_dir_all(self.log()).unwrap();
        std::fs::create_dir(self.log()).unwrap();
        copy.iter().for_each(|(path, bytes)| std::fs::write(path, bytes).unwrap());
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("appendonlydir")
    }

    /// A command, by the server's own client; the answer's lines.
    pub fn ask(&self, words: &[&str]) -> Vec<String> {
        let output = Command::new(program("cli"))
            .args(["-p", &self.address.port().to_string()])
            .args(words)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
    }
}

fn spawn(address: SocketAddr, folder: &Path, arguments: &[String]) -> Process {
    let mut command = Command::new(program("server"));
    command
        .args(["--bind", "127.0.0.1", "--port", &address.port().to_string(), "--save", ""])
        .args(["--appendonly", "yes", "--appendfsync", "always", "--dir"])
        .arg(folder)
        .args(arguments);
    Process::spawn("the shared store", &mut command)
}

async fn is_ready(process: &mut Process) -> bool {
    super::eventually("the shared store", async || {
        let said =
            |words: &str| process.output().iter().any(|line| line.to_lowercase().contains(words));
        if said("ready to accept connections") {
            return Some(true);
        }
        process.exited().map(|_| false)
    })
    .await
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Open,
    /// Connections stay and nothing passes.
    Stuck,
    /// Connections are closed, and new ones too.
    Cut,
}

/// The way from one gate to a server.
pub struct Valve {
    pub address: SocketAddr,
    way: Arc<watch::Sender<Way>>,
}

impl Valve {
    pub async fn before(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let way = Arc::new(watch::Sender::new(Way::Open));
        let state = Arc::clone(&way);
        tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let (state, mut cut) = (Arc::clone(&state), state.subscribe());
                tokio::spawn(async move {
                    tokio::select! {
                        _ = cut.wait_for(|way| *way == Way::Cut) => {}
                        () = relay(client, server, &state) => {}
                    }
                });
            }
        });
        Self { address, way }
    }

    pub fn set(&self, way: Way) {
        self.way.send_replace(way);
    }
}

async fn relay(client: TcpStream, server: SocketAddr, way: &watch::Sender<Way>) {
    let Ok(server) = TcpStream::connect(server).await else { return };
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::select! {
        () = pass(from_client, to_server, way.subscribe()) => {}
        () = pass(from_server, to_client, way.subscribe()) => {}
    }
}

async fn pass(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    mut way: watch::Receiver<Way>,
) {
    let mut bytes = vec![0; 16 * 1024];
    while let Ok(length @ 1..) = from.read(&mut bytes).await {
        if way.wait_for(|way| *way == Way::Open).await.is_err()
            || to.write_all(&bytes[..length]).await.is_err()
        {
            return;
        }
    }
}
