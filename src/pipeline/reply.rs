//! The one place where a refusal becomes an answer.
//!
//! A browser that navigates gets a page or is sent to sign in; anything else gets
//! `application/problem+json` (RFC 9457), never a login page.

use bytes::Bytes;
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, LOCATION, REFERRER_POLICY, RETRY_AFTER,
    SET_COOKIE, STRICT_TRANSPORT_SECURITY, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
    X_FRAME_OPTIONS,
};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};

use crate::domain::canonical::Authority;
use crate::domain::decision::Decision;
use crate::domain::event::Event;
use crate::domain::id::DecisionId;
use crate::domain::step_up::StepUp;
use crate::identity::login::Part;
use crate::identity::oidc::{LoginError, LoginStart, Provider};
use crate::pages;

use super::asker::{Asker, navigates};
use super::choice;
use super::gate::Gate;
use super::headers::DECISION;
use super::prepare::decision;
use super::receive::Arrival;
use super::record;
use super::refusal::Refusal;
use super::respond::HSTS;
use super::sign_in_again;
use super::step_up;

const CROSS_ORIGIN_OPENER_POLICY: HeaderName =
    HeaderName::from_static("cross-origin-opener-policy");
const CROSS_ORIGIN_RESOURCE_POLICY: HeaderName =
    HeaderName::from_static("cross-origin-resource-policy");
const PERMISSIONS_POLICY: HeaderName = HeaderName::from_static("permissions-policy");

/// The pages have no script that could use any; nor has what a flaw would bring in.
const NO_FEATURES: &str = "camera=(), display-capture=(), geolocation=(), microphone=(), \
     payment=(), publickey-credentials-get=(), usb=()";

/// Says nothing of what is wrong where nothing was brought (RFC 6750, section 3.1).
const BEARER: HeaderValue = HeaderValue::from_static("Bearer");

/// The answer to a refused request.
pub async fn refused(gate: &Gate, arrival: &Arrival, refusal: &Refusal) -> Response<Bytes> {
    let asker = Asker::of(&arrival.head);
    match refusal {
        Refusal::Unauthenticated { .. } if navigates(&arrival.head) => sign_in(gate, arrival).await,
        Refusal::StepUp { denial, provider, asked } => {
            step_up::answer(gate, arrival, denial, provider, asked).await
        }
        Refusal::SignInAgain(wanted) => sign_in_again::answer(gate, arrival, wanted).await,
        // A cookie of a session that is over stays: clearing it could hit the one that a login in
        // another tab has set meanwhile.
        Refusal::Unauthenticated { .. } => {
            let mut response = short(arrival, refusal);
            response.headers_mut().insert(
                WWW_AUTHENTICATE,
                HeaderValue::from_static("Wicketgate login=\"/.wicketgate/login\""),
            );
            if arrival.route.as_ref().is_some_and(|route| route.config.accepted.bearer) {
                response.headers_mut().append(WWW_AUTHENTICATE, BEARER);
            }
            response
        }
        Refusal::TokenRequired => {
            let mut response = short(arrival, refusal);
            response.headers_mut().insert(WWW_AUTHENTICATE, BEARER);
            response
        }
        Refusal::Token(error) if !error.is_unavailable() => {
            let mut response = short(arrival, refusal);
            let challenge = HeaderValue::from_static("Bearer error=\"invalid_token\"");
            response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
            response
        }
        Refusal::Denied(denial) if asker.page => {
            html(StatusCode::FORBIDDEN, arrival.id, denial_page(arrival, denial.decision(), None))
        }
        Refusal::Denied(denial) => {
            let query = denial.query();
            let body = serde_json::json!({
                "type": "urn:wicketgate:denied",
                "title": refusal.title(),
                "status": 403,
                "detail": why(denial.decision()),
                "decision": arrival.id,
                "action": query.action.name(),
                "route": query.resource.route,
            });
            problem(StatusCode::FORBIDDEN, arrival.id, &body)
        }
        // Providers' servers ask, whatever they accept.
        Refusal::Logout(_) => {
            written(&Recipient { asker: &Asker::PROGRAM, host: None, id: arrival.id }, refusal)
        }
        _ => short(arrival, refusal),
    }
}

/// Whom an answer is for.
#[derive(Clone, Copy, Debug)]
pub struct Recipient<'a> {
    pub asker: &'a Asker,
    /// The host that was asked for, where it is one of the gate's.
    pub host: Option<&'a Authority>,
    pub id: DecisionId,
}

/// The answer to any refusal but a denial and a missing sign-in, which say more.
pub fn short(arrival: &Arrival, refusal: &Refusal) -> Response<Bytes> {
    leading_to(choice::SIGN_IN, arrival, refusal)
}

/// The same; where signing in would help, that is done at `sign_in`.
pub fn leading_to(sign_in: &str, arrival: &Arrival, refusal: &Refusal) -> Response<Bytes> {
    let asker = Asker::of(&arrival.head);
    // Programs are not told.
    let host = if asker.page { own_authority(arrival) } else { None };
    let to = Recipient { asker: &asker, host: host.as_ref(), id: arrival.id };
    written_with(sign_in, &to, refusal)
}

