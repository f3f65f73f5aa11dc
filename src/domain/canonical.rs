//! The one parser of what a client asks for.
//!
//! INVARIANT: routing, policies, audit and forwarding use the values made here and nothing else.
//! What could be read in two ways is refused, never repaired: a repair that the upstream does not
//! make as well is a bypass (the cause behind CVE-2026-33494, CVE-2026-48794 and their kin).

use std::fmt;
use std::sync::Arc;

/// Longest request target that is looked at, in bytes.
pub const MAX_TARGET: usize = 8 * 1024;

/// A host name or IP literal in canonical form: lower case, no trailing dot, no port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Host(Arc<str>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    #[error("the host is empty")]
    Empty,
    #[error("the host is longer than 253 characters")]
    TooLong,
    #[error("the host has an empty label, or one that is too long or starts or ends with `-`")]
    BadLabel,
    #[error("the host holds a character that no host name may have")]
    BadCharacter,
    #[error("the port is not a number from 1 to 65535")]
    BadPort,
}

impl Host {
    /// Parses a host without a port. Upper case and one trailing dot are two spellings of one
    /// name (RFC 4343, RFC 1034 section 3.1) and become the canonical one; everything else that
    /// is not a plain name or an IP literal is refused.
    pub fn parse(text: &str) -> Result<Self, HostError> {
        if let Some(inner) = text.strip_prefix('[') {
            let inner = inner.strip_suffix(']').ok_or(HostError::BadCharacter)?;
            let address: std::net::Ipv6Addr = inner.parse().map_err(|_| HostError::BadCharacter)?;
            return Ok(Self(format!("[{address}]").into()));
        }
        let name = text.strip_suffix('.').unwrap_or(text);
        if name.is_empty() {
            return Err(HostError::Empty);
        }
        if name.len() > 253 {
            return Err(HostError::TooLong);
        }
        for label in name.split('.') {
            if label.is_empty()
                || label.len() > 63
                || label.starts_with('-')
                || label.ends_with('-')
            {
                return Err(HostError::BadLabel);
            }
            if !label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
                return Err(HostError::BadCharacter);
            }
        }
        // A name whose last label is a number is an IPv4 address or nothing (WHATWG URL, 3.5).
        let numeric = name
            .rsplit('.')
            .next()
            .is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
        if numeric && name.parse::<std::net::Ipv4Addr>().is_err() {
            return Err(HostError::BadCharacter);
        }
        if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
            Ok(Self(name.to_ascii_lowercase().into()))
        } else {
            Ok(Self(name.into()))
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn shared(&self) -> Arc<str> {
        Arc::clone(&self.0)
    }

    pub fn is_ip(&self) -> bool {
        self.0.starts_with('[') || self.0.parse::<std::net::Ipv4Addr>().is_ok()
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::borrow::Borrow<str> for Host {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// A host and, where the client named one, a port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Authority {
    pub host: Host,
    pub port: Option<u16>,
}

impl Authority {
    /// Parses `host`, `host:port`, `[v6]` or `[v6]:port`. User information is refused.
    pub fn parse(text: &str) -> Result<Self, HostError> {
        let after_bracket = text.rfind(']').map_or(0, |at| at + 1);
        let (host, port) = match text.get(after_bracket..).and_then(|rest| rest.find(':')) {
            Some(colon) => {
                let (host, port) = text.split_at(after_bracket + colon);
                (host, Some(port.strip_prefix(':').unwrap_or(port)))
            }
            None => (text, None),
        };
        let port = match port {
            None => None,
            Some(digits) => {
                if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
                    return Err(HostError::BadPort);
                }
                match digits.parse::<u16>() {
                    Ok(port) if port != 0 => Some(port),
                    _ => return Err(HostError::BadPort),
                }
            }
        };
        Ok(Self { host: Host::parse(host)?, port })
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => write!(f, "{}:{port}", self.host),
            None => fmt::Display::fmt(&self.host, f),
        }
    }
}

