//! The access token that a session carries for applications.

use super::*;
use crate::identity::provider_token::ProviderToken;

async fn login(world: &World, lifetime: Option<u64>) -> (String, Arc<Session>) {
    let now = world.clock.now();
    let expires = lifetime.map(|seconds| now.plus(Duration::from_secs(seconds)));
    let access_token = ProviderToken::new("to.the.application", expires);
    let login = NewSession { access_token, ..new_session("ada") };
    let (value, session) = world.sessions.create(login, None).await.unwrap();
    (value.expose().to_owned(), session)
}

fn has_token(world: &World, session: &Session) -> bool {
    world.sessions.access_token(session, world.clock.now()).is_some()
}

#[tokio::test]
async fn an_access_token_survives_a_restart_sealed_and_is_good_until_its_end() {
    let world = World::new().await;
    let (value, session) = login(&world, Some(600)).await;
    assert!(has_token(&world, &session));
    assert!(!format!("{session:?}").contains("to.the"));
    let stored = world.store.get(Space::Sessions, &session.id.0).await.unwrap().unwrap();
    assert!(!String::from_utf8_lossy(&stored).contains("to.the"));

    let world = world.restarted().await;
    let session = world.sessions.find(&value, world.clock.now()).await.unwrap().unwrap();
    let token = world.sessions.access_token(&session, world.clock.now()).unwrap();
    assert_eq!(token.text(), "to.the.application");
    world.clock.advance(Duration::from_secs(599));
    assert!(has_token(&world, &session));
    world.clock.advance(Duration::from_secs(1));
    assert!(!has_token(&world, &session), "its end");
    assert!(world.found(&value).await, "the session goes on");
}

#[tokio::test]
async fn a_clock_that_is_set_back_makes_no_access_token_good_again_nor_a_new_one_bad() {
    let world = World::new().await;
    let (_, session) = login(&world, Some(600)).await;
    world.clock.advance(Duration::from_secs(700));
    assert!(!has_token(&world, &session));
    world.set_back(Duration::from_secs(690));
    assert!(!has_token(&world, &session));
    let (_, session) = login(&world, Some(600)).await;
    assert!(has_token(&world, &session));
}

#[tokio::test]
async fn a_session_without_an_access_token_has_none_and_one_without_an_end_keeps_it() {
    let world = World::new().await;
    let (_, without) = world.login("ada").await;
    assert!(!has_token(&world, &without));
    let (_, session) = login(&world, None).await;
    world.clock.advance(LIFETIME);
    assert!(has_token(&world, &session));
}
