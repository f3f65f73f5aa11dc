//! Several gates, one store: each hears over one stream what the others ended, before whoever ended
//! it is told that it is done.
//!
//! A gate reads the stream again and again, and at once when there is something. After each reading
//! what it knows of sessions counts as all there is for as long as the lease. When it can't read
//! for that long, nothing it knows is good enough: requests are answered 503 and live connections
//! are cut, until it has caught up. Then it goes on by itself.
//!
//! What can't be read any more, because it was trimmed or the servers lost it, is never taken for
//! nothing: everything in memory is looked up anew, and what this gate knows to have ended lately is
//! removed once more, since servers that lost the end have the session again.
//!
//! INVARIANT: the lease is counted from before the reading began, on the monotonic clock. So within
//! the lease after an end was written, every gate has heard of it or serves no session at all.
//! INVARIANT: what is heard is remembered for longer than any look at the store takes: a session
//! that was read before it ended, and comes into memory after, is over there, too.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::{Session, SessionError, Sessions};
use crate::domain::event::EndReason;
use crate::domain::id::SessionId;
use crate::store::{Position, Read, Shared, Space, Store, StoreError};

/// Readings in a lease: one may fail, and there is time for the next.
const READINGS: u32 = 3;

/// What is older than this is of no use to anybody: gates that were away for longer look at
/// everything anew, which they would have to anyway.
const KEPT: Duration = Duration::from_secs(3600);

/// Between two trimmings.
const TRIM_EVERY: Duration = Duration::from_secs(600);

/// How long an end is remembered at least: far longer than a call to the store takes.
const REMEMBERED: Duration = Duration::from_secs(120);

/// Sessions looked up, or ended, at once.
pub(super) const AT_ONCE: usize = 64;

/// What gates tell each other.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
enum News {
    Ended {
        session: [u8; 32],
        /// Whether its tokens are given back to the provider. Not said by earlier versions.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        given_back: bool,
    },
    /// The provider says something else of a session's user than before.
    Refreshed { session: [u8; 32], generation: u64 },
}

/// What this gate has heard of the others.
#[derive(Debug)]
pub(super) struct Follow {
    shared: Option<Shared>,
    start: Instant,
    /// Until when all is heard that there is, in milliseconds since the start.
    confirmed_until: AtomicU64,
    /// How often everything was looked at anew.
    looks: AtomicU64,
    /// Where the reading begins.
    from: Mutex<Option<Position>>,
    ended: Mutex<Lately>,
}

/// Sessions that ended lately, in two generations, the older of which is dropped as a whole.
#[derive(Debug)]
struct Lately {
    since: Instant,
    now: HashSet<SessionId>,
    before: HashSet<SessionId>,
}

impl Lately {
    fn insert(&mut self, id: SessionId, at: Instant) {
        if at.saturating_duration_since(self.since) >= REMEMBERED {
            self.before = std::mem::take(&mut self.now);
            self.since = at;
        }
        self.now.insert(id);
    }

    fn contains(&self, id: &SessionId) -> bool {
        self.now.contains(id) || self.before.contains(id)
    }

    fn all(&self) -> Vec<SessionId> {
        self.now.union(&self.before).copied().collect()
    }
}

impl Follow {
    /// Begins where the stream ends: a gate that has just started has nothing in memory.
    pub(super) async fn begin(store: &dyn Store) -> Result<Self, StoreError> {
        let start = Instant::now();
        let shared = store.shared();
        let (from, confirmed_until) = match &shared {
            Some(shared) => (Some(shared.stream.end().await?), millis(shared.lease)),
            None => (None, u64::MAX),
        };
        let lately = Lately { since: start, now: HashSet::new(), before: HashSet::new() };
        Ok(Self {
            shared,
            start,
            confirmed_until: AtomicU64::new(confirmed_until),
            looks: AtomicU64::new(0),
            from: Mutex::new(from),
            ended: Mutex::new(lately),
        })
    }

    fn until(&self) -> Instant {
        let until = Duration::from_millis(self.confirmed_until.load(Ordering::Relaxed));
        self.start.checked_add(until).unwrap_or(self.start)
    }

