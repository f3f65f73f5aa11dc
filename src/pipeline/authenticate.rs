//! Stage 5: who asks.
//!
//! INVARIANT: no credentials and bad credentials are never the same value, a store that doesn't
//! answer is never "no session", and nothing falls through to an anonymous principal.

use std::sync::Arc;

use http::HeaderMap;

use crate::domain::clock::Timestamp;
use crate::identity::cookie::{self, CookieState};
use crate::identity::session::{Cached, Session};

use super::gate::Gate;
use super::refusal::Refusal;

#[derive(Debug)]
pub enum Authenticated {
    /// The client sent no credentials.
    NotAttempted,
    Session(Arc<Session>),
    /// The client sent a session cookie of a session that is over, or that never was.
    Failed,
}

impl Authenticated {
    pub fn required(self) -> Result<Arc<Session>, Refusal> {
        match self {
            Self::Session(session) => Ok(session),
            Self::NotAttempted => Err(Refusal::Unauthenticated { stale: false }),
            Self::Failed => Err(Refusal::Unauthenticated { stale: true }),
        }
    }
}

/// # Errors
/// `Malformed` when the cookie comes twice, `SessionsUnavailable` when the store does not answer.
pub async fn authenticate(
    gate: &Gate,
    headers: &HeaderMap,
    at: Timestamp,
) -> Result<Authenticated, Refusal> {
    let value = match cookie::session_cookie(headers) {
        CookieState::Absent => return Ok(Authenticated::NotAttempted),
        CookieState::Present(value) => value,
        CookieState::Ambiguous => {
            return Err(Refusal::Malformed("the session cookie came twice"));
        }
    };
    if let Cached::Hit(session) = gate.sessions.find_cached(value, at) {
        return Ok(Authenticated::Session(session));
    }
    match gate.sessions.find(value, at).await {
        Ok(Some(session)) => Ok(Authenticated::Session(session)),
        Ok(None) => Ok(Authenticated::Failed),
        Err(error) => {
            tracing::error!(%error, "the session store does not answer");
            Err(Refusal::SessionsUnavailable)
        }
    }
}
