//! The session of a connection's last request, which the next one nearly always comes with too.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::constant_time;

use super::{Session, Sessions};
use crate::config::secret::Secret;
use crate::domain::clock::Timestamp;

/// A cookie's value and the session it was found to name. To be kept where nobody but the client
/// itself causes it to be asked: with its connection.
pub struct Known {
    value: Secret,
    session: Arc<Session>,
}

impl fmt::Debug for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Known").field("session", &self.session.id.short()).finish_non_exhaustive()
    }
}

impl Known {
    pub fn new(cookie_value: &str, session: &Arc<Session>) -> Self {
        Self { value: Secret::new(cookie_value), session: Arc::clone(session) }
    }
}

impl Sessions {
    /// As [`Sessions::find_cached`], for a value that was found before. A session that somebody
    /// holds stays in the cache, so it is the one that would be found there.
    pub fn find_known(
        &self,
        known: &Known,
        cookie_value: &str,
        now: Timestamp,
    ) -> Option<Arc<Session>> {
        let (value, asked) = (known.value.expose().as_bytes(), cookie_value.as_bytes());
        // A connection of a trusted proxy carries requests of many.
        constant_time::verify_slices_are_equal(value, asked).ok()?;
        let session = &known.session;
        let is_good = session.is_current() && self.admit(session, self.clock.at(now));
        is_good.then(|| Arc::clone(session))
    }
}
