//! Sessions that end by what the provider calls them.

use super::*;
use crate::identity::login;
use crate::identity::refresh::RefreshToken;

const BY_PROVIDER: EndReason = EndReason::ProviderLogout;

fn of_login(sid: &str) -> AtProvider<'_> {
    AtProvider { provider: "idp", sid: Some(sid), subject: None }
}

fn of_user(subject: &str) -> AtProvider<'_> {
    AtProvider { provider: "idp", sid: None, subject: Some(subject) }
}

impl World {
    async fn end(&self, which: &AtProvider<'_>) -> usize {
        self.sessions.end_at_provider(which, BY_PROVIDER).await.unwrap()
    }

    /// A login that the provider has, or has not, a name for.
    async fn login_as(&self, user: &str, sid: Option<&str>) -> String {
        let login = NewSession { sid: sid.map(Into::into), ..new_session(user) };
        self.sessions.create(login, None).await.unwrap().0.expose().to_owned()
    }
}

#[tokio::test]
async fn a_session_that_is_ended_while_it_begins_is_none() {
    let world = World::new().await;
    let (there, is_there) = oneshot::channel();
    let (go, goes) = oneshot::channel();
    *world.store.hold.lock() = Some((there, goes));
    let sessions = Arc::clone(&world.sessions);
    let begins = tokio::spawn(async move { sessions.create(new_session("ada"), None).await });
    is_there.await.unwrap();
    assert_eq!(world.sessions.end_user("idp/ada", EndReason::Revoked).await.unwrap(), 1);
    go.send(()).unwrap();
    assert!(matches!(begins.await.unwrap(), Err(SessionError::SignedOut)));
    assert_eq!(world.store.scan(Space::Sessions, b"").await.unwrap(), []);
}

#[tokio::test]
async fn the_end_of_a_login_ends_its_sessions_and_no_others() {
    let world = World::new().await;
    let (one, _) = world.login("ada").await;
    let (two, _) = world.login("ada").await;
    let (other, _) = world.login("grace").await;
    // One of them is in the store only.
    let world = world.restarted().await;
    assert!(world.found(&one).await);
    assert_eq!(world.end(&of_login("sid-ada")).await, 2);
    assert!(!world.found(&one).await && !world.found(&two).await);
    assert!(world.found(&other).await);
    let elsewhere = AtProvider { provider: "other", ..of_login("sid-grace") };
    assert_eq!(world.end(&elsewhere).await, 0);
}

#[tokio::test]
async fn the_end_of_a_login_reads_no_other_logins_sessions() {
    let world = World::new().await;
    for user in 0..50 {
        world.login(&format!("user-{user}")).await;
    }
    let (one, _) = world.login("ada").await;
    let (two, _) = world.login("ada").await;
    let world = world.restarted().await;
    let before = world.store.scanned.load(Ordering::SeqCst);
    assert_eq!(world.end(&of_login("sid-ada")).await, 2);
    assert_eq!(world.store.scanned.load(Ordering::SeqCst) - before, 2);
    assert!(!world.found(&one).await && !world.found(&two).await);
}

#[tokio::test]
async fn the_end_of_a_user_ends_his_sessions_at_that_provider() {
    let world = World::new().await;
    let one = world.login_as("ada", Some("s1")).await;
    let two = world.login_as("ada", None).await;
    let other = world.login_as("grace", Some("s3")).await;
    let world = world.restarted().await;
    assert!(world.found(&one).await);
    let elsewhere = AtProvider { provider: "other", ..of_user("ada") };
    assert_eq!(world.end(&elsewhere).await, 0);
    // A login is no user, whatever it is called.
    assert_eq!(world.end(&of_user("s1")).await, 0);
    assert_eq!(world.end(&of_login("ada")).await, 0);
    assert_eq!(world.end(&of_user("ada")).await, 2);
    assert!(!world.found(&one).await && !world.found(&two).await);
    assert!(world.found(&other).await);
}

#[tokio::test]
async fn with_both_names_it_is_that_login_and_what_can_t_be_told_from_it() {
    let both = AtProvider { sid: Some("s1"), ..of_user("ada") };
    for cached in [true, false] {
        let mut world = World::new().await;
        let meant = world.login_as("ada", Some("s1")).await;
        let nameless = world.login_as("ada", None).await;
        let second = world.login_as("ada", Some("s2")).await;
        let other = world.login_as("grace", None).await;
        if !cached {
            world = world.restarted().await;
        }
        assert_eq!(world.end(&both).await, 2);
        assert!(!world.found(&meant).await && !world.found(&nameless).await);
        assert!(world.found(&second).await && world.found(&other).await);
    }
}

