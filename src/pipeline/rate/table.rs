//! The windows of all callers of one limit, in bounded memory.
//!
//! Callers that fit have an exact window each. When a flood of addresses has taken all room,
//! those who come new share the estimates of a count-min sketch (`pingora_limits`): it never counts
//! too few, so nobody evades a limit by making others forget him, and whoever has a window keeps it
//! exact. It may count too many, so a newcomer in such a flood can be refused early.
//!
//! Of `pingora-limits` this is the part that fits: `Rate` reads a clock of its own, begins anew at
//! fixed moments and counts two callers as one where they collide; `Inflight` estimates, too, where
//! a handful of plain counters is exact.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::OnceLock;

use parking_lot::Mutex;
use pingora_limits::estimator::Estimator;

use super::window::{LIFE, Taken, Window};

const SHARDS: usize = 16;

/// Exact windows of each shard, of about 80 bytes: 65,536 callers and 5 MiB in all.
const ROOM: usize = 4096;

/// Of the sketch: 1 MiB for both periods, made when it is first needed.
const HASHES: usize = 4;
const SLOTS: usize = 16 * 1024;

#[derive(Debug)]
pub struct Table {
    shards: Box<[Mutex<Shard>]>,
    hasher: RandomState,
    room: usize,
    sketch: OnceLock<Mutex<Sketch>>,
}

#[derive(Debug, Default)]
struct Shard {
    windows: HashMap<u128, Window>,
    /// The slice after which windows that are over were last looked for. Once a slice is enough,
    /// and keeps a flood from having every newcomer look through all of them.
    swept: Option<u64>,
}

impl Table {
    pub fn new() -> Self {
        Self::with_room(ROOM)
    }

    fn with_room(room: usize) -> Self {
        let mut shards = Vec::new();
        shards.resize_with(SHARDS, Mutex::default);
        let sketch = OnceLock::new();
        Self { shards: shards.into(), hasher: RandomState::new(), room, sketch }
    }

    /// Counts a request of this caller in this slice of time.
    pub fn take(&self, caller: u128, slice: u64, limit: u32) -> Taken {
        let shard = usize::try_from(self.hasher.hash_one(caller)).unwrap_or(0) % SHARDS;
        if let Some(shard) = self.shards.get(shard)
            && let Some(taken) = self.exact(&mut shard.lock(), caller, slice, limit)
        {
            return taken;
        }
        self.sketch.get_or_init(|| Mutex::new(Sketch::new(slice))).lock().take(caller, slice, limit)
    }

    /// `None` when there is no room for the caller.
    fn exact(&self, shard: &mut Shard, caller: u128, slice: u64, limit: u32) -> Option<Taken> {
        if let Some(window) = shard.windows.get_mut(&caller) {
            return Some(window.take(slice, limit));
        }
        if shard.windows.len() >= self.room && shard.swept != Some(slice) {
            shard.windows.retain(|_, window| !window.is_over(slice));
            shard.swept = Some(slice);
        }
        if shard.windows.len() >= self.room {
            return None;
        }
        // What was estimated before there was room isn't forgotten.
        let passed = self.sketch.get().map_or(0, |sketch| sketch.lock().count(caller, slice));
        let window = shard.windows.entry(caller).or_insert(Window::new(slice, passed));
        Some(window.take(slice, limit))
    }
}

/// Two estimators, for the period that runs and the one before it: together they know at least as
/// far back as a window reaches.
struct Sketch {
    period: u64,
    running: Estimator,
    former: Estimator,
}

impl std::fmt::Debug for Sketch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sketch").field("period", &self.period).finish_non_exhaustive()
    }
}

impl Sketch {
    fn new(slice: u64) -> Self {
        let estimator = || Estimator::new(HASHES, SLOTS);
        Self { period: slice / LIFE, running: estimator(), former: estimator() }
    }

    fn advance(&mut self, slice: u64) {
        let period = slice / LIFE;
        if period <= self.period {
            return;
        }
        if period > self.period + 1 {
            self.running.reset();
        }
        self.former.reset();
        std::mem::swap(&mut self.running, &mut self.former);
        self.period = period;
    }

    fn count(&mut self, caller: u128, slice: u64) -> u32 {
        self.advance(slice);
        let estimate = self.running.get(caller).saturating_add(self.former.get(caller));
        u32::try_from(estimate.max(0)).unwrap_or(u32::MAX)
    }

    fn take(&mut self, caller: u128, slice: u64, limit: u32) -> Taken {
        let count = self.count(caller, slice);
        let passed = count < limit;
        if passed {
            self.running.incr(caller, 1);
        }
        let remaining = limit.saturating_sub(count).saturating_sub(u32::from(passed));
        Taken { passed, remaining, more_in: (self.period + 2) * LIFE }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fills a table of this room with callers from 1,000 on; those who found none.
    fn flood(table: &Table, slice: u64) -> Vec<u128> {
        let room = table.room * SHARDS;
        // So many that no shard is left with room, wherever their hashes lead.
        let callers = 1000..1000 + 64 * u128::try_from(room).unwrap();
        callers
            .filter(|caller| {
                table.take(*caller, slice, 100);
                !table.shards.iter().any(|shard| shard.lock().windows.contains_key(caller))
            })
            .collect()
    }

    #[test]
    fn callers_are_counted_apart() {
        let table = Table::new();
        for _ in 0..3 {
            assert!(table.take(1, 7, 3).passed);
            assert!(table.take(2, 7, 3).passed);
        }
        assert!(!table.take(1, 7, 3).passed);
        assert!(!table.take(2, 7, 3).passed);
        assert!(table.take(3, 7, 3).passed);
    }

    #[test]
    fn a_flood_of_callers_takes_bounded_room_and_makes_nobody_forgotten() {
        let table = Table::with_room(2);
        for _ in 0..3 {
            assert!(table.take(1, 0, 3).passed);
        }
        let crowd = flood(&table, 1);
        assert!(!crowd.is_empty());
        let kept: usize = table.shards.iter().map(|shard| shard.lock().windows.len()).sum();
        assert_eq!(kept, 2 * SHARDS);
        assert!(!table.take(1, 1, 3).passed, "whoever had a window keeps it");
    }

    #[test]
    fn whoever_finds_no_room_is_held_to_the_limit_all_the_same() {
        let table = Table::with_room(1);
        let crowd = flood(&table, 0);
        let late = crowd[0];
        // One request of it was counted in the flood.
        assert!(table.take(late, 0, 3).passed);
        assert!(table.take(late, 0, 3).passed);
        assert!(!table.take(late, 0, 3).passed);
        assert!(!table.take(late, LIFE + LIFE - 1, 3).passed, "nor does a new period free it");
        assert!(table.take(late, 5 * LIFE, 3).passed, "time does");
    }

    #[test]
    fn whoever_gets_room_later_brings_his_count_along() {
        let table = Table::with_room(1);
        let late = flood(&table, 0)[0];
        assert!(table.take(late, LIFE - 1, 3).passed);
        // The flood's windows are over, so there is room.
        assert!(table.take(late, LIFE, 3).passed);
        assert!(table.shards.iter().any(|shard| shard.lock().windows.contains_key(&late)));
        assert!(!table.take(late, LIFE, 3).passed);
    }
}
