//! `routes`: what is asked for. What stands behind it is in [`super::upstream`].

use std::sync::Arc;

use crate::config::model::{
    Application, AuditDurability, IdentityProvider, ResponseRewrite, Route, UpstreamProtocol,
};
use crate::config::yaml::{Cursor, Map, closest, quote};
use crate::domain::canonical::{Authority, CanonicalPath, Host, path_segments};

use super::files::Base;
use super::values::{Unique, host, networks, unique_name, words};
use super::{bounds, callers, keys, providers, upstream};

/// The first segment of the paths that the gate answers itself.
const RESERVED: &str = ".wicketgate";

/// `known` is `None` when the applications themselves couldn't be read.
pub(super) fn routes(
    at: &Cursor<'_>,
    known: Option<&Vec<Arc<Application>>>,
    known_providers: Option<&Vec<Arc<IdentityProvider>>>,
    certificates: bool,
    base: &Base,
) -> Vec<Arc<Route>> {
    let mut names = Unique::new();
    let mut places = Unique::new();
    let route = |entry: &Cursor<'_>| {
        let map = keys(entry)?;
        let name = unique_name(&map, &mut names);
        let place = place(&map, &mut places);
        let application = map.required("application").and_then(|at| application(&at, known));
        let accepted = callers::accepted(&map, known_providers, certificates);
        let allow_from = map.get("allow_from").map(|at| networks(&at));
        let tenant = map.get("tenant").and_then(|at| words(&at));
        let own_providers = providers::taken(&map, known_providers);
        let upstream = upstream::upstream(&map, base);
        let max_body_bytes = map.or("max_body", 10 << 20, |at| at.bytes(0, 1 << 50));
        let http2 =
            upstream.as_ref().is_some_and(|found| found.protocol == UpstreamProtocol::Http2);
        let websocket = websocket(&map, http2);
        let path_parameters = map.or("path_parameters", false, Cursor::boolean);
        let audit = map.or("audit", AuditDurability::Buffered, |at| {
            at.choice(&[
                ("buffered", AuditDurability::Buffered),
                ("durable", AuditDurability::Durable),
            ])
        });
        let refuse_cross_site =
            map.or("cross_site", true, |at| at.choice(&[("refuse", true), ("allow", false)]));
        let cross_site_origins = cross_site_origins(&map, refuse_cross_site);
        let response = response(&map);
        let bounds = bounds::of_route(&map);
        let (host, path) = place?;
        let application = application?;
        Some(Arc::new(Route {
            name: name?,
            host,
            path,
            identity_providers: own_providers
                .or_else(|| application.identity_providers.as_ref().map(Arc::clone)),
            application,
            accepted,
            allow_from,
            tenant,
            upstream: upstream?,
            max_body_bytes,
            websocket,
            path_parameters,
            audit,
            refuse_cross_site,
            cross_site_origins,
            response,
            bounds,
        }))
    };
    at.non_empty_list().iter().filter_map(route).collect()
}

/// Host and path, which no other route has.
fn place(map: &Map<'_>, seen: &mut Unique<(Host, Arc<str>)>) -> Option<(Host, Arc<str>)> {
    let host = map.required("host").and_then(|at| host(&at));
    let given = map.get("path");
    let path = match &given {
        Some(at) => path(at),
        None => Some(Arc::from("/")),
    };
    let place = (host?, path?);
    let at = given.unwrap_or_else(|| map.cursor().clone());
    if let Some(first) = seen.seen(place.clone(), at.line()) {
        let hint = format!("the other is on line {first}; one of the two would never be reached");
        at.error_with(
            format!("two routes have the host `{}` and the path `{}`", place.0, place.1),
            hint,
        );
    }
    Some(place)
}

/// A prefix in the one form that requests are compared in.
fn path(at: &Cursor<'_>) -> Option<Arc<str>> {
    let text = at.text()?;
    let path = at.parsed(CanonicalPath::parse, "write it as browsers send it: `/reports/2026`")?;
    if path.has_parameters() {
        at.error("a route's path can't hold `;parameters`");
        return None;
    }
    let wanted = match path.encoded() {
        "/" => "/",
        encoded => encoded.trim_end_matches('/'),
    };
    if wanted != text {
        let cause = format!("{} is not the canonical form of this path", quote(text));
        at.error_with(cause, format!("write `{wanted}`"));
        return None;
    }
    let first = path_segments(path.decoded()).next().unwrap_or_default();
    if first.eq_ignore_ascii_case(RESERVED) {
        at.error_with(
            format!("{} is reserved: the gate answers below `/{RESERVED}` itself", quote(text)),
            "choose another path",
        );
        return None;
    }
    Some(Arc::clone(path.decoded()))
}

fn application(at: &Cursor<'_>, known: Option<&Vec<Arc<Application>>>) -> Option<Arc<Application>> {
    let name = at.text()?;
    let known = known?;
    if let Some(found) = known.iter().find(|application| *application.name == *name) {
        return Some(Arc::clone(found));
    }
    let hint = match closest(name, known.iter().map(|application| &*application.name)) {
        Some(meant) => format!("did you mean `{meant}`?"),
        None => "add it to `applications`".to_owned(),
    };
    at.error_with(format!("there is no application {}", quote(name)), hint);
    None
}

fn websocket(map: &Map<'_>, http2: bool) -> bool {
    let wanted = map.or("websocket", !http2, Cursor::boolean);
    if let (Some(at), true, true) = (map.get("websocket"), wanted, http2) {
        let hint = "leave `websocket` out, or use `protocol: http1`";
        at.error_with("WebSockets can't be carried to upstreams that speak `http2`", hint);
    }
    wanted
}

/// Origins as browsers write them: `https://partner.example`.
fn cross_site_origins(route: &Map<'_>, refuses: bool) -> Vec<Authority> {
    let Some(at) = route.get("cross_site_origins") else { return Vec::new() };
    if !refuses {
        let hint = "leave `cross_site` out, so that these origins are let in and no others";
        at.error_with("`cross_site: allow` lets every origin in already", hint);
    }
    let origin = |entry: &Cursor<'_>| {
        let text = entry.text()?;
        let origin = text.strip_prefix("https://").and_then(|rest| Authority::parse(rest).ok());
        if origin.is_none() {
            let hint = "write scheme and host, and the port where it is not 443: `https://partner.example.com`";
            entry.error_with(format!("{} is not an `https` origin", quote(text)), hint);
        }
        origin
    };
    at.non_empty_list().iter().filter_map(origin).collect()
}

fn response(route: &Map<'_>) -> ResponseRewrite {
    let mut response = ResponseRewrite { location: true, cookie_domain: true };
    if let Some(map) = route.get("response").and_then(|at| keys(&at)) {
        response.location = map.or("rewrite_location", true, Cursor::boolean);
        response.cookie_domain =
            map.or("cookie_domain", true, |at| at.choice(&[("drop", true), ("keep", false)]));
    }
    response
}
