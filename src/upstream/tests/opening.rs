//! Connections that are being opened are bounded; whoever finds no place takes what comes first.

use std::cell::RefCell;

use futures_util::{FutureExt as _, poll};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::*;

const GOOD: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

fn all(places: Arc<Semaphore>) -> OwnedSemaphorePermit {
    let free = u32::try_from(places.available_permits()).unwrap();
    places.try_acquire_many_owned(free).unwrap()
}

#[tokio::test]
async fn a_connection_has_a_place_until_it_is_open() {
    let (address, _seen) = scripted(GOOD, 1).await;
    let pool = pool(upstream(&[address]));
    let places = pool.opening();
    let free = places.available_permits();
    let mut asking = Box::pin(pool.ask(by(0), request("GET")));
    assert!(poll!(&mut asking).is_pending());
    assert_eq!(places.available_permits(), free - 1);
    let answer = asking.await.unwrap();
    assert_eq!(places.available_permits(), free);
    drop(answer);
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
