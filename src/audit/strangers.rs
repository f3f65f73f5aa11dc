//! What strangers cause is recorded one by one within a budget, and counted beyond it.
//!
//! Anybody can have himself refused as often as he likes. So each subscriber has a budget of
//! records for each reason, and all together have one for each reason, so that none of them can
//! be used up by causing another; refusals beyond it are counted,
//! and the counts become one record for each reason from time to time. The log grows by so much a
//! day at most, and no refusal is missing from it.
//!
//! INVARIANT: every refusal is either in a record of its own or in the count of exactly one
//! summary; counts that found no room in the log stay until they do.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::log::AuditLog;
use crate::domain::clock::Timestamp;
use crate::domain::event::{Event, FromNetwork};
use crate::domain::network::Subscriber;

/// What one subscriber's refusals for one reason may take.
const EACH: Budget = Budget { at_once: 100, every: Duration::from_secs(1) };

/// What all refusals for one reason may take: with records of a usual length 50 megabytes a day.
const ALL: Budget = Budget { at_once: 500, every: Duration::from_secs(1) };

/// More maps than cores, so that workers seldom meet at one.
const SHARDS: usize = 16;

/// Budgets that each shard keeps, of about 120 bytes: half a megabyte in all. Who finds no room has
/// what is left of the reason's.
const ROOM: usize = 256;

/// Networks that a summary names; those with the most.
const NAMED: usize = 16;

/// A refused request that anybody can cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stranger {
    /// The refusal's stable word.
    pub reason: &'static str,
    pub source: IpAddr,
    /// When the request came, on the monotonic clock.
    pub begun: Instant,
}

/// Records that may come at once, and how long it takes until there may be one more.
#[derive(Clone, Copy, Debug)]
struct Budget {
    at_once: u32,
    every: Duration,
}

/// What is left of a budget: the moment at which it is whole again.
#[derive(Clone, Copy, Debug)]
struct Left(Instant);

impl Left {
    fn take(&mut self, of: Budget, now: Instant) -> bool {
        let whole_at = self.0.max(now);
        let free = whole_at - now <= of.every * of.at_once.saturating_sub(1);
        if free {
            self.0 = whole_at + of.every;
        }
        free
    }
}

/// Refusals without a record of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Counted {
    count: u64,
    first: Timestamp,
    last: Timestamp,
}

impl Counted {
    const fn one(at: Timestamp) -> Self {
        Self { count: 1, first: at, last: at }
    }

    fn add(into: &mut Option<Self>, more: Self) {
        *into = Some(match *into {
            None => more,
            Some(known) => Self {
                count: known.count.saturating_add(more.count),
                first: known.first.min(more.first),
                last: known.last.max(more.last),
            },
        });
    }
}

#[derive(Debug)]
struct Entry {
    left: Left,
    counted: Option<Counted>,
}

#[derive(Debug, Default)]
struct Shard {
    entries: HashMap<(&'static str, Subscriber), Entry>,
    /// Of those for whom there was no room.
    others: HashMap<&'static str, Option<Counted>>,
    /// When entries that say nothing were last looked for: once a second is enough.
    swept: Option<Instant>,
}

impl Shard {
    fn entry(&mut self, stranger: &Stranger) -> Option<&mut Entry> {
        let key = (stranger.reason, Subscriber::of(stranger.source));
        let now = stranger.begun;
        if self.entries.len() >= ROOM && !self.entries.contains_key(&key) {
            let lately = |at: Instant| now.saturating_duration_since(at) < Duration::from_secs(1);
            if !self.swept.is_some_and(lately) {
                self.entries.retain(|_, entry| entry.counted.is_some() || entry.left.0 > now);
                self.swept = Some(now);
            }
            if self.entries.len() >= ROOM {
                return None;
            }
        }
        Some(self.entries.entry(key).or_insert(Entry { left: Left(now), counted: None }))
    }

    fn count(&mut self, stranger: &Stranger, at: Timestamp) {
        let counted = match self.entry(stranger) {
            Some(entry) => &mut entry.counted,
            None => self.others.entry(stranger.reason).or_default(),
        };
        Counted::add(counted, Counted::one(at));
    }
}

/// The budgets, and the counts that are not in the log yet.
#[derive(Debug)]
pub(super) struct Strangers {
    /// Keyed with a secret of this process: nobody can aim at one shard.
    hasher: RandomState,
    shards: [Mutex<Shard>; SHARDS],
    /// By reason, which are a few dozen.
    all: Mutex<HashMap<&'static str, Left>>,
    /// Summaries that the log had no room for.
    waiting: Mutex<Vec<Event>>,
}

impl Default for Strangers {
    fn default() -> Self {
        Self {
            hasher: RandomState::new(),
            shards: Default::default(),
            all: Mutex::default(),
            waiting: Mutex::default(),
        }
    }
}

impl Strangers {
    fn shard(&self, stranger: &Stranger) -> Option<&Mutex<Shard>> {
        let hash = self.hasher.hash_one(Subscriber::of(stranger.source));
        self.shards.get(usize::try_from(hash).unwrap_or_default() % SHARDS)
    }