/// The same answer where there is no arrival any more, or none that counts.
pub fn written(to: &Recipient<'_>, refusal: &Refusal) -> Response<Bytes> {
    written_with(choice::SIGN_IN, to, refusal)
}

fn written_with(sign_in: &str, to: &Recipient<'_>, refusal: &Refusal) -> Response<Bytes> {
    let (status, id) = (refusal.status(), to.id);
    let mut response = if to.asker.page {
        let host = to.host.map(ToString::to_string);
        let page = pages::ErrorPage {
            status: status.as_u16(),
            host: host.as_deref(),
            title: refusal.title(),
            text: &format!("{}. {}", capitalised(&refusal.public_detail()), refusal.advice()),
            decision_id: Some(&id.to_string()),
            link: link(refusal, sign_in),
        };
        html(status, id, page.render())
    } else {
        let mut body = serde_json::json!({
            "type": format!("urn:wicketgate:{}", refusal.reason()),
            "title": refusal.title(),
            "status": status.as_u16(),
            "detail": refusal.public_detail(),
            "decision": id,
        });
        let signs_in = matches!(refusal, Refusal::Unauthenticated { .. } | Refusal::SignInAgain(_));
        if let (true, Some(members)) = (signs_in, body.as_object_mut()) {
            members.insert("login".into(), sign_in.into());
        }
        // OpenID Connect Back-Channel Logout 1.0, section 2.8; RFC 6749, section 5.2.
        if let (Refusal::Logout(_), Some(members)) = (refusal, body.as_object_mut()) {
            let error = if status.is_client_error() { "invalid_request" } else { "server_error" };
            members.insert("error".into(), error.into());
            members.insert("error_description".into(), refusal.public_detail().into());
        }
        // draft-ietf-httpapi-ratelimit-headers-11, section 5.
        if let (Refusal::RateLimited { policy, .. }, Some(members)) =
            (refusal, body.as_object_mut())
        {
            members.insert("violated-policies".into(), serde_json::json!([**policy]));
        }
        problem(status, id, &body)
    };
    if let Some(seconds) = refusal.retry_after() {
        response.headers_mut().insert(RETRY_AFTER, seconds.into());
    }
    if let Refusal::Method { allow } = refusal {
        response.headers_mut().insert(http::header::ALLOW, HeaderValue::from_static(allow));
    }
    response
}

/// The one thing to do about a refusal.
fn link<'a>(refusal: &Refusal, sign_in: &'a str) -> Option<pages::Link<'a>> {
    match refusal {
        Refusal::Login(_) => Some(pages::Link { href: "/", label: "Start again" }),
        Refusal::Unauthenticated { .. } | Refusal::SignInAgain(_) | Refusal::NoSessionKept => {
            Some(pages::Link { href: sign_in, label: "Sign in" })
        }
        // A sign-in alone has not helped.
        Refusal::SignInInVain(_) => {
            Some(pages::Link { href: "/.wicketgate/logout", label: "Sign out" })
        }
        _ => None,
    }
}

/// Path and query that were asked for.
pub fn own_target(arrival: &Arrival) -> &str {
    arrival.head.uri.path_and_query().map_or("/", |target| target.as_str())
}

/// Sends a browser to the identity provider, and back to where it was.
pub async fn sign_in(gate: &Gate, arrival: &Arrival) -> Response<Bytes> {
    let Some(host) = request_authority(arrival) else {
        let refusal = Refusal::Malformed("the request names no host");
        return short(arrival, &refusal);
    };
    choice::sign_in(gate, arrival, &host, own_target(arrival)).await
}

/// A form was kept. Its sender goes on by a click: the policy of the page that sent it is held
/// against redirects, and may not let them lead to the provider.
pub fn kept(arrival: &Arrival, refusal: &Refusal, sign_in: &str) -> Response<Bytes> {
    let why = match refusal {
        Refusal::StepUp { .. } | Refusal::SignInAgain(_) => {
            "This needs a stronger or more recent sign-in than yours"
        }
        _ => "You are not signed in",
    };
    let text = format!(
        "{why}. Nothing is sent yet and nothing is lost: your form is kept for ten minutes. Once \
         you have signed in, you are asked whether to send it."
    );
    let host = request_authority(arrival).map(|host| host.to_string());
    let page = pages::ErrorPage {
        status: 401,
        host: host.as_deref(),
        title: "Sign in to send your form",
        text: &text,
        decision_id: Some(&arrival.id.to_string()),
        link: Some(pages::Link { href: sign_in, label: "Sign in and go on" }),
    };
    html(StatusCode::UNAUTHORIZED, arrival.id, page.render())
}

