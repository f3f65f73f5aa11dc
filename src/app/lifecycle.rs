//! Start and stop: Pingora's server holds the process, a service of ours runs the gate in it.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use pingora_core::server::configuration::ServerConf;
use pingora_core::server::{
    ListenFds, RunArgs, Server, ShutdownSignal, ShutdownSignalWatch, ShutdownWatch,
};
use pingora_core::services::Service;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::admin::manage::{self, Manager};
use crate::admin::{Admin, ListenerState};
use crate::domain::event::Event;
use crate::pipeline::gate::Gate;
use crate::pipeline::record;
use crate::proxy::pulse::{Pulse, pulse};
use crate::proxy::serve::Workers;
use crate::proxy::sockets::{self, Open};

use super::control::{Control, Until};
use super::handover::Message;
use super::upgrade::Upgrade;
use super::{Prepared, StartError, descriptors, manager};

/// How long clients have to go.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Running requests, after a stop is asked for.
    pub stop: Duration,
    /// Connections of any kind, after a newer process has taken this one's place.
    pub replaced: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { stop: Duration::from_secs(10), replaced: Duration::from_secs(60) }
    }
}

/// Ends a running gate.
#[derive(Clone, Debug)]
pub struct Stop {
    asked: CancellationToken,
    done: CancellationToken,
    signals: bool,
}

impl Stop {
    /// SIGTERM, SIGINT and SIGQUIT stop the gate.
    pub fn on_signals() -> Self {
        Self { asked: CancellationToken::new(), done: CancellationToken::new(), signals: true }
    }

    /// Only [`Stop::stop`] does.
    pub fn on_request() -> Self {
        Self { signals: false, ..Self::on_signals() }
    }

    /// Asks for the end; running requests may finish.
    pub fn stop(&self) {
        self.asked.cancel();
    }
}

/// Tells Pingora's server to end once the gate has drained. Its own way to wait is to sleep for
/// the whole grace period, however early the last request ends.
#[async_trait]
impl ShutdownSignalWatch for Stop {
    async fn recv(&self) -> ShutdownSignal {
        let signals = (
            signal(SignalKind::terminate()),
            signal(SignalKind::interrupt()),
            signal(SignalKind::quit()),
        );
        if let (true, (Ok(mut terminate), Ok(mut interrupt), Ok(mut quit))) =
            (self.signals, signals)
        {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
                _ = quit.recv() => {}
                () = self.asked.cancelled() => {}
            }
            self.asked.cancel();
            tokio::select! {
                () = self.done.cancelled() => {}
                // Whoever asks twice does not want to wait.
                _ = interrupt.recv() => {}
            }
        } else {
            self.done.cancelled().await;
        }
        ShutdownSignal::FastShutdown
    }
}

impl Prepared {
    /// Opens the doors, serves until `stop`, drains, and closes the audit log.
    ///
    /// # Errors
    /// An address that can't be listened on; nothing has been served then.
    pub fn run(self, stop: Stop) -> Result<(), StartError> {
        self.run_with(stop, |_| {})
    }

    /// As [`run`](Self::run); `opened` is told the listeners' names and addresses.
    pub fn run_with(
        self,
        stop: Stop,
        opened: impl FnOnce(&[(Arc<str>, SocketAddr)]),
    ) -> Result<(), StartError> {
        let Self { mut control, assembly, mut doors, admin, store, predecessor, .. } = self;
        let descriptors = descriptors::raise();
        let config = &assembly.config;
        let few = descriptors::finding(&config.source, config, descriptors);
        super::log_warnings(few.as_slice());
        let admin_address = admin.local_addr()?;
        control.config = Some(assembly.config);
        control.seen = assembly.seen;
        let listening = for_successor(&mut doors, &admin)?;
        let room = descriptors::connections(descriptors);
        // Whatever can fail does so before the former process stops accepting.
        let workers = Workers::start(&control.gate, doors, control.workers(), room)?;
        // Clients wait in the sockets until it knows.
        if let Some(predecessor) = &predecessor {
            predecessor.succeed(&control.gate, &control.store)?;
        }
        workers.open();
        let bound = workers.bound_addresses().to_vec();
        control.state.lock().readiness.listeners = bound
            .iter()
            .map(|(name, address)| ListenerState { name: Arc::clone(name), address: *address })
            .collect();
        for (name, address) in &bound {
            tracing::info!(%name, %address, "listening");
        }
        tracing::info!(name = "admin", address = %admin_address, "listening");
        opened(&bound);
        control.upgrade = self.launch.map(|launch| Upgrade::new(launch, store, listening));
        control.predecessor = predecessor;

        let conf = ServerConf { threads: 1, ..ServerConf::default() };
        let mut server = Server::new_with_opt_and_conf(None, conf);
        let running =
            Running { control, workers, admin, patience: self.patience, stop: stop.clone() };
        server.add_service(GateService(Mutex::new(Some(running))));
        server.run(RunArgs { shutdown_signal: Box::new(stop) });
        Ok(())
    }
}

