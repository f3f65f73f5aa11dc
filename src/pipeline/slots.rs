//! How many requests may be on their way at once: on a route, and to a set of upstream endpoints.
//!
//! What is full answers 503 at once instead of queueing: a backend that is late doesn't get more
//! to be late with, and the gate holds a bounded number of requests whatever happens behind it.
//!
//! A WebSocket is no request: it rests most of the time and stays for hours, so it has a bound of
//! its own and leaves the requests' places alone.
//!
//! Nobody takes every place. As long as half of them are free, they are anybody's and nothing is
//! counted by caller. Of the other half a caller may have more only while he has fewer of it than
//! are free (the dynamic thresholds of Choudhury and Hahne, 1998): one who asks for all there is
//! ends with three quarters of the whole, each further one leaves half of what he found, and
//! whoever has none gets one as long as there is one.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use super::refusal::Refusal;
use crate::config::model::Route;

/// Counters of what each caller has of the contested half. Two callers that share one share what
/// it allows; which ones do is a secret of this process.
const CALLERS: usize = 1024;

/// Places that several may share, and what counts along.
#[derive(Debug, Default)]
pub(super) struct Slots {
    own: Arc<Counter>,
    /// What was under way before a reload and counts here, too. Nobody takes places of these any
    /// more but requests that began under the former configuration.
    before: Box<[Arc<Counter>]>,
}

/// Counts what is on its way, over all workers, by the references to one token: taking a place and
/// giving it back are one atomic step each.
///
/// INVARIANT: nothing but a [`Slot`] holds a second reference.
#[derive(Debug, Default)]
pub(super) struct Counter(Arc<Token>);

/// The token, with what the callers have of the contested half, once there was a contest.
#[derive(Debug, Default)]
struct Token(OnceLock<Callers>);

#[derive(Debug)]
struct Callers {
    hasher: RandomState,
    have: Box<[AtomicU32]>,
}

impl Callers {
    fn new() -> Self {
        Self { hasher: RandomState::new(), have: (0..CALLERS).map(|_| AtomicU32::new(0)).collect() }
    }

    /// One more for the caller, if he has fewer than this; the number of his counter.
    fn take(&self, caller: &str, fewer_than: usize) -> Option<usize> {
        let number = usize::try_from(self.hasher.hash_one(caller)).unwrap_or(0) % CALLERS;
        let bound = u32::try_from(fewer_than).unwrap_or(u32::MAX);
        let more = |has: u32| (has < bound).then(|| has.saturating_add(1));
        let taken = self.have.get(number)?.fetch_update(Ordering::AcqRel, Ordering::Acquire, more);
        taken.ok().map(|_| number)
    }
}

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Full {
    /// For nobody.
    All,
    /// For one who has so many.
    Caller,
}

impl Counter {
    /// Places that are taken.
    pub(super) fn under_way(&self) -> usize {
        Arc::strong_count(&self.0).saturating_sub(1)
    }
}

impl Slots {
    /// Counts what is still under way there as well.
    pub(super) fn counting(before: impl Iterator<Item = Arc<Counter>>) -> Self {
        Self { own: Arc::default(), before: before.collect() }
    }

    pub(super) fn own(&self) -> &Arc<Counter> {
        &self.own
    }

    pub(super) fn before(&self) -> &[Arc<Counter>] {
        &self.before
    }

    /// Never more than `limit`, of which one caller never gets all if they are two or more. Two
    /// that race for the last place may both find none.
    fn take(&self, limit: usize, caller: &str) -> Result<Slot, Full> {
        let mut slot = Slot { token: Arc::clone(&self.own.0), counter: None };
        let before: usize = self.before.iter().map(|before| before.under_way()).sum();
        let taken = self.own.under_way().saturating_sub(1).saturating_add(before);
        // More may be under way than the limit, where a reload has lowered it.
        let free = limit.saturating_sub(taken);
        if free == 0 {
            return Err(Full::All);
        }
        if taken >= limit.saturating_sub(1) / 2 {
            let callers = slot.token.0.get_or_init(Callers::new);
            slot.counter = Some(callers.take(caller, free).ok_or(Full::Caller)?);
        }
        Ok(slot)
    }
}

