//! TLS towards clients: which certificate serves a name, who the client's device is, and when a
//! handshake has taken too long.
//!
//! [`ServerTls::load`] reads everything that a listener's TLS needs and reports all findings at
//! once; [`Acceptor::worse`] tells what of it is out of date where what is in force is not, and
//! [`Acceptor::replace`] swaps it in. INVARIANT: loading can fail, swapping can't, so that a failed
//! renewal leaves the old, good pair in place.
//!
//! A client that names a host which no certificate covers gets the fatal alert
//! `unrecognized_name` (RFC 6066, section 3) and never another host's certificate: a wrong
//! certificate only teaches people to click warnings away. A client that names no host gets the
//! first certificate.

mod acceptor;
mod ahead;
mod certificates;
mod clients;
mod flight;
mod server;
mod suites;
mod term;
mod tickets;

pub use acceptor::{Acceptor, Alpn, TlsError, TlsFacts, Turns};
pub use server::{ServerTls, Worse};
pub use term::{Stage, Term, What};
pub use tickets::{OwnSecret, TicketState};

type Socket = flight::Flight<ahead::Ahead<tokio::net::TcpStream>>;

/// A client's connection after its handshake.
pub type TlsStream = tokio_rustls::server::TlsStream<Socket>;

/// Makes aws-lc-rs the crypto provider of the process. First thing in `main`; a second call does
/// nothing.
pub fn install_provider() {
    // The only error is that one is installed already, and there is only this one to install.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

#[cfg(feature = "demo")]
#[cfg(test)]
mod tests;
