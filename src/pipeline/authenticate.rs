//! Who asks.
//!
//! INVARIANT: no credentials and bad credentials are never the same value, a store that doesn't
//! answer is never "no session", and nothing falls through to an anonymous principal.
//! INVARIANT: a route sees only the kinds of credential that it takes, and an access token is judged
//! alone: a good session beside it doesn't make up for a bad one. The gate's own pages take sessions
//! only.

use std::sync::Arc;
use std::time::Instant;

use http::HeaderMap;
use http::header::AUTHORIZATION;

use crate::config::model::Route;
use crate::domain::canonical::Host;
use crate::domain::clock::Timestamp;
use crate::domain::suspension::Subject;
use crate::identity::bearer::{self, AccessToken, BearerError};
use crate::identity::cookie::{self, CookieState};
use crate::identity::credential::Credential;
use crate::identity::oidc::Provider;
use crate::identity::session::{Freshness, Session};

use super::client::ClientConnection;
use super::gate::Gate;
use super::receive::Arrival;
use super::refresh;
use super::refusal::Refusal;
use super::route::RouteEntry;
use super::sign_in_again::{self, SignInAgain};
use super::snapshot::Snapshot;
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
    /// The session is good, and over for this application.
    SignInAgain(Box<SignInAgain>),
}

impl Authenticated {
    pub fn required(self) -> Result<Arc<Session>, Refusal> {
        match self {
            Self::Session(session) => Ok(session),
            // The session goes on where it is taken: its cookie stays until another replaces it.
            Self::NotAttempted | Self::NotTaken => Err(Refusal::Unauthenticated { stale: false }),
            Self::Failed => Err(Refusal::Unauthenticated { stale: true }),
            Self::SignInAgain(wanted) => Err(Refusal::SignInAgain(wanted)),
        }
    }
}

/// Who asks for something behind a route.
///
/// # Errors
/// `Unauthenticated`, `SignInAgain`, `TokenRequired` and `CertificateRequired` when nobody says so, `Token` when what was said is not
/// good, and those of [`authenticate`].
pub async fn caller(
    gate: &Gate,
    arrival: &Arrival,
    route: &RouteEntry,
) -> Result<Credential, Refusal> {
    let headers = &arrival.head.headers;
    let accepted = &route.config.accepted;
    if accepted.bearer
        && let Some(token) = bearer::presented(headers)?
    {
        return Box::pin(access_token(gate, arrival, route, token)).await;
    }
    if accepted.session {
        let told = authenticate(
            gate,
            &arrival.connection,
            headers,
            arrival.at,
            arrival.begun,
            &route.config.host,
            Some(&route.config),
        )
        .await?;
        match told {
            Authenticated::NotAttempted if accepted.certificate => {}
            told => return told.required().map(Credential::Session),
        }
    }
    if accepted.certificate
        && let Some(service) = arrival.connection.told().service(arrival)
    {
        return not_shut_out(gate, arrival, Credential::Certificate(service));
    }
    Err(match (accepted.session, accepted.bearer) {
        (true, _) => Refusal::Unauthenticated { stale: false },
        (false, true) => Refusal::TokenRequired,
        (false, false) => Refusal::CertificateRequired,
    })
}

/// Whether the request was judged by an access token.
pub fn brought_token(arrival: &Arrival) -> bool {
    let takes = arrival.route.as_ref().is_some_and(|route| route.config.accepted.bearer);
    takes && arrival.head.headers.contains_key(AUTHORIZATION)
}

async fn access_token(
    gate: &Gate,
    arrival: &Arrival,
    route: &RouteEntry,
    text: &str,
) -> Result<Credential, Refusal> {
    let bearers = &arrival.snapshot.bearers;
    let token = match bearers.known(text, arrival.at) {
        Some(token) => token,
        None => {
            // On the heap, so that requests with a known token stay as small as they are.
            let verified = Box::pin(bearers.verify(text, arrival.at)).await;
            gate.metrics.access_tokens(match &verified {
                Ok(_) => "verified",
                Err(BearerError::Unavailable(_)) => "unavailable",
                Err(_) => "refused",
            });
            verified?
        }
    };
    if !route.config.takes(token.provider()) {
        return Err(BearerError::Issuer.into());
    }
    if !is_for(&token, &route.config) {
        return Err(BearerError::Audience.into());
    }
    let token = Credential::Token(token);
    is_bound(&arrival.snapshot, &arrival.connection, &token, arrival.at)?;
    not_shut_out(gate, arrival, token)
}

