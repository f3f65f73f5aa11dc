//! The side that requests see: queue a record, wait for it to be on the disk.
//!
//! The queue is bounded by records, counted from the append to the write. It is a buffer behind a
//! mutex that is held for a copy; the writer takes the whole buffer at once. A producer wakes the
//! writer only when it sleeps on an empty queue, so under load a record costs no system call.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use parking_lot::{Condvar, Mutex};
use tokio::sync::{broadcast, watch};

use super::decided::{Decided, Kept};
use super::handover::Departure;
use super::open::{self, AuditError};
use super::record;
use super::stall::Stall;
use super::strangers::Strangers;
use super::writer::{Disk, Medium, Writer};
use crate::config::model;
use crate::domain::clock::Timestamp;
use crate::domain::event::Event;
use crate::metrics::Metrics;
use crate::sharded::Sharded;

/// Lines that a subscriber may lag behind before it misses some.
const SUBSCRIBER_LAG: usize = 1024;

/// The record can't be kept; so what it is about must not happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the audit log can't keep records at the moment")]
pub struct AuditUnavailable;

/// The log of a running gate. Dropping it closes it.
pub struct AuditLog {
    pub(super) shared: Arc<Shared>,
    kept: Sharded<Kept>,
    writer: Mutex<Option<JoinHandle<()>>>,
    stall: Stall,
    strangers: Strangers,
}

impl fmt::Debug for AuditLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuditLog").field("healthy", &self.healthy()).finish_non_exhaustive()
    }
}

/// What producers and the writer share.
pub(super) struct Shared {
    pub state: Mutex<State>,
    /// Wakes the writer.
    pub wake: Condvar,
    /// Sequence of the first record that is not yet written.
    pub written: AtomicU64,
    pub healthy: AtomicBool,
    pub progress: watch::Sender<Progress>,
    pub lines: broadcast::Sender<Arc<str>>,
    pub metrics: Arc<Metrics>,
    pub capacity: u64,
}

pub(super) struct State {
    pub queue: Queue,
    /// Sequence of the next record to be queued. The writer writes in queue order, so a record's
    /// sequence is known from here on.
    pub next: u64,
    /// Somebody waits until every record before this sequence is durable.
    pub wanted: u64,
    pub writer: WriterIs,
    pub closing: bool,
    /// No writer is there any more.
    pub dead: bool,
    /// The log is to be given to another process.
    pub departure: Option<Departure>,
}

impl State {
    /// Whether the writer has something to do besides waiting for records.
    pub fn is_called(&self, synced: u64) -> bool {
        self.closing || self.wanted > synced || self.departure.is_some()
    }
}

/// Records in the order in which they came, their text in one piece, so that a record costs no
/// allocation of its own.
#[derive(Default)]
pub(super) struct Queue {
    text: Vec<u8>,
    /// When each happened, and where its text ends.
    records: Vec<(Timestamp, usize)>,
}

/// A buffer larger than this, in bytes, is given back once it is empty.
const BUFFER: usize = 4 * 1024 * 1024;

