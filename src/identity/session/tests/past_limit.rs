//! Limits of applications, which are shorter than the session's own.

use super::*;
use crate::config::model::SessionLimits;

const MINUTE: Duration = Duration::from_secs(60);

fn idle(minutes: u32) -> SessionLimits {
    SessionLimits { idle_timeout: Some(MINUTE * minutes), absolute_lifetime: None }
}

fn absolute(minutes: u32) -> SessionLimits {
    SessionLimits { idle_timeout: None, absolute_lifetime: Some(MINUTE * minutes) }
}

fn lapse(world: &World, session: &Session, limits: &SessionLimits) -> Option<PastLimit> {
    world.sessions.past_limit(session, limits, world.clock.now())
}

#[tokio::test]
async fn once_idle_for_an_application_a_session_stays_so_however_it_is_used() {
    let world = World::new().await;
    let (value, session) = world.login("ada").await;
    world.clock.advance(MINUTE * 5 - Duration::from_millis(1));
    assert_eq!(lapse(&world, &session, &idle(5)), None);
    assert!(world.found(&value).await);
    world.clock.advance(MINUTE * 5);
    // Before the next request, as live connections see it, and after.
    let idled = Some(PastLimit::TooIdle(MINUTE * 5));
    assert_eq!(lapse(&world, &session, &idle(5)), idled);
    for _ in 0..2 {
        assert!(world.found(&value).await, "the session itself goes on");
        assert_eq!(lapse(&world, &session, &idle(5)), idled);
        assert_eq!(lapse(&world, &session, &idle(6)), None);
    }
    let (_, fresh) = world.login("ada").await;
    assert_eq!(lapse(&world, &fresh, &idle(5)), None);
}

#[tokio::test]
async fn what_was_idle_is_so_after_a_restart() {
    let world = World::new().await;
    let (value, _) = world.login("ada").await;
    world.clock.advance(MINUTE * 5);
    assert!(world.found(&value).await);
    world.sessions.write_back().await.unwrap();
    let world = world.restarted().await;
    let session = world.sessions.find(&value, world.clock.now()).await.unwrap().unwrap();
    assert_eq!(lapse(&world, &session, &idle(5)), Some(PastLimit::TooIdle(MINUTE * 5)));
    assert_eq!(lapse(&world, &session, &idle(6)), None);
}

#[tokio::test]
async fn a_session_is_as_old_as_its_sign_in_wherever_that_was() {
    let world = World::new().await;
    let (_, session) = world.login("ada").await;
    world.clock.advance(MINUTE * 10 - Duration::from_millis(1));
    assert_eq!(lapse(&world, &session, &absolute(10)), None);
    world.clock.advance(Duration::from_millis(1));
    let old = Some(PastLimit::TooOld(MINUTE * 10));
    assert_eq!(lapse(&world, &session, &absolute(10)), old);

    // The provider knew her already, and says since when.
    let now = world.clock.now();
    let signed_in = |at| NewSession {
        authentication: Authentication { auth_time: Some(at), ..Authentication::default() },
        ..new_session("ada")
    };
    let (_, earlier) =
        world.sessions.create(signed_in(now.minus(MINUTE * 10)), None).await.unwrap();
    assert_eq!(lapse(&world, &earlier, &absolute(10)), old);
    let (_, now) = world.sessions.create(signed_in(now), None).await.unwrap();
    assert_eq!(lapse(&world, &now, &absolute(10)), None);
}

#[tokio::test]
async fn sessions_time_that_is_ahead_of_the_systems_makes_no_fresh_sign_in_old() {
    let world = World::new().await;
    world.clock.advance(MINUTE * 60);
    let (value, _) = world.login("ada").await;
    assert!(world.found(&value).await);
    world.set_back(MINUTE * 60);
    let at = world.clock.now();
    let authentication = Authentication { auth_time: Some(at), ..Authentication::default() };
    let login = NewSession { authentication, ..new_session("ada") };
    let (_, session) = world.sessions.create(login, None).await.unwrap();
    assert_eq!(lapse(&world, &session, &absolute(10)), None);
}
