//! An upstream that answers when the test says so.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};

use super::raw::find;
use super::recorder::OK;

pub struct Held {
    pub url: String,
    arrived: mpsc::UnboundedReceiver<()>,
    release: watch::Sender<bool>,
}

impl Held {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (tell, arrived) = mpsc::unbounded_channel();
        let (release, released) = watch::channel(false);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (tell, mut released) = (tell.clone(), released.clone());
                tokio::spawn(async move {
                    let mut pending = Vec::new();
                    let mut buffer = [0; 4096];
                    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                        pending.extend_from_slice(&buffer[..count]);
                        if let Some(at) = find(&pending, b"\r\n\r\n") {
                            pending.drain(..at + 4);
                            let _ = tell.send(());
                            let _ = released.wait_for(|released| *released).await;
                            if stream.write_all(OK.as_bytes()).await.is_err() {
                                return;
                            }
                        }
                    }
                });
            }
        });
        Self { url, arrived, release }
    }

    /// A request has reached it.
    pub async fn arrived(&mut self) {
        super::within("a request at the upstream", self.arrived.recv()).await.unwrap();
    }

    /// Answers what has come and what will come.
    pub fn release(&self) {
        self.release.send_replace(true);
    }
}
