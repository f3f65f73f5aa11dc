//! State of which each worker has its own copy, so that workers don't wait for one another and
//! don't fight over cache lines.
//!
//! A worker says which copy is its own with [`claim`], once; all other threads share the last one.
//! Each copy is behind a lock, which a worker nearly always finds free and in its own cache.

use parking_lot::{Mutex, MutexGuard};
use std::cell::Cell;
use std::fmt;

thread_local! {
    static CLAIMED: Cell<Option<usize>> = const { Cell::new(None) };
}

/// From here on the calling thread uses the copies of this number.
pub fn claim(number: usize) {
    CLAIMED.set(Some(number));
}

/// Copies of a `T`: one for each of the machine's cores, and one for all who claimed none.
pub struct Sharded<T> {
    copies: Box<[Padded<T>]>,
}

/// On cache lines of its own (two, because processors fetch them in pairs).
#[repr(align(128))]
struct Padded<T>(Mutex<T>);

impl<T> fmt::Debug for Sharded<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sharded").field("copies", &self.copies.len()).finish_non_exhaustive()
    }
}

impl<T: Default> Default for Sharded<T> {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self { copies: (0..=cores).map(|_| Padded(Mutex::default())).collect() }
    }
}

impl<T> Sharded<T> {
    /// The calling thread's copy. What it holds must not be locked again by the same thread.
    pub fn mine(&self) -> Option<MutexGuard<'_, T>> {
        let last = self.copies.len().checked_sub(1)?;
        let own = CLAIMED.get().and_then(|number| number.checked_rem(last)).unwrap_or(last);
        self.copies.get(own).map(|copy| copy.0.lock())
    }

    /// Each copy in turn.
    pub fn all(&self) -> impl Iterator<Item = MutexGuard<'_, T>> {
        self.copies.iter().map(|copy| copy.0.lock())
    }

    /// How many copies there are.
    pub fn copies(&self) -> usize {
        self.copies.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_finds_in_its_copy_what_it_put_there_and_others_do_not() {
        let names = Sharded::<Vec<usize>>::default();
        std::thread::scope(|scope| {
            for worker in 0..names.copies() - 1 {
                let names = &names;
                scope.spawn(move || {
                    claim(worker);
                    names.mine().unwrap().push(worker);
                    names.mine().unwrap().push(worker);
                    assert_eq!(*names.mine().unwrap(), [worker, worker]);
                });
            }
            scope.spawn(|| assert!(names.mine().unwrap().is_empty(), "nothing was claimed"));
        });
        assert_eq!(names.all().map(|names| names.len()).sum::<usize>(), 2 * (names.copies() - 1));
    }
}
