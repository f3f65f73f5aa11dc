//! `identity_providers`: who signs users in, and whose users a route takes.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use url::Url;

use crate::config::model::{
    CERTIFICATES, ClaimNames, ClaimPath, IdentityProvider, Issuer, ProviderNames,
};
use crate::config::yaml::{Cursor, Map, closest, quote};
use crate::domain::step_up::{MAX_LEVELS, SignInLevel, is_acr};

use super::files::Base;
use super::values::{Unique, unique_name, words};
use super::{callers, client, keys, refresh};

pub(super) fn identity_providers(at: &Cursor<'_>, base: &Base) -> Vec<Arc<IdentityProvider>> {
    let (mut names, mut clients) = (Unique::new(), Unique::new());
    let provider = |entry: &Cursor<'_>| {
        let provider = provider(entry, &mut names, base)?;
        // Two names for one client would be two users for each person.
        let client = (provider.issuer.as_str().to_owned(), provider.client_id.clone());
        if let Some(first) = clients.seen(client, entry.line()) {
            let hint = "its users would have two ids each; keep one of the two";
            let cause = format!("the same client of the same issuer stands on line {first}");
            entry.error_with(cause, hint);
        }
        Some(Arc::new(provider))
    };
    at.non_empty_list().iter().filter_map(provider).collect()
}

/// Which of the providers a route or an application takes users from. `known` is `None` when the
/// providers themselves couldn't be read.
pub(super) fn taken(
    map: &Map<'_>,
    known: Option<&Vec<Arc<IdentityProvider>>>,
) -> Option<ProviderNames> {
    let at = map.get("identity_providers")?;
    let mut seen = Unique::new();
    let name = |entry: &Cursor<'_>| {
        let name = entry.text()?;
        let names = || known.into_iter().flatten().map(|provider| &provider.name);
        let found = match names().find(|known| ***known == *name) {
            Some(found) => Arc::clone(found),
            None if known.is_none() => return None,
            None => {
                let hint = match closest(name, names().map(|name| &**name)) {
                    Some(meant) => format!("did you mean `{meant}`?"),
                    None => "add it to `identity_providers` at the top".to_owned(),
                };
                entry.error_with(format!("there is no identity provider {}", quote(name)), hint);
                return None;
            }
        };
        if seen.seen(Arc::clone(&found), entry.line()).is_some() {
            let hint = "take one of the two out";
            entry.error_with(format!("{} stands here twice", quote(name)), hint);
        }
        Some(found)
    };
    Some(at.non_empty_list().iter().filter_map(name).collect())
}

fn provider(
    entry: &Cursor<'_>,
    names: &mut Unique<Arc<str>>,
    base: &Base,
) -> Option<IdentityProvider> {
    let map = keys(entry)?;
    let name = unique_name(&map, names);
    if name.as_deref() == Some(CERTIFICATES)
        && let Some(at) = map.get("name")
    {
        let hint = "give the provider another name";
        at.error_with("services with client certificates are called `certificate/...`", hint);
    }
    let display_name = map.get("display_name").and_then(|at| words(&at));
    let issuer = map.required("issuer").and_then(|at| issuer(&at));
    let client_id = map.required("client_id").and_then(|at| words(&at));
    let client = client::authentication(&map, base);
    let parameters = map.get("authorization_parameters").map(|at| client::parameters(&at));
    let own_callback =
        map.or("callback", false, |at| at.choice(&[("shared", false), ("own", true)]));
    let default = ["openid", "profile", "email"].map(str::to_owned).to_vec();
    let scopes = map.or("scopes", default, scopes);
    let ca = map.get("ca").and_then(|at| base.file(&at));
    let claims = claims(&map);
    let asks_userinfo = map.or("userinfo", true, Cursor::boolean);
    let step_up = step_up(&map);
    let id = client_id.as_deref();
    let access_tokens = map.get("bearer").and_then(|at| callers::access_tokens(&at, id));
    let refresh = refresh::refresh(&map);
    let revokes_tokens = map.or("revoke_tokens", true, Cursor::boolean);
    let timeout = map.or("timeout", Duration::from_secs(10), Cursor::duration);
    let name = name?;
    Some(IdentityProvider {
        display_name: display_name.unwrap_or_else(|| Arc::clone(&name)),
        name,
        issuer: issuer?,
        client_id: client_id?.as_ref().to_owned(),
        client: client?,
        scopes,
        parameters: parameters.unwrap_or_default(),
        own_callback,
        ca,
        claims,
        asks_userinfo,
        step_up,
        access_tokens,
        refresh,
        revokes_tokens,
        timeout,
    })
}

