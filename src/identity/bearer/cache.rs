//! Tokens that passed, by their hash.
//!
//! Only tokens with a good signature are put in, so that what a stranger makes up takes no room.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;

use super::AccessToken;
use crate::domain::clock::Timestamp;
use crate::domain::id::SessionId;

const STRIPES: usize = 16;

/// Tokens kept in each stripe: 16,384 in all.
pub(super) const MAX_IN_STRIPE: usize = 1024;

type Stripe = HashMap<SessionId, Arc<AccessToken>>;

pub(super) struct Cache(Vec<RwLock<Stripe>>);

impl Default for Cache {
    fn default() -> Self {
        Self((0..STRIPES).map(|_| RwLock::default()).collect())
    }
}

impl std::fmt::Debug for Cache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cache").finish_non_exhaustive()
    }
}

impl Cache {
    fn of(&self, id: &SessionId) -> Option<&RwLock<Stripe>> {
        self.0.get(id.0.first().map_or(0, |byte| usize::from(*byte) % STRIPES))
    }

    pub(super) fn get(&self, id: &SessionId) -> Option<Arc<AccessToken>> {
        self.of(id)?.read().get(id).cloned()
    }

    /// Puts a token in. A full stripe loses what has expired, and else everything: those who are
    /// still there pay for one more signature each.
    pub(super) fn insert(&self, token: &Arc<AccessToken>, now: Timestamp) {
        let Some(stripe) = self.of(&token.id) else { return };
        let mut stripe = stripe.write();
        if stripe.len() >= MAX_IN_STRIPE {
            stripe.retain(|_, token| now < token.expires && now < token.recheck);
            if stripe.len() >= MAX_IN_STRIPE {
                stripe.clear();
            }
        }
        stripe.insert(token.id, Arc::clone(token));
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.iter().map(|stripe| stripe.read().len()).sum()
    }
}
