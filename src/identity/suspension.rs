//! Users, devices and tenants that are shut out until somebody lets them in again.
//!
//! They are kept in the store, sealed, and for good: a restart forgets none. Every process holds
//! the whole set in memory, and looks once a second whether it has changed; what it looks at is one
//! value, so that looking costs the same however many there are. A request asks the set only when
//! there is one: on most gates, on most days, that is one load of one flag.
//!
//! A store may go back in time: a replica that was behind takes over, somebody restores a copy. So a
//! suspension and its end are words of one kind, each with a number higher than the one before it
//! about the same subject, and a word that is known here under a higher number than the store's is
//! put back. Who missed the end of a suspension therefore brings none back: the end is there to be
//! read.
//!
//! INVARIANT: what can't be read suspends more, never less: without the set nothing starts, and when
//! the store fails later the set that is known goes on to hold. A record that doesn't open suspends
//! whoever it is about, and nobody else: records lie under keyed digests of their subjects.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, MutexGuard};

use super::keys::{self, NEVER};
use super::login::random_token;
use super::seal::{Sealer, Unopened};
use crate::domain::clock::{Clock, Timestamp};
use crate::domain::principal::Principal;
use crate::domain::suspension::{Subject, Suspension};
use crate::store::{Space, Store, StoreError};

/// What changes with every change.
const VERSION: &[u8] = b"suspensions";

/// How long the end of a suspension is told to gates that may have missed it.
const ENDS_KEPT: Duration = Duration::from_secs(30 * 24 * 3600);

#[derive(Debug, thiserror::Error)]
pub enum SuspensionError {
    #[error("suspensions are unavailable: {0}")]
    Store(#[from] StoreError),
    #[error("suspensions are unavailable: no randomness, or a record that can't be written")]
    Internal,
}

/// The set. One for the process.
#[derive(Debug)]
pub struct Suspensions {
    store: Arc<dyn Store>,
    seals: Arc<Sealer>,
    clock: Clock,
    /// Whether there are any.
    any: AtomicBool,
    known: ArcSwap<Known>,
    /// What is known here is what the store has, as far as is known.
    settled: AtomicBool,
    /// One reads or writes at a time, so that an older set never replaces a newer one.
    turn: Mutex<()>,
}

/// Where a record lies.
type Key = [u8; 32];

/// The last word about a subject, as the store keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Word {
    /// Of an end: when.
    #[serde(flatten)]
    about: Suspension,
    #[serde(default)]
    number: u64,
    /// It ends the suspension.
    #[serde(default)]
    ends: bool,
}

impl Word {
    /// Which of two words counts. Of two that were said at once it is the one that shuts out.
    fn rank(&self) -> (u64, bool) {
        (self.number, !self.ends)
    }

    fn expires(&self) -> Timestamp {
        if self.ends { self.about.since.plus(ENDS_KEPT) } else { NEVER }
    }
}

#[derive(Debug, Default)]
struct Known {
    version: Option<Vec<u8>>,
    words: HashMap<Key, Arc<Word>>,
    /// Records that don't open.
    broken: HashSet<Key>,
    users: HashSet<Arc<str>>,
    devices: HashSet<Arc<str>>,
    tenants: HashSet<Arc<str>>,
}

impl Known {
    fn of(&self, subject: Subject) -> &HashSet<Arc<str>> {
        match subject {
            Subject::User => &self.users,
            Subject::Device => &self.devices,
            Subject::Tenant => &self.tenants,
        }
    }

    fn add(&mut self, key: Key, word: Arc<Word>) {
        if !word.ends {
            let of = match word.about.subject {
                Subject::User => &mut self.users,
                Subject::Device => &mut self.devices,
                Subject::Tenant => &mut self.tenants,
            };
            of.insert(Arc::clone(&word.about.name));
        }
        self.words.insert(key, word);
    }

    fn is_empty(&self) -> bool {
        let sets = [&self.users, &self.devices, &self.tenants];
        self.broken.is_empty() && sets.iter().all(|set| set.is_empty())
    }

    fn shuts_out_as(&self, other: &Self) -> bool {
        (&self.users, &self.devices, &self.tenants, &self.broken)
            == (&other.users, &other.devices, &other.tenants, &other.broken)
    }
}

/// What a look at the store has brought.
#[derive(Debug, Default)]
pub struct Followed {
    /// Others are shut out than before.
    pub changed: bool,
    /// Those whose suspensions the store had lost. It has them again.
    pub put_back: Vec<(Subject, Arc<str>)>,
}

