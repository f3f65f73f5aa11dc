//! Start and stop: Pingora's server holds the process, a service of ours runs the gate in it.

use std::net::SocketAddr;
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

use crate::admin::{Admin, ListenerState};
use crate::domain::event::Event;
use crate::pipeline::record;
use crate::proxy::serve::Workers;

use super::control::Control;
use super::descriptors;
use super::{Prepared, StartError};

/// How long running requests may take after a stop is asked for.
const DRAIN: Duration = Duration::from_secs(10);

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
        let Self { mut control, assembly } = self;
        let descriptors = descriptors::raise();
        let config = &assembly.config;
        let few = descriptors::finding(&config.source, config, descriptors);
        super::log_warnings(few.as_slice());
        let address = assembly.config.admin.address;
        let admin = std::net::TcpListener::bind(address)
            .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
            .map_err(StartError::Admin)?;
        let admin_address = admin.local_addr().map_err(StartError::Admin)?;
        let listeners = control.adopt(assembly);
        let room = descriptors::connections(descriptors);
        let workers = Workers::start(&control.gate, listeners, control.workers(), room)?;
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

        let conf = ServerConf { threads: 1, ..ServerConf::default() };
        let mut server = Server::new_with_opt_and_conf(None, conf);
        let running = Running { control, workers, admin, stop: stop.clone() };
        server.add_service(GateService(Mutex::new(Some(running))));
        server.run(RunArgs { shutdown_signal: Box::new(stop) });
        Ok(())
    }
}

struct Running {
    control: Control,
    workers: Workers,
    admin: std::net::TcpListener,
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
        let admin = self.admin();
        if let Err(error) = self.control.run(&stop.asked).await {
            tracing::error!(%error, "the gate's control ended");
        }
        tracing::info!("stopping: running requests may finish");
        self.workers.shutdown(DRAIN).await;
        self.control.finish().await;
        if let Err(error) = gate.sessions.write_back().await {
            tracing::error!(%error, "the last activity of sessions was not kept");
        }
        record::note(&gate, gate.clock.now(), Event::Stopped);
        let closed = tokio::task::spawn_blocking(move || gate.audit.close()).await;
        if !matches!(closed, Ok(Ok(()))) {
            tracing::error!("the audit log could not be closed cleanly");
        }
        admin.abort();
        tracing::info!("stopped");
        stop.done.cancel();
    }

    fn admin(&self) -> tokio::task::JoinHandle<()> {
        let state = Arc::clone(&self.control.state);
        let gate = Arc::clone(&self.control.gate);
        let admin = Admin {
            metrics: Arc::clone(&gate.metrics),
            readiness: Arc::new(move || {
                let mut readiness = state.lock().readiness.clone();
                readiness.audit_healthy = gate.audit.healthy();
                readiness
            }),
        };
        let stop = self.stop.done.clone();
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
