//! The head that the upstream sees: everything of the client's that could speak for the
//! gate is gone, and what the gate vouches for is added last.

use http::header::{AUTHORIZATION, CONNECTION, COOKIE, HOST, HeaderName, TE, UPGRADE, VIA};
use http::{HeaderMap, HeaderValue, Uri, Version};

use crate::config::model::{UpstreamHost, UpstreamProtocol, UpstreamToken};
use crate::domain::id::DecisionId;
use crate::domain::principal::Principal;
use crate::identity::cookie;
use crate::identity::credential::Credential;

use super::gate::Gate;
use super::headers::{self, encode_value};
use super::normalise::{Normalised, Upgrade};
use super::receive::Arrival;
use super::refusal::Refusal;
use super::route::RouteEntry;

/// Fields that are added at most, so that the map grows once.
const ADDED: usize = 16;

/// Turns the client's head into the one that is forwarded. Target, host and body length are the
/// canonical ones that were decided on.
pub fn prepare(
    gate: &Gate,
    arrival: &mut Arrival,
    asked: &Normalised,
    route: &RouteEntry,
    caller: &Credential,
    token: Option<HeaderValue>,
) -> Result<(), Refusal> {
    // In its place: it is larger than all that is added to it.
    let Arrival { id, at, connection, client, head, .. } = arrival;
    let upstream = &route.config.upstream;
    let wants_trailers = upstream.protocol == UpstreamProtocol::Http2
        && headers::lists_token(&head.headers, &TE, "trailers");
    strip(&mut head.headers);
    if matches!(caller, Credential::Token(_))
        && route.config.accepted.upstream_token != UpstreamToken::Pass
    {
        // It was for the gate: whoever gets it could be its bearer elsewhere.
        head.headers.remove(AUTHORIZATION);
    }
    if let Some(token) = token {
        head.headers.insert(AUTHORIZATION, token);
    }
    head.headers.reserve(ADDED);
    if wants_trailers {
        head.headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    if asked.upgrade == Upgrade::WebSocket {
        head.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        head.headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    }
    let mut told = connection.told();
    let place = told.place(&asked.request.authority, *client)?;
    let host = match &upstream.host {
        UpstreamHost::Preserve => place.host.clone(),
        UpstreamHost::Fixed(authority) => value(authority.to_string())?,
    };
    head.headers.insert(HOST, host);
    place.tell(&mut head.headers);
    head.headers.append(VIA, HeaderValue::from_static(via(head.version)));
    for (name, value) in told.names(caller) {
        head.headers.insert(name, value.clone());
    }
    let audience = &route.config.application.name;
    let assertion = told.assertion(gate, caller, audience, *at)?;
    drop(told);
    head.headers.insert(headers::ASSERTION, assertion);
    head.headers.insert(headers::DECISION, decision(*id));
    if let Some((name, credential)) = route.pool().credential() {
        remove_spellings(&mut head.headers, &name);
        head.headers.insert(name, credential);
    }
    let as_it_came = head.uri.authority().is_none()
        && head.uri.path_and_query().is_some_and(|came| asked.request.is_target(came.as_str()));
    if !as_it_came {
        head.uri = Uri::try_from(asked.request.target())
            .map_err(|_| Refusal::Malformed("the request target can't be forwarded"))?;
    }
    head.version = Version::HTTP_11;
    Ok(())
}

/// RFC 9110, section 7.6.3.
fn via(version: Version) -> &'static str {
    match version {
        Version::HTTP_2 => "2 wicketgate",
        Version::HTTP_10 => "1.0 wicketgate",
        _ => "1.1 wicketgate",
    }
}

fn strip(headers: &mut HeaderMap) {
    headers::strip(headers, headers::is_ours_alone);
    if headers.contains_key(COOKIE) {
        cookie::strip_own_cookies(headers);
        if headers.len() > headers.keys_len() {
            join_cookies(headers);
        }
    }
}

/// HTTP/2 may split cookies over several fields, which servers of HTTP/1.1 read as one each
/// (RFC 9113, section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let fields: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if fields.len() > 1
        && let Ok(joined) = HeaderValue::try_from(fields.join(&b"; "[..]))
    {
        headers.insert(COOKIE, joined);
    }
}

/// Nothing that an upstream could take for the gate's own credential passes, in any spelling.
fn remove_spellings(headers: &mut HeaderMap, name: &HeaderName) {
    let alike: Vec<HeaderName> = headers
        .keys()
        .filter(|key| headers::spell_alike(key.as_str(), name.as_str()))
        .cloned()
        .collect();
    for name in alike {
        headers.remove(name);
    }
}

pub(super) fn identity_fields(principal: &Principal) -> Box<[(HeaderName, HeaderValue)]> {
    let mut fields = vec![(headers::USER, encode_value(&principal.id))];
    if let Some(email) = &principal.email {
        fields.push((headers::EMAIL, encode_value(email)));
    }
    if !principal.groups.is_empty() {
        let groups: Vec<HeaderValue> =
            principal.groups.iter().map(|group| encode_value(group)).collect();
        let groups: Vec<&[u8]> = groups.iter().map(HeaderValue::as_bytes).collect();
        // Encoded values are visible ASCII, and so is the comma between them.
        if let Ok(groups) = HeaderValue::try_from(groups.join(&b',')) {
            fields.push((headers::GROUPS, groups));
        }
    }
    if let Some(tenant) = &principal.tenant {
        fields.push((headers::TENANT, encode_value(tenant)));
    }
    fields.into()
}

pub fn decision(id: DecisionId) -> HeaderValue {
    HeaderValue::from_bytes(&id.encode()).unwrap_or(HeaderValue::from_static(""))
}

pub(super) fn value(bytes: impl Into<Vec<u8>>) -> Result<HeaderValue, Refusal> {
    HeaderValue::try_from(bytes.into())
        .map_err(|_| Refusal::Malformed("the request can't be written as header fields"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn split_cookies_become_one_field_without_the_gates_own() {
        let mut headers =
            fields(&[("cookie", "a=1"), ("cookie", "__Host-wicketgate=x"), ("cookie", "b=2")]);
        strip(&mut headers);
        let cookies: Vec<_> = headers.get_all(COOKIE).iter().collect();
        assert_eq!(cookies, ["a=1; b=2"]);
    }

    #[test]
    fn no_spelling_of_the_gates_credential_passes() {
        let mut headers = fields(&[
            ("x-api-key", "evil"),
            ("x_api_key", "evil"),
            ("x.api-key", "evil"),
            ("x-api-keys", "fine"),
        ]);
        remove_spellings(&mut headers, &HeaderName::from_static("x-api-key"));
        assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["x-api-keys"]);
    }

    #[test]
    fn a_principal_without_a_claim_gets_no_field_for_it() {
        let mut principal = Principal {
            kind: crate::domain::principal::PrincipalKind::User,
            id: "idp/ada,x".into(),
            email: None,
            name: None,
            groups: ["b c".into(), "a".into()].into(),
            tenant: Some("acme".into()),
        };
        let named = |principal: &Principal| -> Vec<String> {
            identity_fields(principal)
                .iter()
                .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
                .collect()
        };
        assert_eq!(
            named(&principal),
            [
                "x-wicketgate-user: idp/ada%2Cx",
                "x-wicketgate-groups: a,b%20c",
                "x-wicketgate-tenant: acme"
            ]
        );
        principal.groups.clear();
        principal.tenant = None;
        assert_eq!(named(&principal), ["x-wicketgate-user: idp/ada%2Cx"]);
    }
}
