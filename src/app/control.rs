//! The one task that changes a running gate: reload (`reload`), the end of sessions, housekeeping.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::admin::Readiness;
use crate::config::finding::Finding;
use crate::config::model::{Config, ListenerRole};
use crate::config::watch::{self, Fingerprint, Watcher};
use crate::domain::clock::Timestamp;
use crate::domain::event::Event;
use crate::domain::id::DecisionId;
use crate::identity::login::LoginStates;
use crate::identity::session::Ended;
use crate::pipeline::gate::Gate;
use crate::pipeline::receive::random_u128;
use crate::pipeline::{record, revocation, suspended};
use crate::proxy::pulse::Heart;
use crate::proxy::serve::{Listener, Role};
use crate::store::{Space, Store};
use crate::tls::{Acceptor, OwnSecret};

use super::assemble::Assembly;
use super::dates::Dates;
use super::following;
use super::handover::{Message, Predecessor, Successor};
use super::manager;
use super::memory::Budget;
use super::reload::{Building, built};
use super::upgrade::Upgrade;

const HOUSEKEEPING: Duration = Duration::from_secs(30);

/// How long the end of a session that the audit log had no room for waits for the next try.
const RECORD_AGAIN: Duration = Duration::from_millis(100);

/// How often that is tried when the gate stops.
const LAST_TRIES: usize = 20;

/// What is known about a running gate besides its snapshot.
#[derive(Debug)]
pub struct Control {
    pub gate: Arc<Gate>,
    pub state: Arc<Mutex<State>>,
    /// Giving the place to a newer process; not where the gate is part of another program.
    pub upgrade: Option<Upgrade>,
    /// The process that serves in this one's place.
    pub successor: Option<Successor>,
    /// The process that this one replaced, until it has ended.
    pub predecessor: Option<Predecessor>,
    pub heart: Option<Heart>,
    pub(super) path: PathBuf,
    pub store: Arc<dyn Store>,
    pub(super) logins: Arc<LoginStates>,
    workers: usize,
    pub acceptors: Acceptors,
    /// What their session tickets are sealed with, where they share nothing with other gates.
    pub tickets: Arc<OwnSecret>,
    pub config: Option<Config>,
    /// The files that it was made from, as they were then.
    pub seen: Fingerprint,
    pub(super) generation: u64,
    /// A reload under way.
    pub(super) building: Option<Building>,
    pub(super) dates: Dates,
    pub(super) upkeep: JoinSet<()>,
    memory: Budget,
    tended: HashMap<usize, AbortHandle>,
    endings: Option<UnboundedReceiver<Ended>>,
    /// Ends of sessions that the audit log has no record of yet. More may end at once than its
    /// queue takes.
    unrecorded: VecDeque<(Timestamp, Event)>,
}

/// What `/readyz` tells.
#[derive(Debug)]
pub struct State {
    pub readiness: Readiness,
}

/// What terminates TLS, by listener.
pub type Acceptors = Vec<(Arc<str>, Arc<Acceptor>)>;

/// The listeners of an assembly, and their acceptors, whose certificates a reload replaces.
pub fn listeners(assembly: &mut Assembly, own: &Arc<OwnSecret>) -> (Vec<Listener>, Acceptors) {
    let mut tls = std::mem::take(&mut assembly.tls).into_iter();
    let mut acceptors = Vec::new();
    let listeners = assembly.config.listeners.iter().filter_map(|listener| {
        let role = match &listener.role {
            ListenerRole::RedirectToHttps { port } => Role::RedirectToHttps { port: *port },
            ListenerRole::Tls(_) => {
                let (name, tls) = tls.next()?;
                let acceptor = Acceptor::new(Arc::clone(&name), tls, Arc::clone(own));
                let acceptor = Arc::new(acceptor);
                acceptors.push((name, Arc::clone(&acceptor)));
                Role::Tls(acceptor)
            }
        };
        Some(Listener {
            name: Arc::clone(&listener.name),
            address: listener.address,
            proxy_protocol: listener.proxy_protocol.clone(),
            source: Arc::clone(&listener.source),
            limits: listener.limits.clone(),
            role,
        })
    });
    (listeners.collect(), acceptors)
}

