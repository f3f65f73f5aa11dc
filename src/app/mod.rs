//! Puts the parts together: reads the configuration, builds what it says, and runs it.

mod assemble;
mod control;
mod dates;
mod descriptors;
pub mod explain;
mod following;
mod handover;
mod lifecycle;
pub mod logging;
mod manager;
mod memory;
mod reload;
mod upgrade;

use std::path::Path;
use std::sync::Arc;

use crate::audit::{self, AuditError, AuditLog};
use crate::config::finding::{Finding, has_errors};
use crate::domain::clock::Clock;
use crate::domain::event::Event;
use crate::identity::assertion::{Signer, SignerError};
use crate::identity::kept::KeptForms;
use crate::identity::login::{LoginStateError, LoginStates};
use crate::identity::recent::RecentLogins;
use crate::identity::session::{SessionError, Sessions};
use crate::identity::suspension::{SuspensionError, Suspensions};
use crate::metrics::Metrics;
use crate::pipeline::backchannel;
use crate::pipeline::gate::Gate;
use crate::pipeline::live::Live;
use crate::pipeline::pressure::Pressure;
use crate::pipeline::reserved;
use crate::proxy::sockets::{Open, SocketError, Sockets};
use crate::store::{MovableStore, Store, StoreError};
use crate::tls::OwnSecret;

use assemble::{Assembly, assemble};
use control::Control;
use handover::{Launch, Predecessor};
pub use lifecycle::{Patience, Stop};

