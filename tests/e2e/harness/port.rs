//! Ports that no other test can take.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

use socket2::{Domain, Socket, Type};

/// A port, held by a bound socket that doesn't listen. Whoever binds with `SO_REUSEPORT`, as the
/// gate and nginx do, shares it and gets every connection.
pub struct Port {
    number: u16,
    _held: Socket,
}

impl Port {
    pub fn reserve() -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_reuse_port(true).unwrap();
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
        let number = socket.local_addr().unwrap().as_socket().unwrap().port();
        Self { number, _held: socket }
    }

    pub fn number(&self) -> u16 {
        self.number
    }

    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.number))
    }
}

/// A port that is free, for programs that can't share one, and for where nobody is to answer: each is
/// given once, and none that the system gives to whoever binds to port 0 or connects from anywhere
/// (`ip_local_port_range`, ip(7)).
pub fn free() -> SocketAddr {
    const FIRST: u16 = 16_000;
    const COUNT: u16 = 16_000;
    // Two test binaries at once begin far from each other.
    static NEXT: LazyLock<AtomicU32> =
        LazyLock::new(|| AtomicU32::new(std::process::id().wrapping_mul(997)));
    for _ in 0..COUNT {
        let step = NEXT.fetch_add(1, Ordering::Relaxed) % u32::from(COUNT);
        let port = FIRST + u16::try_from(step).unwrap();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if std::net::TcpListener::bind(address).is_ok() {
            return address;
        }
    }
    panic!("no port from {FIRST} on is free");
}
