//! `store`: where sessions are kept.

use std::net::IpAddr;
use std::time::Duration;

use crate::config::model::{Redis, RedisNode, RedisServers, RedisTls, Session, Store};
use crate::config::secret::Secret;
use crate::config::yaml::{Cursor, Map, quote};
use crate::domain::canonical::Authority;

use super::files::Base;
use super::keys;
use super::values::exactly_one;

/// Within this a closed session is closed at every gate: half a second less than two seconds is
/// left for what comes after.
const LEASE: Duration = Duration::from_millis(1500);

/// `session` is `None` where it couldn't be read.
pub(super) fn store(at: &Cursor<'_>, session: Option<&Session>, base: &Base) -> Option<Store> {
    let map = keys(at)?;
    match exactly_one(&map, ["path", "redis"])? {
        (Some(at), _) => {
            if let Some(lease) = map.get("lease") {
                lease.error_with(
                    "`lease` is for a store that several gates share",
                    "leave it out, or use `redis` instead of `path`",
                );
            }
            embedded(&at, base)
        }
        (_, Some(at)) => {
            let redis = redis(&at, lease(&map), base)?;
            check_key(&at, session);
            Some(Store::Redis(Box::new(redis)))
        }
        _ => None,
    }
}

/// Whoever reads the store reads what opens it.
fn check_key(at: &Cursor<'_>, session: Option<&Session>) {
    if session.is_some_and(|session| session.keys.is_empty()) {
        at.warn_with(
            "without `session.key` the key that session records are sealed with lies in the shared \
             store, in the clear, beside them",
            "put what `openssl rand -base64 32` prints into a file, the same for every gate, and \
             write `key: file:PATH` under `session`",
        );
    }
}

fn embedded(at: &Cursor<'_>, base: &Base) -> Option<Store> {
    let path = base.path(at)?;
    if path.exists() && !path.is_file() {
        at.error_with(
            format!("`{}` is not a file", path.display()),
            "name the file itself, as `/var/lib/wicketgate/store.redb`",
        );
    }
    Some(Store::Embedded { path })
}

fn lease(store: &Map<'_>) -> Duration {
    store.or("lease", LEASE, |at| {
        let lease = between(at, Duration::from_millis(500), Duration::from_secs(60))?;
        if lease > LEASE {
            at.warn_with(
                "with this lease a gate that has lost the store goes on for longer than 2 seconds \
                 with sessions that were ended elsewhere",
                "`1500ms` or less keeps the promise that an ended session is closed within 2 \
                 seconds everywhere",
            );
        }
        Some(lease)
    })
}

fn between(at: &Cursor<'_>, least: Duration, most: Duration) -> Option<Duration> {
    let duration = at.duration()?;
    if duration < least || duration > most {
        let cause = format!("the duration must be from {least:?} to {most:?}");
        at.error_with(cause, "leave the key out for its default");
        return None;
    }
    Some(duration)
}

fn redis(at: &Cursor<'_>, lease: Duration, base: &Base) -> Option<Redis> {
    let map = keys(at)?;
    let found = servers(&map, base);
    let plaintext = map.or("allow_plaintext", false, Cursor::boolean);
    let secure = found.as_ref().map(|(_, nodes)| scheme(nodes, plaintext));
    let username = map.get("username").and_then(|at| words(&at));
    let password = map.get("password").and_then(|at| base.secret(&at));
    if let (Some(at), None) = (map.get("username"), map.get("password")) {
        at.error_with("the user has no password", "write `password: file:PATH` beside it");
    }
    let files = tls(&map, base);
    let tls = match secure {
        Some(false) => {
            for key in ["ca", "client_certificate"] {
                if let Some(at) = map.get(key) {
                    at.error_with(
                        "this is for TLS, and the servers are reached without it",
                        "write `rediss://` where `redis://` stands",
                    );
                }
            }
            None
        }
        _ => Some(files),
    };
    let database = map.or("database", 0, |at| at.number(0, 1023));
    if let (Some(at), Some(_)) = (map.get("database"), map.get("cluster")) {
        at.error_with("a cluster has only one database", "leave `database` out");
    }
    let timeout = Duration::from_secs(1);
    let timeout = map.or("timeout", timeout, |at| {
        between(at, Duration::from_millis(50), Duration::from_secs(10))
    });
    let key_prefix = map.or("key_prefix", "wicketgate".to_owned(), |at| prefix(at));
    let (servers, _) = found?;
    secure?;
    Some(Redis { servers, tls, username, password, database, key_prefix, timeout, lease })
}

/// A server, where it stands, and whether it is reached over TLS.
type Node<'a> = (Cursor<'a>, RedisNode, bool);

