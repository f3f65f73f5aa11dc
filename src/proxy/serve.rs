//! The workers: one thread, one runtime and a socket of every listener for each core.
//!
//! A connection lives and dies on the worker that accepted it, together with the upstream
//! connections that serve it; workers share nothing but the gate.

mod open;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use hyper::service::service_fn;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use open::Opened;

use super::accept::{self, Place, Places, Room};
use super::activity::Activity;
use super::connection::{self, End, Protocol};
use super::entry::Refused;
use super::handshakes::Handshakes;
use super::http::{self, Context};
use super::leave::Leave;
use super::pulse::{Heart, Pulse, pulse};
use super::redirect;
use super::restraint::Restrained;
use super::seats::Seats;
use super::sockets::Open;
use crate::config::model;
use crate::domain::connection::SourceRules;
use crate::pipeline::client::ClientConnection;
use crate::pipeline::gate::Gate;
use crate::pipeline::pressure::Level;
use crate::tls::{Acceptor, TlsStream, Turns};

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

/// The workers, which accept nobody before [`Workers::open`]. Dropping them lets them run on; [`Workers::shutdown`] ends them.
#[derive(Debug)]
pub struct Workers {
    bound: Vec<(Arc<str>, SocketAddr)>,
    leave: Arc<Leave>,
    open: CancellationToken,
    stop: CancellationToken,
    drop_all: CancellationToken,
    threads: Vec<JoinHandle<()>>,
    ended: Vec<oneshot::Receiver<()>>,
    pulses: Vec<Pulse>,
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

impl Workers {
    /// Starts `count` workers on listeners that are open already. On all listeners together they
    /// take no more than `room` connections. Clients wait until [`open`](Self::open).
    ///
    /// # Errors
    /// A thread can't be started, or can't listen. Nothing is left running then.
    pub fn start(
        gate: &Arc<Gate>,
        listeners: Vec<Open>,
        count: usize,
        room: usize,
    ) -> io::Result<Self> {
        let room = Room::new(room);
        let count = count.max(1);
        let mut bound = Vec::new();
        let mut shares: Vec<Vec<(Arc<Door>, std::net::TcpListener)>> = Vec::new();
        shares.resize_with(count, Vec::new);
        for open in listeners {
            let Open { listener, address, shares: sockets, .. } = open;
            let name = Arc::clone(&listener.name);
            let gauge = gate.metrics.connections(&name);
            let places = Places::new(listener.limits.max_connections, &room, gauge);
            let door = Arc::new(Door {
                places,
                seats: Seats::new(listener.limits.max_connections_per_address),
                handshakes: Handshakes::new(listener.limits.max_handshakes),
                port: address.port(),
                listener,
            });
            for (share, sockets) in shares.iter_mut().zip(sockets) {
                share.extend(sockets.into_iter().map(|socket| (Arc::clone(&door), socket)));
            }
            bound.push((name, address));
        }
        let stop = CancellationToken::new();
        let leave = Arc::new(Leave::new(&stop));
        let mut workers = Self {
            bound,
            leave,
            open: CancellationToken::new(),
            stop,
            drop_all: CancellationToken::new(),
            threads: Vec::new(),
            ended: Vec::new(),
            pulses: Vec::new(),
        };
        for (index, share) in shares.into_iter().enumerate() {
            if let Err(error) = workers.spawn(gate, index, share) {
                workers.drop_all.cancel();
                workers.leave.stop();
                return Err(error);
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
            leave: Arc::clone(&self.leave),
            streams: TaskTracker::new(),
            turns: Turns::default(),
        };
        let (pulse, heart) = pulse();
        let (open, drop_all) = (self.open.clone(), self.drop_all.clone());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (ended, has_ended) = oneshot::channel();
        let (listens, is_listening) = std::sync::mpsc::channel();
        let thread =
            std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
                crate::sharded::claim(index);
                runtime.block_on(async {
                    let share = match registered(share) {
                        Ok(share) => share,
                        Err(error) => return drop(listens.send(Err(error))),
                    };
                    let _ = listens.send(Ok(()));
                    tokio::select! {
                        () = worker.run(share, open) => {}
                        () = answer_pulses(heart) => {}
                        () = drop_all.cancelled() => {}
                    }
                });
                // Drops what is still running, and with it its sockets.
                drop(runtime);
                let _ = ended.send(());
            })?;
        // A thread that panicked says nothing.
        is_listening.recv().unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))?;
        self.threads.push(thread);
        self.ended.push(has_ended);
        self.pulses.push(pulse);
        Ok(())
    }

    /// Has clients accepted from here on.
    pub fn open(&self) {
        self.open.cancel();
    }

    /// The addresses listened on, by listener, with the real port where port 0 was asked for.
    pub fn bound_addresses(&self) -> &[(Arc<str>, SocketAddr)] {
        &self.bound
    }

    /// One for each worker.
    pub fn pulses(&self) -> &[Pulse] {
        &self.pulses
    }

    /// Stops accepting and has the clients go, without cutting anything short: another process
    /// serves them. Resolves when the last has gone. Safe to drop and call again.
    pub async fn leave(&mut self) {
        self.leave.leave(true);
        self.all_ended().await;
    }

    async fn all_ended(&mut self) {
        while let Some(ended) = self.ended.last_mut() {
            // An error means that the thread is gone, too.
            let _ = ended.await;
            self.ended.pop();
        }
    }

    /// Stops accepting, lets running requests end and closes WebSockets; what is still open after
    /// `deadline` is dropped.
    pub async fn shutdown(mut self, deadline: Duration) {
        self.leave.stop();
        if tokio::time::timeout(deadline, self.all_ended()).await.is_err() {
            tracing::warn!("connections were still open at the end of the grace period");
            self.drop_all.cancel();
            self.all_ended().await;
        }
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a worker thread panicked");
            }
        }
    }
}

