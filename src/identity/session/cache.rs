//! Sessions in memory, for the hot path: striped maps under the session's id.
//!
//! The id is a SHA-256, so its bytes are the hash: nobody can choose ids that collide, because
//! only ids of sessions that exist are put in here.
//!
//! INVARIANT: a session that somebody holds, be it as it was before a refresh, or that has ended but
//! is still in the store, stays.
//! [`super::Sessions::is_alive`] and the promise that an ended session never comes back rest on it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::RwLock;

use super::Session;
use crate::domain::id::SessionId;

pub(super) const STRIPES: usize = 64;

/// How many candidates are looked at to find one to evict.
const SAMPLE: usize = 16;

/// Takes the first eight bytes of what is hashed already.
#[derive(Default)]
struct FirstBytes(u64);

impl Hasher for FirstBytes {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        // Skips the first byte, which chose the stripe, and the length prefix, which has no entropy.
        if let Some(Ok(first)) = bytes.get(8..16).map(<[u8; 8]>::try_from) {
            self.0 = u64::from_le_bytes(first);
        }
    }

    fn write_usize(&mut self, _: usize) {}
}

type Stripe = HashMap<SessionId, Arc<Session>, BuildHasherDefault<FirstBytes>>;

pub(super) struct Cache {
    stripes: Vec<RwLock<Stripe>>,
    most_in_stripe: usize,
    length: AtomicUsize,
}

impl std::fmt::Debug for Cache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cache").field("length", &self.len()).finish_non_exhaustive()
    }
}

impl Cache {
    /// `most` is where eviction begins. Held sessions may go beyond it; connections bound those.
    pub(super) fn new(most: usize) -> Self {
        Self {
            stripes: (0..STRIPES).map(|_| RwLock::default()).collect(),
            most_in_stripe: (most / STRIPES).max(1),
            length: AtomicUsize::new(0),
        }
    }

    pub(super) fn stripe(id: &SessionId) -> usize {
        id.0.first().map_or(0, |byte| usize::from(*byte) % STRIPES)
    }

    fn of(&self, id: &SessionId) -> Option<&RwLock<Stripe>> {
        self.stripes.get(Self::stripe(id))
    }

    pub(super) fn get(&self, id: &SessionId) -> Option<Arc<Session>> {
        self.of(id)?.read().get(id).cloned()
    }

    /// Puts a session in; the one that is there already, under the same id, stays.
    pub(super) fn insert(&self, session: Arc<Session>) {
        let Some(stripe) = self.of(&session.id) else { return };
        let mut stripe = stripe.write();
        if stripe.len() >= self.most_in_stripe {
            self.evict(&mut stripe);
        }
        if let Entry::Vacant(vacant) = stripe.entry(session.id) {
            vacant.insert(session);
            self.length.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Puts a session in the place of the one with the same id, unless that one is of later.
    pub(super) fn replace(&self, session: &Arc<Session>) {
        let Some(stripe) = self.of(&session.id) else { return };
        match stripe.write().entry(session.id) {
            Entry::Occupied(mut there) => {
                if !session.is_before(there.get()) {
                    there.insert(Arc::clone(session));
                }
            }
            Entry::Vacant(vacant) => {
                vacant.insert(Arc::clone(session));
                self.length.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Drops the longest unused of a few that nobody holds.
    fn evict(&self, stripe: &mut Stripe) {
        let oldest = stripe
            .values()
            .filter(|session| !is_held(session) && !session.has_ended())
            .take(SAMPLE)
            .min_by_key(|session| session.last_seen())
            .map(|session| session.id);
        if let Some(id) = oldest
            && stripe.remove(&id).is_some()
        {
            self.length.fetch_sub(1, Ordering::Relaxed);
        }
    }

    pub(super) fn remove(&self, id: &SessionId) {
        if self.of(id).is_some_and(|stripe| stripe.write().remove(id).is_some()) {
            self.length.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Drops all that nobody holds, but for those that have ended and are in the store still.
    pub(super) fn drop_unheld(&self) {
        for stripe in &self.stripes {
            let mut stripe = stripe.write();
            let before = stripe.len();
            stripe.retain(|_, session| is_held(session) || session.has_ended());
            self.length.fetch_sub(before - stripe.len(), Ordering::Relaxed);
        }
    }

    pub(super) fn matching(&self, wanted: &dyn Fn(&Session) -> bool) -> Vec<Arc<Session>> {
        let mut found = Vec::new();
        for stripe in &self.stripes {
            let stripe = stripe.read();
            found.extend(stripe.values().filter(|session| wanted(session)).cloned());
        }
        found
    }

    pub(super) fn len(&self) -> usize {
        self.length.load(Ordering::Relaxed)
    }
}

/// Whether anybody but the cache has it, or one that it took the place of.
fn is_held(session: &Arc<Session>) -> bool {
    Arc::strong_count(session) > 1 || Arc::strong_count(&session.shared) > 1
}
