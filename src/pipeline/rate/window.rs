//! An exact count of what passed within a window of time.
//!
//! INVARIANT: in no stretch of time as long as the window, wherever it begins, do more requests
//! pass than the limit says. A window that begins anew at fixed moments would let twice as many
//! pass around such a moment.

/// The window is cut into this many slices, and a request counts until its slice and as many
/// after it are over: for at least the window, and at most an eighth longer.
pub const SLICES: u64 = 8;

/// Slices that a request counts in: its own, and those that the window reaches into.
pub const LIFE: u64 = SLICES + 1;

/// What passed, by slice.
#[derive(Clone, Debug)]
pub struct Window {
    newest: u64,
    /// By slice number modulo [`LIFE`].
    counts: [u32; LIFE as usize],
    total: u32,
}

/// Where a caller stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    pub passed: bool,
    /// Requests that may still pass now.
    pub remaining: u32,
    /// The first slice in which more may pass than now.
    pub more_in: u64,
}

impl Window {
    /// A window in which this many have passed already.
    pub fn new(slice: u64, passed: u32) -> Self {
        let mut window = Self { newest: slice, counts: [0; LIFE as usize], total: 0 };
        window.add(slice, passed);
        window
    }

    /// Lets one request pass, if there are fewer than `limit`. One that is refused isn't counted:
    /// whoever goes on hammering gets what the limit gives, no less.
    pub fn take(&mut self, slice: u64, limit: u32) -> Taken {
        self.advance(slice);
        let passed = self.total < limit;
        if passed {
            self.add(self.newest, 1);
        }
        let remaining = limit.saturating_sub(self.total);
        Taken { passed, remaining, more_in: self.oldest() + LIFE }
    }

    /// Whether all that it counts is too old to matter.
    pub fn is_over(&self, slice: u64) -> bool {
        slice >= self.newest + LIFE
    }

    /// Workers see the time in no particular order: one that lags counts as the newest.
    fn advance(&mut self, slice: u64) {
        if slice >= self.newest + LIFE {
            self.counts = [0; LIFE as usize];
            self.total = 0;
            self.newest = slice;
        }
        while self.newest < slice {
            self.newest += 1;
            if let Some(count) = self.counts.get_mut(place(self.newest)) {
                self.total = self.total.saturating_sub(*count);
                *count = 0;
            }
        }
    }

    fn add(&mut self, slice: u64, requests: u32) {
        if let Some(count) = self.counts.get_mut(place(slice)) {
            *count = count.saturating_add(requests);
            self.total = self.total.saturating_add(requests);
        }
    }

    /// The oldest slice that still counts something.
    fn oldest(&self) -> u64 {
        let first = (self.newest + 1).saturating_sub(LIFE);
        let counts = |slice: &u64| self.counts.get(place(*slice)).is_some_and(|count| *count > 0);
        (first..self.newest).find(counts).unwrap_or(self.newest)
    }
}

fn place(slice: u64) -> usize {
    usize::try_from(slice % LIFE).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_nth_request_passes_and_the_next_does_not() {
        let mut window = Window::new(100, 0);
        for nth in 1..=5 {
            let taken = window.take(100, 5);
            assert_eq!(taken, Taken { passed: true, remaining: 5 - nth, more_in: 109 });
        }
        let refused = Taken { passed: false, remaining: 0, more_in: 109 };
        assert_eq!(window.take(100, 5), refused);
        assert_eq!(window.take(108, 5), refused, "eight slices later the window isn't over");
        assert_eq!(window.take(109, 5).remaining, 4);
    }

    #[test]
    fn what_passed_is_given_back_slice_by_slice() {
        let mut window = Window::new(10, 0);
        assert!(window.take(10, 3).passed);
        assert!(window.take(14, 3).passed);
        assert!(window.take(14, 3).passed);
        assert_eq!(window.take(15, 3), Taken { passed: false, remaining: 0, more_in: 19 });
        assert_eq!(window.take(19, 3), Taken { passed: true, remaining: 0, more_in: 23 });
        assert_eq!(window.take(22, 3), Taken { passed: false, remaining: 0, more_in: 23 });
        assert_eq!(window.take(23, 3), Taken { passed: true, remaining: 1, more_in: 28 });
    }

    #[test]
    fn a_worker_whose_time_lags_changes_nothing_for_the_better() {
        let mut window = Window::new(20, 0);
        assert!(window.take(20, 1).passed);
        assert!(!window.take(3, 1).passed);
        assert!(!window.take(20, 1).passed);
    }

    #[test]
    fn a_limit_that_was_lowered_holds_at_once() {
        let mut window = Window::new(0, 9);
        assert_eq!(window.take(0, 5), Taken { passed: false, remaining: 0, more_in: 9 });
        assert_eq!(window.take(0, 10), Taken { passed: true, remaining: 0, more_in: 9 });
    }

    proptest! {
        /// Against the plain definition: a request passes when fewer than the limit passed in this
        /// slice and the eight before it.
        #[test]
        fn it_counts_what_a_list_of_all_requests_counts(
            steps in prop::collection::vec(0_u64..12, 1..200),
            limit in 1_u32..6,
        ) {
            let mut window = Window::new(0, 0);
            let mut passed: Vec<u64> = Vec::new();
            let mut slice = 0;
            for step in steps {
                slice += if step > 9 { step } else { step / 4 };
                let recent = passed.iter().filter(|past| slice - **past < LIFE).count();
                let taken = window.take(slice, limit);
                prop_assert_eq!(taken.passed, recent < limit as usize);
                if taken.passed {
                    passed.push(slice);
                }
                let oldest = passed.iter().find(|past| slice - **past < LIFE).unwrap();
                prop_assert_eq!(taken.more_in, oldest + LIFE);
            }
        }
    }
}
