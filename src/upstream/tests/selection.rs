//! Endpoints by turns and by chance.

use http::StatusCode;

use super::ejection::{World, address, settings};
use super::*;
use crate::upstream::vitals::Payload;

/// Where 400 requests go when the second of two endpoints has three times the first one's weight.
fn homes(selection: Selection) -> Vec<SocketAddr> {
    let mut upstream = Upstream { selection, ..settings(2) };
    upstream.endpoints[1].weight = 3;
    let world = World::of(&upstream);
    let next = |_| {
        let attempt = world.balance.select(&[], by(0), Payload::None).unwrap();
        let home = attempt.target().address;
        attempt.answered(StatusCode::OK);
        home
    };
    (0..400).map(next).collect()
}

fn of_second(homes: &[SocketAddr]) -> usize {
    homes.iter().filter(|home| **home == address(2)).count()
}

#[tokio::test]
async fn by_turns_each_endpoint_gets_its_share_of_every_round() {
    let homes = homes(Selection::RoundRobin);
    assert!(homes.chunks(4).all(|round| of_second(round) == 3), "{homes:?}");
}

#[tokio::test]
async fn by_chance_weights_hold_in_the_long_run_and_nobody_knows_whose_turn_it_is() {
    let (one, other) = (homes(Selection::Random), homes(Selection::Random));
    for homes in [&one, &other] {
        // Six times the standard deviation.
        assert!((248..=352).contains(&of_second(homes)), "{} of 400", of_second(homes));
    }
    assert_ne!(one, other);
}