impl Queue {
    fn push(&mut self, at: Timestamp, event: &[u8]) {
        self.text.extend_from_slice(event);
        self.records.push((at, self.text.len()));
    }

    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Takes every record out, oldest first.
    pub fn drain(&mut self, mut take: impl FnMut(Timestamp, &[u8])) {
        let mut start = 0;
        for (at, end) in self.records.drain(..) {
            take(at, self.text.get(start..end).unwrap_or_default());
            start = end;
        }
        self.text.clear();
        if self.text.capacity() > BUFFER {
            *self = Self::default();
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WriterIs {
    Busy,
    /// Asleep until there is something to do.
    Idle,
    /// Waiting a moment for more records to write at once.
    Gathering,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Progress {
    /// Every record before this sequence is on the disk.
    pub synced: u64,
    /// The last attempt to get further failed.
    pub failed: bool,
}

impl Shared {
    /// Wakes the writer if it is in one of these states. The caller holds the lock.
    pub fn rouse(&self, state: &mut State, when: &[WriterIs]) {
        if when.contains(&state.writer) {
            state.writer = WriterIs::Busy;
            self.wake.notify_one();
        }
    }

    fn outstanding(&self, state: &State) -> u64 {
        state.next.saturating_sub(self.written.load(Ordering::Acquire))
    }
}

impl AuditLog {
    /// Opens the log in a directory, which is made with mode 0700 where it is missing; cuts off
    /// an unfinished last line, verifies the last file, and starts the writer. Blocks; for the
    /// start.
    ///
    /// # Errors
    /// When another process writes it, others than its owner may enter the directory, a file
    /// can't be read or written, or the end of the log is damaged.
    pub fn open(config: &model::Audit, metrics: Arc<Metrics>) -> Result<Self, AuditError> {
        Self::open_on(config, metrics, Box::new(Disk))
    }

    pub(super) fn open_on(
        config: &model::Audit,
        metrics: Arc<Metrics>,
        medium: Box<dyn Medium>,
    ) -> Result<Self, AuditError> {
        let opened = open::open(&config.directory)?;
        let next = opened.chain.next;
        metrics.audit_healthy.set(1);
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                queue: Queue::default(),
                next,
                wanted: 0,
                writer: WriterIs::Busy,
                closing: false,
                dead: false,
                departure: None,
            }),
            wake: Condvar::new(),
            written: AtomicU64::new(next),
            healthy: AtomicBool::new(true),
            progress: watch::Sender::new(Progress { synced: next, failed: false }),
            lines: broadcast::Sender::new(SUBSCRIBER_LAG),
            metrics,
            capacity: u64::try_from(config.queue).unwrap_or(u64::MAX),
        });
        let writer = Writer::new(Arc::clone(&shared), config, opened, medium);
        let writer = std::thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || writer.run())
            .map_err(|cause| AuditError::Io { path: config.directory.clone(), cause })?;
        Ok(Self {
            shared,
            kept: Sharded::default(),
            writer: Mutex::new(Some(writer)),
            stall: Stall::default(),
            strangers: Strangers::default(),
        })
    }

    /// Queues a record. Never blocks on I/O. `at` is when it happened, which the record carries.
    ///
    /// # Errors
    /// When the queue is full, the event is larger than 512 KiB, or the log was closed. The
    /// caller must not let happen what the event is about.
    pub fn append(&self, at: Timestamp, event: Event) -> Result<Ticket<'_>, AuditUnavailable> {
        self.counted(self.serialise(at, &event, self.shared.capacity))
    }

    /// As [`append`](Self::append), for the record of a decision.
    ///
    /// # Errors
    /// As for `append`.
    pub fn append_decision(
        &self,
        at: Timestamp,
        decided: &Decided<'_>,
    ) -> Result<Ticket<'_>, AuditUnavailable> {
        let Some(mut kept) = self.kept.mine() else { return Err(AuditUnavailable) };
        let event = kept.encode(decided).map_err(|_| AuditUnavailable);
        self.counted(event.and_then(|event| self.enqueue(at, event, self.shared.capacity)))
    }

    fn counted<T>(&self, outcome: Result<T, AuditUnavailable>) -> Result<T, AuditUnavailable> {
        outcome.inspect_err(|_| self.shared.metrics.audit_denied.inc())
    }

    /// As [`append`](Self::append), while less than half of the queue is taken, for what isn't lost
    /// without room.
    pub(super) fn append_if_room(&self, at: Timestamp, event: &Event) -> bool {
        self.serialise(at, event, self.shared.capacity / 2).is_ok()
    }

    fn serialise(
        &self,
        at: Timestamp,
        event: &Event,
        room: u64,
    ) -> Result<Ticket<'_>, AuditUnavailable> {
        let event = record::encode(event).map_err(|_| AuditUnavailable)?;
        self.enqueue(at, &event, room)
    }

    pub(super) fn enqueue(
        &self,
        at: Timestamp,
        event: &[u8],
        room: u64,
    ) -> Result<Ticket<'_>, AuditUnavailable> {
        if event.len() > record::MAX_EVENT {
            return Err(AuditUnavailable);
        }
        let shared = &self.shared;
        let mut state = shared.state.lock();
        let outstanding = shared.outstanding(&state);
        if state.dead || state.closing || outstanding >= room {
            return Err(AuditUnavailable);
        }
        let sequence = state.next;
        state.next += 1;
        state.queue.push(at, event);
        if outstanding >= shared.capacity / 2 {
            shared.rouse(&mut state, &[WriterIs::Idle, WriterIs::Gathering]);
        } else {
            shared.rouse(&mut state, &[WriterIs::Idle]);
        }
        shared.metrics.audit_queue.set(i64::try_from(outstanding + 1).unwrap_or(i64::MAX));
        drop(state);
        Ok(Ticket { sequence, shared })
    }

    /// The records' lines as they are written, for a live view. A receiver that lags more than
    /// 1,024 lines behind misses some, and is told so.
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<str>> {
        self.shared.lines.subscribe()
    }

    /// Whether the last attempt to write succeeded, and none takes too long.
    pub fn healthy(&self) -> bool {
        self.shared.healthy.load(Ordering::Acquire) && !self.stall.is_stalled()
    }

    pub(super) fn strangers(&self) -> &Strangers {
        &self.strangers
    }

    pub(super) fn stall(&self) -> &Stall {
        &self.stall
    }

    /// The oldest record that is not on the disk, and whether the queue is full.
    pub(super) fn backlog(&self) -> (Option<u64>, bool) {
        let synced = self.shared.progress.borrow().synced;
        let state = self.shared.state.lock();
        let full = self.shared.outstanding(&state) >= self.shared.capacity;
        ((state.next > synced).then_some(synced), full)
    }

    pub(super) fn tell_health(&self) {
        self.shared.metrics.audit_healthy.set(i64::from(self.healthy()));
    }

    /// Writes and syncs what is queued, and ends the writer. Later appends are refused. Blocks.
    ///
    /// # Errors
    /// When records could not be written.
    pub fn close(&self) -> Result<(), AuditUnavailable> {
        let mut state = self.shared.state.lock();
        state.closing = true;
        state.writer = WriterIs::Busy;
        self.shared.wake.notify_one();
        drop(state);
        if let Some(writer) = self.writer.lock().take() {
            writer.join().map_err(|_| AuditUnavailable)?;
        }
        let next = self.shared.state.lock().next;
        let synced = self.shared.progress.borrow().synced;
        if synced == next { Ok(()) } else { Err(AuditUnavailable) }
    }
}

