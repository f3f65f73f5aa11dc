//! Wicketgate, a zero-trust secure access gateway.
#![forbid(unsafe_code)]

pub mod audit;
pub mod config;
#[cfg(feature = "demo")]
pub mod demo;
pub mod domain;
pub mod metrics;
pub mod pages;
pub mod policy;
pub mod store;
pub mod pem;
pub mod tls;
pub mod upstream;
pub mod identity;
