//! How many sign in at one provider at once, and how many of them from one address.
//!
//! Anybody can begin a sign-in and come back with a code that he made up. Where the provider hangs,
//! such a sign-in keeps its place for as long as a call may take: so one address gets a part of the
//! places only, and who comes from elsewhere finds one.
//!
//! Whoever finds none waits, first for one of his address's, so that those who wait behind others of
//! their own address stand in nobody else's way.
//!
//! INVARIANT: nothing is kept of an address that neither signs in nor waits to.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::domain::network::Subscriber;

/// Sign-ins at the provider at once. Anybody can begin one, so what is left of the calls is for
/// those that nobody can have made without a session or a token (refreshes, exchanged tokens), and
/// for metadata and keys, which are asked for one at a time.
pub(super) const MOST: usize = 40;

/// Of those, from one address or /64. An office that signs in through one address has as many each
/// time that the provider takes to answer: a hundred a second, if it is a tenth of one.
pub(super) const OF_ONE_ADDRESS: usize = 10;

#[derive(Debug)]
pub struct SignIns {
    places: Arc<Semaphore>,
    addresses: Mutex<HashMap<Subscriber, Arc<Semaphore>>>,
}

impl Default for SignIns {
    fn default() -> Self {
        Self { places: Arc::new(Semaphore::new(MOST)), addresses: Mutex::default() }
    }
}

/// The right to make the calls of one sign-in, for as long as it is held.
#[derive(Debug)]
pub struct SignInPlace {
    _place: OwnedSemaphorePermit,
    _of_address: OwnedSemaphorePermit,
    /// Last: it looks whether anybody else has one of the address's.
    _known: Known,
}

/// An address that is known for as long as somebody holds this.
#[derive(Debug)]
struct Known {
    sign_ins: Arc<SignIns>,
    subscriber: Subscriber,
}

impl Drop for Known {
    fn drop(&mut self) {
        let mut addresses = self.sign_ins.addresses.lock();
        // References are taken under this lock only: the last one is the map's.
        if addresses.get(&self.subscriber).is_some_and(|places| Arc::strong_count(places) == 1) {
            addresses.remove(&self.subscriber);
        }
    }
}

impl SignIns {
    /// Waits for a place. `None` is impossible: nobody closes them.
    pub async fn place(self: &Arc<Self>, source: IpAddr) -> Option<SignInPlace> {
        let subscriber = Subscriber::of(source);
        let known = Known { sign_ins: Arc::clone(self), subscriber };
        let of_address = self.of(subscriber).acquire_owned().await.ok()?;
        let place = Arc::clone(&self.places).acquire_owned().await.ok()?;
        Some(SignInPlace { _place: place, _of_address: of_address, _known: known })
    }

    fn of(&self, subscriber: Subscriber) -> Arc<Semaphore> {
        let mut addresses = self.addresses.lock();
        let places = addresses.entry(subscriber);
        Arc::clone(places.or_insert_with(|| Arc::new(Semaphore::new(OF_ONE_ADDRESS))))
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// Whether there is a place without waiting.
    fn now(sign_ins: &Arc<SignIns>, source: &str) -> Option<SignInPlace> {
        sign_ins.place(address(source)).now_or_never().flatten()
    }

    fn all(sign_ins: &Arc<SignIns>, source: &str) -> Vec<SignInPlace> {
        std::iter::from_fn(|| now(sign_ins, source)).collect()
    }

    #[test]
    fn one_address_has_a_quarter_of_the_places_and_others_have_the_rest() {
        let sign_ins = Arc::new(SignIns::default());
        let greedy = all(&sign_ins, "192.0.2.1");
        assert_eq!(greedy.len(), OF_ONE_ADDRESS);
        assert_eq!(all(&sign_ins, "::ffff:192.0.2.1").len(), 0, "the same in another spelling");
        let subscriber = all(&sign_ins, "2001:db8:1:2::1");
        assert_eq!(subscriber.len(), OF_ONE_ADDRESS);
        assert!(now(&sign_ins, "2001:db8:1:2:ffff::9").is_none(), "the same subscriber");
        let neighbours = all(&sign_ins, "2001:db8:1:3::1");
        let others = all(&sign_ins, "192.0.2.2");
        assert_eq!(neighbours.len() + others.len(), MOST - 2 * OF_ONE_ADDRESS);
        assert!(now(&sign_ins, "192.0.2.3").is_none(), "all are taken");
        drop(greedy);
        assert!(now(&sign_ins, "192.0.2.3").is_some());
    }

    #[tokio::test]
    async fn those_who_wait_behind_their_own_address_stand_in_nobodys_way() {
        let sign_ins = Arc::new(SignIns::default());
        let mut greedy = all(&sign_ins, "192.0.2.1");
        let mut waiting: Vec<_> =
            (0..100).map(|_| Box::pin(sign_ins.place(address("192.0.2.1")))).collect();
        assert!(waiting.iter_mut().all(|place| place.now_or_never().is_none()));
        assert!(now(&sign_ins, "192.0.2.2").is_some());
        drop(greedy.pop());
        assert!(waiting.remove(0).await.is_some(), "in the order in which they came");
    }

    #[test]
    fn nothing_is_kept_of_an_address_that_is_gone() {
        let sign_ins = Arc::new(SignIns::default());
        let first = all(&sign_ins, "192.0.2.1");
        // One that gave up waiting.
        assert!(now(&sign_ins, "192.0.2.1").is_none());
        assert_eq!(sign_ins.addresses.lock().len(), 1);
        drop(first);
        assert!(sign_ins.addresses.lock().is_empty());
        let rest: Vec<_> = ["192.0.2.2", "192.0.2.3", "192.0.2.4", "192.0.2.5"]
            .map(|source| all(&sign_ins, source))
            .into();
        assert!(now(&sign_ins, "192.0.2.6").is_none(), "there are no more");
        assert_eq!(sign_ins.addresses.lock().len(), 4);
        drop(rest);
        assert!(sign_ins.addresses.lock().is_empty());
    }
}
