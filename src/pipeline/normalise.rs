//! One reading of the request, or none.
//!
//! INVARIANT: what leaves this stage has exactly one host, one target and one body length, and
//! the upstream is told the same. hyper has checked the grammar before; this stage refuses what
//! the grammar allows and servers read differently.

use std::sync::Arc;

use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HOST, ORIGIN,
    SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderName, Method, Version};

use crate::domain::canonical::{Authority, CanonicalRequest};

use super::headers;
use super::receive::Arrival;
use super::refusal::Refusal;

/// A request that reads in one way only.
#[derive(Clone, Debug)]
pub struct Normalised {
    pub request: CanonicalRequest,
    pub upgrade: Upgrade,
    /// The declared length of the body; absent when it is chunked or there is none.
    pub content_length: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upgrade {
    None,
    WebSocket,
}

pub fn normalise(arrival: &Arrival) -> Result<Normalised, Refusal> {
    let head = &arrival.head;
    check_method(&head.method)?;
    check_singletons(&head.headers)?;
    let content_length = check_framing(head.version, &head.headers)?;
    check_expect(&head.headers)?;
    let authority = authority(arrival)?;
    check_scheme(head)?;
    let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
    let request = CanonicalRequest::parse(method_name(&head.method), authority, target)?;
    Ok(Normalised { request, upgrade: upgrade(head)?, content_length })
}

/// CONNECT would open a tunnel (CVE-2025-64763), TRACE echoes credentials (RFC 9110, 9.3.8).
fn check_method(method: &Method) -> Result<(), Refusal> {
    let name = method.as_str();
    let refused = ["CONNECT", "TRACE", "TRACK", "PRI"]
        .iter()
        .any(|refused| refused.eq_ignore_ascii_case(name));
    let plausible = name.len() <= 32
        && name.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'-' || byte == b'_');
    if refused || !plausible { Err(Refusal::METHOD) } else { Ok(()) }
}

fn method_name(method: &Method) -> Arc<str> {
    method.as_str().into()
}

/// Fields that may come once only. Of two, the gate and the upstream might each believe another.
fn check_singletons(headers: &HeaderMap) -> Result<(), Refusal> {
    const SINGLETONS: [HeaderName; 9] = [
        HOST,
        CONTENT_LENGTH,
        TRANSFER_ENCODING,
        CONTENT_TYPE,
        AUTHORIZATION,
        ORIGIN,
        EXPECT,
        SEC_WEBSOCKET_KEY,
        SEC_WEBSOCKET_VERSION,
    ];
    if headers.len() == headers.keys_len() {
        return Ok(());
    }
    for name in &SINGLETONS {
        if headers.get_all(name).iter().nth(1).is_some() {
            return Err(Refusal::Malformed("a header field that may come once came twice"));
        }
    }
    for name in [headers::FETCH_SITE, headers::FETCH_MODE, headers::FETCH_DEST] {
        if headers.get_all(name).iter().nth(1).is_some() {
            return Err(Refusal::Malformed("a Sec-Fetch field came twice"));
        }
    }
    Ok(())
}

/// RFC 9112, sections 6.1 and 6.3.
fn check_framing(version: Version, headers: &HeaderMap) -> Result<Option<u64>, Refusal> {
    if let Some(coding) = headers.get(TRANSFER_ENCODING) {
        if version != Version::HTTP_11 {
            return Err(Refusal::Malformed("Transfer-Encoding is only for HTTP/1.1"));
        }
        if headers.contains_key(CONTENT_LENGTH) {
            return Err(Refusal::Malformed(
                "Transfer-Encoding and Content-Length exclude each other",
            ));
        }
        if !coding.as_bytes().eq_ignore_ascii_case(b"chunked") {
            return Err(Refusal::Malformed("the only transfer coding is `chunked`"));
        }
        return Ok(None);
    }
    let Some(length) = headers.get(CONTENT_LENGTH) else {
        return Ok(None);
    };
    let digits = length.as_bytes();
    if digits.is_empty() || digits.len() > 19 || !digits.iter().all(u8::is_ascii_digit) {
        return Err(Refusal::Malformed("Content-Length is not a number"));
    }
    if digits.len() > 1 && digits.starts_with(b"0") {
        // Eight or ten: some servers read such a number as octal.
        return Err(Refusal::Malformed("Content-Length begins with a zero"));
    }
    let length = length.to_str().ok().and_then(|digits| digits.parse().ok());
    length.map(Some).ok_or(Refusal::Malformed("Content-Length is not a number"))
}

