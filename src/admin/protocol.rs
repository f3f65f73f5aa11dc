//! What is said over the admin socket: one line of JSON each way, then the connection ends.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::domain::clock::Timestamp;
use crate::domain::suspension::{Subject, Suspension};

/// Longest question, in bytes.
pub const LONGEST_ASK: u64 = 64 * 1024;

/// What an operator asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Ask {
    /// The sessions of one user, or of all: at most this many.
    ListSessions {
        user: Option<Arc<str>>,
        limit: usize,
    },
    ShowSession {
        session: Arc<str>,
    },
    RevokeSessions {
        sessions: Vec<Arc<str>>,
    },
    /// Every session of a user.
    RevokeUser {
        user: Arc<str>,
    },
    ListSuspended {
        subject: Subject,
    },
    Suspend {
        subject: Subject,
        name: Arc<str>,
        reason: Option<Arc<str>>,
    },
    Restore {
        subject: Subject,
        name: Arc<str>,
    },
}

/// What the gate says to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub enum Answer {
    /// The most recently used first. With `more`, there are others.
    Sessions {
        sessions: Vec<SessionLine>,
        more: bool,
    },
    Suspended {
        suspensions: Vec<Suspension>,
    },
    /// It was done. `changed` says whether anything was otherwise before; `sessions`, how many
    /// sessions ended.
    Done {
        changed: bool,
        sessions: usize,
    },
    Failed {
        error: String,
    },
}

/// A session as operators see it: no token, and of the id only the half that records carry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionLine {
    pub session: String,
    pub user: Arc<str>,
    pub name: Option<Arc<str>>,
    pub email: Option<Arc<str>>,
    pub tenant: Option<Arc<str>>,
    pub groups: BTreeSet<Arc<str>>,
    pub provider: Arc<str>,
    pub host: Option<Arc<str>>,
    pub acr: Option<Arc<str>>,
    pub amr: BTreeSet<Arc<str>>,
    pub started: Timestamp,
    pub last_used: Timestamp,
    /// At the latest.
    pub expires: Timestamp,
}