/// All listening sockets once more, with their listeners' names.
fn for_successor(
    doors: &mut [Open],
    admin: &std::net::TcpListener,
) -> std::io::Result<Vec<(String, OwnedFd)>> {
    let mut listening = vec![(sockets::ADMIN.to_owned(), admin.try_clone()?.into())];
    for door in doors {
        let name = &door.listener.name.clone();
        let own = door.for_successor().into_iter();
        listening.extend(own.map(|socket| (name.to_string(), OwnedFd::from(socket))));
    }
    Ok(listening)
}

struct Running {
    control: Control,
    workers: Workers,
    admin: std::net::TcpListener,
    patience: Patience,
    stop: Stop,
}

struct GateService(Mutex<Option<Running>>);

#[async_trait]
impl Service for GateService {
    fn name(&self) -> &'static str {
        "gate"
    }

    async fn start_service(
        &mut self,
        _fds: Option<ListenFds>,
        _shutdown: ShutdownWatch,
        _listeners_per_fd: usize,
    ) {
        if let Some(running) = self.0.get_mut().take() {
            running.run().await;
        }
    }
}

impl Running {
    async fn run(mut self) {
        let stop = self.stop.clone();
        let gate = Arc::clone(&self.control.gate);
        let admin_ends = CancellationToken::new();
        let admin = self.admin(admin_ends.clone());
        drop(self.admin);
        let manager = self.control.config.as_ref().map(|config| config.admin.socket.clone());
        let manager = manager.map(|socket| manage(&gate, &socket, admin_ends.clone()));
        let (control_pulse, heart) = pulse();
        self.control.heart = Some(heart);
        let pulses = self.workers.pulses().iter().cloned().chain([control_pulse]).collect();
        let watchdog = manager::watchdog()
            .map(|every| tokio::spawn(feed_watchdog(every, pulses, manager::alive)));
        self.control.begin();
        let mut until = self.control.run(&stop.asked).await;
        let replaced = matches!(until, Ok(Until::Replaced));
        if replaced {
            // The other process answers there.
            admin_ends.cancel();
            until = tokio::select! {
                () = self.workers.leave() => Ok(Until::Stopped),
                () = tokio::time::sleep(self.patience.replaced) => Ok(Until::Stopped),
                until = self.control.run(&stop.asked) => until,
            };
        } else {
            self.control.state.lock().readiness.stopping = true;
            manager::stopping("running requests may finish");
        }
        if let Err(error) = until {
            tracing::error!(%error, "the gate's control ended");
        }
        if replaced && !stop.asked.is_cancelled() {
            tracing::info!("the newer process serves alone: the last clients have had their time");
        } else {
            tracing::info!("stopping: running requests may finish");
        }
        // Before the workers end: as long as a listening socket is open, clients wait in it.
        self.control.upgrade = None;
        if let Some(predecessor) = &self.control.predecessor {
            predecessor.tell(Message::Stopping);
        }
        self.workers.shutdown(self.patience.stop).await;
        if let Some(predecessor) = &self.control.predecessor {
            // Store and log are here.
            let _ = tokio::time::timeout(self.patience.stop, predecessor.gone()).await;
        }
        // What is being refreshed has a new token, and must keep it; what is given back is gone.
        let under_way =
            async { tokio::join!(gate.sessions.refreshed(), gate.sessions.all_given_back()) };
        let _ = tokio::time::timeout(self.patience.stop, under_way).await;
        self.control.finish().await;
        if let Err(error) = gate.sessions.write_back().await {
            tracing::error!(%error, "the last activity of sessions was not kept");
        }
        let event = if replaced { Event::Replaced } else { Event::Stopped };
        gate.audit.summarise_last(gate.clock.now());
        record::note(&gate, gate.clock.now(), event);
        let closed = tokio::task::spawn_blocking(move || gate.audit.close()).await;
        if !matches!(closed, Ok(Ok(()))) {
            tracing::error!("the audit log could not be closed cleanly");
        }
        if let Some(watchdog) = watchdog {
            watchdog.abort();
        }
        admin.abort();
        manager.flatten().inspect(|manager| manager.abort());
        tracing::info!("stopped");
        // Nobody may have asked: the process may be replaced, or its control have failed.
        stop.asked.cancel();
        stop.done.cancel();
    }

