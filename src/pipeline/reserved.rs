//! The gate's own addresses under `/.wicketgate/` on every protected host.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, SET_COOKIE};
use http::{HeaderValue, Method, Response, StatusCode};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

use crate::config::model::LimitPer;
use crate::domain::canonical::{Authority, CanonicalRequest};
use crate::domain::event::{EndReason, Event};
use crate::identity::cookie::{self, CookieState};
use crate::identity::login;
use crate::identity::oidc::{Login, LoginError, Provider};
use crate::identity::providers::Callback;
use crate::identity::recent::RecentLogins;
use crate::identity::session::{AtProvider, NewSession, Session, SessionError};
use crate::pages;

use super::after_logout;
use super::attempts::Attempts;
use super::authenticate::{Authenticated, authenticate, vouching};
use super::backchannel;
use super::choice;
use super::frontchannel;
use super::gate::Gate;
use super::guard;
use super::handover;
use super::kept;
use super::own_sessions;
use super::receive::Arrival;
use super::record;
use super::refusal::Refusal;
use super::reply;
use super::suspended;
use super::tabs;
use super::upstream_token;

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
    if path == backchannel::PATH {
        // POST is answered once its body is there.
        return Err(Refusal::Method { allow: "POST" });
    }
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
            choice::page(gate, arrival, &request.authority, query).await
        }
        "/callback" => callback(gate, arrival, request, None).await,
        "/handover" if arrival.snapshot.routes.sign_in_host().is_some() => {
            handed_over(gate, arrival, request).await
        }
        "/logout" if posts => sign_out(gate, arrival, request).await,
        "/logout" => confirm_sign_out(gate, arrival, request).await,
        "/resume" => kept::page::answer(gate, arrival, request).await,
        frontchannel::PATH => {
            let session = match who(gate, arrival).await? {
                Authenticated::Session(session) => Some(session),
                _ => None,
            };
            frontchannel::logout(gate, arrival, request, session.as_deref()).await
        }
        "/signed-out" => came_back(gate, arrival, request).await,
        "/jwks.json" => Ok(reply::answer(
            StatusCode::OK,
            arrival.id,
            "application/jwk-set+json",
            gate.signer.jwks().as_bytes().to_vec().into(),
        )),
        _ => match path.strip_prefix("/callback/") {
            Some(provider) => callback(gate, arrival, request, Some(provider)).await,
            None => asset(arrival, request).ok_or(Refusal::NoRoute),
        },
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
    let Some(Authority { host, .. }) = reply::request_authority(arrival) else {
        return Err(Refusal::Malformed("the request names no host"));
    };
    authenticate(gate, connection, &head.headers, *at, *begun, &host, None).await
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
    Ok(with_sign_out_form(arrival, &session, page.render(), None))
}

/// A callback that gets as far as the provider leaves a used state in the store for twenty minutes:
/// so one address keeps some six thousand there at most, besides those that brought a sign-in.
pub fn failed_logins() -> Attempts {
    Attempts::new(300, Duration::from_millis(200))
}

/// The provider's answer (RFC 6749, section 4.1.2).
async fn callback(
    gate: &Gate,
    arrival: &Arrival,
    request: &CanonicalRequest,
    of: Option<&str>,
) -> Result<Response<Bytes>, Refusal> {
    let source = record::source(arrival);
    gate.failed_logins.admit(source, arrival.begun).map_err(|wait| Refusal::RateLimited {
        per: LimitPer::Address,
        policy: "failed-logins".into(),
        wait,
    })?;
    // Without the cookie of a sign-in it costs nothing, and any page can have a browser send it.
    let costs = login::is_under_way(&arrival.head.headers);
    if costs {
        // Whoever goes away before it is over has not signed in.
        gate.failed_logins.failed(source, arrival.begun);
    }
    let finished = arrival
        .snapshot
        .providers
        .finish(&Callback {
            host: &request.authority,
            of,
            query: request.query.as_deref(),
            headers: &arrival.head.headers,
            source,
        })
        .await;
    // What failed at the provider or the store is nobody's who called.
    if costs && finished.as_ref().map_or_else(|error| error.status() >= 500, |_| true) {
        gate.failed_logins.went_well(source);
    }
    let failed = |error| login_failed(gate, arrival, request, error);
    let login = finished.map_err(failed)?;
    match &login.for_host {
        Some(to) => handover::give(arrival, &login, to).await.map_err(failed),
        None => signed_in(gate, arrival, request, login).await,
    }
}

/// What the sign-in host hands over.
async fn handed_over(
    gate: &Gate,
    arrival: &Arrival,
    request: &CanonicalRequest,
) -> Result<Response<Bytes>, Refusal> {
    let login = handover::take(arrival, request).await;
    let login = login.map_err(|error| login_failed(gate, arrival, request, error))?;
    signed_in(gate, arrival, request, login).await
}