/// The kinds of sign-in that a provider can be asked for.
fn step_up(provider: &Map<'_>) -> Vec<SignInLevel> {
    let Some(at) = provider.get("step_up") else { return Vec::new() };
    let mut seen = Unique::new();
    let entries = at.non_empty_list();
    if let Some(surplus) = entries.get(MAX_LEVELS) {
        let hint = "keep those that a policy asks for";
        surplus.error_with(format!("more than {MAX_LEVELS} kinds of sign-in"), hint);
    }
    let level = |entry: &Cursor<'_>| {
        let map = keys(entry)?;
        let acr_at = map.required("acr");
        let amr = map.get("amr").map(|at| at.non_empty_list()).unwrap_or_default();
        let amr = amr.iter().filter_map(words).collect();
        let acr_at = acr_at?;
        let acr = words(&acr_at)?;
        if !is_acr(&acr) {
            let hint = "write one value, as the provider lists it in `acr_values_supported`";
            let cause = format!("{} is not an authentication context class", quote(&acr));
            acr_at.error_with(cause, hint);
            return None;
        }
        if let Some(first) = seen.seen(Arc::clone(&acr), acr_at.line()) {
            let hint = "write each `acr` once, with all of its `amr`";
            let cause = format!("{} is listed on line {first} already", quote(&acr));
            acr_at.error_with(cause, hint);
        }
        Some(SignInLevel { acr, amr })
    };
    entries.iter().filter_map(level).collect()
}

fn issuer(at: &Cursor<'_>) -> Option<Issuer> {
    let text = at.text()?;
    if text.contains('@') {
        // Not repeated: it may hold a password.
        at.error_with(
            "the issuer must not hold a user name or password",
            "leave them out; the gate proves who it is with `client_secret` or `client_key`",
        );
        return None;
    }
    const EXAMPLE: &str = "write the issuer as `https://id.example.com/realms/main`";
    if !text.contains("://") {
        at.error_with(format!("{} doesn't begin with `https://`", quote(text)), EXAMPLE);
        return None;
    }
    if let Some((issuer, _)) = text.split_once("/.well-known/") {
        let hint = format!("write {}, if that is what the document calls `issuer`", quote(issuer));
        at.error_with("this is the address of the provider's metadata, not its issuer", hint);
        return None;
    }
    let issuer = at.parsed(Issuer::parse, EXAMPLE)?;
    let url = issuer.url();
    if url.query().is_some() || url.fragment().is_some() {
        // OpenID Connect Discovery 1.0, section 4.3.
        at.error_with(
            "the issuer must not have a query or fragment",
            "leave out what follows `?` or `#`; the issuer is what the provider's \
             `/.well-known/openid-configuration` calls `issuer`",
        );
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
            let hint =
                "write each scope as an entry of its own, without blanks: `[openid, profile]`";
            entry.error_with(format!("{} is not a scope", quote(scope)), hint);
        }
    }
    if !scopes.iter().any(|scope| scope == "openid") {
        at.error_with("the scope `openid` is missing", "without it the provider sends no ID token");
    }
    Some(scopes)
}

fn claims(provider: &Map<'_>) -> ClaimNames {
    let mut names = ClaimNames::default();
    if let Some(at) = provider.get("tenant") {
        names.fixed_tenant = words(&at);
    }
    let Some(map) = provider.get("claims").and_then(|at| keys(&at)) else { return names };
    let path = |key: &str| map.get(key).and_then(|at| claim_path(&at));
    for (key, place) in [
        ("user", &mut names.user),
        ("email", &mut names.email),
        ("name", &mut names.name),
        ("groups", &mut names.groups),
        ("tenant", &mut names.tenant),
    ] {
        if let Some(path) = path(key) {
            *place = path;
        }
    }
    names.roles = path("roles");
    names.group_prefix = map.get("group_prefix").and_then(|at| words(&at));
    names.separator = map.get("separator").and_then(|at| words(&at));
    if let (Some(_), Some(at)) = (&names.fixed_tenant, map.get("tenant")) {
        at.error_with(
            "`tenant` stands here and at the provider itself",
            "keep one of the two: a claim, or one tenant for all of its users",
        );
    }
    names
}

fn claim_path(at: &Cursor<'_>) -> Option<ClaimPath> {
    let text = words(at)?;
    let found = ClaimPath::parse(&text);
    if found.is_none() {
        let hint = "write `groups`, or `realm_access.roles` for what stands in another claim";
        at.error_with(format!("{} names no claim", quote(&text)), hint);
    }
    found
}