impl Suspensions {
    /// # Errors
    /// The store fails: who is suspended is then unknown.
    pub async fn load(
        store: Arc<dyn Store>,
        seals: Arc<Sealer>,
        clock: Clock,
    ) -> Result<Self, SuspensionError> {
        let suspensions = Self {
            store,
            seals,
            clock,
            any: AtomicBool::new(false),
            known: ArcSwap::default(),
            settled: AtomicBool::new(false),
            turn: Mutex::new(()),
        };
        let turn = suspensions.turn.lock().await;
        suspensions.read(&turn).await?;
        drop(turn);
        Ok(suspensions)
    }

    /// Whether nobody is suspended. The hot path asks this first, and mostly nothing else.
    pub fn is_empty(&self) -> bool {
        !self.any.load(Ordering::Acquire)
    }

    /// Whether a principal is shut out, and as what.
    pub fn principal(&self, principal: &Principal) -> Option<Subject> {
        if self.is_empty() {
            return None;
        }
        let known = self.known.load();
        let is = |subject, name: &Arc<str>| self.shuts_out(&known, subject, name);
        if is(Subject::User, &principal.id) {
            Some(Subject::User)
        } else {
            let tenant = principal.tenant.as_ref();
            tenant.filter(|tenant| is(Subject::Tenant, tenant)).map(|_| Subject::Tenant)
        }
    }

    /// Whether any device may be: which one a client has need not be known otherwise.
    pub fn any_device(&self) -> bool {
        if self.is_empty() {
            return false;
        }
        let known = self.known.load();
        !known.devices.is_empty() || !known.broken.is_empty()
    }

    pub fn device(&self, id: &str) -> bool {
        self.holds(Subject::Device, id)
    }

    /// Whether one is suspended, as far as this process knows.
    pub fn holds(&self, subject: Subject, name: &str) -> bool {
        self.shuts_out(&self.known.load(), subject, name)
    }

    /// A digest is made only as long as there is a record that doesn't open.
    fn shuts_out(&self, known: &Known, subject: Subject, name: &str) -> bool {
        known.of(subject).contains(name)
            || (!known.broken.is_empty() && known.broken.contains(&self.key(subject, name)))
    }

    /// Shuts out, in place of an earlier suspension of the same. When this returns, this process
    /// holds to it, and every other with the same store does within a second.
    ///
    /// # Errors
    /// It is not kept. It may hold all the same.
    pub async fn suspend(&self, suspension: &Suspension) -> Result<(), SuspensionError> {
        self.say(suspension.clone(), false).await.map(drop)
    }

    /// Lets in again; false when it was not suspended.
    ///
    /// # Errors
    /// Whether it is suspended is not known.
    pub async fn restore(&self, subject: Subject, name: &str) -> Result<bool, SuspensionError> {
        let since = self.clock.now();
        let end = Suspension { subject, name: name.into(), since, by: "".into(), reason: None };
        let was = self.say(end, true).await?;
        if let Err(error) = self.store.purge(Space::Suspensions, since).await {
            tracing::warn!(%error, "old ends of suspensions are not purged yet");
        }
        Ok(was)
    }

    /// Those in force, as the store has them, the oldest first. What doesn't open is left out.
    ///
    /// # Errors
    /// The store fails.
    pub async fn list(&self) -> Result<Vec<Suspension>, SuspensionError> {
        let (words, _) = self.stored().await?;
        let mut found: Vec<Suspension> =
            words.into_values().filter(|word| !word.ends).map(|word| word.about.clone()).collect();
        found.sort_by_key(|suspension| suspension.since);
        Ok(found)
    }

    /// Learns of changes that were made elsewhere, and puts back what the store has lost. With
    /// `anew` everything is read, and not only when something seems to have changed: the value that
    /// changes with it may be at another server than what it stands for.
    ///
    /// # Errors
    /// The store fails; what was known goes on to hold.
    pub async fn follow(&self, anew: bool) -> Result<Followed, SuspensionError> {
        let turn = self.turn.lock().await;
        let version = self.store.get(Space::Keys, VERSION).await?;
        let settled = self.settled.load(Ordering::Relaxed);
        if !anew && settled && self.known.load().version == version {
            return Ok(Followed::default());
        }
        self.read(&turn).await
    }

    fn key(&self, subject: Subject, name: &str) -> Key {
        self.seals.name(subject.name(), name)
    }

