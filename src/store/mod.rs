//! What has to outlive a restart: sessions, logins in progress and the gate's own keys.
//!
//! Values are opaque bytes under opaque keys, each with a time after which it is worthless. One
//! small trait, so that a shared store can take the embedded one's place; `contract` is the one
//! test suite that every backend passes.
//!
//! A store that several gates share has a [`Stream`] besides, over which each hears what the others
//! ended.
//!
//! INVARIANT: a write that was answered with `Ok` is on the disk. A revocation that a crash
//! undoes would bring a session back to life. At servers it is as durable as they are set up.

mod embedded;
mod memory;
mod movable;
mod redis;
mod stream;
mod wire;

#[cfg(test)]
mod contract;

use std::fmt::Debug;
use std::path::PathBuf;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

pub use self::redis::RedisStore;
pub use embedded::EmbeddedStore;
pub use memory::MemoryStore;
pub use movable::{Change, MovableStore, Moving, Request};
pub use stream::{Position, Read, Shared, Stream};
pub use wire::{read_frame, write_frame};

use crate::domain::clock::Timestamp;

/// Keeps values under keys. Failures are never answered with "nothing there": who asks must be
/// able to tell an unknown session from a store that can't say.
#[async_trait]
pub trait Store: Send + Sync + Debug {
    /// The value, expired or not: it carries its own times, and the caller has the clock.
    async fn get(&self, space: Space, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// Keeps the value, in place of an earlier one. It may be purged once `expires` is reached.
    async fn put(
        &self,
        space: Space,
        key: &[u8],
        value: &[u8],
        expires: Timestamp,
    ) -> Result<(), StoreError>;

    /// Keeps all of these as [`Self::put`] does, in as few commits as the backend can. After an
    /// error some may be kept.
    async fn put_all(&self, space: Space, entries: Vec<Entry>) -> Result<(), StoreError> {
        for Entry { key, value, expires } in entries {
            self.put(space, &key, &value, expires).await?;
        }
        Ok(())
    }

    /// Keeps each of these in place of an earlier value; one whose key has no value (any more) is
    /// left out, so that a late write never brings back what was removed. After an error some may
    /// be kept.
    ///
    /// Backends do it in one step with the look; this is for those with one caller at a time.
    async fn replace_all(&self, space: Space, entries: Vec<Entry>) -> Result<(), StoreError> {
        for Entry { key, value, expires } in entries {
            if self.get(space, &key).await?.is_some() {
                self.put(space, &key, &value, expires).await?;
            }
        }
        Ok(())
    }

    /// Keeps the value unless there is one that has not expired by `now`; true when it was kept.
    /// Of several callers with one key, exactly one gets true.
    async fn put_if_absent(
        &self,
        space: Space,
        key: &[u8],
        value: &[u8],
        expires: Timestamp,
        now: Timestamp,
    ) -> Result<bool, StoreError>;

    /// Forgets the value; true when there was one. Of several callers, exactly one gets true.
    async fn remove(&self, space: Space, key: &[u8]) -> Result<bool, StoreError>;

    /// Every key that begins so, and its value, in the order of the keys. Reads no others.
    async fn scan(
        &self,
        space: Space,
        prefix: &[u8],
    ) -> Result<Vec<(Vec<u8>, Vec<u8>)>, StoreError>;

    /// Forgets what of a space has expired by `now`, on the clock that its times were taken from;
    /// how many values that were.
    async fn purge(&self, space: Space, now: Timestamp) -> Result<usize, StoreError>;

    /// What there is besides, where several gates share the store.
    fn shared(&self) -> Option<Shared> {
        None
    }
}

/// One of several values to keep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub key: Vec<u8>,
    pub value: Vec<u8>,
    pub expires: Timestamp,
}

/// Keys of different spaces never meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Space {
    /// Sessions, under the hash of their secret.
    Sessions,
    /// Which sessions came from one login at the provider.
    SessionsOfLogins,
    /// Which sessions a user has.
    SessionsOfUsers,
    /// What sessions are refreshed with, and what came of it last, under the sessions' own keys; and,
    /// under longer ones, who is just doing it.
    Refreshes,
    /// Users, devices and tenants that are shut out.
    Suspensions,
    /// The gate's own signing keys.
    Keys,
    /// Logins in progress: state, nonce and verifier until the provider calls back.
    Logins,
    /// Forms whose senders have to sign in first, under a hash of their secret.
    KeptForms,
}

impl Space {
    pub const ALL: [Self; 8] = [
        Self::Sessions,
        Self::SessionsOfLogins,
        Self::SessionsOfUsers,
        Self::Refreshes,
        Self::Suspensions,
        Self::Keys,
        Self::Logins,
        Self::KeptForms,
    ];
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    #[error(
        "the store `{}` is in use by another process; stop that one, or give this one a `store.path` of its own",
        .0.display()
    )]
    InUse(PathBuf),
    #[error(
        "the store `{}` may be read or written by others than its owner; run `chmod 600` on it",
        .0.display()
    )]
    Permissions(PathBuf),
    #[error("the store `{}` can't be opened: {cause}", path.display())]
    Open { path: PathBuf, cause: String },
    #[error("the store failed: {0}")]
    Failed(String),
}
