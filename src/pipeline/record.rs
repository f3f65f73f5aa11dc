//! The decision goes to the audit log before anything goes to the upstream.
//!
//! INVARIANT: access that can't be recorded is denied.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::audit::{AuditUnavailable, Decided, Stranger, Ticket};
use crate::config::model::AuditDurability;
use crate::domain::clock::Timestamp;
use crate::domain::event::{Event, Occasion};
use crate::identity::bearer::BearerError;
use crate::identity::credential::Credential;
use crate::policy::{Denial, Permit};

use super::authenticate::{NoLongerCounts, still_counts};
use super::gate::Gate;
use super::receive::Arrival;
use super::refusal::Refusal;

/// How long a request waits for its record to be on the disk.
const DISK: Duration = Duration::from_secs(5);

/// Keeps the record of a permit, on the disk where the route asks for that.
pub async fn permit(
    gate: &Gate,
    arrival: &Arrival,
    permit: &Permit,
    caller: &Credential,
    durability: AuditDurability,
) -> Result<(), Refusal> {
    let decided = Decided {
        id: permit.id(),
        occasion: Occasion::Request,
        query: permit.query(),
        decision: permit.decision(),
        session: caller.id(),
    };
    let ticket = gate.audit.append_decision(arrival.at, &decided).map_err(|error| {
        tracing::error!(%error, "access refused because it can't be recorded");
        Refusal::AuditUnavailable
    })?;
    match durability {
        AuditDurability::Buffered => Ok(()),
        AuditDurability::Durable => {
            on_disk(gate, ticket).await?;
            still_true(gate, arrival, permit, caller)
        }
    }
}

/// What was true before a permitted request had to wait has to be true after.
///
/// # Errors
/// What no longer is.
pub fn still_true(
    gate: &Gate,
    arrival: &Arrival,
    permit: &Permit,
    caller: &Credential,
) -> Result<(), Refusal> {
    let snapshot = gate.snapshot.load();
    let times = (gate.clock.now(), Instant::now());
    still_counts(gate, &snapshot, &arrival.connection, caller, times)
        .map_err(|lapsed| lapsed_meanwhile(lapsed, caller))?;
    // The provider may say something else of the user than what was decided on.
    let is_newest = match caller {
        Credential::Session(session) => session.is_current(),
        Credential::Token(_) | Credential::Certificate(_) => true,
    };
    if !is_newest || snapshot.policies.hash() != &permit.decision().policy_set {
        return Err(Refusal::Overtaken);
    }
    Ok(())
}

fn lapsed_meanwhile(lapsed: NoLongerCounts, caller: &Credential) -> Refusal {
    match (lapsed, caller) {
        (NoLongerCounts::Suspended(subject), _) => {
            let principal = Arc::clone(&caller.principal().id);
            Refusal::Suspended { subject, principal }
        }
        (NoLongerCounts::Unconfirmed, _) => Refusal::SessionsUnavailable,
        (NoLongerCounts::Stale, _) => {
            Refusal::IdentityUnconfirmed { principal: Arc::clone(&caller.principal().id) }
        }
        (NoLongerCounts::Ended, Credential::Session(_)) => Refusal::Unauthenticated { stale: true },
        (NoLongerCounts::Ended, Credential::Token(_)) => BearerError::Expired.into(),
        (NoLongerCounts::Ended, Credential::Certificate(_)) => Refusal::CertificateRequired,
    }
}

async fn on_disk(gate: &Gate, ticket: Ticket<'_>) -> Result<(), Refusal> {
    match tokio::time::timeout(DISK, ticket.durable()).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => {
            tracing::error!(%error, "access refused because its record is not on the disk");
            Err(Refusal::AuditUnavailable)
        }
        Err(_) => {
            gate.metrics.audit_denied.inc();
            tracing::error!("access refused because the disk takes too long to keep its record");
            Err(Refusal::AuditUnavailable)
        }
    }
}

pub fn denial(
    gate: &Gate,
    at: Timestamp,
    denial: &Denial,
    caller: &Credential,
    occasion: Occasion,
) {
    let decided = Decided {
        id: denial.id(),
        occasion,
        query: denial.query(),
        decision: denial.decision(),
        session: caller.id(),
    };
    kept(gate.audit.append_decision(at, &decided));
}

/// A refusal for another reason than a policy. Nothing was granted, so a full log changes nothing
/// for the client; it shows in the log's own alarm and in a metric. Those who are signed in are on
/// record each time, but for what they are told when they ask too often, which they can cause as
/// often as they like.
pub fn refusal(gate: &Gate, arrival: &Arrival, refusal: &Refusal) {
    let event = || refused(arrival, refusal);
    let often = matches!(refusal, Refusal::RateLimited { .. } | Refusal::Busy(_));
    if arrival.principal.is_none() || often {
        stranger(gate, arrival, refusal.reason(), event);
    } else {
        gate.audit.append_refusal(arrival.at, &as_stranger(arrival, refusal.reason()), event);
    }
}

fn refused(arrival: &Arrival, refusal: &Refusal) -> Event {
    let head = &arrival.head;
    let host = head
        .headers
        .get(http::header::HOST)
        .map(|host| String::from_utf8_lossy(host.as_bytes()).into_owned())
        .or_else(|| head.uri.authority().map(|authority| authority.as_str().to_owned()));
    Event::Refused {
        id: arrival.id,
        reason: refusal.reason().into(),
        detail: refusal.to_string(),
        status: refusal.status().as_u16(),
        source: source(arrival),
        host: host.map(|host| shortened(host, 255)),
        path: Some(shortened(head.uri.path().to_owned(), 512)),
        method: Some(shortened(head.method.as_str().to_owned(), 32)),
        principal: arrival.principal.as_ref().or(refusal.principal()).cloned(),
    }
}

/// What anybody can cause, as often as he likes: it may neither take the room that permits need
/// nor fill the disk.
pub fn stranger(
    gate: &Gate,
    arrival: &Arrival,
    reason: &'static str,
    event: impl FnOnce() -> Event,
) {
    gate.audit.append_stranger(arrival.at, &as_stranger(arrival, reason), event);
}

fn as_stranger(arrival: &Arrival, reason: &'static str) -> Stranger {
    Stranger { reason, source: source(arrival), begun: arrival.begun }
}

pub fn note(gate: &Gate, at: Timestamp, event: Event) {
    kept(gate.audit.append(at, event));
}

fn kept(outcome: Result<Ticket<'_>, AuditUnavailable>) {
    if let Err(error) = outcome {
        tracing::error!(%error, "an audit record was not kept");
    }
}

pub fn source(arrival: &Arrival) -> IpAddr {
    arrival.client.0
}

/// What a client made up is kept to a bounded length.
fn shortened(mut text: String, longest: usize) -> String {
    if text.len() > longest {
        let mut end = longest;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push('…');
    }
    text
}
