//! Where listening sockets come from: bound here, passed by the service manager, or handed over by
//! the process that this one replaces.
//!
//! A socket that came from elsewhere may hold connections that nobody accepted yet. So each that
//! belongs to a listener is accepted from, whatever the number of workers; and none is closed
//! unless its listener is gone.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use socket2::{Socket, Type};

use super::accept;
use super::serve::Listener;

/// The name of the admin listener's socket, in socket units.
pub const ADMIN: &str = "admin";

/// Why the process can't listen.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    #[error("listener `{name}` can't listen on `{address}`: {cause}{}", advice(cause))]
    Bind { name: Arc<str>, address: SocketAddr, cause: io::Error },
    #[error("the socket `{name}` that was passed to this process is no listening TCP socket")]
    NotListening { name: String },
    #[error(
        "the socket `{name}` listens on `{found}`, and the listener of that name on `{expected}`; make the socket unit and the configuration say the same"
    )]
    Address { name: String, found: SocketAddr, expected: SocketAddr },
    #[error(
        "the socket `{name}` listens on `{found}`, where no listener does; give it a listener's name with `FileDescriptorName=`, or take it out of the socket unit"
    )]
    Unclaimed { name: String, found: SocketAddr },
}

/// What to do about it, where that is known.
fn advice(cause: &io::Error) -> &'static str {
    match cause.kind() {
        io::ErrorKind::AddrInUse => "; stop what listens there (`ss -ltnp` names it)",
        io::ErrorKind::AddrNotAvailable => "; write an address that this machine has",
        io::ErrorKind::PermissionDenied => "; ports below 1024 take root or CAP_NET_BIND_SERVICE",
        _ => "",
    }
}

/// A listening socket that was given to this process.
#[derive(Debug)]
struct Given {
    name: String,
    address: SocketAddr,
    socket: TcpListener,
}

/// Listening sockets that were given to this process and are not used yet.
#[derive(Debug, Default)]
pub struct Sockets {
    given: Vec<Given>,
    /// Handed over by a predecessor, whose listeners may have had other names, or be gone.
    handed_over: bool,
}

/// A listener that clients can connect to, with a socket or more for each worker.
#[derive(Debug)]
pub struct Open {
    pub listener: Listener,
    /// With the real port where port 0 was asked for.
    pub address: SocketAddr,
    pub(super) shares: Vec<Vec<TcpListener>>,
    kept: Vec<TcpListener>,
}

impl Open {
    /// A descriptor of each socket, for a successor. As long as one is open, the kernel takes
    /// connections.
    pub fn for_successor(&mut self) -> Vec<TcpListener> {
        std::mem::take(&mut self.kept)
    }
}

impl Sockets {
    /// What a service manager passed, with the names it gave.
    ///
    /// # Errors
    /// One of them is no listening TCP socket.
    pub fn passed(sockets: Vec<(String, OwnedFd)>) -> Result<Self, SocketError> {
        Self::new(sockets, false)
    }

    /// What a predecessor handed over.
    ///
    /// # Errors
    /// One of them is no listening TCP socket.
    pub fn handed_over(sockets: Vec<(String, OwnedFd)>) -> Result<Self, SocketError> {
        Self::new(sockets, true)
    }

    fn new(sockets: Vec<(String, OwnedFd)>, handed_over: bool) -> Result<Self, SocketError> {
        let given = sockets.into_iter().map(|(name, socket)| {
            listening(socket)
                .map(|(address, socket)| Given { name: name.clone(), address, socket })
                .map_err(|_| SocketError::NotListening { name })
        });
        Ok(Self { given: given.collect::<Result<_, _>>()?, handed_over })
    }

    pub fn is_empty(&self) -> bool {
        self.given.is_empty()
    }

    /// Opens every listener with `workers` shares: with the sockets given for it, else bound anew.
    ///
    /// # Errors
    /// An address that can't be listened on, or a passed socket that fits no listener. Nothing
    /// is left open then.
    pub fn open(
        &mut self,
        listeners: Vec<Listener>,
        workers: usize,
    ) -> Result<Vec<Open>, SocketError> {
        let names: Vec<Arc<str>> = listeners.iter().map(|one| Arc::clone(&one.name)).collect();
        let mut opened = Vec::with_capacity(listeners.len());
        for listener in listeners {
            let given = self.claim(&listener.name, listener.address, &names)?;
            let bind = |cause| SocketError::Bind {
                name: Arc::clone(&listener.name),
                address: listener.address,
                cause,
            };
            let sockets = if given.is_empty() {
                accept::bind(listener.address, workers).map_err(bind)?.1
            } else {
                given
            };
            let address = match sockets.first() {
                Some(socket) => socket.local_addr().map_err(bind)?,
                None => listener.address,
            };
            let kept: io::Result<Vec<_>> = sockets.iter().map(TcpListener::try_clone).collect();
            let (kept, shares) = (kept.map_err(bind)?, share(sockets, workers).map_err(bind)?);
            opened.push(Open { listener, address, shares, kept });
        }
        Ok(opened)
    }

