use super::*;
use crate::domain::principal::PrincipalKind;
use crate::store::MemoryStore;

const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);

async fn opened(store: &Arc<MemoryStore>) -> Suspensions {
    let seals = Arc::new(Sealer::load(store.as_ref(), &[], NOW).await.unwrap());
    Suspensions::load(store.clone(), seals, Clock::manual(NOW)).await.unwrap()
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
    assert!(!two.follow(false).await.unwrap().changed);
    one.suspend(&suspension(Subject::User, "idp/ada")).await.unwrap();
    assert!(two.is_empty());
    assert!(two.follow(false).await.unwrap().changed);
    assert!(two.holds(Subject::User, "idp/ada"));
    assert!(!two.follow(false).await.unwrap().changed);
    one.restore(Subject::User, "idp/ada").await.unwrap();
    assert!(two.follow(false).await.unwrap().changed);
    assert!(two.is_empty());
}

#[tokio::test]
async fn a_suspension_counts_for_more_than_an_end_that_is_forgotten_in_one_place_only() {
    let store = Arc::new(MemoryStore::default());
    let (one, two) = (opened(&store).await, opened(&store).await);
    for _ in 0..3 {
        one.suspend(&suspension(Subject::User, "idp/ada")).await.unwrap();
        one.restore(Subject::User, "idp/ada").await.unwrap();
    }
    two.follow(true).await.unwrap();
    // The clock of the third is ahead: it forgets the end, and the store with it.
    let later = Clock::manual(NOW.plus(ENDS_KEPT * 2));
    let seals = Arc::new(Sealer::load(store.as_ref(), &[], NOW).await.unwrap());
    store.purge(Space::Suspensions, later.now()).await.unwrap();
    let three = Suspensions::load(store.clone(), seals, later).await.unwrap();
    three.suspend(&suspension(Subject::User, "idp/ada")).await.unwrap();
    two.follow(true).await.unwrap();
    three.follow(true).await.unwrap();
    assert!(two.holds(Subject::User, "idp/ada") && three.holds(Subject::User, "idp/ada"));
}

/// The store as it was.
type Copy = Vec<(Space, Vec<u8>, Vec<u8>)>;

async fn copy(store: &MemoryStore) -> Copy {
    let mut copy = Copy::new();
    for space in [Space::Suspensions, Space::Keys] {
        let found = store.scan(space, b"").await.unwrap();
        copy.extend(found.into_iter().map(|(key, value)| (space, key, value)));
    }
    copy
}

async fn go_back_to(store: &MemoryStore, then: &Copy) {
    for (space, key, _) in copy(store).await {
        store.remove(space, &key).await.unwrap();
    }
    for (space, key, value) in then {
        store.put(*space, key, value, NEVER).await.unwrap();
    }
}

