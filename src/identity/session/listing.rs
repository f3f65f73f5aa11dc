//! Sessions as people see them.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Session, SessionError, Sessions, by_user};
use crate::domain::clock::Timestamp;
use crate::domain::id::SessionId;
use crate::store::Space;

impl Sessions {
    /// The sessions that a user has at `now`, the oldest first. One whose record doesn't open is
    /// left out, and logged.
    ///
    /// # Errors
    /// The store failed.
    pub async fn of_user(
        &self,
        user: &str,
        now: Timestamp,
    ) -> Result<Vec<Arc<Session>>, SessionError> {
        let now = self.clock.at(now);
        let mut sessions = Vec::new();
        for (_, id) in by_user::find(self.store.as_ref(), &self.seals, user).await? {
            let session = match self.cache.get(&id) {
                Some(session) => Some(session),
                None => match self.stored(&id).await {
                    Err(error @ SessionError::Unreadable { .. }) => {
                        tracing::error!(%error, "a session is left out of a list");
                        None
                    }
                    stored => stored?,
                },
            };
            sessions.extend(session.filter(|session| self.lasts(session, now)));
        }
        Ok(sessions)
    }

    /// As many sessions as are wanted, whosesoever, and whether there are more.
    ///
    /// # Errors
    /// The store failed.
    pub async fn some(
        &self,
        most: usize,
        now: Timestamp,
    ) -> Result<(Vec<Arc<Session>>, bool), SessionError> {
        let now = self.clock.at(now);
        let mut found = Vec::new();
        for part in 0..=u8::MAX {
            let part = self.part(part).await?;
            found.extend(part.into_iter().filter(|session| self.lasts(session, now)));
            if found.len() > most {
                found.truncate(most);
                return Ok((found, true));
            }
        }
        Ok((found, false))
    }

    /// The session of an id's first half, as [`SessionId::short`] writes it.
    ///
    /// # Errors
    /// The store failed.
    pub async fn named(
        &self,
        short: &str,
        now: Timestamp,
    ) -> Result<Option<Arc<Session>>, SessionError> {
        let now = self.clock.at(now);
        let digits = short.len() == 16 && short.bytes().all(|digit| digit.is_ascii_hexdigit());
        let Some(first) = u64::from_str_radix(short, 16).ok().filter(|_| digits) else {
            return Ok(None);
        };
        let found = self.beginning_with(&first.to_be_bytes()).await?;
        Ok(found.into_iter().find(|session| self.lasts(session, now)))
    }

    /// The stored sessions whose id begins with this byte: so that nobody has all in memory at
    /// once. What doesn't open is left out, and logged.
    pub(super) async fn part(&self, part: u8) -> Result<Vec<Arc<Session>>, SessionError> {
        self.beginning_with(&[part]).await
    }

    pub(super) async fn beginning_with(
        &self,
        prefix: &[u8],
    ) -> Result<Vec<Arc<Session>>, SessionError> {
        let mut sessions = Vec::new();
        // Read at the first that has one.
        let mut renewals = None;
        for (key, value) in self.store.scan(Space::Sessions, prefix).await? {
            let Ok(id) = <[u8; 32]>::try_from(key).map(SessionId) else { continue };
            if let Some(session) = self.cache.get(&id) {
                sessions.push(session);
                continue;
            }
            let opened = match self.opened(&id, &value) {
                Ok(Some(record)) if record.refreshed => {
                    if renewals.is_none() {
                        renewals = Some(self.renewals(prefix).await?);
                    }
                    let renewal = renewals.as_ref().and_then(|known| known.get(&id));
                    let renewal = renewal.map(|sealed| self.opened_renewal(&id, sealed));
                    renewal.transpose().map(|renewal| Some((record, renewal)))
                }
                opened => opened.map(|record| record.map(|record| (record, None))),
            };
            match opened {
                Ok(found) => sessions.extend(
                    found.map(|(record, renewal)| record.into_session(id, renewal.as_ref())),
                ),
                Err(error) => tracing::error!(%error, "a session is left out of a list"),
            }
        }
        Ok(sessions)
    }

    /// What the provider said last of those whose id begins so. Sealed.
    async fn renewals(&self, prefix: &[u8]) -> Result<HashMap<SessionId, Vec<u8>>, SessionError> {
        let found = self.store.scan(Space::Refreshes, prefix).await?;
        let ids = found.into_iter().filter_map(|(key, value)| {
            // Longer keys are not sessions'.
            Some((SessionId(<[u8; 32]>::try_from(key).ok()?), value))
        });
        Ok(ids.collect())
    }

    pub(super) fn lasts(&self, session: &Session, now: Timestamp) -> bool {
        !session.has_ended() && session.end_due(now, self.idle()).is_none()
    }
}
