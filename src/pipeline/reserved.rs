//! The gate's own addresses under `/.wicketgate/` on every protected host.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, SET_COOKIE};
use http::{HeaderValue, Method, Response, StatusCode};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

use crate::domain::canonical::CanonicalRequest;
use crate::domain::event::{EndReason, Event};
use crate::identity::cookie::{self, CookieState};
use crate::identity::oidc::{LoginError, Provider};
use crate::identity::providers::Callback;
use crate::identity::recent::RecentLogins;
use crate::identity::session::{NewSession, Session, SessionError};
use crate::pages;

use super::authenticate::{Authenticated, authenticate};
use super::choice;
use super::gate::Gate;
use super::guard;
use super::kept;
use super::own_sessions;
use super::receive::Arrival;
use super::record;
use super::refusal::Refusal;
use super::reply;
use super::suspended;
use super::tabs;

/// Answers a request for one of the gate's own addresses; `path` is what follows the prefix.
///
/// # Errors
/// A refusal, which is recorded and answered like any other.
pub async fn answer(
    gate: &Gate,
    arrival: &Arrival,
    request: &CanonicalRequest,
    path: &str,
) -> Result<Response<Bytes>, Refusal> {
    if let Some(wish) = own_sessions::Wish::of(path) {
        return own_sessions::end(gate, arrival, request, wish).await;
    }
    let has_forms = matches!(path, "/logout" | "/resume");
    let posts = has_forms && arrival.head.method == Method::POST;
    let reads = arrival.head.method == Method::GET || arrival.head.method == Method::HEAD;
    if !posts && !reads {
        let allow = if has_forms { "GET, HEAD, POST" } else { "GET, HEAD" };
        return Err(Refusal::Method { allow });
    }
    match path {
        "" | "/" | "/me" => me(gate, arrival, request).await,
        "/login" => {
            let query = request.query.as_deref().unwrap_or_default();
            Ok(choice::page(gate, arrival, &request.authority, query).await)
        }
        "/callback" => callback(gate, arrival, request).await,
        "/logout" if posts => sign_out(gate, arrival, request).await,
        "/logout" => confirm_sign_out(gate, arrival, request).await,
        "/resume" => kept::page::answer(gate, arrival, request).await,
        "/signed-out" => came_back(gate, arrival, request).await,
        "/jwks.json" => Ok(reply::answer(
            StatusCode::OK,
            arrival.id,
            "application/jwk-set+json",
            gate.signer.jwks().as_bytes().to_vec().into(),
        )),
        _ => asset(arrival, request).ok_or(Refusal::NoRoute),
    }
}

fn asset(arrival: &Arrival, request: &CanonicalRequest) -> Option<Response<Bytes>> {
    let (content_type, bytes) = pages::asset(request.path.decoded())?;
    let body = Bytes::from_static(bytes);
    let mut response = reply::answer(StatusCode::OK, arrival.id, content_type, body);
    let keep = HeaderValue::from_static(pages::asset::CACHE_CONTROL);
    response.headers_mut().insert(CACHE_CONTROL, keep);
    Some(response)
}

/// Whose session it is, on whichever of the host's routes it is taken.
pub(super) async fn who(gate: &Gate, arrival: &Arrival) -> Result<Authenticated, Refusal> {
    let Arrival { connection, head, at, begun, .. } = arrival;
    authenticate(gate, connection, &head.headers, *at, *begun, None).await
}

async fn me(
    gate: &Gate,
    arrival: &Arrival,
    request: &CanonicalRequest,
) -> Result<Response<Bytes>, Refusal> {
    let session = who(gate, arrival).await?.required()?;
    let certificate = arrival.connection.client_certificate.as_deref();
    let device = arrival.snapshot.devices.identify(certificate, arrival.at);
    let sessions = own_sessions::list(gate, arrival, &session).await?;
    let page = pages::Me {
        host: &request.authority.to_string(),
        principal: &session.principal,
        authentication: &session.authentication,
        device: &device,
        provider: provider_of(arrival, &session).map_or("", |provider| provider.display_name()),
        started: session.created,
        expires: session.expires,
        sessions: &sessions,
        csrf: &form_token(arrival)?,
    };
    Ok(with_sign_out_form(arrival, &session, page.render()))
}

