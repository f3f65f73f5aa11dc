//! Two processes of one gate: a newer one that has the store, and the one that it replaces, whose
//! last connections are still served.
//!
//! Each has a cache of its own, so each is told of the ends that the other brings about. The one
//! without the store removes a session by asking the one with it, which therefore knows first
//! ([`Sessions::end_for_peer`]). In the other direction the end is told
//! ([`Sessions::ended_elsewhere`]). Both remember it: a look at the store may have begun before.
//!
//! Neither sees what a session does in the other but by what the store has. So as long as there are
//! two, one that is idle here is refused here and not ended; who is the last sweeps it. Among gates
//! that share a store nobody is the last: there the store's word counts, with what it may lag.

use std::collections::HashSet;
use std::sync::Arc;

use parking_lot::Mutex;

use super::given_back::is_for;
use super::{Ended, Session, SessionError, Sessions, WRITE_BACK};
use crate::domain::clock::Timestamp;
use crate::domain::event::EndReason;
use crate::domain::id::SessionId;
use crate::store::Space;

/// Which sessions are over, for as long as there is another process that may not know it yet.
#[derive(Debug, Default)]
pub(super) struct Over(Mutex<Option<HashSet<SessionId>>>);

impl Over {
    pub(super) fn remember(&self, id: SessionId) {
        if let Some(over) = self.0.lock().as_mut() {
            over.insert(id);
        }
    }

    fn has_peer(&self) -> bool {
        self.0.lock().is_some()
    }

    fn contains(&self, id: &SessionId) -> bool {
        self.0.lock().as_ref().is_some_and(|over| over.contains(id))
    }
}

/// While it is held, a session that another process writes is not ended here.
#[derive(Debug)]
pub struct Turn<'a>(
    #[expect(dead_code, reason = "it is held")] Option<tokio::sync::MutexGuard<'a, ()>>,
);

impl Sessions {
    /// From here on another process of this gate shares the store, or no longer does.
    pub fn has_peer(&self, has_peer: bool) {
        *self.over.0.lock() = has_peer.then(HashSet::new);
    }

    /// The process that has the store ended a session.
    pub fn ended_elsewhere(&self, id: SessionId, reason: EndReason) {
        // Remembered first: whoever puts it into the cache from here on sees that.
        self.over.remember(id);
        if let Some(session) = self.cache.get(&id) {
            // What a refresh brings that is under way here, nobody else can give back.
            if is_for(reason) {
                session.mark_given_back();
            }
            self.announce_for_peer(&session, reason);
        }
    }

    /// Removes a session that a process without the store has ended. True when it was stored.
    ///
    /// # Errors
    /// The store failed; here the session is over all the same.
    pub async fn end_for_peer(&self, id: SessionId) -> Result<bool, SessionError> {
        let _turn = self.turn(&id).await;
        self.over.remember(id);
        if let Some(session) = self.cache.get(&id) {
            self.announce_unexplained(&session);
        }
        let was_there = self.store.remove(Space::Sessions, &id.0).await?;
        self.cache.remove(&id);
        Ok(was_there)
    }

    /// A newer process had the store for a while, may have ended sessions, and is gone. They end
    /// here too.
    ///
    /// # Errors
    /// The store failed.
    pub async fn recheck(&self) -> Result<(), SessionError> {
        for session in self.cache.matching(&|session| !session.has_ended()) {
            let _turn = self.turn(&session.id).await;
            if self.store.get(Space::Sessions, &session.id.0).await?.is_none() {
                self.announce_unexplained(&session);
            }
        }
        Ok(())
    }

    /// Lets a process without the store write a session. `None`: it is over, and a late write would
    /// bring it back.
    pub async fn write_for_peer(&self, id: SessionId) -> Option<Turn<'_>> {
        let turn = self.turn(&id).await;
        (!self.over.contains(&id)).then_some(Turn(turn))
    }

    /// Whether the end of a session that is due here is for both processes. Idle it may be in one
    /// only.
    pub(super) fn is_for_all(&self, reason: EndReason) -> bool {
        reason != EndReason::IdleTimeout || !self.is_used_elsewhere()
    }

    /// Whether a session that is idle here, and by the store's word, is so at every gate.
    pub(super) fn is_idle_everywhere(&self, session: &Session, now: Timestamp) -> bool {
        self.is_shared() && now.since(session.last_seen()) >= self.idle() + WRITE_BACK * 2
    }

    pub(super) fn is_used_elsewhere(&self) -> bool {
        self.over.has_peer() || self.is_shared()
    }

    /// Learns of a session that seems idle when the other process has seen it.
    pub(super) async fn ask_peer(
        &self,
        session: &Session,
        now: Timestamp,
    ) -> Result<(), SessionError> {
        let idle = session.end_due(now, self.idle()) == Some(EndReason::IdleTimeout);
        if (idle || self.was_idle(session, now))
            && self.is_used_elsewhere()
            && let Some(bytes) = self.store.get(Space::Sessions, &session.id.0).await?
            && let Some(stored) = self.opened(&session.id, &bytes)?
        {
            session.seen_elsewhere(stored.last_seen, stored.longest_idle);
        }
        Ok(())
    }

    /// A session that was just read from the store may have ended meanwhile.
    pub(super) fn heed_peer(&self, session: &Arc<Session>) {
        if self.over.contains(&session.id) {
            self.announce_for_peer(session, EndReason::Revoked);
        }
    }

    /// The same for one that is over elsewhere, nobody said why.
    pub(super) fn announce_unexplained(&self, session: &Arc<Session>) {
        if !session.has_ended() {
            session.mark_unexplained();
        }
        self.announce_for_peer(session, EndReason::Revoked);
    }

    /// Cuts its connections. The other process has counted the end, and records it.
    pub(super) fn announce_for_peer(&self, session: &Arc<Session>, reason: EndReason) {
        if session.mark_ended() {
            self.former.remember(session);
            let principal = Arc::clone(&session.principal);
            let _ = self.ended.send(Ended { id: session.id, principal, reason, elsewhere: true });
        }
    }
}
