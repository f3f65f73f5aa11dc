//! What no policy is asked about, because no answer could make it right.

use http::header::{ORIGIN, REFERER};
use http::{HeaderMap, HeaderValue, Method};

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
        let own = &asked.request.authority;
        allowed_origin(&arrival.head.headers, own, &route.config.cross_site_origins)?;
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
pub fn same_origin(headers: &HeaderMap, own: &Authority) -> Result<(), Refusal> {
    allowed_origin(headers, own, &[])
}

/// As [`same_origin`], but for the origins that a route takes such requests from.
///
/// `Origin` decides where there is one: a page can't change it, and a browser sends it with every
/// request that changes something (Fetch, section 3.2). Where there is none, `Sec-Fetch-Site` does,
/// and in browsers that know neither, `Referer`.
fn allowed_origin(
    headers: &HeaderMap,
    own: &Authority,
    others: &[Authority],
) -> Result<(), Refusal> {
    let said = match headers.get(ORIGIN) {
        // `null` is a sandboxed frame, a `data:` address or a redirect between sites: anybody.
        Some(origin) => Some(https_origin(origin, Rest::Nothing).ok_or(Refusal::CrossSite)?),
        None => None,
    };
    if let Some(origin) = &said
        && others.iter().any(|other| is_same(origin, other))
    {
        return Ok(());
    }
    let mut sites = headers.get_all(headers::FETCH_SITE).iter();
    let site = sites.next();
    let elsewhere = |site: &HeaderValue| site != "same-origin" && site != "none";
    if sites.next().is_some() || site.is_some_and(elsewhere) {
        return Err(Refusal::CrossSite);
    }
    let from = match said {
        Some(origin) => origin,
        None if site.is_some() => return Ok(()),
        None => match headers.get(REFERER) {
            None => return Ok(()),
            Some(page) => https_origin(page, Rest::Path).ok_or(Refusal::CrossSite)?,
        },
    };
    if is_same(&from, own) { Ok(()) } else { Err(Refusal::CrossSite) }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Rest {
    Nothing,
    Path,
}

fn https_origin(value: &HeaderValue, rest: Rest) -> Option<Authority> {
    let origin = value.to_str().ok()?.strip_prefix("https://")?;
    let origin = match rest {
        Rest::Nothing => origin,
        Rest::Path => origin.split(['/', '?', '#']).next()?,
    };
    Authority::parse(origin).ok()
}

/// RFC 6454, section 5, for two origins under https.
pub fn is_same(one: &Authority, other: &Authority) -> bool {
    one.host == other.host && one.port.unwrap_or(443) == other.port.unwrap_or(443)
}

/// The origin of another site whose pages the route takes requests from.
pub fn foreign_origin<'a>(headers: &'a HeaderMap, route: &RouteEntry) -> Option<&'a HeaderValue> {
    let origin = headers.get(ORIGIN)?;
    let said = https_origin(origin, Rest::Nothing)?;
    route.config.cross_site_origins.iter().any(|other| is_same(&said, other)).then_some(origin)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderName;

    const OWN: &str = "a.example:8443";
    const PARTNER: &str = "partner.example";

    fn check(fields: &[(&'static str, &'static str)]) -> (bool, bool) {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let own = Authority::parse(OWN).unwrap();
        let partner = Authority::parse(PARTNER).unwrap();
        let open = allowed_origin(&headers, &own, &[partner]).is_ok();
        (same_origin(&headers, &own).is_ok(), open)
    }

    #[test]
    fn a_request_of_the_same_origin_passes() {
        for fields in [
            &[][..],
            &[("origin", "https://a.example:8443")],
            &[("origin", "https://A.example:8443"), ("sec-fetch-site", "same-origin")],
            &[("sec-fetch-site", "same-origin")],
            // The user's own doing: an address typed in, a bookmark.
            &[("sec-fetch-site", "none")],
            &[("referer", "https://a.example:8443/form?x=https://evil.example/")],
            // What Fetch Metadata says is said by the browser; a page can change its referrer.
            &[("sec-fetch-site", "same-origin"), ("referer", "https://b.example/")],
        ] {
            assert_eq!(check(fields), (true, true), "{fields:?}");
        }
    }

    #[test]
    fn a_request_of_another_origin_is_refused_however_it_says_so() {
        for fields in [
            // Another port, another scheme, another host, a sibling, a parent, a child.
            &[("origin", "https://a.example")][..],
            &[("origin", "http://a.example:8443")],
            &[("origin", "https://b.example:8443")],
            &[("origin", "https://b.a.example:8443")],
            &[("origin", "https://example:8443")],
            &[("origin", "https://a.example:8443.evil.example")],
            &[("origin", "https://a.example:8443@evil.example")],
            &[("origin", "https://a.example:8443/")],
            &[("origin", "ws://a.example:8443")],
            &[("origin", "chrome-extension://abc")],
            // A sandboxed frame, a `data:` page, a redirect.
            &[("origin", "null")],
            &[("origin", "null"), ("sec-fetch-site", "same-origin")],
            &[("origin", "")],
            // No `Origin`, but a browser that says where it comes from.
            &[("sec-fetch-site", "cross-site")],
            &[("sec-fetch-site", "same-site")],
            &[("sec-fetch-site", "Same-Origin")],
            &[("sec-fetch-site", "same-origin"), ("sec-fetch-site", "cross-site")],
            // The two contradict each other.
            &[("origin", "https://b.example"), ("sec-fetch-site", "same-origin")],
            &[("origin", "https://a.example:8443"), ("sec-fetch-site", "cross-site")],
            &[("origin", "https://a.example:8443"), ("sec-fetch-site", "same-site")],
            // An old browser.
            &[("referer", "https://b.example/a.example:8443/")],
            &[("referer", "http://a.example:8443/")],
            &[("referer", "about:client")],
            // What a form may send without asking first.
            &[("origin", "https://b.example"), ("content-type", "text/plain")],
        ] {
            assert_eq!(check(fields), (false, false), "{fields:?}");
        }
    }

    #[test]
    fn a_listed_origin_passes_and_only_by_its_own_name() {
        for (fields, passes) in [
            (&[("origin", "https://partner.example"), ("sec-fetch-site", "cross-site")][..], true),
            (&[("origin", "https://partner.example:443")], true),
            (&[("origin", "https://partner.example:8443")], false),
            (&[("origin", "http://partner.example")], false),
            (&[("origin", "https://sub.partner.example")], false),
            (&[("sec-fetch-site", "cross-site")], false),
            (&[("referer", "https://partner.example/")], false),
        ] {
            assert_eq!(check(fields), (false, passes), "{fields:?}");
        }
    }

    #[test]
    fn what_may_change_something_is_held_to_it() {
        for method in ["POST", "PUT", "PATCH", "DELETE", "PROPFIND", "LOCK"] {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            assert!(changes_state(&method, Upgrade::None), "{method}");
        }
        for method in [Method::GET, Method::HEAD, Method::OPTIONS] {
            assert!(!changes_state(&method, Upgrade::None), "{method}");
        }
        assert!(changes_state(&Method::GET, Upgrade::WebSocket));
    }
}