#[tokio::test]
async fn a_logout_that_the_store_fails_is_an_error_and_what_is_in_use_is_over() {
    let world = World::new().await;
    let value = world.login_as("ada", Some("s1")).await;
    world.store.down.store(true, Ordering::SeqCst);
    assert!(world.sessions.end_at_provider(&of_user("ada"), BY_PROVIDER).await.is_err());
    assert!(!world.found(&value).await);
    world.store.down.store(false, Ordering::SeqCst);
    assert_eq!(world.end(&of_user("ada")).await, 1);
    for space in [Space::Sessions, Space::SessionsOfLogins] {
        assert_eq!(world.store.inner.scan(space, b"").await, Ok(vec![]));
    }
}

#[tokio::test]
async fn a_logout_token_counts_once_at_each_provider() {
    let world = World::new().await;
    let expires = world.clock.now().plus(Duration::from_secs(300));
    let used = async |provider: &str, id: &str| {
        !world.sessions.use_logout_token(provider, id, expires).await.unwrap()
    };
    assert!(!used("idp", "j1").await);
    assert!(used("idp", "j1").await);
    assert!(!used("idp", "j2").await);
    assert!(!used("idp2", "j1").await);
    assert!(!used("id", "pj1").await);
    world.sessions.return_logout_token("idp", "j1").await;
    assert!(!used("idp", "j1").await);
    // Longer than it is good, whatever the clock does meanwhile.
    world.clock.advance(Duration::from_secs(599));
    world.sessions.sweep().await.unwrap();
    world.set_back(Duration::from_secs(599));
    assert!(used("idp", "j1").await);
}

#[tokio::test]
async fn a_sign_in_that_began_before_its_user_was_signed_out_makes_no_session() {
    let both = AtProvider { sid: Some("s1"), ..of_user("ada") };
    for (sid, which, is_meant) in [
        (Some("s1"), of_login("s1"), true),
        (Some("s1"), of_login("s2"), false),
        (None, of_login("s1"), false),
        (Some("s1"), of_user("ada"), true),
        (None, of_user("ada"), true),
        (Some("s1"), of_user("grace"), false),
        (Some("s1"), both, true),
        (Some("s2"), both, false),
        (None, both, true),
        (Some("s1"), AtProvider { provider: "other", ..of_login("s1") }, false),
    ] {
        let world = World::new().await;
        let begun = world.clock.now();
        world.clock.advance(Duration::from_secs(1));
        assert_eq!(world.end(&which).await, 0);
        // As at another gate with the same store.
        let world = world.restarted().await;
        let login = |begun| NewSession {
            sid: sid.map(Into::into),
            begun: Some(begun),
            refresh: Some(RefreshToken { token: Secret::new("r"), lifetime: None, asked: None }),
            ..new_session("ada")
        };
        let created = world.sessions.create(login(begun), None).await;
        let refused = matches!(created, Err(SessionError::SignedOut));
        assert_eq!(refused, is_meant, "{sid:?} {which:?}");
        if refused {
            for space in
                [Space::Sessions, Space::SessionsOfLogins, Space::SessionsOfUsers, Space::Refreshes]
            {
                assert_eq!(world.store.inner.scan(space, b"").await, Ok(vec![]));
            }
        }
        world.clock.advance(Duration::from_secs(1));
        let since = login(world.clock.now());
        assert!(world.sessions.create(since, None).await.is_ok(), "{sid:?} {which:?}");
    }
}

#[tokio::test]
async fn whoever_is_signed_out_everywhere_is_so_in_sign_ins_under_way_for_as_long_as_these_last() {
    let world = World::new().await;
    let begun = Some(world.clock.now());
    world.clock.advance(Duration::from_secs(1));
    world.sessions.end_user("idp/ada", EndReason::Revoked).await.unwrap();
    world.clock.advance(login::LIFETIME);
    world.sessions.sweep().await.unwrap();
    let login = |user| NewSession { begun, ..new_session(user) };
    let created = world.sessions.create(login("ada"), None).await;
    assert!(matches!(created, Err(SessionError::SignedOut)), "{created:?}");
    world.sessions.create(login("grace"), None).await.unwrap();
    world.clock.advance(login::LIFETIME * 2);
    world.sessions.sweep().await.unwrap();
    assert_eq!(
        world.store.inner.scan(Space::Logins, b"").await,
        Ok(vec![]),
        "then it is forgotten"
    );
}

#[tokio::test]
async fn what_sessions_are_found_by_says_nothing_to_who_reads_the_store() {
    let world = World::new().await;
    world.login_as("ada", Some("s1")).await;
    let found = world.store.inner.scan(Space::SessionsOfLogins, b"").await.unwrap();
    assert_eq!(found.len(), 2);
    // Under another key the same names are found under others.
    let other = World::new().await;
    other.login_as("ada", Some("s1")).await;
    for (key, _) in found {
        assert_eq!(other.store.inner.scan(Space::SessionsOfLogins, &key[..32]).await, Ok(vec![]));
    }
}
