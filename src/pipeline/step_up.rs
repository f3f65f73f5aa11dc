//! The answer to a denial that another sign-in would lift (RFC 9470).
//!
//! INVARIANT: the denial stands, and is on record, whatever the answer is. A sign-in that does not
//! bring what was asked for ends on a page that says so ([`StepUp::check`]), and what a session has
//! already is not asked for again ([`Engine::step_up`](crate::policy::Engine::step_up)): nobody is
//! sent round in circles.

use bytes::Bytes;
use http::header::{HeaderValue, REFERER, WWW_AUTHENTICATE};
use http::{Response, StatusCode};
use url::form_urlencoded;

use crate::domain::step_up::{SignInLevel, StepUp};
use crate::policy::Denial;

use super::asker::{Asker, navigates};
use super::authenticate::brought_token;
use super::choice;
use super::gate::Gate;
use super::receive::Arrival;
use super::refusal::Refusal;
use super::reply;

/// A browser that navigates is sent to sign in as is wanted, and back; everybody else is told.
pub async fn answer(
    gate: &Gate,
    arrival: &Arrival,
    denial: &Denial,
    provider: &str,
    asked: &StepUp,
) -> Response<Bytes> {
    // Whoever brought a token gets another one himself.
    if navigates(&arrival.head) && !brought_token(arrival) {
        return send(gate, arrival, provider, Some(asked)).await;
    }
    let sign_in = address(provider, asked, &page_of(arrival));
    let mut response = if Asker::of(&arrival.head).page {
        let page = reply::denial_page(arrival, denial.decision(), Some(&sign_in));
        reply::html(StatusCode::UNAUTHORIZED, arrival.id, page)
    } else {
        let query = denial.query();
        let body = serde_json::json!({
            "type": "urn:wicketgate:step-up-required",
            "title": "A stronger sign-in is required",
            "status": 401,
            "detail": "the policies would allow this after a stronger or more recent sign-in",
            "decision": arrival.id,
            "action": query.action.name(),
            "route": query.resource.route,
            "acr_values": asked.acr,
            "max_age": asked.max_age,
            "login": sign_in,
        });
        reply::problem(StatusCode::UNAUTHORIZED, arrival.id, &body)
    };
    if let Ok(challenge) = HeaderValue::try_from(asked.challenge()) {
        response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
    }
    response
}

/// Sends a browser to sign in with this provider, and back to what it asks for.
pub async fn send(
    gate: &Gate,
    arrival: &Arrival,
    provider: &str,
    asked: Option<&StepUp>,
) -> Response<Bytes> {
    let host = reply::request_authority(arrival);
    let (Some(host), Some(provider)) = (host, arrival.snapshot.providers.named(provider)) else {
        return reply::short(arrival, &Refusal::Internal);
    };
    let target = reply::own_target(arrival);
    choice::begin(gate, arrival, &host, provider, target, asked).await
}

/// Where a person, or the page that a script runs in, can go to sign in as is wanted. It leads to
/// the page that the request came from: the request itself can't be repeated by a link.
pub fn address(provider: &str, asked: &StepUp, return_to: &str) -> String {
    let text = format!("{}?start&", choice::SIGN_IN);
    let begun = text.len();
    let mut query = form_urlencoded::Serializer::for_suffix(text, begun);
    query.append_pair("provider", provider);
    if let Some(acr) = &asked.acr {
        query.append_pair("acr", acr);
    }
    if let Some(seconds) = asked.max_age {
        query.append_pair("max_age", &seconds.to_string());
    }
    query.append_pair("return_to", return_to);
    query.finish()
}

/// Where a request that can't be repeated came from: path and query of a page of this host.
pub fn page_of(arrival: &Arrival) -> String {
    came_from(arrival).unwrap_or_else(|| "/".to_owned())
}

fn came_from(arrival: &Arrival) -> Option<String> {
    let referer = arrival.head.headers.get(REFERER)?.to_str().ok()?;
    let own = format!("https://{}/", reply::request_authority(arrival)?);
    referer.strip_prefix(&own).map(|rest| format!("/{rest}"))
}

/// What [`address`] asks for: only what the provider is configured to be asked for.
#[derive(Debug, Default)]
pub struct Wish {
    acr: Option<String>,
    max_age: Option<u64>,
}

impl Wish {
    /// Takes a parameter of the login page.
    pub fn note(&mut self, name: &str, value: &str) {
        match name {
            "acr" => self.acr = Some(value.to_owned()),
            "max_age" => self.max_age = value.parse().ok(),
            _ => {}
        }
    }

    pub fn of(&self, levels: &[SignInLevel]) -> Option<StepUp> {
        let level = levels.iter().find(|level| self.acr.as_deref() == Some(&*level.acr));
        if level.is_none() && self.max_age.is_none() {
            return None;
        }
        Some(StepUp {
            acr: level.map(|level| level.acr.clone()),
            amr: level.map(|level| level.amr.clone()).unwrap_or_default(),
            max_age: self.max_age,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_asks_for_nothing_that_is_not_configured() {
        let levels = [SignInLevel { acr: "mfa".into(), amr: ["otp".into()].into() }];
        let wish = |pairs: &[(&str, &str)]| {
            let mut wish = Wish::default();
            pairs.iter().for_each(|(name, value)| wish.note(name, value));
            wish.of(&levels)
        };
        assert_eq!(wish(&[]), None);
        assert_eq!(wish(&[("acr", "other")]), None);
        assert_eq!(wish(&[("max_age", "x")]), None);
        let mfa = StepUp { acr: Some("mfa".into()), amr: ["otp".into()].into(), max_age: None };
        assert_eq!(wish(&[("acr", "mfa")]), Some(mfa.clone()));
        let fresh = StepUp { max_age: Some(60), ..mfa };
        assert_eq!(wish(&[("acr", "mfa"), ("max_age", "60")]), Some(fresh));
        let young = StepUp { max_age: Some(60), ..StepUp::default() };
        assert_eq!(wish(&[("acr", "other"), ("max_age", "60")]), Some(young));
    }
}
