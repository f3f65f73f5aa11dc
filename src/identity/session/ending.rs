//! How sessions end: here at once, then in the store.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::StreamExt;

use super::follow::AT_ONCE;
use super::signed_out::SignedOut;
use super::{Ended, Session, SessionError, Sessions, by_login, by_user, given_back};
use crate::domain::event::EndReason;
use crate::domain::id::SessionId;
use crate::store::Space;

impl Sessions {
    /// Ends a session: at once in this process, then in the store. With an error it is over here,
    /// and the store is tried again; only a crash before that could bring it back.
    pub async fn end(&self, id: &SessionId, reason: EndReason) -> Result<bool, SessionError> {
        self.end_with(id, reason, &HashSet::new()).await
    }

    /// Ends one of several sessions that all end.
    async fn end_with(
        &self,
        id: &SessionId,
        reason: EndReason,
        others: &HashSet<SessionId>,
    ) -> Result<bool, SessionError> {
        if let Some(session) = self.cache.get(id) {
            self.announce(&session, reason);
        }
        let _turn = self.turn(id).await;
        let session = match self.cache.get(id) {
            Some(session) => Some(session),
            None => match self.stored(id).await {
                // It goes all the same: then its owner can sign in again.
                Err(SessionError::Unreadable { .. }) => None,
                stored => stored?,
            },
        };
        if let Some(session) = &session {
            // In the cache until it is gone from the store, so that nobody reads it again.
            self.announce(session, reason);
            self.cache.insert(Arc::clone(session));
        }
        self.remove(id, session.as_deref(), others).await?;
        Ok(session.is_some())
    }

    /// Ends every session of a user, on whatever device.
    pub async fn end_user(&self, user: &str, reason: EndReason) -> Result<usize, SessionError> {
        let mut ids = self.end_cached(&|session| session.principal.id.as_ref() == user, reason);
        self.note(&[SignedOut::User(user)]).await?;
        let stored = by_user::find(self.store.as_ref(), &self.seals, user).await?;
        ids.extend(stored.into_iter().map(|(_, id)| id));
        self.end_all(ids, reason).await
    }

    /// Ends those that are in use here, without a look at the store, which follows with the next
    /// sweep. They are over before the store is asked.
    pub fn end_cached(
        &self,
        wanted: &dyn Fn(&Session) -> bool,
        reason: EndReason,
    ) -> HashSet<SessionId> {
        let found = self.cache.matching(wanted);
        found.iter().for_each(|session| self.announce(session, reason));
        found.iter().map(|session| session.id).collect()
    }

    /// Ends every session that is wanted, those in memory first. Reads the whole store, a part at
    /// a time.
    pub async fn end_stored(
        &self,
        wanted: &(dyn Fn(&Session) -> bool + Sync),
        reason: EndReason,
    ) -> Result<usize, SessionError> {
        let mut ids = self.end_cached(wanted, reason);
        for part in 0..=u8::MAX {
            let found = self.part(part).await?;
            ids.extend(found.iter().filter(|session| wanted(session)).map(|session| session.id));
        }
        self.end_all(ids, reason).await
    }

    pub(super) async fn end_all(
        &self,
        ids: HashSet<SessionId>,
        reason: EndReason,
    ) -> Result<usize, SessionError> {
        // Together they wait for the disk, or the servers, no longer than one of them.
        let all = &ids;
        let each: Vec<SessionId> = ids.iter().copied().collect();
        let ends = each.into_iter().map(|id| async move { self.end_with(&id, reason, all).await });
        let mut ends = futures_util::stream::iter(ends).buffer_unordered(AT_ONCE);
        let mut ended = 0;
        while let Some(end) = ends.next().await {
            ended += usize::from(end?);
        }
        Ok(ended)
    }

    /// Ends the oldest sessions of the user who has just begun this one, when they are too many.
    pub(super) async fn keep_to_limit(&self, begun: &Session) -> Result<(), SessionError> {
        let most = self.max_per_user.load(Ordering::Relaxed);
        let user = &begun.principal.id;
        let found = by_user::find(self.store.as_ref(), &self.seals, user).await?;
        if found.len() <= most {
            return Ok(());
        }
        // An entry may outlive its session, and come before it when another login is under way.
        let mut alive = Vec::new();
        for (began, id) in found {
            if self.cache.get(&id).is_some_and(|session| !session.has_ended())
                || self.store.get(Space::Sessions, &id.0).await?.is_some()
            {
                alive.push(id);
            } else if begun.created.since(began) > Duration::from_secs(60) {
                by_user::tidy(self.store.as_ref(), &self.seals, user, &id).await?;
            }
        }
        let surplus = alive.len().saturating_sub(most);
        for id in alive.iter().filter(|id| **id != begun.id).take(surplus) {
            self.end(id, EndReason::Limit).await?;
        }
        Ok(())
    }

    /// How many sessions this process has ended since its start.
    pub fn ended_count(&self) -> usize {
        self.ended_count.load(Ordering::Relaxed)
    }

    /// Marks the end and says so, once.
    pub(super) fn announce(&self, session: &Arc<Session>, reason: EndReason) {
        if given_back::is_for(reason) {
            session.mark_given_back();
        }
        if session.mark_ended() {
            self.over.remember(session.id);
            self.former.remember(session);
            self.ended_count.fetch_add(1, Ordering::Relaxed);
            self.metrics.sessions_ended(reason);
            let principal = Arc::clone(&session.principal);
            // An error says that nobody listens any more: the gate stops.
            let id = session.id;
            let _ = self.ended.send(Ended { id, principal, reason, elsewhere: false });
        }
    }

    pub(super) async fn forget(&self, id: &SessionId) -> Result<(), SessionError> {
        let _turn = self.turn(id).await;
        self.remove(id, self.cache.get(id).as_deref(), &HashSet::new()).await
    }

    /// From the store first: what is still in there must not be read again. In the session's turn.
    /// Other gates are told before that, because they may have it in memory.
    async fn remove(
        &self,
        id: &SessionId,
        session: Option<&Session>,
        others: &HashSet<SessionId>,
    ) -> Result<(), SessionError> {
        let given_back = session.is_some_and(Session::is_given_back);
        if session.is_some() {
            self.tell_others(id, given_back).await?;
        }
        if self.store.remove(Space::Sessions, &id.0).await? {
            self.tell_others(id, given_back).await?;
        }
        if let Some(session) = session {
            self.give_back(session, others).await;
        }
        if session.is_none_or(|session| session.renewal.is_some()) {
            self.store.remove(Space::Refreshes, &id.0).await?;
        }
        if let Some(session) = session {
            by_login::remove(self.store.as_ref(), &self.seals, session).await?;
            by_user::remove(self.store.as_ref(), &self.seals, session).await?;
        }
        self.cache.remove(id);
        Ok(())
    }
}
