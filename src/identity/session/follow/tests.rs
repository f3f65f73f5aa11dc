use std::sync::atomic::AtomicBool;

use async_trait::async_trait;

use super::*;
use crate::config;
use crate::config::model::SessionLimits;
use crate::config::secret::Secret;
use crate::domain::clock::{Clock, Timestamp};
use crate::domain::principal::{Authentication, Principal, PrincipalKind};
use crate::identity::outage::{Place, Refreshes};
use crate::identity::refresh::{Before, RefreshError, RefreshToken, Renewed, Renews};
use crate::identity::session::{Cached, NewSession};
use crate::metrics::Metrics;
use crate::store::{Entry, MemoryStore, Stream};

const IDLE: Duration = Duration::from_secs(1800);
/// Of an application.
const APPLICATION: Duration = Duration::from_secs(600);
const LONG: Duration = Duration::from_secs(3600);
const SHORT: Duration = Duration::from_millis(60);

/// The servers as one gate sees them.
#[derive(Debug)]
struct Seen {
    store: Arc<MemoryStore>,
    stream: Arc<SeenStream>,
    lease: Duration,
}

#[derive(Debug)]
struct SeenStream {
    inner: Arc<dyn Stream>,
    down: AtomicBool,
    gap: AtomicBool,
}

impl SeenStream {
    fn up(&self) -> Result<&dyn Stream, StoreError> {
        if self.down.load(Ordering::SeqCst) {
            return Err(StoreError::Failed("down".to_owned()));
        }
        Ok(self.inner.as_ref())
    }
}

#[async_trait]
impl Stream for SeenStream {
    async fn append(&self, events: Vec<Vec<u8>>) -> Result<(), StoreError> {
        self.up()?.append(events).await
    }
    async fn end(&self) -> Result<Position, StoreError> {
        self.up()?.end().await
    }
    async fn read(&self, after: &Position) -> Result<Read, StoreError> {
        if self.gap.swap(false, Ordering::SeqCst) {
            return Ok(Read::Gap);
        }
        self.up()?.read(after).await
    }
    async fn wait(&self, after: &Position, patience: Duration) {
        self.inner.wait(after, patience.min(SHORT / 3)).await;
    }
    async fn trim(&self, older_than: Duration) -> Result<(), StoreError> {
        self.up()?.trim(older_than).await
    }
}

#[async_trait]
impl Store for Seen {
    async fn get(&self, space: Space, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.store.get(space, key).await
    }
    async fn put(
        &self,
        space: Space,
        key: &[u8],
        value: &[u8],
        expires: Timestamp,
    ) -> Result<(), StoreError> {
        self.store.put(space, key, value, expires).await
    }
    async fn replace_all(&self, space: Space, entries: Vec<Entry>) -> Result<(), StoreError> {
        self.store.replace_all(space, entries).await
    }
    async fn put_if_absent(
        &self,
        space: Space,
        key: &[u8],
        value: &[u8],
        expires: Timestamp,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        self.store.put_if_absent(space, key, value, expires, now).await
    }
    async fn remove(&self, space: Space, key: &[u8]) -> Result<bool, StoreError> {
        self.store.remove(space, key).await
    }
    async fn scan(
        &self,
        space: Space,
        prefix: &[u8],
    ) -> Result<Vec<(Vec<u8>, Vec<u8>)>, StoreError> {
        self.store.scan(space, prefix).await
    }
    async fn purge(&self, space: Space, now: Timestamp) -> Result<usize, StoreError> {
        self.store.purge(space, now).await
    }
    fn shared(&self) -> Option<Shared> {
        Some(Shared { stream: self.stream.clone(), lease: self.lease })
    }
}

struct Gate {
    stream: Arc<SeenStream>,
    sessions: Arc<Sessions>,
    clock: Clock,
}

impl Gate {
    async fn at(store: &Arc<MemoryStore>, clock: &Clock, lease: Duration) -> Self {
        let stream = Arc::new(SeenStream {
            inner: store.shared().unwrap().stream,
            down: AtomicBool::new(false),
            gap: AtomicBool::new(false),
        });
        let seen = Seen { store: Arc::clone(store), stream: Arc::clone(&stream), lease };
        let config = config::model::Session {
            idle_timeout: IDLE,
            absolute_lifetime: 24 * LONG,
            shortest_idle: Some(APPLICATION),
            keep_forms: 0,
            ..config::model::Session::default()
        };
        let sessions =
            Sessions::open(Arc::new(seen), &config, clock.clone(), Metrics::new()).await.unwrap();
        Self { stream, sessions, clock: clock.clone() }
    }

