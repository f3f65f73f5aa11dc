//! What was worked out for combinations of principal, resource and action, found by the address of
//! the first two.
//!
//! INVARIANT: a pair holds the principal and the resource whose addresses it is found under, so
//! nobody else can have these addresses while it is here.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::sync::Arc;

use super::engine::Pair;
use crate::domain::query::{AccessQuery, Action};

/// Addresses of the shared principal and resource, and the action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PairKey {
    principal: usize,
    resource: usize,
    action: Action,
}

impl PairKey {
    pub(super) fn of(query: &AccessQuery) -> Self {
        Self {
            principal: Arc::as_ptr(&query.principal).addr(),
            resource: Arc::as_ptr(&query.resource).addr(),
            action: query.action,
        }
    }
}

impl Hash for PairKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_usize(self.principal);
        state.write_usize(self.resource);
        state.write_usize(self.action as usize);
    }
}

/// Mixes addresses. Nobody outside chooses those.
#[derive(Default)]
struct Mixed(u64);

impl Hasher for Mixed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_usize(usize::from(*byte));
        }
    }

    fn write_usize(&mut self, word: usize) {
        let word = u64::try_from(word).unwrap_or(u64::MAX);
        let mixed = (self.0 ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ (mixed >> 32);
    }
}

#[derive(Debug, Default)]
pub(super) struct Pairs {
    known: HashMap<PairKey, Arc<Pair>, BuildHasherDefault<Mixed>>,
    /// Entities in all of them.
    entities: usize,
}

impl Pairs {
    pub(super) fn get(&self, key: &PairKey) -> Option<Arc<Pair>> {
        self.known.get(key).cloned()
    }

    /// At most so many of those that somebody asked for since the last `sets`.
    pub(super) fn asked(&self, sets: u8, most: usize) -> Vec<(PairKey, Arc<Pair>)> {
        let asked = self.known.iter().filter(|(_, pair)| pair.unasked() < sets);
        asked.take(most).map(|(key, pair)| (*key, Arc::clone(pair))).collect()
    }

    /// Keeps a pair; while there are more than `most` entities, about an eighth of the others go,
    /// whichever they are.
    pub(super) fn insert(&mut self, key: PairKey, pair: Arc<Pair>, most: usize) {
        self.entities += pair.entities();
        while self.entities > most && !self.known.is_empty() {
            let mut number = 0_usize;
            let mut entities = self.entities;
            self.known.retain(|_, pair| {
                number += 1;
                let stays = number % 8 != 1;
                if !stays {
                    entities = entities.saturating_sub(pair.entities());
                }
                stays
            });
            self.entities = entities;
        }
        if let Some(former) = self.known.insert(key, pair) {
            self.entities = self.entities.saturating_sub(former.entities());
        }
    }
}