/// Who is suspended stands in the store: what this gate can't know of it is no "no".
fn not_shut_out(
    gate: &Gate,
    arrival: &Arrival,
    credential: Credential,
) -> Result<Credential, Refusal> {
    if !gate.sessions.is_confirmed(arrival.begun) {
        return Err(Refusal::SessionsUnavailable);
    }
    suspended::refuse(gate, &arrival.connection, credential.principal(), arrival.at)?;
    Ok(credential)
}

/// Whether the certificate that a token may be bound to is this connection's, and still counts
/// (RFC 8705, section 3).
///
/// # Errors
/// `Certificate`.
fn is_bound(
    snapshot: &Snapshot,
    connection: &ClientConnection,
    credential: &Credential,
    now: Timestamp,
) -> Result<(), BearerError> {
    match credential {
        Credential::Token(token) if token.bound_to.is_some() => {
            let presented = connection.client_certificate.as_deref();
            token.check_binding(presented.filter(|der| snapshot.devices.is_current(der, now)))
        }
        _ => Ok(()),
    }
}

/// Whether the token was issued for this route's audience.
fn is_for(token: &AccessToken, route: &Route) -> bool {
    let Some(wanted) = &route.accepted.audience else { return true };
    token.audiences.contains(wanted)
}

/// Whether the route takes this credential, as it is configured now.
pub fn is_taken(route: &Route, credential: &Credential) -> bool {
    match credential {
        Credential::Session(_) => route.accepted.session,
        Credential::Token(token) => route.accepted.bearer && is_for(token, route),
        Credential::Certificate(_) => route.accepted.certificate,
    }
}

/// Why a credential that was taken no longer counts, for nothing at all: what is opened with it is
/// cut, and what waits with it is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoLongerCounts {
    Suspended(Subject),
    Ended,
    /// Nobody knows what other gates ended.
    Unconfirmed,
    /// What the provider said of the user is too old.
    Stale,
}

/// Whether a credential that was taken on a connection still counts there, at `now` and `moment` by
/// the two clocks. The one question of whoever holds one for longer than a request takes to decide.
///
/// # Errors
/// Why not. A suspension comes before the end of a session, which follows from it: records say why.
pub fn still_counts(
    gate: &Gate,
    snapshot: &Snapshot,
    connection: &ClientConnection,
    credential: &Credential,
    (now, moment): (Timestamp, Instant),
) -> Result<(), NoLongerCounts> {
    if let Some(subject) = suspended::find(gate, connection, credential.principal(), now) {
        return Err(NoLongerCounts::Suspended(subject));
    }
    if !is_good(gate, snapshot, credential, now)
        || is_bound(snapshot, connection, credential, now).is_err()
    {
        return Err(NoLongerCounts::Ended);
    }
    // Of tokens and certificates as well: who is suspended stands in the store.
    if !gate.sessions.is_confirmed(moment) {
        return Err(NoLongerCounts::Unconfirmed);
    }
    if is_stale(gate, snapshot, credential, now) { Err(NoLongerCounts::Stale) } else { Ok(()) }
}

/// A refresh that is due begins.
fn is_stale(gate: &Gate, snapshot: &Snapshot, credential: &Credential, now: Timestamp) -> bool {
    let Credential::Session(session) = credential else { return false };
    vouching(snapshot, session)
        .is_some_and(|provider| refresh::look(gate, provider, session, now) == Freshness::Stale)
}

fn is_good(gate: &Gate, snapshot: &Snapshot, credential: &Credential, now: Timestamp) -> bool {
    match credential {
        Credential::Session(session) => {
            gate.sessions.is_alive(&session.id, now) && vouching(snapshot, session).is_some()
        }
        Credential::Token(token) => now < token.expires && snapshot.bearers.trusts(token),
        Credential::Certificate(known) => snapshot
            .devices
            .service(&known.der, now)
            .is_some_and(|service| service == known.principal),
    }
}

