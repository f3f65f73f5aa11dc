//! A store whose file can be given to another process while it is in use.
//!
//! A gate that is replaced by a newer one drains for a while, and its requests still need sessions.
//! The file belongs to one process at a time. So it is closed here, opened there, and every
//! operation from then on is a call to the process that has it. Operations that come in between
//! wait. What a caller is told is as true as before: a write answered with `Ok` is on the disk.
//!
//! A store at servers needs none of that: both processes use it as any two gates do.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::{OwnedRwLockWriteGuard, RwLock};

use super::stream::Shared;
use super::wire::{self, Bytes, Call, Reply, What};
use super::{EmbeddedStore, Entry, RedisStore, Space, Store, StoreError};
use crate::config;
use crate::domain::clock::Timestamp;

/// For one operation of the process that has the file.
const PATIENCE: Duration = Duration::from_secs(10);

/// The embedded store, here or in another process.
#[derive(Clone, Debug)]
pub struct MovableStore {
    path: PathBuf,
    place: Arc<RwLock<Place>>,
    shared: Option<RedisStore>,
}

#[derive(Debug)]
enum Place {
    Here(EmbeddedStore),
    There(Arc<Remote>),
    /// At servers, for as long as the process.
    Shared(RedisStore),
    Nowhere,
}

/// A store that is closed and on its way. Nothing reads or writes meanwhile. Dropped, it is gone.
#[derive(Debug)]
pub struct Moving {
    path: PathBuf,
    place: OwnedRwLockWriteGuard<Place>,
    /// It doesn't move after all.
    shared: Option<RedisStore>,
}

impl MovableStore {
    /// The store that the configuration names. Blocks; for the start.
    ///
    /// # Errors
    /// As [`EmbeddedStore::open`] and [`RedisStore::open`].
    pub fn of(config: &config::model::Store) -> Result<Self, StoreError> {
        match config {
            config::model::Store::Embedded { path } => Self::open(path),
            config::model::Store::Redis(config) => {
                let store = RedisStore::open(config)?;
                store.ready()?;
                let place = Arc::new(RwLock::new(Place::Shared(store.clone())));
                Ok(Self { path: PathBuf::new(), place, shared: Some(store) })
            }
        }
    }

    /// As [`EmbeddedStore::open`].
    ///
    /// # Errors
    /// As there.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let place = Place::Here(EmbeddedStore::open(path)?);
        Ok(Self { path: path.to_owned(), place: Arc::new(RwLock::new(place)), shared: None })
    }

    /// Waits for what runs, and closes the file. `None`: it isn't here.
    pub async fn release(&self) -> Option<Moving> {
        let mut place = Arc::clone(&self.place).write_owned().await;
        match std::mem::replace(&mut *place, Place::Nowhere) {
            Place::Here(store) => {
                // Whoever gave up waiting for an operation has not ended it.
                let _ = tokio::task::spawn_blocking(move || store.close()).await;
                Some(Moving { path: self.path.clone(), place, shared: None })
            }
            Place::Shared(store) => {
                *place = Place::Shared(store.clone());
                Some(Moving { path: PathBuf::new(), place, shared: Some(store) })
            }
            elsewhere => {
                *place = elsewhere;
                None
            }
        }
    }

    async fn call(&self, space: Space, key: &[u8], what: What) -> Result<Reply, StoreError> {
        match &*self.place.read().await {
            Place::Here(store) => perform(store, Call { space, key: key.to_vec(), what }).await,
            Place::Shared(store) => perform(store, Call { space, key: key.to_vec(), what }).await,
            Place::There(remote) => {
                let (remote, call) = (Arc::clone(remote), Call { space, key: key.to_vec(), what });
                // Ends even when nobody waits any more: a reply must not be taken for another's.
                let reply = tokio::task::spawn_blocking(move || remote.call(&call)).await;
                match reply.map_err(|error| StoreError::Failed(error.to_string()))? {
                    Reply::Failed(cause) => Err(StoreError::Failed(cause)),
                    reply => Ok(reply),
                }
            }
            Place::Nowhere => Err(StoreError::Failed("it was closed".to_owned())),
        }
    }
}

