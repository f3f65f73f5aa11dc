//! The workers: one thread, one runtime and one socket of every listener for each core.
//!
//! A connection lives and dies on the worker that accepted it, together with the upstream
//! connections that serve it; workers share nothing but the gate.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use hyper::service::service_fn;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::accept::{self, Place, Places, Room};
use super::activity::Activity;
use super::connection::{self, End, Protocol};
use super::entry::{self, Entry, Refused};
use super::handshakes::Handshakes;
use super::http::{self, Context};
use super::pace::Pace;
use super::redirect;
use super::seats::{Seat, Seats};
use crate::config::model;
use crate::domain::canonical::Host;
use crate::domain::connection::{Connection, PeerAddr, SourceAddr, SourceRules};
use crate::pipeline::client::ClientConnection;
use crate::pipeline::gate::Gate;
use crate::tls::{Acceptor, Alpn, Turns};

/// What is done with the connections of a listener.
#[derive(Clone, Debug)]
pub enum Role {
    /// Terminates TLS and serves the routes. The acceptor is shared with whoever reloads it.
    Tls(Arc<Acceptor>),
    /// Answers 308 to https at this port.
    RedirectToHttps { port: u16 },
}

/// A listener to be started.
#[derive(Clone, Debug)]
pub struct Listener {
    pub name: Arc<str>,
    pub address: SocketAddr,
    pub proxy_protocol: Option<model::ProxyProtocol>,
    pub source: Arc<SourceRules>,
    pub limits: model::ListenerLimits,
    pub role: Role,
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("listener `{name}` can't listen on `{address}`: {cause}")]
    Bind { name: Arc<str>, address: SocketAddr, cause: io::Error },
    #[error("a worker thread can't be started: {0}")]
    Thread(io::Error),
}

/// The running workers. Dropping them lets them run on; [`Workers::shutdown`] ends them.
#[derive(Debug)]
pub struct Workers {
    bound: Vec<(Arc<str>, SocketAddr)>,
    stop: CancellationToken,
    drop_all: CancellationToken,
    threads: Vec<(JoinHandle<()>, oneshot::Receiver<()>)>,
}

/// A connection that may begin.
struct Arrived {
    stream: TcpStream,
    peer: SocketAddr,
    source: SourceAddr,
    begun: Instant,
}

/// A listener as a worker sees it.
#[derive(Debug)]
struct Door {
    listener: Listener,
    places: Places,
    seats: Arc<Seats>,
    handshakes: Handshakes,
    port: u16,
}

impl Door {
    fn connection(
        &self,
        peer: SocketAddr,
        source: SourceAddr,
        server_name: Option<Host>,
        client_certificate: Option<Arc<[u8]>>,
    ) -> Connection {
        Connection {
            listener: Arc::clone(&self.listener.name),
            peer: PeerAddr(peer),
            source,
            rules: Arc::clone(&self.listener.source),
            local_port: self.port,
            server_name,
            client_certificate,
        }
    }
}

impl Workers {
    /// Binds every listener, then starts `count` workers. When this returns, clients can connect:
    /// no more than `room` on all listeners together.
    ///
    /// # Errors
    /// Nothing is left running when an address can't be bound.
    pub fn start(
        gate: &Arc<Gate>,
        listeners: Vec<Listener>,
        count: usize,
        room: usize,
    ) -> Result<Self, StartError> {
        let room = Room::new(room);
        let count = count.max(1);
        let mut bound = Vec::new();
        let mut shares: Vec<Vec<(Arc<Door>, std::net::TcpListener)>> = Vec::new();
        shares.resize_with(count, Vec::new);
        for listener in listeners {
            let (address, sockets) =
                accept::bind(listener.address, count).map_err(|cause| StartError::Bind {
                    name: Arc::clone(&listener.name),
                    address: listener.address,
                    cause,
                })?;
            bound.push((Arc::clone(&listener.name), address));
            let gauge = gate.metrics.connections(&listener.name);
            let places = Places::new(listener.limits.max_connections, &room, gauge);
            let door = Arc::new(Door {
                places,
                seats: Seats::new(listener.limits.max_connections_per_address),
                handshakes: Handshakes::new(listener.limits.max_handshakes),
                port: address.port(),
                listener,
            });
            for (share, socket) in shares.iter_mut().zip(sockets) {
                share.push((Arc::clone(&door), socket));
            }
        }
        let stop = CancellationToken::new();
        let drop_all = CancellationToken::new();
        let mut workers = Self { bound, stop, drop_all, threads: Vec::new() };
        for (index, share) in shares.into_iter().enumerate() {
            if let Err(error) = workers.spawn(gate, index, share) {
                workers.drop_all.cancel();
                workers.stop.cancel();
                return Err(StartError::Thread(error));
            }
        }
        Ok(workers)
    }

