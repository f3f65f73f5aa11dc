//! What takes endpoints out and brings them back, on a clock that stands still.

use http::StatusCode;
use tokio::time::advance;

use super::*;
use crate::upstream::attempt::Attempt;
use crate::upstream::balance::Balance;
use crate::upstream::breaker::Breaker;
use crate::upstream::vitals::Payload;

pub(super) const SECOND: Duration = Duration::from_secs(1);

pub(super) fn address(number: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, number], 80))
}

pub(super) fn settings(endpoints: u8) -> Upstream {
    let addresses: Vec<_> = (1..=endpoints).map(address).collect();
    upstream(&addresses)
}

pub(super) struct World {
    pub(super) balance: Balance,
    pub(super) breaker: Arc<Breaker>,
    metrics: Arc<Metrics>,
}

impl World {
    pub(super) fn of(upstream: &Upstream) -> Self {
        let breaker = Arc::new(Breaker::new(&"route".into(), upstream));
        let balance = Balance::new(upstream, 1, Arc::clone(&breaker), |_| None);
        let metrics = Metrics::new();
        let labels = upstream.endpoints.iter().map(|endpoint| endpoint.host.to_string());
        breaker.show(metrics.upstream("route", labels), &balance.targets());
        Self { balance, breaker, metrics }
    }

    fn select(&self) -> Option<Attempt<'_>> {
        self.balance.select(&[], by(0), Payload::None)
    }

    /// The next attempt at this endpoint; others are answered well on the way.
    fn at(&self, number: u8) -> Attempt<'_> {
        for _ in 0..100 {
            let attempt = self.select().unwrap();
            if attempt.target().address == address(number) {
                return attempt;
            }
            attempt.answered(StatusCode::OK);
        }
        panic!("{number} is never selected");
    }

    /// Which endpoints the next requests go to; all go well.
    fn used(&self) -> Vec<u8> {
        let mut used = Vec::new();
        for _ in 0..60 {
            let Some(attempt) = self.select() else { continue };
            let SocketAddr::V4(address) = attempt.target().address else { panic!() };
            used.push(address.ip().octets()[3]);
            attempt.answered(StatusCode::OK);
        }
        used.sort_unstable();
        used.dedup();
        used
    }

    fn fail(&self, number: u8, times: usize, with: &UpstreamError) {
        for _ in 0..times {
            self.at(number).failed(with);
        }
    }

    fn refused(&self) -> UpstreamError {
        assert!(self.select().is_none());
        self.balance.unavailable()
    }

    #[track_caller]
    fn shows(&self, line: &str) {
        let text = self.metrics.render();
        assert!(text.contains(&format!("\nwicketgate_upstream_{line}\n")), "{line}: {text}");
    }
}

pub(super) fn refused() -> UpstreamError {
    UpstreamError::Connect {
        address: address(1),
        cause: std::io::ErrorKind::ConnectionRefused.into(),
    }
}

fn silent() -> UpstreamError {
    UpstreamError::Timeout { what: "answer" }
}

