//! `listeners` and `admin`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::config::model::{
    Admin, Audit, Listener, ListenerLimits, ListenerRole, ListenerTls, ProxyProtocol, TlsVersion,
};
use crate::config::yaml::{Cursor, Map};
use crate::domain::connection::SourceRules;

use super::files::Base;
use super::keys;
use super::values::{Unique, address, networks, trusted, unique_name};

const DEFAULT_ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9180);

/// The listeners, and the addresses of all of them, those with other mistakes too.
pub(super) fn listeners(at: &Cursor<'_>, base: &Base) -> (Vec<Listener>, Vec<SocketAddr>) {
    let mut names = Unique::new();
    let mut addresses: Vec<(SocketAddr, u32)> = Vec::new();
    let mut listeners = Vec::new();
    let mut tls_tried = false;
    for entry in at.non_empty_list() {
        let Some(map) = keys(&entry) else { continue };
        tls_tried |= map.get("tls").is_some();
        let name = unique_name(&map, &mut names);
        let address = map.required("address").and_then(|at| {
            let address = address(&at)?;
            refuse_overlap(&at, address, &addresses);
            addresses.push((address, at.line()));
            Some(address)
        });
        let role = role(&map, base);
        let proxy_protocol = map.get("proxy_protocol").and_then(|at| proxy_protocol(&at));
        let source = Arc::new(SourceRules {
            trusted_proxies: map.get("trusted_proxies").map(|at| trusted(&at)).unwrap_or_default(),
            allow_from: map.get("allow_from").map(|at| networks(&at)),
        });
        let limits = limits(&map);
        if let (Some(name), Some(address), Some(role)) = (name, address, role) {
            listeners.push(Listener { name, address, role, proxy_protocol, source, limits });
        }
    }
    if !tls_tried {
        at.error_with(
            "no listener has `tls`, so no route can be reached",
            "add `tls: {certificates: [{certificate: FILE, key: FILE}]}` to one of them",
        );
    }
    (listeners, addresses.into_iter().map(|(address, _)| address).collect())
}

fn refuse_overlap(at: &Cursor<'_>, address: SocketAddr, others: &[(SocketAddr, u32)]) {
    if let Some((other, line)) = others.iter().find(|(other, _)| overlap(*other, address)) {
        let hint = format!("`{other}` is on line {line}; give one of the two another port");
        at.error_with(format!("`{address}` is taken by another listener"), hint);
    }
}

/// Whether two sockets can't both be bound. Port 0 means any free one.
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let (ip, other_ip) = (one.ip(), other.ip());
    one.port() != 0
        && one.port() == other.port()
        && one.is_ipv4() == other.is_ipv4()
        && (ip == other_ip || ip.is_unspecified() || other_ip.is_unspecified())
}

fn role(map: &Map<'_>, base: &Base) -> Option<ListenerRole> {
    let redirect = map.get("redirect_to_https");
    let wanted = redirect.as_ref().is_some_and(|at| at.boolean() == Some(true));
    let port = map.get("redirect_port");
    let number = map.or("redirect_port", 443, |at| at.number(1, u16::MAX));
    if let (Some(at), false) = (&port, wanted) {
        at.error_with("`redirect_port` has no effect here", "add `redirect_to_https: true`");
    }
    match (map.get("tls"), wanted) {
        (Some(at), false) => tls(&at, base).map(ListenerRole::Tls),
        (Some(at), true) => {
            let hint = "one listener serves https, another redirects to it";
            at.error_with("`tls` and `redirect_to_https` exclude each other", hint);
            None
        }
        (None, true) => Some(ListenerRole::RedirectToHttps { port: number }),
        (None, false) => {
            let hint = "a listener either serves https or redirects to it";
            map.cursor().error_with("`tls`, or `redirect_to_https: true`, is missing", hint);
            None
        }
    }
}

fn tls(at: &Cursor<'_>, base: &Base) -> Option<ListenerTls> {
    let map = keys(at)?;
    let certificates = map
        .required("certificates")
        .map(|at| at.non_empty_list().iter().filter_map(|entry| base.certificate(entry)).collect());
    let client_ca = map.get("client_ca").and_then(|at| base.file(&at));
    let client_crl = map.get("client_crl").and_then(|at| {
        if map.get("client_ca").is_none() {
            let hint = "add `client_ca`, or leave `client_crl` out";
            at.error_with("without `client_ca` no client certificate is asked for", hint);
        }
        base.file(&at)
    });
    let versions = [("1.2", TlsVersion::Tls12), ("1.3", TlsVersion::Tls13)];
    let minimum_version = map.or("minimum_version", TlsVersion::Tls12, |at| at.choice(&versions));
    let ticket_keys = map.get("ticket_keys").map(|at| base.private_file(&at));
    let ticket_keys = match ticket_keys {
        Some(None) => return None,
        found => found.flatten(),
    };
    Some(ListenerTls {
        certificates: certificates?,
        client_ca,
        client_crl,
        minimum_version,
        ticket_keys,
    })
}

