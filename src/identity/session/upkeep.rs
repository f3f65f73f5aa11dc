//! What keeps memory and store together: sweeping, writing back, purging.

use std::sync::Arc;

use super::cache::{Cache, STRIPES};
use super::{SWEEP, Session, SessionError, Sessions};
use crate::store::{Entry, Space};

impl Sessions {
    /// Runs for as long as the process: writes back, sweeps, purges. On any one runtime.
    pub async fn maintain(&self) {
        let mut every = tokio::time::interval(SWEEP);
        loop {
            every.tick().await;
            if let Err(error) = self.sweep().await {
                tracing::warn!(%error, "sessions could not be swept; the next try is in {SWEEP:?}");
            }
        }
    }

    /// One round of [`Sessions::maintain`].
    pub async fn sweep(&self) -> Result<(), SessionError> {
        let now = self.clock.tick(self.store.as_ref()).await?;
        for session in self.cache.matching(&|session| session.end_due(now, self.idle()).is_some()) {
            // What the store has against it is told below.
            let asked = self.ask_peer(&session, now).await.is_ok();
            if let Some(reason) = session.end_due(now, self.idle())
                && (self.is_for_all(reason) || asked && self.is_idle_everywhere(&session, now))
            {
                self.announce(&session, reason);
            }
        }
        self.write_back().await?;
        // Ends whose removal from the store failed earlier, or was cut short.
        for session in self.cache.matching(&Session::has_ended) {
            self.forget(&session.id).await?;
        }
        self.metrics.sessions_active.set(i64::try_from(self.cache.len()).unwrap_or(i64::MAX));
        self.store.purge(Space::Sessions, now).await?;
        self.store.purge(Space::SessionsOfLogins, now).await?;
        self.store.purge(Space::SessionsOfUsers, now).await?;
        self.store.purge(Space::Refreshes, now).await?;
        // Used logins are dated by the system's clock. Sessions may be ahead of it, and a state that
        // is purged too early could be used again.
        self.store.purge(Space::Logins, self.clock.wall()).await?;
        self.store.purge(Space::KeptForms, self.clock.wall()).await?;
        Ok(())
    }

    /// Writes what is queued: activity of live sessions, removal of ended ones. Also at shutdown.
    pub async fn write_back(&self) -> Result<(), SessionError> {
        let mut queued = self.queued.lock().await;
        let mut stripes: Vec<Vec<Arc<Session>>> = vec![Vec::new(); STRIPES];
        while let Ok(id) = queued.try_recv() {
            let Some(session) = self.cache.get(&id) else { continue };
            if let Some(stripe) = stripes.get_mut(Cache::stripe(&id)) {
                stripe.push(session);
            }
        }
        let mut result = Ok(());
        for sessions in stripes {
            if result.is_ok() {
                result = self.write_together(&sessions).await;
            }
            if result.is_err() {
                // The next request of each asks for it again; the next sweep finds those that ended.
                sessions.iter().for_each(|session| session.not_written());
            }
        }
        result
    }

    /// Sessions of one stripe, which take one turn and one commit together.
    async fn write_together(&self, sessions: &[Arc<Session>]) -> Result<(), SessionError> {
        for session in sessions.iter().filter(|session| session.has_ended()) {
            self.forget(&session.id).await?;
        }
        let Some(any) = sessions.first() else { return Ok(()) };
        let _turn = self.turn(&any.id).await;
        let alive = sessions.iter().filter(|session| !session.has_ended());
        let entries: Option<Vec<Entry>> = alive.map(|session| self.entry(session)).collect();
        let entries = entries.ok_or(SessionError::Internal)?;
        if !entries.is_empty() {
            self.store.replace_all(Space::Sessions, entries).await?;
        }
        Ok(())
    }
}
