//! Our cookies among those of the applications behind the gate.
//!
//! The gate's own cookies all begin with `__Host-wicketgate`. The prefix makes browsers insist on
//! `Secure`, `Path=/` and no `Domain` (RFC 6265bis, section 4.1.3.2), so that no other host can
//! plant one.
//!
//! INVARIANT: a request with two session cookies has none (which of the two an attacker planted
//! can't be told); none of our cookies is ever forwarded; and every other cookie is forwarded
//! byte for byte.

use std::time::Duration;

use http::header::{COOKIE, HeaderMap, HeaderValue};

/// What the names of all the gate's cookies begin with.
pub const PREFIX: &str = "__Host-wicketgate";

/// The session's cookie.
pub const SESSION_COOKIE: &str = PREFIX;

/// Characters in the session cookie's value: 32 bytes in base 64.
pub const SESSION_VALUE_LENGTH: usize = 43;

/// What a request says about its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CookieState<'a> {
    /// No session cookie.
    Absent,
    /// Exactly one, of the right shape.
    Present(&'a str),
    /// One that the gate can't have set. Never the same as none.
    Malformed,
    /// More than one.
    Ambiguous,
}

/// The `name=value` pairs of every `Cookie` field, in order. HTTP/2 clients may send each pair as
/// a field of its own (RFC 9113, section 8.2.3). Fields are bytes: applications put anything there.
fn pairs(headers: &HeaderMap) -> impl Iterator<Item = (&[u8], &[u8])> {
    headers.get_all(COOKIE).iter().flat_map(|field| {
        split(field).map(|pair| {
            let pair = pair.trim_ascii();
            match memchr::memchr(b'=', pair) {
                Some(at) => {
                    let (name, rest) = pair.split_at(at);
                    (
                        name.trim_ascii_end(),
                        rest.strip_prefix(b"=").unwrap_or(rest).trim_ascii_start(),
                    )
                }
                // A cookie without a name: the value alone (RFC 6265bis, section 5.6).
                None => (&[][..], pair),
            }
        })
    })
}

/// The parts of a field between its semicolons. Fields can be long.
fn split(field: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(field.as_bytes());
    std::iter::from_fn(move || {
        let whole = rest?;
        let (part, behind) =
            match memchr::memchr(b';', whole).and_then(|at| whole.split_at_checked(at)) {
                Some((part, behind)) => (part, behind.get(1..)),
                None => (whole, None),
            };
        rest = behind;
        Some(part)
    })
}

/// Whether a pair is ours. Browsers compare the prefix without regard to case where they enforce
/// it (RFC 6265bis, section 5.7), so every spelling counts. So do leading `=` and blanks:
/// `=__Host-wicketgate=x` is a nameless cookie to a browser and our name to a lenient server.
pub fn is_ours(pair: &[u8]) -> bool {
    let start = pair.iter().position(|byte| !matches!(byte, b'=') && !byte.is_ascii_whitespace());
    start
        .and_then(|at| pair.get(at..))
        .and_then(|rest| rest.get(..PREFIX.len()))
        .is_some_and(|name| name.eq_ignore_ascii_case(PREFIX.as_bytes()))
}

/// The session cookie of a request.
pub fn session_cookie(headers: &HeaderMap) -> CookieState<'_> {
    match unique(headers, SESSION_COOKIE) {
        CookieState::Present(value) => {
            let well_formed = value.len() == SESSION_VALUE_LENGTH
                && value
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
            if well_formed { CookieState::Present(value) } else { CookieState::Malformed }
        }
        other => other,
    }
}

/// The one cookie of this exact name, whatever its value; ambiguous when there are several.
pub fn unique<'a>(headers: &'a HeaderMap, name: &str) -> CookieState<'a> {
    let mut found = None;
    for (candidate, value) in pairs(headers) {
        if candidate == name.as_bytes() && found.replace(value).is_some() {
            return CookieState::Ambiguous;
        }
    }
    match found.map(std::str::from_utf8) {
        None => CookieState::Absent,
        Some(Ok(value)) => CookieState::Present(value),
        Some(Err(_)) => CookieState::Malformed,
    }
}

