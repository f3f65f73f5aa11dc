//! The part of a route that says where requests go and how they get there.

use std::time::Duration;

use crate::config::model::{
    Endpoint, OutlierDetection, Selection, Upstream, UpstreamHost, UpstreamProtocol, UpstreamTls,
};
use crate::config::yaml::{Cursor, Map, quote};
use crate::domain::canonical::Authority;

use super::files::Base;
use super::values::{Unique, host};
use super::{backend, keys, resilience};

pub(super) fn upstream(route: &Map<'_>, base: &Base) -> Option<Upstream> {
    let endpoints = route.required("upstreams").and_then(|at| endpoints(&at));
    let selection = route.or("selection", Selection::RoundRobin, |at| {
        at.choice(&[
            ("round_robin", Selection::RoundRobin),
            ("random", Selection::Random),
            ("sticky", Selection::Sticky),
        ])
    });
    let protocol = route.or("protocol", UpstreamProtocol::Http1, |at| {
        at.choice(&[("http1", UpstreamProtocol::Http1), ("http2", UpstreamProtocol::Http2)])
    });
    let secure = endpoints.as_ref().map(|(_, secure)| *secure);
    let tls = tls(route, secure, base);
    let credential = route.get("credential").and_then(|at| backend::credential(&at, base));
    let host = route.or("upstream_host", UpstreamHost::Preserve, upstream_host);
    let health = route.get("health_check").and_then(|at| backend::health_check(&at));
    let outliers = match route.get("outlier_detection") {
        Some(at) => resilience::outlier_detection(&at),
        None => Some(OutlierDetection::default()),
    };
    let slow_start = route.get("slow_start").and_then(|at| at.duration());
    let retries = route.get("retry_budget").and_then(|at| resilience::retry_budget(&at));
    let timeouts = route.get("timeouts").and_then(|at| keys(&at));
    let timeout = |key: &str, seconds: u64| {
        let default = Duration::from_secs(seconds);
        timeouts.as_ref().map_or(default, |map| map.or(key, default, Cursor::duration))
    };
    Some(Upstream {
        selection,
        protocol,
        tls,
        credential,
        host,
        health,
        outliers,
        slow_start,
        retries: retries.unwrap_or_default(),
        connect_timeout: timeout("connect", 5),
        response_timeout: timeout("response", 60),
        idle_timeout: timeout("idle", 300),
        max_idle: route.or("max_idle_connections", 128, |at| at.number(0, 10_000)),
        endpoints: endpoints?.0,
    })
}

/// The endpoints, and whether they are reached over TLS.
fn endpoints(at: &Cursor<'_>) -> Option<(Vec<Endpoint>, bool)> {
    let mut endpoints = Vec::new();
    let mut scheme: Option<(bool, u32)> = None;
    let mut seen = Unique::new();
    for entry in at.non_empty_list() {
        let Some((place, authority, secure, weight)) = endpoint(&entry) else { continue };
        let port = authority.port.unwrap_or(if secure { 443 } else { 80 });
        let (first, line) = *scheme.get_or_insert((secure, place.line()));
        if first != secure {
            let hint = format!(
                "the one on line {line} has another scheme; make them the same, or two routes"
            );
            place.error_with("`http` and `https` upstreams can't be mixed in one route", hint);
        }
        if let Some(line) = seen.seen((authority.host.clone(), port), place.line()) {
            let hint = format!("it is on line {line} too; give it a `weight` instead");
            place.error_with(
                format!("the upstream `{}:{port}` is listed twice", authority.host),
                hint,
            );
        }
        endpoints.push(Endpoint { host: authority.host, port, weight });
    }
    Some((endpoints, scheme?.0))
}

fn endpoint<'a>(entry: &Cursor<'a>) -> Option<(Cursor<'a>, Authority, bool, usize)> {
    let (place, weight) = if entry.is_map() {
        let map = keys(entry)?;
        let weight = map.or("weight", 1, |at| at.number(1, 256));
        (map.required("url")?, weight)
    } else {
        (entry.clone(), 1)
    };
    let (authority, secure) = url(&place)?;
    Some((place, authority, secure, weight))
}

/// By hand, because URL parsers repair what they don't like: `http://127.1/` is a mistake here.
fn url(at: &Cursor<'_>) -> Option<(Authority, bool)> {
    const HINT: &str = "write a scheme, a host and a port: `http://10.0.0.5:8080`";
    let text = at.text()?;
    if text.contains('@') {
        // Not repeated: it may hold a password.
        at.error_with("an upstream's URL can't hold a user name or password", "use `credential`");
        return None;
    }
    let (rest, secure) = if let Some(rest) = text.strip_prefix("https://") {
        (rest, true)
    } else if let Some(rest) = text.strip_prefix("http://") {
        (rest, false)
    } else {
        at.error_with(
            format!("{} starts with neither `http://` nor `https://`", quote(text)),
            HINT,
        );
        return None;
    };
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    if authority.contains(['/', '?', '#']) {
        let hint = "leave the path out: requests keep the path that the client asked for";
        at.error_with(format!("the upstream {} has a path", quote(text)), hint);
        return None;
    }
    match Authority::parse(authority) {
        Ok(authority) => Some((authority, secure)),
        Err(error) => {
            at.error_with(format!("{}: {error}", quote(text)), HINT);
            None
        }
    }
}

/// `secure` is `None` when the endpoints couldn't be read.
fn tls(route: &Map<'_>, secure: Option<bool>, base: &Base) -> Option<UpstreamTls> {
    let Some(at) = route.get("tls") else {
        let plain = UpstreamTls { ca: None, server_name: None, client_certificate: None };
        return (secure == Some(true)).then_some(plain);
    };
    if secure == Some(false) {
        let hint = "write the upstreams as `https://...`, or leave `tls` out";
        at.error_with("`tls` is set, but the upstreams are `http`", hint);
    }
    let map = keys(&at)?;
    let ca = map.get("ca").and_then(|at| base.file(&at));
    let server_name = map.get("server_name").and_then(|at| host(&at));
    let client_certificate = map.get("client_certificate").and_then(|at| base.certificate(&at));
    Some(UpstreamTls { ca, server_name, client_certificate })
}

fn upstream_host(at: &Cursor<'_>) -> Option<UpstreamHost> {
    if at.text()? == "preserve" {
        return Some(UpstreamHost::Preserve);
    }
    let hint = "write `preserve`, a host name, or a host name and a port";
    at.parsed(Authority::parse, hint).map(UpstreamHost::Fixed)
}
