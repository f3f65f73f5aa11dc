//! Keys that the gate makes for itself at its first start and keeps in the store.

use crate::domain::clock::Timestamp;
use crate::store::{Space, Store, StoreError};

/// Keys don't expire; the store wants a date all the same. The end of the year 9999.
pub const NEVER: Timestamp = Timestamp::from_seconds(253_402_300_799);

/// The key in the store, or `fresh` after it was put there. When two starts meet, both get the
/// one that was first.
pub async fn load_or_put(
    store: &dyn Store,
    name: &[u8],
    fresh: &[u8],
    now: Timestamp,
) -> Result<Vec<u8>, StoreError> {
    load_or_put_until(store, name, fresh, NEVER, now).await
}

/// The same for a key that the store forgets after a time.
pub async fn load_or_put_until(
    store: &dyn Store,
    name: &[u8],
    fresh: &[u8],
    expires: Timestamp,
    now: Timestamp,
) -> Result<Vec<u8>, StoreError> {
    if let Some(found) = find(store, name).await? {
        return Ok(found);
    }
    if store.put_if_absent(Space::Keys, name, fresh, expires, now).await? {
        return Ok(fresh.to_vec());
    }
    Ok(store.get(Space::Keys, name).await?.unwrap_or_default())
}

pub async fn find(store: &dyn Store, name: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
    store.get(Space::Keys, name).await
}

/// Has the store forget the keys whose time is over.
pub async fn purge(store: &dyn Store, now: Timestamp) -> Result<usize, StoreError> {
    store.purge(Space::Keys, now).await
}

/// Puts a value that isn't a key but has to outlive restarts as one does.
pub async fn put(store: &dyn Store, name: &[u8], value: &[u8]) -> Result<(), StoreError> {
    store.put(Space::Keys, name, value, NEVER).await
}
