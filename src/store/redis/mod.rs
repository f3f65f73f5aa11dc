//! The store that several gates share: Valkey or Redis, one server, with Sentinel, or a Cluster.
//!
//! Times are the callers': what has expired is decided by what they say the time is, as it is with
//! the embedded store. `layout` says where what is kept, `script` what is changed together, `link`
//! how a connection is kept, `stream` how all gates hear of what ends.
//!
//! INVARIANT: a value, its place in the order of keys and its expiry change in one step.
//! INVARIANT: what the servers can't say is an error. A write that was answered with `Ok` is as
//! durable as the servers are set up to make it (see docs/operating.md, "Several gates").

mod connect;
mod layout;
mod link;
mod script;
mod stream;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::try_join_all;
use redis::Cmd;
use tokio::runtime::{Builder, Handle};
use tokio_util::sync::CancellationToken;

use self::layout::{Layout, SHARDS, Shard, beginning_with, kept_for, number, score};
use self::link::{Again, Link};
use self::stream::RedisStream;
use super::stream::Shared;
use super::{Entry, Space, Store, StoreError};
use crate::config::model::Redis;
use crate::domain::clock::Timestamp;

/// Until there has to be a connection at the start.
const START: Duration = Duration::from_secs(5);

/// Values in one script: others wait while it runs.
const AT_ONCE: usize = 200;

/// Values at servers. Clones share the connection.
#[derive(Clone)]
pub struct RedisStore {
    inner: Arc<Inner>,
}

struct Inner {
    link: Link,
    layout: Layout,
    shared: Shared,
    /// What the connections live on.
    handle: Handle,
    /// Ends that thread.
    _thread: Thread,
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStore").finish_non_exhaustive()
    }
}

/// What the connections live on. Dropped, it ends.
struct Thread(CancellationToken);

impl Drop for Thread {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

impl RedisStore {
    /// Begins to connect; whether that succeeds, the first call says.
    ///
    /// # Errors
    /// No thread can be had.
    pub fn open(config: &Redis) -> Result<Self, StoreError> {
        let failed = |error: std::io::Error| StoreError::Failed(error.to_string());
        let runtime = Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let (handle, ends) = (runtime.handle().clone(), CancellationToken::new());
        let end = ends.clone();
        std::thread::Builder::new()
            .name("shared-store".to_owned())
            .spawn(move || runtime.block_on(end.cancelled()))
            .map_err(failed)?;
        let link = Link::open(config, config.timeout, &handle);
        let layout = Layout::new(&config.key_prefix);
        let stream = RedisStream::open(config, layout.stream(), &handle);
        let shared = Shared { stream: Arc::new(stream), lease: config.lease };
        let inner = Inner { link, layout, shared, handle, _thread: Thread(ends) };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Waits until there is a connection, for some seconds: sentinels and nodes are asked one after
    /// another, and the first may not be there. Blocks; for the start.
    ///
    /// # Errors
    /// Why there is none.
    pub fn ready(&self) -> Result<(), StoreError> {
        self.inner.link.ready(START, &self.inner.handle)
    }

    /// Keeps entries, in one script for each shard; how many were kept.
    async fn keep(
        &self,
        space: Space,
        how: &'static str,
        now: i64,
        entries: &[Entry],
    ) -> Result<usize, StoreError> {
        let mut by_shard: BTreeMap<u8, Vec<&Entry>> = BTreeMap::new();
        for entry in entries {
            by_shard.entry(number(&entry.key)).or_default().push(entry);
        }
        let mut kept = 0;
        for (shard, entries) in by_shard {
            let shard = self.inner.layout.shard(space, shard);
            for entries in entries.chunks(AT_ONCE) {
                let keys: Vec<&[u8]> = entries.iter().map(|entry| entry.key.as_slice()).collect();
                let mut command = script(script::KEEP, &shard, &keys);
                command.arg(how).arg(now);
                for Entry { key, value, expires } in entries {
                    command.arg(key).arg(value).arg(score(*expires)).arg(kept_for(*expires));
                }
                let again = if how == "absent" { Again::Never } else { Again::Harmless };
                kept += self.inner.link.call::<usize>(&command, again).await?;
            }
        }
        Ok(kept)
    }

    async fn scan_shard(
        &self,
        shard: Shard,
        prefix: &[u8],
    ) -> Result<Vec<(Vec<u8>, Vec<u8>)>, StoreError> {
        let mut found = Vec::new();
        let (mut from, to) = beginning_with(prefix);
        loop {
            let mut page = redis::cmd("ZRANGEBYLEX");
            page.arg(shard.index()).arg(&from).arg(&to).arg("LIMIT").arg(0).arg(AT_ONCE);
            let keys: Vec<Vec<u8>> = self.inner.link.call(&page, Again::Harmless).await?;
            let Some(last) = keys.last() else { return Ok(found) };
            from = [b"(".as_slice(), last].concat();
            let mut values = redis::cmd("MGET");
            for key in &keys {
                values.arg(shard.value(key));
            }
            let values: Vec<Option<Vec<u8>>> =
                self.inner.link.call(&values, Again::Harmless).await?;
            let whole = keys.len() == AT_ONCE;
            // One that was removed in between is none.
            let there = keys.into_iter().zip(values);
            found.extend(there.filter_map(|(key, value)| Some((key, value?))));
            if !whole {
                return Ok(found);
            }
        }
    }

    async fn purge_shard(&self, shard: Shard, now: i64) -> Result<usize, StoreError> {
        let mut purged = 0;
        loop {
            let mut due = redis::cmd("ZRANGEBYSCORE");
            due.arg(shard.expiry()).arg("-inf").arg(now).arg("LIMIT").arg(0).arg(AT_ONCE);
            let keys: Vec<Vec<u8>> = self.inner.link.call(&due, Again::Harmless).await?;
            if keys.is_empty() {
                return Ok(purged);
            }
            let keys: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
            let mut command = script(script::PURGE, &shard, &keys);
            command.arg(now);
            for key in &keys {
                command.arg(key);
            }
            purged += self.inner.link.call::<usize>(&command, Again::Never).await?;
            if keys.len() < AT_ONCE {
                return Ok(purged);
            }
        }
    }
}

/// A script over values of one shard, without its arguments.
fn script(text: &str, shard: &Shard, keys: &[&[u8]]) -> Cmd {
    let mut command = redis::cmd("EVAL");
    command.arg(text).arg(keys.len() + 2).arg(shard.index()).arg(shard.expiry());
    for key in keys {
        command.arg(shard.value(key));
    }
    command
}

fn entry(key: &[u8], value: &[u8], expires: Timestamp) -> Entry {
    Entry { key: key.to_vec(), value: value.to_vec(), expires }
}

#[async_trait]
impl Store for RedisStore {
    async fn get(&self, space: Space, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let mut command = redis::cmd("GET");
        command.arg(self.inner.layout.shard_of(space, key).value(key));
        self.inner.link.call(&command, Again::Harmless).await
    }