    fn follows(&self) {
        tokio::spawn(Arc::clone(&self.sessions).follow());
    }

    /// What following does, once.
    async fn catches_up(&self) {
        let mut position = self.sessions.follow.from.lock().take();
        self.sessions.catch_up(&mut position).await.unwrap();
        *self.sessions.follow.from.lock() = position;
    }

    async fn login(&self) -> (String, Arc<Session>) {
        let login = NewSession {
            principal: Arc::new(Principal {
                kind: PrincipalKind::User,
                id: "idp/vera".into(),
                email: None,
                name: None,
                groups: Default::default(),
                tenant: None,
            }),
            authentication: Authentication::default(),
            provider: "idp".into(),
            vouched_by: Default::default(),
            sid: None,
            subject: None,
            id_token: None::<Secret>,
            access_token: None,
            refresh: Some(RefreshToken { token: Secret::new("r"), lifetime: None, asked: None }),
            host: None,
            begun: None,
        };
        let (value, session) = self.sessions.create(login, None).await.unwrap();
        (value.expose().to_owned(), session)
    }

    async fn knows(&self, value: &str) -> bool {
        let now = self.clock.now();
        loop {
            if let Cached::Hit(_) = self.sessions.find_cached(value, now) {
                return true;
            }
            // Its lease may have been over for a moment.
            match self.sessions.find(value, now).await {
                Ok(found) => return found.is_some(),
                Err(_) => tokio::task::yield_now().await,
            }
        }
    }

    fn is_confirmed(&self) -> bool {
        self.sessions.is_confirmed(Instant::now())
    }

    async fn until(&self, confirmed: bool) {
        within(async || self.is_confirmed() == confirmed).await;
    }
}

/// Asks until it is so.
async fn within(mut is_so: impl AsyncFnMut() -> bool) {
    let asking = async {
        while !is_so().await {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), asking).await.expect("it never came to that");
}

async fn two(lease: Duration) -> (Gate, Gate, Arc<MemoryStore>) {
    let clock = Clock::manual(Timestamp::from_seconds(1_800_000_000));
    let store = Arc::new(MemoryStore::shared_by_gates(lease));
    let one = Gate::at(&store, &clock, lease).await;
    let other = Gate::at(&store, &clock, lease).await;
    (one, other, store)
}

#[tokio::test]
async fn a_session_of_one_gate_is_known_at_the_other_and_ends_at_both() {
    let (one, other, _store) = two(LONG).await;
    other.follows();
    let mut endings = other.sessions.endings().unwrap();
    let (value, session) = one.login().await;
    assert!(other.knows(&value).await);
    assert!(one.sessions.end(&session.id, EndReason::Logout).await.unwrap());
    let ended = endings.recv().await.unwrap();
    assert_eq!((ended.id, ended.elsewhere), (session.id, true), "who ended it has the record");
    assert!(!other.knows(&value).await && !one.knows(&value).await);
}

