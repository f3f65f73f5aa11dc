//! A store that forgets: for tests and the demo.

use std::collections::BTreeMap;

use async_trait::async_trait;
use parking_lot::Mutex;

use super::{Space, Store, StoreError};
use crate::domain::clock::Timestamp;

/// Values in memory; gone with the process.
#[derive(Default)]
pub struct MemoryStore {
    entries: Mutex<BTreeMap<(Space, Vec<u8>), Entry>>,
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
}

#[cfg(test)]
mod tests {
    use super::MemoryStore;

    crate::store::contract::suite!(|| (MemoryStore::default(), ()));
}
