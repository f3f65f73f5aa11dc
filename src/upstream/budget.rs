//! How many requests may be sent a second time.
//!
//! A retry is load on top of load, and it comes when the upstream has least room for it. So
//! retries are a share of what the upstream still answers, with a small number each second for
//! upstreams that are asked seldom.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::config::model::RetryBudget;

/// What the share is counted over.
const WINDOW: Duration = Duration::from_secs(10);

/// Of one upstream. Nothing is counted here but retries themselves.
#[derive(Debug)]
pub(super) struct Budget {
    rules: RetryBudget,
    window: Mutex<Option<Window>>,
}

#[derive(Debug)]
struct Window {
    since: Instant,
    /// Requests that the upstream had answered before.
    answered: u64,
    retries: u64,
}

impl Budget {
    pub(super) fn new(rules: RetryBudget) -> Self {
        Self { rules, window: Mutex::new(None) }
    }

    /// Takes one retry out of the budget, if there is one left. `answered` is how many requests
    /// the upstream has answered up to now.
    pub(super) fn take(&self, answered: u64, now: Instant) -> bool {
        let mut window = self.window.lock();
        let window = match &mut *window {
            // The count falls when an address leaves.
            Some(window)
                if now.saturating_duration_since(window.since) < WINDOW
                    && window.answered <= answered =>
            {
                window
            }
            window => window.insert(Window { since: now, answered, retries: 0 }),
        };
        let seconds = now.saturating_duration_since(window.since).as_secs().saturating_add(1);
        let share = answered
            .saturating_sub(window.answered)
            .saturating_mul(u64::from(self.rules.percent))
            .checked_div(100)
            .unwrap_or(0);
        let minimum = seconds.saturating_mul(u64::from(self.rules.minimum_per_second));
        if window.retries >= share.saturating_add(minimum) {
            return false;
        }
        window.retries = window.retries.saturating_add(1);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(percent: u32, minimum_per_second: u32) -> Budget {
        Budget::new(RetryBudget { percent, minimum_per_second })
    }

    fn taken(budget: &Budget, tries: usize, answered: u64, now: Instant) -> usize {
        (0..tries).filter(|_| budget.take(answered, now)).count()
    }

    #[test]
    fn retries_are_a_share_of_what_is_answered_in_the_window() {
        let (budget, start) = (budget(20, 0), Instant::now());
        assert_eq!(taken(&budget, 10, 5_000, start), 0, "what was before earns nothing");
        assert_eq!(taken(&budget, 100, 5_100, start), 20);
        assert_eq!(taken(&budget, 100, 5_150, start), 10);
        assert_eq!(taken(&budget, 100, 5_150, start + WINDOW), 0, "nor does the last window");
    }

    #[test]
    fn a_few_each_second_are_always_left() {
        let (budget, start) = (budget(0, 3), Instant::now());
        assert_eq!(taken(&budget, 10, 0, start), 3);
        assert_eq!(taken(&budget, 10, 0, start + Duration::from_millis(999)), 0);
        assert_eq!(taken(&budget, 10, 0, start + Duration::from_secs(1)), 3);
        assert_eq!(taken(&budget, 10, 0, start + WINDOW), 3);
    }

    #[test]
    fn a_budget_of_nothing_allows_no_retry() {
        assert_eq!(taken(&budget(0, 0), 10, 1_000, Instant::now()), 0);
    }
}
