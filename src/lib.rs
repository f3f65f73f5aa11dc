//! Wicketgate, a zero-trust secure access gateway.
//!
//! Each module uses only modules of lower layers (`tests/architecture.rs` holds that); the map is
//! in `docs/architecture.md`.
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
pub mod store;
pub mod tls;
pub mod upstream;
