//! The gate as a whole: the real binary, a certified OpenID provider, real upstreams.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::panic,
    clippy::print_stderr,
    clippy::wrong_self_convention,
    reason = "a test stops at what it does not expect, shows what the gate said, and reads as a sentence"
)]

mod harness;

mod access_tokens;
mod application_limits;
mod audit;
mod backchannel;
mod bodies;
mod bounds;
mod browser;
mod bypass;
mod callers;
mod certificates;
mod circles;
mod client_certificates;
mod commands;
mod cross_site;
mod docs;
mod edge;
mod faults;
mod floods;
mod forms;
mod framing;
mod goodbye;
mod identity_headers;
mod live;
mod login;
mod manager;
mod memory;
mod package;
mod providers;
mod refresh;
mod reload;
mod relying_party;
mod reserved;
mod resilience;
mod session_tokens;
mod sessions;
mod shared;
mod sign_out;
mod spoiled;
mod step_up;
mod stop;
mod suspension;
mod tickets;
mod tls;
mod upgrade;
mod upstreams;
