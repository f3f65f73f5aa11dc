//! Counts that each worker keeps for itself and that are added up where it matters.

use std::sync::atomic::{AtomicU64, Ordering};

/// A counter on the way of every request.
///
/// INVARIANT: a slot is written by its own worker alone, so a load and a store do; no worker
/// waits for another's cache line.
#[derive(Debug)]
pub(super) struct Tally(Box<[Slot]>);

/// As wide as a cache line.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Slot(AtomicU64);

impl Tally {
    pub(super) fn new(workers: usize) -> Self {
        Self((0..workers.max(1)).map(|_| Slot::default()).collect())
    }

    pub(super) fn add(&self, worker: usize) {
        if let Some(Slot(count)) = self.0.get(worker).or_else(|| self.0.first()) {
            count.store(count.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
        }
    }

    pub(super) fn sum(&self) -> u64 {
        self.0.iter().map(|slot| slot.0.load(Ordering::Relaxed)).sum()
    }
}
