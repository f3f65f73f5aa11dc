//! What legacy backends need: credentials and health checks.

use std::time::Duration;

use http::{HeaderName, HeaderValue};

use crate::config::model::{HealthCheck, HealthCheckKind, UpstreamCredential};
use crate::config::secret::Secret;
use crate::config::yaml::{Cursor, Map, quote};
use crate::domain::canonical::CanonicalPath;

use super::files::Base;
use super::keys;
use super::values::exactly_one;

/// Headers of the connection, of framing, of routing and of the gate itself: a fixed value for
/// one of them would change what was decided on, or leak one user's cookies to all.
const TAKEN: &[&str] = &[
    "connection",
    "content-length",
    "cookie",
    "cookie2",
    "expect",
    "forwarded",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "set-cookie",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
];
const TAKEN_PREFIXES: &[&str] = &["x-wicketgate-", "x-forwarded-", "sec-websocket-"];

pub(super) fn credential(at: &Cursor<'_>, base: &Base) -> Option<UpstreamCredential> {
    match exactly_one(&keys(at)?, ["basic", "header"])? {
        (Some(at), _) => basic(&keys(&at)?, base),
        (_, Some(at)) => header(&keys(&at)?, base),
        _ => None,
    }
}

fn basic(map: &Map<'_>, base: &Base) -> Option<UpstreamCredential> {
    let username = map.required("username").and_then(|at| {
        let text = at.text()?;
        if text.contains(':') || text.chars().any(char::is_control) {
            // RFC 7617, section 2.
            at.error(format!("the user name {} holds a `:` or a control character", quote(text)));
            return None;
        }
        Some(text.to_owned())
    });
    let password = map.required("password").and_then(|at| {
        let secret = base.secret(&at)?;
        if secret.expose().chars().any(char::is_control) {
            at.error("the password holds a control character, perhaps a second line");
            return None;
        }
        Some(secret)
    });
    Some(UpstreamCredential::Basic { username: username?, password: password? })
}

fn header(map: &Map<'_>, base: &Base) -> Option<UpstreamCredential> {
    let name = map.required("name").and_then(|at| header_name(&at));
    let value = map.required("value").and_then(|at| header_value(&at, base));
    Some(UpstreamCredential::Header { name: name?, value: value? })
}

fn header_name(at: &Cursor<'_>) -> Option<String> {
    let text = at.text()?;
    let Ok(name) = HeaderName::from_bytes(text.as_bytes()) else {
        at.error_with(format!("{} is not a header name", quote(text)), "write one as `x-api-key`");
        return None;
    };
    // Servers behind CGI and its heirs read `_` and `.` as `-`.
    let read = name.as_str().replace(['_', '.'], "-");
    if TAKEN.contains(&read.as_str()) || TAKEN_PREFIXES.iter().any(|taken| read.starts_with(taken))
    {
        let hint = "the gate or HTTP itself sets this header; use one of the backend's own, as `x-api-key` or `authorization`";
        at.error_with(format!("{} can't be a credential's header", quote(text)), hint);
        return None;
    }
    Some(name.as_str().to_owned())
}

fn header_value(at: &Cursor<'_>, base: &Base) -> Option<Secret> {
    let secret = base.secret(at)?;
    if HeaderValue::from_str(secret.expose()).is_err() {
        at.error("the secret can't be a header's value: it holds more than printable ASCII, perhaps a second line");
        return None;
    }
    Some(secret)
}

pub(super) fn health_check(at: &Cursor<'_>) -> Option<HealthCheck> {
    let map = keys(at)?;
    let kind = match exactly_one(&map, ["tcp", "http"]) {
        Some((Some(at), _)) => keys(&at).map(|_| HealthCheckKind::Tcp),
        Some((_, Some(at))) => keys(&at)
            .map(|map| HealthCheckKind::Http { path: map.or("path", "/".to_owned(), health_path) }),
        _ => None,
    };
    let interval = map.or("interval", Duration::from_secs(5), Cursor::duration);
    let timeout = map.or("timeout", Duration::from_secs(2), Cursor::duration);
    let unhealthy_after = map.or("unhealthy_after", 3, |at| at.number(1, 100));
    let healthy_after = map.or("healthy_after", 1, |at| at.number(1, 100));
    Some(HealthCheck { kind: kind?, interval, timeout, unhealthy_after, healthy_after })
}

fn health_path(at: &Cursor<'_>) -> Option<String> {
    let text = at.text()?;
    let (path, query) = text.split_once('?').unwrap_or((text, ""));
    if let Err(error) = CanonicalPath::parse(path) {
        at.error_with(format!("{}: {error}", quote(text)), "write a path as `/health`");
        return None;
    }
    if !query.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
        at.error(format!("the query of {} has to be percent-encoded", quote(text)));
        return None;
    }
    Some(text.to_owned())
}
