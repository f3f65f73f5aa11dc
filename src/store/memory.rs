//! A store that forgets: for tests and the demo.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::stream::{Position, Read, Shared, Stream};
use super::{Space, Store, StoreError};
use crate::domain::clock::Timestamp;

/// Values in memory; gone with the process.
#[derive(Default)]
pub struct MemoryStore {
    entries: Mutex<BTreeMap<(Space, Vec<u8>), Entry>>,
    shared: Option<Shared>,
}

struct Entry {
    value: Vec<u8>,
    expires: Timestamp,
}

impl std::fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryStore").finish_non_exhaustive()
    }
}

impl MemoryStore {
    /// One that several gates of a process share.
    #[must_use]
    pub fn shared_by_gates(lease: Duration) -> Self {
        let shared = Shared { stream: Arc::new(MemoryStream::default()), lease };
        Self { shared: Some(shared), ..Self::default() }
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn get(&self, space: Space, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.entries.lock().get(&(space, key.to_vec())).map(|entry| entry.value.clone()))
    }

    async fn put(
        &self,
        space: Space,
        key: &[u8],
        value: &[u8],
        expires: Timestamp,
    ) -> Result<(), StoreError> {
        let entry = Entry { value: value.to_vec(), expires };
        self.entries.lock().insert((space, key.to_vec()), entry);
        Ok(())
    }

    async fn replace_all(
        &self,
        space: Space,
        entries: Vec<super::Entry>,
    ) -> Result<(), StoreError> {
        let mut kept = self.entries.lock();
        for super::Entry { key, value, expires } in entries {
            if let Some(entry) = kept.get_mut(&(space, key)) {
                *entry = Entry { value, expires };
            }
        }
        Ok(())
    }

    async fn put_if_absent(
        &self,
        space: Space,
        key: &[u8],
        value: &[u8],
        expires: Timestamp,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let mut entries = self.entries.lock();
        let key = (space, key.to_vec());
        if entries.get(&key).is_some_and(|entry| entry.expires > now) {
            return Ok(false);
        }
        entries.insert(key, Entry { value: value.to_vec(), expires });
        Ok(true)
    }

    async fn remove(&self, space: Space, key: &[u8]) -> Result<bool, StoreError> {
        Ok(self.entries.lock().remove(&(space, key.to_vec())).is_some())
    }

    async fn scan(
        &self,
        space: Space,
        prefix: &[u8],
    ) -> Result<Vec<(Vec<u8>, Vec<u8>)>, StoreError> {
        let entries = self.entries.lock();
        let found = entries
            .range((space, prefix.to_vec())..)
            .take_while(|((of, key), _)| *of == space && key.starts_with(prefix));
        Ok(found.map(|((_, key), entry)| (key.clone(), entry.value.clone())).collect())
    }

    async fn purge(&self, space: Space, now: Timestamp) -> Result<usize, StoreError> {
        let mut entries = self.entries.lock();
        let before = entries.len();
        entries.retain(|(of, _), entry| *of != space || entry.expires > now);
        Ok(before - entries.len())
    }

    fn shared(&self) -> Option<Shared> {
        self.shared.clone()
    }
}

/// Events in memory. A position is the number of events up to it.
#[derive(Default)]
struct MemoryStream {
    events: Mutex<Events>,
    added: Notify,
}

#[derive(Default)]
struct Events {
    forgotten: usize,
    kept: VecDeque<(Instant, Vec<u8>)>,
}

impl Events {
    fn end(&self) -> usize {
        self.forgotten + self.kept.len()
    }
}

impl std::fmt::Debug for MemoryStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryStream").finish_non_exhaustive()
    }
}

fn position(number: usize) -> Position {
    Position { id: number.to_string(), link: b"memory".to_vec() }
}

#[async_trait]
impl Stream for MemoryStream {
    async fn append(&self, events: Vec<Vec<u8>>) -> Result<(), StoreError> {
        let now = Instant::now();
        self.events.lock().kept.extend(events.into_iter().map(|event| (now, event)));
        self.added.notify_waiters();
        Ok(())
    }

    async fn end(&self) -> Result<Position, StoreError> {
        Ok(position(self.events.lock().end()))
    }

    async fn read(&self, after: &Position) -> Result<Read, StoreError> {
        let events = self.events.lock();
        let known = after.id.parse().ok().filter(|_| after.link == position(0).link);
        let Some(read) = known.and_then(|known: usize| known.checked_sub(events.forgotten)) else {
            return Ok(Read::Gap);
        };
        if read > events.kept.len() {
            return Ok(Read::Gap);
        }
        let next = events.kept.iter().skip(read).map(|(_, event)| event.clone()).collect();
        Ok(Read::Events { events: next, position: position(events.end()), more: false })
    }

    async fn wait(&self, after: &Position, patience: Duration) {
        let added = self.added.notified();
        let mut added = std::pin::pin!(added);
        // From here on nothing that is added is missed.
        added.as_mut().enable();
        if after.id == position(self.events.lock().end()).id {
            let _ = tokio::time::timeout(patience, added).await;
        }
    }

    async fn trim(&self, older_than: Duration) -> Result<(), StoreError> {
        let mut events = self.events.lock();
        while events.kept.front().is_some_and(|(at, _)| at.elapsed() >= older_than) {
            events.kept.pop_front();
            events.forgotten += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::MemoryStore;

    crate::store::contract::suite!(|| (MemoryStore::default(), ()));

    fn shared() -> (MemoryStore, ()) {
        (MemoryStore::shared_by_gates(std::time::Duration::from_secs(1)), ())
    }

    crate::store::contract::stream_suite!(shared);
}