    /// The admin listener's socket.
    ///
    /// # Errors
    /// It can't be bound, or was passed for another address.
    pub fn admin(
        &mut self,
        address: SocketAddr,
        listeners: &[Arc<str>],
    ) -> Result<TcpListener, SocketError> {
        let bind = |cause| SocketError::Bind { name: ADMIN.into(), address, cause };
        // A public listener may have that name, too: its own address then tells them apart.
        let is_taken = listeners.iter().any(|name| **name == *ADMIN);
        let names: Vec<Arc<str>> = if is_taken { Vec::new() } else { vec![ADMIN.into()] };
        match self.claim(ADMIN, address, &names)?.pop() {
            Some(socket) => Ok(socket),
            None => {
                let socket = TcpListener::bind(address).map_err(bind)?;
                socket.set_nonblocking(true).map_err(bind)?;
                Ok(socket)
            }
        }
    }

    /// What was passed and nobody claimed is a mistake; what a predecessor handed over belongs to
    /// a listener that the configuration no longer has.
    ///
    /// # Errors
    /// A passed socket is left.
    pub fn finish(self) -> Result<(), SocketError> {
        match self.given.into_iter().next() {
            Some(Given { name, address, .. }) if !self.handed_over => {
                Err(SocketError::Unclaimed { name, found: address })
            }
            _ => Ok(()),
        }
    }

    /// A socket belongs to the listener of its name. One whose name is no listener's, as when the
    /// unit names none, belongs to the one with its address.
    fn claim(
        &mut self,
        name: &str,
        address: SocketAddr,
        names: &[Arc<str>],
    ) -> Result<Vec<TcpListener>, SocketError> {
        let mut claimed = Vec::new();
        let mut left = Vec::new();
        for given in self.given.drain(..) {
            let is_its = given.name == name;
            // Port 0 asks for any.
            let any_port = address.port() == 0 && given.address.ip() == address.ip();
            let fits = given.address == address || (is_its && any_port);
            let is_named = !self.handed_over && names.iter().any(|one| **one == *given.name);
            if fits && (is_its || !is_named) {
                claimed.push(given.socket);
            } else if is_its && is_named {
                let Given { name, address: found, .. } = given;
                return Err(SocketError::Address { name, found, expected: address });
            } else {
                left.push(given);
            }
        }
        self.given = left;
        Ok(claimed)
    }
}

/// Spreads sockets over the workers. With as many as workers each has one of its own. With fewer,
/// as with one from a socket unit, several workers accept from the same: each has a descriptor of
/// it, and the kernel gives a connection to whichever accepts first. With more, some workers accept
/// from several, so that none is left with connections that nobody takes.
fn share(sockets: Vec<TcpListener>, workers: usize) -> io::Result<Vec<Vec<TcpListener>>> {
    let workers = workers.max(1);
    let mut shares: Vec<Vec<TcpListener>> = Vec::new();
    shares.resize_with(workers, Vec::new);
    let missing = workers.saturating_sub(sockets.len());
    let clones: Vec<TcpListener> = sockets
        .iter()
        .cycle()
        .take(missing)
        .map(TcpListener::try_clone)
        .collect::<Result<_, _>>()?;
    for (index, socket) in sockets.into_iter().chain(clones).enumerate() {
        if let Some(share) = shares.get_mut(index % workers) {
            share.push(socket);
        }
    }
    Ok(shares)
}

fn listening(descriptor: OwnedFd) -> io::Result<(SocketAddr, TcpListener)> {
    // A copy that no child process inherits: what a service manager passes has no close-on-exec.
    let socket = Socket::from(descriptor.try_clone()?);
    drop(descriptor);
    if socket.r#type()? != Type::STREAM || !rustix::net::sockopt::socket_acceptconn(&socket)? {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    socket.set_nonblocking(true)?;
    let listener = TcpListener::from(socket);
    Ok((listener.local_addr()?, listener))
}

#[cfg(test)]
mod tests;
