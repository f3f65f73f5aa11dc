//! Users, devices and tenants that are shut out until somebody lets them in again.
//!
//! They are kept in the store, sealed, and for good: a restart forgets none. Every process holds
//! the whole set in memory, and looks once a second whether it has changed; what it looks at is one
//! value, so that looking costs the same however many there are. A request asks the set only when
//! there is one: on most gates, on most days, that is one load of one flag.
//!
//! INVARIANT: what can't be read suspends more, never less: without the set nothing starts, and when
//! the store fails later the set that is known goes on to hold.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use tokio::sync::Mutex;

use super::keys::{self, NEVER};
use super::login::random_token;
use super::seal::{Sealer, Unopened};
use crate::domain::principal::Principal;
use crate::domain::suspension::{Subject, Suspension};
use crate::store::{Space, Store, StoreError};

/// What changes with every change.
const VERSION: &[u8] = b"suspensions";

#[derive(Debug, thiserror::Error)]
pub enum SuspensionError {
    #[error("suspensions are unavailable: {0}")]
    Store(#[from] StoreError),
    #[error("a suspension in the store can't be opened: {0}")]
    Unreadable(Unopened),
    #[error("suspensions are unavailable: no randomness, or a record that can't be written")]
    Internal,
}

/// The set. One for the process.
#[derive(Debug)]
pub struct Suspensions {
    store: Arc<dyn Store>,
    seals: Arc<Sealer>,
    /// Whether there are any.
    any: AtomicBool,
    known: ArcSwap<Known>,
    /// One reads or writes at a time, so that an older set never replaces a newer one.
    turn: Mutex<()>,
}

#[derive(Debug, Default)]
struct Known {
    version: Option<Vec<u8>>,
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
}

impl Suspensions {
    /// # Errors
    /// The store fails, or a suspension doesn't open: who is suspended is then unknown.
    pub async fn load(store: Arc<dyn Store>, seals: Arc<Sealer>) -> Result<Self, SuspensionError> {
        let suspensions = Self {
            store,
            seals,
            any: AtomicBool::new(false),
            known: ArcSwap::default(),
            turn: Mutex::new(()),
        };
        suspensions.read().await?;
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
        let tenant = principal.tenant.as_ref();
        if known.users.contains(&principal.id) {
            Some(Subject::User)
        } else {
            tenant.filter(|tenant| known.tenants.contains(*tenant)).map(|_| Subject::Tenant)
        }
    }

    /// Whether any device is: which one a client has need not be known otherwise.
    pub fn any_device(&self) -> bool {
        !self.is_empty() && !self.known.load().devices.is_empty()
    }

    pub fn device(&self, id: &str) -> bool {
        self.known.load().devices.contains(id)
    }

    /// Shuts out, in place of an earlier suspension of the same. When this returns, this process
    /// holds to it, and every other with the same store does within a second.
    ///
    /// # Errors
    /// It is not kept. It may hold all the same.
    pub async fn suspend(&self, suspension: &Suspension) -> Result<(), SuspensionError> {
        let key = self.key(suspension.subject, &suspension.name);
        let value = serde_json::to_vec(suspension).map_err(|_| SuspensionError::Internal)?;
        let value = self.seals.seal(Space::Suspensions, &key, value);
        let value = value.ok_or(SuspensionError::Internal)?;
        self.store.put(Space::Suspensions, &key, &value, NEVER).await?;
        self.changed().await
    }

    /// Lets in again; false when it was not suspended.
    ///
    /// # Errors
    /// Whether it is suspended is not known.
    pub async fn restore(&self, subject: Subject, name: &str) -> Result<bool, SuspensionError> {
        let key = self.key(subject, name);
        let was = self.store.remove(Space::Suspensions, &key).await?;
        self.changed().await?;
        Ok(was)
    }

    /// Those in force, as the store has them, the oldest first.
    ///
    /// # Errors
    /// The store fails, or a suspension doesn't open.
    pub async fn list(&self) -> Result<Vec<Suspension>, SuspensionError> {
        let mut found = Vec::new();
        for (key, value) in self.store.scan(Space::Suspensions, b"").await? {
            let plain = self
                .seals
                .open(Space::Suspensions, &key, &value)
                .map_err(SuspensionError::Unreadable)?;
            let suspension: Suspension = serde_json::from_slice(&plain)
                .map_err(|_| SuspensionError::Unreadable(Unopened::Broken))?;
            found.push(suspension);
        }
        found.sort_by_key(|suspension| suspension.since);
        Ok(found)
    }

    /// Learns of changes that were made elsewhere; true when there was one.
    ///
    /// # Errors
    /// As [`Suspensions::list`]; what was known goes on to hold.
    pub async fn follow(&self) -> Result<bool, SuspensionError> {
        let version = self.store.get(Space::Keys, VERSION).await?;
        if self.known.load().version == version {
            return Ok(false);
        }
        self.read().await?;
        Ok(true)
    }

    /// Whether one is suspended, as far as this process knows.
    pub fn holds(&self, subject: Subject, name: &str) -> bool {
        self.known.load().of(subject).contains(name)
    }

