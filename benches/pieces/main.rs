//! What the pieces of a request cost, each by itself. One program, because linking one takes a
//! minute.
//!
//! The budgets: session 1 us, canonicalisation and routing 1 us together, a decision with repeated
//! inputs 2 us, the append of an audit record 2 us, metrics 0.3 us. See docs/performance.md.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a benchmark stops at what it does not expect"
)]

mod audit;
mod decision;
mod metrics;
mod routing;
mod session;

use criterion::{criterion_group, criterion_main};

// As in the gate.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

criterion_group!(
    pieces,
    routing::canonicalise,
    routing::route,
    session::sessions,
    decision::decisions,
    audit::append,
    metrics::count,
);
criterion_main!(pieces);
