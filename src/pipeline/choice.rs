//! Which identity providers a person may sign in with, for what was asked for.
//!
//! INVARIANT: nobody is sent to a provider whose users the route that leads back doesn't take; so
//! a login that succeeds is never followed by another one for the same page.

use std::sync::Arc;

use bytes::Bytes;
use http::header::SET_COOKIE;
use http::{Response, StatusCode};
use url::form_urlencoded;

use crate::domain::canonical::{Authority, CanonicalRequest};
use crate::domain::step_up::StepUp;
use crate::identity::login::{self, Part};
use crate::identity::oidc::Provider;
use crate::identity::recent::RecentLogins;
use crate::pages;

use super::gate::Gate;
use super::handover;
use super::receive::Arrival;
use super::refusal::Refusal;
use super::reply;
use super::route::Destination;
use super::snapshot::Snapshot;
use super::step_up::Wish;

/// The gate's page to sign in.
pub const SIGN_IN: &str = "/.wicketgate/login";

/// The providers for a page of this host, in the order in which they are offered: those of its
/// route. Where no route leads there, those of any route of the host.
pub fn offered<'a>(
    snapshot: &'a Snapshot,
    host: &Authority,
    target: &str,
) -> Vec<&'a Arc<Provider>> {
    let request = CanonicalRequest::parse("GET".into(), host.clone(), target).ok();
    let found = request.and_then(|request| snapshot.routes.find(&request).ok());
    if let Some(Destination::Route(route)) = found {
        return snapshot.providers.of(Some(&route.config));
    }
    let entries = snapshot.routes.entries();
    let entries: Vec<_> = entries.filter(|entry| entry.config.host == host.host).collect();
    let taken =
        |provider: &Arc<Provider>| entries.iter().any(|entry| entry.config.takes(provider.name()));
    snapshot.providers.iter().filter(|provider| taken(provider)).collect()
}

/// Sends a browser to sign in, and back to `target`: at once where there is one way to do so, else
/// by way of the page with the choice.
pub async fn sign_in(
    gate: &Gate,
    arrival: &Arrival,
    host: &Authority,
    target: &str,
) -> Response<Bytes> {
    let offered = offered(&arrival.snapshot, host, target);
    if let [provider] = offered.as_slice() {
        return begin(gate, arrival, host, provider, target, None).await;
    }
    reply::see_other(arrival.id, &page_for(&login::return_to(target)))
}

/// Where a person signs in for `target` by a click, and goes to `return_to` then.
pub fn address(snapshot: &Snapshot, host: &Authority, target: &str, return_to: &str) -> String {
    match offered(snapshot, host, target).as_slice() {
        [provider] => start_with(provider, return_to),
        _ => page_for(return_to),
    }
}

/// Begins a login here, or at the sign-in host where there is one.
pub async fn begin(
    gate: &Gate,
    arrival: &Arrival,
    host: &Authority,
    provider: &Provider,
    return_to: &str,
    step_up: Option<&StepUp>,
) -> Response<Bytes> {
    let Some(sign_in) = handover::elsewhere(arrival, host) else {
        let part = Part::Whole;
        return reply::begin_login(gate, arrival, host, provider, return_to, step_up, part).await;
    };
    handover::send(arrival, host, &sign_in, provider, return_to, step_up)
        .unwrap_or_else(|error| reply::login_failed(gate, arrival, host, error))
}

fn start_with(provider: &Provider, return_to: &str) -> String {
    let return_to: String = form_urlencoded::byte_serialize(return_to.as_bytes()).collect();
    // A provider's name has nothing in it that would have to be escaped.
    format!("{SIGN_IN}?start&provider={}&return_to={return_to}", provider.name())
}

fn page_for(return_to: &str) -> String {
    let return_to: String = form_urlencoded::byte_serialize(return_to.as_bytes()).collect();
    format!("{SIGN_IN}?return_to={return_to}")
}

/// `/.wicketgate/login`: a page before the provider's, for those who come on their own, and for
/// those who have a choice. `?start` goes on at once where there is nothing left to choose.
///
/// # Errors
/// `NoRoute` where there is nothing to sign in for.
pub async fn page(
    gate: &Gate,
    arrival: &Arrival,
    host: &Authority,
    query: &str,
) -> Result<Response<Bytes>, Refusal> {
    let (mut start, mut wanted, mut return_to) = (false, None, "/".to_owned());
    let mut wish = Wish::default();
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        match &*name {
            "start" => start = true,
            "provider" => wanted = Some(value.into_owned()),
            "return_to" => return_to = value.into_owned(),
            // A protected host's request to the sign-in host.
            "for" => {
                let begun = handover::begin(gate, arrival, host, &value).await;
                let failed = |error| reply::login_failed(gate, arrival, host, error);
                return Ok(begun.unwrap_or_else(failed));
            }
            name => wish.note(name, &value),
        }
    }
    let return_to = login::return_to(&return_to);
    let offered = offered(&arrival.snapshot, host, &return_to);
    if offered.is_empty() {
        // A sign-in host without routes has nobody to sign in for itself.
        return Err(Refusal::NoRoute);
    }
    let chosen = match (offered.as_slice(), &wanted) {
        ([one], None) => Some(*one),
        (several, Some(name)) => several.iter().copied().find(|one| **one.name() == **name),
        (_, None) => None,
    };
    if let Some(provider) = chosen.filter(|_| start) {
        let asked = wish.of(provider.step_up_levels());
        let asked = asked.as_ref();
        let mut response = begin(gate, arrival, host, provider, &return_to, asked).await;
        // Begun by a click: no circle.
        if let Some(cleared) = RecentLogins::clear(&arrival.head.headers) {
            response.headers_mut().append(SET_COOKIE, cleared);
        }
        return Ok(response);
    }
    let addresses: Vec<String> =
        offered.iter().map(|provider| start_with(provider, &return_to)).collect();
    let choices: Vec<_> = std::iter::zip(&offered, &addresses)
        .map(|(provider, href)| pages::Link { href, label: provider.display_name() })
        .collect();
    let page = pages::SignIn { host: &host.to_string(), return_to: &return_to, choices: &choices };
    Ok(reply::html(StatusCode::OK, arrival.id, page.render()))
}
