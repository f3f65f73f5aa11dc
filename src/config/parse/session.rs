//! `session`: how long a sign-in lasts, and how its record is kept.

use crate::config::model::Session;
use crate::config::secret::Secret;
use crate::config::yaml::{Cursor, Map};

use super::files::Base;
use super::keys;

/// Shorter than what `openssl rand -base64 32` prints, and too long to be thought up.
const SHORTEST_KEY: usize = 32;

pub(super) fn session(top: &Map<'_>, base: &Base) -> Option<Session> {
    let mut session = Session::default();
    let Some(at) = top.get("session") else { return Some(session) };
    let map = keys(&at)?;
    session.idle_timeout = map.or("idle_timeout", session.idle_timeout, Cursor::duration);
    session.absolute_lifetime =
        map.or("absolute_lifetime", session.absolute_lifetime, Cursor::duration);
    session.keep_forms = map.or("keep_forms", session.keep_forms, |at| at.bytes(0, 1 << 20));
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
    Some(session)
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
