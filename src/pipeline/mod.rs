//! The way of a request, from its head to a permit or a refusal, without any framework.
//!
//! INVARIANT: [`Exchange<Authorized>`](exchange::Exchange) is the only value from which the proxy can
//! reach an upstream; it owns the policy engine's [`Permit`](crate::policy::Permit), and
//! [`Gate::admit`](gate::Gate::admit) is the only way to one.

pub mod after_logout;
pub mod asker;
pub mod attempts;
pub mod authenticate;
pub mod backchannel;
mod choice;
pub mod client;
pub mod counts;
pub mod exchange;
pub mod frontchannel;
pub mod gate;
pub mod gather;
pub mod guard;
mod handover;
pub mod headers;
pub mod kept;
pub mod live;
pub mod normalise;
mod own_sessions;
pub mod preflight;
pub mod prepare;
pub mod pressure;
pub mod rate;
pub mod receive;
pub mod record;
mod refresh;
pub mod refusal;
pub mod reply;
pub mod reserved;
pub mod respond;
pub mod revocation;
pub mod route;
pub mod sign_in_again;
pub mod slots;
pub mod snapshot;
pub mod source;
pub mod step_up;
pub mod suspended;
pub mod tabs;
#[cfg(test)]
mod tests;
mod upstream_token;
