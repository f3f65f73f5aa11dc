//! What is open is looked at again: it ends when it is no longer allowed.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::Method;
use http_body_util::BodyExt;
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use crate::harness::gate::{HOST, mentions, route};
use crate::harness::raw::find;
use crate::harness::servers::{Echo, Events, Flood, Heard};
use crate::harness::websocket::Socket;
use crate::harness::{Browser, Gate, Recorder, Setup, eventually, websocket, within};

/// What PRODUCT.md promises.
const PROMISE: Duration = Duration::from_secs(2);

fn world(page: &Recorder, echo: &Echo) -> Setup {
    Gate::setup().route(route("app", "/", &page.url())).route(route("ws", "/ws", &echo.url))
}

/// Waits for the end of a WebSocket and tells how long it took.
async fn ended(socket: &mut Socket) -> Duration {
    let start = Instant::now();
    websocket::closed(socket).await;
    start.elapsed()
}

#[tokio::test]
async fn signing_out_closes_the_users_websockets_idle_or_busy() {
    let (page, mut echo) = (Recorder::start().await, Echo::start().await);
    let gate = world(&page, &echo).start().await;
    let mut browser = gate.login("vera").await;
    let other = gate.login("otto").await;
    let mut idle = websocket::opened(&browser, &mut echo).await;
    let mut busy = websocket::opened(&browser, &mut echo).await;
    let mut neighbour = websocket::opened(&other, &mut echo).await;
    busy.send(Message::text("work")).await.unwrap();
    assert_eq!(echo.next().await, Heard::Text("work".to_owned()));

    let start = Instant::now();
    browser.sign_out().await;
    let idle_took = ended(&mut idle).await;
    ended(&mut busy).await;
    assert!(start.elapsed() < PROMISE, "{idle_took:?}, {:?}", start.elapsed());
    assert_eq!(echo.next().await, Heard::Ended, "the upstream's side ends too");
    assert_eq!(echo.next().await, Heard::Ended);
    gate.audited("the cut", |record| mentions(record, &["connection-cut", "test/vera"])).await;

    neighbour.send(Message::text("still here")).await.unwrap();
    assert_eq!(echo.next().await, Heard::Text("still here".to_owned()));
}

#[tokio::test]
async fn signing_out_ends_an_event_stream() {
    let events = Events::start().await;
    let gate = Gate::setup()
        .route(route("app", "/", &Recorder::start().await.url()))
        .route(route("events", "/events", &events.url))
        .start()
        .await;
    for http2 in [false, true] {
        let mut browser = gate.login("vera").await;
        let mut watcher = if http2 { gate.browser_h2() } else { gate.browser() };
        watcher.set_session_cookie(&browser.session_cookie().unwrap());
        let mut stream = watcher.open(Method::GET, "/events", &[], Bytes::new()).await;
        within("the first event", stream.body_mut().frame()).await.unwrap().unwrap();
        browser.sign_out().await;
        let start = Instant::now();
        let end = within("the end of the stream", async {
            loop {
                match stream.body_mut().frame().await {
                    Some(Ok(_)) => {}
                    end => return end,
                }
            }
        });
        assert!(end.await.is_some(), "cut, which is no regular end (http2: {http2})");
        assert!(start.elapsed() < PROMISE, "{:?} (http2: {http2})", start.elapsed());
    }
}

