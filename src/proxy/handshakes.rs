//! TLS handshakes under way, bounded.
//!
//! Past the bound the oldest handshake is given up, not the newest refused: a client that means it
//! is through after a round trip or two, so that under a flood of half-open ones the oldest is
//! nearly always one of those.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

/// The handshakes of one listener, over all workers.
#[derive(Debug)]
pub struct Handshakes {
    limit: usize,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    next: u64,
    /// In the order of their beginning.
    signals: BTreeMap<u64, Arc<Notify>>,
}

impl Handshakes {
    /// `limit` is at least 1.
    pub fn new(limit: usize) -> Self {
        Self { limit: limit.max(1), open: Mutex::default() }
    }

    /// A new one, which always has room.
    pub fn begin(&self) -> Handshake<'_> {
        let signal = Arc::new(Notify::new());
        let mut open = self.open.lock();
        let number = open.next;
        open.next += 1;
        if open.signals.len() >= self.limit
            && let Some((_, oldest)) = open.signals.pop_first()
        {
            oldest.notify_one();
        }
        open.signals.insert(number, Arc::clone(&signal));
        Handshake { of: self, number, signal }
    }
}

/// A handshake under way; it ends with this.
#[derive(Debug)]
pub struct Handshake<'a> {
    of: &'a Handshakes,
    number: u64,
    signal: Arc<Notify>,
}

impl Handshake<'_> {
    /// Resolves when another one needs the room more.
    pub async fn given_up(&self) {
        self.signal.notified().await;
    }
}

impl Drop for Handshake<'_> {
    fn drop(&mut self) {
        self.of.open.lock().signals.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    fn is_given_up(handshake: &Handshake<'_>) -> bool {
        handshake.given_up().now_or_never().is_some()
    }

    #[test]
    fn the_oldest_makes_room_for_the_newest() {
        let handshakes = Handshakes::new(2);
        let first = handshakes.begin();
        let second = handshakes.begin();
        assert!(!is_given_up(&first));
        let third = handshakes.begin();
        assert!(is_given_up(&first));
        assert!(!is_given_up(&second));
        assert!(!is_given_up(&third));
        drop((first, third));
        let fourth = handshakes.begin();
        assert!(!is_given_up(&second), "one that ended has left its room");
        drop((second, fourth));
        assert!(handshakes.open.lock().signals.is_empty());
    }
}
