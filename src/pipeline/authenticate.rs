//! Who asks.
//!
//! INVARIANT: no credentials and bad credentials are never the same value, a store that doesn't
//! answer is never "no session", and nothing falls through to an anonymous principal.

use std::sync::Arc;
use std::time::Instant;

use http::HeaderMap;

use crate::config::model::Route;
use crate::domain::clock::Timestamp;
use crate::identity::cookie::{self, CookieState};
use crate::identity::session::Session;

use super::client::ClientConnection;
use super::gate::Gate;
use super::refusal::Refusal;
use super::suspended;

#[derive(Debug)]
pub enum Authenticated {
    /// The client sent no credentials.
    NotAttempted,
    Session(Arc<Session>),
    /// The client sent a session cookie of a session that is over, that never was, or that a
    /// former identity provider vouched for.
    Failed,
    /// The session is good, but its user signed in with a provider that this route doesn't take.
    NotTaken,
}

impl Authenticated {
    pub fn required(self) -> Result<Arc<Session>, Refusal> {
        match self {
            Self::Session(session) => Ok(session),
            // The session goes on where it is taken: its cookie stays until another replaces it.
            Self::NotAttempted | Self::NotTaken => Err(Refusal::Unauthenticated { stale: false }),
            Self::Failed => Err(Refusal::Unauthenticated { stale: true }),
        }
    }
}

/// `at` and `begun` are when the request came, by the two clocks. `route` is what is asked for; none
/// where it is one of the gate's own pages.
///
/// # Errors
/// `Malformed` when the cookie comes twice, `SessionsUnavailable` when the store does not answer, or
/// when it can't be known what other gates ended; `Suspended`.
pub async fn authenticate(
    gate: &Gate,
    connection: &ClientConnection,
    headers: &HeaderMap,
    at: Timestamp,
    begun: Instant,
    route: Option<&Route>,
) -> Result<Authenticated, Refusal> {
    // Its shape is looked at where it is read.
    let value = match cookie::unique(headers, cookie::SESSION_COOKIE) {
        CookieState::Absent => return Ok(Authenticated::NotAttempted),
        CookieState::Present(value) => value,
        // As good as one of a session that never was: the browser gets rid of it by signing in.
        CookieState::Malformed => return Ok(Authenticated::Failed),
        CookieState::Ambiguous => {
            return Err(Refusal::Malformed("the session cookie came twice"));
        }
    };
    if let Some(session) = connection.told().session(&gate.sessions, value, at) {
        if !gate.sessions.is_confirmed(begun) {
            return Err(Refusal::SessionsUnavailable);
        }
        return known(gate, connection, session, at, route);
    }
    match gate.sessions.find(value, at).await {
        Ok(Some(session)) => known(gate, connection, session, at, route),
        Ok(None) => Ok(Authenticated::Failed),
        Err(error) => {
            tracing::error!(%error, "the session store does not answer");
            Err(Refusal::SessionsUnavailable)
        }
    }
}

fn known(
    gate: &Gate,
    connection: &ClientConnection,
    session: Arc<Session>,
    at: Timestamp,
    route: Option<&Route>,
) -> Result<Authenticated, Refusal> {
    if !is_trusted(gate, &session) {
        return Ok(Authenticated::Failed);
    }
    suspended::refuse(gate, connection, &session.principal, at)?;
    if route.is_none_or(|route| route.takes(&session.provider)) {
        Ok(Authenticated::Session(session))
    } else {
        Ok(Authenticated::NotTaken)
    }
}

/// Whether the identity provider that vouched for the session is still a configured one. Asked of
/// the snapshot in force, so that a provider that was taken out vouches for nobody any more.
pub fn is_trusted(gate: &Gate, session: &Session) -> bool {
    gate.snapshot.load().providers.named(&session.provider).is_some()
}
