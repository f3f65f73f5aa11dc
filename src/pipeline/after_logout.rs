//! Where a browser goes once it has signed out.
//!
//! Whoever links to `/.wicketgate/logout?return_to=...` may wish for a place. While the browser is at
//! the provider the wish is in a cookie of its own, bound to the `state` that comes back with it
//! (OpenID Connect RP-Initiated Logout 1.0, section 3).
//!
//! INVARIANT: a browser is sent to this gate's own hosts, or to an address that the configuration
//! lists, letter by letter; to nowhere else, whatever a link, a cookie or the provider says. It is
//! looked at when it is wished for and again when it is gone to.

use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use http::header::HeaderValue;
use url::form_urlencoded;

use crate::domain::canonical::Authority;
use crate::identity::cookie::{self, CookieState};
use crate::identity::login;

use super::receive::Arrival;
use super::snapshot::Snapshot;

const COOKIE: &str = "__Host-wicketgate-after";

/// How long a user may take at the provider's own sign-out.
const LIFETIME: Duration = Duration::from_secs(600);

/// Longest address, in bytes.
const LONGEST: usize = 1024;

/// The address that a wish becomes, if it may be gone to from this host.
pub fn checked(snapshot: &Snapshot, here: &Authority, wish: &str) -> Option<String> {
    if wish.len() > LONGEST {
        return None;
    }
    let is_listed = snapshot.sign_out_urls.iter().any(|listed| **listed == *wish);
    if is_listed {
        return Some(wish.to_owned());
    }
    if wish.starts_with('/') {
        return path(wish);
    }
    // Another host of the gate's, on the same port.
    let rest = wish.strip_prefix("https://")?;
    let (authority, rest) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let authority = Authority::parse(authority).ok()?;
    let is_ours = snapshot.routes.knows_host(&authority.host) && authority.port == here.port;
    let path = path(if rest.is_empty() { "/" } else { rest })?;
    is_ours.then(|| format!("https://{authority}{path}"))
}

/// A path that a browser can't take for anything else: as it is, or not at all.
fn path(wish: &str) -> Option<String> {
    let path = login::return_to(wish);
    (path == wish).then_some(path)
}

/// The wish in a query, unless there are several.
pub fn wished(snapshot: &Snapshot, here: &Authority, query: Option<&str>) -> Option<String> {
    checked(snapshot, here, &once(query, "return_to")?)
}

/// Has the browser keep the address until it comes back with this state.
pub fn remember(state: &str, address: &str) -> Option<HeaderValue> {
    let address = BASE64_URL_SAFE_NO_PAD.encode(address);
    cookie::set(COOKIE, &format!("{state}.{address}"), LIFETIME)
}

pub fn forget() -> Option<HeaderValue> {
    cookie::clear(COOKIE)
}

/// The address that this browser is to go to, when it comes back with the state of its sign-out.
pub fn recalled(arrival: &Arrival, here: &Authority, query: Option<&str>) -> Option<String> {
    let CookieState::Present(kept) = cookie::unique(&arrival.head.headers, COOKIE) else {
        return None;
    };
    let (state, address) = kept.split_once('.')?;
    let address = BASE64_URL_SAFE_NO_PAD.decode(address).ok()?;
    let address = String::from_utf8(address).ok()?;
    let returned = once(query, "state")?;
    (returned == state).then(|| checked(&arrival.snapshot, here, &address)).flatten()
}

/// A query's parameter, unless it comes several times.
pub fn once(query: Option<&str>, name: &str) -> Option<String> {
    let mut values = form_urlencoded::parse(query?.as_bytes()).filter(|(found, _)| found == name);
    let first = values.next()?.1.into_owned();
    values.next().is_none().then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_counts_when_it_comes_once() {
        for (query, value) in [
            (None, None),
            (Some(""), None),
            (Some("a=1"), Some("1")),
            (Some("a=1&a=1"), None),
            (Some("b=2&a=%26"), Some("&")),
            (Some("A=1"), None),
        ] {
            assert_eq!(once(query, "a").as_deref(), value, "{query:?}");
        }
    }

    #[test]
    fn what_a_browser_keeps_is_its_state_and_the_address() {
        let field = remember("01STATE", "https://a.example/;x=1, y").unwrap();
        let text = field.to_str().unwrap();
        assert!(text.starts_with("__Host-wicketgate-after=01STATE.aHR0"), "{text}");
        assert!(text.contains("; Secure; HttpOnly; SameSite=Lax; Max-Age=600"), "{text}");
        assert!(forget().unwrap().to_str().unwrap().contains("Max-Age=0"));
    }
}
