//! Small values that several sections share.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::config::yaml::{Cursor, Map, quote};
use crate::domain::canonical::Host;
use crate::domain::network::{NetworkError, Networks, network};
use ipnet::IpNet;

/// A name that can stand in policies, metrics and logs without quoting.
pub(super) fn name(at: &Cursor<'_>) -> Option<Arc<str>> {
    let text = at.text()?;
    let good = text.len() <= 64
        && text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    if !good {
        let hint = "use up to 64 letters, digits, `-`, `_` and `.`, the first a letter or digit";
        at.error_with(format!("{} is not a name", quote(text)), hint);
        return None;
    }
    Some(text.into())
}

/// Words for people, or an id from elsewhere: one line, of bounded length.
pub(super) fn words(at: &Cursor<'_>) -> Option<Arc<str>> {
    let text = at.text()?;
    if text.chars().any(char::is_control) || text.chars().count() > 200 {
        at.error(format!("{} is longer than 200 characters or not on one line", quote(text)));
        return None;
    }
    Some(text.into())
}

pub(super) fn address(at: &Cursor<'_>) -> Option<SocketAddr> {
    let hint = "write an IP address and a port: `0.0.0.0:443`, `127.0.0.1:9180` or `[::]:443`";
    let parse = |text: &str| text.parse().map_err(|_| "not an IP address and port");
    at.parsed(parse, hint)
}

pub(super) fn host(at: &Cursor<'_>) -> Option<Host> {
    let text = at.text()?;
    let error = match Host::parse(text) {
        Ok(host) => return Some(host),
        Err(error) => error,
    };
    let hint = if text.contains('*') {
        "wildcards are not supported; write one route for each host"
    } else if text.contains("://") {
        "leave the scheme out: `portal.example.com`"
    } else if text.contains(':') {
        "leave the port out: `portal.example.com`"
    } else {
        "write a host name as `portal.example.com`"
    };
    at.error_with(format!("{}: {error}", quote(text)), hint);
    None
}

/// At least one network.
pub(super) fn networks(at: &Cursor<'_>) -> Networks {
    each_network(at, |_, _| {})
}

/// At least one network of those who may say where others come from.
pub(super) fn trusted(at: &Cursor<'_>) -> Networks {
    each_network(at, |at, network| {
        if network.prefix_len() == 0 {
            let hint = "name the addresses of the proxies themselves";
            let text = quote(at.text().unwrap_or_default());
            at.error_with(
                format!("{text} trusts everybody, so every client could claim any address"),
                hint,
            );
        }
    })
}

fn each_network(at: &Cursor<'_>, check: impl Fn(&Cursor<'_>, IpNet)) -> Networks {
    let read = |entry: &Cursor<'_>| {
        let text = entry.text()?;
        let error = match network(text) {
            Ok(network) => {
                check(entry, network);
                return Some(network);
            }
            Err(error) => error,
        };
        let hint = match error {
            NetworkError::Malformed => {
                "write an address or a network: `192.0.2.7`, `10.0.0.0/8` or `2001:db8::/32`"
                    .to_owned()
            }
            NetworkError::Prefix(longest) => {
                format!("write a prefix of `/{longest}` at most, or the address alone")
            }
            NetworkError::HostBits(network) => {
                format!("write `{network}`, or the address without a prefix")
            }
            NetworkError::Mapped => "write the four numbers of IPv4: `10.0.0.0/8`".to_owned(),
        };
        entry.error_with(format!("{}: {error}", quote(text)), hint);
        None
    };
    at.non_empty_list().iter().filter_map(read).collect()
}

/// Remembers where each name was first used.
#[derive(Debug, Default)]
pub(super) struct Unique<T>(Vec<(T, u32)>);

impl<T: PartialEq> Unique<T> {
    pub(super) fn new() -> Self {
        Self(Vec::new())
    }

    /// The line of the first use, when this isn't it.
    pub(super) fn seen(&mut self, value: T, line: u32) -> Option<u32> {
        if let Some((_, first)) = self.0.iter().find(|(other, _)| *other == value) {
            return Some(*first);
        }
        self.0.push((value, line));
        None
    }

    pub(super) fn has(&self, value: &T) -> bool {
        self.0.iter().any(|(known, _)| known == value)
    }
}

/// The required `name` of a list's entry, unique in that list.
pub(super) fn unique_name(map: &Map<'_>, seen: &mut Unique<Arc<str>>) -> Option<Arc<str>> {
    let at = map.required("name")?;
    let name = name(&at)?;
    if let Some(first) = seen.seen(Arc::clone(&name), at.line()) {
        let hint = format!("it was first used on line {first}; give one of the two another name");
        at.error_with(format!("the name `{name}` is used twice"), hint);
    }
    Some(name)
}

/// Records a finding unless exactly one of the two keys is there.
pub(super) fn exactly_one<'a>(
    map: &Map<'a>,
    [first, second]: [&str; 2],
) -> Option<(Option<Cursor<'a>>, Option<Cursor<'a>>)> {
    match (map.get(first), map.get(second)) {
        (None, None) => {
            map.cursor().error(format!("one of the keys `{first}` and `{second}` is missing"));
            None
        }
        (Some(_), Some(at)) => {
            at.error(format!("`{first}` and `{second}` exclude each other; keep one of the two"));
            None
        }
        found => Some(found),
    }
}