    /// Whether the refusal may have a record of its own. If not, it is counted.
    fn admit(&self, stranger: &Stranger, at: Timestamp) -> bool {
        let Some(shard) = self.shard(stranger) else { return true };
        let mut shard = shard.lock();
        let now = stranger.begun;
        let own = shard.entry(stranger).is_none_or(|entry| entry.left.take(EACH, now));
        let all = || self.all.lock().entry(stranger.reason).or_insert(Left(now)).take(ALL, now);
        let admitted = own && all();
        if !admitted {
            shard.count(stranger, at);
        }
        admitted
    }

    fn count(&self, stranger: &Stranger, at: Timestamp) {
        if let Some(shard) = self.shard(stranger) {
            shard.lock().count(stranger, at);
        }
    }

    /// Takes the counts: a summary for each reason.
    fn collect(&self) -> Vec<Event> {
        #[derive(Default)]
        struct Reason {
            all: Option<Counted>,
            networks: Vec<(Subscriber, u64)>,
        }
        let mut reasons: HashMap<&'static str, Reason> = HashMap::new();
        for shard in &self.shards {
            let mut shard = shard.lock();
            for ((reason, subscriber), entry) in &mut shard.entries {
                let Some(counted) = entry.counted.take() else { continue };
                let reason = reasons.entry(reason).or_default();
                Counted::add(&mut reason.all, counted);
                reason.networks.push((*subscriber, counted.count));
            }
            for (reason, counted) in shard.others.drain() {
                if let Some(counted) = counted {
                    Counted::add(&mut reasons.entry(reason).or_default().all, counted);
                }
            }
        }
        let mut summaries: Vec<Event> = Vec::new();
        for (reason, Reason { all, mut networks }) in reasons {
            let Some(Counted { count, first, last }) = all else { continue };
            networks.sort_unstable_by_key(|(subscriber, count)| (u64::MAX - count, *subscriber));
            networks.truncate(NAMED);
            let networks = networks.into_iter();
            summaries.push(Event::RefusalsCounted {
                reason: reason.into(),
                count,
                first,
                last,
                networks: networks
                    .map(|(network, count)| FromNetwork {
                        network: Arc::from(network.to_string()),
                        count,
                    })
                    .collect(),
            });
        }
        summaries
    }
}

impl AuditLog {
    /// Records that a stranger was refused, in a record of its own while his budget and that of
    /// the reason last and less than half of the queue is taken, and else in a count, which
    /// [`summarise`](Self::summarise) records. `event` is made only when it is needed.
    pub fn append_stranger(
        &self,
        at: Timestamp,
        stranger: &Stranger,
        event: impl FnOnce() -> Event,
    ) {
        if self.strangers().admit(stranger, at) {
            self.append_refusal(at, stranger, event);
        } else {
            self.shared.metrics.audit_summarised.inc();
        }
    }

    /// As [`append_stranger`](Self::append_stranger), without a budget. The other half of the queue
    /// stays for access, its denials and sessions, so that nobody is locked out by refusals.
    pub fn append_refusal(
        &self,
        at: Timestamp,
        stranger: &Stranger,
        event: impl FnOnce() -> Event,
    ) {
        if !self.append_if_room(at, &event()) {
            self.strangers().count(stranger, at);
            self.shared.metrics.audit_summarised.inc();
        }
    }

    /// Records what was counted since the last time, one record for each reason. What the log has
    /// no room for is tried again at the next call. To be called from time to time, and before the
    /// log is closed.
    pub fn summarise(&self, now: Timestamp) {
        let strangers = self.strangers();
        let mut waiting = strangers.waiting.lock();
        if waiting.is_empty() {
            *waiting = strangers.collect();
        }
        let kept = waiting.iter().take_while(|event| self.append_if_room(now, event)).count();
        waiting.drain(..kept);
    }