fn servers<'a>(map: &Map<'a>, base: &Base) -> Option<(RedisServers, Vec<Node<'a>>)> {
    let ways = ["url", "sentinel", "cluster"];
    let mut given = ways.iter().filter_map(|key| map.get(key));
    let Some(first) = given.next() else {
        map.cursor().error_with(
            "one of the keys `url`, `sentinel` and `cluster` is missing",
            "for one server write `url: rediss://redis.example.com:6379`",
        );
        return None;
    };
    if let Some(at) = given.next() {
        at.error_with(
            "`url`, `sentinel` and `cluster` exclude each other",
            "keep one: `url` for one server, `sentinel` for a master that others watch over, \
             `cluster` for a Cluster",
        );
        return None;
    }
    if map.get("url").is_some() {
        let (node, secure) = node(&first, 6379, true)?;
        return Some((RedisServers::Single(node.clone()), vec![(first, node, secure)]));
    }
    if map.get("cluster").is_some() {
        let nodes = nodes(&first, 6379)?;
        return Some((RedisServers::Cluster(plain(&nodes)), nodes));
    }
    let map = keys(&first)?;
    let master = map.required("master").and_then(|at| words(&at));
    let nodes = map.required("nodes").and_then(|at| nodes(&at, 26379));
    let username = map.get("username").and_then(|at| words(&at));
    let password: Option<Secret> = map.get("password").and_then(|at| base.secret(&at));
    let (master, nodes) = (master?, nodes?);
    Some((RedisServers::Sentinel { master, nodes: plain(&nodes), username, password }, nodes))
}

fn plain(nodes: &[Node<'_>]) -> Vec<RedisNode> {
    nodes.iter().map(|(_, node, _)| node.clone()).collect()
}

fn nodes<'a>(at: &Cursor<'a>, port: u16) -> Option<Vec<Node<'a>>> {
    let entries = at.non_empty_list();
    let read = |entry: &Cursor<'a>| {
        let (node, secure) = node(entry, port, false)?;
        Some((entry.clone(), node, secure))
    };
    let nodes: Vec<_> = entries.iter().filter_map(read).collect();
    (!nodes.is_empty() && nodes.len() == entries.len()).then_some(nodes)
}

/// Whether the servers are reached over TLS. That goes for all of them.
fn scheme(nodes: &[Node<'_>], plaintext: bool) -> bool {
    let secure = nodes.first().is_some_and(|(_, _, secure)| *secure);
    for (at, node, other) in nodes {
        if *other != secure {
            at.error_with(
                "`redis://` and `rediss://` can't be mixed",
                "write all of them with `rediss://`, which is with TLS, or all with `redis://`",
            );
        } else if !secure && !plaintext && !is_local(node) {
            at.error_with(
                "sessions would cross the network in plain sight",
                "write `rediss://`; or `allow_plaintext: true`, where the network itself is \
                 encrypted",
            );
        }
    }
    secure
}

fn is_local(node: &RedisNode) -> bool {
    match node {
        RedisNode::Unix(_) => true,
        RedisNode::Tcp { host, .. } => {
            host == "localhost" || host.parse().is_ok_and(|address: IpAddr| address.is_loopback())
        }
    }
}

fn node(at: &Cursor<'_>, port: u16, or_socket: bool) -> Option<(RedisNode, bool)> {
    const HINT: &str = "write a scheme and a host: `rediss://redis.example.com:6379`";
    let text = at.text()?;
    if text.contains('@') {
        // Not repeated: it may hold a password.
        at.error_with(
            "the URL can't hold a user name or password",
            "use `username` and `password`",
        );
        return None;
    }
    if let Some(path) = text.strip_prefix("unix://").filter(|path| path.starts_with('/')) {
        if !or_socket {
            at.error_with("a socket of this machine can't stand here", HINT);
            return None;
        }
        return Some((RedisNode::Unix(path.into()), false));
    }
    let (rest, secure) = match (text.strip_prefix("rediss://"), text.strip_prefix("redis://")) {
        (Some(rest), _) => (rest, true),
        (_, Some(rest)) => (rest, false),
        _ => {
            at.error_with(
                format!("{} starts with neither `rediss://` nor `redis://`", quote(text)),
                HINT,
            );
            return None;
        }
    };
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    if authority.contains(['/', '?', '#']) {
        at.error_with(
            format!("{} has more than a host and a port", quote(text)),
            "leave the rest out; the number of the database is `database`",
        );
        return None;
    }
    match Authority::parse(authority) {
        Ok(authority) => {
            let host = authority.host.as_str().trim_matches(['[', ']']).to_owned();
            Some((RedisNode::Tcp { host, port: authority.port.unwrap_or(port) }, secure))
        }
        Err(error) => {
            at.error_with(format!("{}: {error}", quote(text)), HINT);
            None
        }
    }
}

fn tls(map: &Map<'_>, base: &Base) -> RedisTls {
    RedisTls {
        ca: map.get("ca").and_then(|at| base.file(&at)),
        client_certificate: map.get("client_certificate").and_then(|at| base.certificate(&at)),
    }
}

fn words(at: &Cursor<'_>) -> Option<String> {
    super::values::words(at).map(|text| text.to_string())
}

/// Goes into keys, and between the braces of their hash tags.
fn prefix(at: &Cursor<'_>) -> Option<String> {
    let text = at.text()?;
    let good = text.len() <= 64
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte));
    if !good {
        at.error_with(
            format!("{} can't begin the keys", quote(text)),
            "use up to 64 letters, digits, `-`, `_`, `.` and `:`",
        );
        return None;
    }
    Some(text.to_owned())
}
