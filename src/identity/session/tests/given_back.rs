//! What a session that ends leaves to be revoked at its provider.

use tokio::sync::mpsc::UnboundedReceiver;

use super::refresh::Idp;
use super::*;
use crate::identity::provider_token::ProviderToken;
use crate::identity::revocation::TokenKind;

/// Everything that is to be given back by now.
fn given_back(left: &mut UnboundedReceiver<LeftToken>) -> Vec<(TokenKind, String)> {
    let all = std::iter::from_fn(|| left.try_recv().ok());
    all.map(|left| (left.kind, left.token.expose().to_owned())).collect()
}

fn refresh_tokens(texts: &[&str]) -> Vec<(TokenKind, String)> {
    texts.iter().map(|text| (TokenKind::Refresh, (*text).to_owned())).collect()
}

fn with_token(user: &str) -> NewSession {
    let refresh = Some(RefreshToken { token: Secret::new("r-0"), lifetime: None, asked: None });
    NewSession { refresh, ..new_session(user) }
}

#[tokio::test]
async fn only_of_a_session_that_somebody_ended_is_the_token_given_back() {
    let world = World::new().await;
    let mut left = world.sessions.left_tokens().unwrap();
    assert!(world.sessions.left_tokens().is_none());
    for (reason, is_given_back) in [
        (EndReason::Logout, true),
        (EndReason::Revoked, true),
        (EndReason::Suspended, true),
        (EndReason::ProviderLogout, false),
        (EndReason::RefreshRefused, false),
        (EndReason::Replaced, false),
        (EndReason::Limit, false),
        (EndReason::IdleTimeout, false),
        (EndReason::AbsoluteLifetime, false),
    ] {
        let expected = if is_given_back { refresh_tokens(&["r-0"]) } else { Vec::new() };
        let (_, session) = world.sign_in("ada").await;
        world.sessions.end(&session.id, reason).await.unwrap();
        assert_eq!(given_back(&mut left), expected, "{reason:?}");
        // Over in memory, and gone from the store with the next sweep.
        let (_, session) = world.sign_in("ada").await;
        world.sessions.end_cached(&|found| found.id == session.id, reason);
        assert_eq!(given_back(&mut left), [], "{reason:?}: it may be refreshed once more");
        world.sessions.sweep().await.unwrap();
        assert_eq!(given_back(&mut left), expected, "{reason:?}");
    }
    // One that only the store knows.
    let (_, session) = world.sign_in("ada").await;
    let other = world.restarted().await;
    let mut left = other.sessions.left_tokens().unwrap();
    other.sessions.end(&session.id, EndReason::Logout).await.unwrap();
    let found = left.try_recv().unwrap();
    assert_eq!((found.session, &*found.provider), (session.id, "idp"));
    assert_eq!(found.vouched_by, session.vouched_by);
    assert!(!format!("{found:?}").contains("r-0"));
}

#[tokio::test]
async fn without_a_refresh_token_it_is_the_access_token_if_there_is_one_that_is_good() {
    let world = World::new().await;
    let mut left = world.sessions.left_tokens().unwrap();
    let soon = world.clock.now().plus(Duration::from_secs(60));
    for (expected, advance) in [(1, 0), (0, 60)] {
        let access_token = ProviderToken::new("a-0", Some(soon));
        let login = NewSession { access_token, ..new_session("ada") };
        let (_, session) = world.sessions.create(login, None).await.unwrap();
        world.clock.advance(Duration::from_secs(advance));
        world.sessions.end(&session.id, EndReason::Logout).await.unwrap();
        let given_back = given_back(&mut left);
        assert_eq!(given_back.len(), expected, "{given_back:?}");
        assert!(given_back.iter().all(|token| *token == (TokenKind::Access, "a-0".to_owned())));
    }
    let (_, session) = world.login("ada").await;
    world.sessions.end(&session.id, EndReason::Logout).await.unwrap();
    assert_eq!(given_back(&mut left), [], "there is none");
}

#[tokio::test]
async fn while_other_sessions_of_its_user_go_on_nothing_is_given_back() {
    let world = World::new().await;
    let mut left = world.sessions.left_tokens().unwrap();
    // One sign-in at the provider, two hosts here.
    let (_, one) = world.sign_in("ada").await;
    let (_, two) = world.sign_in("ada").await;
    assert!(one.sid.is_some() && one.sid == two.sid);
    world.sessions.end(&one.id, EndReason::Logout).await.unwrap();
    assert_eq!(given_back(&mut left), []);
    world.sessions.end(&two.id, EndReason::Logout).await.unwrap();
    assert_eq!(given_back(&mut left), refresh_tokens(&["r-0"]), "the last");
    // Together, in memory or in the store only.
    world.sign_in("ada").await;
    world.sign_in("ada").await;
    let world = world.restarted().await;
    let mut left = world.sessions.left_tokens().unwrap();
    assert_eq!(world.sessions.end_user("idp/ada", EndReason::Logout).await.unwrap(), 2);
    assert_eq!(given_back(&mut left), refresh_tokens(&["r-0", "r-0"]));
    // Two sign-ins, as on two devices; with names for them or without; then of users without a name.
    for (sid, subject, expected) in
        [(Some("s"), Some("ada"), &[][..]), (None, Some("ada"), &[]), (None, None, &["r-0"])]
    {
        let create = async |device: &str| {
            let sid = sid.map(|sid| format!("{sid}-{device}").into());
            let login = NewSession { sid, subject: subject.map(Arc::from), ..with_token("ada") };
            world.sessions.create(login, None).await.unwrap().1
        };
        let (one, two) = (create("one").await, create("two").await);
        world.sessions.end(&one.id, EndReason::Logout).await.unwrap();
        assert_eq!(given_back(&mut left), refresh_tokens(expected), "{sid:?} {subject:?}");
        world.sessions.end(&two.id, EndReason::Logout).await.unwrap();
        assert_eq!(given_back(&mut left), refresh_tokens(&["r-0"]), "the last");
    }
}

