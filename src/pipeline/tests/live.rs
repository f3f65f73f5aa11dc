//! Live connections while the newest claims of their user can't be read.

use std::pin::pin;

use futures_util::poll;
use http::header::{CONNECTION, UPGRADE};

use super::*;
use crate::domain::event::EndReason;
use crate::domain::suspension::{Subject, Suspension};
use crate::pipeline::live::{CutReason, Watch};
use crate::pipeline::suspended;

/// Far longer than anything takes that is not held up; the clock is the test's own.
const FAR: Duration = Duration::from_secs(60);

/// A stream of somebody of whom another gate has learnt something, which nobody can read.
struct Stuck {
    world: World,
    session: Arc<Session>,
    watch: Watch,
}

impl Stuck {
    async fn open() -> Self {
        let world = World::new().await;
        let (cookie, session) = world.sign_in().await;
        let watch = forwarded(world.admit(get("/", &cookie)).await).watch();
        Self::stop(&world, &session);
        Self { world, session, watch }
    }

    fn stop(world: &World, session: &Session) {
        session.outdate();
        world.store.hangs.store(true, Ordering::SeqCst);
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_hangs_keeps_nothing_open_that_has_ended_otherwise() {
    for expected in [
        CutReason::Suspended(Subject::User),
        CutReason::SessionEnded,
        CutReason::Denied,
        CutReason::IdentityUnconfirmed,
    ] {
        let Stuck { world, session, watch } = Stuck::open().await;
        let mut cut = pin!(watch.cut());
        while world.store.waiting.load(Ordering::SeqCst) == 0 {
            assert!(poll!(&mut cut).is_pending());
        }
        match expected {
            CutReason::Suspended(_) => {
                let (since, by) = (world.clock.now(), Arc::from("op"));
                let (subject, name) = (Subject::User, Arc::clone(&session.principal.id));
                let suspension = Suspension { subject, name, since, by, reason: None };
                world.gate.suspensions.suspend(&suspension).await.unwrap();
                suspended::enforce(&world.gate);
            }
            CutReason::SessionEnded => {
                let of = |other: &Session| other.id == session.id;
                world.gate.sessions.end_cached(&of, EndReason::Logout);
                world.gate.live.session_ended(&session.id);
            }
            CutReason::Denied => world.reload("forbid (principal, action, resource);"),
            _ => world.clock.advance(PACE.max_age),
        }
        let reason = tokio::time::timeout(FAR, cut).await;
        assert_eq!(reason.ok(), Some(expected), "the other checks wait for the store");
        assert_eq!(world.store.waiting.load(Ordering::SeqCst), 1, "it is asked once");
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_client_sends_counts_as_use_while_the_store_hangs() {
    let Stuck { world, session, watch } = Stuck::open().await;
    let mut cut = pin!(watch.cut());
    while world.store.waiting.load(Ordering::SeqCst) == 0 {
        assert!(poll!(&mut cut).is_pending());
    }
    world.clock.advance(Duration::from_secs(5));
    watch.client_sent();
    assert!(tokio::time::timeout(Duration::from_secs(2), cut).await.is_err());
    assert_eq!(session.last_seen(), world.clock.now());
}

/// What was known before may be too much.
#[tokio::test(start_paused = true)]
async fn nothing_more_is_allowed_while_the_newest_claims_can_not_be_read() {
    let receive =
        r#"permit (principal, action == Wicketgate::Action::"websocket:receive", resource);"#;
    for hangs in [false, true] {
        let world = World::allowing(receive).await;
        let (cookie, session) = world.sign_in().await;
        let request = get("/", &cookie)
            .header(UPGRADE, "websocket")
            .header(CONNECTION, "upgrade")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
        let watch = forwarded(world.admit(request).await).watch();
        assert!(!watch.may_send());
        if hangs {
            Stuck::stop(&world, &session);
        }
        world.reload(EVERYTHING);
        assert!(tokio::time::timeout(FAR, watch.cut()).await.is_err(), "it stays open");
        assert_eq!(watch.may_send(), !hangs);
    }
}