/// Why the gate does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("the configuration has errors")]
    Findings(Vec<Finding>),
    #[error("the store can't be opened: {0}")]
    Store(#[from] StoreError),
    #[error("the audit log can't be opened: {0}")]
    Audit(#[from] AuditError),
    #[error("{0}")]
    Sessions(#[from] SessionError),
    #[error("{0}")]
    Suspensions(#[from] SuspensionError),
    #[error("{0}")]
    Logins(#[from] LoginStateError),
    #[error("the key for identity assertions can't be had: {0}")]
    Signer(#[from] SignerError),
    #[error("{0}")]
    Listen(#[from] SocketError),
    #[error("the place of the running gate can't be taken: {0}")]
    TakeOver(std::io::Error),
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("the start can't be recorded, so nothing is served: {0}")]
    Unrecorded(String),
}

/// What `check` found.
#[derive(Debug)]
pub struct CheckReport {
    pub findings: Vec<Finding>,
    pub listeners: usize,
    pub routes: usize,
    pub policies: Option<usize>,
}

/// Builds everything that the configuration names, and starts nothing. With `connect` it also asks
/// the store, where that is at servers.
pub fn check(path: &Path, connect: bool) -> CheckReport {
    let metrics = Metrics::new();
    match assemble(path, &metrics, 1, None) {
        Ok(assembly) => {
            let mut findings = assembly.warnings;
            if connect {
                findings.extend(following::try_store(&assembly.config));
            }
            CheckReport {
                listeners: assembly.config.listeners.len(),
                routes: assembly.config.routes.len(),
                policies: Some(assembly.policies.policies().count()),
                findings,
            }
        }
        Err(findings) => CheckReport { findings, listeners: 0, routes: 0, policies: None },
    }
}

/// Runs the gate until it is told to stop by a signal. With `take_over` it first takes the place
/// of the gate that started it.
///
/// # Errors
/// What keeps it from starting. A gate whose place was to be taken then serves on.
pub fn run(path: &Path, take_over: bool, patience: Patience) -> Result<(), StartError> {
    let launch = Launch::of_this_process()?;
    let assembly = load(path)?;
    let (predecessor, sockets, tickets) = if take_over {
        let (predecessor, sockets, tickets) = Predecessor::meet().map_err(StartError::TakeOver)?;
        (Some(predecessor), Sockets::handed_over(sockets)?, tickets)
    } else {
        (None, manager::sockets()?, None)
    };
    let tickets = match tickets {
        Some(state) => OwnSecret::handed_over(state, Clock::System),
        None => OwnSecret::new(Clock::System)?,
    };
    let mut prepared = open(path, assembly, sockets, predecessor, tickets)?;
    prepared.launch = Some(launch);
    prepared.patience = patience;
    prepared.run(Stop::on_signals())
}

/// A gate that is built, with its files and sockets open, and that serves nobody yet.
#[derive(Debug)]
pub struct Prepared {
    control: Control,
    assembly: Assembly,
    doors: Vec<Open>,
    admin: std::net::TcpListener,
    store: MovableStore,
    predecessor: Option<Predecessor>,
    launch: Option<Launch>,
    patience: Patience,
}

/// Builds a gate from its configuration.
///
/// # Errors
/// Every finding at once; an address that can't be listened on; or the store or the audit log that
/// can't be opened.
pub fn prepare(path: &Path) -> Result<Prepared, StartError> {
    open(path, load(path)?, Sockets::default(), None, OwnSecret::new(Clock::System)?)
}

/// What the configuration says, and how many workers there are to serve it.
#[derive(Debug)]
struct Loaded {
    assembly: Assembly,
    metrics: Arc<Metrics>,
    workers: usize,
}

fn load(path: &Path) -> Result<Loaded, StartError> {
    let metrics = Metrics::new();
    let workers = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let assembly = assemble(path, &metrics, workers, None).map_err(StartError::Findings)?;
    debug_assert!(!has_errors(&assembly.warnings));
    log_warnings(&assembly.warnings);
    Ok(Loaded { assembly, metrics, workers })
}

/// Opens the doors first, then the files: what fails on the way has recorded nothing, and has
/// taken nothing from a gate whose place is to be taken.
fn open(
    path: &Path,
    loaded: Loaded,
    mut sockets: Sockets,
    predecessor: Option<Predecessor>,
    tickets: OwnSecret,
) -> Result<Prepared, StartError> {
    let Loaded { mut assembly, metrics, workers } = loaded;
    let tickets = Arc::new(tickets);
    let (listeners, acceptors) = control::listeners(&mut assembly, &tickets);
    let doors = sockets.open(listeners, workers)?;
    let names: Vec<Arc<str>> = doors.iter().map(|door| Arc::clone(&door.listener.name)).collect();
    let admin = sockets.admin(assembly.config.admin.address, &names)?;
    sockets.finish()?;
    if let Some(predecessor) = &predecessor {
        predecessor.claim().map_err(StartError::TakeOver)?;
    }
    let store = MovableStore::of(&assembly.config.store)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut control =
        runtime.block_on(open_files(path, &assembly, store.clone(), metrics, workers, tickets))?;
    control.acceptors = acceptors;
    let (launch, patience) = (None, Patience::default());
    Ok(Prepared { control, assembly, doors, admin, store, predecessor, launch, patience })
}

impl Prepared {
    /// The audit records from now on, a line each.
    pub fn records(&self) -> tokio::sync::broadcast::Receiver<Arc<str>> {
        self.control.gate.audit.subscribe()
    }

    pub fn audit_directory(&self) -> &Path {
        &self.assembly.config.audit.directory
    }
}

fn log_warnings(warnings: &[Finding]) {
    for Finding { file, line, path, cause, hint, .. } in warnings {
        tracing::warn!(file = %file.display(), line, path, hint, "{cause}");
    }
}

async fn open_files(
    path: &Path,
    assembly: &Assembly,
    store: MovableStore,
    metrics: Arc<Metrics>,
    workers: usize,
    tickets: Arc<OwnSecret>,
) -> Result<Control, StartError> {
    let clock = Clock::System;
    let config = &assembly.config;
    let store: Arc<dyn Store> = Arc::new(store);
    let audit = AuditLog::open(&config.audit, Arc::clone(&metrics))?;
    let archive = serde_json::to_vec(assembly.policies.archive()).map_err(std::io::Error::other)?;
    audit::archive_policy_set(&config.audit.directory, assembly.policies.hash(), &archive)?;
    let version = env!("CARGO_PKG_VERSION").to_owned();
    let started = audit.append(clock.now(), Event::Started { version });
    let started = match started {
        Ok(ticket) => ticket.durable().await,
        Err(error) => Err(error),
    };
    started.map_err(|error| StartError::Unrecorded(error.to_string()))?;
    let sessions =
        Sessions::open(Arc::clone(&store), &config.session, clock.clone(), Arc::clone(&metrics))
            .await?;
    let seals = Arc::clone(sessions.seals());
    let suspensions =
        Suspensions::load(Arc::clone(&store), Arc::clone(&seals), clock.clone()).await?;
    let logins = LoginStates::load_or_create(Arc::clone(&store), seals, clock.clone()).await?;
    let logins = Arc::new(logins);
    let recent = RecentLogins::load_or_create(store.as_ref(), clock.clone()).await?;
    let signer = Signer::load_or_create(Arc::clone(&store), clock.clone()).await?;
    let providers = assembly.providers(&logins, &clock, None).map_err(StartError::Findings)?;
    let snapshot = assembly.snapshot(1, providers);
    let gate = Arc::new(Gate {
        snapshot: arc_swap::ArcSwap::from_pointee(snapshot),
        sessions,
        suspensions,
        signer,
        audit,
        metrics,
        live: Live::default(),
        pressure: Pressure::default(),
        recent,
        kept: KeptForms::new(Arc::clone(&store), clock.clone()),
        forged: backchannel::forged(),
        failed_logins: reserved::failed_logins(),
        clock,
    });
    Ok(Control::new(path, gate, store, logins, workers, tickets))
}
