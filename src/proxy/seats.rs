//! How many connections each address has on a listener.

use std::collections::HashMap;
use std::collections::hash_map::{Entry, RandomState};
use std::hash::BuildHasher;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::domain::connection::SourceAddr;
use crate::domain::network::Subscriber;

/// More maps than cores, so that workers seldom meet at one.
const SHARDS: usize = 16;

/// The counts of one listener, over all workers. It holds no more entries than there are
/// connections.
#[derive(Debug)]
pub struct Seats {
    limit: usize,
    /// Keyed with a secret of this process: nobody can aim at one shard.
    hasher: RandomState,
    shards: [Mutex<HashMap<Subscriber, usize>>; SHARDS],
}

impl Seats {
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, hasher: RandomState::new(), shards: Default::default() })
    }

    /// `None`: the address has as many connections as one may have.
    pub fn take(self: &Arc<Self>, source: SourceAddr) -> Option<Seat> {
        let holder = Subscriber::of(source.0);
        let mut counts = self.shard(holder)?.lock();
        let count = counts.entry(holder).or_insert(0);
        if *count >= self.limit {
            return None;
        }
        *count += 1;
        drop(counts);
        Some(Seat { seats: Arc::clone(self), holder })
    }

    fn shard(&self, holder: Subscriber) -> Option<&Mutex<HashMap<Subscriber, usize>>> {
        let hash = self.hasher.hash_one(holder);
        let shard = usize::try_from(hash).unwrap_or_default() % SHARDS;
        self.shards.get(shard)
    }
}

/// One connection of an address.
#[derive(Debug)]
pub struct Seat {
    seats: Arc<Seats>,
    holder: Subscriber,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let Some(shard) = self.seats.shard(self.holder) else { return };
        if let Entry::Occupied(mut entry) = shard.lock().entry(self.holder) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    fn source(text: &str) -> SourceAddr {
        SourceAddr(text.parse().unwrap())
    }

    #[test]
    fn each_address_has_its_own_count_and_a_closed_connection_is_none_of_it() {
        let seats = Seats::new(2);
        let (one, other) = (source("192.0.2.1"), source("192.0.2.2"));
        let first = seats.take(one).unwrap();
        let _second = seats.take(one).unwrap();
        assert!(seats.take(one).is_none());
        assert!(seats.take(other).is_some());
        drop(first);
        let _again = seats.take(one).unwrap();
        assert!(seats.take(one).is_none());
    }

    #[test]
    fn nothing_is_remembered_of_an_address_that_is_gone() {
        let seats = Seats::new(2);
        for last in 1..200 {
            drop(seats.take(SourceAddr(IpAddr::from([192, 0, 2, last]))).unwrap());
        }
        assert!(seats.shards.iter().all(|shard| shard.lock().is_empty()));
    }

    #[test]
    fn an_ipv6_host_has_one_count_for_all_its_addresses() {
        let seats = Seats::new(1);
        let _seat = seats.take(source("2001:db8:1:2::1")).unwrap();
        assert!(seats.take(source("2001:db8:1:2:ffff::9")).is_none());
        assert!(seats.take(source("2001:db8:1:3::1")).is_some());
    }
}
