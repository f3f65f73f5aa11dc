mod access;
mod given_back;
mod logout;
mod past_limit;
mod refresh;
mod users;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use async_trait::async_trait;
use futures_util::FutureExt;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::*;
use crate::domain::principal::PrincipalKind;
use crate::store::MemoryStore;
use crate::store::Space;

const IDLE: Duration = Duration::from_secs(1800);
const LIFETIME: Duration = Duration::from_secs(36_000);

impl Session {
    /// Another gate knows something newer.
    pub(crate) fn outdate(&self) {
        self.supersede(self.generation() + 1);
    }
}

/// A store that fails when told to.
#[derive(Debug, Default)]
struct Flaky {
    inner: MemoryStore,
    down: AtomicBool,
    /// Entries that scans have read.
    scanned: AtomicUsize,
    /// Looks at what sessions are refreshed with.
    read: AtomicUsize,
    /// Times that somebody else was first.
    refused: AtomicUsize,
    /// The next session that is put says so, and then waits.
    hold: Mutex<Option<(oneshot::Sender<()>, oneshot::Receiver<()>)>>,
}

impl Flaky {
    fn up(&self) -> Result<&MemoryStore, StoreError> {
        if self.down.load(Ordering::SeqCst) {
            Err(StoreError::Failed("down".into()))
        } else {
            Ok(&self.inner)
        }
    }
}

#[async_trait]
impl Store for Flaky {
    async fn get(&self, space: Space, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let found = self.up()?.get(space, key).await;
        self.read.fetch_add(usize::from(space == Space::Refreshes), Ordering::SeqCst);
        found
    }
    async fn put(
        &self,
        space: Space,
        key: &[u8],
        value: &[u8],
        expires: Timestamp,
    ) -> Result<(), StoreError> {
        self.up()?.put(space, key, value, expires).await?;
        let hold = if space == Space::Sessions { self.hold.lock().take() } else { None };
        if let Some((there, go)) = hold {
            let _ = there.send(());
            let _ = go.await;
        }
        Ok(())
    }
    async fn put_if_absent(
        &self,
        space: Space,
        key: &[u8],
        value: &[u8],
        expires: Timestamp,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let put = self.up()?.put_if_absent(space, key, value, expires, now).await?;
        self.refused.fetch_add(usize::from(!put), Ordering::SeqCst);
        Ok(put)
    }
    async fn remove(&self, space: Space, key: &[u8]) -> Result<bool, StoreError> {
        self.up()?.remove(space, key).await
    }
    async fn scan(
        &self,
        space: Space,
        prefix: &[u8],
    ) -> Result<Vec<(Vec<u8>, Vec<u8>)>, StoreError> {
        let found = self.up()?.scan(space, prefix).await?;
        self.scanned.fetch_add(found.len(), Ordering::SeqCst);
        Ok(found)
    }
    async fn purge(&self, space: Space, now: Timestamp) -> Result<usize, StoreError> {
        self.up()?.purge(space, now).await
    }
}

struct World {
    store: Arc<Flaky>,
    clock: Clock,
    sessions: Arc<Sessions>,
}

impl World {
    async fn new() -> Self {
        let clock = Clock::manual(Timestamp::from_seconds(1_800_000_000));
        let store = Arc::new(Flaky::default());
        let sessions = opened(&store, &clock).await;
        Self { store, clock, sessions }
    }

    fn is_known(&self, known: &Known, value: &str) -> bool {
        self.sessions.find_known(known, value, self.clock.now()).is_some()
    }

    /// The same store and clock, another process.
    async fn restarted(&self) -> Self {
        let sessions = opened(&self.store, &self.clock).await;
        Self { store: Arc::clone(&self.store), clock: self.clock.clone(), sessions }
    }

    async fn login(&self, user: &str) -> (String, Arc<Session>) {
        let (value, session) = self.sessions.create(new_session(user), None).await.unwrap();
        (value.expose().to_owned(), session)
    }

