//! `session`: how long a sign-in lasts, and how its record is kept.

use std::sync::Arc;
use std::time::Duration;

use url::Url;

use crate::config::model::{Session, SessionLimits};
use crate::config::secret::Secret;
use crate::config::yaml::{Cursor, Map, quote};

use super::files::Base;
use super::keys;
use super::values::host;

/// Shorter than what `openssl rand -base64 32` prints, and too long to be thought up.
const SHORTEST_KEY: usize = 32;

/// And where a browser may go once it is over.
pub(super) fn session(top: &Map<'_>, base: &Base) -> Option<(Session, Arc<[Box<str>]>)> {
    let mut session = Session::default();
    let Some(at) = top.get("session") else { return Some((session, Arc::default())) };
    let map = keys(&at)?;
    session.idle_timeout = map.or("idle_timeout", session.idle_timeout, Cursor::duration);
    session.absolute_lifetime =
        map.or("absolute_lifetime", session.absolute_lifetime, Cursor::duration);
    session.keep_forms = map.or("keep_forms", session.keep_forms, |at| at.bytes(0, 1 << 20));
    session.sign_in_host = map.get("sign_in_host").and_then(|at| host(&at));
    session.max_per_user = map.or("max_per_user", session.max_per_user, |at| at.number(1, 10_000));
    if let Some(at) = map.get("key") {
        session.keys = wrapping_keys(&at, base)?;
    }
    if session.idle_timeout > session.absolute_lifetime {
        at.error_with(
            "`idle_timeout` is longer than `absolute_lifetime`",
            "the idle timeout (30m by default) would never end a session; shorten it or lengthen the lifetime (10h by default)",
        );
    }
    let urls = map.get("sign_out_urls").map(|at| at.list()).unwrap_or_default();
    Some((session, urls.iter().filter_map(sign_out_url).collect()))
}

/// Those of an application. `longest` is `None` where the gate's own couldn't be read.
pub(super) fn limits(at: &Cursor<'_>, longest: Option<&Session>) -> Option<SessionLimits> {
    let map = keys(at)?;
    let limit = |key: &str, of: fn(&Session) -> Duration| {
        let at = map.get(key)?;
        let limit = at.duration()?;
        if longest.is_some_and(|session| limit > of(session)) {
            let hint =
                format!("shorten it, or lengthen `session.{key}`, after which it ends for all");
            at.error_with(format!("this is longer than `session.{key}`"), hint);
        }
        Some(limit)
    };
    let limits = SessionLimits {
        idle_timeout: limit("idle_timeout", |session| session.idle_timeout),
        absolute_lifetime: limit("absolute_lifetime", |session| session.absolute_lifetime),
    };
    match (limits.idle_timeout, limits.absolute_lifetime) {
        (None, None) => {
            if map.get("idle_timeout").is_none() && map.get("absolute_lifetime").is_none() {
                let hint = "write `idle_timeout`, `absolute_lifetime` or both";
                at.error_with("this limits nothing", hint);
            }
            return None;
        }
        (Some(idle), Some(absolute)) if idle > absolute => at.error_with(
            "`idle_timeout` is longer than `absolute_lifetime`",
            "it would never matter; shorten it, or leave it out",
        ),
        _ => {}
    }
    Some(limits)
}

/// In the one spelling in which it is compared.
fn sign_out_url(at: &Cursor<'_>) -> Option<Box<str>> {
    let text = at.text()?;
    let url = Url::parse(text).ok().filter(|url| url.scheme() == "https");
    let Some(url) = url else {
        let hint = "write it whole: `https://www.example.com/signed-out`";
        at.error_with(format!("{} is not an `https` URL", quote(text)), hint);
        return None;
    };
    if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
        at.error(
            "an address to go to after signing out must not have a user name, password or fragment",
        );
        return None;
    }
    if url.as_str() != text {
        let hint = format!("write `{url}`, as browsers do: it is compared letter by letter");
        at.error_with(format!("{} reads in more than one way", quote(text)), hint);
        return None;
    }
    Some(text.into())
}

fn wrapping_keys(at: &Cursor<'_>, base: &Base) -> Option<Vec<Secret>> {
    const HINT: &str = "write what `openssl rand -base64 32` prints into the file";
    let secret = base.secret(at)?;
    let lines: Vec<&str> = secret.expose().lines().collect();
    if lines.len() > 2 {
        at.error_with("the secret has more than two lines", "keep the newest key and the former");
        return None;
    }
    if lines.iter().any(|line| line.len() < SHORTEST_KEY) {
        let cause = format!("a line of the secret is shorter than {SHORTEST_KEY} characters");
        at.error_with(cause, HINT);
        return None;
    }
    Some(lines.into_iter().map(Secret::new).collect())
}