    fn key(&self, subject: Subject, name: &str) -> [u8; 32] {
        self.seals.name(subject.name(), name)
    }

    async fn changed(&self) -> Result<(), SuspensionError> {
        let version = random_token().map_err(|_| SuspensionError::Internal)?;
        keys::put(self.store.as_ref(), VERSION, version.as_bytes()).await?;
        self.read().await
    }

    async fn read(&self) -> Result<(), SuspensionError> {
        let _turn = self.turn.lock().await;
        // The version first: what is written after it has a later one.
        let version = self.store.get(Space::Keys, VERSION).await?;
        let mut known = Known { version, ..Known::default() };
        for suspension in self.list().await? {
            let of = match suspension.subject {
                Subject::User => &mut known.users,
                Subject::Device => &mut known.devices,
                Subject::Tenant => &mut known.tenants,
            };
            of.insert(suspension.name);
        }
        let any = [&known.users, &known.devices, &known.tenants].iter().any(|set| !set.is_empty());
        self.known.store(Arc::new(known));
        self.any.store(any, Ordering::Release);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::clock::Timestamp;
    use crate::domain::principal::PrincipalKind;
    use crate::store::MemoryStore;

    const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);

    async fn opened(store: &Arc<MemoryStore>) -> Suspensions {
        let seals = Arc::new(Sealer::load(store.as_ref(), &[], NOW).await.unwrap());
        Suspensions::load(store.clone(), seals).await.unwrap()
    }

    fn suspension(subject: Subject, name: &str) -> Suspension {
        Suspension { subject, name: name.into(), since: NOW, by: "test".into(), reason: None }
    }

    fn principal(id: &str, tenant: Option<&str>) -> Principal {
        Principal {
            kind: PrincipalKind::User,
            id: id.into(),
            email: None,
            name: None,
            groups: Default::default(),
            tenant: tenant.map(Into::into),
        }
    }

    #[tokio::test]
    async fn who_is_suspended_is_so_after_a_restart_and_until_restored() {
        let store = Arc::new(MemoryStore::default());
        let (ada, bob) = (principal("idp/ada", Some("acme")), principal("idp/bob", Some("acme")));
        let suspensions = opened(&store).await;
        assert!(suspensions.is_empty());
        suspensions.suspend(&suspension(Subject::User, "idp/ada")).await.unwrap();
        for suspensions in [&suspensions, &opened(&store).await] {
            assert_eq!(suspensions.principal(&ada), Some(Subject::User));
            assert_eq!(suspensions.principal(&bob), None);
            assert!(!suspensions.device("idp/ada") && !suspensions.any_device());
        }
        suspensions.suspend(&suspension(Subject::Tenant, "acme")).await.unwrap();
        assert_eq!(suspensions.principal(&bob), Some(Subject::Tenant));
        assert_eq!(suspensions.principal(&principal("idp/eve", None)), None);
        suspensions.suspend(&suspension(Subject::Device, "laptop")).await.unwrap();
        assert!(suspensions.any_device() && suspensions.device("laptop"));
        assert!(suspensions.restore(Subject::User, "idp/ada").await.unwrap());
        assert!(!suspensions.restore(Subject::User, "idp/ada").await.unwrap());
        assert_eq!(suspensions.principal(&ada), Some(Subject::Tenant));
        suspensions.restore(Subject::Tenant, "acme").await.unwrap();
        suspensions.restore(Subject::Device, "laptop").await.unwrap();
        assert!(suspensions.is_empty());
    }

    #[tokio::test]
    async fn a_change_made_elsewhere_is_seen_at_the_next_look_and_then_no_more() {
        let store = Arc::new(MemoryStore::default());
        let (one, two) = (opened(&store).await, opened(&store).await);
        assert!(!two.follow().await.unwrap());
        one.suspend(&suspension(Subject::User, "idp/ada")).await.unwrap();
        assert!(two.is_empty());
        assert!(two.follow().await.unwrap());
        assert!(two.holds(Subject::User, "idp/ada"));
        assert!(!two.follow().await.unwrap());
        one.restore(Subject::User, "idp/ada").await.unwrap();
        assert!(two.follow().await.unwrap());
        assert!(two.is_empty());
    }

    #[tokio::test]
    async fn a_suspension_that_does_not_open_is_an_error_and_the_known_ones_hold() {
        let store = Arc::new(MemoryStore::default());
        let suspensions = opened(&store).await;
        suspensions.suspend(&suspension(Subject::User, "idp/ada")).await.unwrap();
        let (key, mut value) = store.scan(Space::Suspensions, b"").await.unwrap().remove(0);
        assert!(!String::from_utf8_lossy(&value).contains("ada"));
        *value.last_mut().unwrap() ^= 1;
        store.put(Space::Suspensions, &key, &value, NEVER).await.unwrap();
        keys::put(store.as_ref(), VERSION, b"other").await.unwrap();
        assert!(suspensions.follow().await.is_err());
        assert!(suspensions.holds(Subject::User, "idp/ada"));
        let seals = Arc::new(Sealer::load(store.as_ref(), &[], NOW).await.unwrap());
        assert!(Suspensions::load(store.clone(), seals).await.is_err());
    }
}
