//! A form that meets no session, and what becomes of it.
//!
//! A person fills in a form for longer than the session lasts. Without what stands here its contents
//! would be lost at the moment of sending. Instead the body is read, bounded, and kept sealed
//! ([`KeptForms`](crate::identity::kept::KeptForms)); a page leads to sign-in; then another
//! ([`page`]) says what was about to be sent, and asks. Only a click sends it: the browser is told
//! to send a form without fields to the form's own address (307), and the gate puts the kept body
//! in its place. So the answer appears at the address where the application expects it.
//!
//! INVARIANT: a kept form is sent by the user who filled it in, by a click, once, to the address that
//! it was meant for, and only as a request that was authenticated, authorised and recorded then. A
//! request that carries a ticket and finds no form is refused, never forwarded without its body.

mod fields;
pub mod page;

use std::sync::Arc;

use bytes::Bytes;
use http::header::{
    CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, ORIGIN, REFERER, SET_COOKIE,
};
use http::{HeaderMap, Method, Response};

use crate::identity::cookie::{self, CookieState};
use crate::identity::kept::{About, Form, KeptError, Ticket};
use crate::identity::session::Session;

use super::asker::is_top_level;
use super::choice;
use super::gate::Gate;
use super::guard;
use super::headers;
use super::normalise::Normalised;
use super::receive::Arrival;
use super::refusal::Refusal;
use super::reply;
use super::step_up;

use fields::Kind;

/// A refused request whose body may be kept.
#[derive(Debug)]
pub struct Pending {
    arrival: Arrival,
    refusal: Refusal,
    about: About,
    limit: u64,
}

impl Pending {
    /// The largest body that is kept, in bytes.
    pub fn limit(&self) -> u64 {
        self.limit
    }
}

impl Gate {
    /// Whether a refused request's body is to be read for [`Self::keep`].
    pub(super) fn keepable(&self, arrival: &Arrival, refusal: &Refusal) -> Option<(About, u64)> {
        let signs_in = matches!(
            refusal,
            Refusal::Unauthenticated { .. } | Refusal::SignInAgain(_) | Refusal::StepUp { .. }
        );
        if !signs_in {
            return None;
        }
        let known = arrival.principal.as_ref().or(refusal.principal()).cloned();
        let limit = arrival.snapshot.keep_forms;
        let headers = &arrival.head.headers;
        let host = reply::request_authority(arrival)?;
        let page = is_top_level(&arrival.head) && arrival.head.method == Method::POST;
        let content_type = text(headers, &CONTENT_TYPE)?;
        let length: u64 = text(headers, &CONTENT_LENGTH)?.parse().ok()?;
        // A client that doesn't say that the form is the site's own has to send it again.
        let says = headers.contains_key(ORIGIN) || headers.contains_key(headers::FETCH_SITE);
        let wanted = page
            && limit > 0
            && (1..=limit).contains(&length)
            && !headers.contains_key(CONTENT_ENCODING)
            && Kind::of(&content_type).is_some()
            && says
            && guard::same_origin(headers, &host).is_ok();
        let about = || About {
            host: host.to_string(),
            target: reply::own_target(arrival).to_owned(),
            content_type,
            referer: text(headers, &REFERER),
            principal: known.or_else(|| self.former_principal(headers)),
            expires: self.kept.expiry(),
        };
        wanted.then(|| (about(), limit))
    }

    fn former_principal(&self, headers: &HeaderMap) -> Option<Arc<str>> {
        match cookie::session_cookie(headers) {
            CookieState::Present(value) => self.sessions.former_principal(value),
            CookieState::Absent | CookieState::Malformed | CookieState::Ambiguous => None,
        }
    }