    async fn found(&self, value: &str) -> bool {
        let now = self.clock.now();
        match self.sessions.find_cached(value, now) {
            Cached::Hit(_) => true,
            Cached::Miss => self.sessions.find(value, now).await.unwrap().is_some(),
        }
    }

    fn set_back(&self, by: Duration) {
        let Clock::Manual(millis) = &self.clock else { panic!("not manual") };
        millis.fetch_sub(i64::try_from(by.as_millis()).unwrap(), Ordering::SeqCst);
    }
}

async fn opened(store: &Arc<Flaky>, clock: &Clock) -> Arc<Sessions> {
    let config = config::model::Session {
        idle_timeout: IDLE,
        absolute_lifetime: LIFETIME,
        max_per_user: 3,
        ..config::model::Session::default()
    };
    let store: Arc<dyn Store> = store.clone();
    Sessions::open(store, &config, clock.clone(), Metrics::new()).await.unwrap()
}

fn new_session(user: &str) -> NewSession {
    NewSession {
        principal: Arc::new(Principal {
            kind: PrincipalKind::User,
            id: format!("idp/{user}").into(),
            email: None,
            name: None,
            groups: Default::default(),
            tenant: None,
        }),
        authentication: Authentication::default(),
        provider: "idp".into(),
        vouched_by: Default::default(),
        sid: Some(format!("sid-{user}").into()),
        subject: Some(user.into()),
        id_token: Some(Secret::new("header.payload.signature")),
        access_token: None,
        refresh: None,
        host: None,
        begun: None,
    }
}

#[tokio::test]
async fn a_session_survives_a_restart() {
    let world = World::new().await;
    let (value, session) = world.login("ada").await;
    let world = world.restarted().await;
    assert!(matches!(world.sessions.find_cached(&value, world.clock.now()), Cached::Miss));
    let found = world.sessions.find(&value, world.clock.now()).await.unwrap().unwrap();
    assert_eq!((found.id, &found.principal), (session.id, &session.principal));
    assert_eq!(found.id_token.as_ref().map(Secret::expose), Some("header.payload.signature"));
    assert!(matches!(world.sessions.find_cached(&value, world.clock.now()), Cached::Hit(_)));
}

#[tokio::test]
async fn what_a_connection_knows_is_for_one_cookie_and_for_as_long_as_the_session_lasts() {
    let world = World::new().await;
    let (value, session) = world.login("ada").await;
    let (other, _) = world.login("bob").await;
    let known = Known::new(&value, &session);
    assert!(world.is_known(&known, &value));
    for wrong in [other.as_str(), "", value.split_at(42).0, &format!("{value}A")] {
        assert!(!world.is_known(&known, wrong), "{wrong}");
    }
    // It is activity, like any other request.
    world.clock.advance(IDLE - Duration::from_secs(1));
    assert!(world.is_known(&known, &value));
    world.clock.advance(IDLE - Duration::from_secs(1));
    assert!(world.is_known(&known, &value));
    world.sessions.end(&session.id, EndReason::Logout).await.unwrap();
    assert!(!world.is_known(&known, &value));
    let (value, session) = world.login("ada").await;
    let known = Known::new(&value, &session);
    world.clock.advance(IDLE);
    assert!(!world.is_known(&known, &value));
    assert!(!format!("{known:?}").contains(&value));
}

#[tokio::test]
async fn a_session_ends_when_idle_and_activity_postpones_it() {
    let world = World::new().await;
    let (value, session) = world.login("ada").await;
    for _ in 0..3 {
        world.clock.advance(IDLE - Duration::from_millis(1));
        assert!(world.found(&value).await);
    }
    world.clock.advance(IDLE);
    assert!(!world.sessions.is_alive(&session.id, world.clock.now()));
    assert!(!world.found(&value).await);
}

#[tokio::test]
async fn a_session_ends_after_its_lifetime_however_active() {
    let world = World::new().await;
    let (value, _) = world.login("ada").await;
    for _ in 0..39 {
        world.clock.advance(Duration::from_secs(900));
        assert!(world.found(&value).await);
    }
    world.clock.advance(Duration::from_secs(900));
    assert!(!world.found(&value).await);
}

