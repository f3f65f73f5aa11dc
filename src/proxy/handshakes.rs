//! TLS handshakes under way, bounded.
//!
//! Past the bound one is given up instead of the newest being refused: the oldest of the subscriber
//! that has the most under way, if that is more than an eighth of the bound, and else the oldest of
//! all. A client that means it is through after a round trip or two, so under a flood of half-open
//! ones that is nearly always one of those; and one address alone never costs another its handshake.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::domain::network::Subscriber;

/// The handshakes of one listener, over all workers.
#[derive(Debug)]
pub struct Handshakes {
    limit: usize,
    open: Mutex<Open>,
}

/// Whose handshakes count together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Holder {
    Subscriber(Subscriber),
    /// One of a proxy, whose clients are many: it counts for itself.
    Alone(u64),
}

#[derive(Debug, Default)]
struct Open {
    next: u64,
    count: usize,
    /// Of each holder, in the order of their beginning.
    holders: HashMap<Holder, BTreeMap<u64, Arc<Notify>>>,
    /// How many each has and the number of his oldest. Last is who has the most; of several, who
    /// has the oldest of all.
    ranks: BTreeSet<(usize, Reverse<u64>, Holder)>,
    /// Whose each is, the oldest first.
    owners: BTreeMap<u64, Holder>,
}

impl Open {
    /// Changes what a holder has, and his rank with it.
    fn change<T>(
        &mut self,
        holder: Holder,
        change: impl FnOnce(&mut BTreeMap<u64, Arc<Notify>>) -> T,
    ) -> T {
        let rank = |has: &BTreeMap<u64, Arc<Notify>>| {
            has.first_key_value().map(|(oldest, _)| (has.len(), Reverse(*oldest), holder))
        };
        let has = self.holders.entry(holder).or_default();
        let before = rank(has);
        let changed = change(has);
        let after = rank(has);
        if let Some(before) = &before {
            self.ranks.remove(before);
        }
        self.count = self.count + after.map_or(0, |rank| rank.0) - before.map_or(0, |rank| rank.0);
        match after {
            Some(after) => {
                self.ranks.insert(after);
            }
            None => {
                self.holders.remove(&holder);
            }
        }
        changed
    }
}

impl Handshakes {
    /// `limit` is at least 1.
    pub fn new(limit: usize) -> Self {
        Self { limit: limit.max(1), open: Mutex::default() }
    }

    /// A new one, which always has room. `subscriber` is nobody for a proxy of many clients.
    pub fn begin(&self, subscriber: Option<Subscriber>) -> Handshake<'_> {
        let signal = Arc::new(Notify::new());
        let mut open = self.open.lock();
        let number = open.next;
        open.next += 1;
        let holder = subscriber.map_or(Holder::Alone(number), Holder::Subscriber);
        open.change(holder, |has| has.insert(number, Arc::clone(&signal)));
        open.owners.insert(number, holder);
        // This one is the newest of all, so it isn't the one to go.
        if open.count > self.limit
            && let Some(gives_way) = self.gives_way(&open)
            && let Some((number, oldest)) = open.change(gives_way, BTreeMap::pop_first)
        {
            open.owners.remove(&number);
            oldest.notify_one();
        }
        Handshake { of: self, holder, number, signal }
    }

    /// Who loses his oldest: whoever has most, if that is much, and else who has the oldest of all.
    /// From many addresses a flood has one each, and may not throw out an office behind one.
    fn gives_way(&self, open: &Open) -> Option<Holder> {
        let (count, _, most) = open.ranks.last()?;
        let much = (self.limit / 8).max(2);
        if *count > much { Some(*most) } else { open.owners.values().next().copied() }
    }
}

/// A handshake under way; it ends with this.
#[derive(Debug)]
pub struct Handshake<'a> {
    of: &'a Handshakes,
    holder: Holder,
    number: u64,
    signal: Arc<Notify>,
}

impl Handshake<'_> {
    /// Resolves when another one needs the room more.
    pub async fn given_up(&self) {
        self.signal.notified().await;
    }
}

impl Drop for Handshake<'_> {
    fn drop(&mut self) {
        let number = self.number;
        let mut open = self.of.open.lock();
        open.owners.remove(&number);
        open.change(self.holder, |has| has.remove(&number));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    fn is_given_up(handshake: &Handshake<'_>) -> bool {
        handshake.given_up().now_or_never().is_some()
    }

    fn subscriber(last: u8) -> Option<Subscriber> {
        Some(Subscriber::of([192, 0, 2, last].into()))
    }

    #[test]
    fn the_oldest_makes_room_for_the_newest() {
        let handshakes = Handshakes::new(2);
        let first = handshakes.begin(subscriber(9));
        let second = handshakes.begin(subscriber(1));
        assert!(!is_given_up(&first));
        let third = handshakes.begin(subscriber(5));
        assert!(is_given_up(&first));
        assert!(!is_given_up(&second));
        assert!(!is_given_up(&third));
        drop((first, third));
        let fourth = handshakes.begin(subscriber(6));
        assert!(!is_given_up(&second), "one that ended has left its room");
        drop((second, fourth));
        let open = handshakes.open.lock();
        assert!(open.holders.is_empty() && open.ranks.is_empty() && open.count == 0);
    }

    #[test]
    fn a_flood_from_one_address_gives_up_its_own_and_nobody_elses() {
        let handshakes = Handshakes::new(10);
        let others: Vec<_> = (1..=8).map(|last| handshakes.begin(subscriber(last))).collect();
        let flood: Vec<_> = (0..1000).map(|_| handshakes.begin(subscriber(200))).collect();
        assert!(!others.iter().any(is_given_up));
        let left: Vec<_> = flood.iter().map(|handshake| !is_given_up(handshake)).collect();
        assert_eq!(left.iter().filter(|is_left| **is_left).count(), 2);
        assert!(left.ends_with(&[true, true]), "the oldest went first");
    }

    #[test]
    fn a_flood_from_many_addresses_does_not_throw_out_those_who_share_one() {
        let handshakes = Handshakes::new(100);
        let flood: Vec<_> = (0..98).map(|last| handshakes.begin(subscriber(last))).collect();
        let office: Vec<_> = (0..12).map(|_| handshakes.begin(subscriber(200))).collect();
        assert!(!office.iter().any(is_given_up));
        let (oldest, others) = flood.split_at(10);
        assert!(oldest.iter().all(is_given_up), "they are given up in their order");
        assert!(!others.iter().any(is_given_up));
        drop((flood, office));
        let open = handshakes.open.lock();
        assert!(open.owners.is_empty() && open.count == 0);
    }

    #[test]
    fn the_clients_of_a_proxy_are_not_one_holder() {
        let handshakes = Handshakes::new(10);
        let proxied: Vec<_> = (0..8).map(|_| handshakes.begin(None)).collect();
        let flood: Vec<_> = (0..50).map(|_| handshakes.begin(subscriber(200))).collect();
        assert!(!proxied.iter().any(is_given_up));
        drop((proxied, flood));
        assert_eq!(handshakes.open.lock().count, 0);
    }
}
