//! What no policy is asked about, because no answer could make it right.

use http::header::ORIGIN;
use http::{HeaderMap, Method};

use crate::domain::canonical::{Authority, CanonicalRequest};

use super::headers;
use super::normalise::{Normalised, Upgrade};
use super::receive::Arrival;
use super::refusal::Refusal;
use super::route::RouteEntry;

/// SNI and Host have to name the same host: otherwise the certificate, and the client certificate
/// asked for with it, belong to another site (CVE-2026-48491). RFC 9110, section 15.5.20.
pub fn server_name(arrival: &Arrival, request: &CanonicalRequest) -> Result<(), Refusal> {
    match &arrival.connection.server_name {
        Some(name) if *name == request.authority.host => Ok(()),
        Some(_) => Err(Refusal::ServerNameMismatch),
        // An IP literal has no server name (RFC 6066, section 3).
        None if request.authority.host.is_ip() => Ok(()),
        None => Err(Refusal::ServerNameMismatch),
    }
}

/// A connection from elsewhere was not taken; a trusted proxy's was, so that its requests are asked
/// one by one.
pub fn listener(arrival: &Arrival) -> Result<(), Refusal> {
    if arrival.connection.rules.allows(arrival.client) { Ok(()) } else { Err(Refusal::Source) }
}

pub fn guard(arrival: &Arrival, asked: &Normalised, route: &RouteEntry) -> Result<(), Refusal> {
    if !route.config.allows(arrival.client) {
        return Err(Refusal::Source);
    }
    let limit = route.config.max_body_bytes;
    if asked.content_length.is_some_and(|length| length > limit) {
        return Err(Refusal::TooLarge { limit });
    }
    if asked.upgrade == Upgrade::WebSocket && !route.config.websocket {
        return Err(Refusal::NoWebSocket);
    }
    if route.config.refuse_cross_site && changes_state(&arrival.head.method, asked.upgrade) {
        same_origin(&arrival.head.headers, &asked.request.authority)?;
    }
    Ok(())
}

/// A WebSocket counts: browsers send cookies with its handshake from any site, and no CORS
/// protects what follows.
fn changes_state(method: &Method, upgrade: Upgrade) -> bool {
    upgrade == Upgrade::WebSocket
        || !(method == Method::GET || method == Method::HEAD || method == Method::OPTIONS)
}

/// Refuses what a browser says comes from another origin. Clients that say nothing are no
/// browsers: nobody can make them send a cookie that they don't hold.
pub fn same_origin(headers: &HeaderMap, authority: &Authority) -> Result<(), Refusal> {
    if let Some(site) = headers.get(headers::FETCH_SITE)
        && site != "same-origin"
        && site != "none"
    {
        return Err(Refusal::CrossSite);
    }
    let Some(origin) = headers.get(ORIGIN) else {
        return Ok(());
    };
    let same = origin
        .to_str()
        .ok()
        .and_then(|origin| origin.strip_prefix("https://"))
        .and_then(|origin| Authority::parse(origin).ok())
        .is_some_and(|origin| {
            origin.host == authority.host
                && origin.port.unwrap_or(443) == authority.port.unwrap_or(443)
        });
    if same { Ok(()) } else { Err(Refusal::CrossSite) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, HeaderValue};

    fn check(fields: &[(&'static str, &'static str)]) -> bool {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        same_origin(&headers, &Authority::parse("a.example:8443").unwrap()).is_ok()
    }

    #[test]
    fn a_request_of_the_same_origin_passes() {
        assert!(check(&[]));
        assert!(check(&[("origin", "https://a.example:8443")]));
        assert!(check(&[("origin", "https://A.example:8443"), ("sec-fetch-site", "same-origin")]));
        assert!(check(&[("sec-fetch-site", "none")]));
    }

    #[test]
    fn a_request_of_another_origin_is_refused() {
        assert!(!check(&[("origin", "https://a.example")]));
        assert!(!check(&[("origin", "http://a.example:8443")]));
        assert!(!check(&[("origin", "null")]));
        assert!(!check(&[("origin", "https://b.example:8443")]));
        assert!(!check(&[("sec-fetch-site", "cross-site")]));
        assert!(!check(&[("sec-fetch-site", "same-site")]));
        assert!(!check(&[("origin", "https://b.example"), ("sec-fetch-site", "same-origin")]));
        assert!(!check(&[("origin", "https://a.example:8443"), ("sec-fetch-site", "cross-site")]));
    }
}
