//! A running gate gives its place to a newer process, without a request that fails.
//!
//! SIGUSR2 has the gate start its own binary, which may be a newer one by now, as `run
//! --take-over`. The two talk over a pair of sockets of which the new process has one end as its
//! standard input:
//!
//! | from | message | by then |
//! |---|---|---|
//! | new | `Hello` | its configuration, certificates, policies are good |
//! | old | `Sockets` | with it go all listening sockets and two streams |
//! | new | `Claim` | every listener is open: only store and log are missing |
//! | old | `Released` | both are synced, closed and unlocked; what needs them here waits |
//! | new | `Serving` | both are open there, and clients are about to be accepted |
//!
//! Up to `Claim` nothing has changed: a new process that ends, for a bad configuration or anything
//! else, leaves the old one as it was. From `Claim` to `Serving` requests of the old process that
//! need the store or a record on the disk wait, some milliseconds; if the new process fails then, it
//! is killed and the old one opens both again. At no moment is there a listening socket that nobody
//! holds, so the kernel refuses no connection: both processes accept from the same queues.
//!
//! After `Serving` the old process accepts nothing more, has its clients go (see
//! [`proxy::leave`](crate::proxy::leave)) and serves what they still ask, for as long as they may
//! take. Its store and its audit log are then the new process's: calls and records go over the two
//! streams ([`store::MovableStore`](crate::store::MovableStore), `audit::handover`), and an ended
//! session is told to the other side at once. So logout cuts what is open in either process, one
//! chain of records holds what both decided, and when the new process is gone the old one denies.
//!
//! INVARIANT: store and log have one writer at a time, which holds their locks.
//! INVARIANT: the new process accepts nobody before it has said `Serving`. So what ends there is
//! remembered and told from the first client on, and one that is killed before has ended nothing.

mod link;
mod predecessor;
mod successor;

use link::Link;
pub use predecessor::Predecessor;
pub use successor::{Attempt, Launch, Successor};

use std::os::fd::OwnedFd;

use serde::{Deserialize, Serialize};

use crate::domain::event::EndReason;
use crate::domain::id::SessionId;
use crate::tls::TicketState;

/// Descriptors with their names.
pub type Named = Vec<(String, OwnedFd)>;

/// What the two must agree on. A version that speaks otherwise has another number.
const PROTOCOL: u32 = 1;

/// The names under which the two streams are handed over; no listener's name has a blank.
const STORE: &str = "the store";
const RECORDS: &str = "the records";

/// What one process tells the other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    Hello {
        protocol: u32,
        version: String,
    },
    /// As many descriptors follow, in this order.
    Sockets {
        names: Vec<String>,
        /// A gate of a former version says nothing of them.
        #[serde(default)]
        tickets: Option<TicketState>,
    },
    Claim,
    Released,
    Serving,
    /// A session ended in the process that has the store.
    Ended {
        session: [u8; 32],
        reason: EndReason,
    },
    /// The new process stops, and with it the store. The old one has no more time.
    Stopping,
}

impl Message {
    pub fn ended(session: SessionId, reason: EndReason) -> Self {
        Self::Ended { session: session.0, reason }
    }
}
