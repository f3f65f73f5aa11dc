//! Where what is kept.
//!
//! A space is cut into 16 shards by the upper half of a key's first byte. Most keys are hashes, so
//! shards are of about one size; and as the cut goes along the order of the keys, all that begins
//! alike is in one shard, and shards one after another are in order. The keys of a shard share a
//! hash tag: so they are in one slot of a cluster, where one script changes them together, while
//! the shards spread over its nodes.
//!
//! | key | what |
//! |---|---|
//! | `{PREFIX:SPACE:SHARD}:k:KEY` | the value |
//! | `{PREFIX:SPACE:SHARD}:i` | sorted set of the shard's keys, all with score 0: in their order |
//! | `{PREFIX:SPACE:SHARD}:x` | sorted set of the shard's keys by when they expire, in milliseconds |
//! | `{PREFIX:revocations}:s`, `:m` | the stream, and what its last event was |
//!
//! INVARIANT: both sets hold exactly the keys of the values, apart from values that the server
//! itself let go long after they had expired; those leave the sets with the next purge.

use std::time::Duration;

use crate::domain::clock::{Clock, Timestamp};
use crate::store::Space;

pub(super) const SHARDS: u8 = 16;

/// A value that no gate purges any more goes this long after it expired. For tidiness only: what
/// is expired, the gates' clocks say.
const GARBAGE_AFTER: Duration = Duration::from_secs(86_400);

/// What is to be kept longer than this has no such end.
const FOR_GOOD: Duration = Duration::from_secs(10 * 366 * 86_400);

/// Scores are floating-point numbers, exact up to here.
const EXACT: i64 = (1 << 53) - 1;

#[derive(Clone, Debug)]
pub(super) struct Layout {
    prefix: String,
}

/// The keys of one shard.
#[derive(Clone, Debug)]
pub(super) struct Shard {
    tag: String,
}

impl Layout {
    pub(super) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    pub(super) fn shard(&self, space: Space, number: u8) -> Shard {
        Shard { tag: format!("{{{}:{}:{number:x}}}", self.prefix, name(space)) }
    }

    pub(super) fn shard_of(&self, space: Space, key: &[u8]) -> Shard {
        self.shard(space, number(key))
    }

    /// The stream, and what is known of it.
    pub(super) fn stream(&self) -> (String, String) {
        (format!("{{{}:revocations}}:s", self.prefix), format!("{{{}:revocations}}:m", self.prefix))
    }
}

pub(super) fn number(key: &[u8]) -> u8 {
    key.first().map_or(0, |byte| byte >> 4)
}

impl Shard {
    pub(super) fn value(&self, key: &[u8]) -> Vec<u8> {
        [self.tag.as_bytes(), b":k:", key].concat()
    }

    pub(super) fn index(&self) -> String {
        format!("{}:i", self.tag)
    }

    pub(super) fn expiry(&self) -> String {
        format!("{}:x", self.tag)
    }
}

const fn name(space: Space) -> &'static str {
    match space {
        Space::Sessions => "sessions",
        Space::Keys => "keys",
        Space::Logins => "logins",
        Space::SessionsOfLogins => "sessions-of-logins",
        Space::KeptForms => "kept-forms",
        Space::SessionsOfUsers => "sessions-of-users",
        Space::Suspensions => "suspensions",
        Space::Refreshes => "refreshes",
    }
}

/// A time as a score.
pub(super) fn score(at: Timestamp) -> i64 {
    at.as_millis().clamp(-EXACT, EXACT)
}

/// How long the server may keep a value, in milliseconds. Zero: for ever.
pub(super) fn kept_for(expires: Timestamp) -> u64 {
    let left = expires.since(Clock::System.now());
    if left > FOR_GOOD {
        return 0;
    }
    u64::try_from((left + GARBAGE_AFTER).as_millis()).unwrap_or(0)
}

/// The bounds of `ZRANGEBYLEX` for what begins so.
pub(super) fn beginning_with(prefix: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let from = if prefix.is_empty() { b"-".to_vec() } else { [b"[", prefix].concat() };
    // The first key after them all: the prefix with its last byte raised, or one before that.
    let mut after = prefix.to_vec();
    while let Some(last) = after.pop() {
        if let Some(raised) = last.checked_add(1) {
            return (from, [b"(".as_slice(), &after, &[raised]].concat());
        }
    }
    (from, b"+".to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_begins_alike_lies_between_two_bounds() {
        let bounds = |prefix: &[u8]| beginning_with(prefix);
        assert_eq!(bounds(b""), (b"-".to_vec(), b"+".to_vec()));
        assert_eq!(bounds(b"ab"), (b"[ab".to_vec(), b"(ac".to_vec()));
        assert_eq!(bounds(b"a\xff"), (b"[a\xff".to_vec(), b"(b".to_vec()));
        assert_eq!(bounds(b"\xff\xff"), (b"[\xff\xff".to_vec(), b"+".to_vec()));
    }

    #[test]
    fn shards_follow_the_order_of_the_keys() {
        let mut keys: Vec<Vec<u8>> = (0..=255).map(|byte| vec![byte, 255 - byte]).collect();
        keys.push(vec![]);
        keys.sort();
        assert!(keys.is_sorted_by_key(|key| number(key)));
        assert!(keys.iter().all(|key| number(key) < SHARDS));
    }

    #[test]
    fn a_value_outlives_its_expiry_at_the_server_and_a_key_of_the_gate_has_no_end() {
        let now = Clock::System.now();
        assert!(u128::from(kept_for(now)) >= GARBAGE_AFTER.as_millis());
        assert!(u128::from(kept_for(Timestamp::from_millis(0))) >= GARBAGE_AFTER.as_millis());
        assert_eq!(kept_for(Timestamp::from_millis(i64::MAX)), 0);
        assert_eq!(score(Timestamp::from_millis(i64::MAX)), EXACT);
    }
}
