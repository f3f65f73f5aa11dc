//! Wicketgate, a zero-trust secure access gateway.
#![forbid(unsafe_code)]

pub mod config;
pub mod domain;
pub mod identity;
pub mod metrics;
pub mod store;
