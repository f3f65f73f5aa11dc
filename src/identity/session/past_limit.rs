//! Sessions that no longer count for an application with limits of its own, and live on elsewhere.
//!
//! An application's limits mean what the gate's own would if they were as short. So idle is a
//! session that was once without use for so long, at whatever application: that stays true
//! when it is used again, and what counts is kept with the session, not for each application. A new
//! sign-in is a new session, which has neither age nor idle times.
//!
//! INVARIANT: a limit may strike early by what the stored activity lags behind (after a crash, or
//! where gates share sessions), never late.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{Session, Sessions};
use crate::config::model::SessionLimits;
use crate::domain::clock::Timestamp;

/// The limit of an application that a good session is past.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PastLimit {
    #[error("the sign-in is older than the application takes")]
    TooOld(Duration),
    #[error("the session was idle for longer than the application takes")]
    TooIdle(Duration),
}

impl Sessions {
    /// Whether a session that is good is past an application's limits.
    pub fn past_limit(
        &self,
        session: &Session,
        limits: &SessionLimits,
        wall: Timestamp,
    ) -> Option<PastLimit> {
        let now = self.clock.at(wall);
        let is_old = |most: &Duration| {
            // The provider's time is compared with the system's: the sessions' may be ahead of both.
            let signed_in = session.authentication.auth_time;
            now.since(session.created) >= *most
                || signed_in.is_some_and(|at| wall.since(at) >= *most)
        };
        let is_idle = |most: &Duration| session.longest_idle(now) >= *most;
        let old = limits.absolute_lifetime.filter(is_old).map(PastLimit::TooOld);
        old.or_else(|| limits.idle_timeout.filter(is_idle).map(PastLimit::TooIdle))
    }

    /// Whether a session has been without use here for long enough to matter to some application.
    pub(super) fn was_idle(&self, session: &Session, now: Timestamp) -> bool {
        let shortest = Duration::from_millis(self.shortest_idle_ms.load(Ordering::Relaxed));
        now.since(session.last_seen()) >= shortest
    }
}
