//! Wicketgate, a zero-trust secure access gateway.
#![forbid(unsafe_code)]

pub mod config;
#[cfg(feature = "demo")]
pub mod demo;
pub mod domain;
pub mod pages;