/// The provider's answer (RFC 6749, section 4.1.2), and the beginning of a session.
async fn callback(
    gate: &Gate,
    arrival: &Arrival,
    request: &CanonicalRequest,
) -> Result<Response<Bytes>, Refusal> {
    let finished = arrival
        .snapshot
        .providers
        .finish(&Callback {
            host: &request.authority,
            query: request.query.as_deref(),
            headers: &arrival.head.headers,
        })
        .await;
    let login = match finished {
        Ok(login) => login,
        Err(error) => return Err(login_failed(gate, arrival, request, error)),
    };
    suspended::refuse(gate, &arrival.connection, &login.principal, arrival.at)?;
    // A new login never keeps the session that the browser had before (session fixation).
    let previous = match cookie::session_cookie(&arrival.head.headers) {
        CookieState::Present(value) => Some(value),
        CookieState::Absent | CookieState::Malformed | CookieState::Ambiguous => None,
    };
    if tabs::session_of_another(gate, previous, &login, arrival.at).await?.is_some() {
        gate.metrics.logins("success");
        let mut response = reply::see_other(arrival.id, &login.return_to);
        for field in login.set_cookie {
            response.headers_mut().append(SET_COOKIE, field);
        }
        return Ok(response);
    }
    let new = NewSession {
        principal: login.principal,
        authentication: login.authentication,
        provider: login.provider,
        sid: login.sid,
        id_token: login.id_token,
        host: Some(request.authority.to_string().into()),
    };
    let (secret, session) = gate.sessions.create(new, previous).await.map_err(unavailable)?;
    let started = Event::SessionStarted {
        id: arrival.id,
        session: session.id.short(),
        principal: session.principal.id.clone(),
        host: request.authority.to_string(),
        source: record::source(arrival),
    };
    if gate.audit.append(arrival.at, started).is_err() {
        let _ = gate.sessions.end(&session.id, EndReason::Revoked).await;
        return Err(Refusal::AuditUnavailable);
    }
    gate.metrics.logins("success");
    let mut response = reply::see_other(arrival.id, &login.return_to);
    let session_cookie = cookie::set_session(secret.expose());
    let noted = gate.recent.one_more(&arrival.head.headers, &request.authority);
    for field in login.set_cookie.into_iter().chain(session_cookie).chain(noted) {
        response.headers_mut().append(SET_COOKIE, field);
    }
    Ok(response)
}

fn login_failed(
    gate: &Gate,
    arrival: &Arrival,
    request: &CanonicalRequest,
    error: LoginError,
) -> Refusal {
    gate.metrics.logins(if error.status() >= 500 { "unavailable" } else { "failure" });
    record::stranger(gate, arrival, "login-failed", || Event::LoginFailed {
        id: arrival.id,
        reason: error.to_string(),
        host: request.authority.to_string(),
        source: record::source(arrival),
    });
    Refusal::Login(error)
}

async fn confirm_sign_out(
    gate: &Gate,
    arrival: &Arrival,
    request: &CanonicalRequest,
) -> Result<Response<Bytes>, Refusal> {
    match who(gate, arrival).await? {
        Authenticated::Session(session) => {
            let page = pages::SignOut {
                host: &request.authority.to_string(),
                principal: name(&session),
                csrf: &form_token(arrival)?,
                cancel: "/",
            };
            Ok(with_sign_out_form(arrival, &session, page.render()))
        }
        _ => Ok(signed_out(arrival, request)),
    }
}

/// Ends the session here, closes what is open under it, and then ends the provider's own
/// (OpenID Connect RP-Initiated Logout 1.0).
async fn sign_out(
    gate: &Gate,
    arrival: &Arrival,
    request: &CanonicalRequest,
) -> Result<Response<Bytes>, Refusal> {
    guard::same_origin(&arrival.head.headers, &request.authority)?;
    let Authenticated::Session(session) = who(gate, arrival).await? else {
        return Ok(signed_out(arrival, request));
    };
    check_form_token(arrival, request)?;
    // One sign-out ends what one sign-in began, on every host.
    match &session.sid {
        Some(sid) => {
            let ended = gate.sessions.end_login(&session.provider, sid, EndReason::Logout).await;
            ended.map(drop)
        }
        None => gate.sessions.end(&session.id, EndReason::Logout).await.map(drop),
    }
    .map_err(unavailable)?;
    Ok(leave(arrival, request, &session))
}

