//! The gate: what lives longer than a snapshot, and the one door through it.

use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;

use crate::audit::AuditLog;
use crate::domain::clock::Clock;
use crate::domain::connection::Connection;
use crate::domain::event::Occasion;
use crate::identity::assertion::Signer;
use crate::identity::session::Sessions;
use crate::metrics::{Metrics, RequestOutcome, Stage};

use super::authenticate::authenticate;
use super::exchange::{Authorized, Exchange};
use super::gather::gather;
use super::guard;
use super::live::Live;
use super::normalise::{Upgrade, normalise};
use super::prepare::prepare;
use super::receive::{Arrival, receive};
use super::record;
use super::refusal::Refusal;
use super::reply;
use super::reserved;
use super::route::Destination;
use super::snapshot::Snapshot;

#[derive(Debug)]
pub struct Gate {
    pub snapshot: ArcSwap<Snapshot>,
    pub sessions: Arc<Sessions>,
    pub signer: Signer,
    pub audit: AuditLog,
    pub metrics: Arc<Metrics>,
    pub live: Live,
    pub clock: Clock,
}

/// What becomes of a request.
#[derive(Debug)]
pub enum Outcome {
    /// Permitted, recorded and prepared: the one value from which an upstream is reached.
    Forward(Box<Exchange<Authorized>>),
    /// The gate's own answer.
    Reply(http::Response<Bytes>),
}

/// How the stages ended short of a permit.
enum Ended {
    Answered(http::Response<Bytes>),
    Refused(Refusal),
}

impl From<Refusal> for Ended {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl Gate {
    /// Takes a request's head through all stages. The body is not looked at.
    pub async fn admit(
        self: &Arc<Self>,
        connection: &Arc<Connection>,
        head: http::request::Parts,
    ) -> Outcome {
        let mut arrival = receive(self, connection, head); // id, time, snapshot
        match self.stages(&mut arrival).await {
            Ok(exchange) => Outcome::Forward(Box::new(exchange)),
            Err(Ended::Answered(response)) => Outcome::Reply(response),
            Err(Ended::Refused(refusal)) => Outcome::Reply(self.refuse(&arrival, &refusal).await),
        }
    }

    /// The order of the stages. Each takes what the ones before it established.
    async fn stages(
        self: &Arc<Self>,
        arrival: &mut Arrival,
    ) -> Result<Exchange<Authorized>, Ended> {
        let at = arrival.at;
        // One reading of the request, or none: before anything is decided on it.
        let asked = normalise(arrival)?;
        // The connection belongs to the host that is asked for: before its certificate counts.
        guard::server_name(arrival, &asked.request)?;
        // One match of host and path, which all that follows uses.
        let route = match arrival.snapshot.routes.find(&asked.request)? {
            Destination::Route(route) => route,
            Destination::Reserved(path) => {
                let answer = reserved::answer(self, arrival, &asked.request, &path).await;
                return Err(answer.map_or_else(Ended::from, Ended::Answered));
            }
        };
        arrival.route = Some(Arc::clone(&route));
        // What no policy could make right.
        guard::guard(arrival, &asked, &route)?;
        let normalised = arrival.begun.elapsed();
        // Who asks: no principal, no question to the policies.
        let session = authenticate(self, &arrival.head.headers, at).await?.required()?;
        arrival.principal = Some(Arc::clone(&session.principal.id));
        let authenticated = arrival.begun.elapsed();
        // The policies decide on everything that is known.
        let query = gather(&arrival.snapshot, &arrival.connection, at, &asked, &route, &session);
        let permit = arrival.snapshot.policies.decide(arrival.id, query).map_err(|denial| {
            record::denial(self, at, &denial, &session, Occasion::Request);
            if !denial.decision().errors.is_empty() {
                self.metrics.decision_errors.inc();
            }
            Refusal::Denied(Box::new(denial))
        })?;
        let authorised = arrival.begun.elapsed();
        // Access that can't be recorded is denied.
        record::permit(self, at, &permit, &session, route.config.audit).await?;
        let recorded = arrival.begun.elapsed();
        route.metrics.stage(Stage::Normalise, normalised);
        route.metrics.stage(Stage::Authenticate, authenticated.saturating_sub(normalised));
        route.metrics.stage(Stage::Authorise, authorised.saturating_sub(authenticated));
        route.metrics.stage(Stage::Record, recorded.saturating_sub(authorised));
        // The head is rewritten last: what the gate adds, nothing strips.
        let (empty, ()) = http::Request::new(()).into_parts();
        let head = std::mem::replace(&mut arrival.head, empty);
        let accepts = reply::Asker::of(&head);
        let head = prepare(self, arrival, head, &asked, &route, &session)?;
        let websocket = asked.upgrade == Upgrade::WebSocket;
        Ok(Exchange::authorized(
            Arc::clone(self),
            arrival,
            Arc::new(asked),
            route,
            accepts,
            Authorized { permit, session, head: Some(head), websocket },
        ))
    }

    /// Refuses what the listener itself found wrong, before any stage: with an id, on record.
    pub async fn refuse_early(
        &self,
        connection: &Arc<Connection>,
        head: http::request::Parts,
        refusal: &Refusal,
    ) -> http::Response<Bytes> {
        self.refuse(&receive(self, connection, head), refusal).await
    }

    /// Answers for a refusal: recorded, counted, in the form that the client understands.
    async fn refuse(&self, arrival: &Arrival, refusal: &Refusal) -> http::Response<Bytes> {
        // A denial and a failed login have a record of their own.
        if !matches!(refusal, Refusal::Denied(_) | Refusal::Login(_)) {
            record::refusal(self, arrival, refusal);
        }
        let outcome = outcome(refusal);
        match &arrival.route {
            Some(route) => route.metrics.observe(outcome, arrival.begun.elapsed()),
            None => self.metrics.unrouted().observe(outcome, arrival.begun.elapsed()),
        }
        reply::refused(self, arrival, refusal).await
    }
}

pub(super) fn outcome(refusal: &Refusal) -> RequestOutcome {
    match refusal {
        Refusal::Denied(_) => RequestOutcome::Denied,
        Refusal::Unauthenticated { .. } => RequestOutcome::Unauthenticated,
        Refusal::Login(error) if error.status() >= 500 => RequestOutcome::Error,
        Refusal::SessionsUnavailable
        | Refusal::AuditUnavailable
        | Refusal::Overtaken
        | Refusal::Internal
        | Refusal::Upstream(_) => RequestOutcome::Error,
        _ => RequestOutcome::Refused,
    }
}
