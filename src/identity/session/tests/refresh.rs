//! Against a provider whose refresh tokens work once, and which ends the sign-in when one comes again.

use std::collections::BTreeSet;

use futures_util::future::join_all;

use super::*;
use crate::config::model::Refresh;
use crate::identity::outage::{AT_ONCE, Place, Refreshes};
use crate::identity::provider_token::ProviderToken;
use crate::identity::refresh::{Before, RefreshError, RefreshToken, Renewed, Renews};

const PACE: Refresh =
    Refresh { interval: Duration::from_secs(300), max_age: Duration::from_secs(3600) };

const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug)]
enum Says {
    Groups(&'static str),
    /// The sign-in is over.
    No,
    /// Something that can't be used, after a new token was made.
    Nonsense,
    Nothing,
}

#[derive(Debug)]
pub(super) struct Idp {
    says: parking_lot::Mutex<Says>,
    /// The number of the token that works.
    good: AtomicUsize,
    used: parking_lot::Mutex<Vec<String>>,
    /// Closed, nobody is answered.
    pub(super) door: tokio::sync::RwLock<()>,
    /// Answers, once the token was used, when this is closed.
    store: Option<Arc<Flaky>>,
    places: Refreshes,
}

impl Idp {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self::at(None))
    }

    fn at(store: Option<Arc<Flaky>>) -> Self {
        Self {
            says: parking_lot::Mutex::new(Says::Groups("new")),
            good: AtomicUsize::new(0),
            used: parking_lot::Mutex::default(),
            door: tokio::sync::RwLock::default(),
            store,
            places: Refreshes::default(),
        }
    }

    /// As if as many others were at it as may be.
    async fn crowd(&self) -> Vec<Place<'_>> {
        join_all((0..AT_ONCE).map(|_| self.place())).await.into_iter().map(Result::unwrap).collect()
    }

    fn will(&self, says: Says) {
        *self.says.lock() = says;
    }

    pub(super) fn used(&self) -> Vec<String> {
        self.used.lock().clone()
    }
}

#[async_trait]
impl Renews for Idp {
    fn patience(&self) -> Duration {
        PATIENCE
    }

    async fn place(&self) -> Result<Place<'_>, RefreshError> {
        self.places.place(PATIENCE).await
    }

    async fn renew(&self, before: &Before<'_>, _: Place<'_>) -> Result<Renewed, RefreshError> {
        let says = *self.says.lock();
        if let Says::Nothing = says {
            return Err(RefreshError::unavailable("down", true));
        }
        let token = before.token.expose().to_owned();
        self.used.lock().push(token.clone());
        let good = self.good.fetch_add(1, Ordering::SeqCst);
        if token != format!("r-{good}") {
            return Err(RefreshError::Refused("invalid_grant".to_owned()));
        }
        let _open = self.door.read().await;
        if let Some(store) = &self.store {
            store.down.store(true, Ordering::SeqCst);
        }
        let next = Some(Secret::new(format!("r-{}", good + 1)));
        match says {
            Says::Groups(groups) => Ok(Renewed {
                principal: Arc::new(Principal {
                    groups: groups.split(' ').map(Arc::from).collect(),
                    ..before.principal.clone()
                }),
                id_token: Some(Secret::new("a.newer.one")),
                token: next,
                access_token: ProviderToken::new(&format!("a-{}", good + 1), None),
                lifetime: None,
            }),
            Says::Nonsense => Err(RefreshError::Unavailable {
                cause: "nonsense".to_owned(),
                for_all: false,
                rotated: next,
            }),
            Says::No | Says::Nothing => Err(RefreshError::Refused("invalid_grant".to_owned())),
        }
    }
}

impl World {
    /// With somebody who does the refreshes.
    pub(super) async fn refreshing() -> Self {
        let world = Self::new().await;
        tokio::spawn(Arc::clone(&world.sessions).refresh());
        world
    }

    async fn another(&self) -> Self {
        let other = self.restarted().await;
        tokio::spawn(Arc::clone(&other.sessions).refresh());
        other
    }

