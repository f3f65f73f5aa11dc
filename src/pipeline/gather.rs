//! Gathers all that the policies may look at into one question.

use std::sync::Arc;

use crate::domain::clock::Timestamp;
use crate::domain::connection::{ClientAddr, Connection};
use crate::domain::query::{AccessQuery, Action, RequestContext};
use crate::identity::credential::Credential;

use super::normalise::{Normalised, Upgrade};
use super::route::RouteEntry;
use super::snapshot::Snapshot;

/// The action that opening the exchange needs.
pub fn action(asked: &Normalised) -> Action {
    match asked.upgrade {
        Upgrade::WebSocket => Action::WebSocketReceive,
        Upgrade::None => Action::from_method(&asked.request.method),
    }
}

/// Everything that can influence the decision, in one value.
pub fn gather(
    snapshot: &Snapshot,
    connection: &Connection,
    client: ClientAddr,
    at: Timestamp,
    asked: &Normalised,
    route: &RouteEntry,
    caller: &Credential,
) -> AccessQuery {
    let device = snapshot.devices.identify(connection.client_certificate.as_deref(), at);
    AccessQuery {
        principal: Arc::clone(caller.principal()),
        authentication: Arc::clone(caller.authentication()),
        action: action(asked),
        resource: Arc::clone(&route.resource),
        context: RequestContext {
            host: asked.request.authority.host.shared(),
            path: Arc::clone(asked.request.path.decoded()),
            method: Arc::clone(&asked.request.method),
            source: client.0,
            time: at,
            device: device.known().cloned(),
        },
    }
}