    /// Says something about a subject that counts for more than all that was said before; whether it
    /// was suspended.
    async fn say(&self, about: Suspension, ends: bool) -> Result<bool, SuspensionError> {
        let turn = self.turn.lock().await;
        // What was said elsewhere counts, too.
        self.read(&turn).await?;
        let key = self.key(about.subject, &about.name);
        let known = self.known.load_full();
        let was = self.shuts_out(&known, about.subject, &about.name);
        if ends && !was {
            return Ok(false);
        }
        // At least the time: an end that is forgotten here, and known elsewhere, is older.
        let now = u64::try_from(self.clock.now().as_millis()).unwrap_or(0);
        let number = known.words.get(&key).map_or(0, |word| word.number).saturating_add(1).max(now);
        self.settled.store(false, Ordering::Relaxed);
        self.write(&key, &Word { about, number, ends }).await?;
        self.changed().await?;
        self.read(&turn).await?;
        Ok(was)
    }

    async fn write(&self, key: &Key, word: &Word) -> Result<(), SuspensionError> {
        let value = serde_json::to_vec(word).map_err(|_| SuspensionError::Internal)?;
        let value = self.seals.seal(Space::Suspensions, key, value);
        let value = value.ok_or(SuspensionError::Internal)?;
        Ok(self.store.put(Space::Suspensions, key, &value, word.expires()).await?)
    }

    async fn changed(&self) -> Result<(), SuspensionError> {
        let version = random_token().map_err(|_| SuspensionError::Internal)?;
        Ok(keys::put(self.store.as_ref(), VERSION, version.as_bytes()).await?)
    }

    /// What the store has, and where it has something that doesn't open.
    async fn stored(
        &self,
    ) -> Result<(HashMap<Key, Arc<Word>>, HashMap<Key, Unopened>), SuspensionError> {
        let (mut words, mut broken) = (HashMap::new(), HashMap::new());
        for (key, value) in self.store.scan(Space::Suspensions, b"").await? {
            // Nobody's record lies under a key that is no digest.
            let Ok(key) = Key::try_from(key) else { continue };
            let plain = self.seals.open(Space::Suspensions, &key, &value);
            let word = plain
                .and_then(|plain| serde_json::from_slice(&plain).map_err(|_| Unopened::Broken));
            match word {
                Ok(word) => drop(words.insert(key, Arc::new(word))),
                Err(cause) => drop(broken.insert(key, cause)),
            }
        }
        Ok((words, broken))
    }

    async fn read(&self, _turn: &MutexGuard<'_, ()>) -> Result<Followed, SuspensionError> {
        // The version first: what is written after it has a later one.
        let version = self.store.get(Space::Keys, VERSION).await?;
        let (mut words, mut broken) = self.stored().await?;
        let (before, now) = (self.known.load_full(), self.clock.now());
        let mut lost = Vec::new();
        for (key, own) in before.words.iter().filter(|(_, own)| own.expires() > now) {
            if words.get(key).is_none_or(|word| word.rank() < own.rank()) {
                words.insert(*key, Arc::clone(own));
                broken.remove(key);
                lost.push((*key, Arc::clone(own)));
            }
        }
        for (key, cause) in broken.iter().filter(|(key, _)| !before.broken.contains(*key)) {
            let record: String = key.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
            tracing::error!(
                %record, %cause,
                "a suspension in the store can't be opened; whoever it is about counts as suspended until restored"
            );
        }
        let mut known = Known { version, ..Known::default() };
        words.into_iter().for_each(|(key, word)| known.add(key, word));
        known.broken = broken.into_keys().collect();
        let changed = !known.shuts_out_as(&before);
        let any = !known.is_empty();
        // Here it holds, whatever becomes of putting it back.
        self.known.store(Arc::new(known));
        self.any.store(any, Ordering::Release);
        self.settled.store(lost.is_empty(), Ordering::Relaxed);
        let put_back = self.put_back(lost).await?;
        Ok(Followed { changed, put_back })
    }

    /// The next look sees whether it is there.
    async fn put_back(
        &self,
        lost: Vec<(Key, Arc<Word>)>,
    ) -> Result<Vec<(Subject, Arc<str>)>, SuspensionError> {
        if lost.is_empty() {
            return Ok(Vec::new());
        }
        tracing::warn!(
            words = lost.len(),
            "the store has lost suspensions, or ends of them, that are known here: they are put back"
        );
        for (key, word) in &lost {
            self.write(key, word).await?;
        }
        self.changed().await?;
        let held = lost.iter().filter(|(_, word)| !word.ends);
        Ok(held.map(|(_, word)| (word.about.subject, Arc::clone(&word.about.name))).collect())
    }
}

#[cfg(test)]
mod tests;