    fn admin(&self, stop: CancellationToken) -> tokio::task::JoinHandle<()> {
        let state = Arc::clone(&self.control.state);
        let gate = Arc::clone(&self.control.gate);
        let admin = Admin {
            metrics: Arc::clone(&gate.metrics),
            readiness: Arc::new(move || {
                let mut readiness = state.lock().readiness.clone();
                readiness.audit_healthy = gate.audit.healthy();
                readiness.memory_short = gate.pressure.admit().is_err();
                readiness
            }),
        };
        let listener = tokio::net::TcpListener::from_std(match self.admin.try_clone() {
            Ok(listener) => listener,
            Err(error) => {
                tracing::error!(%error, "the admin listener is lost");
                return tokio::spawn(std::future::ready(()));
            }
        });
        tokio::spawn(async move {
            match listener {
                Ok(listener) => admin.serve(listener, stop).await,
                Err(error) => tracing::error!(%error, "the admin listener is lost"),
            }
        })
    }
}

/// Answers operators, from the moment on that this process is the one that serves. A gate that
/// can't be asked serves all the same.
fn manage(
    gate: &Arc<Gate>,
    socket: &Path,
    stop: CancellationToken,
) -> Option<tokio::task::JoinHandle<()>> {
    let listener = match manage::listen(socket) {
        Ok(listener) => listener,
        Err(error) => {
            let socket = socket.display();
            tracing::error!(%socket, %error, "nobody can ask the gate for changes: no admin socket");
            return None;
        }
    };
    let manager = Manager::new(Arc::clone(gate), rustix::process::geteuid().as_raw());
    Some(tokio::spawn(async move {
        if let Err(error) = manager.serve(listener, stop).await {
            tracing::error!(%error, "the admin socket is lost");
        }
    }))
}

/// Tells the service manager that the gate is alive, as long as every worker and the control have
/// answered since the last time. A manager that hears nothing restarts the gate.
async fn feed_watchdog(every: Duration, pulses: Vec<Pulse>, alive: impl Fn()) {
    let mut ticks = tokio::time::interval(every);
    loop {
        ticks.tick().await;
        let all = futures_util::future::join_all(pulses.iter().map(Pulse::beat));
        match tokio::time::timeout(every, all).await {
            Ok(_) => alive(),
            Err(_) => tracing::error!("a part of the gate doesn't answer: the watchdog is not fed"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_watchdog_is_fed_only_while_all_answer() {
        let (lively, mut heart) = pulse();
        let (stuck, mut stuck_heart) = pulse();
        tokio::spawn(async move {
            loop {
                heart.answer().await;
            }
        });
        let fed = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&fed);
        let alive = move || {
            count.fetch_add(1, Ordering::Relaxed);
        };
        let every = Duration::from_secs(1);
        tokio::spawn(feed_watchdog(every, vec![lively, stuck], alive));
        tokio::time::sleep(every * 10).await;
        assert_eq!(fed.load(Ordering::Relaxed), 0, "one of two answers");
        tokio::spawn(async move {
            loop {
                stuck_heart.answer().await;
            }
        });
        tokio::time::sleep(every * 10).await;
        assert!(fed.load(Ordering::Relaxed) > 5);
    }
}
