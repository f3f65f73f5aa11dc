//! A provider's page has the browser end its session: OpenID Connect Front-Channel Logout 1.0.
//!
//! The page shows this address in a frame. Browsers send the session's cookie along only where
//! provider and gate are of one site (`SameSite=Lax`); elsewhere nothing can happen here, and the
//! back channel is the way.
//!
//! INVARIANT: only the browser's own session ends, and only when the provider's names for itself and
//! for that session (`iss` and `sid`, which nobody else knows) are those of the session. The answer
//! is the same whether or not there was one.

use bytes::Bytes;
use http::header::{CONTENT_SECURITY_POLICY, SET_COOKIE};
use http::{HeaderValue, Method, Response, StatusCode};

use crate::domain::canonical::CanonicalRequest;
use crate::domain::event::{EndReason, Event};
use crate::identity::cookie;
use crate::identity::oidc::Provider;
use crate::identity::session::{AtProvider, Session};
use crate::pages;

use super::after_logout::once;
use super::gate::Gate;
use super::receive::Arrival;
use super::record;
use super::refusal::Refusal;
use super::reply;

/// Behind the prefix of the gate's own addresses.
pub const PATH: &str = "/frontchannel-logout";

const PAGE: &str = "<!doctype html><html lang=\"en\"><title>Wicketgate</title></html>";

/// `session` is the browser's own.
///
/// # Errors
/// `SessionsUnavailable` when the store failed.
pub async fn logout(
    gate: &Gate,
    arrival: &Arrival,
    request: &CanonicalRequest,
    session: Option<&Session>,
) -> Result<Response<Bytes>, Refusal> {
    let query = request.query.as_deref();
    let (issuer, sid) = (once(query, "iss"), once(query, "sid"));
    let provider = arrival.snapshot.providers.iter().find(|provider| {
        let is_of_session = session.is_none_or(|session| *session.provider == **provider.name());
        issuer.as_deref() == Some(provider.issuer()) && is_of_session
    });
    let mut response = framed(arrival, provider.map(|provider| &**provider));
    let (Some(provider), Some(sid), Some(session)) = (provider, sid, session) else {
        return Ok(response);
    };
    if session.sid.as_deref() != Some(&sid) || arrival.head.method != Method::GET {
        return Ok(response);
    }
    let login = AtProvider { provider: provider.name(), sid: Some(&sid), subject: None };
    let ended = gate.sessions.end_at_provider(&login, EndReason::ProviderLogout).await;
    let sessions = ended.map_err(|error| {
        tracing::error!(%error, "a provider's logout could not be carried out");
        Refusal::SessionsUnavailable
    })?;
    let event = Event::ProviderLogout {
        id: arrival.id,
        provider: provider.name().clone(),
        subject: session.subject.clone(),
        sessions,
        source: record::source(arrival),
    };
    record::note(gate, arrival.at, event);
    response.headers_mut().append(SET_COOKIE, cookie::clear_session());
    Ok(response)
}

/// An empty page that only the provider's pages may show.
fn framed(arrival: &Arrival, provider: Option<&Provider>) -> Response<Bytes> {
    let mut response = reply::html(StatusCode::OK, arrival.id, PAGE.to_owned());
    if let Some(provider) = provider {
        let policy = pages::framed_by(&provider.origins());
        if let Ok(policy) = HeaderValue::try_from(policy) {
            response.headers_mut().insert(CONTENT_SECURITY_POLICY, policy);
            reply::in_frames(&mut response);
        }
    }
    response
}