#[tokio::test]
async fn what_is_to_be_given_back_of_a_session_the_others_hear_too() {
    let (one, other, _store) = two(LONG).await;
    for (reason, is_given_back) in [(EndReason::Logout, true), (EndReason::Replaced, false)] {
        let (value, session) = one.login().await;
        let now = one.clock.now();
        let there = other.sessions.find(&value, now).await.unwrap().unwrap();
        one.sessions.end(&session.id, reason).await.unwrap();
        other.catches_up().await;
        assert!(there.has_ended());
        assert_eq!(there.is_given_back(), is_given_back, "{reason:?}");
    }
    let (value, session) = one.login().await;
    let there = other.sessions.find(&value, one.clock.now()).await.unwrap().unwrap();
    let earlier = format!(r#"{{"Ended":{{"session":{:?}}}}}"#, session.id.0);
    assert!(other.sessions.hear(earlier.as_bytes()), "of an earlier version");
    assert!(there.has_ended() && !there.is_given_back());
    let later = format!(r#"{{"Ended":{{"session":{:?},"more":1}}}}"#, session.id.0);
    assert!(other.sessions.hear(later.as_bytes()), "as an earlier version hears it");
}

#[tokio::test]
async fn who_ends_a_session_is_not_told_that_it_is_done_before_the_others_can_hear_it() {
    let (one, other, _store) = two(LONG).await;
    let (value, session) = one.login().await;
    assert!(other.knows(&value).await);
    one.stream.down.store(true, Ordering::SeqCst);
    assert!(one.sessions.end(&session.id, EndReason::Logout).await.is_err());
    assert!(!one.knows(&value).await, "here it is over");
    one.stream.down.store(false, Ordering::SeqCst);
    one.sessions.sweep().await.unwrap();
    other.catches_up().await;
    assert!(!other.knows(&value).await, "the sweep has told it");
}

#[tokio::test]
async fn a_gate_that_cannot_read_the_stream_confirms_nothing_past_its_lease_and_recovers() {
    let (one, other, _store) = two(SHORT).await;
    other.follows();
    let (value, session) = one.login().await;
    assert!(other.knows(&value).await);
    other.stream.down.store(true, Ordering::SeqCst);
    other.until(false).await;
    assert_eq!(other.sessions.confirmed_for(), Duration::ZERO);
    one.sessions.end(&session.id, EndReason::Logout).await.unwrap();
    other.stream.down.store(false, Ordering::SeqCst);
    other.until(true).await;
    assert!(!other.knows(&value).await, "by then it has heard what it missed");
    assert_eq!(other.sessions.metrics.sessions_confirmed.get(), 1);
}

#[tokio::test]
async fn what_this_gate_ended_while_the_store_was_away_ends_when_it_is_back() {
    let (one, other, store) = two(SHORT).await;
    one.follows();
    let (value, session) = one.login().await;
    one.stream.down.store(true, Ordering::SeqCst);
    assert!(one.sessions.end(&session.id, EndReason::Logout).await.is_err());
    one.until(false).await;
    one.stream.down.store(false, Ordering::SeqCst);
    within(async || store.get(Space::Sessions, &session.id.0).await.unwrap().is_none()).await;
    assert!(!other.sessions.find(&value, other.clock.now()).await.is_ok_and(|s| s.is_some()));
}

#[tokio::test]
async fn after_a_gap_every_session_is_looked_up_anew() {
    let (one, other, store) = two(LONG).await;
    let (held, ended) = one.login().await;
    let (fine, _) = one.login().await;
    let (idle, idle_session) = one.login().await;
    drop(idle_session);
    for value in [&held, &fine, &idle] {
        assert!(other.knows(value).await);
    }
    let connection = other.sessions.cache.get(&ended.id).unwrap();
    // Ended at a third gate, and the word of it is lost.
    store.remove(Space::Sessions, &ended.id.0).await.unwrap();
    assert!(other.knows(&held).await);
    other.stream.gap.store(true, Ordering::SeqCst);
    other.catches_up().await;
    assert!(connection.has_ended());
    assert!(connection.is_unexplained(), "what a refresh brings for it is given back");
    assert!(!other.knows(&held).await);
    assert!(other.knows(&fine).await && other.knows(&idle).await);
    assert_eq!(other.sessions.metrics.revocation_gaps.get(), 1);
}

#[tokio::test]
async fn a_session_that_is_read_anew_and_no_longer_there_is_over_without_a_reason() {
    let (one, other, store) = two(LONG).await;
    let (value, session) = one.login().await;
    assert!(other.knows(&value).await);
    let connection = other.sessions.cache.get(&session.id).unwrap();
    let refreshed = format!(r#"{{"Refreshed":{{"session":{:?},"generation":1}}}}"#, session.id.0);
    assert!(other.sessions.hear(refreshed.as_bytes()));
    // Ended at a third gate, and not heard yet.
    store.remove(Space::Sessions, &session.id.0).await.unwrap();
    assert!(!other.knows(&value).await && connection.has_ended());
    assert!(connection.is_unexplained(), "what a refresh brings for it is given back");
}

#[tokio::test]
async fn servers_that_lost_an_end_do_not_bring_the_session_back() {
    let (one, other, store) = two(LONG).await;
    let (value, session) = one.login().await;
    let record = store.get(Space::Sessions, &session.id.0).await.unwrap().unwrap();
    one.sessions.end(&session.id, EndReason::Logout).await.unwrap();
    store.put(Space::Sessions, &session.id.0, &record, session.expires).await.unwrap();
    one.stream.gap.store(true, Ordering::SeqCst);
    one.catches_up().await;
    assert_eq!(store.get(Space::Sessions, &session.id.0).await, Ok(None));
    assert!(!other.knows(&value).await && !one.knows(&value).await);
}

#[tokio::test]
async fn a_session_that_was_read_before_its_end_was_heard_is_over() {
    let (one, other, store) = two(LONG).await;
    let (value, session) = one.login().await;
    let record = store.get(Space::Sessions, &session.id.0).await.unwrap().unwrap();
    one.sessions.end(&session.id, EndReason::Logout).await.unwrap();
    other.catches_up().await;
    // As if the look at the store had begun before.
    store.put(Space::Sessions, &session.id.0, &record, session.expires).await.unwrap();
    assert!(!other.knows(&value).await);
}

#[tokio::test]
async fn while_everything_is_looked_up_anew_no_session_comes_into_memory() {
    let (one, other, _store) = two(LONG).await;
    let (value, _session) = one.login().await;
    let looks = other.sessions.follow.looks();
    other.stream.gap.store(true, Ordering::SeqCst);
    other.catches_up().await;
    assert!(other.knows(&value).await);
    let session = other.sessions.cache.matching(&|_| true).pop().unwrap();
    assert!(other.sessions.heed_others(&session, looks).is_err(), "the look began before");
}

#[tokio::test]
async fn news_that_cannot_be_understood_are_not_passed_over() {
    let (one, other, store) = two(LONG).await;
    let (value, session) = one.login().await;
    assert!(other.knows(&value).await);
    store.remove(Space::Sessions, &session.id.0).await.unwrap();
    let stream = store.shared().unwrap().stream;
    stream.append(vec![b"{\"Novelty\":1}".to_vec()]).await.unwrap();
    other.catches_up().await;
    assert!(!other.knows(&value).await);
}

#[tokio::test]
async fn a_late_write_does_not_bring_a_session_back() {
    let (one, other, store) = two(LONG).await;
    let (value, session) = one.login().await;
    assert!(other.knows(&value).await);
    other.clock.advance(IDLE / 2);
    assert!(other.knows(&value).await, "which is to be written");
    one.sessions.end(&session.id, EndReason::Logout).await.unwrap();
    other.sessions.write_back().await.unwrap();
    assert_eq!(store.get(Space::Sessions, &session.id.0).await, Ok(None));
}

#[tokio::test]
async fn a_session_that_is_used_at_one_gate_is_not_idle_at_the_other() {
    let (one, other, _store) = two(24 * LONG).await;
    let (value, session) = one.login().await;
    assert!(other.knows(&value).await);
    other.clock.advance(IDLE - Duration::from_secs(1));
    assert!(other.knows(&value).await);
    other.sessions.write_back().await.unwrap();
    one.clock.advance(Duration::from_secs(2));
    one.sessions.sweep().await.unwrap();
    assert!(!session.has_ended() && one.knows(&value).await);
    one.clock.advance(IDLE * 2);
    assert!(!one.knows(&value).await);
    one.sessions.sweep().await.unwrap();
    assert!(session.has_ended(), "idle everywhere");
}

#[tokio::test]
async fn for_an_application_too_a_session_is_idle_where_it_is_idle_everywhere() {
    let (one, other, _store) = two(24 * LONG).await;
    let (value, session) = one.login().await;
    let limits = SessionLimits { idle_timeout: Some(APPLICATION), absolute_lifetime: None };
    let is_idle = |gate: &Gate, session: &Session| {
        gate.sessions.past_limit(session, &limits, gate.clock.now()).is_some()
    };
    for _ in 0..2 {
        other.clock.advance(APPLICATION - Duration::from_secs(1));
        assert!(other.knows(&value).await);
        other.sessions.write_back().await.unwrap();
    }
    assert!(one.knows(&value).await, "which asks the store");
    assert!(!is_idle(&one, &session));
    one.sessions.write_back().await.unwrap();

    one.clock.advance(APPLICATION);
    assert!(one.knows(&value).await);
    assert!(is_idle(&one, &session));
    one.sessions.write_back().await.unwrap();
    // The other hears of it, although it was in use a moment ago by what is stored.
    assert!(other.knows(&value).await);
    let there = other.sessions.cache.get(&session.id).unwrap();
    assert!(is_idle(&other, &there));
}

#[tokio::test]
async fn a_cookie_that_names_nothing_is_no_news() {
    let (one, _other, store) = two(LONG).await;
    let stream = store.shared().unwrap().stream;
    let before = stream.end().await.unwrap();
    assert!(!one.sessions.end(&SessionId([7; 32]), EndReason::Logout).await.unwrap());
    assert_eq!(stream.end().await.unwrap(), before);
}

#[test]
fn what_ended_is_remembered_for_a_while_and_not_for_ever() {
    let start = Instant::now();
    let mut lately = Lately { since: start, now: HashSet::new(), before: HashSet::new() };
    let id = |number| SessionId([number; 32]);
    lately.insert(id(1), start);
    lately.insert(id(2), start + REMEMBERED);
    assert!(lately.contains(&id(1)) && lately.contains(&id(2)));
    lately.insert(id(3), start + REMEMBERED * 2);
    assert_eq!(lately.all().len(), 2);
    assert!(!lately.contains(&id(1)));
}

/// The provider says this of everybody.
#[derive(Debug)]
struct Says(&'static str, Refreshes);

#[async_trait]
impl Renews for Says {
    fn patience(&self) -> Duration {
        LONG
    }

    async fn place(&self) -> Result<Place<'_>, RefreshError> {
        self.1.place(LONG).await
    }

    async fn renew(&self, before: &Before<'_>, _: Place<'_>) -> Result<Renewed, RefreshError> {
        let groups = [Arc::from(self.0)].into();
        let principal = Arc::new(Principal { groups, ..before.principal.clone() });
        Ok(Renewed { principal, id_token: None, token: None, access_token: None, lifetime: None })
    }
}

#[tokio::test]
async fn what_one_gate_learns_of_a_user_the_other_goes_by_at_once() {
    let (one, other, _store) = two(LONG).await;
    tokio::spawn(Arc::clone(&one.sessions).refresh());
    let (value, session) = one.login().await;
    let now = one.clock.now();
    let there = other.sessions.find(&value, now).await.unwrap().unwrap();
    let refresh = async |session: &Arc<Session>, says| {
        let flight =
            one.sessions.begin_refresh(session, &Arc::new(Says(says, Refreshes::default())), now);
        flight.unwrap().landed().await;
        one.sessions.current(session).unwrap()
    };
    let session = refresh(&session, "new").await;
    assert!(there.is_current(), "it has heard of nothing");
    other.catches_up().await;
    assert!(!there.is_current());
    assert!(matches!(other.sessions.find_cached(&value, now), Cached::Miss));
    let found = other.sessions.reread(&there, now).await.unwrap().unwrap();
    assert!(found.principal.groups.contains("new"));
    assert!(matches!(other.sessions.find_cached(&value, now), Cached::Hit(_)));
    assert_eq!(other.sessions.metrics.revocations_heard.get(), 0, "nothing ended");
    // What was missed is looked up.
    refresh(&session, "newer").await;
    other.stream.gap.store(true, Ordering::SeqCst);
    other.catches_up().await;
    let found = other.sessions.find(&value, now).await.unwrap().unwrap();
    assert!(found.principal.groups.contains("newer"));
}

#[tokio::test]
async fn a_store_that_has_lost_a_refresh_serves_what_it_has() {
    let (one, _other, store) = two(LONG).await;
    tokio::spawn(Arc::clone(&one.sessions).refresh());
    let (value, session) = one.login().await;
    let now = one.clock.now();
    let before = store.get(Space::Refreshes, &session.id.0).await.unwrap().unwrap();
    session.supersede(7);
    store.put(Space::Refreshes, &session.id.0, &before, session.expires).await.unwrap();
    assert!(one.sessions.find(&value, now).await.unwrap().unwrap().is_current());
}