#[tokio::test]
async fn a_token_that_comes_after_the_end_is_given_back_too() {
    let world = World::refreshing().await;
    let mut left = world.sessions.left_tokens().unwrap();
    for (reason, expected) in [(EndReason::Logout, &["r-0", "r-1"][..]), (EndReason::Replaced, &[])]
    {
        let idp = Idp::new();
        let (_, session) = world.sign_in("ada").await;
        let closed = idp.door.write().await;
        let now = world.clock.now();
        let flight = world.sessions.begin_refresh(&session, &idp, now).unwrap();
        while idp.used().is_empty() {
            tokio::task::yield_now().await;
        }
        world.sessions.end(&session.id, reason).await.unwrap();
        drop(closed);
        flight.landed().await;
        assert_eq!(given_back(&mut left), refresh_tokens(expected), "{reason:?}");
    }
}

/// What a process knows of an end that another has brought about.
#[derive(Debug)]
enum Heard {
    Why(EndReason),
    That,
    /// It finds out by itself.
    Later,
    Nothing,
}

#[tokio::test]
async fn a_token_that_comes_after_the_end_in_another_process_is_given_back_too() {
    let world = World::refreshing().await;
    let mut left = world.sessions.left_tokens().unwrap();
    let of_the_refresh = &["r-1"][..];
    let ways = [
        (Heard::Why(EndReason::Logout), of_the_refresh),
        (Heard::Why(EndReason::Replaced), &[]),
        (Heard::That, of_the_refresh),
        (Heard::Later, of_the_refresh),
        (Heard::Nothing, of_the_refresh),
    ];
    for (heard, expected) in ways {
        let idp = Idp::new();
        let (value, session) = world.sign_in("ada").await;
        let closed = idp.door.write().await;
        let now = world.clock.now();
        let flight = world.sessions.begin_refresh(&session, &idp, now).unwrap();
        while idp.used().is_empty() {
            tokio::task::yield_now().await;
        }
        // The other gives back what it finds.
        match heard {
            Heard::Why(reason) => world.sessions.ended_elsewhere(session.id, reason),
            Heard::That => assert!(world.sessions.end_for_peer(session.id).await.unwrap()),
            Heard::Later | Heard::Nothing => {}
        }
        for space in [Space::Sessions, Space::Refreshes] {
            world.store.inner.remove(space, &session.id.0).await.unwrap();
        }
        if matches!(heard, Heard::Later) {
            world.sessions.recheck().await.unwrap();
            assert!(session.has_ended() && !world.found(&value).await);
        }
        drop(closed);
        flight.landed().await;
        assert_eq!(given_back(&mut left), refresh_tokens(expected), "{heard:?}");
    }
}

#[tokio::test]
async fn a_sign_in_that_was_overtaken_by_a_sign_out_gives_its_token_back() {
    let world = World::new().await;
    let mut left = world.sessions.left_tokens().unwrap();
    let begun = Some(world.clock.now());
    world.clock.advance(Duration::from_secs(1));
    world.sessions.end_user("idp/ada", EndReason::Logout).await.unwrap();
    let login = NewSession { begun, ..with_token("ada") };
    assert!(matches!(world.sessions.create(login, None).await, Err(SessionError::SignedOut)));
    assert_eq!(given_back(&mut left), refresh_tokens(&["r-0"]));
}

#[tokio::test]
async fn a_record_that_does_not_open_keeps_nobody_from_signing_out() {
    let world = World::new().await;
    let mut left = world.sessions.left_tokens().unwrap();
    let (value, session) = world.sign_in("ada").await;
    world.store.put(Space::Refreshes, &session.id.0, b"junk", session.expires).await.unwrap();
    assert!(world.sessions.end(&session.id, EndReason::Logout).await.unwrap());
    assert!(!world.found(&value).await);
    assert_eq!(world.store.scan(Space::Refreshes, b"").await.unwrap(), []);
    assert_eq!(given_back(&mut left), []);
    let counted = r#"wicketgate_token_revocations_total{result="failed"} 1"#;
    assert!(world.sessions.metrics.render().contains(counted));
}

#[tokio::test]
async fn what_waits_to_be_given_back_is_bounded_for_each_provider_and_waited_for() {
    let world = World::new().await;
    let mut left = world.sessions.left_tokens().unwrap();
    world.sessions.all_given_back().await;
    let places = 1024;
    for user in 0..=places {
        let (_, session) = world.sign_in(&format!("user-{user}")).await;
        assert!(world.sessions.end(&session.id, EndReason::Revoked).await.unwrap());
    }
    let counted = r#"wicketgate_token_revocations_total{result="dropped"} 1"#;
    assert!(world.sessions.metrics.render().contains(counted));
    let login = NewSession { provider: "other".into(), ..with_token("ada") };
    let (_, session) = world.sessions.create(login, None).await.unwrap();
    world.sessions.end(&session.id, EndReason::Revoked).await.unwrap();
    let mut waiting: Vec<_> = std::iter::from_fn(|| left.try_recv().ok()).collect();
    assert_eq!(waiting.len(), places + 1);
    assert_eq!(&*waiting.pop().unwrap().provider, "other", "which has room");
    assert!(world.sessions.all_given_back().now_or_never().is_none());
    drop(waiting);
    world.sessions.all_given_back().await;
}