    async fn put(
        &self,
        space: Space,
        key: &[u8],
        value: &[u8],
        expires: Timestamp,
    ) -> Result<(), StoreError> {
        self.keep(space, "put", 0, &[entry(key, value, expires)]).await.map(drop)
    }

    async fn put_all(&self, space: Space, entries: Vec<Entry>) -> Result<(), StoreError> {
        self.keep(space, "put", 0, &entries).await.map(drop)
    }

    async fn replace_all(&self, space: Space, entries: Vec<Entry>) -> Result<(), StoreError> {
        self.keep(space, "replace", 0, &entries).await.map(drop)
    }

    async fn put_if_absent(
        &self,
        space: Space,
        key: &[u8],
        value: &[u8],
        expires: Timestamp,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let entries = [entry(key, value, expires)];
        Ok(self.keep(space, "absent", score(now), &entries).await? == 1)
    }

    async fn remove(&self, space: Space, key: &[u8]) -> Result<bool, StoreError> {
        let shard = self.inner.layout.shard_of(space, key);
        let mut command = script(script::REMOVE, &shard, &[key]);
        command.arg(key);
        Ok(self.inner.link.call::<usize>(&command, Again::Never).await? == 1)
    }

    async fn scan(
        &self,
        space: Space,
        prefix: &[u8],
    ) -> Result<Vec<(Vec<u8>, Vec<u8>)>, StoreError> {
        if !prefix.is_empty() {
            return self.scan_shard(self.inner.layout.shard_of(space, prefix), prefix).await;
        }
        let mut found = Vec::new();
        for shard in 0..SHARDS {
            found.append(&mut self.scan_shard(self.inner.layout.shard(space, shard), b"").await?);
        }
        Ok(found)
    }

    async fn purge(&self, space: Space, now: Timestamp) -> Result<usize, StoreError> {
        let shards = (0..SHARDS).map(|number| self.inner.layout.shard(space, number));
        let purged = shards.map(|shard| self.purge_shard(shard, score(now)));
        Ok(try_join_all(purged).await?.into_iter().sum())
    }

    fn shared(&self) -> Option<Shared> {
        Some(self.inner.shared.clone())
    }
}
