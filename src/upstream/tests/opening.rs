//! Connections that are being opened are bounded; whoever finds no place takes what comes first.

use std::cell::RefCell;

use futures_util::{FutureExt as _, poll};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::http2::with_tls;
use super::retries::dies_on_reuse;
use super::*;
use crate::pem::testing::TestCa;
use crate::upstream::balance::MAX_OPENING;

const GOOD: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

fn all(places: Arc<Semaphore>) -> OwnedSemaphorePermit {
    let free = u32::try_from(places.available_permits()).unwrap();
    places.try_acquire_many_owned(free).unwrap()
}

#[tokio::test]
async fn a_connection_has_a_place_until_it_is_open() {
    let (_silent, address) = listen().await;
    let pool = pool(upstream(&[address]));
    let places = pool.opening();
    let free = places.available_permits();
    let mut asking = Box::pin(pool.ask(by(0), request("GET")));
    assert!(poll!(&mut asking).is_pending());
    assert_eq!(places.available_permits(), free - 1);
    tokio::select! {
        biased;
        _ = &mut asking => panic!("nobody answers"),
        () = until(|| places.available_permits() == free) => {}
    }
}

#[tokio::test]
async fn without_a_place_requests_take_what_others_are_done_with_in_their_order() {
    let (address, mut seen) = scripted(GOOD, 10).await;
    let pool = pool(upstream(&[address]));
    let answer = pool.ask(by(0), request("GET")).await.unwrap();
    let _places = all(pool.opening());
    let order = RefCell::new(Vec::new());
    let ask = async |number| {
        let answer = pool.ask(by(0), request("GET")).await.unwrap();
        assert_eq!(text(answer).await.unwrap(), "ok");
        order.borrow_mut().push(number);
    };
    let (.., first) = tokio::join!(biased; ask(2), ask(3), ask(4), text(answer));
    assert_eq!(first.unwrap(), "ok");
    assert_eq!(order.into_inner(), [2, 3, 4]);
    for _ in 0..4 {
        assert!(seen.recv().await.unwrap().starts_with("1 "), "there is one connection");
    }
    assert_eq!(pool.waiting(), 1);
}

#[tokio::test]
async fn a_place_that_comes_free_is_used() {
    let (address, _seen) = scripted(GOOD, 10).await;
    let pool = pool(upstream(&[address]));
    let taken = all(pool.opening());
    let mut asking = Box::pin(pool.ask(by(0), request("GET")));
    assert!(poll!(&mut asking).is_pending());
    drop(taken);
    assert_eq!(text(asking.await.unwrap()).await.unwrap(), "ok");
}

#[tokio::test]
async fn what_a_request_has_waited_for_that_is_gone_is_kept() {
    let (address, _seen) = scripted(GOOD, 10).await;
    let pool = pool(upstream(&[address]));
    let answer = pool.ask(by(0), request("GET")).await.unwrap();
    let _places = all(pool.opening());
    assert!(pool.ask(by(0), request("GET")).now_or_never().is_none());
    assert_eq!(text(answer).await.unwrap(), "ok");
    assert_eq!(pool.waiting(), 1);
}

#[tokio::test]
async fn what_may_not_be_kept_is_given_to_nobody() {
    let (address, mut seen) = scripted(GOOD, 10).await;
    let mut settings = upstream(&[address]);
    settings.max_idle = 0;
    let pool = pool(settings);
    let answer = pool.ask(by(0), request("GET")).await.unwrap();
    let taken = all(pool.opening());
    let mut asking = Box::pin(pool.ask(by(0), request("GET")));
    assert!(poll!(&mut asking).is_pending());
    assert_eq!(text(answer).await.unwrap(), "ok");
    assert!(poll!(&mut asking).is_pending());
    drop(taken);
    assert_eq!(text(asking.await.unwrap()).await.unwrap(), "ok");
    for connection in ["1 ", "2 "] {
        assert!(seen.recv().await.unwrap().starts_with(connection));
    }
}

