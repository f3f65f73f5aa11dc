//! Bodies, lengths and ends of messages, through the gate.

use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};

use crate::harness::gate::{HOST, mentions, route};
use crate::harness::raw::find;
use crate::harness::servers::{Early, trailing};
use crate::harness::{Gate, Raw, Recorder, eventually};

struct World {
    gate: Gate,
    cookie: String,
}

impl World {
    /// One route for everything.
    async fn start(route: Value) -> Self {
        let gate = Gate::setup()
            .route(route)
            .configure(|config| config["listeners"][0]["limits"] = json!({ "idle_timeout": "1s" }))
            .start()
            .await;
        let mut browser = gate.browser();
        let callback = gate.until_callback(&mut browser, "vera", "/").await;
        browser.get(&callback).await;
        let cookie = browser.cookies_for(&browser.url("/"));
        Self { gate, cookie }
    }

    /// The `host` and `cookie` lines.
    fn who(&self) -> String {
        format!("{}cookie: {}\r\n", self.host(), self.cookie)
    }

    fn host(&self) -> String {
        format!("host: {HOST}:{}\r\n", self.gate.port())
    }

    async fn raw(&self) -> Raw {
        self.gate.raw().await
    }
}

#[tokio::test]
async fn a_body_over_the_limit_is_413_by_its_length_and_by_its_bytes() {
    let upstream = Recorder::start().await;
    let mut to = route("app", "/", &upstream.url());
    to["max_body"] = json!("1KiB");
    let world = World::start(to).await;
    let who = world.who();

    let mut raw = world.raw().await;
    raw.send(format!("POST /a HTTP/1.1\r\n{who}content-length: 1025\r\n\r\n").as_bytes()).await;
    let answer = raw.answer().await.unwrap();
    assert_eq!(answer.status, 413);
    assert!(answer.value("x-wicketgate-decision").is_some(), "{answer:?}");
    assert_eq!(find(&upstream.bytes(), b"POST /a"), None, "told by its length before it is sent");

    let mut raw = world.raw().await;
    let chunk = format!("200\r\n{}\r\n", "x".repeat(512));
    let head = format!("POST /b HTTP/1.1\r\n{who}transfer-encoding: chunked\r\n\r\n");
    raw.send(format!("{head}{chunk}{chunk}1\r\nx\r\n0\r\n\r\n").as_bytes()).await;
    let answer = raw.answer().await.unwrap();
    assert_eq!(answer.status, 413);
    assert!(answer.value("x-wicketgate-decision").is_some(), "{answer:?}");
    assert!(upstream.requests().is_empty(), "no whole request reached the upstream");

    let mut raw = world.raw().await;
    let head = format!("POST /c HTTP/1.1\r\n{who}transfer-encoding: chunked\r\n\r\n");
    raw.send(format!("{head}{chunk}{chunk}0\r\n\r\n").as_bytes()).await;
    assert_eq!(raw.answer().await.unwrap().status, 200, "the limit itself is allowed");
}

