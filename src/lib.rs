//! Wicketgate, a zero-trust access gateway: nothing reaches a back end until TLS, sign-in and a
//! Cedar policy have said yes, on every request, and again for as long as a connection lives.
//!
//! The map, from the ground up. Each module uses modules of lower layers only, never a sibling;
//! `tests/architecture.rs` holds that, and `docs/architecture.md` tells the story.
//!
//! | layer | modules |
//! |---|---|
//! | 0 | [`domain`]: the words of the field as types, and the one parser of what a client asks for; [`sharded`]: state apart for each worker |
//! | 1 | [`config`]: from YAML to a validated model, or all findings at once |
//! | 2 | [`store`]: what outlives a restart; [`metrics`]; [`pem`]; [`pages`] |
//! | 3 | [`tls`], [`identity`], [`posture`], [`policy`], [`upstream`], [`audit`]: one subject each |
//! | 4 | [`pipeline`]: the way of a request; begin with [`pipeline::gate::Gate::admit`] |
//! | 5 | [`proxy`]: sockets and HTTP; [`admin`]: metrics and health |
//! | 6 | [`app`]: puts the parts together, reloads, starts and stops |
//! | 7 | `demo`: a world around the gate, for trying it out (feature `demo`) |
//! | 8 | [`cli`]: one file a command |
//!
//! INVARIANT: only [`policy::Engine::decide`] makes a [`policy::Permit`], and only a state that
//! owns one, [`pipeline::exchange::Exchange`]`<Authorized>`, reaches an upstream.
#![forbid(unsafe_code)]

pub mod admin;
pub mod app;
pub mod audit;
pub mod cli;
pub mod config;
#[cfg(feature = "demo")]
pub mod demo;
pub mod domain;
pub mod identity;
pub mod metrics;
pub mod pages;
pub mod pem;
pub mod pipeline;
pub mod policy;
pub mod posture;
pub mod proxy;
pub mod sharded;
pub mod store;
pub mod tls;
pub mod upstream;
