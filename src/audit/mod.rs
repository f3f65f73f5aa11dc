//! The audit log: one hash-chained JSON line for each decision and each change of a session.
//!
//! INVARIANT: nothing acknowledged is ever lost, and nothing is allowed that can't be recorded.
//! [`AuditLog::append`] refuses when its bounded queue is full, the caller then denies; a
//! [`Ticket`] becomes durable only after fdatasync said so; the writer keeps what it could not
//! write until it can.
//!
//! The way of a record: the request's thread serialises the event ([`record`], and `decided` for
//! the one that every request pays for) and queues it ([`log`]); one writer thread links it to the
//! record before (`chain`) and writes whole batches (`writer`) to files of bounded size
//! (`segment`), the next of which is always open (`spare`). What strangers cause is counted where it
//! comes too often (`strangers`). [`verify`] and [`query`] read the files
//! alone and need no running gate. When a newer process takes this one's place, `handover` gives it
//! the log and sends it what is still recorded here. The format is specified in `docs/audit.md`.

mod archive;
mod chain;
mod decided;
mod handover;
mod log;
mod open;
mod query;
mod record;
mod segment;
mod spare;
mod stall;
mod strangers;
mod verify;
mod writer;

#[cfg(test)]
mod tests;

pub use archive::{archive_policy_set, load_policy_set};
pub use chain::{Flaw, GENESIS};
pub use decided::Decided;
pub use handover::Moving;
pub use log::{AuditLog, AuditUnavailable, Ticket};
pub use open::AuditError;
pub use query::{Filter, Query, find_decision, query};
pub use record::{Record, name as event_name};
pub use strangers::Stranger;
pub use verify::{BadRecord, VerifyReport, verify};

/// Held locked for as long as a gate writes the log.
const LOCK: &str = "lock";