/// Names of the request's cookies that begin with `prefix`, in order, at most `most` of them.
pub fn names_with_prefix<'a>(headers: &'a HeaderMap, prefix: &str, most: usize) -> Vec<&'a str> {
    pairs(headers)
        .filter_map(|(name, _)| std::str::from_utf8(name).ok())
        .filter(|name| name.starts_with(prefix))
        .take(most)
        .collect()
}

/// Takes the gate's cookies out of what is forwarded. The others keep their bytes, their order
/// and their division into fields; a field that held only ours disappears.
pub fn strip_own_cookies(headers: &mut HeaderMap) {
    // The common case: no cookie but ours.
    let mut fields = headers.get_all(COOKIE).iter();
    if let (Some(only), None) = (fields.next(), fields.next())
        && !only.as_bytes().contains(&b';')
    {
        if is_ours(only.as_bytes()) {
            headers.remove(COOKIE);
        }
        return;
    }
    let ours = |field: &HeaderValue| split(field).any(is_ours);
    if !headers.get_all(COOKIE).iter().any(ours) {
        return;
    }
    let fields: Vec<HeaderValue> = headers.get_all(COOKIE).iter().cloned().collect();
    headers.remove(COOKIE);
    for field in fields {
        if let Some(kept) = without_ours(field.as_bytes()) {
            if kept.len() == field.as_bytes().len() {
                headers.append(COOKIE, field);
            } else if let Ok(value) = HeaderValue::from_bytes(&kept) {
                headers.append(COOKIE, value);
            }
        }
    }
}

/// The field without our pairs, or nothing when no other is left.
fn without_ours(field: &[u8]) -> Option<Vec<u8>> {
    let mut kept: Vec<u8> = Vec::with_capacity(field.len());
    let (mut any, mut removed) = (false, false);
    for pair in field.split(|byte| *byte == b';') {
        if is_ours(pair) {
            removed = true;
            continue;
        }
        if any {
            kept.push(b';');
            kept.extend_from_slice(pair);
        } else {
            // What followed one of ours loses the blanks between the two, and nothing else.
            kept.extend_from_slice(if removed { pair.trim_ascii_start() } else { pair });
        }
        any = true;
    }
    (!kept.trim_ascii().is_empty()).then_some(kept)
}

/// Sets the session's cookie. It lives as long as the browser does; the session ends by itself.
pub fn set_session(value: &str) -> Option<HeaderValue> {
    sensitive(&format!("{SESSION_COOKIE}={value}; Path=/; Secure; HttpOnly; SameSite=Lax"))
}

/// Removes the session's cookie.
pub fn clear_session() -> HeaderValue {
    HeaderValue::from_static(
        "__Host-wicketgate=; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age=0",
    )
}

/// Sets one of the gate's other cookies. None when a part can't stand in a header.
pub fn set(name: &str, value: &str, lifetime: Duration) -> Option<HeaderValue> {
    let seconds = lifetime.as_secs();
    sensitive(&format!("{name}={value}; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age={seconds}"))
}

/// Removes one of the gate's other cookies.
pub fn clear(name: &str) -> Option<HeaderValue> {
    set(name, "", Duration::ZERO)
}

