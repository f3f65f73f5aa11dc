//! Whose a session was that is over, as long as that is known: what is kept for a user while signed
//! out is for that user only. Nothing is allowed because of it.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::{Session, Sessions, session_id};
use crate::domain::id::SessionId;

/// Sessions that are remembered at most; the oldest are forgotten.
const MAX_REMEMBERED: usize = 20_000;

#[derive(Debug, Default)]
pub(super) struct Former(parking_lot::Mutex<Remembered>);

#[derive(Debug, Default)]
struct Remembered {
    principals: HashMap<SessionId, Arc<str>>,
    order: VecDeque<SessionId>,
}

impl Former {
    pub(super) fn remember(&self, session: &Session) {
        let mut remembered = self.0.lock();
        let principal = Arc::clone(&session.principal.id);
        if remembered.principals.insert(session.id, principal).is_none() {
            remembered.order.push_back(session.id);
        }
        while remembered.order.len() > MAX_REMEMBERED {
            if let Some(oldest) = remembered.order.pop_front() {
                remembered.principals.remove(&oldest);
            }
        }
    }
}

impl Sessions {
    /// The id of the principal of an ended session, as far as this process knows.
    pub fn former_principal(&self, cookie_value: &str) -> Option<Arc<str>> {
        let id = session_id(cookie_value)?;
        self.former.0.lock().principals.get(&id).cloned()
    }
}