impl Moving {
    /// The other process has it, and takes calls on `stream`.
    pub fn there(mut self, stream: UnixStream) {
        if self.shared.is_some() {
            return;
        }
        *self.place = Place::There(Arc::new(Remote { stream: Mutex::new(Some(stream)) }));
    }

    /// The other process doesn't want it after all.
    ///
    /// # Errors
    /// It can't be opened again; every operation then fails.
    pub async fn back(mut self) -> Result<(), StoreError> {
        if self.shared.is_some() {
            return Ok(());
        }
        let path = self.path.clone();
        let opened = tokio::task::spawn_blocking(move || EmbeddedStore::open(&path)).await;
        *self.place = Place::Here(opened.map_err(|error| StoreError::Failed(error.to_string()))??);
        Ok(())
    }
}

#[derive(Debug)]
struct Remote {
    /// None after an error: a later reply would be an earlier call's.
    stream: Mutex<Option<UnixStream>>,
}

impl Remote {
    fn call(&self, call: &Call) -> Reply {
        let mut stream = self.stream.lock();
        let reply = match stream.as_ref() {
            Some(open) => ask(open, call),
            None => Err(io::ErrorKind::NotConnected.into()),
        };
        reply.unwrap_or_else(|error| {
            *stream = None;
            Reply::Failed(format!("the process that has it doesn't answer: {error}"))
        })
    }
}

fn ask(stream: &UnixStream, call: &Call) -> io::Result<Reply> {
    stream.set_read_timeout(Some(PATIENCE))?;
    wire::write_frame(stream, call)?;
    wire::read_frame(stream)
}

/// A call of another process, to be answered on the same stream.
#[derive(Debug)]
pub struct Request(Call);

impl Request {
    /// Waits for the next call. Blocks.
    ///
    /// # Errors
    /// The caller is gone.
    pub fn read(stream: &UnixStream) -> io::Result<Self> {
        wire::read_frame(stream).map(Self)
    }

    /// What it would do to a session, and to which.
    pub fn session(&self) -> Option<(Change, &[u8])> {
        let Call { space, key, what } = &self.0;
        let change = match what {
            What::Remove => Change::Remove,
            What::Put { .. } | What::PutIfAbsent { .. } => Change::Write,
            What::Get | What::Scan | What::Purge { .. } => return None,
        };
        (*space == Space::Sessions).then_some((change, key))
    }

    /// Does what is asked and answers.
    ///
    /// # Errors
    /// The caller is gone. A store that fails is an answer.
    pub async fn serve(self, store: &dyn Store, stream: &UnixStream) -> io::Result<()> {
        let reply = match perform(store, self.0).await {
            Ok(reply) => reply,
            Err(error) => Reply::Failed(error.to_string()),
        };
        match wire::write_frame(stream, &reply) {
            // Not a byte of it was sent.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                wire::write_frame(stream, &Reply::Failed("the answer is too long".to_owned()))
            }
            written => written,
        }
    }

    /// Answers without having done it: whether a value was there, or why that can't be told.
    ///
    /// # Errors
    /// The caller is gone.
    pub fn answer(self, result: Result<bool, String>, stream: &UnixStream) -> io::Result<()> {
        let reply = match result {
            Ok(done) => Reply::Done(done),
            Err(cause) => Reply::Failed(cause),
        };
        wire::write_frame(stream, &reply)
    }
}

/// What a call does to a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Write,
    Remove,
}

