//! How often somebody may do what costs the gate more than him, and fail.
//!
//! Checking the signature of a token costs more than making one up, and a callback with a code that
//! is none costs a call to the provider and a place in the store. So each subscriber has a budget of
//! failures, and whoever has used his up is turned away before anything of his is read. What goes
//! well is not counted: a provider may end as many sessions as it has, and an office may sign in
//! through one address. What is under way counts until it is known.
//!
//! INVARIANT: who has not failed lately, and has not a budget's worth under way, is never turned
//! away, however many others have: nobody can have a provider's logouts refused but by failing from
//! its own address.
//! INVARIANT: memory is bounded. In a flood of addresses the one that has failed least is forgotten
//! for the next; each newcomer gets a budget for a connection and its handshake, which cost more.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::domain::network::Subscriber;

/// Subscribers that are remembered.
const ROOM: usize = 4096;

/// Each budget is the moment at which it is whole again.
#[derive(Debug)]
pub struct Attempts {
    /// Failures that may come at once.
    at_once: u32,
    /// Until there may be one more.
    every: Duration,
    budgets: Mutex<HashMap<u128, Instant>>,
}

impl Attempts {
    pub fn new(at_once: u32, every: Duration) -> Self {
        Self { at_once, every, budgets: Mutex::default() }
    }

    /// How many seconds somebody has to wait who has failed too often.
    ///
    /// # Errors
    /// The seconds.
    pub fn admit(&self, source: IpAddr, now: Instant) -> Result<(), u64> {
        let whole_at = self.budgets.lock().get(&Subscriber::of(source).bits()).copied();
        let due = whole_at.map_or(Duration::ZERO, |at| at.saturating_duration_since(now));
        match due.checked_sub(self.every * self.at_once.saturating_sub(1)) {
            None | Some(Duration::ZERO) => Ok(()),
            Some(wait) => Err(wait.as_secs() + 1),
        }
    }

    /// Counts a failure.
    pub fn failed(&self, source: IpAddr, now: Instant) {
        let caller = Subscriber::of(source).bits();
        let mut budgets = self.budgets.lock();
        let later = budgets.get(&caller).map_or(now, |whole_at| now.max(*whole_at)) + self.every;
        if budgets.len() >= ROOM && !budgets.contains_key(&caller) {
            budgets.retain(|_, whole_at| *whole_at > now);
            if budgets.len() >= ROOM {
                let least = budgets.iter().min_by_key(|(_, whole_at)| **whole_at);
                let least = least.map(|(caller, _)| *caller);
                least.and_then(|caller| budgets.remove(&caller));
            }
        }
        budgets.insert(caller, later);
    }

    /// Takes a failure back that was counted before it was known how it would go.
    pub fn went_well(&self, source: IpAddr) {
        let caller = Subscriber::of(source).bits();
        if let Some(whole_at) = self.budgets.lock().get_mut(&caller) {
            *whole_at = whole_at.checked_sub(self.every).unwrap_or(*whole_at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT_ONCE: u32 = 30;
    const EVERY: Duration = Duration::from_secs(2);

    fn address(last: u32) -> IpAddr {
        IpAddr::V4(std::net::Ipv4Addr::from(0x0a00_0000 + last))
    }

    fn attempts() -> (Attempts, Instant) {
        (Attempts::new(AT_ONCE, EVERY), Instant::now())
    }

    #[test]
    fn who_fails_too_often_waits_and_others_do_not() {
        let (attempts, now) = attempts();
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
    fn a_flood_of_addresses_takes_no_more_room_and_nobody_else_is_turned_away_for_it() {
        let (attempts, now) = attempts();
        let room = u32::try_from(ROOM).unwrap();
        for _ in 0..AT_ONCE {
            attempts.failed(address(0), now);
        }
        for last in 1..room * 2 {
            attempts.failed(address(last), now);
        }
        assert_eq!(attempts.budgets.lock().len(), ROOM);
        assert_eq!(attempts.admit(address(room * 3), now), Ok(()), "who has not failed");
        assert!(attempts.admit(address(0), now).is_err(), "who failed most is not forgotten");
        for _ in 0..AT_ONCE {
            attempts.failed(address(room * 4), now);
        }
        assert!(attempts.admit(address(room * 4), now).is_err(), "nor is a newcomer who goes on");
        let later = now + EVERY * (AT_ONCE + 1);
        attempts.failed(address(room * 3), later);
        assert_eq!(attempts.budgets.lock().len(), 1, "what is whole is forgotten");
    }

    #[test]
    fn what_goes_well_is_not_counted() {
        let (attempts, now) = attempts();
        for _ in 0..AT_ONCE * 2 {
            assert_eq!(attempts.admit(address(1), now), Ok(()));
            attempts.failed(address(1), now);
            attempts.went_well(address(1));
        }
        for _ in 0..AT_ONCE {
            attempts.failed(address(1), now);
        }
        assert!(attempts.admit(address(1), now).is_err());
    }
}