/// A path in its two exactly corresponding forms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CanonicalPath {
    /// What is forwarded: percent-encoding normalised (RFC 3986, section 6.2.2).
    encoded: Arc<str>,
    /// What routes and policies see: decoded, without path parameters.
    decoded: Arc<str>,
    parameters: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    #[error("the request target is longer than {MAX_TARGET} bytes")]
    TooLong,
    #[error("the request target is not a path that starts with `/`")]
    NotOriginForm,
    #[error("the request target names another host than the Host header")]
    ForeignAuthority,
    #[error("the request target names another scheme than https")]
    ForeignScheme,
    #[error("the path holds a character that has to be percent-encoded")]
    BadCharacter,
    #[error("the path holds a `%` that two hex digits do not follow")]
    BadEscape,
    #[error("the path holds an encoded slash, backslash, or control character")]
    ForbiddenEscape,
    #[error("the path is percent-encoded twice")]
    DoubleEncoding,
    #[error("the path is not UTF-8 once decoded")]
    NotUtf8,
    #[error("the path holds an empty segment (`//`)")]
    EmptySegment,
    #[error("the path holds a `.` or `..` segment")]
    DotSegment,
    #[error("the query holds a character that has to be percent-encoded")]
    BadQuery,
}

const HEX: &[u8; 16] = b"0123456789ABCDEF";

fn hex_value(byte: Option<&u8>) -> Option<u8> {
    match byte? {
        digit @ b'0'..=b'9' => Some(digit - b'0'),
        digit @ b'a'..=b'f' => Some(digit - b'a' + 10),
        digit @ b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// sub-delims, `:` and `@` of RFC 3986's `pchar`, less `;`, which has a meaning of its own here.
fn is_path_literal(byte: u8) -> bool {
    is_unreserved(byte)
        || matches!(
            byte,
            b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b'=' | b':' | b'@'
        )
}

impl CanonicalPath {
    pub fn parse(raw: &str) -> Result<Self, TargetError> {
        if raw.len() > MAX_TARGET {
            return Err(TargetError::TooLong);
        }
        let body = raw.strip_prefix('/').ok_or(TargetError::NotOriginForm)?;
        // The common case: nothing to decode, nothing to encode, no parameters.
        if body.bytes().all(|byte| byte == b'/' || is_path_literal(byte)) {
            check_segments(body)?;
            let shared: Arc<str> = raw.into();
            return Ok(Self { encoded: Arc::clone(&shared), decoded: shared, parameters: false });
        }
        Self::parse_slowly(raw, body)
    }

    fn parse_slowly(raw: &str, body: &str) -> Result<Self, TargetError> {
        let mut encoded = String::with_capacity(raw.len() + 8);
        let mut decoded: Vec<u8> = Vec::with_capacity(raw.len());
        encoded.push('/');
        decoded.push(b'/');
        let mut parameters = false;
        let mut in_parameters = false;
        let bytes = body.as_bytes();
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            at += 1;
            let value = match byte {
                b'/' => {
                    in_parameters = false;
                    encoded.push('/');
                    decoded.push(b'/');
                    continue;
                }
                b';' => {
                    parameters = true;
                    in_parameters = true;
                    encoded.push(';');
                    continue;
                }
                b'%' => {
                    let (Some(high), Some(low)) =
                        (hex_value(bytes.get(at)), hex_value(bytes.get(at + 1)))
                    else {
                        return Err(TargetError::BadEscape);
                    };
                    at += 2;
                    let value = (high << 4) | low;
                    if matches!(value, b'/' | b'\\') || value < 0x20 || value == 0x7f {
                        return Err(TargetError::ForbiddenEscape);
                    }
                    value
                }
                literal if is_path_literal(literal) => {
                    encoded.push(char::from(literal));
                    if !in_parameters {
                        decoded.push(literal);
                    }
                    continue;
                }
                // Browsers leave these as they are (WHATWG URL, path percent-encode set).
                b'[' | b']' | b'|' => byte,
                _ => return Err(TargetError::BadCharacter),
            };
            // `value` was, or has to be, percent-encoded.
            if is_unreserved(value) {
                encoded.push(char::from(value));
            } else {
                encoded.push('%');
                for nibble in [value >> 4, value & 15] {
                    let digit = HEX.get(usize::from(nibble)).copied().unwrap_or(b'0');
                    encoded.push(char::from(digit));
                }
            }
            if value == b';' {
                // An encoded `;` starts parameters for some servers and is a letter for others.
                parameters = true;
                in_parameters = true;
            } else if !in_parameters {
                decoded.push(value);
            }
        }
        if holds_double_escape(&encoded) {
            return Err(TargetError::DoubleEncoding);
        }
        let decoded = String::from_utf8(decoded).map_err(|_| TargetError::NotUtf8)?;
        if decoded.chars().any(char::is_control) {
            return Err(TargetError::ForbiddenEscape);
        }
        check_segments(decoded.strip_prefix('/').unwrap_or(&decoded))?;
        check_segments(encoded.strip_prefix('/').unwrap_or(&encoded))?;
        Ok(Self { encoded: encoded.into(), decoded: decoded.into(), parameters })
    }

    /// The form that is forwarded.
    pub fn encoded(&self) -> &str {
        &self.encoded
    }

    /// The form that routes and policies see.
    pub fn decoded(&self) -> &Arc<str> {
        &self.decoded
    }

    /// Whether a segment carries `;parameters` (RFC 3986, section 3.3), which servers read
    /// differently. A route has to allow them.
    pub fn has_parameters(&self) -> bool {
        self.parameters
    }

    /// The decoded segments, in order. A trailing slash makes no empty last segment.
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        path_segments(&self.decoded)
    }
}

