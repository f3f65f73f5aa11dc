//! `session`.

use std::time::Duration;

use crate::config::secret::Secret;
use crate::domain::canonical::Host;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Default 30 min.
    pub idle_timeout: Duration,
    /// Default 10 h.
    pub absolute_lifetime: Duration,
    /// The shortest idle timeout of an application, where one has its own.
    pub shortest_idle: Option<Duration>,
    /// Largest form that is kept over a sign-in, in bytes. Default 64 KiB; none where it is zero.
    pub keep_forms: u64,
    /// The host that all others send their users to sign in at. None by default: each host signs
    /// its users in itself.
    pub sign_in_host: Option<Host>,
    /// Sessions of one user at once. Default 100: more than anybody needs, fewer than whoever
    /// signs in in a loop would fill the store with.
    pub max_per_user: usize,
    /// What the key of the records is wrapped with, the newest first. Empty: it isn't.
    pub keys: Vec<Secret>,
}

impl Default for Session {
    fn default() -> Self {
        Self {
            idle_timeout: Duration::from_secs(30 * 60),
            absolute_lifetime: Duration::from_secs(10 * 3600),
            shortest_idle: None,
            keep_forms: 64 << 10,
            sign_in_host: None,
            max_per_user: 100,
            keys: Vec::new(),
        }
    }
}

/// For how long a session counts for an application, where that is shorter than it lasts. One of them
/// at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionLimits {
    /// Between two signs of use, anywhere.
    pub idle_timeout: Option<Duration>,
    /// From the sign-in.
    pub absolute_lifetime: Option<Duration>,
}
