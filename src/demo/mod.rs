//! `wicketgate demo`: the whole gate on one machine, with everything around it.
//!
//! An identity provider, a customer portal, a pumping station, an application of 1997 and a CA
//! of its own, all on the loopback address and all inside this process; and the gate in front of
//! them, the same one that `wicketgate run` starts, with the policies that are shipped.
//!
//! INVARIANT: nothing listens on anything but the loopback address, and nothing is written outside
//! the demo's own folder.

mod authority;
mod client;
mod config;
mod error;
mod folder;
mod gate;
mod gate_host;
mod ics;
mod legacy;
mod portal;
mod provider;
mod serve;
mod terminal;
mod tour;
mod users;
mod world;

use std::path::PathBuf;
use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use self::folder::Folder;
use self::gate::Gate;
use self::terminal::Style;
use self::world::World;

pub use error::DemoError;

/// The port of the gate when nobody asks for another one and it is free.
const USUAL_PORT: u16 = 8443;

#[derive(Clone, Debug, Default)]
pub struct DemoOptions {
    /// Play the story and end, instead of waiting for visitors.
    pub tour: bool,
    /// Write into this folder and leave it there, instead of into a temporary one.
    pub keep: Option<PathBuf>,
    /// The gate's port. Otherwise 8443 when it is free, else one that the system chooses.
    pub port: Option<u16>,
}

/// Runs the demo until Ctrl-C, or the tour until its end. The code is a failure when a step of the
/// tour differs.
///
/// # Errors
/// When the demo can't start or can't write to the terminal.
pub fn run(options: &DemoOptions) -> Result<ExitCode, DemoError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("demo")
        .enable_all()
        .build()
        .map_err(DemoError::Runtime)?;
    runtime.block_on(demonstrate(options))
}

async fn demonstrate(options: &DemoOptions) -> Result<ExitCode, DemoError> {
    let folder = Folder::create(options.keep.as_deref())?;
    let port = options.port.or((!options.tour && is_free(USUAL_PORT)).then_some(USUAL_PORT));
    let world = World::start(folder.path(), port).await?;
    let gate = Gate::start(&world.config).await?;
    let style = Style::detect();
    let port = world.addresses.gate.port();
    let result = if options.tour {
        match world.client_tls() {
            Ok(tls) => tour::play(style, &gate, tls, port).await,
            Err(error) => Err(error),
        }
    } else {
        visitors(style, &gate, &world).await.map(|()| true)
    };
    gate.stop().await;
    let as_told = result?;
    Ok(if as_told { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Shows what there is to see until somebody ends it.
async fn visitors(style: Style, gate: &Gate, world: &World) -> Result<(), DemoError> {
    let records = gate.records();
    terminal::show(&terminal::banner(style, &world.addresses, &world.authority))?;
    let stop = CancellationToken::new();
    let ends = stop.clone();
    let tail = tokio::spawn(terminal::tail(style, records, stop));
    asked_to_end().await;
    ends.cancel();
    terminal::show("\nThe demo has ended.\n")?;
    tail.await.unwrap_or(Ok(()))
}

/// Ctrl-C, what a service manager sends, or the terminal's end: each leaves nothing behind.
async fn asked_to_end() {
    let listen = |kind| async move {
        match signal(kind) {
            Ok(mut signal) => {
                signal.recv().await;
            }
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        () = listen(SignalKind::interrupt()) => {}
        () = listen(SignalKind::terminate()) => {}
        () = listen(SignalKind::hangup()) => {}
    }
}

fn is_free(port: u16) -> bool {
    std::net::TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, port)).is_ok()
}
