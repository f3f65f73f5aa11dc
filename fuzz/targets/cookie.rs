//! The gate's cookies among a request's others (`identity::cookie`): each line is a `Cookie` field.

use http::header::{COOKIE, HeaderMap, HeaderValue};
use wicketgate::identity::cookie::{
    CookieState, PREFIX, SESSION_VALUE_LENGTH, is_ours, names_with_prefix, session_cookie,
    strip_own_cookies,
};

pub const WORDS: &[&[u8]] = &[
    b"__Host-wicketgate",
    b"__host-WICKETGATE",
    b"__Host-wicketgate=",
    b"__Host-wicketgate-login-",
    b"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
    b"=",
    b"==",
    b";",
    b"; ",
    b";;",
    b" ",
    b"\t",
    b"\n",
    b"\"",
    b",",
    b"a=1",
    b"$Version=1",
    b"\xff",
    b"\xc2\xa0",
    b"\x0b",
];

pub fn run(data: &[u8]) {
    let mut headers = HeaderMap::new();
    for line in data.split(|byte| *byte == b'\n') {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            headers.append(COOKIE, value);
        }
    }
    let pairs = |headers: &HeaderMap| -> Vec<Vec<u8>> {
        let fields = headers.get_all(COOKIE).iter();
        let pairs = fields.flat_map(|field| field.as_bytes().split(|byte| *byte == b';'));
        pairs.map(|pair| pair.trim_ascii().to_vec()).collect()
    };
    let before = pairs(&headers);
    if let CookieState::Present(value) = session_cookie(&headers) {
        assert_eq!(value.len(), SESSION_VALUE_LENGTH);
        let ours = before.iter().filter(|pair| is_session(pair)).count();
        assert_eq!(ours, 1, "one session or none");
    }
    assert!(names_with_prefix(&headers, PREFIX, 8).len() <= 8);
    strip_own_cookies(&mut headers);
    let after = pairs(&headers);
    for pair in &after {
        assert!(!is_ours(pair) && !lenient(pair), "{:?}", String::from_utf8_lossy(pair));
    }
    let full = |pairs: Vec<Vec<u8>>| -> Vec<Vec<u8>> {
        pairs.into_iter().filter(|pair| !pair.is_empty() && !is_ours(pair)).collect()
    };
    assert_eq!(full(after), full(before), "every other cookie is forwarded");
    let once = headers.clone();
    strip_own_cookies(&mut headers);
    assert_eq!(headers, once);
}

fn is_session(pair: &[u8]) -> bool {
    let at = pair.iter().position(|byte| *byte == b'=');
    at.is_some_and(|at| pair[..at].trim_ascii() == PREFIX.as_bytes())
}

/// What a lenient server could take for one of ours: blanks and `=` in front don't count.
fn lenient(pair: &[u8]) -> bool {
    let start = pair.iter().position(|byte| !matches!(byte, b'=' | b' ' | b'\t'));
    let name = start.and_then(|at| pair.get(at..at + PREFIX.len()));
    name.is_some_and(|name| name.eq_ignore_ascii_case(PREFIX.as_bytes()))
}
