//! A request that was permitted, from the permit to the end of its answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::domain::connection::ClientAddr;
use crate::domain::id::DecisionId;
use crate::identity::credential::Credential;
use crate::metrics::RequestOutcome;
use crate::policy::Permit;
use crate::upstream::{Caller, Pool, UpstreamError};

use super::asker::Asker;
use super::client::ClientConnection;
use super::gate::outcome;
use super::live::{Holding, Watch};
use super::normalise::Normalised;
use super::rate::Quota;
use super::receive::Arrival;
use super::refusal::Refusal;
use super::reply::{self, Recipient};
use super::respond;
use super::route::RouteEntry;
use super::slots::Held;

/// The state that holds a permit.
///
/// INVARIANT: the policy engine alone makes a [`Permit`], and this state is made of one.
#[derive(Debug)]
pub struct Authorized {
    pub(super) permit: Permit,
    pub(super) caller: Credential,
    pub(super) websocket: bool,
    /// What takes the place of the request's body: a form that was kept.
    pub(super) body: Option<Bytes>,
    /// Until whoever outlives the exchange takes them.
    pub(super) held: Option<Held>,
}

#[derive(Debug)]
pub struct Exchange<S> {
    pub(super) id: DecisionId,
    pub(super) begun: Instant,
    pub(super) connection: Arc<ClientConnection>,
    pub(super) client: ClientAddr,
    pub(super) asked: Normalised,
    pub(super) route: Arc<RouteEntry>,
    pub(super) asker: Asker,
    pub(super) quota: Quota,
    /// The head to forward.
    head: Option<Box<http::request::Parts>>,
    pub(super) state: S,
}

impl Exchange<Authorized> {
    pub(super) fn authorized(
        arrival: Arrival,
        asked: Normalised,
        route: Arc<RouteEntry>,
        asker: Asker,
        state: Authorized,
    ) -> Self {
        Self {
            id: arrival.id,
            begun: arrival.begun,
            connection: arrival.connection,
            client: arrival.client,
            asked,
            route,
            asker,
            quota: arrival.quota,
            head: Some(arrival.head),
            state,
        }
    }

    /// The head to forward. It is there once.
    pub fn take_head(&mut self) -> Option<Box<http::request::Parts>> {
        self.head.take()
    }

    /// The kept form that is forwarded in the place of the request's body.
    pub fn take_body(&mut self) -> Option<Bytes> {
        self.state.body.take()
    }

    pub fn pool(&self) -> &Pool {
        self.route.pool()
    }

    /// On whose behalf the upstream is asked.
    pub fn caller(&self, worker: usize) -> Caller<'_> {
        let caller = &self.state.caller;
        Caller { worker, session: *caller.share(), principal: &caller.principal().id }
    }

    pub fn route(&self) -> &Arc<RouteEntry> {
        &self.route
    }

    pub fn decision_id(&self) -> DecisionId {
        self.id
    }

    pub fn permit(&self) -> &Permit {
        &self.state.permit
    }

    pub fn is_websocket(&self) -> bool {
        self.state.websocket
    }

    /// Largest body that the client may send, in bytes.
    pub fn max_body_bytes(&self) -> u64 {
        self.route.config.max_body_bytes
    }

    /// Puts the upstream's answer in the form that the client gets. `switched` says that it is a
    /// 101 to a WebSocket handshake.
    pub fn respond(&self, head: &mut http::response::Parts, switched: bool) {
        respond::respond(head, &self.route, &self.asked.request.authority, switched);
        self.quota.tell(&mut head.headers);
    }

    /// The answer in the place of an upstream that failed.
    pub fn failed(&self, error: UpstreamError) -> http::Response<Bytes> {
        if matches!(error, UpstreamError::BreakerOpen { .. } | UpstreamError::ConnectQueue { .. }) {
            // An open breaker is told of once, when it opens; a crowd is in the metrics.
            tracing::debug!(decision = %self.id, route = %self.route.name(), %error, "not sent");
        } else {
            tracing::warn!(
                decision = %self.id,
                route = %self.route.name(),
                %error,
                "the upstream failed"
            );
        }
        self.short(&Refusal::Upstream(error))
    }

    /// The answer, counted as such, when something about the request turned out wrong after it
    /// was permitted.
    pub fn refused(&self, refusal: &Refusal) -> http::Response<Bytes> {
        self.route.metrics.observe(outcome(refusal), self.begun.elapsed());
        self.short(refusal)
    }

    fn short(&self, refusal: &Refusal) -> http::Response<Bytes> {
        let host = Some(&self.asked.request.authority);
        let to = Recipient { asker: &self.asker, host, id: self.id };
        let mut response = reply::written(&to, refusal);
        self.quota.tell(response.headers_mut());
        response
    }

    /// The places that the exchange holds, for what outlives it.
    pub fn take_held(&mut self) -> Option<Held> {
        self.state.held.take()
    }

    /// Counts the exchange once its answer's head is known, `elapsed` after its own.
    pub fn finished(&self, status: http::StatusCode, elapsed: Duration) {
        let outcome = if status.is_server_error() {
            RequestOutcome::Error
        } else {
            RequestOutcome::Permitted
        };
        self.route.metrics.observe(outcome, elapsed);
    }

    /// Since its head arrived.
    pub fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    /// What can watch over the exchange when it is no longer at hand.
    pub fn holding(&self) -> Holding {
        Holding::of(self)
    }

    /// Registers the exchange as a live connection, to be held to policy, session and device for
    /// as long as it lasts.
    pub fn watch(&self) -> Watch {
        self.holding().watch()
    }
}