fn proxy_protocol(at: &Cursor<'_>) -> Option<ProxyProtocol> {
    let map = keys(at)?;
    let trusted = map.required("trusted").map(|at| trusted(&at));
    let others = [("close", false), ("serve", true)];
    let serves_others = map.or("others", false, |at| at.choice(&others));
    Some(ProxyProtocol { trusted: trusted?, serves_others })
}

fn limits(listener: &Map<'_>) -> ListenerLimits {
    let map = listener.get("limits").and_then(|at| keys(&at));
    let duration = |key: &str, seconds: u64| {
        let default = Duration::from_secs(seconds);
        map.as_ref().map_or(default, |map| map.or(key, default, Cursor::duration))
    };
    let number = |key: &str, default: usize, least: usize, most: usize| {
        map.as_ref().map_or(default, |map| map.or(key, default, |at| at.number(least, most)))
    };
    // The HTTP library needs a buffer of 8 KiB at least.
    let header_bytes = map.as_ref().and_then(|map| map.get("max_header_bytes"));
    let header_bytes = header_bytes.and_then(|at| at.bytes(8 * 1024, 1024 * 1024));
    let limits = ListenerLimits {
        handshake_timeout: duration("handshake_timeout", 10),
        header_timeout: duration("header_timeout", 10),
        idle_timeout: duration("idle_timeout", 75),
        max_header_bytes: header_bytes
            .and_then(|bytes| usize::try_from(bytes).ok())
            .unwrap_or(32 * 1024),
        max_headers: number("max_headers", 100, 16, 1000),
        max_connections: number("max_connections", 10_000, 1, 1_000_000),
        max_connections_per_address: number("max_connections_per_address", 1000, 1, 1_000_000),
        max_handshakes: number("max_handshakes", 1000, 1, 1_000_000),
        min_data_rate: map
            .as_ref()
            .map_or(240, |map| map.or("min_data_rate", 240, |at| at.bytes(0, 1024 * 1024))),
        data_rate_grace: duration("data_rate_grace", 20),
    };
    let ListenerLimits { max_connections: all, max_connections_per_address: one, .. } = limits;
    if let Some(at) = listener.get("limits").filter(|_| one >= all && all > 1) {
        at.warn_with(
            format!("one address may take all of the listener's {all} connections"),
            "set `max_connections_per_address` to less than `max_connections`; clients of `trusted_proxies` don't count",
        );
    }
    limits
}

/// The longest name of a Unix socket in bytes (`unix(7)`), with `.new` while it is made.
const LONGEST_SOCKET: usize = 103;

/// `taken` are the addresses of the public listeners.
pub(super) fn admin(
    top: &Map<'_>,
    taken: &[SocketAddr],
    audit: Option<&Audit>,
    base: &Base,
) -> Option<Admin> {
    let section = top.get("admin");
    let map = section.as_ref().map(keys);
    if matches!(map, Some(None)) {
        return None;
    }
    let map = map.flatten();
    let socket = match map.as_ref().and_then(|map| map.get("socket")) {
        Some(at) => base.path(&at).filter(|path| {
            let fits = path.as_os_str().len() <= LONGEST_SOCKET;
            if !fits {
                let cause =
                    format!("the path has more than the {LONGEST_SOCKET} bytes of a socket's");
                at.error_with(cause, "name a shorter one, as `/run/wicketgate/admin.sock`");
            }
            fits
        }),
        None => audit.map(|audit| audit.directory.join("admin.sock")),
    };
    let given = map.and_then(|map| map.get("address"));
    let address = match &given {
        Some(at) => address(at)?,
        None => DEFAULT_ADMIN,
    };
    let at = given.or(section);
    let at = at.as_ref().unwrap_or(top.cursor());
    if !address.ip().is_loopback() {
        at.warn_with(
            format!("the admin listener at `{address}` can be reached from other machines"),
            "it asks nobody for a password; use a loopback address, or a network that only monitoring can reach",
        );
    }
    if let Some(listener) = taken.iter().find(|taken| overlap(**taken, address)) {
        at.error_with(
            format!("the admin address `{address}` is also that of the listener at `{listener}`"),
            "give the admin listener an address of its own: it must never be public",
        );
    }
    Some(Admin { address, socket: socket? })
}