#[cfg(test)]
impl AuditLog {
    pub(super) fn shared_for_tests(&self) -> &Shared {
        &self.shared
    }
}

impl Drop for AuditLog {
    fn drop(&mut self) {
        // The writer has said already what it could not keep.
        let _ = self.close();
    }
}

/// A queued record. Dropping it leaves the record to be written in its turn.
#[must_use = "where the route wants durable records, wait for `durable`"]
pub struct Ticket<'a> {
    pub(super) sequence: u64,
    pub(super) shared: &'a Shared,
}

impl fmt::Debug for Ticket<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket").field("sequence", &self.sequence).finish_non_exhaustive()
    }
}

impl Ticket<'_> {
    /// The record's number in the log.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Waits until the record is on the disk (fdatasync). Records that wait together share one
    /// sync. Works on any runtime.
    ///
    /// # Errors
    /// When writing or syncing failed. The record may still be written later.
    pub async fn durable(self) -> Result<(), AuditUnavailable> {
        let mut progress = self.shared.progress.subscribe();
        if progress.borrow_and_update().synced > self.sequence {
            return Ok(());
        }
        {
            let mut state = self.shared.state.lock();
            state.wanted = state.wanted.max(self.sequence + 1);
            self.shared.rouse(&mut state, &[WriterIs::Idle, WriterIs::Gathering]);
        }
        let sequence = self.sequence;
        let reached = progress.wait_for(|now| now.synced > sequence || now.failed).await;
        if reached.is_ok_and(|now| now.synced > sequence) {
            return Ok(());
        }
        self.shared.metrics.audit_denied.inc();
        Err(AuditUnavailable)
    }
}