/// Sends a browser to this identity provider, with what the sign-in has to bring.
pub async fn begin_login(
    gate: &Gate,
    arrival: &Arrival,
    host: &Authority,
    provider: &Provider,
    return_to: &str,
    step_up: Option<&StepUp>,
    part: Part,
) -> Response<Bytes> {
    let several = arrival.snapshot.providers.are_several();
    let headers = &arrival.head.headers;
    let start = LoginStart { host, return_to, step_up, headers, several, part };
    match provider.begin(&start).await {
        Ok(redirect) => {
            let mut response = see_other(arrival.id, &redirect.location);
            for field in redirect.set_cookie {
                response.headers_mut().append(SET_COOKIE, field);
            }
            response
        }
        Err(error) => login_failed(gate, arrival, host, error),
    }
}

/// Answers for a login that could not begin or end: on record.
pub fn login_failed(
    gate: &Gate,
    arrival: &Arrival,
    host: &Authority,
    error: LoginError,
) -> Response<Bytes> {
    gate.metrics.logins(if error.status() >= 500 { "unavailable" } else { "failure" });
    record::stranger(gate, arrival, "login-failed", || Event::LoginFailed {
        id: arrival.id,
        reason: error.to_string(),
        host: host.to_string(),
        source: record::source(arrival),
    });
    short(arrival, &Refusal::Login(error))
}

/// Host and port as the client named them; only asked for after they were found good.
pub fn request_authority(arrival: &Arrival) -> Option<Authority> {
    let text = match arrival.head.headers.get(http::header::HOST) {
        Some(host) => host.to_str().ok()?,
        None => arrival.head.uri.authority()?.as_str(),
    };
    Authority::parse(text).ok()
}

/// The same where the gate has that host: whatever else a client names, no page repeats.
fn own_authority(arrival: &Arrival) -> Option<Authority> {
    let named = request_authority(arrival);
    named.filter(|named| arrival.snapshot.routes.knows_host(&named.host))
}

/// `sign_in` is where the user can sign in again, if that would help.
pub fn denial_page(arrival: &Arrival, decision: &Decision, sign_in: Option<&str>) -> String {
    let policies: Vec<&str> = decision.determining.iter().map(|policy| &*policy.id).collect();
    let route = arrival.route.as_ref();
    let authority = request_authority(arrival).map(|authority| authority.to_string());
    pages::Denial {
        method: arrival.head.method.as_str(),
        host: authority.as_deref().unwrap_or_default(),
        path: arrival.head.uri.path(),
        application: route.map(|route| &*route.config.application.display_name),
        principal: arrival.principal.as_deref(),
        why: why(decision),
        policies: &policies,
        advice: &[],
        sign_in,
        decision_id: &arrival.id.to_string(),
        at: arrival.at,
    }
    .render()
}

/// Why, as far as the asker may know: which kind of rule, never another's data.
fn why(decision: &Decision) -> &'static str {
    if !decision.errors.is_empty() {
        "A policy could not be evaluated, so access is refused."
    } else if decision.determining.is_empty() {
        "No policy allows it."
    } else {
        "A policy forbids it."
    }
}

/// Pages, and pages only, cut what opened them or was opened by them off from their window (HTML,
/// "Cross-origin opener policies"): an application that signs in in a window of its own keeps its hold
/// on that, through the redirects and at the provider, until somebody has to be shown something.
pub fn html(status: StatusCode, id: DecisionId, page: String) -> Response<Bytes> {
    let mut response = answer(status, id, "text/html; charset=utf-8", page.into());
    for (name, value) in [
        (CONTENT_SECURITY_POLICY, pages::CONTENT_SECURITY_POLICY),
        (CROSS_ORIGIN_OPENER_POLICY, "same-origin"),
        // Where `frame-ancestors` is not known; a page that may be framed takes it out.
        (X_FRAME_OPTIONS, "DENY"),
        (PERMISSIONS_POLICY, NO_FEATURES),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Has a page be shown in frames of those that its policy names, whatever they ask of what they
/// embed.
pub fn in_frames(response: &mut Response<Bytes>) {
    response.headers_mut().remove(X_FRAME_OPTIONS);
    let anywhere = HeaderValue::from_static("cross-origin");
    response.headers_mut().insert(CROSS_ORIGIN_RESOURCE_POLICY, anywhere);
}

pub fn problem(status: StatusCode, id: DecisionId, body: &serde_json::Value) -> Response<Bytes> {
    answer(status, id, "application/problem+json", body.to_string().into())
}

pub fn see_other(id: DecisionId, location: &str) -> Response<Bytes> {
    let mut response = answer(StatusCode::SEE_OTHER, id, "text/plain; charset=utf-8", Bytes::new());
    if let Ok(location) = HeaderValue::from_str(location) {
        response.headers_mut().insert(LOCATION, location);
    } else {
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    }
    response
}

/// What every answer of the gate's own carries.
pub fn answer(
    status: StatusCode,
    id: DecisionId,
    content_type: &'static str,
    body: Bytes,
) -> Response<Bytes> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers: &mut HeaderMap = response.headers_mut();
    headers.insert(DECISION, decision(id));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("same-origin"));
    // Other sites' pages embed none of it (Spectre).
    headers.insert(CROSS_ORIGIN_RESOURCE_POLICY, HeaderValue::from_static("same-origin"));
    headers.insert(STRICT_TRANSPORT_SECURITY, HSTS);
    response
}

fn capitalised(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}
