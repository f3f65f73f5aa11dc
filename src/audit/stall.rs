//! A disk that hangs reports no error, so nobody hears of it: the writer waits inside a call, and
//! records pile up behind. Whoever looks at the log from time to time notices, at no cost to those
//! who append.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::log::AuditLog;

/// How long a record may wait for the disk. A sync is due after one second.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
pub(super) struct Stall {
    /// The oldest record that is not on the disk, and since when that has been the same one.
    waiting: Mutex<Option<(u64, Instant)>>,
    stalled: AtomicBool,
}

impl Stall {
    pub(super) fn is_stalled(&self) -> bool {
        self.stalled.load(Ordering::Acquire)
    }

    /// Whether that changed.
    fn look(&self, oldest: Option<u64>, full: bool, now: Instant) -> bool {
        let mut waiting = self.waiting.lock();
        *waiting = match (oldest, *waiting) {
            (Some(oldest), Some((same, since))) if oldest == same => Some((same, since)),
            (Some(oldest), _) => Some((oldest, now)),
            (None, _) => None,
        };
        let late = waiting.is_some_and(|(_, since)| now.duration_since(since) >= PATIENCE);
        self.stalled.swap(late || full, Ordering::AcqRel) != (late || full)
    }
}

impl AuditLog {
    /// Finds out whether the disk still takes records. To be called a few times a second; it only
    /// looks at counters.
    pub fn look(&self, now: Instant) {
        let (oldest, full) = self.backlog();
        if self.stall().look(oldest, full, now) {
            self.tell_health();
            if self.stall().is_stalled() {
                tracing::error!("the audit log's disk does not keep up: access may be denied");
            } else {
                tracing::info!("the audit log's disk keeps up again");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_that_waits_too_long_is_a_stall_and_many_that_take_turns_are_none() {
        let (stall, begun) = (Stall::default(), Instant::now());
        let at = |millis| begun + Duration::from_millis(millis);
        for step in 0..100 {
            assert!(!stall.look(Some(step), false, at(step * 4999)));
        }
        let last = 99 * 4999;
        assert!(!stall.look(Some(99), false, at(last + 4999)));
        assert!(stall.look(Some(99), false, at(last + 5000)));
        assert!(stall.is_stalled());
        assert!(!stall.look(Some(99), false, at(last + 9000)), "told once");
        assert!(stall.look(None, false, at(last + 9001)));
        assert!(!stall.is_stalled());
        assert!(!stall.look(Some(99), false, at(last + 9002)), "its time begins anew");
        assert!(stall.look(Some(100), true, at(last + 9003)), "a full queue is one at once");
    }
}