    pub(super) async fn sign_in(&self, user: &str) -> (String, Arc<Session>) {
        let refresh = Some(RefreshToken { token: Secret::new("r-0"), lifetime: None, asked: None });
        let login = NewSession { refresh, ..new_session(user) };
        let (value, session) = self.sessions.create(login, None).await.unwrap();
        (value.expose().to_owned(), session)
    }

    async fn refresh(&self, session: &Arc<Session>, idp: &Arc<Idp>) {
        let flight = self.sessions.begin_refresh(session, idp, self.clock.now());
        flight.expect("nothing was begun").landed().await;
    }

    async fn groups(&self, value: &str) -> String {
        let now = self.clock.now();
        let found = match self.sessions.find_cached(value, now) {
            Cached::Hit(session) => session,
            Cached::Miss => self.sessions.find(value, now).await.unwrap().expect("no session"),
        };
        groups(&found)
    }

    fn freshness(&self, session: &Session) -> Freshness {
        self.sessions.freshness(session, Some(PACE), self.clock.now())
    }

    async fn kept(&self, id: &SessionId) -> Option<Vec<u8>> {
        self.store.inner.get(Space::Refreshes, &id.0).await.unwrap()
    }
}

fn groups(session: &Session) -> String {
    session.principal.groups.iter().map(|group| &**group).collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn claims_are_asked_about_before_the_interval_ends_and_not_used_past_their_maximum() {
    let world = World::refreshing().await;
    let (_, session) = world.sign_in("ada").await;
    let at = |seconds: u64| Duration::from_secs(seconds);
    for (passes, freshness) in [
        (at(0), Freshness::Fresh),
        (at(190), Freshness::Fresh),
        (at(50), Freshness::Soon),
        (at(59), Freshness::Soon),
        (at(1), Freshness::Due),
        (at(3299), Freshness::Due),
        (at(1), Freshness::Stale),
    ] {
        world.clock.advance(passes);
        assert_eq!(world.freshness(&session), freshness);
    }
    let off = world.sessions.freshness(&session, None, world.clock.now());
    assert_eq!(off, Freshness::Fresh, "where it is off");
    let (_, without) = world.login("bob").await;
    world.clock.advance(at(9_000));
    assert_eq!(world.freshness(&without), Freshness::Fresh, "there is no token");

    let refresh = RefreshToken { token: Secret::new("r-0"), lifetime: Some(at(60)), asked: None };
    let login = NewSession { refresh: Some(refresh), ..new_session("eve") };
    let (_, session) = world.sessions.create(login, None).await.unwrap();
    world.clock.advance(at(59));
    assert_eq!(world.freshness(&session), Freshness::Soon);
    world.clock.advance(at(1));
    assert_eq!(world.freshness(&session), Freshness::Due, "the access token ends before");
}

#[tokio::test]
async fn of_many_who_want_it_refreshed_one_uses_the_token_and_all_see_what_came_of_it() {
    let world = World::refreshing().await;
    let idp = Idp::new();
    let (value, session) = world.sign_in("ada").await;
    let known = Known::new(&value, &session);
    assert!(world.is_known(&known, &value));
    world.clock.advance(PACE.interval);
    assert_eq!(world.freshness(&session), Freshness::Due);
    join_all((0..50).map(|_| world.refresh(&session, &idp))).await;
    assert_eq!(idp.used(), ["r-0"]);
    assert!(!world.is_known(&known, &value), "a connection takes the newer one");
    assert_eq!(world.groups(&value).await, "new");
    let newest = world.sessions.current(&session).unwrap();
    assert!(!session.is_current() && newest.is_current());
    assert_eq!(newest.id_token.as_ref().map(Secret::expose), Some("a.newer.one"));
    assert_eq!(newest.authentication, session.authentication, "a refresh is no sign-in");
    assert_eq!(world.freshness(&newest), Freshness::Fresh);
    assert!(world.sessions.begin_refresh(&session, &idp, world.clock.now()).is_none());
    assert!(world.sessions.is_alive(&session.id, world.clock.now()));
    // The next one goes with the next token, and survives a restart.
    idp.will(Says::Groups("newer"));
    world.refresh(&newest, &idp).await;
    assert_eq!(idp.used(), ["r-0", "r-1"]);
    assert_eq!(world.restarted().await.groups(&value).await, "newer");
    world.sessions.end(&session.id, EndReason::Logout).await.unwrap();
    assert!(newest.has_ended());
    assert_eq!(world.kept(&session.id).await, None);
}

#[tokio::test]
async fn two_processes_use_each_token_once_and_both_learn_what_came_of_it() {
    let one = World::refreshing().await;
    let other = one.another().await;
    let idp = Idp::new();
    let (value, here) = one.sign_in("ada").await;
    let there = other.sessions.find(&value, one.clock.now()).await.unwrap().unwrap();
    let closed = idp.door.write().await;
    let both = async { tokio::join!(one.refresh(&here, &idp), other.refresh(&there, &idp)) };
    let opens = async {
        while idp.used().is_empty() {
            tokio::task::yield_now().await;
        }
        drop(closed);
    };
    tokio::join!(both, opens);
    assert_eq!(idp.used(), ["r-0"]);
    for world in [&one, &other] {
        assert_eq!(world.groups(&value).await, "new");
    }
    // One that has heard of nothing finds it in the store.
    idp.will(Says::Groups("newer"));
    let (here, there) = (one.sessions.current(&here).unwrap(), other.sessions.current(&there));
    one.refresh(&here, &idp).await;
    other.refresh(&there.unwrap(), &idp).await;
    assert_eq!(idp.used(), ["r-0", "r-1"]);
    assert_eq!(other.groups(&value).await, "newer");
}

#[tokio::test]
async fn what_is_written_back_late_undoes_no_refresh() {
    let one = World::refreshing().await;
    let other = one.another().await;
    let idp = Idp::new();
    let (value, session) = one.sign_in("ada").await;
    assert_eq!(other.groups(&value).await, "");
    one.refresh(&session, &idp).await;
    other.clock.advance(WRITE_BACK);
    assert_eq!(other.groups(&value).await, "", "it has not heard of it");
    other.sessions.write_back().await.unwrap();
    let restarted = one.restarted().await;
    assert_eq!(restarted.groups(&value).await, "new");
    let (listed, _) = one.restarted().await.sessions.some(9, one.clock.now()).await.unwrap();
    assert_eq!(listed.iter().map(|session| groups(session)).collect::<Vec<_>>(), ["new"]);
}

#[tokio::test]
async fn a_session_that_ends_while_it_is_refreshed_stays_over() {
    let world = World::refreshing().await;
    let idp = Idp::new();
    let (value, session) = world.sign_in("ada").await;
    let closed = idp.door.write().await;
    let now = world.clock.now();
    let flight = world.sessions.begin_refresh(&session, &idp, now).unwrap();
    while idp.used().is_empty() {
        tokio::task::yield_now().await;
    }
    world.sessions.end(&session.id, EndReason::Logout).await.unwrap();
    drop(closed);
    flight.landed().await;
    assert_eq!(world.kept(&session.id).await, None, "no token comes back");
    assert!(!world.found(&value).await);
    world.sessions.sweep().await.unwrap();
    assert!(!world.found(&value).await && !world.restarted().await.found(&value).await);
}

/// Signed out while the browser was on its way back.
#[tokio::test]
async fn a_sign_in_that_was_overtaken_by_a_sign_out_leaves_no_token() {
    let world = World::refreshing().await;
    let begun = Some(world.clock.now());
    world.clock.advance(Duration::from_secs(1));
    world.sessions.end_user("idp/ada", EndReason::Revoked).await.unwrap();
    let refresh = Some(RefreshToken { token: Secret::new("r-0"), lifetime: None, asked: None });
    let login = NewSession { refresh, begun, ..new_session("ada") };
    assert!(matches!(world.sessions.create(login, None).await, Err(SessionError::SignedOut)));
    assert_eq!(world.store.scan(Space::Refreshes, b"").await.unwrap(), []);
}

#[tokio::test]
async fn a_no_of_the_provider_ends_the_session() {
    let world = World::refreshing().await;
    let mut endings = world.sessions.endings().unwrap();
    let idp = Idp::new();
    let (value, session) = world.sign_in("ada").await;
    idp.will(Says::No);
    world.refresh(&session, &idp).await;
    assert_eq!(endings.try_recv().unwrap().reason, EndReason::RefreshRefused);
    assert!(!world.found(&value).await && !world.restarted().await.found(&value).await);
    assert!(world.sessions.begin_refresh(&session, &idp, world.clock.now()).is_none());
}

#[tokio::test]
async fn without_an_answer_a_session_goes_on_and_the_next_try_waits() {
    let world = World::refreshing().await;
    let idp = Idp::new();
    let (value, session) = world.sign_in("ada").await;
    idp.will(Says::Nothing);
    world.refresh(&session, &idp).await;
    assert!(world.found(&value).await && session.is_current());
    let again = || world.sessions.begin_refresh(&session, &idp, world.clock.now());
    assert!(again().is_none(), "not at once");
    world.clock.advance(Duration::from_secs(1));
    again().unwrap().landed().await;
    world.clock.advance(Duration::from_secs(1));
    assert!(again().is_none(), "and longer each time");
    world.clock.advance(Duration::from_secs(1));
    idp.will(Says::Groups("new"));
    again().unwrap().landed().await;
    assert_eq!((world.groups(&value).await.as_str(), idp.used().len()), ("new", 1));
}

#[tokio::test]
async fn a_token_that_comes_with_nonsense_is_the_one_to_use() {
    let world = World::refreshing().await;
    let idp = Idp::new();
    let (value, session) = world.sign_in("ada").await;
    idp.will(Says::Nonsense);
    world.clock.advance(PACE.interval);
    world.refresh(&session, &idp).await;
    let session = world.sessions.find(&value, world.clock.now()).await.unwrap().unwrap();
    assert_eq!(world.freshness(&session), Freshness::Due, "nobody has confirmed anything");
    idp.will(Says::Groups("new"));
    world.clock.advance(Duration::from_secs(1));
    world.refresh(&session, &idp).await;
    assert_eq!(idp.used(), ["r-0", "r-1"]);
    assert_eq!(world.groups(&value).await, "new");
}

#[tokio::test]
async fn a_store_that_is_away_when_the_answer_comes_gets_it_when_it_is_back() {
    let world = World::refreshing().await;
    let idp = Arc::new(Idp::at(Some(Arc::clone(&world.store))));
    let (value, session) = world.sign_in("ada").await;
    let now = world.clock.now();
    let flight = world.sessions.begin_refresh(&session, &idp, now).unwrap();
    while !world.store.down.load(Ordering::SeqCst) {
        tokio::task::yield_now().await;
    }
    tokio::task::yield_now().await;
    assert!(session.is_current(), "nobody is served on what is not stored");
    world.store.down.store(false, Ordering::SeqCst);
    flight.landed().await;
    assert_eq!(world.groups(&value).await, "new");
    assert_eq!(world.restarted().await.groups(&value).await, "new");
}

#[tokio::test]
async fn the_lease_of_a_gate_that_is_gone_ends() {
    let world = World::refreshing().await;
    let idp = Idp::new();
    let (value, session) = world.sign_in("ada").await;
    // What a gate leaves that was killed in the middle of it.
    let lease = [session.id.0.as_slice(), &0u64.to_be_bytes()].concat();
    let ends = world.clock.now().plus(Duration::from_secs(40));
    world.store.put(Space::Refreshes, &lease, b"", ends).await.unwrap();
    let now = world.clock.now();
    let flight = world.sessions.begin_refresh(&session, &idp, now).unwrap();
    let mut landed = Box::pin(flight.landed());
    let early = tokio::time::timeout(Duration::from_millis(300), &mut landed).await;
    assert!(early.is_err() && idp.used().is_empty(), "it may be at work still");
    world.clock.advance(Duration::from_secs(40));
    landed.await;
    assert_eq!(world.groups(&value).await, "new");
}

#[tokio::test]
async fn who_waited_for_a_place_for_longer_than_a_lease_uses_no_token_that_was_used() {
    let world = World::refreshing().await;
    let other = world.another().await;
    let (idp, elsewhere) = (Idp::new(), Idp::new());
    let (value, session) = world.sign_in("ada").await;
    let there = other.sessions.find(&value, world.clock.now()).await.unwrap().unwrap();
    let crowd = idp.crowd().await;
    let read = world.store.read.load(Ordering::SeqCst);
    let now = world.clock.now();
    let flight = world.sessions.begin_refresh(&session, &idp, now).unwrap();
    while world.store.read.load(Ordering::SeqCst) == read {
        tokio::task::yield_now().await;
    }
    other.refresh(&there, &elsewhere).await;
    assert_eq!(elsewhere.used(), ["r-0"]);
    world.clock.advance(Duration::from_secs(60));
    drop(crowd);
    flight.landed().await;
    assert_eq!(idp.used(), [""; 0]);
    assert_eq!(world.groups(&value).await, "new");
}

#[tokio::test]
async fn a_session_whose_token_is_lost_ends_when_it_would_be_refreshed() {
    let world = World::refreshing().await;
    let mut endings = world.sessions.endings().unwrap();
    let (value, session) = world.sign_in("ada").await;
    world.store.inner.remove(Space::Refreshes, &session.id.0).await.unwrap();
    let restarted = world.another().await;
    let found = restarted.sessions.find(&value, world.clock.now()).await.unwrap().unwrap();
    world.clock.advance(Duration::from_secs(10));
    assert_eq!(restarted.freshness(&found), Freshness::Due, "it is missed soon");
    world.refresh(&session, &Idp::new()).await;
    assert_eq!(endings.try_recv().unwrap().reason, EndReason::RefreshRefused);
    assert!(!world.found(&value).await);
}

#[tokio::test]
async fn a_refresh_token_is_sealed_and_printed_nowhere() {
    let world = World::refreshing().await;
    let (_, session) = world.sign_in("ada").await;
    let kept = world.kept(&session.id).await.unwrap();
    assert!(!String::from_utf8_lossy(&kept).contains("r-0"));
    let record = world.sessions.stored_renewal(&session.id).await.unwrap().unwrap();
    let moved = world.sessions.opened_renewal(&SessionId([7; 32]), &kept);
    assert!(moved.is_err(), "under another id it opens to nobody");
    for printed in [format!("{record:?}"), format!("{session:?}"), format!("{:?}", record.token())]
    {
        assert!(!printed.contains("r-0"), "{printed}");
    }
    let users: BTreeSet<_> = [&record.principal.id, &session.principal.id].into();
    assert_eq!(users.len(), 1);
}

#[tokio::test]
async fn the_access_token_for_applications_is_the_newest_and_kept_only_where_there_was_one() {
    let world = World::refreshing().await;
    for (given, then) in [(Some("a-0"), Some("a-1")), (None, None)] {
        let refresh = Some(RefreshToken { token: Secret::new("r-0"), lifetime: None, asked: None });
        let access_token = given.and_then(|token| ProviderToken::new(token, None));
        let login = NewSession { refresh, access_token, ..new_session("ada") };
        let (value, session) = world.sessions.create(login, None).await.unwrap();
        world.refresh(&session, &Idp::new()).await;
        for world in [&world, &world.restarted().await] {
            let found = world.sessions.find(value.expose(), world.clock.now()).await.unwrap();
            let found = found.unwrap();
            let token = world.sessions.access_token(&found, world.clock.now());
            assert_eq!(token.map(|token| token.text()), then);
        }
    }
}

#[tokio::test]
async fn a_session_stays_in_memory_while_somebody_holds_it_as_it_was() {
    let world = World::refreshing().await;
    let idp = Idp::new();
    let (_, session) = world.sign_in("ada").await;
    world.refresh(&session, &idp).await;
    world.sessions.cache.drop_unheld();
    assert!(world.sessions.is_alive(&session.id, world.clock.now()));
    let id = session.id;
    drop(session);
    world.sessions.cache.drop_unheld();
    assert!(!world.sessions.is_alive(&id, world.clock.now()));
}

/// The gate that waits for room at the provider could hold off one that has it.
#[tokio::test]
async fn who_waits_for_room_at_the_provider_keeps_no_other_gate_from_asking() {
    let one = World::refreshing().await;
    let other = one.another().await;
    let (crowded, idle) = (Idp::new(), Idp::new());
    let (value, here) = one.sign_in("ada").await;
    let there = other.sessions.find(&value, one.clock.now()).await.unwrap().unwrap();
    let crowd = crowded.crowd().await;
    let flight = one.sessions.begin_refresh(&here, &crowded, one.clock.now()).unwrap();
    // So long that it has read what it would ask with.
    while one.store.read.load(Ordering::SeqCst) < 2 {
        tokio::task::yield_now().await;
    }
    for _ in 0..9 {
        tokio::task::yield_now().await;
    }
    other.refresh(&there, &idle).await;
    assert_eq!((idle.used(), crowded.used()), (vec!["r-0".to_owned()], vec![]));
    drop(crowd);
    flight.landed().await;
    assert!(crowded.used().is_empty(), "it hears of the other's");
    assert_eq!(one.groups(&value).await, "new");
}

#[tokio::test]
async fn who_waits_for_another_gate_takes_no_room_at_the_provider() {
    let one = World::refreshing().await;
    let other = one.another().await;
    let (slow, idp) = (Idp::new(), Idp::new());
    let (value, here) = one.sign_in("ada").await;
    let there = other.sessions.find(&value, one.clock.now()).await.unwrap().unwrap();
    let closed = slow.door.write().await;
    let now = one.clock.now();
    let first = one.sessions.begin_refresh(&here, &slow, now).unwrap();
    while slow.used().is_empty() {
        tokio::task::yield_now().await;
    }
    let second = other.sessions.begin_refresh(&there, &idp, now).unwrap();
    let refused = one.store.refused.load(Ordering::SeqCst);
    while one.store.refused.load(Ordering::SeqCst) == refused {
        tokio::task::yield_now().await;
    }
    let crowd = idp.crowd().now_or_never();
    assert!(crowd.is_some(), "others have all places while it waits");
    drop(crowd);
    drop(closed);
    tokio::join!(first.landed(), second.landed());
    assert_eq!(other.groups(&value).await, "new");
}

#[tokio::test(start_paused = true)]
async fn refreshes_that_find_no_room_are_counted_and_put_off() {
    let world = World::refreshing().await;
    let idp = Idp::new();
    let (value, session) = world.sign_in("ada").await;
    let counted = |result: &str| {
        let line =
            format!("wicketgate_refreshes_queued_total{{provider=\"idp\",result=\"{result}\"}} 1");
        world.sessions.metrics.render().contains(&line)
    };
    let crowd = idp.crowd().await;
    world.refresh(&session, &idp).await;
    assert!(counted("put-off") && !counted("waited") && idp.used().is_empty());
    let now = world.clock.now();
    assert!(world.sessions.begin_refresh(&session, &idp, now).is_none(), "not at once");
    world.clock.advance(Duration::from_secs(1));
    let flight = world.sessions.begin_refresh(&session, &idp, world.clock.now()).unwrap();
    let mut landed = Box::pin(flight.landed());
    let early = tokio::time::timeout(PATIENCE / 2, &mut landed).await;
    assert!(early.is_err(), "there is no room");
    drop(crowd);
    landed.await;
    assert!(counted("waited"));
    assert_eq!(world.groups(&value).await, "new");
}

/// The sign-in may have been handed over from another host.
#[tokio::test]
async fn claims_are_as_old_as_the_providers_answer_and_not_as_the_session() {
    let minute = Duration::from_secs(60);
    for (is_told, freshness) in [(true, Freshness::Due), (false, Freshness::Soon)] {
        let world = World::refreshing().await;
        let asked = is_told.then(|| world.clock.now());
        world.clock.advance(minute);
        let refresh = Some(RefreshToken { token: Secret::new("r-0"), lifetime: None, asked });
        let login = NewSession { refresh, ..new_session("ada") };
        let (_, session) = world.sessions.create(login, None).await.unwrap();
        world.clock.advance(PACE.interval - minute);
        assert_eq!(world.freshness(&session), freshness, "{asked:?}");
    }
}

/// Another gate's clock, that is.
#[tokio::test]
async fn claims_of_a_moment_to_come_are_fresh_within_a_minute_and_then_asked_about_or_not_used() {
    let ahead = World::refreshing().await;
    let clock = Clock::manual(ahead.clock.now());
    let sessions = opened(&ahead.store, &clock).await;
    for (by, freshness) in [
        (Duration::from_secs(60), Freshness::Fresh),
        (Duration::from_secs(61), Freshness::Due),
        (PACE.max_age - Duration::from_secs(1), Freshness::Due),
        (PACE.max_age, Freshness::Stale),
    ] {
        let so_far = ahead.clock.now().since(clock.now());
        ahead.clock.advance(by - so_far);
        let (value, _) = ahead.sign_in("ada").await;
        let found = sessions.find(&value, clock.now()).await.unwrap().unwrap();
        assert_eq!(sessions.freshness(&found, Some(PACE), clock.now()), freshness, "{by:?}");
    }
}

#[tokio::test]
async fn neither_a_forged_event_nor_an_older_record_takes_claims_back() {
    let world = World::refreshing().await;
    let idp = Idp::new();
    let (value, first) = world.sign_in("ada").await;
    let older = world.kept(&first.id).await.unwrap();
    world.clock.advance(PACE.interval);
    world.refresh(&first, &idp).await;
    world.store.inner.put(Space::Refreshes, &first.id.0, &older, first.expires).await.unwrap();
    for announced in [2, 7, u64::MAX] {
        first.supersede(announced);
        assert_eq!(world.groups(&value).await, "new", "{announced}");
        let newest = world.sessions.current(&first).expect("nothing counts as the newest");
        assert_eq!(groups(&newest), "new");
        assert_eq!(world.freshness(&newest), Freshness::Fresh, "{announced}");
    }
    // What the provider says next has a number of its own, though the record counts from before.
    let second = world.sessions.current(&first).unwrap();
    idp.good.store(0, Ordering::SeqCst);
    idp.will(Says::Groups("newer"));
    world.clock.advance(PACE.interval);
    world.refresh(&second, &idp).await;
    assert!(!second.is_current(), "who holds it takes the newer one");
    assert_eq!(world.groups(&value).await, "newer");
}

#[tokio::test]
async fn a_store_that_went_on_from_a_former_state_has_the_newest_claims_all_the_same() {
    let one = World::refreshing().await;
    let idp = Idp::new();
    let (value, first) = one.sign_in("ada").await;
    let older = one.kept(&first.id).await.unwrap();
    for groups in ["b", "c"] {
        idp.will(Says::Groups(groups));
        one.clock.advance(PACE.interval);
        one.refresh(&one.sessions.current(&first).unwrap(), &idp).await;
    }
    one.store.inner.put(Space::Refreshes, &first.id.0, &older, first.expires).await.unwrap();
    // Another gate, that knows nothing of what was lost.
    let other = one.another().await;
    let there = other.sessions.find(&value, one.clock.now()).await.unwrap().unwrap();
    idp.good.store(0, Ordering::SeqCst);
    idp.will(Says::Groups("d"));
    one.clock.advance(PACE.interval);
    other.refresh(&there, &idp).await;
    first.supersede(7);
    assert_eq!(one.groups(&value).await, "d", "asked for later, whatever its number");
    let at_hand = one.sessions.current(&first).expect("every request reads the store");
    assert_eq!(groups(&at_hand), "d");
}