/// The segments of a decoded canonical path. A trailing slash makes no empty last segment.
pub fn path_segments(decoded: &str) -> impl Iterator<Item = &str> {
    decoded.split('/').filter(|segment| !segment.is_empty())
}

/// Whether a server that decodes twice finds an escape the second time. Asked of what is
/// forwarded: in `%25%32%65` the digits behind the `%25` are escapes themselves.
fn holds_double_escape(encoded: &str) -> bool {
    encoded.split("%25").skip(1).any(|rest| {
        let mut bytes = rest.as_bytes().iter();
        hex_value(bytes.next()).is_some() && hex_value(bytes.next()).is_some()
    })
}

fn check_segments(body: &str) -> Result<(), TargetError> {
    let mut segments = body.split('/').peekable();
    while let Some(segment) = segments.next() {
        if segment.is_empty() && segments.peek().is_some() {
            return Err(TargetError::EmptySegment);
        }
        let name = segment.split(';').next().unwrap_or(segment);
        if name == "." || name == ".." {
            return Err(TargetError::DotSegment);
        }
    }
    Ok(())
}

/// Method, host, path and query of a request: what is decided on, recorded and forwarded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CanonicalRequest {
    pub method: Arc<str>,
    pub authority: Authority,
    pub path: CanonicalPath,
    /// Without the `?`. Forwarded as it came; never part of a routing decision.
    pub query: Option<Arc<str>>,
}

impl CanonicalRequest {
    /// Builds the canonical request from the request line and the one authority that the
    /// connection adapter found (the Host header, or `:authority` in HTTP/2).
    pub fn parse(
        method: Arc<str>,
        authority: Authority,
        raw_target: &str,
    ) -> Result<Self, TargetError> {
        if raw_target.len() > MAX_TARGET {
            return Err(TargetError::TooLong);
        }
        let origin_form = if raw_target.starts_with('/') {
            raw_target
        } else {
            strip_absolute_form(raw_target, &authority)?
        };
        let (path, query) = match origin_form.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (origin_form, None),
        };
        if let Some(query) = query
            && !query.bytes().all(is_query_byte)
        {
            return Err(TargetError::BadQuery);
        }
        let path = CanonicalPath::parse(path)?;
        Ok(Self { method, authority, path, query: query.map(Arc::from) })
    }

    /// Whether this text is exactly the [`target`](Self::target).
    pub fn is_target(&self, text: &str) -> bool {
        match (&self.query, text.split_once('?')) {
            (None, None) => text == self.path.encoded(),
            (Some(query), Some((path, rest))) => {
                path == self.path.encoded() && rest == query.as_ref()
            }
            _ => false,
        }
    }

    /// The origin-form target that is forwarded.
    pub fn target(&self) -> String {
        match &self.query {
            Some(query) => format!("{}?{query}", self.path.encoded()),
            None => self.path.encoded().to_owned(),
        }
    }
}