fn check_expect(headers: &HeaderMap) -> Result<(), Refusal> {
    match headers.get(EXPECT) {
        Some(expect) if !expect.as_bytes().eq_ignore_ascii_case(b"100-continue") => {
            Err(Refusal::Malformed("the only expectation is `100-continue`"))
        }
        _ => Ok(()),
    }
}

/// The Host header in HTTP/1, `:authority` in HTTP/2; where both are there, they have to agree.
fn authority(arrival: &Arrival) -> Result<Authority, Refusal> {
    let head = &arrival.head;
    let known = |text: &[u8]| arrival.connection.told().authority(text);
    let from_header = match head.headers.get(HOST) {
        Some(value) => Some(match known(value.as_bytes()) {
            Some(authority) => authority,
            None => {
                let text = value
                    .to_str()
                    .map_err(|_| Refusal::Malformed("the Host header is not ASCII"))?;
                Authority::parse(text)?
            }
        }),
        None => None,
    };
    let from_target = match head.uri.authority() {
        Some(named) => Some(match known(named.as_str().as_bytes()) {
            Some(authority) => authority,
            None => Authority::parse(named.as_str())?,
        }),
        None => None,
    };
    match (from_header, from_target) {
        (Some(header), Some(target)) if header != target => {
            Err(Refusal::Malformed("the request target names another host than the Host header"))
        }
        (Some(authority), _) => Ok(authority),
        (None, Some(authority)) if head.version == Version::HTTP_2 => Ok(authority),
        (None, _) => Err(Refusal::Malformed("the request names no host")),
    }
}

fn check_scheme(head: &http::request::Parts) -> Result<(), Refusal> {
    match head.uri.scheme_str() {
        None => Ok(()),
        Some(scheme) if scheme.eq_ignore_ascii_case("https") => Ok(()),
        Some(_) => Err(Refusal::Malformed("the request target names another scheme than https")),
    }
}

/// Only WebSocket is upgraded to. Any other offer is ignored, as RFC 9110, section 7.8 permits,
/// and is not passed on.
fn upgrade(head: &http::request::Parts) -> Result<Upgrade, Refusal> {
    if head.version != Version::HTTP_11 || head.method != Method::GET {
        return Ok(Upgrade::None);
    }
    if !headers::lists_token(&head.headers, &UPGRADE, "websocket")
        || !headers::lists_token(&head.headers, &CONNECTION, "upgrade")
    {
        return Ok(Upgrade::None);
    }
    let named = head.headers.get_all(CONNECTION).iter();
    let mut named = named.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    if !named.all(|name| {
        let name = name.trim_ascii();
        name.eq_ignore_ascii_case(b"upgrade") || name.eq_ignore_ascii_case(b"keep-alive")
    }) {
        return Err(Refusal::Malformed("the Connection of a WebSocket handshake names a field"));
    }
    if head.headers.contains_key(CONTENT_LENGTH) || head.headers.contains_key(TRANSFER_ENCODING) {
        return Err(Refusal::Malformed("a WebSocket handshake has no body"));
    }
    match head.headers.get(SEC_WEBSOCKET_VERSION) {
        Some(version) if version == "13" => {}
        _ => return Err(Refusal::Malformed("the WebSocket version is not 13 (RFC 6455)")),
    }
    if !head.headers.get(SEC_WEBSOCKET_KEY).is_some_and(is_websocket_key) {
        return Err(Refusal::Malformed("the WebSocket handshake has no valid key (RFC 6455)"));
    }
    Ok(Upgrade::WebSocket)
}

/// Sixteen bytes in base 64 (RFC 6455, section 4.2.1).
fn is_websocket_key(key: &http::HeaderValue) -> bool {
    let Some(digits) = key.as_bytes().strip_suffix(b"==") else { return false };
    let is_digit = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    digits.len() == 22 && digits.iter().all(is_digit)
}