/// Has the worker's own runtime, which this is called in, wait for the sockets.
fn registered<D>(share: Vec<(D, std::net::TcpListener)>) -> io::Result<Vec<(D, TcpListener)>> {
    let listening = |(door, socket)| Ok((door, TcpListener::from_std(socket)?));
    share.into_iter().map(listening).collect()
}

async fn answer_pulses(mut heart: Heart) {
    loop {
        heart.answer().await;
    }
}

#[derive(Debug)]
struct Worker {
    gate: Arc<Gate>,
    index: usize,
    stop: CancellationToken,
    leave: Arc<Leave>,
    streams: TaskTracker,
    /// Of the handshakes on all its listeners.
    turns: Turns,
}

impl Worker {
    /// Runs until it is stopped and the last connection has ended.
    async fn run(self, share: Vec<(Arc<Door>, TcpListener)>, open: CancellationToken) {
        tokio::select! {
            () = open.cancelled() => {}
            () = self.leave.farewell().cancelled() => return,
        }
        let worker = Arc::new(self);
        for (door, socket) in share {
            let worker = Arc::clone(&worker);
            let streams = worker.streams.clone();
            streams.spawn(async move { worker.listen(door, socket).await });
        }
        worker.leave.farewell().cancelled().await;
        worker.streams.close();
        worker.streams.wait().await;
    }

    async fn listen(self: Arc<Self>, door: Arc<Door>, listener: TcpListener) {
        let refused = |refused: &Refused| self.refused(&door, refused);
        let stop = self.leave.farewell();
        accept::accept(&listener, &door.places, stop, refused, |stream, peer, place| {
            if self.gate.pressure.level() == Level::Critical {
                tracing::debug!(%peer, "refused a connection: memory is short");
                self.refused(&door, &Refused::Memory);
                return;
            }
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
        stream: TcpStream,
        peer: SocketAddr,
        place: Place,
    ) {
        // What leads to a connection needs far more room than what it becomes, and not for long.
        let Some(opened) = Box::pin(self.open(door, stream, peer, place)).await else { return };
        let end = match opened {
            Opened::Tls { stream, protocol, context } => {
                self.tls(door, peer, stream, protocol, context).await
            }
            Opened::Plain { stream, port, connection, place } => {
                let end = self.plain(door, port, stream, connection).await;
                drop(place);
                end
            }
        };
        match end {
            End::Failed(error) => tracing::debug!(%peer, %error, "a client's connection failed"),
            End::Expired => tracing::debug!(%peer, "a client's connection took too long"),
            End::Closed => {}
        }
    }

    async fn tls(
        &self,
        door: &Door,
        peer: SocketAddr,
        stream: Box<TlsStream>,
        protocol: Protocol,
        context: Arc<Context>,
    ) -> End {
        let limits = &door.listener.limits;
        let activity = Activity::new(protocol == Protocol::Http1);
        let requests = Arc::clone(&activity);
        let service = service_fn(move |request| {
            http::answer(Arc::clone(&context), requests.begin(), request)
        });
        let stop = match protocol {
            // Ends with an answer that says so.
            Protocol::Http1 => &self.stop,
            // GOAWAY loses no request (RFC 9113, section 6.8).
            Protocol::Http2 => self.leave.farewell(),
        };
        let stream = Restrained::new(stream, &activity, &self.gate.pressure);
        let end = connection::serve(stream, protocol, limits, &activity, stop, service).await;
        if activity.flooded() {
            self.gate.metrics.http2_floods.inc();
            tracing::debug!(%peer, "closed a connection: a flood of HTTP/2 frames");
        }
        if activity.is_let_go_of() {
            self.gate.metrics.connections_shed.inc();
            tracing::debug!(%peer, "closed a connection: memory stays critically short");
        }
        end
    }

    async fn plain(
        &self,
        door: &Door,
        port: u16,
        stream: TcpStream,
        connection: Arc<ClientConnection>,
    ) -> End {
        let limits = &door.listener.limits;
        let activity = Activity::new(true);
        let requests = Arc::clone(&activity);
        let leave = Arc::clone(&self.leave);
        let service = service_fn(move |request: ::http::Request<hyper::body::Incoming>| {
            let (connection, leave) = (Arc::clone(&connection), Arc::clone(&leave));
            let version = request.version();
            let in_flight = requests.begin();
            async move {
                let response = redirect::answer(&connection, &in_flight, request, port);
                let mut response = response.await;
                leave.mark(version, &mut response);
                Ok::<_, std::convert::Infallible>(response)
            }
        });
        let stream = Restrained::new(stream, &activity, &self.gate.pressure);
        connection::serve(stream, Protocol::Http1, limits, &activity, &self.stop, service).await
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::os::unix::fs::OpenOptionsExt;

    use super::*;

    #[tokio::test]
    async fn a_socket_that_can_t_be_listened_on_keeps_its_worker_from_starting() {
        // No system can wait for a regular file.
        let file = tempfile::NamedTempFile::new().unwrap();
        let nonblocking = 0o4000;
        let mut options = std::fs::OpenOptions::new();
        options.read(true).custom_flags(nonblocking);
        let no_socket = OwnedFd::from(options.open(file.path()).unwrap());
        let good = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        good.set_nonblocking(true).unwrap();
        assert_eq!(registered(vec![((), good.try_clone().unwrap())]).unwrap().len(), 1);
        assert!(registered(vec![((), good), ((), no_socket.into())]).is_err());
    }
}
