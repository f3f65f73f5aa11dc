//! Stage 9: the head that the upstream sees: everything of the client's that could speak for the
//! gate is gone, and what the gate vouches for is added last.

use http::header::{CONNECTION, COOKIE, HOST, HeaderName, TE, UPGRADE, VIA};
use http::{HeaderMap, HeaderValue, Uri, Version};

use crate::config::model::{UpstreamHost, UpstreamProtocol};
use crate::domain::clock::Timestamp;
use crate::domain::connection::Connection;
use crate::domain::id::DecisionId;
use crate::domain::principal::Principal;
use crate::identity::cookie;
use crate::identity::session::Session;

use super::gate::Gate;
use super::headers::{self, encode_value};
use super::normalise::{Normalised, Upgrade};
use super::receive::Arrival;
use super::refusal::Refusal;
use super::route::RouteEntry;

/// Turns the client's head into the one that is forwarded. Target, host and body length are the
/// canonical ones that were decided on.
pub fn prepare(
    gate: &Gate,
    arrival: &Arrival,
    mut head: http::request::Parts,
    asked: &Normalised,
    route: &RouteEntry,
    session: &Session,
) -> Result<http::request::Parts, Refusal> {
    let wants_trailers = headers::lists_token(&head.headers, &TE, "trailers");
    strip(&mut head.headers);
    if wants_trailers && route.config.upstream.protocol == UpstreamProtocol::Http2 {
        head.headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    if asked.upgrade == Upgrade::WebSocket {
        head.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        head.headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    }
    let public = value(asked.request.authority.to_string())?;
    let host = match &route.config.upstream.host {
        UpstreamHost::Preserve => public.clone(),
        UpstreamHost::Fixed(authority) => value(authority.to_string())?,
    };
    head.headers.insert(HOST, host);
    forwarded(&mut head, &arrival.connection, public)?;
    identity(&mut head.headers, gate, arrival.at, arrival.id, route, session)?;
    if let Some((name, credential)) = route.pool().credential() {
        remove_spellings(&mut head.headers, &name);
        head.headers.insert(name, credential);
    }
    head.uri = Uri::try_from(asked.request.target())
        .map_err(|_| Refusal::Malformed("the request target can't be forwarded"))?;
    head.version = Version::HTTP_11;
    Ok(head)
}

fn strip(headers: &mut HeaderMap) {
    headers::strip_hop_by_hop(headers);
    let ours: Vec<HeaderName> =
        headers.keys().filter(|name| headers::is_ours_alone(name.as_str())).cloned().collect();
    for name in ours {
        headers.remove(name);
    }
    if headers.contains_key(COOKIE) {
        cookie::strip_own_cookies(headers);
        join_cookies(headers);
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

/// Where the request came from, as the gate saw it. RFC 7239 and the older `X-Forwarded-*`.
fn forwarded(
    head: &mut http::request::Parts,
    connection: &Connection,
    host: HeaderValue,
) -> Result<(), Refusal> {
    let client = connection.client.0.to_string();
    let (open, close) = if connection.client.0.is_ipv6() { ("\"[", "]\"") } else { ("", "") };
    let parts: [&[u8]; 7] = [
        b"for=",
        open.as_bytes(),
        client.as_bytes(),
        close.as_bytes(),
        b";host=\"",
        host.as_bytes(),
        b"\";proto=https",
    ];
    head.headers.insert(http::header::FORWARDED, value(parts.concat())?);
    head.headers.insert(headers::FORWARDED_FOR, value(client)?);
    head.headers.insert(headers::FORWARDED_HOST, host);
    head.headers.insert(headers::FORWARDED_PROTO, HeaderValue::from_static("https"));
    let via = match head.version {
        Version::HTTP_2 => "2 wicketgate",
        Version::HTTP_10 => "1.0 wicketgate",
        _ => "1.1 wicketgate",
    };
    head.headers.append(VIA, HeaderValue::from_static(via));
    Ok(())
}

/// A field that the principal lacks is absent: it was stripped before, so nobody else's survives
/// (CVE-2026-30851).
fn identity(
    headers: &mut HeaderMap,
    gate: &Gate,
    at: Timestamp,
    id: DecisionId,
    route: &RouteEntry,
    session: &Session,
) -> Result<(), Refusal> {
    for (name, value) in session.fields(|| identity_fields(&session.principal)) {
        headers.insert(name, value.clone());
    }
    let audience = &route.config.application.name;
    let assertion = gate.signer.assertion(session, audience, at).map_err(|error| {
        tracing::error!(%error, "the identity assertion can't be signed");
        Refusal::SessionsUnavailable
    })?;
    headers.insert(headers::ASSERTION, assertion);
    headers.insert(headers::DECISION, decision(id));
    Ok(())
}

fn identity_fields(principal: &Principal) -> Box<[(HeaderName, HeaderValue)]> {
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

fn value(bytes: impl Into<Vec<u8>>) -> Result<HeaderValue, Refusal> {
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
