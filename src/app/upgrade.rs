//! Control's part in an upgrade: the order of the steps, and the way back.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use crate::audit;
use crate::domain::id::SessionId;
use crate::store::{self, MovableStore};

use super::control::Control;
use super::handover::{Attempt, Launch, Message};
use super::manager;

/// Until a new process has to ask for the store. It reads its configuration and binds by then.
const PREPARES: Duration = Duration::from_secs(60);

/// Until it has to serve after that. Requests wait meanwhile, those for a record on the disk for
/// five seconds at most.
const OPENS: Duration = Duration::from_secs(10);

/// What an upgrade needs, and how far it is.
#[derive(Debug)]
pub struct Upgrade {
    launch: Launch,
    store: MovableStore,
    /// Listening sockets, by their listeners' names.
    listening: Vec<(String, OwnedFd)>,
    attempt: Option<(Attempt, tokio::time::Instant)>,
}

impl Upgrade {
    pub fn new(launch: Launch, store: MovableStore, listening: Vec<(String, OwnedFd)>) -> Self {
        Self { launch, store, listening, attempt: None }
    }

    /// The new process, while it is being started.
    pub fn process(&self) -> Option<u32> {
        self.attempt.as_ref().map(|(attempt, _)| attempt.process())
    }

    /// What the new process says next; `None` when it ended, or takes too long. Safe to drop and
    /// call again.
    pub async fn says(&mut self) -> Option<Message> {
        match &mut self.attempt {
            Some((attempt, deadline)) => {
                tokio::time::timeout_at(*deadline, attempt.says()).await.ok().flatten()
            }
            None => std::future::pending().await,
        }
    }
}

/// Store and log on their way.
struct Cargo {
    store: store::Moving,
    log: audit::Moving,
}

impl Control {
    /// SIGUSR2: starts a newer process.
    pub(super) fn begin_upgrade(&mut self) {
        let Some(upgrade) = &mut self.upgrade else {
            tracing::warn!("SIGUSR2: there is nothing that this process could give to a newer one");
            return;
        };
        if upgrade.attempt.is_some() {
            tracing::warn!("SIGUSR2: a newer process is being started already");
            return;
        }
        if self.predecessor.as_ref().is_some_and(|predecessor| !predecessor.is_gone()) {
            tracing::error!(
                "upgrade refused: the former process still serves its last connections; try again later"
            );
            return;
        }
        let now = self.gate.clock.now();
        if let Some(worse) = self.dates.refused.iter().find(|one| one.is_worse(now)) {
            let why = format!(
                "the newer process would serve a certificate out of date: {}",
                worse.finding
            );
            tracing::error!("upgrade refused, this process serves on: {why}");
            manager::status(&format!("the last upgrade was refused: {why}"));
            return;
        }
        tracing::info!("SIGUSR2: starting a newer process");
        match Attempt::start(&upgrade.launch) {
            Ok(attempt) => {
                upgrade.attempt = Some((attempt, tokio::time::Instant::now() + PREPARES));
                self.share_memory();
            }
            Err(error) => {
                tracing::error!(%error, "upgrade refused: the newer process can't be started");
            }
        }
    }

    /// The new process said something, or ended. True: it serves now.
    pub(super) async fn go_on_with_upgrade(&mut self, said: Option<Message>) -> bool {
        let Some(upgrade) = &mut self.upgrade else { return false };
        let Some((mut attempt, deadline)) = upgrade.attempt.take() else { return false };
        match said {
            Some(hello) if Attempt::understands(&hello) => {
                match attempt.offer(&upgrade.listening, self.tickets.state()) {
                    Ok(()) => upgrade.attempt = Some((attempt, deadline)),
                    Err(error) => refuse(attempt, &error.to_string()).await,
                }
                false
            }
            Some(Message::Claim) => self.hand_over(attempt).await,
            Some(Message::Hello { version, .. }) => {
                refuse(
                    attempt,
                    &format!("version {version} hands over otherwise: restart the gate"),
                )
                .await;
                false
            }
            _ => {
                refuse(attempt, "it can't serve").await;
                false
            }
        }
    }

    /// From here to the end nothing is written here: requests that need it wait.
    async fn hand_over(&mut self, mut attempt: Attempt) -> bool {
        if let Err(error) = self.gate.sessions.write_back().await {
            tracing::warn!(%error, "the last activity of sessions was not kept");
        }
        let Some(cargo) = self.release().await else {
            refuse(attempt, "store and log can't be given away").await;
            return false;
        };
        let serves = match attempt.tell(&Message::Released) {
            Ok(()) => tokio::time::timeout(OPENS, attempt.says()).await,
            Err(_) => Ok(None),
        };
        match (serves, attempt.streams()) {
            (Ok(Some(Message::Serving)), Some((store, records))) => {
                self.gate.sessions.has_peer(true);
                cargo.store.there(store);
                cargo.log.there(records);
                let process = attempt.process();
                manager::succeeded_by(process);
                tracing::info!(process, "a newer process serves; this one has its clients go");
                self.successor = Some(attempt.succeeded());
                // The sockets are the other's.
                self.upgrade = None;
                true
            }
            _ => {
                refuse(attempt, "it could not open the store or the audit log").await;
                self.take_back(cargo).await;
                false
            }
        }
    }

    async fn release(&self) -> Option<Cargo> {
        let store = self.upgrade.as_ref()?.store.release().await?;
        let gate = Arc::clone(&self.gate);
        match tokio::task::spawn_blocking(move || gate.audit.release()).await {
            Ok(Some(log)) => Some(Cargo { store, log }),
            _ => {
                if let Err(error) = store.back().await {
                    tracing::error!(%error, "the store is lost: nothing is served");
                }
                None
            }
        }
    }

    async fn take_back(&self, Cargo { store, log }: Cargo) {
        match store.back().await {
            // It may have served for a moment, when its word came too late.
            Ok(()) => {
                if let Err(error) = self.gate.sessions.recheck().await {
                    tracing::error!(%error, "what the newer process ended may live on here");
                }
            }
            Err(error) => tracing::error!(%error, "the store is lost: nothing is served"),
        }
        let back = tokio::task::spawn_blocking(move || log.back()).await;
        match back {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "the audit log is lost: nothing is served"),
            Err(error) => tracing::error!(%error, "the audit log is lost: nothing is served"),
        }
    }

    /// What the process in this one's place says. False: there is no more time.
    pub(super) fn heed_successor(&mut self, said: Option<Message>) -> bool {
        match said {
            Some(Message::Ended { session, reason }) => {
                self.gate.sessions.ended_elsewhere(SessionId(session), reason);
                true
            }
            Some(Message::Stopping) => false,
            Some(_) => true,
            None => {
                tracing::error!("the newer process is gone, and with it sessions and audit log");
                false
            }
        }
    }
}

async fn refuse(attempt: Attempt, why: &str) {
    let ended = tokio::task::spawn_blocking(move || attempt.abandon()).await;
    let ended = ended.unwrap_or_else(|error| error.to_string());
    tracing::error!("upgrade refused, this process serves on: {why} ({ended})");
    manager::status(&format!("the last upgrade was refused: {why}"));
}
