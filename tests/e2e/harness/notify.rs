//! The service manager's end of `sd_notify`.

use std::os::unix::net::UnixDatagram;
use std::sync::{Arc, Mutex};

use tempfile::TempDir;

use super::eventually;

pub struct Notifications {
    _folder: TempDir,
    pub path: String,
    messages: Arc<Mutex<Vec<String>>>,
}

impl Notifications {
    pub fn listen() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let messages: Arc<Mutex<Vec<String>>> = Arc::default();
        let kept = Arc::clone(&messages);
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count) = socket.recv(&mut buffer) {
                let text = String::from_utf8_lossy(&buffer[..count]).into_owned();
                kept.lock().unwrap().push(text);
            }
        });
        Self { _folder: folder, path: path.to_str().unwrap().to_owned(), messages }
    }

    pub fn all(&self) -> Vec<String> {
        self.messages.lock().unwrap().clone()
    }

    /// The first message from the one numbered `from` on that has all these lines or their
    /// beginnings, and its number.
    pub async fn heard(&self, from: usize, lines: &[&str]) -> (usize, String) {
        eventually(&format!("a notification of {lines:?}"), async || {
            let messages = self.all();
            messages.into_iter().enumerate().skip(from).find(|(_, message)| {
                lines.iter().all(|wanted| message.lines().any(|line| line.starts_with(wanted)))
            })
        })
        .await
    }
}