fn other_user() -> Caller<'static> {
    Caller { principal: "test/otto", ..by(0) }
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_fails_in_a_row_is_out_for_a_growing_time() {
    let world = World::of(&settings(3));
    world.fail(2, 4, &refused());
    world.at(2).answered(StatusCode::OK);
    world.fail(2, 4, &refused());
    assert_eq!(world.used(), [1, 2, 3], "what goes well begins the row anew");
    for time in [5, 10, 20, 30, 30] {
        if time == 5 {
            world.fail(2, 5, &refused());
        }
        world.shows(r#"ejected{endpoint="10.0.0.2",route="route"} 1"#);
        assert_eq!(world.used(), [1, 3]);
        advance(SECOND * time - Duration::from_millis(1)).await;
        assert_eq!(world.used(), [1, 3], "{time} s are not over");
        advance(Duration::from_millis(1)).await;
        world.at(2).failed(&refused());
    }
    advance(SECOND * 30).await;
    assert_eq!(world.used(), [1, 2, 3]);
    world.shows(r#"ejected{endpoint="10.0.0.2",route="route"} 0"#);
    world.shows(r#"ejections_total{endpoint="10.0.0.2",route="route"} 1"#);
    world.shows(r#"breaker_open{route="route"} 0"#);
}

#[tokio::test(start_paused = true)]
async fn gateway_errors_timeouts_and_garbage_take_an_endpoint_out_and_other_answers_do_not() {
    for status in [500, 501, 404, 429] {
        let world = World::of(&settings(2));
        for _ in 0..10 {
            world.at(1).answered(StatusCode::from_u16(status).unwrap());
        }
        assert_eq!(world.used(), [1, 2], "{status}");
    }
    for status in [502, 503, 504] {
        let world = World::of(&settings(2));
        for _ in 0..5 {
            world.at(1).answered(StatusCode::from_u16(status).unwrap());
        }
        assert_eq!(world.used(), [2], "{status}");
    }
    let closed = UpstreamError::Closed { cause: String::new() };
    let late = UpstreamError::ConnectTimeout { address: address(1) };
    let tls = UpstreamError::Tls { address: address(1), cause: String::new() };
    for error in [silent(), UpstreamError::protocol("garbage"), closed, late, tls] {
        let world = World::of(&settings(2));
        world.fail(1, 5, &error);
        assert_eq!(world.used(), [2], "{error}");
    }
    let world = World::of(&settings(2));
    world.fail(1, 20, &UpstreamError::RequestBody { cause: String::new() });
    assert_eq!(world.used(), [1, 2], "the client's fault");
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_fails_every_second_request_is_out_once_there_are_enough() {
    let world = World::of(&settings(2));
    let fail = || {
        world.at(1).failed(&silent());
        // Another request that began before goes well.
        let targets = world.balance.targets();
        world.breaker.went_well(&targets, &targets[0], false);
    };
    fail();
    for _ in 0..18 {
        world.at(1).answered(StatusCode::OK);
    }
    for failures in 2..=17 {
        fail();
        assert_eq!(world.balance.untried(&[]), 2, "{failures} of {}", failures + 18);
    }
    fail();
    assert_eq!(world.used(), [2]);
}

#[tokio::test(start_paused = true)]
async fn no_more_than_the_share_are_out_while_others_answer() {
    let mut upstream = settings(4);
    upstream.outliers.as_mut().unwrap().max_ejection_percent = 25;
    let world = World::of(&upstream);
    world.fail(1, 5, &refused());
    world.fail(2, 20, &refused());
    assert_eq!(world.used(), [2, 3, 4]);
    advance(SECOND * 5).await;
    assert_eq!(world.used(), [1, 2, 3, 4], "the first is back, and gives its place up");
    world.fail(2, 5, &refused());
    assert_eq!(world.used(), [1, 3, 4]);
}

#[tokio::test(start_paused = true)]
async fn when_all_fail_all_are_out_and_requests_are_refused_until_a_trial_is_answered() {
    let world = World::of(&settings(3));
    for number in [1, 2] {
        world.fail(number, 5, &refused());
    }
    assert_eq!(world.used(), [2, 3], "one of three is the share");
    for _ in 0..5 {
        for _ in 0..2 {
            world.select().unwrap().failed(&refused());
        }
    }
    world.shows(r#"breaker_open{route="route"} 1"#);
    let error = world.refused();
    assert_eq!((error.kind(), error.status().as_u16()), ("breaker_open", 503));
    assert_eq!(error.retry_after(), Some(5));
    advance(SECOND * 4).await;
    assert_eq!(world.refused().retry_after(), Some(1));
    advance(SECOND).await;

    let trials: Vec<_> = (0..10).filter_map(|_| world.select()).collect();
    assert_eq!(trials.len(), 3, "one request at a time for each");
    assert_eq!(world.refused().kind(), "breaker_open");
    let mut trials = trials.into_iter();
    trials.next().unwrap().failed(&refused());
    drop(trials.next());
    let third = trials.next().unwrap();
    let back = third.target().address;
    third.answered(StatusCode::OK);
    world.shows(r#"breaker_open{route="route"} 0"#);
    assert_eq!(world.used().len(), 2, "the one that answered, and the one without a result");
    assert!(world.select().is_some(), "{back}");
}

#[tokio::test(start_paused = true)]
async fn one_user_alone_leaves_nobody_without_an_endpoint() {
    let world = World::of(&settings(1));
    world.fail(1, 50, &silent());
    assert_eq!(world.used(), [1], "what one user asks for may take long");
    advance(SECOND * 10).await;
    world.fail(1, 4, &silent());
    world.balance.select(&[], other_user(), Payload::None).unwrap().failed(&silent());
    assert_eq!(world.refused().kind(), "breaker_open");

    let world = World::of(&settings(2));
    world.fail(1, 5, &silent());
    assert_eq!(world.used(), [2], "where there is another, that one is taken");
    for _ in 0..50 {
        world.select().unwrap().failed(&silent());
    }
    assert_eq!(world.used(), [2]);
    for _ in 0..5 {
        world.select().unwrap().failed(&refused());
    }
    assert_eq!(world.used(), [1], "rather than none");
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_answers_503_itself_is_not_answered_for() {
    let world = World::of(&settings(1));
    for number in 0..50 {
        let caller = if number % 2 == 0 { by(0) } else { other_user() };
        let attempt = world.balance.select(&[], caller, Payload::None).unwrap();
        attempt.answered(StatusCode::SERVICE_UNAVAILABLE);
    }
    // Down, and then up with its own page.
    world.fail(1, 5, &refused());
    assert!(world.select().is_none());
    advance(SECOND * 5).await;
    world.select().unwrap().answered(StatusCode::SERVICE_UNAVAILABLE);
    world.shows(r#"breaker_open{route="route"} 0"#);
    for _ in 0..3 {
        assert_eq!(world.used(), [1], "other paths may be well");
        world.select().unwrap().answered(StatusCode::SERVICE_UNAVAILABLE);
    }
    advance(SECOND * 30).await;
    assert_eq!(world.used(), [1]);
    world.shows(r#"ejected{endpoint="10.0.0.1",route="route"} 0"#);
}

#[tokio::test(start_paused = true)]
async fn a_trial_that_one_user_misses_the_answer_of_shuts_nobody_else_out() {
    let world = World::of(&settings(1));
    world.fail(1, 5, &refused());
    advance(SECOND * 5).await;
    world.select().unwrap().failed(&silent());
    world.shows(r#"breaker_open{route="route"} 0"#);
    for _ in 0..20 {
        world.select().unwrap().failed(&silent());
    }
    assert_eq!(world.used(), [1], "always the same user");
    // Another's trial, after what went well for others.
    advance(SECOND * 30).await;
    world.select().unwrap().failed(&silent());
    assert_eq!(world.used(), [1]);
    advance(SECOND * 30).await;
    world.balance.select(&[], other_user(), Payload::None).unwrap().failed(&silent());
    assert_eq!(world.used(), [1]);
    // With nothing well in between, two say the same.
    advance(SECOND * 30).await;
    world.select().unwrap().failed(&silent());
    advance(SECOND * 30).await;
    world.balance.select(&[], other_user(), Payload::None).unwrap().failed(&silent());
    assert_eq!(world.refused().kind(), "breaker_open");
}

#[tokio::test(start_paused = true)]
async fn a_trial_that_drags_on_holds_nobody_up() {
    let mut upstream = settings(1);
    let rules = upstream.outliers.as_mut().unwrap();
    rules.ejection_time = SECOND * 600;
    rules.max_ejection_time = SECOND * 600;
    let world = World::of(&upstream);
    world.fail(1, 5, &refused());
    advance(SECOND * 601).await;
    let slow_post = world.balance.select(&[], other_user(), Payload::Body).unwrap();
    let slow_get = world.balance.select(&[], other_user(), Payload::None).unwrap();
    assert!(world.select().is_none());
    advance(SECOND).await;
    assert_eq!(world.used(), [1]);
    world.shows(r#"breaker_open{route="route"} 0"#);
    slow_post.failed(&silent());
    slow_get.failed(&silent());
    assert_eq!(world.used(), [1]);
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_is_used_for_want_of_another_is_still_found_to_be_down() {
    let world = World::of(&settings(1));
    world.fail(1, 5, &refused());
    advance(SECOND * 5).await;
    world.select().unwrap().answered(StatusCode::SERVICE_UNAVAILABLE);
    world.fail(1, 5, &refused());
    assert_eq!(world.refused().kind(), "breaker_open");
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_was_replaced_no_longer_writes_into_the_metrics() {
    let world = World::of(&settings(2));
    world.breaker.hide();
    world.fail(1, 5, &refused());
    assert_eq!(world.used(), [2]);
    world.shows(r#"ejected{endpoint="10.0.0.1",route="route"} 0"#);
}

#[tokio::test(start_paused = true)]
async fn switched_off_nothing_is_ever_out() {
    let mut upstream = settings(2);
    upstream.outliers = None;
    let world = World::of(&upstream);
    for number in [1, 2] {
        world.fail(number, 50, &refused());
    }
    assert_eq!(world.used(), [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_is_back_begins_with_a_small_share() {
    let mut upstream = settings(2);
    upstream.slow_start = Some(SECOND * 100);
    let world = World::of(&upstream);
    let share = |world: &World| {
        let mut count = 0;
        for _ in 0..400 {
            let attempt = world.select().unwrap();
            count += usize::from(attempt.target().address == address(1));
            attempt.answered(StatusCode::OK);
        }
        count
    };
    assert_eq!(share(&world), 200);
    world.fail(1, 5, &refused());
    assert_eq!(share(&world), 0);
    advance(SECOND * 5).await;
    world.at(1).answered(StatusCode::OK);
    // Against the other's whole share of 1: 0.1, 0.1, 0.5 and 1.
    for (wait, expected) in [(0, 36), (10, 36), (40, 133), (50, 200)] {
        advance(SECOND * wait).await;
        let got = share(&world);
        assert!(got.abs_diff(expected) <= 4, "{got} of 400, {expected} expected");
    }
    assert_eq!(share(&world), 200);
}

#[tokio::test(start_paused = true)]
async fn a_health_check_that_recovers_lets_the_endpoint_in_slowly_whatever_requests_saw() {
    let mut upstream = settings(2);
    upstream.slow_start = Some(SECOND * 100);
    let world = World::of(&upstream);
    world.fail(1, 5, &refused());
    assert_eq!(world.used(), [2]);
    let targets = world.balance.targets();
    world.breaker.checked_well(&targets, &targets[0]);
    world.shows(r#"ejected{endpoint="10.0.0.1",route="route"} 0"#);
    let mut first = 0;
    for _ in 0..110 {
        let attempt = world.select().unwrap();
        first += usize::from(attempt.target().address == address(1));
        attempt.answered(StatusCode::OK);
    }
    assert!((8..13).contains(&first), "{first} of 110");
}

#[tokio::test(start_paused = true)]
async fn what_a_new_configuration_adds_begins_slowly_and_the_rest_goes_on() {
    let mut upstream = settings(2);
    upstream.slow_start = Some(SECOND * 100);
    let former = World::of(&upstream);
    upstream.endpoints.push(endpoint(address(3)));
    let world = World::of(&upstream);
    world.balance.follow(&former.balance);
    let count = |number| {
        let mut count = 0;
        for _ in 0..300 {
            let attempt = world.select().unwrap();
            count += usize::from(attempt.target().address == address(number));
            attempt.answered(StatusCode::OK);
        }
        count
    };
    assert!((10..18).contains(&count(3)));
    assert!((138..148).contains(&count(1)));
    advance(SECOND * 100).await;
    assert_eq!(count(3), 100);
}
