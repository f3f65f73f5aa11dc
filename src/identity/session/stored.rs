//! Sessions as the store has them: sealed, each under its own id.

use std::sync::Arc;

use super::state::Record;
use super::{Session, SessionError, Sessions, WRITE_BACK};
use crate::domain::id::SessionId;
use crate::identity::seal::Unopened;
use crate::store::{Entry, Space};

impl Sessions {
    pub(super) async fn write(&self, session: &Session) -> Result<(), SessionError> {
        let Entry { key, value, expires } = self.entry(session).ok_or(SessionError::Internal)?;
        Ok(self.store.put(Space::Sessions, &key, &value, expires).await?)
    }

    /// What the store keeps of a session.
    pub(super) fn entry(&self, session: &Session) -> Option<Entry> {
        let value = Record::of(session).encode()?;
        let value = self.seals.seal(Space::Sessions, &session.id.0, value)?;
        // The store may purge it once it is idle for good; a request's own touch comes before.
        let idle_end = session.last_seen().plus(self.idle()).plus(WRITE_BACK * 2);
        let expires = session.expires.min(idle_end);
        Some(Entry { key: session.id.0.to_vec(), value, expires })
    }

    /// The session that the store has under an id.
    ///
    /// # Errors
    /// The store failed, or what it has doesn't open.
    pub(super) async fn stored(
        &self,
        id: &SessionId,
    ) -> Result<Option<Arc<Session>>, SessionError> {
        let Some(bytes) = self.store.get(Space::Sessions, &id.0).await? else { return Ok(None) };
        let Some(record) = self.opened(id, &bytes)? else { return Ok(None) };
        let renewal = if record.refreshed { self.stored_renewal(id).await? } else { None };
        Ok(Some(record.into_session(*id, renewal.as_ref())))
    }

    /// What a stored value says; `None` when it is of a former version, which is as good as none.
    pub(super) fn opened(
        &self,
        id: &SessionId,
        bytes: &[u8],
    ) -> Result<Option<Record>, SessionError> {
        let unreadable = |cause| SessionError::Unreadable { session: id.short(), cause };
        match self.seals.open(Space::Sessions, &id.0, bytes) {
            Ok(plain) => {
                Record::decode(&plain).map(Some).ok_or_else(|| unreadable(Unopened::Broken))
            }
            Err(cause @ Unopened::Former) => {
                tracing::info!(session = %id.short(), %cause, "a stored session is left out");
                Ok(None)
            }
            Err(cause @ Unopened::Broken) => Err(unreadable(cause)),
        }
    }
}
