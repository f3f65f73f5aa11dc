//! Listening sockets, and the loop that takes connections from one.
//!
//! Every worker has a socket of its own on the same address (`SO_REUSEPORT`), between which the
//! kernel spreads the connections: no lock, and no connection changes threads. Those that were
//! passed to the process are shared out instead: see `sockets`.

use std::fs::File;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::entry::Refused;
use crate::metrics::IntGauge;

/// Connections that the kernel holds for each worker until they are accepted.
const BACKLOG: i32 = 1024;

/// Until the next attempt when the process has no file descriptor left.
const BACK_OFF: Duration = Duration::from_millis(100);

/// Binds one socket for each worker. Port 0 is resolved by the first and shared by the others.
///
/// # Errors
/// The address is taken, not this machine's, or not permitted.
pub fn bind(address: SocketAddr, workers: usize) -> io::Result<(SocketAddr, Vec<TcpListener>)> {
    let mut address = address;
    let mut sockets = Vec::with_capacity(workers);
    for _ in 0..workers.max(1) {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        if address.is_ipv6() {
            // `[::]` and `0.0.0.0` are two listeners; neither takes the other's connections.
            socket.set_only_v6(true)?;
        }
        socket.set_nonblocking(true)?;
        socket.bind(&SockAddr::from(address))?;
        socket.listen(BACKLOG)?;
        let listener = TcpListener::from(socket);
        address = listener.local_addr()?;
        sockets.push(listener);
    }
    Ok((address, sockets))
}

/// How many connections the process has file descriptors for, over all listeners. What is not
/// taken is there for the upstreams of those who are connected.
#[derive(Clone, Debug)]
pub struct Room(Arc<Count>);

impl Room {
    pub fn new(limit: usize) -> Self {
        Self(Arc::new(Count::new(limit)))
    }
}

#[derive(Debug)]
struct Count {
    taken: AtomicUsize,
    limit: usize,
}

impl Count {
    fn new(limit: usize) -> Self {
        Self { taken: AtomicUsize::new(0), limit }
    }

    fn take(&self) -> bool {
        let free = self.taken.fetch_add(1, Ordering::AcqRel) < self.limit;
        if !free {
            self.free();
        }
        free
    }

    fn free(&self) {
        self.taken.fetch_sub(1, Ordering::AcqRel);
    }
}

/// How many connections a listener has, over all workers.
#[derive(Clone, Debug)]
pub struct Places {
    own: Arc<Count>,
    all: Room,
    gauge: IntGauge,
}

impl Places {
    pub fn new(limit: usize, all: &Room, gauge: IntGauge) -> Self {
        Self { own: Arc::new(Count::new(limit)), all: all.clone(), gauge }
    }

    /// # Errors
    /// There are as many connections as there may be.
    pub fn take(&self) -> Result<Place, Refused> {
        if !self.own.take() {
            return Err(Refused::Limit);
        }
        if !self.all.0.take() {
            self.own.free();
            return Err(Refused::Descriptors);
        }
        self.gauge.inc();
        Ok(Place(Arc::new(Held(self.clone()))))
    }
}

/// One connection's place, free again when the last clone is dropped.
#[derive(Clone, Debug)]
pub struct Place(#[expect(dead_code, reason = "it is held, not read")] Arc<Held>);

#[derive(Debug)]
struct Held(Places);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.own.free();
        self.0.all.0.free();
        self.0.gauge.dec();
    }
}

/// What an error of `accept` asks for (accept(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    /// That one connection is gone; the next is as good as any.
    Connection,
    /// No file descriptor or memory is left.
    Exhausted,
}

fn classify(error: &io::Error) -> Trouble {
    match error.kind() {
        io::ErrorKind::ConnectionAborted
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionRefused
        | io::ErrorKind::Interrupted => Trouble::Connection,
        _ => Trouble::Exhausted,
    }
}

