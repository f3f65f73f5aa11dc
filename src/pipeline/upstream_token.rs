//! The access token that an application gets.

use crate::config::model::UpstreamToken;
use crate::domain::canonical::Host;

use super::snapshot::Snapshot;

/// Whether an application on this host is to get a token of those who sign in with this provider:
/// only then is it kept with their sessions.
pub fn is_wanted(snapshot: &Snapshot, host: &Host, provider: &str) -> bool {
    snapshot.routes.entries().any(|route| {
        let route = &route.config;
        route.accepted.session
            && route.accepted.upstream_token != UpstreamToken::Drop
            && route.host == *host
            && route.takes(provider)
    })
}
