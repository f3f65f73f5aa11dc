//! Requests that wait for something after they were permitted, and what becomes untrue meanwhile.

use std::task::Poll;

use bytes::Bytes;
use futures_util::poll;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, ORIGIN};

use super::*;
use crate::domain::event::EndReason;
use crate::domain::suspension::{Subject, Suspension};
use crate::identity::kept::{About, Form};
use crate::identity::session::Freshness;
use crate::pipeline::suspended;

/// What may become of a request's caller.
#[derive(Clone, Copy, Debug)]
enum Meanwhile {
    Nothing,
    /// The provider says something else of the user.
    Outdated,
    SignedOut,
    Suspended,
    OtherPolicies,
}

impl Meanwhile {
    async fn happens(self, world: &World, session: &Session) {
        match self {
            Self::Nothing => {}
            Self::Outdated => session.outdate(),
            Self::SignedOut => {
                world.gate.sessions.end(&session.id, EndReason::Logout).await.unwrap();
            }
            Self::Suspended => {
                let (since, by) = (world.clock.now(), Arc::from("op"));
                let (subject, name) = (Subject::User, Arc::clone(&session.principal.id));
                let suspension = Suspension { subject, name, since, by, reason: None };
                world.gate.suspensions.suspend(&suspension).await.unwrap();
                suspended::enforce(&world.gate);
            }
            Self::OtherPolicies => {
                world.reload("permit (principal, action, resource) when { true };")
            }
        }
    }
}

const CASES: [(Meanwhile, Option<(u16, &str)>); 5] = [
    (Meanwhile::Nothing, None),
    (Meanwhile::Outdated, Some((503, "overtaken"))),
    (Meanwhile::SignedOut, Some((401, "unauthenticated"))),
    (Meanwhile::Suspended, Some((403, "suspended"))),
    (Meanwhile::OtherPolicies, Some((503, "overtaken"))),
];

#[track_caller]
fn judge(case: Meanwhile, outcome: Outcome, expected: Option<(u16, &str)>) {
    match expected {
        None => drop(forwarded(outcome)),
        Some((status, kind)) => {
            assert_eq!(refused(outcome), (status, kind.to_owned()), "{case:?}");
        }
    }
}

#[tokio::test]
async fn what_changes_while_a_token_is_exchanged_counts() {
    for (case, expected) in CASES {
        let world = World::new().await;
        let (cookie, session) = world.sign_in().await;
        world.idp.hold();
        let change = async {
            while world.idp.asked() == 0 {
                tokio::task::yield_now().await;
            }
            case.happens(&world, &session).await;
            world.idp.answers.add_permits(1);
        };
        let (outcome, ()) = tokio::join!(world.admit(get("/exchange", &cookie)), change);
        judge(case, outcome, expected);
    }
}

#[tokio::test]
async fn what_changes_while_a_record_is_on_its_way_to_the_disk_counts() {
    for (case, expected) in CASES {
        let world = World::new().await;
        let (cookie, session) = world.sign_in().await;
        let outcome = loop {
            let mut admit = Box::pin(world.admit(get("/durable", &cookie)));
            // The session is at hand, so the disk is all that it waits for.
            if let Poll::Ready(faster) = poll!(&mut admit) {
                forwarded(faster);
                continue;
            }
            case.happens(&world, &session).await;
            break admit.await;
        };
        judge(case, outcome, expected);
    }
    // Where nobody waits, the request is of the moment when it was decided.
    let world = World::new().await;
    let (cookie, _) = world.sign_in().await;
    assert!(poll!(Box::pin(world.admit(get("/", &cookie)))).is_ready());
}

#[tokio::test]
async fn a_kept_form_is_taken_out_after_the_last_refusal() {
    let world = World::new().await;
    let (cookie, session) = world.sign_in().await;
    let body = Bytes::from_static(b"item=N-3001");
    for case in [Meanwhile::Outdated, Meanwhile::Nothing] {
        let about = About {
            host: HOST_NAME.into(),
            target: "/exchange/orders".into(),
            content_type: "application/x-www-form-urlencoded".into(),
            referer: None,
            principal: Some(Arc::clone(&session.principal.id)),
            expires: world.gate.kept.expiry(),
        };
        let form = Form { about, body: body.clone() };
        let ticket = world.gate.kept.keep(&form, ADDRESS).await.unwrap();
        let set = ticket.send(&HeaderMap::new(), "/exchange/orders").pop().unwrap();
        let pair = set.to_str().unwrap().split(';').next().unwrap().to_owned();
        let send = || {
            http::Request::post("/exchange/orders")
                .header(HOST, HOST_NAME)
                .header(COOKIE, format!("{cookie}; {pair}"))
                .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
                .header(CONTENT_LENGTH, "0")
                .header(ORIGIN, format!("https://{HOST_NAME}"))
                .header("sec-fetch-mode", "navigate")
                .header("sec-fetch-dest", "document")
                .header("accept", "application/json")
        };
        if let Meanwhile::Outdated = case {
            world.idp.down.store(true, Ordering::SeqCst);
            assert!(matches!(world.admit(send()).await, Outcome::Reply(_)), "no token, no request");
            world.gate.kept.look(&ticket).await.expect("refused, and gone all the same");
            world.idp.down.store(false, Ordering::SeqCst);
            world.clock.advance(Duration::from_secs(2));
        }
        let mut exchange = forwarded(world.admit(send()).await);
        assert_eq!(exchange.take_body().as_ref(), Some(&body));
        assert!(world.gate.kept.look(&ticket).await.is_err(), "it is sent once");
    }
}

#[tokio::test]
async fn while_the_provider_is_away_requests_go_the_way_that_waits_for_nothing() {
    let world = World::new().await;
    tokio::spawn(Arc::clone(&world.gate.sessions).refresh());
    let (cookie, session) = world.sign_in().await;
    world.idp.down.store(true, Ordering::SeqCst);
    world.clock.advance(PACE.interval);
    // One finds that out.
    assert!(!world.provider.is_out());
    forwarded(world.admit(get("/", &cookie)).await);
    assert!(world.provider.is_out());
    let (pace, now) = (world.provider.pace(), world.clock.now());
    assert_eq!(world.gate.sessions.freshness(&session, pace, now), Freshness::Due);
    // Who had to read what is known would wait for this.
    let _turn = world.gate.sessions.write_for_peer(session.id).await.unwrap();
    let Poll::Ready(outcome) = poll!(Box::pin(world.admit(get("/", &cookie)))) else {
        panic!("every request of an outage waits in line");
    };
    forwarded(outcome);
}