/// Accepts until `stop`. One file descriptor is kept back: when there is none left, it is given up
/// for as long as it takes to accept and close a waiting connection, whose client then knows.
pub async fn accept(
    listener: &tokio::net::TcpListener,
    places: &Places,
    stop: &CancellationToken,
    refused: impl Fn(&Refused),
    mut serve: impl FnMut(TcpStream, SocketAddr, Place),
) {
    let mut reserve = spare();
    // Said once each time, not ten times a second.
    let mut exhausted = false;
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                if exhausted {
                    exhausted = false;
                    tracing::info!("connections are accepted again");
                }
                let place = match places.take() {
                    Ok(place) => place,
                    Err(reason) => {
                        tracing::debug!(%peer, %reason, "refused a connection");
                        refused(&reason);
                        continue;
                    }
                };
                if let Err(error) = stream.set_nodelay(true) {
                    // The client is gone already.
                    tracing::debug!(%peer, %error, "a connection ended before it began");
                    continue;
                }
                serve(stream, peer, place);
            }
            Err(error) if classify(&error) == Trouble::Connection => {}
            Err(error) => {
                if !exhausted {
                    exhausted = true;
                    tracing::error!(%error, "no connection can be accepted");
                }
                drop(reserve.take());
                let accepted = tokio::time::timeout(Duration::ZERO, listener.accept()).await;
                if matches!(accepted, Ok(Ok(_))) {
                    refused(&Refused::Descriptors);
                }
                drop(accepted);
                reserve = spare();
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(BACK_OFF) => {}
                }
                if reserve.is_none() {
                    reserve = spare();
                }
            }
        }
    }
}

fn spare() -> Option<File> {
    File::open("/dev/null").ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gauge() -> IntGauge {
        crate::metrics::Metrics::new().connections("test")
    }

    #[test]
    fn workers_share_one_port_that_the_first_one_was_given() {
        let (address, sockets) = bind("127.0.0.1:0".parse().unwrap(), 3).unwrap();
        assert_ne!(address.port(), 0);
        assert_eq!(sockets.len(), 3);
        for socket in sockets {
            assert_eq!(socket.local_addr().unwrap(), address);
        }
    }

    #[test]
    fn a_place_is_free_again_when_its_last_holder_is_gone() {
        let gauge = gauge();
        let places = Places::new(2, &Room::new(9), gauge.clone());
        let first = places.take().unwrap();
        let also_first = first.clone();
        let _second = places.take().unwrap();
        assert!(matches!(places.take(), Err(Refused::Limit)));
        drop(first);
        assert!(places.take().is_err());
        drop(also_first);
        assert!(places.take().is_ok());
        assert_eq!(gauge.get(), 1);
    }

    #[test]
    fn all_listeners_share_what_the_process_has_descriptors_for() {
        let room = Room::new(2);
        let (one, other) = (Places::new(9, &room, gauge()), Places::new(1, &room, gauge()));
        let first = one.take().unwrap();
        let second = other.take().unwrap();
        assert!(matches!(one.take(), Err(Refused::Descriptors)));
        drop(second);
        let _third = one.take().unwrap();
        assert!(matches!(other.take(), Err(Refused::Descriptors)));
        drop(first);
        assert!(other.take().is_ok(), "what was refused took no place");
    }

    #[test]
    fn a_lack_of_descriptors_backs_off_and_a_lost_connection_does_not() {
        // EMFILE, ENFILE, ENOBUFS, ENOMEM.
        for code in [24, 23, 105, 12] {
            let error = io::Error::from_raw_os_error(code);
            assert_eq!(classify(&error), Trouble::Exhausted, "{error}");
        }
        // ECONNABORTED, EINTR.
        for code in [103, 4] {
            let error = io::Error::from_raw_os_error(code);
            assert_eq!(classify(&error), Trouble::Connection, "{error}");
        }
    }

    #[tokio::test]
    async fn a_connection_over_the_limit_is_closed_at_once_and_others_are_served() {
        let (address, mut sockets) = bind("127.0.0.1:0".parse().unwrap(), 1).unwrap();
        let listener = tokio::net::TcpListener::from_std(sockets.pop().unwrap()).unwrap();
        let places = Places::new(1, &Room::new(9), gauge());
        let stop = CancellationToken::new();
        let (sender, mut accepted) = tokio::sync::mpsc::unbounded_channel();
        let stopping = stop.clone();
        let accepting = tokio::spawn(async move {
            accept(
                &listener,
                &places,
                &stopping,
                |_| {},
                |stream, _, place| {
                    sender.send((stream, place)).unwrap();
                },
            )
            .await;
        });
        let _first = TcpStream::connect(address).await.unwrap();
        let held = accepted.recv().await.unwrap();
        let mut second = TcpStream::connect(address).await.unwrap();
        let mut nothing = Vec::new();
        let ended = tokio::io::AsyncReadExt::read_to_end(&mut second, &mut nothing).await;
        assert!(ended.map_or(true, |count| count == 0));
        drop(held);
        let _third = TcpStream::connect(address).await.unwrap();
        accepted.recv().await.unwrap();
        stop.cancel();
        accepting.await.unwrap();
    }
}