/// The upstream answers only once it has the whole request, so the request is all there is to cut.
#[tokio::test]
async fn signing_out_ends_a_request_that_is_still_being_sent() {
    let upstream = Recorder::start().await;
    let gate = Gate::with_upstream(&upstream).start().await;
    let mut browser = gate.login("vera").await;
    let who = format!(
        "host: {HOST}:{}\r\ncookie: {}\r\n",
        gate.port(),
        browser.cookies_for(&browser.url("/"))
    );
    let mut raw = gate.raw().await;
    let head = format!("POST /command HTTP/1.1\r\n{who}transfer-encoding: chunked\r\n\r\n");
    raw.send(format!("{head}5\r\nearly\r\n").as_bytes()).await;
    eventually("the first chunk upstream", async || find(&upstream.bytes(), b"early")).await;

    browser.sign_out().await;
    let start = Instant::now();
    let answer = within("the refusal", raw.answer()).await.unwrap();
    assert!(start.elapsed() < PROMISE, "{:?}", start.elapsed());
    assert_eq!(answer.status, 403);
    assert!(answer.value("x-wicketgate-decision").is_some(), "{answer:?}");
    gate.audited("the cut", |record| mentions(record, &["connection-cut", "test/vera"])).await;
    raw.send(b"4\r\nlate\r\n0\r\n\r\n").await;
    raw.rest().await;
    assert_eq!(find(&upstream.bytes(), b"late"), None, "nothing follows");
    let whole = upstream.requests().iter().any(|request| request.line().contains("/command"));
    assert!(!whole, "the request never became whole");
}

/// The session would be idle long before the end if only requests counted.
#[tokio::test]
async fn an_upload_keeps_its_session_from_idling_out() {
    const IDLE: Duration = Duration::from_secs(4);
    let upstream = Recorder::start().await;
    let gate = Gate::with_upstream(&upstream)
        .configure(|config| config["session"] = json!({ "idle_timeout": "4s" }))
        .start()
        .await;
    let browser = gate.login("vera").await;
    let who = format!(
        "host: {HOST}:{}\r\ncookie: {}\r\n",
        gate.port(),
        browser.cookies_for(&browser.url("/"))
    );
    let mut raw = gate.raw().await;
    let head = format!("POST /upload HTTP/1.1\r\n{who}transfer-encoding: chunked\r\n\r\n");
    raw.send(head.as_bytes()).await;
    let begun = Instant::now();
    while begun.elapsed() < IDLE * 2 {
        raw.send(b"4\r\nmore\r\n").await;
        tokio::time::sleep(IDLE / 40).await;
    }
    raw.send(b"0\r\n\r\n").await;
    assert_eq!(raw.answer().await.unwrap().status, 200);
    raw.send(format!("GET /after HTTP/1.1\r\n{who}\r\n").as_bytes()).await;
    assert_eq!(raw.answer().await.unwrap().status, 200);
}

