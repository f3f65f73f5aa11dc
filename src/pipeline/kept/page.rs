//! Asks whether a kept form is to be sent.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::header::{CONTENT_SECURITY_POLICY, HeaderValue, SET_COOKIE};
use http::{Method, Response, StatusCode};

use super::fields::{self, Kind};
use super::{refusal, same_user};
use crate::domain::canonical::CanonicalRequest;
use crate::identity::cookie::{self, CookieState};
use crate::identity::kept::Ticket;
use crate::identity::login;
use crate::pages;
use crate::pipeline::gate::Gate;
use crate::pipeline::guard;
use crate::pipeline::receive::Arrival;
use crate::pipeline::refusal::Refusal;
use crate::pipeline::reply;
use crate::pipeline::reserved::who;

/// Where it is asked.
pub const PATH: &str = "/.wicketgate/resume";

/// What the page's address says.
#[derive(Default)]
struct Asked {
    form: String,
    csrf: String,
    discard: bool,
}

impl Asked {
    fn of(query: Option<&str>) -> Self {
        let mut asked = Self::default();
        for (name, value) in url::form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            match &*name {
                "form" => asked.form = value.into_owned(),
                "csrf" => asked.csrf = value.into_owned(),
                "discard" => asked.discard = true,
                _ => {}
            }
        }
        asked
    }
}

/// The page (GET), and what its two buttons do (POST).
///
/// # Errors
/// `Unauthenticated`, `FormGone`, `FormOfAnother`, and `CrossSite` for a POST that the page's own
/// buttons did not make.
pub async fn answer(
    gate: &Gate,
    arrival: &Arrival,
    request: &CanonicalRequest,
) -> Result<Response<Bytes>, Refusal> {
    let headers = &arrival.head.headers;
    let session = who(gate, arrival).await?.required()?;
    let asked = Asked::of(request.query.as_deref());
    let ticket = Ticket::kept(headers, &asked.form).ok_or(Refusal::FormGone)?;
    let form = gate.kept.look(&ticket).await.map_err(refusal)?;
    if form.about.host != request.authority.to_string() {
        return Err(Refusal::FormGone);
    }
    same_user(&form.about, &session)?;
    let csrf = token(arrival, &ticket)?;
    if arrival.head.method != Method::POST {
        let names = Kind::of(&form.about.content_type)
            .map(|kind| fields::names(kind, &form.body))
            .unwrap_or_default();
        let page = pages::KeptForm {
            host: &form.about.host,
            target: &form.about.target,
            fields: &names,
            bytes: form.body.len(),
            form: &ticket.id,
            csrf: &csrf,
        };
        let mut response = reply::html(StatusCode::OK, arrival.id, page.render());
        // Chromium holds `form-action` against where the application's answer leads, too.
        let policy = pages::kept_form_policy();
        if let Ok(policy) = HeaderValue::try_from(policy) {
            response.headers_mut().insert(CONTENT_SECURITY_POLICY, policy);
        }
        return Ok(response);
    }
    guard::same_origin(headers, &request.authority)?;
    if verify_slices_are_equal(csrf.as_bytes(), asked.csrf.as_bytes()).is_err() {
        return Err(Refusal::CrossSite);
    }
    let (mut response, fields) = if asked.discard {
        gate.kept.discard(&ticket).await.map_err(refusal)?;
        let page = came_from(&form.about.host, form.about.referer.as_deref());
        (reply::see_other(arrival.id, &page), ticket.clear().into_iter().collect())
    } else {
        let mut response = reply::see_other(arrival.id, &form.about.target);
        // The method stays, and so does its body, which is empty (RFC 9110, section 15.4.8).
        *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
        (response, ticket.send(headers, &form.about.target))
    };
    for field in fields {
        response.headers_mut().append(SET_COOKIE, field);
    }
    Ok(response)
}

/// The page with the form, where it is of this host.
fn came_from(host: &str, referer: Option<&str>) -> String {
    let path = referer.and_then(|page| page.strip_prefix("https://")?.strip_prefix(host));
    login::return_to(path.unwrap_or("/"))
}

/// Ties the page's buttons to the session and to the form.
fn token(arrival: &Arrival, ticket: &Ticket) -> Result<String, Refusal> {
    let CookieState::Present(secret) = cookie::session_cookie(&arrival.head.headers) else {
        return Err(Refusal::Unauthenticated { stale: false });
    };
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(b"wicketgate kept form\0");
    context.update(ticket.id.as_bytes());
    context.update(b"\0");
    context.update(secret.as_bytes());
    Ok(BASE64_URL_SAFE_NO_PAD.encode(context.finish()))
}
