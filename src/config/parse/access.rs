//! `session`, `devices` and `policies`: how long a sign-in lasts, and what is decided by.

use std::sync::Arc;
use std::time::Duration;

use url::Url;

use crate::config::model::{Devices, Policies, Session};
use crate::config::yaml::{Cursor, Map, quote};

use super::files::{Base, is_file};
use super::keys;
use super::values::host;

const SCHEMA: &str = "wicketgate.cedarschema";

/// And where a browser may go once it is over.
pub(super) fn session(top: &Map<'_>) -> Option<(Session, Arc<[Box<str>]>)> {
    let mut session = Session {
        idle_timeout: Duration::from_secs(30 * 60),
        absolute_lifetime: Duration::from_secs(10 * 3600),
        keep_forms: 64 << 10,
        sign_in_host: None,
    };
    let Some(at) = top.get("session") else { return Some((session, Arc::default())) };
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
    let urls = map.get("sign_out_urls").map(|at| at.list()).unwrap_or_default();
    Some((session, urls.iter().filter_map(sign_out_url).collect()))
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
        at.error("an address to go to after signing out has no user name, password or fragment");
        return None;
    }
    if url.as_str() != text {
        let hint = format!("write `{url}`, as browsers do: it is compared letter by letter");
        at.error_with(format!("{} reads in more than one way", quote(text)), hint);
        return None;
    }
    Some(text.into())
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