    pub(super) fn is_confirmed(&self, at: Instant) -> bool {
        let at = millis(at.saturating_duration_since(self.start));
        at <= self.confirmed_until.load(Ordering::Relaxed)
    }

    fn confirm(&self, until: Instant) {
        let until = millis(until.saturating_duration_since(self.start));
        self.confirmed_until.fetch_max(until, Ordering::Relaxed);
    }

    fn remember(&self, id: SessionId) {
        self.ended.lock().insert(id, Instant::now());
    }

    fn has_heard(&self, id: &SessionId) -> bool {
        self.shared.is_some() && self.ended.lock().contains(id)
    }

    /// What a look at the store is compared with afterwards.
    pub(super) fn looks(&self) -> u64 {
        self.looks.load(Ordering::Acquire)
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl Sessions {
    /// Whether other gates use the same store.
    pub fn is_shared(&self) -> bool {
        self.follow.shared.is_some()
    }

    /// How often news were missing, so that everything was looked up anew.
    pub fn gaps(&self) -> u64 {
        self.follow.looks()
    }

    /// Whether all is known that could end a session, for a request that came at `at`. Where not,
    /// a session that seems good is neither good nor over. One relaxed load.
    pub fn is_confirmed(&self, at: Instant) -> bool {
        self.follow.is_confirmed(at)
    }

    /// How long that stays so without another word from the store.
    pub fn confirmed_for(&self) -> Duration {
        if self.follow.shared.is_none() {
            return Duration::MAX;
        }
        self.follow.until().saturating_duration_since(Instant::now())
    }

    /// What may have been read from the store before an end that was heard since.
    pub(super) fn heed_others(&self, session: &Arc<Session>, looks: u64) -> Result<(), StoreError> {
        if self.follow.shared.is_none() {
            return Ok(());
        }
        if self.follow.has_heard(&session.id) {
            self.announce_for_peer(session, EndReason::Revoked);
        }
        if self.follow.looks() != looks || !self.is_confirmed(Instant::now()) {
            return Err(unconfirmed());
        }
        Ok(())
    }

    /// Tells the other gates that a session is over. Once it returns they will hear it.
    pub(super) async fn tell_others(
        &self,
        id: &SessionId,
        given_back: bool,
    ) -> Result<(), SessionError> {
        let Some(shared) = &self.follow.shared else { return Ok(()) };
        if self.follow.has_heard(id) {
            return Ok(());
        }
        let news = News::Ended { session: id.0, given_back };
        let event = serde_json::to_vec(&news).map_err(|_| SessionError::Internal)?;
        shared.stream.append(vec![event]).await?;
        self.follow.remember(*id);
        Ok(())
    }

    /// Tells the other gates that they know too little of a session's user. One that never hears it
    /// learns it when it would ask the provider itself.
    pub(super) async fn tell_refreshed(&self, session: &Session) -> Result<(), SessionError> {
        let Some(shared) = &self.follow.shared else { return Ok(()) };
        let news = News::Refreshed { session: session.id.0, generation: session.generation() };
        let event = serde_json::to_vec(&news).map_err(|_| SessionError::Internal)?;
        Ok(shared.stream.append(vec![event]).await?)
    }

    /// Follows what the others end, for as long as somebody else holds the sessions. On a runtime
    /// that nothing else holds up.
    pub async fn follow(self: Arc<Self>) {
        let Some(Shared { stream, lease }) = self.follow.shared.clone() else { return };
        let mut position = self.follow.from.lock().take();
        let this = Arc::downgrade(&self);
        drop(self);
        let (mut trimmed, mut failed, mut lost) = (Instant::now(), false, false);
        while let Some(sessions) = this.upgrade() {
            match sessions.catch_up(&mut position).await {
                Ok(began) => {
                    sessions.follow.confirm(began + lease);
                    if std::mem::take(&mut lost) {
                        tracing::info!(
                            "what other gates ended is known again: sessions are served"
                        );
                    }
                    if std::mem::take(&mut failed) {
                        sessions.end_what_is_left().await;
                    }
                }
                Err(error) => {
                    failed = true;
                    let over = !sessions.is_confirmed(Instant::now());
                    if over && !std::mem::replace(&mut lost, true) {
                        tracing::error!(%error, "what other gates ended can't be known: no session is served");
                    }
                }
            }
            sessions.metrics.sessions_confirmed.set(i64::from(!lost));
            drop(sessions);
            match &position {
                Some(position) => stream.wait(position, lease / READINGS).await,
                None => tokio::time::sleep(lease / READINGS).await,
            }
            if trimmed.elapsed() >= TRIM_EVERY {
                trimmed = Instant::now();
                if let Err(error) = stream.trim(KEPT).await {
                    tracing::warn!(%error, "the stream of revocations could not be trimmed");
                }
            }
        }
    }

    /// Reads all that there is. When the last reading began.
    async fn catch_up(&self, position: &mut Option<Position>) -> Result<Instant, SessionError> {
        let Some(Shared { stream, .. }) = &self.follow.shared else { return Ok(Instant::now()) };
        loop {
            let began = Instant::now();
            let Some(after) = position.as_ref() else {
                let end = stream.end().await?;
                self.look_anew().await?;
                *position = Some(end);
                continue;
            };
            match stream.read(after).await? {
                Read::Gap => {
                    tracing::warn!("revocations may be missing: every session is looked up anew");
                    self.metrics.revocation_gaps.inc();
                    *position = None;
                }
                Read::Events { events, position: next, more } => {
                    if events.iter().all(|event| self.hear(event)) {
                        *position = Some(next);
                    } else {
                        tracing::warn!(
                            "a revocation can't be read: every session is looked up anew"
                        );
                        self.metrics.revocation_gaps.inc();
                        *position = None;
                    }
                    if position.is_some() && !more {
                        return Ok(began);
                    }
                }
            }
        }
    }

    /// False: it can't be understood.
    fn hear(&self, event: &[u8]) -> bool {
        let (id, given_back) = match serde_json::from_slice(event) {
            Ok(News::Ended { session, given_back }) => (SessionId(session), given_back),
            Ok(News::Refreshed { session, generation }) => {
                // Read from the store by the next who needs it.
                if let Some(session) = self.cache.get(&SessionId(session)) {
                    session.supersede(generation);
                }
                return true;
            }
            Err(_) => return false,
        };
        self.metrics.revocations_heard.inc();
        // Remembered first: whoever puts it into the cache from here on sees that.
        self.follow.remember(id);
        if let Some(session) = self.cache.get(&id) {
            if given_back {
                session.mark_given_back();
            }
            self.announce_for_peer(&session, EndReason::Revoked);
        }
        true
    }

    /// Forgets what nobody holds, and asks the store about the rest.
    async fn look_anew(&self) -> Result<(), SessionError> {
        self.follow.looks.fetch_add(1, Ordering::AcqRel);
        let lately = self.follow.ended.lock().all();
        let mut removed = futures_util::stream::iter(lately)
            .map(|id| async move { self.store.remove(Space::Sessions, &id.0).await })
            .buffer_unordered(AT_ONCE);
        while let Some(removed) = removed.next().await {
            removed?;
        }
        self.cache.drop_unheld();
        let held = self.cache.matching(&|session| !session.has_ended());
        let mut looked = futures_util::stream::iter(held)
            .map(|session| async move {
                let stored = self.store.get(Space::Sessions, &session.id.0).await?;
                if session.renewal.is_some()
                    && let Some(renewal) = self.stored_renewal(&session.id).await?
                {
                    session.supersede(renewal.generation);
                }
                Ok::<_, SessionError>((session, stored.is_some()))
            })
            .buffer_unordered(AT_ONCE);
        while let Some(looked) = looked.next().await {
            let (session, is_stored) = looked?;
            if !is_stored {
                self.announce_unexplained(&session);
            }
        }
        Ok(())
    }

    /// Ends that could not be told or removed while the store was away.
    async fn end_what_is_left(&self) {
        for session in self.cache.matching(&Session::has_ended) {
            if let Err(error) = self.forget(&session.id).await {
                tracing::warn!(%error, "a session that is over can't be removed yet");
                return;
            }
        }
    }
}

/// The answer is 503.
fn unconfirmed() -> StoreError {
    StoreError::Failed("what other gates ended can't be known at the moment".to_owned())
}

#[cfg(test)]
mod tests;
