//! How often somebody may send what looks right and is not.
//!
//! Checking a signature costs more than asking for it. So each subscriber has a budget of failures,
//! and whoever has used his up is turned away before anything of his is read. What goes well is
//! never counted: a provider may end as many sessions as it has.
//!
//! INVARIANT: memory is bounded. In a flood of addresses newcomers share one budget.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::domain::network::Subscriber;

/// Failures that may come at once, and how long it takes until there may be one more.
const AT_ONCE: u32 = 30;
const EVERY: Duration = Duration::from_secs(2);

/// Subscribers with a budget of their own.
const ROOM: usize = 1024;

/// Each budget is the moment at which it is whole again.
#[derive(Debug, Default)]
pub struct Attempts(Mutex<Budgets>);

#[derive(Debug, Default)]
struct Budgets {
    own: HashMap<u128, Instant>,
    others: Option<Instant>,
}

impl Budgets {
    fn whole_at(&self, caller: u128) -> Option<Instant> {
        let is_full = || self.own.len() >= ROOM;
        self.own.get(&caller).copied().or_else(|| self.others.filter(|_| is_full()))
    }
}

impl Attempts {
    /// How many seconds somebody has to wait who has failed too often.
    ///
    /// # Errors
    /// The seconds.
    pub fn admit(&self, source: IpAddr, now: Instant) -> Result<(), u64> {
        let whole_at = self.0.lock().whole_at(Subscriber::of(source).bits());
        let due = whole_at.map_or(Duration::ZERO, |at| at.saturating_duration_since(now));
        match due.checked_sub(EVERY * (AT_ONCE - 1)) {
            None | Some(Duration::ZERO) => Ok(()),
            Some(wait) => Err(wait.as_secs() + 1),
        }
    }

    /// Counts a failure.
    pub fn failed(&self, source: IpAddr, now: Instant) {
        let caller = Subscriber::of(source).bits();
        let mut budgets = self.0.lock();
        let later = budgets.whole_at(caller).unwrap_or(now).max(now) + EVERY;
        if budgets.own.len() >= ROOM && !budgets.own.contains_key(&caller) {
            budgets.own.retain(|_, whole_at| *whole_at > now);
        }
        if budgets.own.len() < ROOM || budgets.own.contains_key(&caller) {
            budgets.own.insert(caller, later);
        } else {
            budgets.others = Some(later);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u32) -> IpAddr {
        IpAddr::V4(std::net::Ipv4Addr::from(0x0a00_0000 + last))
    }

    #[test]
    fn who_fails_too_often_waits_and_others_do_not() {
        let (attempts, now) = (Attempts::default(), Instant::now());
        for _ in 0..AT_ONCE {
            assert_eq!(attempts.admit(address(1), now), Ok(()));
            attempts.failed(address(1), now);
        }
        let wait = attempts.admit(address(1), now).unwrap_err();
        assert_eq!(attempts.admit(address(2), now), Ok(()));
        assert_eq!(attempts.admit(address(1), now + Duration::from_secs(wait)), Ok(()));
        assert!(attempts.admit(address(1), now + EVERY - Duration::from_millis(1)).is_err());
    }

    #[test]
    fn a_flood_of_addresses_takes_no_more_room_and_shares_one_budget() {
        let (attempts, now) = (Attempts::default(), Instant::now());
        let room = u32::try_from(ROOM).unwrap();
        for last in 0..room * 2 {
            attempts.failed(address(last), now);
        }
        assert_eq!(attempts.0.lock().own.len(), ROOM);
        assert!(attempts.admit(address(room * 3), now).is_err());
        assert_eq!(attempts.admit(address(1), now), Ok(()), "who has one keeps it");
        let later = now + EVERY * (room + 1);
        attempts.failed(address(room * 3), later);
        assert_eq!(attempts.0.lock().own.len(), 1, "what is whole is forgotten");
    }
}
