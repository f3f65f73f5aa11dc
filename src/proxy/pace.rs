//! How slow a client may be.
//!
//! Only the time counts that the client itself is waited for: an upstream that takes its time over
//! a body costs the client nothing. In it the client has to move so many bytes a second on average,
//! a grace period aside. So a connection can't be held for less than that costs, however its bytes
//! are spread; a pause costs those nothing who were quick before.

use std::time::Duration;

/// What a client has to keep up with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Bytes per second; any pace will do where it is zero.
    pub rate: u64,
    /// How long may be waited on top of what the bytes pay for.
    pub grace: Duration,
}

impl Pace {
    /// Any pace at all.
    pub const ANY: Self = Self { rate: 0, grace: Duration::ZERO };

    /// For how much longer a client may be waited for that has moved `bytes` and was waited for
    /// that long.
    pub fn left(&self, bytes: u64, waited: Duration) -> Duration {
        if self.rate == 0 {
            return Duration::MAX;
        }
        let paid = Duration::from_millis(bytes.saturating_mul(1000) / self.rate);
        self.grace.saturating_add(paid).saturating_sub(waited)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_pay_for_waiting_and_nothing_is_due_without_a_rate() {
        let second = Duration::from_secs(1);
        let pace = Pace { rate: 100, grace: 20 * second };
        assert_eq!(pace.left(0, Duration::ZERO), 20 * second);
        assert_eq!(pace.left(50, 20 * second), second / 2);
        assert_eq!(pace.left(50, 21 * second), Duration::ZERO);
        assert_eq!(pace.left(10_000, 21 * second), 99 * second);
        assert!(pace.left(u64::MAX, second) > Duration::from_secs(1 << 40));
        assert_eq!(Pace::ANY.left(0, 1000 * second), Duration::MAX);
    }
}