#[tokio::test]
async fn activity_reaches_the_store_within_a_minute() {
    let world = World::new().await;
    let (value, _) = world.login("ada").await;
    world.clock.advance(IDLE - Duration::from_secs(60));
    assert!(world.found(&value).await);
    world.sessions.write_back().await.unwrap();
    world.clock.advance(IDLE - Duration::from_secs(1));
    assert!(world.restarted().await.found(&value).await);
}

#[tokio::test]
async fn a_session_that_was_over_stays_over_when_the_clock_is_set_back() {
    let world = World::new().await;
    let (value, _) = world.login("ada").await;
    world.clock.advance(IDLE);
    // Nobody asked for it, only the sweep saw the time pass.
    world.sessions.sweep().await.unwrap();
    world.set_back(IDLE);
    assert!(!world.found(&value).await);
    assert!(!world.restarted().await.found(&value).await);
}

#[tokio::test]
async fn a_session_that_nobody_looked_at_is_over_too_when_the_clock_is_set_back() {
    let world = World::new().await;
    let (value, _) = world.login("ada").await;
    world.clock.advance(IDLE);
    world.login("grace").await;
    world.set_back(IDLE / 2);
    assert!(!world.found(&value).await);
}

#[tokio::test]
async fn after_the_clock_was_set_back_a_restart_goes_on_from_the_latest_time() {
    let world = World::new().await;
    let (idle, _) = world.login("ada").await;
    world.clock.advance(IDLE - Duration::from_secs(120));
    let latest = world.clock.now();
    world.sessions.sweep().await.unwrap();
    world.set_back(Duration::from_secs(86_400));
    let world = world.restarted().await;
    assert!(world.found(&idle).await);
    assert_eq!(world.login("vera").await.1.created, latest);
    world.clock.advance(Duration::from_secs(86_400 + 1800));
    assert!(!world.found(&idle).await);
    let (fresh, _) = world.login("grace").await;
    assert!(world.found(&fresh).await);
}

#[tokio::test]
async fn a_used_login_is_remembered_when_the_sessions_are_ahead_of_the_clock() {
    let world = World::new().await;
    world.clock.advance(Duration::from_secs(86_400));
    world.sessions.sweep().await.unwrap();
    world.set_back(Duration::from_secs(86_400));
    let used = world.clock.now().plus(Duration::from_secs(1200));
    world.store.put(Space::Logins, b"used", b"", used).await.unwrap();
    world.sessions.sweep().await.unwrap();
    assert_eq!(world.store.get(Space::Logins, b"used").await, Ok(Some(vec![])));
    world.clock.advance(Duration::from_secs(1200));
    world.sessions.sweep().await.unwrap();
    assert_eq!(world.store.get(Space::Logins, b"used").await, Ok(None));
}

#[tokio::test]
async fn an_ended_session_is_gone_from_cache_and_store_and_is_announced() {
    let world = World::new().await;
    let (value, session) = world.login("ada").await;
    let mut ends = world.sessions.endings().unwrap();
    assert!(world.sessions.endings().is_none());
    assert!(world.sessions.end(&session.id, EndReason::Logout).await.unwrap());
    assert_eq!(ends.try_recv().unwrap().id, session.id);
    assert!(ends.try_recv().is_err());
    assert!(!world.sessions.is_alive(&session.id, world.clock.now()));
    assert!(!world.found(&value).await);
    assert!(!world.restarted().await.found(&value).await);
    assert!(!world.sessions.end(&session.id, EndReason::Logout).await.unwrap());
}

#[tokio::test]
async fn of_ten_thousand_sessions_that_end_at_once_every_end_is_told() {
    let world = World::new().await;
    for user in 0..10_000 {
        world.login(&user.to_string()).await;
    }
    world.clock.advance(IDLE);
    world.sessions.sweep().await.unwrap();
    let mut endings = world.sessions.endings().unwrap();
    let told = std::iter::from_fn(|| endings.try_recv().ok()).count();
    assert_eq!(told, 10_000);
}

