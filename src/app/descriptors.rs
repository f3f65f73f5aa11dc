//! File descriptors, of which every connection takes one and every upstream connection another.

use std::path::Path;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::finding::Finding;
use crate::config::model::Config;

/// Kept for what is neither: files, the store, the admin listener, calls to the provider.
const RESERVED: u64 = 128;

/// Takes as many file descriptors as the process may have (the usual soft limit of 1,024 is for
/// programs that use select(2)), and says how many that is.
pub(super) fn raise() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let all = Rlimit { current: limit.maximum, maximum: limit.maximum };
    match setrlimit(Resource::Nofile, all) {
        Ok(()) => limit.maximum.unwrap_or(u64::MAX),
        Err(error) => {
            tracing::warn!(%error, "the soft limit of file descriptors stays");
            limit.current.unwrap_or(u64::MAX)
        }
    }
}

/// How many client connections so many descriptors are enough for, an upstream connection for each
/// included. The others are left for whoever is connected already.
pub(super) fn connections(descriptors: u64) -> usize {
    // With very few there is no good split; the gate stays reachable all the same.
    let left = descriptors.saturating_sub(RESERVED).max(descriptors / 4);
    usize::try_from(left / 2).unwrap_or(usize::MAX)
}

/// A warning when that is less than half of what one of the listeners may take.
pub(super) fn finding(file: &Path, config: &Config, descriptors: u64) -> Option<Finding> {
    let room = connections(descriptors);
    let wanted = config.listeners.iter().map(|listener| listener.limits.max_connections).max();
    wanted.filter(|wanted| wanted / 2 > room).map(|wanted| {
        let cause = format!(
            "a listener may take {wanted} connections, and {descriptors} file descriptors are \
             enough for {room}"
        );
        Finding::warning(file, cause).at_path("listeners").hint(
            "raise the limit (`LimitNOFILE=` of systemd, `ulimit -Hn`), or lower `max_connections`",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_what_is_not_reserved_is_for_clients() {
        for (descriptors, clients) in [
            (1024, 448),
            (128 + 20_000, 10_000),
            (128, 16),
            (40, 5),
            (u64::MAX, usize::MAX / 2 - 64),
        ] {
            assert_eq!(connections(descriptors), clients, "{descriptors}");
        }
    }
}
