//! Sessions and the endpoint that they belong to.

use super::ejection::{SECOND, World, address, refused, settings};
use super::*;
use crate::upstream::vitals::Payload;
use http::StatusCode;
use tokio::time::advance;

fn sticky(endpoints: u8) -> Upstream {
    Upstream { selection: Selection::Sticky, ..settings(endpoints) }
}

fn session(number: u32) -> Caller<'static> {
    let mut id = [0; 32];
    id[..4].copy_from_slice(&number.wrapping_mul(0x9e37_79b9).to_be_bytes());
    Caller { session: SessionId(id), ..by(0) }
}

/// Where the sessions' next requests go; all go well.
fn homes(world: &World) -> Vec<SocketAddr> {
    let of = |number| {
        let attempt = world.balance.select(&[], session(number), Payload::None).unwrap();
        let home = attempt.target().address;
        attempt.answered(StatusCode::OK);
        home
    };
    (0..300).map(of).collect()
}

fn count(homes: &[SocketAddr], number: u8) -> usize {
    homes.iter().filter(|home| **home == address(number)).count()
}

#[tokio::test(start_paused = true)]
async fn a_session_stays_with_its_endpoint_and_moves_only_while_that_one_is_out() {
    let world = World::of(&sticky(3));
    let before = homes(&world);
    assert_eq!(before, homes(&world));
    assert_eq!(before, homes(&World::of(&sticky(3))), "another gate agrees");
    for number in 1..=3 {
        assert!((70..130).contains(&count(&before, number)), "{}", count(&before, number));
    }
    let of_second = (0..300).find(|number| before[*number as usize] == address(2)).unwrap();
    for _ in 0..5 {
        world.balance.select(&[], session(of_second), Payload::None).unwrap().failed(&refused());
    }
    let meanwhile = homes(&world);
    assert_eq!(count(&meanwhile, 2), 0);
    for (before, meanwhile) in before.iter().zip(&meanwhile) {
        assert!(before == meanwhile || *before == address(2), "only these move");
    }
    assert!(count(&meanwhile, 1) > count(&before, 1) && count(&meanwhile, 3) > count(&before, 3));
    advance(SECOND * 5).await;
    homes(&world);
    assert_eq!(homes(&world), before, "and back");
}

#[tokio::test(start_paused = true)]
async fn a_try_that_failed_goes_to_the_sessions_next_endpoint() {
    let world = World::of(&sticky(3));
    let first = world.balance.select(&[], session(1), Payload::None).unwrap().target().address;
    let second =
        world.balance.select(&[first], session(1), Payload::None).unwrap().target().address;
    let third =
        world.balance.select(&[first, second], session(1), Payload::None).unwrap().target().address;
    assert!(first != second && second != third && first != third);
    assert!(world.balance.select(&[first, second, third], session(1), Payload::None).is_none());
}

#[tokio::test(start_paused = true)]
async fn weights_hold_for_sessions_too() {
    let mut upstream = sticky(2);
    upstream.endpoints[1].weight = 3;
    let homes = homes(&World::of(&upstream));
    assert!((195..255).contains(&count(&homes, 2)), "{} of 300", count(&homes, 2));
}

#[tokio::test(start_paused = true)]
async fn sessions_return_little_by_little_and_none_goes_to_and_fro() {
    let mut upstream = sticky(2);
    upstream.slow_start = Some(SECOND * 100);
    let world = World::of(&upstream);
    let before = homes(&world);
    let targets = world.balance.targets();
    world.breaker.checked_well(&targets, &targets[0]);
    let mut here: Vec<bool> = vec![false; 300];
    for (wait, share) in [(5, 0.1), (45, 0.5), (50, 1.0)] {
        advance(SECOND * wait).await;
        let now = homes(&world);
        let whole = count(&before, 1) as f64;
        let got = count(&now, 1) as f64 / whole;
        assert!((got - share).abs() < 0.12, "{got} for {share}");
        for (here, now) in here.iter_mut().zip(&now) {
            assert!(!*here || *now == address(1), "it was there already");
            *here = *now == address(1);
        }
    }
    assert_eq!(homes(&world), before);
}

#[tokio::test(start_paused = true)]
async fn endpoints_that_a_session_belongs_to_alike_are_still_two() {
    let mut upstream = sticky(2);
    upstream.endpoints[1].host = Host::parse("[::ffff:10.0.0.1]").unwrap();
    let world = World::of(&upstream);
    let first = world.balance.select(&[], session(1), Payload::None).unwrap().target().address;
    for _ in 0..5 {
        world.balance.select(&[], session(1), Payload::None).unwrap().failed(&refused());
    }
    let second = world.balance.select(&[], session(1), Payload::None).unwrap().target().address;
    assert_ne!(first, second);
}

#[tokio::test(start_paused = true)]
async fn what_fails_for_one_user_moves_nobody_elses_session() {
    let world = World::of(&sticky(3));
    let before = homes(&world);
    let of_second = (0..300).find(|number| before[*number as usize] == address(2)).unwrap();
    let attempt = |principal| {
        let caller = Caller { principal, ..session(of_second) };
        world.balance.select(&[], caller, Payload::None).unwrap()
    };
    for number in 0..40 {
        let attempt = attempt("test/vera");
        match number % 2 {
            0 => attempt.answered(StatusCode::SERVICE_UNAVAILABLE),
            _ => attempt.failed(&UpstreamError::Timeout { what: "answer" }),
        }
    }
    assert_eq!(homes(&world), before);
    for _ in 0..4 {
        attempt("test/vera").answered(StatusCode::SERVICE_UNAVAILABLE);
    }
    attempt("test/otto").answered(StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(count(&homes(&world), 2), 0, "two users say the same");
}