    /// Keeps the body, and says so on a page that leads to sign-in; without a body, or room for it,
    /// the request is refused as it would have been.
    pub async fn keep(&self, pending: Box<Pending>, body: Option<Bytes>) -> Response<Bytes> {
        let Pending { arrival, refusal, about, .. } = *pending;
        let ticket = match body {
            None => None,
            Some(body) => {
                let form = Form { about, body };
                let kept = self.kept.keep(&form, arrival.client.0).await;
                kept.inspect_err(|error| tracing::warn!(%error, "a form was not kept")).ok()
            }
        };
        let Some(ticket) = ticket else {
            return self.refuse(&arrival, &refusal).await;
        };
        self.note_refused(&arrival, &refusal);
        let return_to = format!("{}?form={}", page::PATH, ticket.id);
        let host = reply::request_authority(&arrival);
        let sign_in = match (&refusal, host) {
            (Refusal::StepUp { provider, asked, .. }, _) => {
                step_up::address(provider, asked, &return_to)
            }
            (Refusal::SignInAgain(wanted), _) => wanted.sign_in(&return_to),
            (_, Some(host)) => {
                let target = reply::own_target(&arrival);
                choice::address(&arrival.snapshot, &host, target, &return_to)
            }
            (_, None) => choice::SIGN_IN.to_owned(),
        };
        let mut response = reply::kept(&arrival, &refusal, &sign_in);
        arrival.quota.tell(response.headers_mut());
        for field in ticket.set(&arrival.head.headers) {
            response.headers_mut().append(SET_COOKIE, field);
        }
        response
    }
}

fn text(headers: &HeaderMap, name: &http::HeaderName) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}

/// The form that a request is to carry: the one without fields that [`page`] has the browser send.
/// Costs a comparison or two, unless it is a request that changes something and has no body.
pub fn ticket(arrival: &Arrival, asked: &Normalised) -> Option<Ticket> {
    if asked.content_length.unwrap_or(0) != 0 || arrival.head.method != Method::POST {
        return None;
    }
    let headers = &arrival.head.headers;
    let is_form = text(headers, &CONTENT_TYPE).is_some_and(|kind| Kind::of(&kind).is_some());
    if !is_form || !is_top_level(&arrival.head) {
        return None;
    }
    Ticket::to_send(headers, reply::own_target(arrival))
}

/// Puts a kept form in the place of a permitted request's body, and answers with it.
///
/// # Errors
/// `FormGone` when it was sent before or has expired, `FormOfAnother` when somebody else filled it
/// in, `SessionsUnavailable` when the store does not answer.
pub async fn resume(
    gate: &Gate,
    arrival: &mut Arrival,
    asked: &Normalised,
    session: &Session,
    ticket: &Ticket,
) -> Result<Bytes, Refusal> {
    let about = gate.kept.look(ticket).await.map_err(refusal)?.about;
    let is_there = about.host == asked.request.authority.to_string()
        && ticket.target.as_ref() == Some(&about.target);
    if !is_there {
        return Err(Refusal::FormGone);
    }
    same_user(&about, session)?;
    let Form { about, body } = gate.kept.take(ticket).await.map_err(refusal)?;
    let headers = &mut arrival.head.headers;
    let broken = |_| Refusal::Internal;
    headers.insert(CONTENT_TYPE, HeaderValue::try_from(about.content_type).map_err(broken)?);
    headers.insert(CONTENT_LENGTH, body.len().into());
    match about.referer.map(HeaderValue::try_from) {
        Some(Ok(referer)) => headers.insert(REFERER, referer),
        _ => headers.remove(REFERER),
    };
    Ok(body)
}

fn same_user(about: &About, session: &Session) -> Result<(), Refusal> {
    match &about.principal {
        Some(principal) if *principal != session.principal.id => Err(Refusal::FormOfAnother),
        _ => Ok(()),
    }
}

fn refusal(error: KeptError) -> Refusal {
    match error {
        KeptError::Gone => Refusal::FormGone,
        KeptError::Full | KeptError::Store(_) | KeptError::Internal => {
            tracing::error!(%error, "a kept form can't be read");
            Refusal::SessionsUnavailable
        }
    }
}

/// Takes the body of a kept request out of what [`Gate::keepable`] said.
pub(super) fn pending(
    arrival: Arrival,
    refusal: Refusal,
    (about, limit): (About, u64),
) -> Box<Pending> {
    Box::new(Pending { arrival, refusal, about, limit })
}
