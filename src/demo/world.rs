//! Everything around the gate: certificates, provider and back ends, on ports of this machine.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::DemoError;
use super::authority::{Authority, HOSTS};
use super::config::{self, Addresses, CLIENT_ID, Secrets};
use super::gate_host::GateHost;
use super::ics::Ics;
use super::legacy;
use super::portal::Portal;
use super::provider::{Client, Provider};
use super::serve;
use crate::domain::clock::Clock;

/// The running surroundings. Dropping them ends them.
#[derive(Debug)]
pub struct World {
    pub addresses: Addresses,
    pub authority: Authority,
    /// What the gate is started with.
    pub config: PathBuf,
    stop: CancellationToken,
    _tasks: JoinSet<()>,
    _ports: [Socket; 2],
}

impl World {
    /// Starts everything but the gate, whose port is `port` or one that the system chooses.
    pub async fn start(folder: &Path, port: Option<u16>) -> Result<Self, DemoError> {
        let clock = Clock::System;
        let authority = Authority::create(folder, clock.now())?;
        let (gate_port, gate) = reserve(port.unwrap_or(0))?;
        let (admin_port, admin) = reserve(0)?;
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();

        let (login, at) = serve::bind().await.map_err(DemoError::Listen)?;
        let issuer = format!("https://login.localhost:{}", at.port());
        let secrets = Secrets {
            client: serve::random_token().ok_or(DemoError::Random)?,
            legacy: serve::random_token().ok_or(DemoError::Random)?,
        };
        let client = client(gate.port(), secrets.client.clone());
        let now = clock.now();
        let provider = Provider::new(issuer.clone(), client, clock)?;
        tasks.spawn(provider.run(login, authority.server_config()?, stop.clone()));

        let (listener, portal) = serve::bind().await.map_err(DemoError::Listen)?;
        tasks.spawn(serve::plain(listener, stop.clone(), Portal::default()));
        let (listener, ics) = serve::bind().await.map_err(DemoError::Listen)?;
        let plant = Ics::new(stop.clone());
        tasks.spawn(plant.clone().simulate());
        tasks.spawn(serve::plain(listener, stop.clone(), plant));
        let (listener, archive) = serve::bind().await.map_err(DemoError::Listen)?;
        tasks.spawn(legacy::run(listener, secrets.legacy.clone(), stop.clone()));
        let (listener, gate_host) = serve::bind().await.map_err(DemoError::Listen)?;
        tasks.spawn(serve::plain(listener, stop.clone(), GateHost));

        let addresses = Addresses { gate, admin, issuer, portal, ics, legacy: archive, gate_host };
        let config = config::write(folder, &authority, &addresses, &secrets, now)?;
        let ports = [gate_port, admin_port];
        Ok(Self { addresses, authority, config, stop, _tasks: tasks, _ports: ports })
    }

    /// Trusts the demo's CA.
    pub fn client_tls(&self) -> Result<Arc<rustls::ClientConfig>, DemoError> {
        self.authority.client_config()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn client(port: u16, secret: String) -> Client {
    let at = |path: &str| -> Vec<String> {
        HOSTS.iter().map(|host| format!("https://{host}:{port}{path}")).collect()
    };
    Client {
        id: CLIENT_ID.to_owned(),
        secret,
        redirect_uris: at("/.wicketgate/callback"),
        post_logout_redirect_uris: at("/.wicketgate/signed-out"),
    }
}

/// Takes a port without listening on it. The gate's listeners share it by `SO_REUSEPORT`, and
/// nobody else gets it between now and then.
fn reserve(port: u16) -> Result<(Socket, SocketAddr), DemoError> {
    let wanted = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let taken = || -> std::io::Result<(Socket, SocketAddr)> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
        // Without this, a demo that ended a moment ago would block the port of the next one.
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        socket.bind(&wanted.into())?;
        let at = socket.local_addr()?.as_socket().unwrap_or(wanted);
        Ok((socket, at))
    };
    taken()
        .map_err(|error| if port == 0 { DemoError::Listen(error) } else { DemoError::Port(port) })
}
