//! The one thread that writes.
//!
//! INVARIANT: `tail` holds every byte since the last successful fdatasync. After a failed sync
//! the kernel may have dropped dirty pages and call the next sync a success, so what was not
//! synced is written once more before it is synced again. A write goes to the exact place where
//! its bytes belong, so that repeating it changes nothing.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::chain::Chain;
use super::log::{Progress, Queue, Shared, WriterIs};
use super::open::Opened;
use super::spare::Spare;
use crate::config::model;

/// How long a buffered record may wait for company.
const GATHER: Duration = Duration::from_millis(5);

/// How long a written record may wait for a sync that nobody asked for.
const SYNC_INTERVAL: Duration = Duration::from_secs(1);

/// Unsynced bytes at which a sync is due all the same: what is kept in memory for repeating.
const TAIL_BYTES: usize = 8 * 1024 * 1024;

const FIRST_BACKOFF: Duration = Duration::from_millis(50);
const LAST_BACKOFF: Duration = Duration::from_secs(1);

/// Attempts that are left when the log is to be closed and can't be written.
const LAST_ATTEMPTS: u32 = 3;

/// What can fail, so that tests can make it.
pub(super) trait Medium: Send {
    fn write(&mut self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()>;
    fn sync(&mut self, file: &File) -> io::Result<()>;
}

pub(super) struct Disk;

impl Medium for Disk {
    fn write(&mut self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        file.write_all_at(bytes, offset)
    }

    fn sync(&mut self, file: &File) -> io::Result<()> {
        file.sync_data()
    }
}

pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    medium: Box<dyn Medium>,
    pub(super) directory: PathBuf,
    pub(super) spare: Spare,
    segment_bytes: u64,
    /// Held for its lock.
    pub(super) lock: Option<File>,
    pub(super) file: File,
    pub(super) chain: Chain,
    /// Records in the chain that this process didn't queue: another had the log for a while.
    pub(super) foreign: u64,
    /// Length of the file that is on the disk for certain.
    pub(super) synced_length: u64,
    /// Everything behind that.
    tail: Vec<u8>,
    /// How much of `tail` the file holds, in whole records.
    whole: usize,
    /// How much of `tail` need not be written again; less than `whole` after a failed sync.
    good: usize,
    last_sync: Instant,
}

impl Drop for Writer {
    /// Also when the thread panics: nobody may wait for a writer that is gone.
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        state.dead = true;
        let lost = state.next != self.shared.progress.borrow().synced;
        drop(state);
        if lost || std::thread::panicking() {
            self.shared.healthy.store(false, Ordering::Release);
            self.shared.metrics.audit_healthy.set(0);
        }
        self.shared.progress.send_modify(|progress| progress.failed = true);
    }
}

impl Writer {
    pub(super) fn new(
        shared: Arc<Shared>,
        config: &model::Audit,
        opened: Opened,
        medium: Box<dyn Medium>,
    ) -> Self {
        Self {
            shared,
            medium,
            directory: config.directory.clone(),
            spare: Spare::new(&config.directory),
            segment_bytes: config.segment_bytes,
            lock: Some(opened.lock),
            file: opened.file,
            chain: opened.chain,
            foreign: 0,
            synced_length: opened.length,
            tail: Vec::new(),
            whole: 0,
            good: 0,
            last_sync: Instant::now(),
        }
    }

    pub(super) fn run(mut self) {
        let mut batch = Queue::default();
        loop {
            let closing = self.collect(&mut batch);
            if !batch.is_empty() {
                if self.length() >= self.segment_bytes && !self.insist(Self::rotate) {
                    return;
                }
                let start = self.tail.len();
                batch.drain(|at, event| self.chain.append(at, event, &mut self.tail));
                if !self.insist(Self::write) {
                    return;
                }
                self.publish(start);
            }
            if (closing || self.sync_is_due()) && !self.insist(Self::sync) {
                return;
            }
            if closing {
                return;
            }
            let departure = self.shared.state.lock().departure.take();
            if let Some(departure) = departure
                && !self.depart(departure)
            {
                return;
            }
        }
    }

    /// Sequence of the next record to be written, as the queue counts.
    pub(super) fn reached(&self) -> u64 {
        self.chain.next.saturating_sub(self.foreign)
    }

    /// Sleeps until there is something to do, then a moment longer for more of it, unless
    /// somebody waits. Returns whether these are the last records.
    pub(super) fn collect(&mut self, batch: &mut Queue) -> bool {
        let shared = Arc::clone(&self.shared);
        let synced = shared.progress.borrow().synced;
        let mut state = shared.state.lock();
        while state.queue.is_empty() && !state.is_called(synced) {
            state.writer = WriterIs::Idle;
            if self.tail.is_empty() {
                shared.wake.wait(&mut state);
            } else if shared.wake.wait_until(&mut state, self.last_sync + SYNC_INTERVAL).timed_out()
            {
                break;
            }
        }
        let deadline = Instant::now() + GATHER;
        while !state.queue.is_empty() && !state.is_called(synced) {
            state.writer = WriterIs::Gathering;
            let timed_out = shared.wake.wait_until(&mut state, deadline).timed_out();
            // Somebody else's wake-up sets the state back.
            if timed_out || state.writer == WriterIs::Busy {
                break;
            }
        }
        state.writer = WriterIs::Busy;
        std::mem::swap(&mut state.queue, batch);
        state.closing
    }

