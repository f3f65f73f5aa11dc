//! The log goes to a newer process while records are still being made here.
//!
//! One process writes a log at a time. So the writer writes and syncs what there is and unlocks it;
//! the newer process opens it, verifies its end and goes on. From then on the writer here sends
//! its records there, and tells whoever waits for one that it is on the disk when the other side
//! says so. Records that are made in between wait in the queue.
//!
//! INVARIANT: a record is acknowledged when it was synced by the process that has the log, and by
//! nobody else's word. When that process is gone, nothing is acknowledged any more.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::log::{AuditLog, Progress, Queue, Ticket, WriterIs};
use super::open::{self, AuditError};
use super::writer::Writer;
use crate::domain::clock::Timestamp;
use crate::store::{read_frame, write_frame};

/// Until the next question to a process that could not keep records.
const AGAIN: Duration = Duration::from_millis(100);

/// Until the next try to queue a record in a full queue.
const ROOM: Duration = Duration::from_millis(5);

/// How the writer is told to let go of the log.
pub(super) struct Departure {
    released: mpsc::Sender<()>,
    next: mpsc::Receiver<Next>,
}

enum Next {
    Here { opened: mpsc::Sender<Result<(), AuditError>> },
    There(UnixStream),
}

/// A log that is closed and on its way. Records wait in the queue meanwhile. Dropped, the log is
/// closed for good.
#[derive(Debug)]
pub struct Moving(mpsc::Sender<Next>);

/// Text of records in one message, in bytes, unless a single one is longer. Escaped it may be twice
/// as long, which is far less than a frame takes.
const PIECE: usize = 4 * 1024 * 1024;

/// What a record without text takes in a message, at most.
const EMPTY: usize = 64;

/// Records, as one process sends them to the other. None asks whether all before are kept.
#[derive(Debug, Serialize, Deserialize)]
struct Batch(Vec<(Timestamp, String)>);

#[derive(Debug, Serialize, Deserialize)]
enum Kept {
    /// These and all before are on the disk.
    Durable,
    /// They are taken, and not on the disk.
    NotYet,
}

impl AuditLog {
    /// Writes and syncs what is queued, and unlocks the log for another process. Blocks.
    /// `None`: it can't be written at the moment, or there is no writer any more.
    pub fn release(&self) -> Option<Moving> {
        let (released, is_released) = mpsc::channel();
        let (next, is_next) = mpsc::channel();
        {
            let mut state = self.shared.state.lock();
            if state.dead || state.closing {
                return None;
            }
            state.departure = Some(Departure { released, next: is_next });
            self.shared.rouse(&mut state, &[WriterIs::Idle, WriterIs::Gathering]);
        }
        is_released.recv().ok()?;
        Some(Moving(next))
    }

    /// Keeps the records that a predecessor sends until it is gone. Blocks.
    ///
    /// # Errors
    /// It ended in the middle of a word, or the log here was closed before.
    pub fn take_in(&self, stream: &UnixStream) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().build()?;
        let mut last = None;
        loop {
            let Batch(records) = match read_frame(stream) {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                read => read?,
            };
            for (at, event) in records {
                last = Some(self.insist(at, event.as_bytes())?);
            }
            let durable = last.is_none_or(|sequence| {
                let ticket = Ticket { sequence, shared: &self.shared };
                runtime.block_on(ticket.durable()).is_ok()
            });
            write_frame(stream, if durable { &Kept::Durable } else { &Kept::NotYet })?;
        }
    }

    /// Queues a record as soon as there is room: it was promised elsewhere that it will be kept.
    fn insist(&self, at: Timestamp, event: &[u8]) -> io::Result<u64> {
        loop {
            if let Ok(ticket) = self.enqueue(at, event, self.shared.capacity) {
                return Ok(ticket.sequence());
            }
            let state = self.shared.state.lock();
            if state.dead || state.closing {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            drop(state);
            std::thread::sleep(ROOM);
        }
    }
}

