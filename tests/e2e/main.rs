//! The gate as a whole: the real binary, a certified OpenID provider, real upstreams.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test stops at what it does not expect, and shows what the gate said"
)]

mod harness;

mod audit;
mod bypass;
mod docs;
mod framing;
mod identity_headers;
mod live;
mod login;
mod reload;
mod tls;
mod upstreams;