impl Control {
    pub fn new(
        path: &Path,
        gate: Arc<Gate>,
        store: Arc<dyn Store>,
        logins: Arc<LoginStates>,
        workers: usize,
        tickets: Arc<OwnSecret>,
    ) -> Self {
        let readiness = Readiness {
            listeners: Vec::new(),
            configuration_generation: 1,
            last_reload: None,
            refused_certificates: Vec::new(),
            audit_healthy: true,
            store_healthy: true,
            stopping: false,
            identity_providers_reachable: reachable(&gate),
            memory_short: false,
        };
        Self {
            endings: gate.sessions.endings(),
            gate,
            state: Arc::new(Mutex::new(State { readiness })),
            upgrade: None,
            successor: None,
            predecessor: None,
            heart: None,
            path: path.to_owned(),
            store,
            logins,
            workers,
            acceptors: Vec::new(),
            tickets,
            config: None,
            seen: Fingerprint::default(),
            generation: 1,
            building: None,
            dates: Dates::default(),
            upkeep: JoinSet::new(),
            memory: Budget::default(),
            tended: HashMap::new(),
            unrecorded: VecDeque::new(),
        }
    }

    pub fn workers(&self) -> usize {
        self.workers
    }

    /// With the process that is about to take this one's place, or has given it its own. What ends
    /// may leave its number to others.
    pub(super) fn share_memory(&self) {
        let newer = self.upgrade.as_ref().and_then(Upgrade::process);
        let former = || self.predecessor.as_ref().and_then(Predecessor::process);
        self.memory.share_with(newer.or_else(former));
    }

    /// What a running gate does besides serving, once.
    pub fn begin(&mut self) {
        self.share_memory();
        let sessions = Arc::clone(&self.gate.sessions);
        self.upkeep.spawn(async move { sessions.maintain().await });
        following::begin(&self.gate.sessions);
        self.applied();
        self.upkeep.spawn(suspended::follow(Arc::clone(&self.gate)));
        self.upkeep.spawn(revocation::follow(Arc::clone(&self.gate)));
        self.upkeep.spawn(self.memory.clone().watch(Arc::clone(&self.gate)));
        manager::ready(&self.status());
    }

    /// Runs until it is stopped, or another process has taken the gate's place. May then be called
    /// again, to go on until it is stopped.
    pub async fn run(&mut self, stop: &CancellationToken) -> std::io::Result<Until> {
        let mut hangups = signal(SignalKind::hangup())?;
        let mut upgrades = signal(SignalKind::user_defined2())?;
        let mut watcher = self.watcher();
        let mut housekeeping = tokio::time::interval(HOUSEKEEPING);
        loop {
            let dates = self.until_dates();
            tokio::select! {
                () = stop.cancelled() => return Ok(Until::Stopped),
                () = answer(self.heart.as_mut()) => {}
                Some(()) = upgrades.recv() => self.begin_upgrade(),
                said = attempted(self.upgrade.as_mut()) => {
                    if self.go_on_with_upgrade(said).await {
                        return Ok(Until::Replaced);
                    }
                    self.share_memory();
                }
                said = succeeded(self.successor.as_mut()) => {
                    if !self.heed_successor(said) {
                        return Ok(Until::Stopped);
                    }
                }
                Some(ended) = next(self.endings.as_mut()) => self.session_ended(&ended),
                () = tokio::time::sleep(RECORD_AGAIN), if !self.unrecorded.is_empty() => {
                    self.try_record_endings();
                }
                Some(()) = hangups.recv() => {
                    tracing::info!("SIGHUP: reading the configuration again");
                    self.begin_reload(&mut watcher);
                }
                () = changed(&mut watcher) => {
                    tracing::info!("a file changed: reading the configuration again");
                    self.begin_reload(&mut watcher);
                }
                built = built(self.building.as_mut()) => self.finish_reload(built, &mut watcher),
                () = tokio::time::sleep(dates) => self.heed_dates(&mut watcher),
                () = gone(self.predecessor.as_ref()) => {
                    self.predecessor = None;
                    self.share_memory();
                }
                _ = housekeeping.tick() => self.look_after().await,
            }
        }
    }