#[tokio::test]
async fn a_late_write_back_does_not_bring_an_ended_session_back() {
    let world = World::new().await;
    let (value, session) = world.login("ada").await;
    world.clock.advance(Duration::from_secs(120));
    assert!(world.found(&value).await);
    world.sessions.end(&session.id, EndReason::Logout).await.unwrap();
    world.sessions.write_back().await.unwrap();
    world.sessions.sweep().await.unwrap();
    assert!(!world.restarted().await.found(&value).await);
}

#[tokio::test]
async fn a_write_back_that_waited_for_its_turn_looks_again() {
    let world = World::new().await;
    let (value, session) = world.login("ada").await;
    world.clock.advance(Duration::from_secs(120));
    assert!(world.found(&value).await);
    let turn = world.sessions.turn(&session.id).await;
    let mut write_back = Box::pin(world.sessions.write_back());
    assert!(write_back.as_mut().now_or_never().is_none());
    world.sessions.announce(&session, EndReason::Logout);
    world.store.inner.remove(Space::Sessions, &session.id.0).await.unwrap();
    drop(turn);
    write_back.await.unwrap();
    assert_eq!(world.store.inner.get(Space::Sessions, &session.id.0).await.unwrap(), None);
}

#[tokio::test]
async fn a_session_ends_here_even_when_the_store_fails_and_the_store_follows() {
    let world = World::new().await;
    let (value, session) = world.login("ada").await;
    world.store.down.store(true, Ordering::SeqCst);
    assert!(world.sessions.end(&session.id, EndReason::Logout).await.is_err());
    assert!(!world.found(&value).await);
    world.store.down.store(false, Ordering::SeqCst);
    assert!(!world.found(&value).await);
    world.sessions.sweep().await.unwrap();
    assert!(!world.restarted().await.found(&value).await);
}

#[tokio::test]
async fn a_failing_store_is_an_error_and_not_an_anonymous_user() {
    let world = World::new().await;
    let (value, _) = world.login("ada").await;
    let world = world.restarted().await;
    world.store.down.store(true, Ordering::SeqCst);
    let found = world.sessions.find(&value, world.clock.now()).await;
    assert!(matches!(found, Err(SessionError::Unavailable(_))));
    assert!(world.sessions.create(new_session("x"), None).await.is_err());
}

#[tokio::test]
async fn a_new_login_takes_the_old_ones_place_under_a_new_id() {
    let world = World::new().await;
    let (old, first) = world.login("ada").await;
    let mut endings = world.sessions.endings().unwrap();
    let (new, second) = world.sessions.create(new_session("ada"), Some(&old)).await.unwrap();
    assert_ne!(first.id, second.id);
    assert_eq!(endings.try_recv().unwrap().reason, EndReason::Replaced);
    assert!(!world.found(&old).await);
    assert!(world.found(new.expose()).await);
}

#[tokio::test]
async fn a_session_leaves_nothing_in_the_store_when_it_ends() {
    let world = World::new().await;
    let (_, session) = world.login("ada").await;
    world.sessions.end(&session.id, EndReason::Logout).await.unwrap();
    world.login("grace").await;
    world.clock.advance(IDLE);
    world.sessions.sweep().await.unwrap();
    for space in [Space::Sessions, Space::SessionsOfLogins, Space::SessionsOfUsers] {
        assert_eq!(world.store.inner.scan(space, b"").await, Ok(vec![]));
    }
}

#[tokio::test]
async fn values_that_the_gate_never_made_find_nothing() {
    let world = World::new().await;
    let (value, _) = world.login("ada").await;
    for text in ["", "x", value.split_at(1).1, &format!("{value}A"), &value.to_lowercase()] {
        assert!(!world.found(text).await, "{text}");
    }
}