    fn spawn(
        &mut self,
        gate: &Arc<Gate>,
        index: usize,
        share: Vec<(Arc<Door>, std::net::TcpListener)>,
    ) -> io::Result<()> {
        let worker = Worker {
            gate: Arc::clone(gate),
            index,
            stop: self.stop.clone(),
            streams: TaskTracker::new(),
            turns: Turns::default(),
        };
        let drop_all = self.drop_all.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (ended, has_ended) = oneshot::channel();
        let thread =
            std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
                crate::sharded::claim(index);
                runtime.block_on(async {
                    tokio::select! {
                        () = worker.run(share) => {}
                        () = drop_all.cancelled() => {}
                    }
                });
                // Drops what is still running, and with it its sockets.
                drop(runtime);
                let _ = ended.send(());
            })?;
        self.threads.push((thread, has_ended));
        Ok(())
    }

    /// The addresses listened on, by listener, with the real port where port 0 was asked for.
    pub fn bound_addresses(&self) -> &[(Arc<str>, SocketAddr)] {
        &self.bound
    }

    /// Stops accepting, lets running requests end and closes WebSockets with 1001; what is still
    /// open after `deadline` is dropped.
    pub async fn shutdown(self, deadline: Duration) {
        self.stop.cancel();
        let mut waiting: Vec<_> = Vec::new();
        let mut threads = Vec::new();
        for (thread, ended) in self.threads {
            threads.push(thread);
            waiting.push(ended);
        }
        let mut all = std::pin::pin!(async {
            for ended in waiting {
                // An error means that the thread is gone, too.
                let _ = ended.await;
            }
        });
        if tokio::time::timeout(deadline, all.as_mut()).await.is_err() {
            tracing::warn!("connections were still open at the end of the grace period");
            self.drop_all.cancel();
            all.await;
        }
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a worker thread panicked");
            }
        }
    }
}

#[derive(Debug)]
struct Worker {
    gate: Arc<Gate>,
    index: usize,
    stop: CancellationToken,
    streams: TaskTracker,
    /// Of the handshakes on all its listeners.
    turns: Turns,
}

impl Worker {
    /// Runs until it is stopped and the last connection has ended.
    async fn run(self, share: Vec<(Arc<Door>, std::net::TcpListener)>) {
        let worker = Arc::new(self);
        for (door, socket) in share {
            let worker = Arc::clone(&worker);
            let streams = worker.streams.clone();
            streams.spawn(async move { worker.listen(door, socket).await });
        }
        worker.stop.cancelled().await;
        worker.streams.close();
        worker.streams.wait().await;
    }

    async fn listen(self: Arc<Self>, door: Arc<Door>, socket: std::net::TcpListener) {
        let listener = match tokio::net::TcpListener::from_std(socket) {
            Ok(listener) => listener,
            Err(error) => {
                tracing::error!(listener = %door.listener.name, %error, "a worker can't listen");
                return;
            }
        };
        let refused = |refused: &Refused| self.refused(&door, refused);
        accept::accept(&listener, &door.places, &self.stop, refused, |stream, peer, place| {
            let (worker, door) = (Arc::clone(&self), Arc::clone(&door));
            self.streams.spawn(async move { worker.connection(&door, stream, peer, place).await });
        })
        .await;
    }

    fn refused(&self, door: &Door, refused: &Refused) {
        self.gate.metrics.connection_refused(&door.listener.name, refused.reason());
    }

