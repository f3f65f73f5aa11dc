//! What an identity provider said of a user is worth only so much for so long: sessions are refreshed
//! while they are used, and wait for it only when they have to.
//!
//! INVARIANT: on claims older than the provider's `refresh.max_age` nothing is allowed, and nothing
//! stays open. The gate's own pages do without: signing out must not depend on the provider.

use std::sync::Arc;

use tokio::time::{Instant, timeout_at};

use crate::domain::clock::Timestamp;
use crate::identity::oidc::Provider;
use crate::identity::session::{Freshness, Session};

use super::gate::Gate;
use super::refusal::Refusal;

/// Another gate may have done it a while ago, so that it is due again.
const ROUNDS: usize = 3;

/// How much the claims are worth. Begins a refresh where one is due, and never waits.
pub fn look(
    gate: &Gate,
    provider: &Arc<Provider>,
    session: &Arc<Session>,
    now: Timestamp,
) -> Freshness {
    let freshness = gate.sessions.freshness(session, provider.pace(), now);
    if freshness != Freshness::Fresh {
        // It goes on without anybody who waits.
        drop(gate.sessions.begin_refresh(session, provider, now));
    }
    freshness
}

/// The session with claims that may be used; waits for a refresh where it takes one, for as long as a
/// call to the provider may take. `None`: it is over.
///
/// # Errors
/// `IdentityUnconfirmed`; `SessionsUnavailable` when the store does not answer.
pub async fn confirmed(
    gate: &Gate,
    provider: &Arc<Provider>,
    session: &Session,
    now: Timestamp,
) -> Result<Option<Arc<Session>>, Refusal> {
    let deadline = Instant::now() + provider.timeout();
    for _ in 0..ROUNDS {
        let Some(newest) = newest(gate, session, now).await? else { return Ok(None) };
        match look(gate, provider, &newest, now) {
            Freshness::Fresh | Freshness::Soon => return Ok(Some(newest)),
            // It is known not to answer: what is known will do.
            Freshness::Due if provider.is_out() => return Ok(Some(newest)),
            Freshness::Due | Freshness::Stale => {}
        }
        let Some(flight) = gate.sessions.begin_refresh(&newest, provider, now) else { break };
        if timeout_at(deadline, flight.landed()).await.is_err() {
            break;
        }
    }
    let Some(newest) = newest(gate, session, now).await? else { return Ok(None) };
    // The wait may have taken long.
    match gate.sessions.freshness(&newest, provider.pace(), gate.clock.now()) {
        Freshness::Stale => {
            Err(Refusal::IdentityUnconfirmed { principal: Arc::clone(&newest.principal.id) })
        }
        _ => Ok(Some(newest)),
    }
}

async fn newest(
    gate: &Gate,
    session: &Session,
    now: Timestamp,
) -> Result<Option<Arc<Session>>, Refusal> {
    gate.sessions.reread(session, now).await.map_err(|error| {
        tracing::error!(%error, "the session store does not answer");
        Refusal::SessionsUnavailable
    })
}
