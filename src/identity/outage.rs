//! How many ask one provider at once, and for how long nobody does after it failed.
//!
//! INVARIANT: after a failure the provider is left alone (1 s, doubling up to 30 s), then asked by
//! one, and by all only when that one was answered: many thousand sessions are no flood for a
//! provider that is just coming back.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::refresh::RefreshError;

/// Refreshes at one provider at once: a quarter of the calls that may be under way, so that those
/// who sign in have room.
pub(super) const AT_ONCE: usize = 16;

const LONGEST: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub struct Refreshes {
    places: Semaphore,
    /// Whether the pace has a `next`; written under its lock only.
    out: AtomicBool,
    pace: Mutex<Pace>,
}

#[derive(Debug)]
struct Pace {
    wait: Duration,
    /// Nobody asks before. There is one for exactly as long as the provider is out: else one call
    /// at a time would be a probe for good.
    next: Option<Instant>,
}

impl Default for Refreshes {
    fn default() -> Self {
        let pace = Pace { wait: Duration::from_secs(1), next: None };
        Self {
            places: Semaphore::new(AT_ONCE),
            out: AtomicBool::new(false),
            pace: Mutex::new(pace),
        }
    }
}

/// Room for one who asks, for as long as it is held.
#[derive(Debug)]
pub struct Place<'a> {
    _place: SemaphorePermit<'a>,
    waited: bool,
}

impl Place<'_> {
    /// Whether all were taken.
    pub fn has_waited(&self) -> bool {
        self.waited
    }
}

/// The right to ask, for as long as it is held.
#[derive(Debug)]
pub struct Turn<'a> {
    _place: Place<'a>,
    is_probe: bool,
}

impl Turn<'_> {
    /// Whether it asks for all, after a failure.
    pub fn is_probe(&self) -> bool {
        self.is_probe
    }
}

impl Refreshes {
    /// Waits for a place, for as long as a call may take.
    ///
    /// # Errors
    /// `NoPlace`.
    pub async fn place(&self, patience: Duration) -> Result<Place<'_>, RefreshError> {
        if let Ok(place) = self.places.try_acquire() {
            return Ok(Place { _place: place, waited: false });
        }
        match tokio::time::timeout(patience, self.places.acquire()).await {
            Ok(Ok(place)) => Ok(Place { _place: place, waited: true }),
            _ => Err(RefreshError::NoPlace),
        }
    }

    /// The turn of somebody who has a place. Last before asking: it may have failed meanwhile.
    ///
    /// # Errors
    /// `BackingOff`.
    pub fn turn<'a>(&self, place: Place<'a>) -> Result<Turn<'a>, RefreshError> {
        let mut pace = self.pace.lock();
        let now = Instant::now();
        if pace.next.is_some_and(|next| now < next) {
            return Err(RefreshError::BackingOff);
        }
        let is_probe = pace.next.is_some();
        if let Some(next) = &mut pace.next {
            // Should nothing be heard of it.
            *next = later(LONGEST);
        }
        Ok(Turn { _place: place, is_probe })
    }

    pub fn is_out(&self) -> bool {
        self.out.load(Ordering::Relaxed)
    }

    /// Whether nobody may ask now.
    pub fn is_left_alone(&self) -> bool {
        self.is_out() && self.pace.lock().next.is_some_and(|next| Instant::now() < next)
    }

    pub fn failed(&self, turn: &Turn<'_>, provider: &str, cause: &str) {
        let mut pace = self.pace.lock();
        if !self.out.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                provider,
                cause,
                "sessions can't be refreshed: they go on with what is known"
            );
            pace.wait = Duration::from_secs(1);
        } else if turn.is_probe {
            pace.wait = (pace.wait * 2).min(LONGEST);
        } else {
            // Under way since before the failure that is known.
            return;
        }
        pace.next = Some(later(pace.wait));
    }

    /// Nobody was asked: the next may ask in the place of a probe, where it still takes one.
    pub fn not_asked(&self, turn: &Turn<'_>) {
        if turn.is_probe
            && let Some(next) = &mut self.pace.lock().next
        {
            *next = later(Duration::from_secs(1));
        }
    }

    pub fn answered(&self, provider: &str) {
        let mut pace = self.pace.lock();
        if pace.next.take().is_some() {
            self.out.store(false, Ordering::Relaxed);
            tracing::info!(provider, "sessions are refreshed again");
        }
    }
}

fn later(wait: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(wait).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    impl Refreshes {
        async fn both(&self) -> Result<Turn<'_>, RefreshError> {
            self.turn(self.place(LONGEST).await?)
        }
    }

    #[tokio::test]
    async fn a_provider_that_failed_is_left_alone_then_asked_by_one_then_by_all() {
        let refreshes = Refreshes::default();
        let all = [refreshes.both().await.unwrap(), refreshes.both().await.unwrap()];
        all.iter().for_each(|turn| refreshes.failed(turn, "idp", "down"));
        assert!(refreshes.is_out());
        assert!(refreshes.both().await.is_err(), "left alone");
        assert_eq!(refreshes.pace.lock().wait, Duration::from_secs(1), "two that failed together");
        refreshes.pace.lock().next = Some(Instant::now());
        let probe = refreshes.both().await.unwrap();
        assert!(refreshes.both().await.is_err(), "one is enough");
        refreshes.not_asked(&probe);
        let next = refreshes.pace.lock().next.unwrap();
        assert!(refreshes.is_out(), "it told nothing");
        assert!(next <= Instant::now() + Duration::from_secs(1), "another may ask before long");
        refreshes.failed(&probe, "idp", "down");
        assert_eq!(refreshes.pace.lock().wait, Duration::from_secs(2));
        refreshes.pace.lock().next = Some(Instant::now());
        refreshes.both().await.unwrap();
        refreshes.answered("idp");
        assert!(!refreshes.is_out());
        let all = [refreshes.both().await.unwrap(), refreshes.both().await.unwrap()];
        all.iter().for_each(|turn| refreshes.failed(turn, "idp", "down"));
        assert_eq!(refreshes.pace.lock().wait, Duration::from_secs(1), "it begins anew");
    }

    #[tokio::test]
    async fn a_probe_that_asked_nobody_when_the_provider_is_back_makes_nobody_wait() {
        let refreshes = Refreshes::default();
        refreshes.failed(&refreshes.both().await.unwrap(), "idp", "down");
        refreshes.pace.lock().next = Some(Instant::now());
        let probe = refreshes.both().await.unwrap();
        assert!(probe.is_probe());
        // Somebody signed in meanwhile.
        refreshes.answered("idp");
        refreshes.not_asked(&probe);
        for _ in 0..2 {
            assert!(!refreshes.both().await.unwrap().is_probe());
        }
    }

    #[tokio::test]
    async fn no_more_than_a_few_ask_at_once() {
        let refreshes = Refreshes::default();
        let mut asking = Vec::new();
        for _ in 0..AT_ONCE {
            let place = refreshes.place(LONGEST).await.unwrap();
            assert!(!place.has_waited());
            asking.push(refreshes.turn(place).unwrap());
        }
        let mut next = Box::pin(refreshes.place(LONGEST));
        assert!((&mut next).now_or_never().is_none());
        let none = refreshes.place(Duration::ZERO).await;
        assert!(matches!(none, Err(RefreshError::NoPlace)), "{none:?}");
        assert!(!refreshes.is_out(), "it says nothing about the provider");
        asking.pop();
        assert!(next.await.unwrap().has_waited());
    }
}