/// A handshake is decided on as a WebSocket, so a plain answer to it was not decided on.
#[tokio::test]
async fn a_handshake_brings_no_page_that_a_get_would_be_denied() {
    let upstream = Recorder::answering("HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nsecret").await;
    let gate = Gate::with_upstream(&upstream)
        .policy(
            "permit (principal, action, resource);
             forbid (principal, action == Wicketgate::Action::\"http:GET\", resource)
             when { context.path == \"/secret\" };",
        )
        .start()
        .await;
    let browser = gate.login("vera").await;
    let who = format!(
        "host: {HOST}:{}\r\ncookie: {}\r\n",
        gate.port(),
        browser.cookies_for(&browser.url("/"))
    );
    let mut raw = gate.raw().await;
    raw.send(format!("GET /secret HTTP/1.1\r\n{who}\r\n").as_bytes()).await;
    assert_eq!(raw.answer().await.unwrap().status, 403);
    let handshake = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
                     sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    raw.send(format!("GET /secret HTTP/1.1\r\n{who}{handshake}\r\n").as_bytes()).await;
    let answer = raw.answer().await.unwrap();
    assert_eq!(answer.status, 502);
    assert_eq!(find(format!("{answer:?}").as_bytes(), b"secret"), None);
}

/// An HTTP/2 client that takes a byte of each answer and no more.
async fn stingy(browser: &Browser, path: &str) -> (h2::RecvStream, h2::client::SendRequest<Bytes>) {
    let url = browser.url(path);
    let (wire, http2) = browser.connect(&url).await;
    assert!(http2);
    let mut builder = h2::client::Builder::new();
    let handshake = builder.initial_window_size(1).handshake::<_, Bytes>(wire).await;
    let (mut sender, connection) = handshake.unwrap();
    tokio::spawn(connection);
    let request = http::Request::get(url.as_str())
        .header("cookie", browser.cookies_for(&url))
        .body(())
        .unwrap();
    let (answer, _) = sender.send_request(request, true).unwrap();
    let answer = within("the head of the answer", answer).await.unwrap();
    assert_eq!(answer.status(), 200);
    (answer.into_body(), sender)
}

#[tokio::test]
async fn an_upstream_is_let_go_of_though_the_client_takes_nothing() {
    let (page, mut flood) = (Recorder::start().await, Flood::start().await);
    let gate = Gate::setup()
        .route(route("app", "/", &page.url()))
        .route(route("flood", "/flood", &flood.url))
        .configure(|config| config["listeners"][0]["limits"] = json!({ "idle_timeout": "3s" }))
        .start()
        .await;
    // At once on logout.
    let mut browser = gate.login("vera").await;
    let mut client = gate.browser_h2();
    client.set_session_cookie(&browser.session_cookie().unwrap());
    let (_body, _sender) = stingy(&client, "/flood").await;
    browser.sign_out().await;
    let start = Instant::now();
    flood.hung_up().await;
    assert!(start.elapsed() < PROMISE, "{:?}", start.elapsed());
    gate.audited("the cut", |record| mentions(record, &["connection-cut", "test/vera"])).await;
    // And in any case after the idle timeout.
    client.set_session_cookie(&gate.login("otto").await.session_cookie().unwrap());
    let (_body, _sender) = stingy(&client, "/flood").await;
    flood.hung_up().await;
    let cuts = gate.audit().iter().filter(|record| mentions(record, &["connection-cut"])).count();
    assert_eq!(cuts, 1, "it was given up, not forbidden");
}

#[tokio::test]
async fn a_policy_that_no_longer_allows_cuts_what_is_open() {
    let (page, mut echo) = (Recorder::start().await, Echo::start().await);
    let gate = world(&page, &echo).start().await;
    let vera = gate.login("vera").await;
    let otto = gate.login("otto").await;
    let mut cut = websocket::opened(&vera, &mut echo).await;
    let mut kept = websocket::opened(&otto, &mut echo).await;
    let before = gate.metric("wicketgate_configuration_generation", "").await;
    gate.rewrite_policies(
        r#"@id("engineers") permit (
            principal in Wicketgate::Group::"ot-engineers", action, resource);"#,
    );
    crate::harness::eventually("the new policies", async || {
        (gate.metric("wicketgate_configuration_generation", "").await > before).then_some(())
    })
    .await;
    let took = ended(&mut cut).await;
    assert!(took < PROMISE, "{took:?}");
    kept.send(Message::text("still here")).await.unwrap();
    while echo.next().await != Heard::Text("still here".to_owned()) {}
    assert_eq!(websocket::open(&vera, "/ws").await.err(), Some(403));
}

#[tokio::test]
async fn whoever_may_only_view_receives_but_cannot_send() {
    let (page, mut echo) = (Recorder::start().await, Echo::start().await);
    let gate = world(&page, &echo)
        .policy(
            r#"@id("view") permit (
                principal is Wicketgate::User, action in Wicketgate::Action::"view", resource);"#,
        )
        .start()
        .await;
    let browser = gate.login("vera").await;
    let mut socket = websocket::opened(&browser, &mut echo).await;
    socket.send(Message::text("open the valve")).await.unwrap();
    socket.send(Message::Ping(Bytes::from_static(b"alive"))).await.unwrap();
    let pong = within("the pong", socket.next()).await.unwrap().unwrap();
    assert_eq!(pong, Message::Pong(Bytes::from_static(b"alive")));
    gate.audited("the frame", |record| mentions(record, &["frames-dropped", "test/vera"])).await;
    socket.close(None).await.unwrap();
    assert_eq!(echo.next().await, Heard::Ended, "the upstream never saw the command");
}
