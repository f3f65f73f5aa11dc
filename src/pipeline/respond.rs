//! The upstream's answer, on its way to the client.

use http::header::{
    CONNECTION, CONTENT_LOCATION, HeaderName, LOCATION, SET_COOKIE, STRICT_TRANSPORT_SECURITY,
    UPGRADE,
};
use http::{HeaderMap, HeaderValue, Version};

use crate::domain::canonical::Authority;
use crate::identity::cookie;

use super::headers;
use super::route::RouteEntry;

/// One year (RFC 6797, section 6.1.1).
pub const HSTS: HeaderValue = HeaderValue::from_static("max-age=31536000");

/// Rewrites the head of an upstream's answer: nothing of the connection, nothing that speaks for
/// the gate or leads around it.
pub fn respond(
    head: &mut http::response::Parts,
    route: &RouteEntry,
    authority: &Authority,
    switched: bool,
) {
    let headers = &mut head.headers;
    let mut seen = Seen::default();
    headers::strip(headers, |name| {
        seen.note(name);
        // An alternative service (RFC 7838) would be a way past the gate.
        name == "alt-svc" || (name.starts_with('x') && headers::is_ours_alone(name))
    });
    if switched {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    }
    if !seen.transport_security {
        headers.insert(STRICT_TRANSPORT_SECURITY, HSTS);
    }
    if seen.location && route.config.response.location {
        for name in [LOCATION, CONTENT_LOCATION] {
            rewrite_location(headers, &name, route, authority);
        }
    }
    if seen.cookies {
        rewrite_cookies(headers, route.config.response.cookie_domain);
    }
}

/// What has to be looked at in an answer's header.
#[derive(Default)]
struct Seen {
    transport_security: bool,
    location: bool,
    cookies: bool,
}

impl Seen {
    fn note(&mut self, name: &str) {
        match name {
            "strict-transport-security" => self.transport_security = true,
            "location" | "content-location" => self.location = true,
            "set-cookie" => self.cookies = true,
            _ => {}
        }
    }
}

/// Says that the connection ends with this answer, where there is a field to say it in: HTTP/2 has
/// GOAWAY.
pub fn end_connection(asked_in: Version, headers: &mut HeaderMap) {
    if asked_in < Version::HTTP_2 {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
}

/// Maps an absolute address of the upstream, or of the public host under http, to the public
/// https origin. Every other address is the application's own business.
fn rewrite_location(
    headers: &mut HeaderMap,
    name: &HeaderName,
    route: &RouteEntry,
    authority: &Authority,
) {
    let Some(location) = headers.get(name).and_then(|value| value.to_str().ok()) else {
        return;
    };
    let Some((scheme, rest)) = location.split_once("://") else {
        return;
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (named, path) = rest.split_at(end);
    let is_public = scheme.eq_ignore_ascii_case("http")
        && Authority::parse(named).is_ok_and(|named| named.host == authority.host);
    if !is_public && !route.pool().owns_origin(&format!("{scheme}://{named}")) {
        return;
    }
    if let Ok(rewritten) = HeaderValue::try_from(format!("https://{authority}{path}")) {
        headers.insert(name.clone(), rewritten);
    }
}

/// Keeps an application's cookies with its host, and its hands off the gate's.
fn rewrite_cookies(headers: &mut HeaderMap, drop_domain: bool) {
    let cookies: Vec<HeaderValue> = headers.get_all(SET_COOKIE).iter().cloned().collect();
    headers.remove(SET_COOKIE);
    for cookie in cookies {
        let bytes = cookie.as_bytes();
        let pair = bytes.split(|byte| *byte == b';').next().unwrap_or(bytes);
        if cookie::is_ours(pair) {
            tracing::warn!("an upstream tried to set a cookie of the gate's; it was dropped");
            continue;
        }
        headers.append(SET_COOKIE, if drop_domain { without_domain(cookie) } else { cookie });
    }
}

fn without_domain(cookie: HeaderValue) -> HeaderValue {
    let is_domain = |attribute: &[u8]| {
        let name = attribute.split(|byte| *byte == b'=').next().unwrap_or(attribute);
        name.trim_ascii().eq_ignore_ascii_case(b"domain")
    };
    let mut attributes = cookie.as_bytes().split(|byte| *byte == b';');
    let Some(pair) = attributes.next() else {
        return cookie;
    };
    if !attributes.clone().any(is_domain) {
        return cookie;
    }
    let mut kept = pair.to_vec();
    for attribute in attributes.filter(|attribute| !is_domain(attribute)) {
        kept.push(b';');
        kept.extend_from_slice(attribute);
    }
    HeaderValue::try_from(kept).unwrap_or(cookie)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_loses_its_domain_and_nothing_else() {
        let cookie = HeaderValue::from_static("a=b; Path=/; DOMAIN=.evil.example ; HttpOnly");
        assert_eq!(without_domain(cookie), "a=b; Path=/; HttpOnly");
        let plain = HeaderValue::from_static("domain=b; Path=/");
        assert_eq!(without_domain(plain.clone()), plain);
    }

    #[test]
    fn an_upstream_can_not_set_the_gates_cookies() {
        let mut headers = HeaderMap::new();
        for cookie in [
            "__Host-wicketgate=x; Path=/",
            "__host-WICKETGATE-login-1=x",
            "=__Host-wicketgate=x; Path=/",
            "fine=1",
        ] {
            headers.append(SET_COOKIE, HeaderValue::from_static(cookie));
        }
        rewrite_cookies(&mut headers, true);
        let left: Vec<_> = headers.get_all(SET_COOKIE).iter().collect();
        assert_eq!(left, ["fine=1"]);
    }
}
