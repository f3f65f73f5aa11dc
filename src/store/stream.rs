//! What all gates that share a store have to hear: one ordered stream of events.
//!
//! Unlike publish and subscribe, nobody misses what was said while they didn't listen: who follows
//! keeps the position that they have read up to, and reads on from there. What can't be read any
//! more, because it was trimmed or because the servers lost it, is a [`Read::Gap`], never silence.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::StoreError;

/// What a store that several gates share has besides values.
#[derive(Clone, Debug)]
pub struct Shared {
    pub stream: Arc<dyn Stream>,
    /// How long what was read counts as all there is.
    pub lease: Duration,
}

/// An ordered stream of events, each some opaque bytes.
#[async_trait]
pub trait Stream: Send + Sync + Debug {
    /// Adds events at the end, all or none. After `Ok` every follower reads them; after an error
    /// they may have been added.
    async fn append(&self, events: Vec<Vec<u8>>) -> Result<(), StoreError>;

    /// Where the stream ends now.
    async fn end(&self) -> Result<Position, StoreError>;

    /// What follows a position, in order. `Ok` means that the servers take writes, too: one that
    /// can't know what the others are told doesn't count as an answer.
    async fn read(&self, after: &Position) -> Result<Read, StoreError>;

    /// Resolves when there may be something after the position, or after `patience` at the latest.
    async fn wait(&self, after: &Position, patience: Duration);

    /// Forgets what is older than this. Followers who are further behind find a gap.
    async fn trim(&self, older_than: Duration) -> Result<(), StoreError>;
}

/// The last event that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// The backend's name for it.
    pub(super) id: String,
    /// What only that event has: an event under the same name in another history isn't the same.
    pub(super) link: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Read {
    /// All that there is, or as much as is read at once.
    Events {
        events: Vec<Vec<u8>>,
        position: Position,
        /// There may be more.
        more: bool,
    },
    /// Events may be missing. Go on from [`Stream::end`], and look at everything anew.
    Gap,
}
