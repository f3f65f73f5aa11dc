//! Bytes in, bytes out: nothing here repairs what a test writes.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::client::{Browser, Wire};
use super::wait::within;

pub struct Raw {
    wire: Box<dyn Wire>,
    /// Read, but not yet handed out.
    pending: Vec<u8>,
}

#[derive(Debug)]
pub struct RawAnswer {
    pub status: u16,
    pub head: String,
}

impl RawAnswer {
    pub fn value(&self, name: &str) -> Option<&str> {
        let mut fields = self.head.lines().filter_map(|line| line.split_once(':'));
        let (_, value) = fields.find(|(own, _)| own.eq_ignore_ascii_case(name))?;
        Some(value.trim())
    }
}

impl Raw {
    /// On a connection that is there already.
    pub fn over(wire: Box<dyn Wire>) -> Self {
        Self { wire, pending: Vec::new() }
    }

    /// Connects to the browser's own host.
    pub async fn connect(browser: &Browser) -> Self {
        Self::try_connect(browser).await.expect("a connection")
    }

    /// The same to a gate that may be about to die.
    pub async fn try_connect(browser: &Browser) -> Option<Self> {
        let (wire, h2) = browser.try_connect(&browser.url("/")).await.ok()?;
        assert!(!h2, "raw requests are HTTP/1.1: offer no h2");
        Some(Self { wire, pending: Vec::new() })
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        // The peer may have closed already: then the answer tells.
        let _ = self.wire.write_all(bytes).await;
        let _ = self.wire.flush().await;
    }

    /// One response, its body read and dropped; nothing when the connection ends before one.
    pub async fn answer(&mut self) -> Option<RawAnswer> {
        let answer = self.head().await?;
        within("a raw answer's body", async {
            let lower = answer.head.to_ascii_lowercase();
            let length = lower.lines().find_map(|line| line.strip_prefix("content-length:"));
            if lower.contains("transfer-encoding: chunked") {
                while find(&self.pending, b"0\r\n\r\n").is_none() && self.fill().await {}
                self.pending.clear();
            } else if let Some(length) = length {
                let length: usize = length.trim().parse().unwrap();
                while self.pending.len() < length && self.fill().await {}
                self.pending.drain(..length.min(self.pending.len()));
            }
        })
        .await;
        Some(answer)
    }

    /// The head of a response that has no body, whatever it says of its length.
    pub async fn head(&mut self) -> Option<RawAnswer> {
        within("a raw answer", async {
            let end = loop {
                if let Some(at) = find(&self.pending, b"\r\n\r\n") {
                    break at + 4;
                }
                if !self.fill().await {
                    return None;
                }
            };
            let head: Vec<u8> = self.pending.drain(..end).collect();
            let head = String::from_utf8_lossy(&head).into_owned();
            let status = head.get(9..12).and_then(|code| code.parse().ok()).unwrap_or(0);
            Some(RawAnswer { status, head })
        })
        .await
    }

    /// All that is still to come until the gate closes the connection.
    pub async fn rest(&mut self) -> String {
        within("the end of the connection", async {
            while self.fill().await {}
            String::from_utf8_lossy(&std::mem::take(&mut self.pending)).into_owned()
        })
        .await
    }

    async fn fill(&mut self) -> bool {
        let mut buffer = [0; 16 * 1024];
        match self.wire.read(&mut buffer).await {
            Ok(0) | Err(_) => false,
            Ok(count) => {
                self.pending.extend_from_slice(&buffer[..count]);
                true
            }
        }
    }
}

pub fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}