    /// The same at the end, when nobody else needs the room.
    pub fn summarise_last(&self, now: Timestamp) {
        let strangers = self.strangers();
        let mut waiting = std::mem::take(&mut *strangers.waiting.lock());
        waiting.extend(strangers.collect());
        for event in waiting {
            if let Err(error) = self.append(now, event) {
                tracing::error!(%error, "a count of refusals was not kept");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(number: i64) -> Timestamp {
        Timestamp::from_seconds(number)
    }

    fn stranger(reason: &'static str, source: &str, begun: Instant) -> Stranger {
        Stranger { reason, source: source.parse().unwrap(), begun }
    }

    /// How many of these come with a record of their own.
    fn admitted(strangers: &Strangers, count: usize, of: &Stranger, at: Timestamp) -> usize {
        (0..count).filter(|_| strangers.admit(of, at)).count()
    }

    #[test]
    fn each_subscriber_has_a_budget_for_each_reason_that_time_refills() {
        let strangers = Strangers::default();
        let now = Instant::now();
        let flood = stranger("bad-host", "2001:db8:1:2::1", now);
        assert_eq!(admitted(&strangers, 300, &flood, second(1)), 100);
        for other in [
            stranger("bad-host", "2001:db8:1:3::1", now),
            stranger("bad-target", "2001:db8:1:2::1", now),
        ] {
            assert_eq!(admitted(&strangers, 300, &other, second(1)), 100, "{other:?}");
        }
        let neighbour = stranger("bad-host", "2001:db8:1:2::9", now);
        assert_eq!(admitted(&strangers, 1, &neighbour, second(1)), 0, "the same subscriber");
        let later = Stranger { begun: now + Duration::from_secs(10), ..flood };
        assert_eq!(admitted(&strangers, 300, &later, second(11)), 10);
        let much_later = Stranger { begun: now + Duration::from_secs(1000), ..flood };
        assert_eq!(admitted(&strangers, 300, &much_later, second(1001)), 100);
    }

    #[test]
    fn all_strangers_together_have_a_budget_and_the_rest_is_counted_to_the_last() {
        let strangers = Strangers::default();
        let now = Instant::now();
        let mut recorded = 0;
        for number in 0..20_000_u32 {
            let source = IpAddr::from(number.to_be_bytes());
            let stranger = Stranger { reason: "no-route", source, begun: now };
            recorded += usize::from(strangers.admit(&stranger, second(i64::from(number))));
        }
        assert_eq!(recorded, 500);
        let other = stranger("login-failed", "198.51.100.1", now);
        assert!(strangers.admit(&other, second(1)), "another reason's is its own");
        let kept: usize = strangers.shards.iter().map(|shard| shard.lock().entries.len()).sum();
        assert!(kept <= ROOM * SHARDS, "{kept}");
        let summaries = strangers.collect();
        let [Event::RefusalsCounted { reason, count, last, networks, .. }] = &summaries[..] else {
            panic!("one reason, one summary: {summaries:?}");
        };
        assert_eq!((&**reason, *count, *last), ("no-route", 19_500, second(19_999)));
        assert_eq!(networks.len(), NAMED);
        assert!(strangers.collect().is_empty(), "nothing is counted twice");
    }

    #[test]
    fn a_summary_names_those_with_the_most_first() {
        let strangers = Strangers::default();
        let now = Instant::now();
        for (source, count) in [("192.0.2.1", 105), ("2001:db8::1", 130), ("192.0.2.3", 100)] {
            admitted(&strangers, count, &stranger("bad-host", source, now), second(7));
        }
        let networks = |networks: &[(&str, u64)]| {
            let named = |(network, count): &(&str, u64)| FromNetwork {
                network: (*network).into(),
                count: *count,
            };
            networks.iter().map(named).collect()
        };
        assert_eq!(
            strangers.collect(),
            [Event::RefusalsCounted {
                reason: "bad-host".into(),
                count: 35,
                first: second(7),
                last: second(7),
                networks: networks(&[("2001:db8::/64", 30), ("192.0.2.1", 5)]),
            }]
        );
    }

    #[test]
    fn there_is_room_again_once_the_budgets_of_a_flood_are_whole() {
        let strangers = Strangers::default();
        let now = Instant::now();
        for number in 0..20_000_u32 {
            let source = IpAddr::from(number.to_be_bytes());
            strangers.admit(&Stranger { reason: "no-route", source, begun: now }, second(0));
        }
        strangers.collect();
        let later = now + Duration::from_secs(100);
        let newcomers = (0..1000_u32).filter(|number| {
            let source = IpAddr::from((u32::MAX - number).to_be_bytes());
            strangers.admit(&Stranger { reason: "no-route", source, begun: later }, second(100))
        });
        assert_eq!(newcomers.count(), 100);
    }
}