#[tokio::test]
async fn answers_without_a_body_leave_the_connection_in_step() {
    for (line, answer, status) in [
        ("GET", "HTTP/1.1 204 No Content\r\nx: y\r\n\r\n", 204),
        ("GET", "HTTP/1.1 304 Not Modified\r\netag: \"1\"\r\n\r\n", 304),
        ("GET", "HTTP/1.1 304 Not Modified\r\ncontent-length: 7\r\n\r\n", 304),
        ("HEAD", "HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n", 200),
        ("HEAD", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", 200),
        ("HEAD", "HTTP/1.1 404 Not Found\r\ncontent-length: 7\r\n\r\n", 404),
    ] {
        let upstream = Recorder::answering(answer).await;
        let world = World::start(route("app", "/", &upstream.url())).await;
        let mut raw = world.raw().await;
        for number in 0..3 {
            let head = format!("{line} /{number} HTTP/1.1\r\n{}\r\n", world.who());
            raw.send(head.as_bytes()).await;
            let got = raw.head().await.unwrap();
            assert_eq!(got.status, status, "{line} {answer:?} {number}: {got:?}");
            assert_eq!(got.value("connection"), None, "{answer:?}");
            if status == 204 {
                assert_eq!(got.value("content-length"), None, "RFC 9110, section 8.6");
                assert_eq!(got.value("transfer-encoding"), None, "RFC 9112, section 6.1");
            }
            assert_eq!(upstream.last().line(), format!("{line} /{number} HTTP/1.1"));
        }
    }
}

#[tokio::test]
async fn the_gates_own_answer_to_head_has_the_length_and_no_body() {
    let upstream = Recorder::start().await;
    let world = World::start(route("app", "/", &upstream.url())).await;
    let mut raw = world.raw().await;
    for _ in 0..2 {
        raw.send(format!("HEAD /a HTTP/1.1\r\n{}\r\n", world.host()).as_bytes()).await;
        let answer = raw.head().await.unwrap();
        assert_eq!(answer.status, 401);
        assert_ne!(answer.value("content-length"), Some("0"), "{answer:?}");
    }
}

#[tokio::test]
async fn trailers_pass_unless_they_speak_for_the_gate() {
    let mut to = route("app", "/", &trailing().await);
    to["protocol"] = json!("http2");
    let world = World::start(to).await;
    let mut raw = world.raw().await;
    let head = format!(
        "POST /a HTTP/1.1\r\n{}transfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n\
         2\r\nhi\r\n0\r\nX-Wicketgate-User: test/sam\r\nx_forwarded_for: 1.2.3.4\r\n\
         content-length: 7\r\ncookie: a=b\r\nauthorization: Basic eDp5\r\nx-sum: 1\r\n\r\n",
        world.who()
    );
    raw.send(head.as_bytes()).await;
    let answer = raw.answer().await.unwrap();
    assert_eq!((answer.status, answer.value("x-seen")), (200, Some("x-sum")), "{answer:?}");

    let mut h2 = world.gate.browser_h2();
    let cookie = world.cookie.split_once('=').unwrap().1;
    h2.set_session_cookie(cookie);
    let answer = h2.send(Method::GET, "/b", &[], Bytes::new()).await.expect(200);
    let names: Vec<_> = answer.trailers.keys().map(http::HeaderName::as_str).collect();
    assert_eq!(names, ["x-sum"]);
}

#[tokio::test]
async fn a_body_that_the_upstream_did_not_wait_for_is_nobodys_next_request() {
    let upstream = Early::start().await;
    let world = World::start(route("app", "/", &upstream.url)).await;
    let who = world.who();
    let mut raw = world.raw().await;
    let smuggled = format!("GET /smuggled HTTP/1.1\r\n{who}\r\n");
    let head = format!("POST /early HTTP/1.1\r\n{who}content-length: 100000\r\n\r\n{smuggled}");
    raw.send(head.as_bytes()).await;
    assert_eq!(raw.answer().await.unwrap().status, 200);
    // The rest of the body looks like a request, too.
    raw.send(smuggled.as_bytes()).await;
    assert_eq!(raw.rest().await, "", "nothing else is answered on this connection");
    for number in 0..3 {
        let mut raw = world.raw().await;
        raw.send(format!("GET /next{number} HTTP/1.1\r\n{who}\r\n").as_bytes()).await;
        assert_eq!(raw.answer().await.unwrap().status, 200);
    }
    let connections = upstream.connections();
    let first = connections.iter().find(|bytes| bytes.starts_with("POST /early")).unwrap();
    assert!(!first.contains("/next"), "a connection with an unfinished body was used again");
    for bytes in &connections {
        assert!(!bytes.starts_with("GET /smuggled"), "{bytes}");
    }
}

#[tokio::test]
async fn an_http_1_0_client_is_answered_and_hung_up_on() {
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    let upstream = Recorder::answering(chunked).await;
    let world = World::start(route("app", "/", &upstream.url())).await;
    let mut raw = world.raw().await;
    raw.send(format!("GET /old HTTP/1.0\r\n{}\r\n", world.who()).as_bytes()).await;
    let answer = raw.head().await.unwrap();
    assert_eq!(answer.status, 200);
    assert_eq!(answer.value("transfer-encoding"), None, "it knows no chunks: {answer:?}");
    assert_eq!(raw.rest().await, "hello");
    assert_eq!(upstream.last().line(), "GET /old HTTP/1.1");
    assert_eq!(upstream.last().value("via"), Some("1.0 wicketgate"));
}

#[tokio::test]
async fn a_body_is_asked_for_only_once_the_request_is_permitted() {
    let upstream = Recorder::start().await;
    let world = World::start(route("app", "/", &upstream.url())).await;
    let head = |who: &str| {
        format!("POST /a HTTP/1.1\r\n{who}expect: 100-continue\r\ncontent-length: 4\r\n\r\n")
    };
    let mut raw = world.raw().await;
    raw.send(head(&world.who()).as_bytes()).await;
    assert_eq!(raw.head().await.unwrap().status, 100);
    raw.send(b"body").await;
    assert_eq!(raw.answer().await.unwrap().status, 200);
    assert_eq!(upstream.last().body, b"body");
    let mut raw = world.raw().await;
    raw.send(head(&world.host()).as_bytes()).await;
    assert_eq!(raw.answer().await.unwrap().status, 401, "and not 100 before");
}

#[tokio::test]
async fn a_body_that_stops_coming_is_408_and_the_end_of_the_connection() {
    let upstream = Recorder::start().await;
    let world = World::start(route("app", "/", &upstream.url())).await;
    let mut raw = world.raw().await;
    let head = format!("POST /slow HTTP/1.1\r\n{}content-length: 10\r\n\r\nhalf", world.who());
    raw.send(head.as_bytes()).await;
    let answer = raw.answer().await.unwrap();
    assert_eq!(answer.status, 408, "{answer:?}");
    assert_eq!(answer.value("connection"), Some("close"));
    assert!(answer.value("x-wicketgate-decision").is_some(), "{answer:?}");
    assert_eq!(raw.rest().await, "");
    assert!(upstream.requests().is_empty());
    let counted = async || {
        let count = world.gate.metric("wicketgate_requests_total", "refused").await;
        (count >= 1.0).then_some(())
    };
    eventually("the refusal to be counted", counted).await;
}

#[tokio::test]
async fn what_hyper_would_forgive_is_refused_with_an_id_and_a_record() {
    let upstream = Recorder::start().await;
    let world = World::start(route("app", "/", &upstream.url())).await;
    let (who, before) = (world.who(), upstream.requests().len());
    for (head, why) in [
        (format!("GET /a HTTP/1.1\n{who}\r\n"), "LF alone"),
        (format!("GET /a#b HTTP/1.1\r\n{who}\r\n"), "fragment"),
        (
            format!("POST /a HTTP/1.1\r\n{who}content-length: 1\r\ncontent-length: 1\r\n\r\nx"),
            "twice",
        ),
        (
            format!(
                "POST /a HTTP/1.1\r\n{who}transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n\
                 0\r\n\r\n"
            ),
            "twice",
        ),
    ] {
        let mut raw = world.raw().await;
        raw.send(head.as_bytes()).await;
        let answer = raw.answer().await.unwrap();
        assert_eq!(answer.status, 400, "{head:?}");
        assert_eq!(answer.value("connection"), Some("close"), "{answer:?}");
        let id = answer.value("x-wicketgate-decision").unwrap().to_owned();
        let words = ["refused", "malformed-request", why, &id];
        world.gate.audited(why, |record| mentions(record, &words)).await;
        assert_eq!(raw.rest().await, "");
    }
    assert_eq!(upstream.requests().len(), before);
}
