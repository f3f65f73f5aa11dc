//! What callers identify themselves with: a provider's access tokens, and what a route takes.

use std::sync::Arc;

use crate::config::model::{
    Accepted, AccessTokens, IdentityProvider, Listener, ListenerRole, TokenExchange, UpstreamToken,
};
use crate::config::yaml::{Cursor, Map, quote};

use super::keys;
use super::values::{Unique, words};

/// Of a provider whose client id is this.
pub(super) fn access_tokens(at: &Cursor<'_>, client_id: Option<&str>) -> Option<AccessTokens> {
    let at = keys(at)?.required("audiences")?;
    let mut seen = Unique::new();
    let audience = |entry: &Cursor<'_>| {
        let audience = words(entry)?;
        if seen.seen(Arc::clone(&audience), entry.line()).is_some() {
            entry.error(format!("the audience {} is listed twice", quote(&audience)));
        }
        if client_id == Some(&*audience) {
            let hint = "register the gate's API at the provider under an identifier of its own, as `https://portal.example.com`";
            entry
                .warn_with("this audience is the gate's own client, whose ID tokens have it", hint);
        }
        Some(audience)
    };
    let audiences = at.non_empty_list().iter().filter_map(audience).collect();
    Some(AccessTokens { audiences })
}

pub(super) fn asks_for_certificates(listener: &Listener) -> bool {
    matches!(&listener.role, ListenerRole::Tls(tls) if tls.client_ca.is_some())
}

/// `known` is `None` when the providers themselves couldn't be read. `certificates`: whether some may
/// stand for services.
pub(super) fn accepted(
    route: &Map<'_>,
    known: Option<&Vec<Arc<IdentityProvider>>>,
    certificates: bool,
) -> Accepted {
    #[derive(Clone, Copy, PartialEq)]
    enum Kind {
        Session,
        Bearer,
        Certificate,
    }
    let mut accepted = Accepted::default();
    if let Some(at) = route.get("authentication") {
        let mut seen = Unique::new();
        for entry in at.non_empty_list() {
            let kind = entry.choice(&[
                ("session", Kind::Session),
                ("bearer", Kind::Bearer),
                ("certificate", Kind::Certificate),
            ]);
            let Some(kind) = kind else { continue };
            if seen.seen(kind, entry.line()).is_some() {
                entry.error("it is listed twice");
            }
        }
        accepted.session = seen.has(&Kind::Session);
        accepted.bearer = seen.has(&Kind::Bearer);
        accepted.certificate = seen.has(&Kind::Certificate);
        if accepted.certificate && !certificates {
            let hint =
                "set `client_ca` at a listener, and `devices.registry` to a file with `services`";
            at.error_with("no client certificate stands for a service", hint);
        }
        if accepted.bearer && audiences(known).is_some_and(|audiences| audiences.is_empty()) {
            let hint = "add `bearer` with `audiences` to one of `identity_providers`";
            at.error_with("no identity provider's access tokens are accepted", hint);
        }
    }
    if let Some(at) = route.get("audience") {
        accepted.audience = words(&at).and_then(|audience| known_audience(&at, audience, known));
        if !accepted.bearer {
            let hint = "add `authentication: [session, bearer]`, or leave `audience` out";
            at.error_with("`audience` is about access tokens, which this route doesn't take", hint);
        }
    }
    if let Some(at) = route.get("upstream_token") {
        accepted.upstream_token = upstream_token(&at).unwrap_or_default();
        check_upstream_token(&at, &accepted, route);
    }
    accepted
}

fn upstream_token(at: &Cursor<'_>) -> Option<UpstreamToken> {
    if !at.is_map() {
        return at.choice(&[("drop", UpstreamToken::Drop), ("pass", UpstreamToken::Pass)]);
    }
    let map = keys(&keys(at)?.required("exchange")?)?;
    let audience = map.required("audience").and_then(|at| words(&at));
    let scope = map.get("scope").map_or(Some("".into()), |at| words(&at));
    Some(UpstreamToken::Exchange(TokenExchange { audience: audience?, scope: scope? }))
}

fn check_upstream_token(at: &Cursor<'_>, accepted: &Accepted, route: &Map<'_>) {
    if accepted.upstream_token == UpstreamToken::Drop {
        return;
    }
    if accepted.certificate {
        let hint = "leave `certificate` out of `authentication`; such callers can have a route of their own";
        at.error_with(
            "a caller with a certificate has no access token that could be sent on",
            hint,
        );
    }
    let credential = route.get("credential").and_then(|at| keys(&at));
    let header = credential.as_ref().and_then(|map| map.get("header")).and_then(|at| keys(&at));
    let name = header.as_ref().and_then(|map| map.get("name"));
    let basic = credential.as_ref().is_some_and(|map| map.get("basic").is_some());
    let named = name
        .is_some_and(|at| at.text().is_some_and(|name| name.eq_ignore_ascii_case("authorization")));
    if basic || named {
        let hint = "leave `upstream_token` or `credential` out";
        at.error_with("the route's `credential` is in `authorization` already", hint);
    }
}

fn known_audience(
    at: &Cursor<'_>,
    audience: Arc<str>,
    known: Option<&Vec<Arc<IdentityProvider>>>,
) -> Option<Arc<str>> {
    let audiences = audiences(known)?;
    if !audiences.is_empty() && !audiences.contains(&&audience) {
        let hint = "add it to the `bearer.audiences` of the provider that issues the tokens";
        at.error_with(format!("no identity provider has the audience {}", quote(&audience)), hint);
    }
    Some(audience)
}

fn audiences(known: Option<&Vec<Arc<IdentityProvider>>>) -> Option<Vec<&Arc<str>>> {
    let tokens = known?.iter().filter_map(|provider| provider.access_tokens.as_ref());
    Some(tokens.flat_map(|tokens| &tokens.audiences).collect())
}
