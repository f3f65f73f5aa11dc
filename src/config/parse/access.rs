//! `identity_providers`, `session`, `devices` and `policies`: who comes in.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use url::Url;

use crate::config::model::{ClaimNames, Devices, IdentityProvider, Issuer, Policies, Session};
use crate::config::yaml::{Cursor, Map, quote};

use super::files::{Base, is_file};
use super::keys;
use super::values::{Unique, unique_name, words};

const SCHEMA: &str = "wicketgate.cedarschema";

pub(super) fn identity_providers(at: &Cursor<'_>, base: &Base) -> Vec<Arc<IdentityProvider>> {
    let entries = at.non_empty_list();
    if let Some(second) = entries.get(1) {
        let hint = "keep one; a provider that brokers others (Keycloak, Dex, Entra ID) can stand in front of several";
        second.error_with("only one identity provider is supported so far", hint);
    }
    let mut names = Unique::new();
    let provider = |entry| provider(entry, &mut names, base).map(Arc::new);
    entries.iter().filter_map(provider).collect()
}

fn provider(
    entry: &Cursor<'_>,
    names: &mut Unique<Arc<str>>,
    base: &Base,
) -> Option<IdentityProvider> {
    let map = keys(entry)?;
    let name = unique_name(&map, names);
    let display_name = map.get("display_name").and_then(|at| words(&at));
    let issuer = map.required("issuer").and_then(|at| issuer(&at));
    let client_id = map.required("client_id").and_then(|at| words(&at));
    let client_secret = map.get("client_secret").and_then(|at| base.secret(&at));
    let default = ["openid", "profile", "email"].map(str::to_owned).to_vec();
    let scopes = map.or("scopes", default, scopes);
    let ca = map.get("ca").and_then(|at| base.file(&at));
    let claims = claims(&map);
    let timeout = map.or("timeout", Duration::from_secs(10), Cursor::duration);
    let name = name?;
    Some(IdentityProvider {
        display_name: display_name.unwrap_or_else(|| Arc::clone(&name)),
        name,
        issuer: issuer?,
        client_id: client_id?.as_ref().to_owned(),
        client_secret,
        scopes,
        ca,
        claims,
        timeout,
    })
}

fn issuer(at: &Cursor<'_>) -> Option<Issuer> {
    let text = at.text()?;
    if text.contains('@') {
        // Not repeated: it may hold a password.
        at.error("the issuer must not hold a user name or password");
        return None;
    }
    let issuer =
        at.parsed(Issuer::parse, "write the issuer as `https://id.example.com/realms/main`")?;
    let url = issuer.url();
    if url.query().is_some() || url.fragment().is_some() {
        // OpenID Connect Discovery 1.0, section 4.3.
        at.error("the issuer must not have a query or fragment");
        return None;
    }
    match url.scheme() {
        "https" => {}
        "http" if is_loopback(url) => at.warn_with(
            "the identity provider is reached without TLS",
            "this is accepted for a loopback host only, for trying things out",
        ),
        _ => {
            let hint = "only a provider on a loopback host may be reached without TLS";
            at.error_with(format!("{} is not an `https` URL", quote(text)), hint);
            return None;
        }
    }
    Some(issuer)
}

fn is_loopback(url: &Url) -> bool {
    let Some(host) = url.host_str() else { return false };
    let address = host.trim_matches(['[', ']']);
    // RFC 6761, section 6.3: every name below localhost is loopback.
    host == "localhost"
        || host.ends_with(".localhost")
        || address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn scopes(at: &Cursor<'_>) -> Option<Vec<String>> {
    let mut scopes = Vec::new();
    for entry in at.non_empty_list() {
        let Some(scope) = entry.text() else { continue };
        // RFC 6749, section 3.3.
        let good = scope.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"\\".contains(&byte));
        if good {
            scopes.push(scope.to_owned());
        } else {
            entry.error(format!("{} is not a scope", quote(scope)));
        }
    }
    if !scopes.iter().any(|scope| scope == "openid") {
        at.error_with("the scope `openid` is missing", "without it the provider sends no ID token");
    }
    Some(scopes)
}

fn claims(provider: &Map<'_>) -> ClaimNames {
    let map = provider.get("claims").and_then(|at| keys(&at));
    let claim = |key: &str| {
        let given = map.as_ref().and_then(|map| map.get(key)).and_then(|at| words(&at));
        given.map_or_else(|| key.to_owned(), |name| name.as_ref().to_owned())
    };
    let user = map.as_ref().and_then(|map| map.get("user")).and_then(|at| words(&at));
    ClaimNames {
        user: user.map_or_else(|| "sub".to_owned(), |name| name.as_ref().to_owned()),
        email: claim("email"),
        name: claim("name"),
        groups: claim("groups"),
        tenant: claim("tenant"),
    }
}

pub(super) fn session(top: &Map<'_>) -> Option<Session> {
    let mut session = Session {
        idle_timeout: Duration::from_secs(30 * 60),
        absolute_lifetime: Duration::from_secs(10 * 3600),
    };
    let Some(at) = top.get("session") else { return Some(session) };
    let map = keys(&at)?;
    session.idle_timeout = map.or("idle_timeout", session.idle_timeout, Cursor::duration);
    session.absolute_lifetime =
        map.or("absolute_lifetime", session.absolute_lifetime, Cursor::duration);
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