fn sensitive(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const VALUE: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

    fn headers(fields: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for field in fields {
            headers.append(COOKIE, HeaderValue::from_bytes(field.as_bytes()).unwrap());
        }
        headers
    }

    fn stripped(fields: &[&str]) -> Vec<String> {
        let mut headers = headers(fields);
        strip_own_cookies(&mut headers);
        headers
            .get_all(COOKIE)
            .iter()
            .map(|value| String::from_utf8(value.as_bytes().to_vec()).unwrap())
            .collect()
    }

    #[test]
    fn one_session_cookie_is_found_wherever_it_stands() {
        let own = format!("{SESSION_COOKIE}={VALUE}");
        for fields in [
            vec![own.clone()],
            vec![format!("a=1; {own}")],
            vec![format!("{own};b=2")],
            vec!["a=1".to_owned(), own.clone(), "c=3".to_owned()],
            vec![format!("{SESSION_COOKIE}-login-AAAAAAAA=x; {own}")],
        ] {
            let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
            assert_eq!(
                session_cookie(&headers(&fields)),
                CookieState::Present(VALUE),
                "{fields:?}"
            );
        }
    }

    #[test]
    fn two_session_cookies_are_ambiguous_even_when_they_agree() {
        let own = format!("{SESSION_COOKIE}={VALUE}");
        assert_eq!(session_cookie(&headers(&[&own, &own])), CookieState::Ambiguous);
        let joined = format!("{own}; {own}");
        assert_eq!(session_cookie(&headers(&[&joined])), CookieState::Ambiguous);
    }

    #[test]
    fn a_value_that_the_gate_never_set_is_malformed_and_not_absent() {
        for value in ["", "short", &format!("{VALUE}A"), &format!("\"{}\"", VALUE.split_at(2).1)] {
            let field = format!("{SESSION_COOKIE}={value}");
            assert_eq!(session_cookie(&headers(&[&field])), CookieState::Malformed, "{value}");
        }
    }

    #[test]
    fn names_that_only_resemble_ours_carry_no_session() {
        for name in ["__host-wicketgate", "__Host-wicketgat", "wicketgate", "x__Host-wicketgate"] {
            let field = format!("{name}={VALUE}");
            assert_eq!(session_cookie(&headers(&[&field])), CookieState::Absent, "{name}");
        }
    }

    #[test]
    fn our_cookies_are_taken_out_and_the_others_keep_their_bytes() {
        let own = format!("{SESSION_COOKIE}={VALUE}");
        assert_eq!(stripped(&[&own]), Vec::<String>::new());
        assert_eq!(stripped(&[&format!("a=1; {own}; b=\"x y\"")]), ["a=1; b=\"x y\""]);
        assert_eq!(stripped(&[&format!("{own}; b=2")]), ["b=2"]);
        assert_eq!(stripped(&["a=1;  b==;c", &own, "d=é"]), ["a=1;  b==;c", "d=é"]);
        assert_eq!(stripped(&["__HOST-WicketGate-login-abc=1; a=2"]), ["a=2"]);
        assert_eq!(stripped(&["=__Host-wicketgate=1; a=2"]), ["a=2"]);
        assert_eq!(stripped(&["__Host-wicketgate; a=2"]), ["a=2"]);
        assert_eq!(stripped(&["__Host-wicketgate =1; a=2"]), ["a=2"]);
    }

    #[test]
    fn the_session_cookie_is_bound_to_its_host_and_out_of_reach_of_scripts() {
        let value = set_session(VALUE).unwrap();
        let text = value.to_str().unwrap();
        for part in ["; Path=/", "; Secure", "; HttpOnly", "; SameSite=Lax"] {
            assert!(text.contains(part), "{part}");
        }
        assert!(!text.contains("Domain"));
        assert!(value.is_sensitive());
    }

    proptest! {
        #[test]
        fn nothing_of_ours_survives_and_nothing_else_changes(
            parts in proptest::collection::vec(
                prop_oneof![
                    "[a-z]{1,6}=[ -:<-~]{0,8}".prop_map(|text| (false, text)),
                    "[a-z]{1,6}".prop_map(|text| (false, text)),
                    "[ =]{0,2}__[Hh]ost-wicketgate(-login-[a-z]{2})?=[a-zA-Z]{0,4}"
                        .prop_map(|text| (true, text)),
                ],
                0..8,
            )
        ) {
            let field = parts.iter().map(|(_, text)| text.as_str()).collect::<Vec<_>>().join("; ");
            let mut headers = headers(&[&field]);
            strip_own_cookies(&mut headers);
            let others: Vec<&str> =
                parts.iter().filter(|(own, _)| !own).map(|(_, text)| text.as_str()).collect();
            let expected = others.join("; ");
            let got = headers
                .get(COOKIE)
                .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
                .unwrap_or_default();
            prop_assert_eq!(got.trim(), expected.trim());
        }

        #[test]
        fn arbitrary_bytes_never_yield_a_malformed_session(
            bytes in proptest::collection::vec(0x20u8..=0xff, 0..120)
        ) {
            let mut headers = HeaderMap::new();
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                headers.append(COOKIE, value);
            }
            if let CookieState::Present(value) = session_cookie(&headers) {
                prop_assert_eq!(value.len(), SESSION_VALUE_LENGTH);
            }
            let mut once = headers.clone();
            strip_own_cookies(&mut once);
            let mut twice = once.clone();
            strip_own_cookies(&mut twice);
            prop_assert_eq!(once, twice);
        }
    }
}
