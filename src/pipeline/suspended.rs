//! What is done about those who are suspended: no request, no sign-in, no open connection.
//!
//! A user's sessions end with the suspension, and a tenant's with it: who is let in again signs in
//! again. A device has none of its own; requests from it are refused for as long as it lasts.
//!
//! INVARIANT: the suspension holds in this process before anything is ended, so whatever begins
//! meanwhile is refused.

use std::sync::Arc;
use std::time::Duration;

use crate::domain::clock::Timestamp;
use crate::domain::connection::Connection;
use crate::domain::event::EndReason;
use crate::domain::principal::Principal;
use crate::domain::suspension::Subject;
use crate::identity::session::SessionError;
use crate::identity::suspension::Followed;

use super::gate::Gate;
use super::refusal::Refusal;

/// How often it is looked whether another process has suspended or restored somebody. With the
/// second that it takes to close a connection it makes two.
const LOOK: Duration = Duration::from_secs(1);

/// Looks between two that read everything.
const ALL_EVERY: u32 = 30;

/// # Errors
/// `Suspended`.
pub fn refuse(
    gate: &Gate,
    connection: &Connection,
    principal: &Principal,
    at: Timestamp,
) -> Result<(), Refusal> {
    match find(gate, connection, principal, at) {
        None => Ok(()),
        Some(subject) => Err(Refusal::Suspended { subject, principal: Arc::clone(&principal.id) }),
    }
}

/// Whether a principal on a connection is shut out. One load, when nobody is.
pub fn find(
    gate: &Gate,
    connection: &Connection,
    principal: &Principal,
    at: Timestamp,
) -> Option<Subject> {
    let suspensions = &gate.suspensions;
    if suspensions.is_empty() {
        return None;
    }
    if let Some(subject) = suspensions.principal(principal) {
        return Some(subject);
    }
    let certificate = connection.client_certificate.as_deref().filter(|_| suspensions.any_device());
    let device = certificate.and_then(|certificate| {
        gate.snapshot.load().devices.identify(Some(certificate), at).known().cloned()
    });
    device.filter(|device| suspensions.device(&device.id)).map(|_| Subject::Device)
}

/// Ends what a new suspension forbids, as far as this process has it in memory.
pub fn enforce(gate: &Gate) {
    let suspended = |principal: &Principal| gate.suspensions.principal(principal).is_some();
    gate.sessions.end_cached(&|session| suspended(&session.principal), EndReason::Suspended);
    gate.live.wake_all();
}

/// Ends what the store has of sessions that a suspension forbids; how many they were.
///
/// # Errors
/// The store failed. Who is suspended is refused all the same.
pub async fn end_stored(gate: &Gate, subject: Subject, name: &str) -> Result<usize, SessionError> {
    match subject {
        Subject::User => gate.sessions.end_user(name, EndReason::Suspended).await,
        Subject::Tenant => {
            let of = |principal: &Principal| principal.tenant.as_deref() == Some(name);
            gate.sessions.end_stored(&|session| of(&session.principal), EndReason::Suspended).await
        }
        Subject::Device => Ok(0),
    }
}

/// Runs for as long as the process: holds to what is suspended elsewhere, and puts back what the
/// store has lost.
pub async fn follow(gate: Arc<Gate>) {
    let mut every = tokio::time::interval(LOOK);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut failing, mut looks, mut gaps) = (false, 0u32, gate.sessions.gaps());
    loop {
        every.tick().await;
        // Read first: a gap that comes meanwhile is for the next look.
        let now = gate.sessions.gaps();
        let anew = looks >= ALL_EVERY || now != gaps;
        let followed = gate.suspensions.follow(anew).await;
        if followed.is_err() != failing {
            failing = followed.is_err();
            match &followed {
                Ok(_) => tracing::info!("suspensions can be read again"),
                Err(error) => {
                    tracing::error!(%error, "what is known of suspensions goes on to hold");
                }
            }
        }
        let Ok(Followed { changed, put_back }) = followed else { continue };
        (looks, gaps) = (if anew { 0 } else { looks + 1 }, now);
        if changed {
            enforce(&gate);
        }
        for (subject, name) in put_back {
            // With the suspension the store has lost the end of the sessions.
            if let Err(error) = end_stored(&gate, subject, &name).await {
                tracing::warn!(%error, "sessions of somebody suspended are left in the store");
            }
        }
    }
}