    fn sync_is_due(&self) -> bool {
        if self.tail.is_empty() {
            return false;
        }
        let synced = self.shared.progress.borrow().synced;
        self.shared.state.lock().wanted > synced
            || self.tail.len() > TAIL_BYTES
            || self.last_sync.elapsed() >= SYNC_INTERVAL
    }

    /// Does it until it succeeds. False when the log is closing and it still does not.
    pub(super) fn insist(&mut self, step: fn(&mut Self) -> io::Result<()>) -> bool {
        let mut backoff = FIRST_BACKOFF;
        let mut left = LAST_ATTEMPTS;
        while let Err(error) = step(self) {
            self.alarm(&error);
            let mut state = self.shared.state.lock();
            // Nobody waits for a log that can't be written.
            state.departure = None;
            if state.closing {
                left = left.saturating_sub(1);
                if left == 0 {
                    let records = state.next.saturating_sub(self.shared.progress.borrow().synced);
                    tracing::error!(records, "the audit log is closed without its last records");
                    return false;
                }
            }
            state.writer = WriterIs::Busy;
            let _ = self.shared.wake.wait_for(&mut state, backoff);
            backoff = (backoff * 2).min(LAST_BACKOFF);
        }
        true
    }

    pub(super) fn alarm(&self, error: &io::Error) {
        let metrics = &self.shared.metrics;
        metrics.audit_write_errors.inc();
        metrics.audit_healthy.set(0);
        self.shared.healthy.store(false, Ordering::Release);
        tracing::error!(
            %error,
            directory = %self.directory.display(),
            "the audit log can't be written; access is denied when its queue is full"
        );
        // Whoever waits is told now: a request is not held until the disk has room again.
        self.shared.progress.send_modify(|progress| progress.failed = true);
    }

    pub(super) fn recovered(&self) {
        if !self.shared.healthy.swap(true, Ordering::AcqRel) {
            self.shared.metrics.audit_healthy.set(1);
            tracing::info!("the audit log can be written again");
        }
    }

    fn length(&self) -> u64 {
        self.synced_length.saturating_add(u64::try_from(self.tail.len()).unwrap_or(u64::MAX))
    }

    fn offset(&self, in_tail: usize) -> u64 {
        self.synced_length.saturating_add(u64::try_from(in_tail).unwrap_or(u64::MAX))
    }

    fn write(&mut self) -> io::Result<()> {
        let Some(bytes) = self.tail.get(self.good..).filter(|bytes| !bytes.is_empty()) else {
            return Ok(());
        };
        let offset = self.offset(self.good);
        if let Err(error) = self.medium.write(&self.file, bytes, offset) {
            // A record that was cut in two would look like damage for as long as this lasts.
            let _ = self.file.set_len(self.offset(self.whole));
            return Err(error);
        }
        self.good = self.tail.len();
        self.whole = self.tail.len();
        let reached = self.reached();
        let already = self.shared.written.swap(reached, Ordering::AcqRel);
        let metrics = &self.shared.metrics;
        metrics.audit_records.inc_by(reached.saturating_sub(already));
        let next = self.shared.state.lock().next;
        let queued = next.saturating_sub(reached);
        metrics.audit_queue.set(i64::try_from(queued).unwrap_or(i64::MAX));
        Ok(())
    }

    pub(super) fn sync(&mut self) -> io::Result<()> {
        self.write()?;
        if !self.tail.is_empty() {
            let began = Instant::now();
            if let Err(error) = self.medium.sync(&self.file) {
                self.good = 0;
                return Err(error);
            }
            self.shared.metrics.audit_sync_duration.observe(began.elapsed().as_secs_f64());
            self.synced_length = self.length();
            self.tail.clear();
            self.whole = 0;
            self.good = 0;
        }
        self.last_sync = Instant::now();
        self.recovered();
        let synced = self.reached();
        self.shared.progress.send_replace(Progress { synced, failed: false });
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        self.sync()?;
        self.file = self.spare.segment(self.chain.next)?;
        self.synced_length = 0;
        Ok(())
    }

    /// Hands the lines that were just written to whoever follows the log.
    fn publish(&self, start: usize) {
        if self.shared.lines.receiver_count() == 0 {
            return;
        }
        let written = self.tail.get(start..).unwrap_or_default();
        for line in written.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            if let Ok(line) = std::str::from_utf8(line) {
                // An error says that nobody follows any more.
                let _ = self.shared.lines.send(line.into());
            }
        }
    }
}
