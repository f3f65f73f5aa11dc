//! Several tabs that sign in at once.
//!
//! Each login has a cookie of its own, so each comes back. Without what stands here the second
//! session would end the first, and what the first tab has under way would fail or sign in again.
//!
//! INVARIANT: a login that finds no session that is exactly its own in all but the id makes a new
//! one, and ends what the browser had. So an id that somebody planted is never taken over: a
//! session of the same user, with the same claims, from the same sign-in at the provider, begun
//! after this login, is nobody else's to plant.

use std::sync::Arc;

use crate::domain::canonical::Host;
use crate::domain::clock::Timestamp;
use crate::identity::oidc::Login;
use crate::identity::session::Session;

use super::authenticate::counts_on;
use super::gate::Gate;
use super::refusal::Refusal;

/// The session that another tab of this browser has got from the same sign-in since `login` began.
///
/// # Errors
/// `SessionsUnavailable` when the store does not answer.
pub async fn session_of_another(
    gate: &Gate,
    host: &Host,
    cookie: Option<&str>,
    login: &Login,
    at: Timestamp,
) -> Result<Option<Arc<Session>>, Refusal> {
    let Some(value) = cookie else { return Ok(None) };
    let found = gate.sessions.find(value, at).await.map_err(|error| {
        tracing::error!(%error, "the session store does not answer");
        Refusal::SessionsUnavailable
    })?;
    Ok(found.filter(|session| counts_on(gate, session, host) && is_same(session, login)))
}

fn is_same(session: &Session, login: &Login) -> bool {
    let (has, brings) = (&session.authentication, &login.authentication);
    has.session_started.is_some_and(|started| started >= login.begun)
        && session.provider == login.provider
        && session.vouched_by == login.vouched_by
        && session.sid == login.sid
        && session.principal == login.principal
        // The provider says something by which one sign-in is told from another.
        && (has.auth_time.is_some() || session.sid.is_some())
        && (&has.acr, &has.amr, has.auth_time) == (&brings.acr, &brings.amr, brings.auth_time)
}