    fn watcher(&self) -> Option<Watcher> {
        let paths = self.config.as_ref().map(watch::paths).unwrap_or_default();
        Watcher::new(paths, self.seen.clone())
            .inspect_err(|error| {
                tracing::error!(%error, "files can't be watched; reload with SIGHUP");
            })
            .ok()
    }

    /// Connections that live under the session are cut at once.
    fn session_ended(&mut self, ended: &Ended) {
        self.gate.live.session_ended(&ended.id);
        self.gate.snapshot.load().bearers.forget(&ended.id);
        if ended.elsewhere {
            return;
        }
        if let Some(predecessor) = &self.predecessor {
            predecessor.tell(Message::ended(ended.id, ended.reason));
        }
        let now = self.gate.clock.now();
        let event = Event::SessionEnded {
            id: DecisionId::new(now, random_u128()),
            session: ended.id.short(),
            principal: Arc::clone(&ended.principal.id),
            reason: ended.reason,
        };
        self.unrecorded.push_back((now, event));
        self.try_record_endings();
    }

    /// Records the ends of sessions in their order, as many as the audit log has room for.
    fn try_record_endings(&mut self) {
        while let Some((at, event)) = self.unrecorded.front() {
            if self.gate.audit.append(*at, event.clone()).is_err() {
                return;
            }
            self.unrecorded.pop_front();
        }
    }
    /// Records the ends of sessions that are left when all requests are over.
    pub async fn finish(&mut self) {
        while let Some(Ok(ended)) = self.endings.as_mut().map(UnboundedReceiver::try_recv) {
            self.session_ended(&ended);
        }
        for _ in 0..LAST_TRIES {
            if self.unrecorded.is_empty() {
                return;
            }
            tokio::time::sleep(RECORD_AGAIN).await;
            self.try_record_endings();
        }
        let sessions = self.unrecorded.len();
        if sessions > 0 {
            tracing::error!(sessions, "the ends of sessions were not recorded");
        }
    }

    /// A line for the service manager.
    pub fn status(&self) -> String {
        let (routes, generation) =
            (self.gate.snapshot.load().routes.entries().count(), self.generation);
        let refused = match self.dates.refused.as_slice() {
            [] => "",
            _ => "; a renewed certificate is refused",
        };
        format!("serving {routes} routes, configuration {generation}{refused}")
    }

    /// Says what is served now, and looks after its upstreams.
    pub(super) fn applied(&mut self) {
        let snapshot = self.gate.snapshot.load_full();
        let now = self.gate.clock.now();
        let hash = snapshot.policies.hash();
        self.memory.set(self.config.as_ref().and_then(|config| config.limits.memory));
        let metrics = &self.gate.metrics;
        metrics.config_generation.set(i64::try_from(snapshot.generation).unwrap_or(i64::MAX));
        metrics.last_reload_success.set(now.as_seconds());
        metrics.policy_set_info(hash);
        metrics.forget_certificates();
        for (_, acceptor) in &self.acceptors {
            for term in acceptor.terms() {
                metrics.certificate_expiry(&term.file, term.ends);
            }
        }
        self.state.lock().readiness.configuration_generation = snapshot.generation;
        record::note(
            &self.gate,
            now,
            Event::ConfigurationLoaded {
                generation: snapshot.generation,
                policy_set: hash.to_string(),
            },
        );
        tracing::info!(generation = snapshot.generation, policy_set = %hash, "configuration applied");
        let mut tended = HashMap::new();
        for entry in snapshot.routes.entries() {
            let key = entry.upstream_key();
            let known = self.tended.remove(&key);
            tended.insert(key, known.unwrap_or_else(|| self.upkeep.spawn(entry.tend(metrics))));
        }
        for (_, gone) in self.tended.drain() {
            gone.abort();
        }
        self.tended = tended;
        let mut shown: HashMap<&str, HashSet<String>> = HashMap::new();
        for entry in snapshot.routes.entries() {
            shown.entry(entry.name()).or_default().extend(entry.endpoints());
        }
        metrics.forget_upstreams(|route, endpoint| {
            let endpoints = shown.get(route);
            endpoints.is_some_and(|of| endpoint.is_none_or(|endpoint| of.contains(endpoint)))
        });
        self.tell_dates();
    }

