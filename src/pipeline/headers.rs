//! Header names that must not simply pass through.

use http::header::{CONNECTION, HeaderName};
use http::{HeaderMap, HeaderValue};

pub const DECISION: HeaderName = HeaderName::from_static("x-wicketgate-decision");
pub const ASSERTION: HeaderName = HeaderName::from_static("x-wicketgate-assertion");
pub const USER: HeaderName = HeaderName::from_static("x-wicketgate-user");
pub const EMAIL: HeaderName = HeaderName::from_static("x-wicketgate-email");
pub const GROUPS: HeaderName = HeaderName::from_static("x-wicketgate-groups");
pub const TENANT: HeaderName = HeaderName::from_static("x-wicketgate-tenant");
pub const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
pub const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// W3C Fetch Metadata.
pub const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
pub const FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
pub const FETCH_DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");

/// Names that tell an upstream who asks, from where, for what or how. Only the gate sets them;
/// those of the last two groups it never sets, because with them a client would have another
/// request carried out than the one that was decided on. `*` stands for any ending.
const OURS_ALONE: [&str; 19] = [
    "x-wicketgate*",
    "forwarded",
    "x-forwarded*",
    "x-real-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "true-client-ip",
    "client-ip",
    // Another address than the one routed on (CVE-2026-40575).
    "x-original-url",
    "x-original-uri",
    "x-original-host",
    "x-original-method",
    "x-rewrite-url",
    "x-http-host-override",
    // Another method than the one decided on.
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    // RFC 3875 turns it into HTTP_PROXY (CVE-2016-5385).
    "proxy",
    "x-proxyuser-ip",
];

/// Whether only the gate may send this field upstream, in whatever spelling: CGI, WSGI and their
/// heirs take `-`, `_` and `.` for one another (CVE-2025-64484, CVE-2026-39858).
pub fn is_ours_alone(name: &str) -> bool {
    // Nothing on the list starts otherwise.
    if !name.starts_with(['x', 'f', 'p', 't', 'c']) {
        return false;
    }
    OURS_ALONE.iter().any(|pattern| match pattern.strip_suffix('*') {
        Some(prefix) => spells(name, prefix, true),
        None => spells(name, pattern, false),
    })
}

/// Whether servers that take `-`, `_` and `.` for one another take one name for the other.
pub fn spell_alike(name: &str, other: &str) -> bool {
    let letter =
        |byte: u8| if byte.is_ascii_alphanumeric() { byte.to_ascii_lowercase() } else { b'-' };
    name.len() == other.len() && name.bytes().map(letter).eq(other.bytes().map(letter))
}

/// Compares byte by byte, where any byte that is no letter or digit counts as `-`.
fn spells(name: &str, pattern: &str, prefix: bool) -> bool {
    let long_enough =
        if prefix { name.len() >= pattern.len() } else { name.len() == pattern.len() };
    long_enough
        && name.bytes().zip(pattern.bytes()).all(|(byte, wanted)| {
            let byte = if byte.is_ascii_alphanumeric() { byte.to_ascii_lowercase() } else { b'-' };
            byte == wanted
        })
}

/// Removes every field that belongs to this connection and not to the message (RFC 9110,
/// section 7.6.1), those that `Connection` names among them, and those that are foreign here. Each
/// of the others is asked about once.
pub fn strip(headers: &mut HeaderMap, mut is_foreign: impl FnMut(&str) -> bool) {
    if headers.contains_key(CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(CONNECTION)
            .iter()
            .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
            .map(<[u8]>::trim_ascii)
            // What nearly all of them say, and goes in any case.
            .filter(|name| {
                !name.eq_ignore_ascii_case(b"keep-alive") && !name.eq_ignore_ascii_case(b"close")
            })
            .filter_map(|name| HeaderName::from_bytes(name).ok())
            .collect();
        for name in named {
            headers.remove(name);
        }
        headers.remove(CONNECTION);
    }
    // Nearly always there is none of these: one look at the names there are costs less than one
    // look-up for each of them.
    let mut goes = headers.keys().filter(|name| {
        let name = name.as_str();
        is_hop_by_hop(name) || is_foreign(name)
    });
    let Some(first) = goes.next().cloned() else { return };
    let others: Vec<HeaderName> = goes.cloned().collect();
    headers.remove(first);
    for name in others {
        headers.remove(name);
    }
}

fn is_hop_by_hop(name: &str) -> bool {
    matches!(
        name,
        "te" | "trailer"
            | "transfer-encoding"
            | "upgrade"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "keep-alive"
            | "close"
            | "proxy-connection"
            | "http2-settings"
    )
}