/// `at` and `begun` are when the request came, by the two clocks. `host` is the one that is
/// asked for, `route` is what is asked for; none where it is one of the gate's own pages.
///
/// # Errors
/// `Malformed` when the cookie comes twice, `SessionsUnavailable` when the store does not answer, or
/// when it can't be known what other gates ended; `IdentityUnconfirmed` when it can't be known who the
/// user is now; `Suspended`.
pub async fn authenticate(
    gate: &Gate,
    connection: &ClientConnection,
    headers: &HeaderMap,
    at: Timestamp,
    begun: Instant,
    host: &Host,
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
    let at_hand = connection.told().session(&gate.sessions, value, at);
    let ask = match at_hand {
        Some(_) if !gate.sessions.is_confirmed(begun) => return Err(Refusal::SessionsUnavailable),
        Some(session) => match known(gate, connection, session, at, host, route)? {
            Told::Answer(answer) => return Ok(answer),
            ask => Some(ask),
        },
        None => None,
    };
    // On the heap, as all that is rare: a request is moved about as a whole.
    Box::pin(find(gate, connection, value, ask, at, host, route)).await
}

/// What is told of a session that is good as such.
enum Told {
    Answer(Authenticated),
    /// The provider has to be asked first.
    Ask(Arc<Provider>, Arc<Session>),
}

/// The rest, where the session has to be read, or its provider to be asked.
async fn find(
    gate: &Gate,
    connection: &ClientConnection,
    value: &str,
    told: Option<Told>,
    at: Timestamp,
    host: &Host,
    route: Option<&Route>,
) -> Result<Authenticated, Refusal> {
    let told = match told {
        Some(told) => told,
        None => {
            let found = gate.sessions.find(value, at).await.map_err(|error| {
                tracing::error!(%error, "the session store does not answer");
                Refusal::SessionsUnavailable
            })?;
            let Some(session) = found else { return Ok(Authenticated::Failed) };
            known(gate, connection, session, at, host, route)?
        }
    };
    match told {
        Told::Answer(answer) => Ok(answer),
        Told::Ask(provider, session) => {
            let session = refresh::confirmed(gate, &provider, &session, at).await?;
            confirmed(gate, connection, session, at, route)
        }
    }
}

fn known(
    gate: &Gate,
    connection: &ClientConnection,
    session: Arc<Session>,
    at: Timestamp,
    host: &Host,
    route: Option<&Route>,
) -> Result<Told, Refusal> {
    let snapshot = gate.snapshot.load();
    let provider = vouching(&snapshot, &session).filter(|_| began_on(&session, host));
    let Some(provider) = provider else { return Ok(Told::Answer(Authenticated::Failed)) };
    let worth = refresh::look(gate, provider, &session, at);
    let waits = match worth {
        Freshness::Fresh | Freshness::Soon => false,
        // One that is known not to answer is not waited for: what is known will do.
        Freshness::Due => !provider.is_out(),
        Freshness::Stale => true,
    };
    if waits && route.is_some() {
        return Ok(Told::Ask(Arc::clone(provider), session));
    }
    confirmed(gate, connection, Some(session), at, route).map(Told::Answer)
}

fn confirmed(
    gate: &Gate,
    connection: &ClientConnection,
    session: Option<Arc<Session>>,
    at: Timestamp,
    route: Option<&Route>,
) -> Result<Authenticated, Refusal> {
    let Some(session) = session else { return Ok(Authenticated::Failed) };
    suspended::refuse(gate, connection, &session.principal, at)?;
    let Some(route) = route else { return Ok(Authenticated::Session(session)) };
    if !route.takes(&session.provider) {
        return Ok(Authenticated::NotTaken);
    }
    Ok(match sign_in_again::why(gate, &session, route, at) {
        None => Authenticated::Session(session),
        Some(why) => Authenticated::SignInAgain(Box::new(SignInAgain::of(&session, why))),
    })
}

/// Whether a session that a cookie named is one on this host.
pub fn counts_on(gate: &Gate, session: &Session, host: &Host) -> bool {
    vouching(&gate.snapshot.load(), session).is_some() && began_on(session, host)
}

/// Whether the session was begun on this host, on whatever port: cookies know none. So a cookie that
/// an application got hold of opens no other one.
fn began_on(session: &Session, host: &Host) -> bool {
    let Some(began) = session.host.as_deref() else { return true };
    let port = began.strip_prefix(host.as_str());
    port.is_some_and(|port| port.is_empty() || port.starts_with(':'))
}

/// The identity provider that vouched for the session, if it is still a configured one, and the same
/// client of the same issuer. Asked of the snapshot in force, so that a provider that was taken out
/// vouches for nobody any more, and one that took over its name not for the former's users.
pub fn vouching<'a>(snapshot: &'a Snapshot, session: &Session) -> Option<&'a Arc<Provider>> {
    snapshot.providers.vouching(&session.provider, session.vouched_by)
}
