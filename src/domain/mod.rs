//! Pure types that every other module speaks: no I/O, no framework, no clock of their own.
//!
//! What travels between modules is defined here, so that Cedar, OpenID Connect, YAML and HTTP
//! libraries stay behind the one module that owns them.

pub mod canonical;
pub mod clock;
pub mod connection;
pub mod decision;
pub mod device;
pub mod event;
pub mod id;
pub mod network;
pub mod principal;
pub mod query;
pub mod step_up;
pub mod suspension;