/// To the provider's own sign-out, where it has one, without the cookie of a session that is over.
pub(super) fn leave(
    arrival: &Arrival,
    request: &CanonicalRequest,
    session: &Session,
) -> Response<Bytes> {
    let onwards = provider_of(arrival, session).and_then(|provider| {
        let hint = session.id_token.as_ref();
        provider.end_session_url(hint, &request.authority, &arrival.id.to_string())
    });
    let onwards = onwards.unwrap_or_else(|| "/.wicketgate/signed-out".to_owned());
    let mut response = reply::see_other(arrival.id, &onwards);
    response.headers_mut().append(SET_COOKIE, cookie::clear_session());
    // Who signs out is not who fails to stay signed in.
    if let Some(field) = RecentLogins::clear(&arrival.head.headers) {
        response.headers_mut().append(SET_COOKIE, field);
    }
    response
}

pub(super) fn unavailable(error: SessionError) -> Refusal {
    tracing::error!(%error, "sessions can't be kept");
    Refusal::SessionsUnavailable
}

/// The way back from the provider's sign-out. A link to here signs nobody out.
async fn came_back(
    gate: &Gate,
    arrival: &Arrival,
    request: &CanonicalRequest,
) -> Result<Response<Bytes>, Refusal> {
    match who(gate, arrival).await? {
        Authenticated::Session(_) => Ok(reply::see_other(arrival.id, "/.wicketgate/me")),
        _ => Ok(signed_out(arrival, request)),
    }
}

fn signed_out(arrival: &Arrival, request: &CanonicalRequest) -> Response<Bytes> {
    let page = pages::SignedOut {
        host: &request.authority.to_string(),
        still_signed_in_at: None,
        sign_in: "/.wicketgate/login",
    };
    let mut response = reply::html(StatusCode::OK, arrival.id, page.render());
    response.headers_mut().append(SET_COOKIE, cookie::clear_session());
    response
}

fn name(session: &Session) -> &str {
    let principal = &session.principal;
    principal.name.as_deref().or(principal.email.as_deref()).unwrap_or(&principal.id)
}

/// The provider that vouched for the session.
fn provider_of<'a>(arrival: &'a Arrival, session: &Session) -> Option<&'a Arc<Provider>> {
    arrival.snapshot.providers.named(&session.provider)
}

fn with_sign_out_form(arrival: &Arrival, session: &Session, page: String) -> Response<Bytes> {
    let mut response = reply::html(StatusCode::OK, arrival.id, page);
    let end = provider_of(arrival, session).and_then(|provider| provider.end_session_endpoint());
    let policy = pages::sign_out_policy(end.as_deref());
    if let Ok(policy) = HeaderValue::try_from(policy) {
        response.headers_mut().insert(CONTENT_SECURITY_POLICY, policy);
    }
    response
}

/// Ties a form to the browser that it was made for: a digest of the session's secret, from which
/// the secret can't be told.
fn form_token(arrival: &Arrival) -> Result<String, Refusal> {
    let CookieState::Present(secret) = cookie::session_cookie(&arrival.head.headers) else {
        return Err(Refusal::Unauthenticated { stale: false });
    };
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(b"wicketgate sign-out form\0");
    context.update(secret.as_bytes());
    Ok(BASE64_URL_SAFE_NO_PAD.encode(context.finish()))
}

/// The token of a form comes in the query, because the gate reads no bodies.
pub(super) fn check_form_token(
    arrival: &Arrival,
    request: &CanonicalRequest,
) -> Result<(), Refusal> {
    let expected = form_token(arrival)?;
    let sent = parameter(request, "csrf").unwrap_or_default();
    verify_slices_are_equal(expected.as_bytes(), sent.as_bytes()).map_err(|_| Refusal::CrossSite)
}

/// The first value of a query's parameter.
pub(super) fn parameter(request: &CanonicalRequest, name: &str) -> Option<String> {
    url::form_urlencoded::parse(request.query.as_deref().unwrap_or_default().as_bytes())
        .find(|(found, _)| found == name)
        .map(|(_, value)| value.into_owned())
}
