//! The time that sessions live by: the system's, except that it never goes back.
//!
//! After the system's clock was set back, it goes on from the latest time that was seen, at the
//! pace of the monotonic clock. So a session that was over stays over, one that lives ages on, and
//! a new one lasts as long as ever. The latest time is kept in the store, so that a restart with a
//! clock set back changes nothing either. A clock set forward ends sessions, as it must.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::domain::clock::{Clock, Timestamp};
use crate::identity::keys;
use crate::store::{Space, Store, StoreError};

const NAME: &[u8] = b"session-clock";

/// How often the latest time is stored.
const KEEP_EVERY: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct SessionClock {
    wall: Clock,
    /// The latest time seen, in milliseconds.
    latest: AtomicI64,
    kept: AtomicI64,
    ticked: Mutex<Instant>,
}

impl SessionClock {
    pub(super) async fn load(store: &dyn Store, wall: Clock) -> Result<Self, StoreError> {
        let now = wall.now();
        let kept = store
            .get(Space::Keys, NAME)
            .await?
            .and_then(|bytes| <[u8; 8]>::try_from(bytes.as_slice()).ok())
            .map_or(now, |bytes| Timestamp::from_millis(i64::from_be_bytes(bytes)));
        if kept > now.plus(KEEP_EVERY) {
            tracing::warn!(%now, last_seen = %kept, "the clock was set back; sessions age on");
        }
        Ok(Self {
            wall,
            latest: AtomicI64::new(kept.max(now).as_millis()),
            kept: AtomicI64::new(kept.min(now).as_millis()),
            ticked: Mutex::new(Instant::now()),
        })
    }

    /// The system's time, for what people and policies read.
    pub(super) fn wall(&self) -> Timestamp {
        self.wall.now()
    }

    /// The sessions' time when the system's is `wall`.
    pub(super) fn at(&self, wall: Timestamp) -> Timestamp {
        let latest = self.latest.load(Ordering::Relaxed);
        // Written at most once a second, so that workers don't fight over the cache line.
        if wall.as_millis() > latest.saturating_add(1000) {
            self.latest.fetch_max(wall.as_millis(), Ordering::Relaxed);
        }
        wall.max(Timestamp::from_millis(latest))
    }

    /// Lets time pass while the system's clock is behind, and stores the latest time now and then.
    pub(super) async fn tick(&self, store: &dyn Store) -> Result<Timestamp, StoreError> {
        let passed = {
            let mut ticked = self.ticked.lock();
            let now = Instant::now();
            let passed = now.saturating_duration_since(*ticked);
            *ticked = now;
            passed
        };
        let wall = self.wall.now();
        let latest = Timestamp::from_millis(self.latest.load(Ordering::Relaxed));
        // A manual clock has no pace of its own.
        let aged = if matches!(self.wall, Clock::System) && wall < latest {
            latest.plus(passed)
        } else {
            latest
        };
        let now = wall.max(aged);
        self.latest.fetch_max(now.as_millis(), Ordering::Relaxed);
        let kept = Timestamp::from_millis(self.kept.load(Ordering::Relaxed));
        if now.since(kept) >= KEEP_EVERY {
            keys::put(store, NAME, &now.as_millis().to_be_bytes()).await?;
            self.kept.store(now.as_millis(), Ordering::Relaxed);
        }
        Ok(now)
    }
}