async fn perform(store: &dyn Store, call: Call) -> Result<Reply, StoreError> {
    let Call { space, key, what } = call;
    let at = Timestamp::from_millis;
    Ok(match what {
        What::Get => Reply::Value(store.get(space, &key).await?.map(Bytes)),
        What::Put { value, expires } => {
            store.put(space, &key, &value.0, at(expires)).await?;
            Reply::Done(true)
        }
        What::PutIfAbsent { value, expires, now } => {
            Reply::Done(store.put_if_absent(space, &key, &value.0, at(expires), at(now)).await?)
        }
        What::Remove => Reply::Done(store.remove(space, &key).await?),
        What::Scan => {
            let found = store.scan(space, &key).await?;
            Reply::Values(
                found.into_iter().map(|(key, value)| (Bytes(key), Bytes(value))).collect(),
            )
        }
        What::Purge { now } => Reply::Count(store.purge(space, at(now)).await?),
    })
}

fn confused<T>() -> Result<T, StoreError> {
    Err(StoreError::Failed("the process that has it answered something else".to_owned()))
}

#[async_trait]
impl Store for MovableStore {
    async fn get(&self, space: Space, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        match self.call(space, key, What::Get).await? {
            Reply::Value(value) => Ok(value.map(|bytes| bytes.0)),
            _ => confused(),
        }
    }

    async fn put(
        &self,
        space: Space,
        key: &[u8],
        value: &[u8],
        expires: Timestamp,
    ) -> Result<(), StoreError> {
        let what = What::Put { value: Bytes(value.to_vec()), expires: expires.as_millis() };
        match self.call(space, key, what).await? {
            Reply::Done(_) => Ok(()),
            _ => confused(),
        }
    }

    async fn put_all(&self, space: Space, entries: Vec<Entry>) -> Result<(), StoreError> {
        match &*self.place.read().await {
            Place::Here(store) => return store.put_all(space, entries).await,
            Place::Shared(store) => return store.put_all(space, entries).await,
            Place::There(_) | Place::Nowhere => {}
        }
        // The process that has it wants to hear of each.
        for Entry { key, value, expires } in entries {
            self.put(space, &key, &value, expires).await?;
        }
        Ok(())
    }

    async fn replace_all(&self, space: Space, entries: Vec<Entry>) -> Result<(), StoreError> {
        match &*self.place.read().await {
            Place::Here(store) => return store.replace_all(space, entries).await,
            Place::Shared(store) => return store.replace_all(space, entries).await,
            Place::There(_) | Place::Nowhere => {}
        }
        // The process that has it wants to hear of each, and refuses what is over.
        for Entry { key, value, expires } in entries {
            if self.get(space, &key).await?.is_some() {
                self.put(space, &key, &value, expires).await?;
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
        let (expires, now) = (expires.as_millis(), now.as_millis());
        let what = What::PutIfAbsent { value: Bytes(value.to_vec()), expires, now };
        match self.call(space, key, what).await? {
            Reply::Done(kept) => Ok(kept),
            _ => confused(),
        }
    }

    async fn remove(&self, space: Space, key: &[u8]) -> Result<bool, StoreError> {
        match self.call(space, key, What::Remove).await? {
            Reply::Done(was_there) => Ok(was_there),
            _ => confused(),
        }
    }

    async fn scan(
        &self,
        space: Space,
        prefix: &[u8],
    ) -> Result<Vec<(Vec<u8>, Vec<u8>)>, StoreError> {
        match self.call(space, prefix, What::Scan).await? {
            Reply::Values(found) => {
                Ok(found.into_iter().map(|(key, value)| (key.0, value.0)).collect())
            }
            _ => confused(),
        }
    }

    async fn purge(&self, space: Space, now: Timestamp) -> Result<usize, StoreError> {
        match self.call(space, &[], What::Purge { now: now.as_millis() }).await? {
            Reply::Count(count) => Ok(count),
            _ => confused(),
        }
    }

    fn shared(&self) -> Option<Shared> {
        self.shared.as_ref().and_then(Store::shared)
    }
}

#[cfg(test)]
mod tests;
