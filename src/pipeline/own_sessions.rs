//! A user's own sessions: listed on `/.wicketgate/me`, and ended from there.
//!
//! INVARIANT: nobody ends another's session, and nobody's page ends one for him: the form comes from
//! the same origin, carries the token of the session that it was shown in, and names a session by a
//! part of its id that is looked for among the user's own only.

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Response};

use crate::domain::canonical::CanonicalRequest;
use crate::domain::event::EndReason;
use crate::identity::session::Session;
use crate::pages::OwnSession;

use super::gate::Gate;
use super::guard;
use super::receive::Arrival;
use super::refusal::Refusal;
use super::reply;
use super::reserved::{check_form_token, leave, parameter, unavailable, who};

/// What a form on the page asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// The end of one other session.
    End,
    /// The end of all, this one among them.
    EndAll,
}

impl Wish {
    /// By the path below `/.wicketgate`.
    pub fn of(path: &str) -> Option<Self> {
        match path {
            "/me/end" => Some(Self::End),
            "/me/end-all" => Some(Self::EndAll),
            _ => None,
        }
    }
}

/// # Errors
/// `SessionsUnavailable` when the store does not answer.
pub async fn list(
    gate: &Gate,
    arrival: &Arrival,
    session: &Session,
) -> Result<Vec<OwnSession>, Refusal> {
    let user = &session.principal.id;
    let sessions = gate.sessions.of_user(user, arrival.at).await.map_err(unavailable)?;
    let mut own: Vec<OwnSession> = sessions
        .iter()
        .map(|own| OwnSession {
            id: own.id.short(),
            current: own.id == session.id,
            started: own.created,
            last_seen: own.last_seen(),
            host: own.host.clone(),
            provider: provider(arrival, own),
        })
        .collect();
    own.sort_by_key(|own| std::cmp::Reverse(own.last_seen));
    Ok(own)
}

/// How many others the user has. None as long as the store does not say: that is no reason to keep
/// anybody from signing out.
pub async fn others(gate: &Gate, arrival: &Arrival, session: &Session) -> usize {
    let found = gate.sessions.of_user(&session.principal.id, arrival.at).await;
    found.map_or(0, |found| found.iter().filter(|own| own.id != session.id).count())
}

fn provider(arrival: &Arrival, session: &Session) -> Arc<str> {
    match arrival.snapshot.providers.named(&session.provider) {
        Some(provider) => provider.display_name().into(),
        None => Arc::clone(&session.provider),
    }
}

/// Answers the page's forms.
///
/// # Errors
/// A refusal, which is recorded and answered like any other.
pub async fn end(
    gate: &Gate,
    arrival: &Arrival,
    request: &CanonicalRequest,
    wish: Wish,
) -> Result<Response<Bytes>, Refusal> {
    if arrival.head.method != Method::POST {
        return Err(Refusal::Method { allow: "POST" });
    }
    guard::same_origin(&arrival.head.headers, &request.authority)?;
    let session = who(gate, arrival).await?.required()?;
    check_form_token(arrival, request)?;
    let user = &session.principal.id;
    match wish {
        Wish::EndAll => {
            gate.sessions.end_user(user, EndReason::Logout).await.map_err(unavailable)?;
            Ok(leave(arrival, request, &session))
        }
        Wish::End => {
            let named = parameter(request, "session").unwrap_or_default();
            let sessions = gate.sessions.of_user(user, arrival.at).await.map_err(unavailable)?;
            // One that is over already is as good as ended.
            for own in sessions.iter().filter(|own| own.id.short() == named) {
                gate.sessions.end(&own.id, EndReason::Logout).await.map_err(unavailable)?;
            }
            Ok(reply::see_other(arrival.id, "/.wicketgate/me"))
        }
    }
}