/// Every gate looks until none has anything to say.
async fn settle(gates: &[&Suspensions]) {
    for _ in 0..3 {
        for gate in gates {
            gate.follow(false).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_store_that_goes_back_in_time_lets_nobody_in_who_is_known_to_be_suspended() {
    let store = Arc::new(MemoryStore::default());
    let (one, two) = (opened(&store).await, opened(&store).await);
    let before = copy(&store).await;
    one.suspend(&suspension(Subject::User, "idp/ada")).await.unwrap();
    two.follow(false).await.unwrap();
    go_back_to(&store, &before).await;
    let followed = two.follow(false).await.unwrap();
    assert_eq!(followed.put_back, [(Subject::User, "idp/ada".into())]);
    assert!(two.holds(Subject::User, "idp/ada"));
    settle(&[&one, &two]).await;
    for gate in [&one, &two, &opened(&store).await] {
        assert!(gate.holds(Subject::User, "idp/ada"));
    }
    assert!(two.follow(false).await.unwrap().put_back.is_empty(), "once");
}

#[tokio::test]
async fn records_that_are_lost_while_nothing_else_is_are_found_missing_at_a_look_at_all() {
    let store = Arc::new(MemoryStore::default());
    let suspensions = opened(&store).await;
    suspensions.suspend(&suspension(Subject::Tenant, "acme")).await.unwrap();
    for (key, _) in store.scan(Space::Suspensions, b"").await.unwrap() {
        store.remove(Space::Suspensions, &key).await.unwrap();
    }
    assert!(suspensions.follow(false).await.unwrap().put_back.is_empty());
    assert_eq!(suspensions.follow(true).await.unwrap().put_back.len(), 1);
    assert!(opened(&store).await.holds(Subject::Tenant, "acme"));
}

#[tokio::test]
async fn who_missed_the_end_of_a_suspension_does_not_bring_it_back() {
    let store = Arc::new(MemoryStore::default());
    let (one, missed) = (opened(&store).await, opened(&store).await);
    let before = copy(&store).await;
    one.suspend(&suspension(Subject::User, "idp/ada")).await.unwrap();
    missed.follow(false).await.unwrap();
    let suspended = copy(&store).await;
    assert!(one.restore(Subject::User, "idp/ada").await.unwrap());
    assert!(missed.holds(Subject::User, "idp/ada"));
    missed.follow(true).await.unwrap();
    assert!(!missed.holds(Subject::User, "idp/ada"));
    // And not when the store has lost that end, or all of it.
    for then in [suspended, before] {
        let missed = opened(&store).await;
        go_back_to(&store, &then).await;
        settle(&[&missed, &one]).await;
        for gate in [&one, &missed, &opened(&store).await] {
            assert!(!gate.holds(Subject::User, "idp/ada"));
        }
    }
    one.suspend(&suspension(Subject::User, "idp/ada")).await.unwrap();
    missed.follow(false).await.unwrap();
    assert!(missed.holds(Subject::User, "idp/ada"), "and he can be suspended again");
}

#[tokio::test]
async fn the_end_of_a_suspension_is_forgotten_after_a_month() {
    let store = Arc::new(MemoryStore::default());
    let suspensions = opened(&store).await;
    for name in ["idp/ada", "idp/bob"] {
        suspensions.suspend(&suspension(Subject::User, name)).await.unwrap();
        assert!(suspensions.restore(Subject::User, name).await.unwrap());
        suspensions.clock.advance(ENDS_KEPT);
    }
    assert_eq!(store.scan(Space::Suspensions, b"").await.unwrap().len(), 1);
    assert!(suspensions.follow(true).await.unwrap().put_back.is_empty());
}

/// Spoils the one record that there is.
async fn spoil(store: &MemoryStore, version: &[u8]) {
    let (key, mut value) = store.scan(Space::Suspensions, b"").await.unwrap().remove(0);
    assert!(!String::from_utf8_lossy(&value).contains("ada"));
    *value.last_mut().unwrap() ^= 1;
    store.put(Space::Suspensions, &key, &value, NEVER).await.unwrap();
    keys::put(store, VERSION, version).await.unwrap();
}

#[tokio::test]
async fn a_record_that_does_not_open_suspends_whom_it_is_about_and_holds_nothing_else_up() {
    for (subject, name) in
        [(Subject::User, "idp/ada"), (Subject::Tenant, "acme"), (Subject::Device, "laptop")]
    {
        let store = Arc::new(MemoryStore::default());
        opened(&store).await.suspend(&suspension(subject, name)).await.unwrap();
        spoil(&store, b"spoilt").await;
        // One that started after it.
        let suspensions = opened(&store).await;
        assert!(suspensions.holds(subject, name), "{name}");
        assert!(suspensions.any_device());
        let ada = principal("idp/ada", Some("acme"));
        assert_eq!(
            suspensions.principal(&ada),
            Some(subject).filter(|subject| *subject != Subject::Device)
        );
        assert_eq!(suspensions.principal(&principal("idp/bob", None)), None);
        suspensions.suspend(&suspension(Subject::User, "idp/eve")).await.unwrap();
        assert!(suspensions.holds(Subject::User, "idp/eve"));
        assert_eq!(suspensions.list().await.unwrap().len(), 1);
        assert!(suspensions.restore(subject, name).await.unwrap());
        assert!(!suspensions.holds(subject, name) && !opened(&store).await.holds(subject, name));
    }
}

#[tokio::test]
async fn a_record_that_was_read_before_it_was_spoilt_is_put_right() {
    let store = Arc::new(MemoryStore::default());
    let suspensions = opened(&store).await;
    suspensions.suspend(&suspension(Subject::User, "idp/ada")).await.unwrap();
    spoil(&store, b"spoilt").await;
    assert_eq!(suspensions.follow(false).await.unwrap().put_back.len(), 1);
    assert_eq!(opened(&store).await.list().await.unwrap().len(), 1);
}
