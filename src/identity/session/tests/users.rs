//! What the store keeps of people, and what a user has of sessions.

use super::*;
use crate::identity::seal::Unopened;

#[tokio::test]
async fn a_record_that_was_changed_or_moved_is_an_error_and_nobodys_session() {
    let world = World::new().await;
    let (value, session) = world.login("ada").await;
    let (other_value, other) = world.login("bob").await;
    let record = world.store.inner.get(Space::Sessions, &session.id.0).await.unwrap().unwrap();
    let mut changed = record.clone();
    *changed.last_mut().unwrap() ^= 1;
    for (id, record) in [(session.id, changed), (other.id, record)] {
        world.store.put(Space::Sessions, &id.0, &record, session.expires).await.unwrap();
    }
    let world = world.restarted().await;
    for value in [&value, &other_value] {
        let found = world.sessions.find(value, world.clock.now()).await;
        let broken = |cause: &Unopened| *cause == Unopened::Broken;
        assert!(
            matches!(&found, Err(SessionError::Unreadable { cause, .. }) if broken(cause)),
            "{found:?}"
        );
    }
    // A login in the same browser gets rid of it.
    let (fresh, _) = world.sessions.create(new_session("ada"), Some(&value)).await.unwrap();
    assert!(world.found(fresh.expose()).await);
    assert!(!world.found(&value).await);
}

#[tokio::test]
async fn a_record_in_the_clear_is_no_session_whoever_wrote_it() {
    let world = World::new().await;
    let (value, session) = world.login("ada").await;
    let plain = Record::of(&session).encode().unwrap();
    world.store.put(Space::Sessions, &session.id.0, &plain, session.expires).await.unwrap();
    let world = world.restarted().await;
    assert!(world.sessions.find(&value, world.clock.now()).await.unwrap().is_none());
}

#[tokio::test]
async fn the_store_holds_no_name_and_no_token_in_the_clear() {
    let world = World::new().await;
    world.login("ada").await;
    for space in Space::ALL {
        for (key, value) in world.store.inner.scan(space, b"").await.unwrap() {
            for bytes in [key, value] {
                let text = String::from_utf8_lossy(&bytes);
                assert!(!text.contains("ada") && !text.contains("payload"), "{space:?}: {text}");
            }
        }
    }
}

#[tokio::test]
async fn one_session_too_many_ends_the_users_oldest_and_says_why() {
    let world = World::new().await;
    let mut values = Vec::new();
    for _ in 0..4 {
        values.push(world.login("ada").await.0);
        world.login("grace").await;
        world.clock.advance(Duration::from_secs(1));
    }
    let mut endings = world.sessions.endings().unwrap();
    for user in ["idp/grace", "idp/ada"] {
        let ended = endings.try_recv().unwrap();
        assert_eq!(ended.reason, EndReason::Limit);
        assert_ne!(ended.principal.id.as_ref(), user, "ada is first");
    }
    assert!(endings.try_recv().is_err());
    assert!(!world.found(&values[0]).await);
    for value in &values[1..] {
        assert!(world.found(value).await);
    }
    assert!(!world.restarted().await.found(&values[0]).await);
}

#[tokio::test]
async fn sessions_that_are_over_take_no_place() {
    let world = World::new().await;
    let (oldest, _) = world.login("ada").await;
    for _ in 0..2 {
        world.login("ada").await;
    }
    world.clock.advance(IDLE - Duration::from_secs(1));
    assert!(world.found(&oldest).await);
    world.sessions.write_back().await.unwrap();
    // Of those that nobody has in memory, the entries outlive the purge.
    world.clock.advance(Duration::from_secs(3600));
    let world = world.restarted().await;
    world.sessions.sweep().await.unwrap();
    assert_eq!(world.store.inner.scan(Space::Sessions, b"").await.unwrap().len(), 0);
    assert_eq!(world.store.inner.scan(Space::SessionsOfUsers, b"").await.unwrap().len(), 3);
    let (one, _) = world.login("ada").await;
    let (two, _) = world.login("ada").await;
    assert!(world.found(&one).await && world.found(&two).await);
    assert_eq!(world.store.inner.scan(Space::SessionsOfUsers, b"").await.unwrap().len(), 2);
}

#[tokio::test]
async fn all_sessions_of_a_user_are_found_and_end_and_nobody_elses() {
    let world = World::new().await;
    let (one, first) = world.login("ada").await;
    world.clock.advance(Duration::from_secs(1));
    let (two, second) = world.login("ada").await;
    let (other, _) = world.login("adaline").await;
    // One of them is in memory, the other in the store only.
    let world = world.restarted().await;
    assert!(world.found(&two).await);
    let found = world.sessions.of_user("idp/ada", world.clock.now()).await.unwrap();
    let ids: Vec<_> = found.iter().map(|session| session.id).collect();
    assert_eq!(ids, [first.id, second.id]);
    assert_eq!(world.sessions.end_user("idp/ada", EndReason::Logout).await.unwrap(), 2);
    assert!(!world.found(&one).await && !world.found(&two).await);
    assert!(world.found(&other).await);
    assert!(world.sessions.of_user("idp/ada", world.clock.now()).await.unwrap().is_empty());
}

#[tokio::test]
async fn who_has_idled_out_is_not_listed() {
    let world = World::new().await;
    world.login("ada").await;
    world.clock.advance(IDLE);
    assert!(world.sessions.of_user("idp/ada", world.clock.now()).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_list_of_sessions_is_an_error_when_the_store_fails() {
    let world = World::new().await;
    world.login("ada").await;
    world.store.down.store(true, Ordering::SeqCst);
    assert!(world.sessions.of_user("idp/ada", world.clock.now()).await.is_err());
    assert!(world.sessions.end_user("idp/ada", EndReason::Revoked).await.is_err());
}
