//! `session`, `devices` and `policies`: how long a sign-in lasts, and what is decided by.

use std::time::Duration;

use crate::config::model::{Devices, Policies, Session};
use crate::config::yaml::{Cursor, Map};

use super::files::{Base, is_file};
use super::keys;
use super::values::host;

const SCHEMA: &str = "wicketgate.cedarschema";

pub(super) fn session(top: &Map<'_>) -> Option<Session> {
    let mut session = Session {
        idle_timeout: Duration::from_secs(30 * 60),
        absolute_lifetime: Duration::from_secs(10 * 3600),
        keep_forms: 64 << 10,
        sign_in_host: None,
    };
    let Some(at) = top.get("session") else { return Some(session) };
    let map = keys(&at)?;
    session.idle_timeout = map.or("idle_timeout", session.idle_timeout, Cursor::duration);
    session.absolute_lifetime =
        map.or("absolute_lifetime", session.absolute_lifetime, Cursor::duration);
    session.keep_forms = map.or("keep_forms", session.keep_forms, |at| at.bytes(0, 1 << 20));
    session.sign_in_host = map.get("sign_in_host").and_then(|at| host(&at));
    if session.idle_timeout > session.absolute_lifetime {
        at.error_with(
            "`idle_timeout` is longer than `absolute_lifetime`",
            "the idle timeout (30m by default) would never end a session; shorten it or lengthen the lifetime (10h by default)",
        );
    }
    Some(session)
}

pub(super) fn devices(at: &Cursor<'_>, base: &Base) -> Option<Devices> {
    let registry = keys(at)?.required("registry").and_then(|at| base.file(&at))?;
    Some(Devices { registry })
}

pub(super) fn policies(at: &Cursor<'_>, base: &Base) -> Option<Policies> {
    let map = keys(at)?;
    let given = map.get("schema");
    let schema = given.as_ref().and_then(|at| base.file(at));
    let directory_at = map.required("directory")?;
    let directory = base.directory(&directory_at)?;
    let schema = match given {
        Some(_) => schema?,
        None => {
            let default = directory.join(SCHEMA);
            is_file(&directory_at, &default).then_some(default)?
        }
    };
    Some(Policies { directory, schema })
}
