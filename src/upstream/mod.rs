//! Connections to the applications behind the gate.
//!
//! A [`Pool`] belongs to one route: it selects an endpoint (`pingora-load-balancing` keeps the
//! addresses, the weights and their health), takes an idle connection of the calling worker or
//! opens one, sends the request and hands the response back as it streams in. What requests see
//! of an endpoint takes it out and lets it back in (`breaker`, by the evidence in `outlier`).
//! Nothing is buffered. A connection stays with the worker whose runtime opened it.
//!
//! INVARIANT: a request is sent a second time only where that does no harm: no
//! connection was made, or hyper handed the request back untouched, or the method is idempotent
//! (RFC 9110, section 9.2.2), there was no body, the connection was a reused one and it ended
//! before the first byte of a response. And only as often as the route's budget allows.

mod attempt;
mod balance;
mod body;
mod breaker;
mod budget;
mod connect;
mod credential;
mod error;
mod health;
mod idle;
mod outlier;
mod pool;
mod send;
mod signal;
mod sticky;
mod tally;
mod tls;
mod trace;
mod upkeep;
mod values;
mod vitals;
mod wire;

pub use attempt::Caller;
pub use body::UpstreamBody;
pub use error::UpstreamError;
pub use pool::Pool;
pub use values::compact;

#[cfg(feature = "demo")]
#[cfg(test)]
mod tests;