    async fn connection(
        self: Arc<Self>,
        door: &Door,
        mut stream: TcpStream,
        peer: SocketAddr,
        place: Place,
    ) {
        let begun = Instant::now();
        let Some(Entry { source, seat }) = self.enter(door, &mut stream, peer).await else {
            return;
        };
        let end = match &door.listener.role {
            Role::Tls(acceptor) => {
                let arrived = Arrived { stream, peer, source, begun };
                self.tls(door, acceptor, arrived, (place, seat)).await
            }
            Role::RedirectToHttps { port } => {
                let connection = door.connection(peer, source, None, None);
                let end = self.plain(door, *port, stream, connection).await;
                drop((place, seat));
                end
            }
        };
        match end {
            Some(End::Failed(error)) => {
                tracing::debug!(%peer, %error, "a client's connection failed");
            }
            Some(End::Expired) => tracing::debug!(%peer, "a client's connection took too long"),
            Some(End::Closed) | None => {}
        }
    }

    /// Settles whose connection it is and whether it may begin. `None`: it may not, which is
    /// counted, or the worker stops.
    async fn enter(&self, door: &Door, stream: &mut TcpStream, peer: SocketAddr) -> Option<Entry> {
        let Listener { proxy_protocol, source, limits, .. } = &door.listener;
        let entering = entry::enter(stream, peer, proxy_protocol.as_ref(), source, &door.seats);
        let entered = tokio::select! {
            // Only a header has to be waited for.
            biased;
            entered = entering => entered,
            () = self.stop.cancelled() => return None,
            () = tokio::time::sleep(limits.handshake_timeout) => {
                Err(Refused::NoProxyHeader(io::ErrorKind::TimedOut.into()))
            }
        };
        entered
            .inspect_err(|refused| {
                self.refused(door, refused);
                tracing::debug!(%peer, reason = %refused, "refused a connection");
            })
            .ok()
    }

    async fn tls(
        &self,
        door: &Door,
        acceptor: &Acceptor,
        arrived: Arrived,
        place: (Place, Option<Seat>),
    ) -> Option<End> {
        let Arrived { stream, peer, source, begun } = arrived;
        let limits = &door.listener.limits;
        let left = limits.handshake_timeout.saturating_sub(begun.elapsed());
        let handshake = door.handshakes.begin();
        let accepted = tokio::select! {
            accepted = acceptor.accept(stream, left, &self.turns) => accepted,
            () = handshake.given_up() => {
                self.refused(door, &Refused::Handshake);
                return None;
            }
            () = self.stop.cancelled() => return None,
        };
        drop(handshake);
        let (stream, facts) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                self.gate.metrics.tls_handshakes("-", error.kind());
                tracing::debug!(%peer, %error, "a TLS handshake failed");
                return None;
            }
        };
        let result = if facts.resumed { "resumed" } else { "full" };
        self.gate.metrics.tls_handshakes(facts.version, result);
        let protocol = match facts.alpn {
            Alpn::Http1 => Protocol::Http1,
            Alpn::Http2 => Protocol::Http2,
        };
        let connection = door.connection(peer, source, facts.server_name, facts.client_certificate);
        let context = Arc::new(Context {
            connection: ClientConnection::new(Arc::clone(&self.gate), connection),
            worker: self.index,
            max_headers: limits.max_headers,
            idle_timeout: limits.idle_timeout,
            pace: Pace { rate: limits.min_data_rate, grace: limits.data_rate_grace },
            streams: self.streams.clone(),
            stop: self.stop.clone(),
            _place: place,
        });
        let activity = Activity::new(protocol == Protocol::Http1);
        let requests = Arc::clone(&activity);
        let service = service_fn(move |request| {
            http::answer(Arc::clone(&context), requests.begin(), request)
        });
        Some(connection::serve(stream, protocol, limits, &activity, &self.stop, service).await)
    }

    async fn plain(
        &self,
        door: &Door,
        port: u16,
        stream: TcpStream,
        connection: Connection,
    ) -> Option<End> {
        let limits = &door.listener.limits;
        let activity = Activity::new(true);
        let requests = Arc::clone(&activity);
        let connection = ClientConnection::new(Arc::clone(&self.gate), connection);
        let service = service_fn(move |request: ::http::Request<hyper::body::Incoming>| {
            let connection = Arc::clone(&connection);
            let in_flight = requests.begin();
            async move {
                let response = redirect::answer(&connection, &in_flight, request, port);
                Ok::<_, std::convert::Infallible>(response.await)
            }
        });
        let served =
            connection::serve(stream, Protocol::Http1, limits, &activity, &self.stop, service);
        Some(served.await)
    }
}