/// The beginning of a session.
async fn signed_in(
    gate: &Gate,
    arrival: &Arrival,
    request: &CanonicalRequest,
    login: Login,
) -> Result<Response<Bytes>, Refusal> {
    suspended::refuse(gate, &arrival.connection, &login.principal, arrival.at)?;
    // A new login never keeps the session that the browser had before (session fixation).
    let previous = match cookie::session_cookie(&arrival.head.headers) {
        CookieState::Present(value) => Some(value),
        CookieState::Absent | CookieState::Malformed | CookieState::Ambiguous => None,
    };
    let host = &request.authority.host;
    if tabs::session_of_another(gate, host, previous, &login, arrival.at).await?.is_some() {
        gate.metrics.logins("success");
        let mut response = reply::see_other(arrival.id, &login.return_to);
        for field in login.set_cookie {
            response.headers_mut().append(SET_COOKIE, field);
        }
        return Ok(response);
    }
    let host = &request.authority.host;
    let wanted = upstream_token::is_wanted(&arrival.snapshot, host, &login.provider);
    let new = NewSession {
        principal: login.principal,
        authentication: login.authentication,
        provider: login.provider,
        vouched_by: login.vouched_by,
        sid: login.sid,
        subject: login.subject,
        id_token: login.id_token,
        access_token: login.access_token.filter(|_| wanted),
        refresh: login.refresh,
        host: Some(request.authority.to_string().into()),
        begun: Some(login.begun),
    };
    let created = gate.sessions.create(new, previous).await.map_err(|error| match error {
        SessionError::SignedOut => login_failed(gate, arrival, request, LoginError::SignedOut),
        other => unavailable(other),
    });
    let (secret, session) = created?;
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
            let wish = wished(arrival, request);
            let page = pages::SignOut {
                host: &request.authority.to_string(),
                principal: name(&session),
                csrf: &form_token(arrival)?,
                return_to: wish.as_deref(),
                others: own_sessions::others(gate, arrival, &session).await,
                cancel: "/",
            };
            Ok(with_sign_out_form(arrival, &session, page.render(), wish.as_deref()))
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
    match session.sid.as_deref() {
        Some(sid) => {
            let login = AtProvider { provider: &session.provider, sid: Some(sid), subject: None };
            gate.sessions.end_at_provider(&login, EndReason::Logout).await.map(drop)
        }
        None => gate.sessions.end(&session.id, EndReason::Logout).await.map(drop),
    }
    .map_err(unavailable)?;
    Ok(leave(arrival, request, &session))
}

/// Where the user wishes to go after signing out, if that may be.
fn wished(arrival: &Arrival, request: &CanonicalRequest) -> Option<String> {
    let query = request.query.as_deref();
    after_logout::wished(&arrival.snapshot, &request.authority, query)
}

/// To the provider's own sign-out, where it has one, without the cookie of a session that is over;
/// then to where the user wished to go.
pub(super) fn leave(
    arrival: &Arrival,
    request: &CanonicalRequest,
    session: &Session,
) -> Response<Bytes> {
    let wish = wished(arrival, request);
    let state = arrival.id.to_string();
    let provider = provider_of(arrival, session).and_then(|provider| {
        provider.end_session_url(session.id_token.as_ref(), &request.authority, &state)
    });
    let kept = match (&provider, &wish) {
        (Some(_), Some(wish)) => after_logout::remember(&state, wish),
        // What an earlier sign-out left.
        _ => after_logout::forget(),
    };
    let onwards = provider.or(wish).unwrap_or_else(|| "/.wicketgate/signed-out".to_owned());
    let mut response = reply::see_other(arrival.id, &onwards);
    // Who signs out is not who fails to stay signed in.
    let recent = RecentLogins::clear(&arrival.head.headers);
    for field in std::iter::once(cookie::clear_session()).chain(recent).chain(kept) {
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
        _ => {
            let query = request.query.as_deref();
            let Some(address) = after_logout::recalled(arrival, &request.authority, query) else {
                return Ok(signed_out(arrival, request));
            };
            let mut response = reply::see_other(arrival.id, &address);
            for field in std::iter::once(cookie::clear_session()).chain(after_logout::forget()) {
                response.headers_mut().append(SET_COOKIE, field);
            }
            Ok(response)
        }
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
    vouching(&arrival.snapshot, session)
}

/// `onwards` is where the user wishes to go after the provider's own sign-out.
fn with_sign_out_form(
    arrival: &Arrival,
    session: &Session,
    page: String,
    onwards: Option<&str>,
) -> Response<Bytes> {
    let mut response = reply::html(StatusCode::OK, arrival.id, page);
    let end = provider_of(arrival, session).and_then(|provider| provider.end_session_endpoint());
    let policy = pages::sign_out_policy(end.as_deref().into_iter().chain(onwards));
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
