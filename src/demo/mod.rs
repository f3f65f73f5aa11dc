//! `wicketgate demo`: the whole gate on one machine, with everything around it.

mod authority;
mod error;
mod gate_host;
mod ics;
mod legacy;
mod portal;
mod provider;
mod serve;
mod users;

pub use error::DemoError;