/// One place, free again when it is dropped: at the end of the answer's body, however it ends.
#[derive(Debug)]
struct Slot {
    token: Arc<Token>,
    /// The caller's, if it was taken of the contested half.
    counter: Option<usize>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        let Some(number) = self.counter else { return };
        if let Some(counter) = self.token.0.get().and_then(|callers| callers.have.get(number)) {
            counter.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

/// The places of a route. They outlive a reload: what was on its way before still is.
#[derive(Clone, Debug, Default)]
pub struct Places {
    requests: Arc<Slots>,
    websockets: Arc<Slots>,
    pub(super) upstream: Arc<Slots>,
}

impl Places {
    /// Whether anything is under way on the route.
    pub(super) fn busy(&self) -> bool {
        self.requests.own.under_way() > 0 || self.websockets.own.under_way() > 0
    }

    /// Takes a place for a request of this principal, or for a WebSocket.
    ///
    /// # Errors
    /// `Busy` when there is none, or none for him.
    pub fn take(&self, route: &Route, websocket: bool, caller: &str) -> Result<Held, Refusal> {
        let take = |slots: &Slots, limit, full| {
            slots.take(limit, caller).map_err(|why| match why {
                Full::All => Refusal::Busy(full),
                Full::Caller => Refusal::Busy("caller"),
            })
        };
        if websocket {
            let slot = take(&self.websockets, route.bounds.max_websockets, "websockets")?;
            return Ok(Held { _route: slot, _upstream: None });
        }
        let own = take(&self.requests, route.bounds.max_in_flight, "route")?;
        let upstream = match route.bounds.max_upstream_in_flight {
            Some(limit) => Some(take(&self.upstream, limit, "upstream")?),
            None => None,
        };
        Ok(Held { _route: own, _upstream: upstream })
    }
}

/// The places of one request, given back when it is dropped.
#[derive(Debug)]
pub struct Held {
    _route: Slot,
    _upstream: Option<Slot>,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes as many as there are for this caller.
    fn all_for(slots: &Slots, limit: usize, caller: &str) -> Vec<Slot> {
        std::iter::from_fn(|| slots.take(limit, caller).ok()).collect()
    }

    /// One of a thousand shares a counter with somebody; hardly ever do all of these.
    fn has_one_for_others(slots: &Slots, limit: usize) -> bool {
        ["modest", "shy", "late", "quiet"].iter().any(|caller| slots.take(limit, caller).is_ok())
    }

    #[test]
    fn a_place_is_free_again_however_its_request_ends() {
        let slots = Slots::default();
        let first = slots.take(2, "a").unwrap();
        let second = slots.take(2, "b").unwrap();
        assert_eq!(slots.take(2, "c").err(), Some(Full::All));
        drop(first);
        let third = slots.take(2, "c").unwrap();
        assert!(slots.take(2, "a").is_err());
        drop((second, third));
        assert_eq!(slots.own.under_way(), 0, "those who found none left nothing behind");
        let callers = slots.own.0.0.get().unwrap();
        assert!(callers.have.iter().all(|has| has.load(Ordering::Acquire) == 0));
    }

    #[test]
    fn one_who_asks_for_every_place_leaves_some_to_others() {
        for (limit, most) in [(1, 1), (2, 1), (3, 2), (4, 3), (100, 75), (4096, 3072)] {
            let slots = Slots::default();
            let greedy = all_for(&slots, limit, "greedy");
            assert_eq!(greedy.len(), most, "of {limit}");
            let last = slots.take(limit, "greedy").unwrap_err();
            assert_eq!(last, if limit == 1 { Full::All } else { Full::Caller });
            assert_eq!(has_one_for_others(&slots, limit), limit > 1, "of {limit}");
            drop(greedy);
            assert_eq!(all_for(&slots, limit, "greedy").len(), most, "nothing stuck to it");
        }
    }

    #[test]
    fn several_who_ask_for_every_place_leave_some_too() {
        let slots = Slots::default();
        let names = ["first", "second", "third"];
        let taken: Vec<_> = names.iter().map(|name| all_for(&slots, 1000, name)).collect();
        let held: usize = taken.iter().map(Vec::len).sum();
        // Two that share a counter have less between them.
        assert!((870..=940).contains(&held), "{held}");
        assert!(has_one_for_others(&slots, 1000));
    }

    #[test]
    fn whoever_comes_while_half_is_free_costs_no_counting() {
        let slots = Slots::default();
        let half: Vec<_> = (0..49).map(|_| slots.take(100, "a").unwrap()).collect();
        assert!(slots.own.0.0.get().is_none() && half.iter().all(|slot| slot.counter.is_none()));
    }
}