/// Fields that a trailer section must not carry: they frame, route, authenticate, condition or
/// describe the message, and whoever merges trailers into the header would act on them too late
/// or in another way than the gate did (RFC 9110, section 6.5.1).
const NOT_IN_TRAILERS: [&str; 42] = [
    "accept-encoding",
    "age",
    "alt-svc",
    "authorization",
    "cache-control",
    "connection",
    "content-encoding",
    "content-length",
    "content-location",
    "content-range",
    "content-security-policy",
    "content-type",
    "cookie",
    "date",
    "expect",
    "expires",
    "host",
    "http2-settings",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "keep-alive",
    "location",
    "max-forwards",
    "origin",
    "pragma",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "range",
    "retry-after",
    "set-cookie",
    "strict-transport-security",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "vary",
    "via",
    "www-authenticate",
];

/// Leaves of a trailer section what may stand in one. The gate adds no field there, so that none
/// of those that are its own alone can be true.
pub fn strip_trailers(trailers: &mut HeaderMap) {
    let dropped: Vec<HeaderName> = trailers
        .keys()
        .filter(|name| {
            let name = name.as_str();
            NOT_IN_TRAILERS.contains(&name) || is_ours_alone(name)
        })
        .cloned()
        .collect();
    for name in dropped {
        trailers.remove(name);
    }
}

/// Whether a comma-separated list field holds a token, in any case.
pub fn lists_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    headers.get_all(name).iter().any(|value| {
        value
            .as_bytes()
            .split(|byte| *byte == b',')
            .any(|item| item.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
    })
}

/// Text as a field value: whatever is not plain visible ASCII, and the comma that separates list
/// items, is percent-encoded.
pub fn encode_value(text: &str) -> HeaderValue {
    let plain = text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b',' && byte != b'%');
    let encoded;
    let text = if plain {
        text
    } else {
        encoded = percent_encoding::utf8_percent_encode(text, UNSAFE_IN_VALUE).to_string();
        &encoded
    };
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""))
}

const UNSAFE_IN_VALUE: &percent_encoding::AsciiSet =
    &percent_encoding::CONTROLS.add(b' ').add(b',').add(b'%');

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identity_headers_are_recognised_in_every_spelling() {
        for name in [
            "x-wicketgate-user",
            "x_wicketgate_user",
            "x.wicketgate.user",
            "x-wicketgate_groups",
            "x~wicketgate~user",
            "x-wicketgate-anything-new",
            "x_forwarded_for",
            "x-forwarded-uri",
            "forwarded",
            "x_real_ip",
            "x_http_method_override",
            "proxy",
            "x-original-url",
        ] {
            assert!(is_ours_alone(name), "{name}");
        }
    }

    #[test]
    fn other_headers_are_left_alone() {
        for name in [
            "x-requested-with",
            "cookie",
            "content-type",
            "x-wicket",
            "forward",
            "pragma",
            "te",
            "x-real-ipx",
        ] {
            assert!(!is_ours_alone(name), "{name}");
        }
    }

    #[test]
    fn fields_named_by_connection_go_with_it() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, X-Secret"),
            ("x-secret", "1"),
            ("keep-alive", "timeout=5"),
            ("te", "trailers"),
            ("accept", "*/*"),
        ] {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        strip(&mut headers, |_| false);
        assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["accept"]);
    }

    #[test]
    fn a_trailer_speaks_for_nobody_and_frames_nothing() {
        let mut trailers = HeaderMap::new();
        for name in [
            "x-wicketgate-user",
            "x_forwarded_for",
            "content-length",
            "transfer-encoding",
            "host",
            "authorization",
            "cookie",
            "set-cookie",
            "connection",
            "grpc-status",
            "grpc-message",
            "digest",
            "server-timing",
        ] {
            trailers.append(HeaderName::from_static(name), HeaderValue::from_static("1"));
        }
        strip_trailers(&mut trailers);
        let mut left: Vec<_> = trailers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["digest", "grpc-message", "grpc-status", "server-timing"]);
    }

    #[test]
    fn values_can_not_break_out_of_their_field() {
        assert_eq!(encode_value("corp/ada"), "corp/ada");
        assert_eq!(encode_value("a,b\r\nx: y"), "a%2Cb%0D%0Ax:%20y");
        assert_eq!(encode_value("Müller"), "M%C3%BCller");
    }
}