    async fn look_after(&mut self) {
        while self.upkeep.try_join_next().is_some() {}
        self.gate.audit.summarise(self.gate.clock.now());
        for (_, acceptor) in &self.acceptors {
            acceptor.refresh_tickets();
        }
        if let Err(error) = self.gate.signer.tend(self.gate.clock.now()).await {
            tracing::warn!(%error, "the keys of assertions are not changed; the next try is in {HOUSEKEEPING:?}");
        }
        // One at servers is heard all the time, and isn't waited for here.
        let store_healthy = if self.gate.sessions.is_shared() {
            self.gate.sessions.is_confirmed(Instant::now())
        } else {
            self.store.get(Space::Keys, b"health").await.is_ok()
        };
        let reachable = reachable(&self.gate);
        let mut state = self.state.lock();
        state.readiness.store_healthy = store_healthy;
        state.readiness.identity_providers_reachable = reachable;
    }
}

/// Why [`Control::run`] returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    Stopped,
    Replaced,
}

/// What no reload can change.
pub fn same_process(old: &Config, new: &Config) -> Result<(), Vec<Finding>> {
    const RESTART: &str = "restart the gate, or take the change back";
    const UPGRADE: &str = "upgrade in place (SIGUSR2, see docs/operating.md) or restart the gate; \
                           or take the change back";
    let mut findings = Vec::new();
    let mut must_stay = |same: bool, section: &str, hint: &str| {
        if !same {
            findings.push(
                Finding::error(&new.source, "this can't change while the gate runs")
                    .at_path(section)
                    .hint(hint),
            );
        }
    };
    let doors = |config: &Config| -> Vec<_> {
        let listeners = config.listeners.iter();
        listeners
            .map(|listener| {
                let redirect = match &listener.role {
                    ListenerRole::Tls(_) => None,
                    ListenerRole::RedirectToHttps { port } => Some(*port),
                };
                let source = (listener.proxy_protocol.clone(), listener.source.clone());
                let limits = listener.limits.clone();
                (listener.name.clone(), listener.address, redirect, source, limits)
            })
            .collect()
    };
    must_stay(doors(old) == doors(new), "listeners", UPGRADE);
    must_stay(old.admin == new.admin, "admin", UPGRADE);
    must_stay(old.audit == new.audit, "audit", RESTART);
    must_stay(old.store == new.store, "store", RESTART);
    must_stay(old.session.keys == new.session.keys, "session.key", RESTART);
    if findings.is_empty() { Ok(()) } else { Err(findings) }
}

/// Which identity providers answered when they were last asked.
fn reachable(gate: &Gate) -> BTreeMap<Arc<str>, Option<bool>> {
    let snapshot = gate.snapshot.load();
    snapshot.providers.iter().map(|one| (Arc::clone(one.name()), one.is_reachable())).collect()
}

async fn next(endings: Option<&mut UnboundedReceiver<Ended>>) -> Option<Ended> {
    match endings {
        Some(endings) => endings.recv().await,
        None => std::future::pending().await,
    }
}

async fn answer(heart: Option<&mut Heart>) {
    match heart {
        Some(heart) => heart.answer().await,
        None => std::future::pending().await,
    }
}

async fn attempted(upgrade: Option<&mut Upgrade>) -> Option<Message> {
    match upgrade {
        Some(upgrade) => upgrade.says().await,
        None => std::future::pending().await,
    }
}

async fn succeeded(successor: Option<&mut Successor>) -> Option<Message> {
    match successor {
        Some(successor) => successor.says().await,
        None => std::future::pending().await,
    }
}

async fn gone(predecessor: Option<&Predecessor>) {
    match predecessor {
        Some(predecessor) => predecessor.gone().await,
        None => std::future::pending().await,
    }
}

async fn changed(watcher: &mut Option<Watcher>) {
    match watcher {
        Some(watcher) => watcher.changed().await,
        None => std::future::pending().await,
    }
}