#[tokio::test]
async fn two_hundred_logins_at_once_never_cross() {
    let world = World::new().await;
    let mut logins = tokio::task::JoinSet::new();
    for index in 0..200 {
        let sessions = Arc::clone(&world.sessions);
        let now = world.clock.now();
        logins.spawn(async move {
            let user = format!("user-{index}");
            let (value, _) = sessions.create(new_session(&user), None).await.unwrap();
            tokio::task::yield_now().await;
            let Cached::Hit(found) = sessions.find_cached(value.expose(), now) else {
                panic!("{user} has no session")
            };
            assert_eq!(found.principal.id.as_ref(), format!("idp/{user}"));
            (value.expose().to_owned(), user)
        });
    }
    let restarted = world.restarted().await;
    for (value, user) in logins.join_all().await {
        let found = restarted.sessions.find(&value, world.clock.now()).await.unwrap().unwrap();
        assert_eq!(found.principal.id.as_ref(), format!("idp/{user}"));
    }
}

#[tokio::test]
async fn the_cache_evicts_what_nobody_holds_and_keeps_the_rest() {
    let cache = Cache::new(STRIPES);
    let session = |last: u8| {
        let mut id = [0u8; 32];
        id[31] = last;
        id[8] = last;
        let record = Record::new(
            new_session("ada"),
            Timestamp::from_seconds(1),
            Timestamp::from_seconds(i64::from(last)),
            Timestamp::from_seconds(9_000),
        );
        record.into_session(SessionId(id), None)
    };
    let held = session(1);
    cache.insert(Arc::clone(&held));
    for last in 2..20 {
        cache.insert(session(last));
    }
    assert!(cache.get(&held.id).is_some());
    assert_eq!(cache.len(), 2);
}

#[tokio::test]
async fn a_late_write_of_the_former_process_does_not_bring_a_session_back() {
    let world = World::new().await;
    let (_, session) = world.login("ada").await;
    let (_, other) = world.login("bob").await;
    world.sessions.has_peer(true);
    world.sessions.end(&session.id, EndReason::Logout).await.unwrap();
    assert!(world.sessions.write_for_peer(session.id).await.is_none());
    assert!(world.sessions.write_for_peer(other.id).await.is_some());
}

#[tokio::test]
async fn what_a_newer_process_ended_before_it_was_refused_is_over() {
    let world = World::new().await;
    let newer = world.restarted().await;
    let (value, session) = world.login("ada").await;
    let (kept, _) = world.login("bob").await;
    let mut endings = world.sessions.endings().unwrap();
    newer.sessions.end(&session.id, EndReason::Logout).await.unwrap();
    world.sessions.recheck().await.unwrap();
    assert!(!world.found(&value).await);
    assert!(!world.sessions.is_alive(&session.id, world.clock.now()));
    assert!(endings.try_recv().unwrap().elsewhere);
    assert!(world.found(&kept).await);
}

#[tokio::test]
async fn a_session_that_is_used_in_the_other_process_does_not_end_here() {
    let old = World::new().await;
    let (value, session) = old.login("ada").await;
    let (unused, idle) = old.login("bob").await;
    let new = old.restarted().await;
    old.sessions.has_peer(true);
    old.clock.advance(IDLE - Duration::from_secs(30));
    assert!(new.found(&value).await);
    new.sessions.write_back().await.unwrap();
    old.clock.advance(Duration::from_secs(60));
    let mut endings = old.sessions.endings().unwrap();
    assert!(!old.sessions.is_alive(&idle.id, old.clock.now()), "it is refused all the same");
    assert!(!old.found(&unused).await);
    old.sessions.is_alive(&session.id, old.clock.now());
    assert!(old.found(&value).await, "the store knows better");
    old.sessions.sweep().await.unwrap();
    assert!(old.sessions.is_alive(&session.id, old.clock.now()));
    assert!(endings.try_recv().is_err(), "which are the other's to end");
    assert!(new.found(&value).await);
    old.sessions.has_peer(false);
    old.sessions.sweep().await.unwrap();
    assert_eq!(endings.try_recv().unwrap().id, idle.id);
    assert!(endings.try_recv().is_err());
}
