//! A document of the provider: fetched when first needed, kept, fetched again when it is old.
//!
//! INVARIANT: one fetch at a time, and nobody waits for it who has a document that still serves;
//! after a failure the next try waits (1 s, doubling up to 30 s), and callers hear at once that the
//! provider is unavailable; at most one fetch in 30 s is made because somebody wants a newer one;
//! what was fetched serves while the provider is down, for at most a day, and then no longer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::sync::Mutex;

use super::discovery::DiscoveryError;
use crate::domain::clock::{Clock, Timestamp};

/// After this the document is fetched again.
pub const FRESH: Duration = Duration::from_secs(3600);

/// After this it is no longer used, even when nothing newer can be had.
pub const MAX_AGE: Duration = Duration::from_secs(24 * 3600);

/// Between two fetches for want of a newer one.
const NEWER: Duration = Duration::from_secs(30);

const MAX_BACKOFF: Duration = Duration::from_secs(30);

#[derive(Debug)]
struct Kept<T> {
    value: Arc<T>,
    fetched: Timestamp,
}

/// How fetching goes.
#[derive(Debug)]
struct Pace {
    /// No fetch before this.
    retry_at: Option<Timestamp>,
    backoff: Duration,
    /// When a newer one was last asked for.
    newer_at: Option<Timestamp>,
}

#[derive(Debug)]
pub struct Refreshed<T> {
    kept: ArcSwapOption<Kept<T>>,
    /// Locked while fetching, so that one fetch serves all who wait.
    pace: Mutex<Pace>,
    failing: AtomicBool,
    clock: Clock,
}

impl<T> Refreshed<T> {
    pub fn new(clock: Clock) -> Self {
        let pace = Pace { retry_at: None, backoff: Duration::from_secs(1), newer_at: None };
        Self {
            kept: ArcSwapOption::empty(),
            pace: Mutex::new(pace),
            failing: AtomicBool::new(false),
            clock,
        }
    }

    /// What is at hand and may still be used.
    pub fn at_hand(&self) -> Option<Arc<T>> {
        self.younger_than(MAX_AGE, self.clock.now())
    }

    /// Whether the last fetch failed; `None` before the first.
    pub fn is_failing(&self) -> Option<bool> {
        let failing = self.failing.load(Ordering::Relaxed);
        (failing || self.kept.load().is_some()).then_some(failing)
    }

    /// A fetch that lies in the future was before the clock was set back: its age is unknown, so it
    /// is too old.
    fn younger_than(&self, age: Duration, now: Timestamp) -> Option<Arc<T>> {
        let kept = self.kept.load();
        let Kept { value, fetched } = &**kept.as_ref()?;
        (*fetched <= now && now.since(*fetched) < age).then(|| Arc::clone(value))
    }

    /// The document; `fetch` is begun only when one is due. With `newer` the one that is at hand
    /// would not do.
    ///
    /// # Errors
    /// Why there is none that may be used.
    pub async fn get(
        &self,
        newer: bool,
        fetch: impl Future<Output = Result<T, DiscoveryError>>,
    ) -> Result<Arc<T>, DiscoveryError> {
        let before = self.clock.now();
        if !newer && let Some(fresh) = self.younger_than(FRESH, before) {
            return Ok(fresh);
        }
        let mut pace = match self.pace.try_lock() {
            Ok(pace) => pace,
            Err(_) => match self.younger_than(MAX_AGE, before).filter(|_| !newer) {
                Some(stale) => return Ok(stale),
                None => self.pace.lock().await,
            },
        };
        let now = self.clock.now();
        let recently = pace.newer_at.is_some_and(|at| at <= now && now.since(at) < NEWER);
        if (!newer || recently)
            && let Some(fresh) = self.younger_than(FRESH, now)
        {
            return Ok(fresh);
        }
        let stale = self.younger_than(MAX_AGE, now);
        if pace.retry_at.is_some_and(|at| now < at && at.since(now) <= MAX_BACKOFF) {
            return stale.ok_or(DiscoveryError::BackingOff);
        }
        if newer {
            pace.newer_at = Some(now);
        }
        match fetch.await {
            Ok(value) => {
                let value = Arc::new(value);
                (pace.retry_at, pace.backoff) = (None, Duration::from_secs(1));
                self.failing.store(false, Ordering::Relaxed);
                self.kept.store(Some(Arc::new(Kept { value: Arc::clone(&value), fetched: now })));
                Ok(value)
            }
            Err(error) => {
                pace.retry_at = Some(self.clock.now().plus(pace.backoff));
                pace.backoff = (pace.backoff * 2).min(MAX_BACKOFF);
                self.failing.store(true, Ordering::Relaxed);
                stale.ok_or(error)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn world() -> (Clock, Refreshed<u32>, Cell<u32>) {
        let clock = Clock::manual(Timestamp::from_seconds(1_800_000_000));
        (clock.clone(), Refreshed::new(clock), Cell::new(0))
    }

    async fn good(fetches: &Cell<u32>) -> Result<u32, DiscoveryError> {
        tokio::task::yield_now().await;
        fetches.set(fetches.get() + 1);
        Ok(fetches.get())
    }

    async fn bad(fetches: &Cell<u32>) -> Result<u32, DiscoveryError> {
        fetches.set(fetches.get() + 1);
        Err(DiscoveryError::WrongIssuer)
    }

    #[tokio::test]
    async fn one_fetch_serves_all_who_wait() {
        let (_clock, document, fetches) = world();
        let all = (0..20).map(|_| document.get(false, good(&fetches)));
        for got in futures_util::future::join_all(all).await {
            assert_eq!(*got.unwrap(), 1);
        }
        // Those who want a newer one, too, and only once in half a minute.
        let all = (0..20).map(|_| document.get(true, good(&fetches)));
        for got in futures_util::future::join_all(all).await {
            assert_eq!(*got.unwrap(), 2);
        }
        assert_eq!(*document.get(true, good(&fetches)).await.unwrap(), 2);
    }

    #[tokio::test]
    async fn while_it_is_fetched_again_nobody_waits_who_has_one_that_serves() {
        let (clock, document, fetches) = world();
        document.get(false, good(&fetches)).await.unwrap();
        clock.advance(FRESH);
        let (slow, others) = tokio::join!(
            biased;
            document.get(false, good(&fetches)),
            document.get(false, std::future::pending()),
        );
        assert_eq!((*slow.unwrap(), *others.unwrap()), (2, 1));
    }

    #[tokio::test]
    async fn what_was_fetched_serves_for_a_day_without_the_provider_and_no_longer() {
        let (clock, document, fetches) = world();
        document.get(false, good(&fetches)).await.unwrap();
        clock.advance(FRESH);
        assert_eq!(*document.get(false, bad(&fetches)).await.unwrap(), 1);
        assert_eq!(document.is_failing(), Some(true));
        assert_eq!(*document.get(true, bad(&fetches)).await.unwrap(), 1);
        assert_eq!(fetches.get(), 2, "not asked again at once");
        clock.advance(MAX_AGE - FRESH - Duration::from_secs(1));
        assert_eq!(*document.get(false, bad(&fetches)).await.unwrap(), 1);
        clock.advance(Duration::from_secs(1));
        assert!(document.get(false, bad(&fetches)).await.is_err());
        assert_eq!(document.at_hand(), None);
        clock.advance(MAX_BACKOFF);
        assert_eq!(*document.get(false, good(&fetches)).await.unwrap(), fetches.get());
        assert_eq!(document.is_failing(), Some(false));
    }
}