impl Moving {
    /// The other process has the log and takes records on `stream`.
    pub fn there(self, stream: UnixStream) {
        // An error says that the writer is gone; it has said so.
        let _ = self.0.send(Next::There(stream));
    }

    /// The other process doesn't want it after all. Blocks.
    ///
    /// # Errors
    /// It can't be opened again; every record is then refused.
    pub fn back(self) -> Result<(), AuditError> {
        let (opened, is_open) = mpsc::channel();
        let _ = self.0.send(Next::Here { opened });
        is_open.recv().unwrap_or(Ok(()))
    }
}

impl Writer {
    /// Lets go of the log, and goes on as it is told. False: there is nothing more to write.
    pub(super) fn depart(&mut self, departure: Departure) -> bool {
        if let Err(error) = self.sync() {
            // Not while it can't be written: the other process couldn't either.
            self.alarm(&error);
            return true;
        }
        self.lock = None;
        let _ = departure.released.send(());
        match departure.next.recv() {
            Ok(Next::Here { opened }) => {
                let result = self.come_back();
                let is_back = result.is_ok();
                let _ = opened.send(result);
                is_back
            }
            Ok(Next::There(stream)) => {
                self.forward(&stream);
                false
            }
            Err(_) => false,
        }
    }

    /// The other process may have written, a record of its start for one.
    fn come_back(&mut self) -> Result<(), AuditError> {
        let before = self.chain.next;
        let opened = open::open(&self.directory)?;
        self.foreign += opened.chain.next.saturating_sub(before);
        self.lock = Some(opened.lock);
        self.file = opened.file;
        self.chain = opened.chain;
        self.synced_length = opened.length;
        Ok(())
    }

    /// Sends records to the process that has the log, until this log is closed.
    fn forward(&mut self, stream: &UnixStream) {
        let mut batch = Queue::default();
        let mut reached = self.reached();
        loop {
            let closing = self.collect(&mut batch);
            // There is nothing here that could be given away once more.
            drop(self.shared.state.lock().departure.take());
            let waits = self.shared.state.lock().wanted > self.shared.progress.borrow().synced;
            if batch.is_empty() && !waits {
                if closing {
                    return;
                }
                continue;
            }
            let mut last = Ok(Kept::Durable);
            for piece in pieces(&mut batch) {
                let records = u64::try_from(piece.0.len()).unwrap_or(u64::MAX);
                reached = reached.saturating_add(records);
                last = send(stream, &piece);
                self.shared.written.store(reached, Ordering::Release);
                match &last {
                    Ok(Kept::Durable) => {
                        let progress = Progress { synced: reached, failed: false };
                        self.shared.progress.send_replace(progress);
                        self.recovered();
                    }
                    Ok(Kept::NotYet) => {
                        self.alarm(&io::Error::other("the process that has it can't write it"));
                    }
                    Err(error) => {
                        self.alarm(error);
                        return;
                    }
                }
            }
            if closing {
                return;
            }
            if matches!(last, Ok(Kept::NotYet)) {
                // Asked again, and until then nobody is kept waiting.
                std::thread::sleep(AGAIN);
            }
        }
    }
}

/// All records of a batch as messages, of which there is one even without a record.
fn pieces(batch: &mut Queue) -> Vec<Batch> {
    let (mut pieces, mut piece, mut length) = (Vec::new(), Vec::new(), 0_usize);
    batch.drain(|at, event| {
        let more = event.len().saturating_add(EMPTY);
        if length.saturating_add(more) > PIECE && !piece.is_empty() {
            pieces.push(Batch(std::mem::take(&mut piece)));
            length = 0;
        }
        length = length.saturating_add(more);
        // What was serialised here is UTF-8.
        piece.push((at, String::from_utf8_lossy(event).into_owned()));
    });
    pieces.push(Batch(piece));
    pieces
}

fn send(stream: &UnixStream, records: &Batch) -> io::Result<Kept> {
    write_frame(stream, records)?;
    read_frame(stream)
}