#[tokio::test]
async fn an_answer_has_its_whole_time_after_a_wait() {
    let (address, _seen) = scripted(GOOD, 10).await;
    let mut settings = upstream(&[address]);
    settings.response_timeout = Duration::from_secs(5);
    let pool = pool(settings);
    let answer = pool.ask(by(0), request("GET")).await.unwrap();
    let _places = all(pool.opening());
    let mut asking = Box::pin(pool.ask(by(0), request("GET")));
    assert!(poll!(&mut asking).is_pending());
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(8)).await;
    tokio::time::resume();
    assert_eq!(text(answer).await.unwrap(), "ok");
    assert_eq!(text(asking.await.unwrap()).await.unwrap(), "ok");
}

#[tokio::test]
async fn connecting_has_its_whole_time_after_a_wait_and_what_hangs_then_is_the_endpoint() {
    let (_silent, address) = listen().await;
    let ca = TestCa::new();
    let pool = pool(with_tls(address, &ca, Some("app.internal")));
    let (places, taken) = (pool.opening(), all(pool.opening()));
    let mut asking = Box::pin(pool.ask(by(0), request("GET")));
    assert!(poll!(&mut asking).is_pending());
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(9)).await;
    drop(taken);
    assert!(poll!(&mut asking).is_pending());
    assert_eq!(places.available_permits() + 1, MAX_OPENING);
    tokio::time::advance(Duration::from_secs(9)).await;
    assert!(poll!(&mut asking).is_pending());
    tokio::time::advance(Duration::from_secs(2)).await;
    let error = asking.await.map(drop).unwrap_err();
    assert_eq!(error.kind(), "connect_timeout", "{error}");
}

#[tokio::test]
async fn who_waited_in_vain_asks_another_endpoint_whatever_the_retry_budget_says() {
    let (busy, _) = scripted(GOOD, 10).await;
    let (other, _seen) = scripted(GOOD, 10).await;
    let mut settings = upstream(&[busy, other]);
    settings.retries = RetryBudget { percent: 0, minimum_per_second: 0 };
    let pool = pool(settings);
    let _places = all(pool.opening());
    for _ in 0..2 {
        let mut asking = Box::pin(pool.ask(by(0), request("GET")));
        if poll!(&mut asking).is_pending() {
            tokio::time::pause();
            tokio::time::advance(Duration::from_secs(6)).await;
            tokio::time::resume();
        }
        assert_eq!(text(asking.await.unwrap()).await.unwrap(), "ok");
    }
}

#[tokio::test]
async fn after_a_kept_connection_that_was_dead_a_new_one_is_waited_for() {
    let (address, mut seen) = dies_on_reuse("").await;
    let pool = pool(upstream(&[address]));
    let [first, second] =
        [pool.ask(by(0), request("GET")).await, pool.ask(by(0), request("GET")).await];
    text(first.unwrap()).await.unwrap();
    let taken = all(pool.opening());
    let mut asking = Box::pin(pool.ask(by(0), request("GET")));
    for _ in 0..1000 {
        assert!(poll!(&mut asking).is_pending());
        tokio::task::yield_now().await;
    }
    assert_eq!(text(second.unwrap()).await.unwrap(), "ok");
    assert_eq!(pool.waiting(), 1);
    drop(taken);
    assert_eq!(text(asking.await.unwrap()).await.unwrap(), "ok");
    for connection in [1, 2, 1, 3] {
        assert_eq!(seen.recv().await, Some(connection));
    }
}

#[tokio::test(start_paused = true)]
async fn having_waited_in_vain_says_nothing_of_the_endpoint() {
    let (address, _seen) = scripted(GOOD, 10).await;
    let pool = pool(upstream(&[address]));
    let taken = all(pool.opening());
    for _ in 0..20 {
        let error = pool.ask(by(0), request("GET")).await.map(drop).unwrap_err();
        let answer = (error.kind(), error.status().as_u16(), error.retry_after());
        assert_eq!(answer, ("connect_queue", 503, Some(1)), "{error}");
    }
    drop(taken);
    tokio::time::resume();
    assert_eq!(text(pool.ask(by(0), request("GET")).await.unwrap()).await.unwrap(), "ok");
}