/// RFC 9112, section 3.2.2: a server must accept the absolute form; it has to agree with Host.
fn strip_absolute_form<'a>(
    raw_target: &'a str,
    authority: &Authority,
) -> Result<&'a str, TargetError> {
    let (scheme, rest) = raw_target.split_once("://").ok_or(TargetError::NotOriginForm)?;
    if !scheme.eq_ignore_ascii_case("https") {
        return Err(TargetError::ForeignScheme);
    }
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (named, path) = rest.split_at(end);
    match Authority::parse(named) {
        Ok(named) if named == *authority => {}
        _ => return Err(TargetError::ForeignAuthority),
    }
    if path.starts_with('/') { Ok(path) } else { Err(TargetError::NotOriginForm) }
}

/// Query characters of RFC 3986 and the few more that browsers leave unencoded.
fn is_query_byte(byte: u8) -> bool {
    byte.is_ascii_graphic() && !matches!(byte, b'"' | b'#' | b'<' | b'>')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(raw: &str) -> Result<(String, String), TargetError> {
        CanonicalPath::parse(raw)
            .map(|path| (path.encoded().to_owned(), path.decoded().to_string()))
    }

    #[test]
    fn an_ordinary_path_is_left_alone() {
        for raw in ["/", "/a", "/a/b.html", "/a/b/", "/a-b_c~d/e=f,g@h:i", "/..."] {
            assert_eq!(path(raw), Ok((raw.to_owned(), raw.to_owned())), "{raw}");
        }
    }

    #[test]
    fn needless_escapes_are_decoded_and_needed_ones_written_in_upper_case() {
        assert_eq!(path("/%61dmin"), Ok(("/admin".into(), "/admin".into())));
        assert_eq!(path("/caf%c3%a9"), Ok(("/caf%C3%A9".into(), "/café".into())));
        assert_eq!(path("/a%20b"), Ok(("/a%20b".into(), "/a b".into())));
        assert_eq!(path("/a|b[1]"), Ok(("/a%7Cb%5B1%5D".into(), "/a|b[1]".into())));
    }

    #[test]
    fn dot_segments_are_refused_in_every_spelling() {
        for raw in [
            "/..",
            "/a/../b",
            "/a/./b",
            "/%2e%2e/b",
            "/a/.%2E",
            "/a/..;/b",
            "/a/..;x=1/b",
            "/a/%2e%2e%3b/b",
            "/.",
            "/./",
            "/a/.%2e;v/b",
        ] {
            assert_eq!(path(raw), Err(TargetError::DotSegment), "{raw}");
        }
    }

    #[test]
    fn what_servers_read_differently_is_refused() {
        use TargetError::*;
        for (raw, error) in [
            ("", NotOriginForm),
            ("a", NotOriginForm),
            ("*", NotOriginForm),
            ("//a", EmptySegment),
            ("/a//b", EmptySegment),
            ("/a//", EmptySegment),
            ("/a/%;/b", BadEscape),
            ("/a%2fb", ForbiddenEscape),
            ("/a%5cb", ForbiddenEscape),
            ("/a\\b", BadCharacter),
            ("/a%00", ForbiddenEscape),
            ("/a%0d%0ab", ForbiddenEscape),
            ("/a%7f", ForbiddenEscape),
            ("/a%C2%85", ForbiddenEscape),
            ("/%252e%252e", DoubleEncoding),
            ("/%25%32%65%25%32%65/secret", DoubleEncoding),
            ("/a;%25%32%66b", DoubleEncoding),
            ("/%c0%ae%c0%ae", NotUtf8),
            ("/%zz", BadEscape),
            ("/%4", BadEscape),
            ("/a#b", BadCharacter),
            ("/a b", BadCharacter),
            ("/é", BadCharacter),
            ("/a\u{0}b", BadCharacter),
        ] {
            assert_eq!(path(raw), Err(error), "{raw:?}");
        }
    }

    #[test]
    fn a_percent_sign_that_encodes_nothing_further_is_fine() {
        assert_eq!(path("/100%25"), Ok(("/100%25".into(), "/100%".into())));
    }

    #[test]
    fn path_parameters_are_noticed_and_hidden_from_decisions() {
        for raw in ["/admin;x=1/page", "/admin%3Bx=1/page"] {
            let parsed = CanonicalPath::parse(raw).unwrap();
            assert!(parsed.has_parameters());
            assert_eq!(&**parsed.decoded(), "/admin/page", "{raw}");
            assert_eq!(parsed.encoded(), raw);
        }
        assert_eq!(path("/a/;x/b"), Err(TargetError::EmptySegment));
    }

    #[test]
    fn canonicalising_twice_changes_nothing() {
        for raw in ["/a%7cb", "/%7Euser", "/caf%c3%a9/%25", "/a;b=c/d", "/x%3By"] {
            let once = CanonicalPath::parse(raw).unwrap();
            let twice = CanonicalPath::parse(once.encoded()).unwrap();
            assert_eq!(once, twice, "{raw}");
        }
    }

    #[test]
    fn host_spellings_become_one() {
        for text in ["Portal.Example.COM", "portal.example.com.", "PORTAL.example.com"] {
            assert_eq!(Host::parse(text).unwrap().as_str(), "portal.example.com");
        }
        assert_eq!(Host::parse("[::1]").unwrap().as_str(), "[::1]");
        assert_eq!(Host::parse("[0:0::1]").unwrap().as_str(), "[::1]");
    }

    #[test]
    fn hosts_that_are_none_are_refused() {
        for text in [
            "",
            ".",
            "a..b",
            "a.b..",
            "-a.b",
            "a_b.c",
            "a b",
            "a/b",
            "a@b",
            "user@host",
            "ä.de",
            "a%2eb",
            "127.1",
            "0x7f.1.2.3.4.5",
            "[::1",
            "::1",
            "a,b",
            "1.2.3.4.5",
        ] {
            assert!(Host::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn an_authority_has_a_host_and_perhaps_a_port() {
        let authority = Authority::parse("Portal.localhost.:8443").unwrap();
        assert_eq!(authority.to_string(), "portal.localhost:8443");
        assert_eq!(Authority::parse("[::1]:443").unwrap().to_string(), "[::1]:443");
        for text in ["a:", "a:0", "a:65536", "a:+1", "a:1:2", "a:b", "user@a:1", ":1", "[::1]x:1"] {
            assert!(Authority::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn an_absolute_target_has_to_agree_with_the_host_header() {
        let authority = || Authority::parse("a.example").unwrap();
        let parse = |target: &str| CanonicalRequest::parse("GET".into(), authority(), target);
        assert_eq!(parse("https://A.example/x?y").unwrap().target(), "/x?y");
        assert_eq!(parse("https://b.example/x"), Err(TargetError::ForeignAuthority));
        assert_eq!(parse("https://a.example@b.example/x"), Err(TargetError::ForeignAuthority));
        assert_eq!(parse("http://a.example/x"), Err(TargetError::ForeignScheme));
        assert_eq!(parse("a.example:443"), Err(TargetError::NotOriginForm));
        assert_eq!(parse("*"), Err(TargetError::NotOriginForm));
    }

    #[test]
    fn a_query_is_forwarded_as_it_came_or_refused() {
        let parse = |target: &str| {
            let authority = Authority::parse("a.example").unwrap();
            CanonicalRequest::parse("GET".into(), authority, target)
        };
        assert_eq!(parse("/a?b=%2f..&c={x}|y").unwrap().target(), "/a?b=%2f..&c={x}|y");
        assert_eq!(parse("/a?").unwrap().target(), "/a?");
        for target in ["/a?b c", "/a?\u{7f}", "/a?b#c", "/a?<", "/a?é"] {
            assert_eq!(parse(target), Err(TargetError::BadQuery), "{target:?}");
        }
    }
}
