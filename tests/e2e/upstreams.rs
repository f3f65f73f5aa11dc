//! Real backends behind the gate.

use std::fs;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{Method, header};
use http_body_util::BodyExt;
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use crate::harness::client::authority;
use crate::harness::gate::{mentions, route};
use crate::harness::pki::{Authority, write_secret};
use crate::harness::servers::{Echo, Events, Heard, Legacy, Nginx, grpc, silent};
use crate::harness::{Gate, Recorder, port, websocket, within};

#[tokio::test]
async fn a_real_web_server_is_served_over_both_http_versions() {
    let nginx = Nginx::start().await;
    nginx.file("page.html", b"<h1>plant</h1>");
    let gate = Gate::setup().route(route("app", "/", &nginx.url)).start().await;
    let mut browser = gate.browser();
    gate.sign_in(&mut browser, "vera", "/page.html").await.expect(200);
    let cookie = browser.session_cookie().unwrap();
    let mut h2 = gate.browser_h2();
    h2.set_session_cookie(&cookie);
    for browser in [&mut browser, &mut h2] {
        let answer = browser.get("/page.html").await.expect(200);
        assert_eq!(answer.text(), "<h1>plant</h1>");
        assert_eq!(answer.header("content-type"), Some("text/html"));
        assert_eq!(answer.header("connection"), None);
        let head = browser.send(Method::HEAD, "/page.html", &[], Bytes::new()).await.expect(200);
        assert_eq!(head.header("content-length"), Some("14"));
        assert_eq!(head.body.len(), 0);
        let range = [("range", "bytes=4-8")];
        let part = browser.send(Method::GET, "/page.html", &range, Bytes::new()).await.expect(206);
        assert_eq!(part.text(), "plant");
        browser.get("/missing").await.expect(404);
    }
}

#[tokio::test]
async fn large_bodies_pass_whole_in_both_directions() {
    let nginx = Nginx::start().await;
    let content: Vec<u8> = (0..8_000_000_u32).map(|number| (number % 251) as u8).collect();
    nginx.file("large.bin", &content);
    let recorder = Recorder::start().await;
    let gate = Gate::setup()
        .route(route("down", "/", &nginx.url))
        .route(route("up", "/up", &recorder.url()))
        .start()
        .await;
    let mut browser = gate.browser();
    gate.sign_in(&mut browser, "vera", "/large.bin").await.expect(200);
    let mut h2 = gate.browser_h2();
    h2.set_session_cookie(&browser.session_cookie().unwrap());
    for browser in [&mut browser, &mut h2] {
        let answer = browser.get("/large.bin").await.expect(200);
        assert!(answer.body == content, "the download differs");
        let sent = Bytes::from(content.clone());
        browser.send(Method::POST, "/up", &[], sent).await.expect(200);
        assert!(recorder.last().body == content, "the upload differs");
    }
    // Refused by its announced length: nobody has to send it first.
    let before = recorder.bytes().len();
    let url = browser.url("/up");
    let head = format!(
        "POST /up HTTP/1.1\r\nhost: {}\r\ncookie: {}\r\ncontent-length: 11534336\r\n\r\n",
        authority(&url),
        browser.cookies_for(&url)
    );
    let mut raw = gate.raw().await;
    raw.send(head.as_bytes()).await;
    assert_eq!(raw.answer().await.unwrap().status, 413);
    assert_eq!(recorder.bytes().len(), before);
}

#[tokio::test]
async fn grpc_passes_with_its_trailers() {
    let upstream = grpc().await;
    let mut to = route("app", "/", &upstream);
    to["protocol"] = json!("http2");
    let gate = Gate::setup().route(to).start().await;
    let mut browser = gate.browser_h2();
    gate.sign_in(&mut browser, "vera", "/").await;
    let headers = [("content-type", "application/grpc"), ("te", "trailers")];
    let message = Bytes::from_static(b"\0\0\0\0\x05hello");
    let answer = browser.send(Method::POST, "/pump.Pump/Read", &headers, message.clone()).await;
    let answer = answer.expect(200);
    assert_eq!(answer.body, message);
    assert_eq!(answer.trailers.get("grpc-status").unwrap(), "0");
    assert_eq!(answer.trailers.get("x-te").unwrap(), "trailers", "gRPC servers insist on it");
}

#[tokio::test]
async fn an_http_1_0_server_is_served() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("old.txt"), "still here").unwrap();
    let legacy = Legacy::start(folder.path()).await;
    let gate = Gate::setup().route(route("app", "/", &legacy.url)).start().await;
    let mut browser = gate.browser();
    gate.sign_in(&mut browser, "vera", "/old.txt").await.expect(200);
    for _ in 0..3 {
        assert_eq!(browser.get("/old.txt").await.expect(200).text(), "still here");
    }
}

#[tokio::test]
async fn https_upstreams_are_verified_always() {
    let trusted = Authority::new("Upstream CA");
    let stranger = Authority::new("Another CA");
    let names = ["127.0.0.1"];
    let good = Recorder::tls(&trusted.server(&names)).await;
    let expired = Recorder::tls(&trusted.expired_server(&names)).await;
    let unknown = Recorder::tls(&stranger.server(&names)).await;
    let misnamed = Recorder::tls(&trusted.server(&["elsewhere.example"])).await;
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("upstream-ca.pem");
    fs::write(&ca, &trusted.pem).unwrap();
    let https = |name: &str, path: &str, upstream: &Recorder| {
        let mut to = route(name, path, &format!("https://{}", upstream.address));
        to["tls"] = json!({ "ca": ca });
        to
    };
    let gate = Gate::setup()
        .route(https("good", "/", &good))
        .route(https("expired", "/expired", &expired))
        .route(https("unknown", "/unknown", &unknown))
        .route(https("misnamed", "/misnamed", &misnamed))
        .start()
        .await;
    let mut browser = gate.login("vera").await;
    browser.get("/").await.expect(200);
    for (path, upstream) in
        [("/expired", &expired), ("/unknown", &unknown), ("/misnamed", &misnamed)]
    {
        let answer = browser.get(path).await.expect(502);
        assert!(answer.header("x-wicketgate-decision").is_some(), "{path}");
        assert_eq!(upstream.bytes(), b"", "{path}: sent to a server that wasn't verified");
    }
}

#[tokio::test]
async fn an_upstream_that_is_down_or_silent_or_talks_garbage_is_a_clear_answer() {
    let garbage = Recorder::answering("this is no HTTP\r\n\r\n").await;
    let mut slow = route("slow", "/slow", &format!("http://{}", silent().await));
    slow["timeouts"] = json!({ "response": "200ms" });
    let well = Recorder::start().await;
    let gate = Gate::setup()
        .route(route("app", "/", &well.url()))
        .route(route("down", "/down", &format!("http://{}", port::free())))
        .route(route("garbage", "/garbage", &garbage.url()))
        .route(slow)
        .start()
        .await;
    let mut browser = gate.login("vera").await.as_program();
    for (path, status) in [("/down", 502), ("/garbage", 502), ("/slow", 504)] {
        let answer = browser.get(path).await.expect(status);
        assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{path}");
        assert!(answer.header("x-wicketgate-decision").is_some(), "{path}");
    }
    assert!(gate.metric("wicketgate_upstream_errors_total", "").await >= 3.0);
    browser.get("/").await.expect(200);
}

#[tokio::test]
async fn a_request_that_is_not_answered_in_time_is_sent_once_and_is_a_504() {
    // Reads the request and says nothing.
    let upstream = Recorder::answering("").await;
    let mut to = route("app", "/", &upstream.url());
    to["timeouts"] = json!({ "response": "300ms" });
    let gate = Gate::setup().route(to).start().await;
    let mut browser = gate.browser();
    gate.sign_in(&mut browser, "vera", "/").await;
    let before = upstream.requests().len();
    let answer = browser.send(Method::POST, "/order", &[], "one".into()).await;
    assert_eq!(answer.status, 504, "{answer:?}");
    assert_eq!(upstream.requests().len(), before + 1);
}

#[tokio::test]
async fn the_gate_shows_a_legacy_backend_its_own_credential() {
    let (basic, header) = (Recorder::start().await, Recorder::start().await);
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("password");
    write_secret(&secret, "hunter2\n");
    let reference = format!("file:{}", secret.display());
    let mut first = route("app", "/", &basic.url());
    first["credential"] = json!({ "basic": { "username": "gate", "password": reference } });
    let mut second = route("key", "/key", &header.url());
    second["credential"] = json!({ "header": { "name": "x-api-key", "value": reference } });
    let gate = Gate::setup().route(first).route(second).start().await;
    let mut browser = gate.login("vera").await;
    let forged = [("authorization", "Basic Zm9yZ2Vk"), ("x-api-key", "forged")];
    browser.send(Method::GET, "/", &forged, Bytes::new()).await.expect(200);
    assert_eq!(basic.last().value("authorization"), Some("Basic Z2F0ZTpodW50ZXIy"));
    browser.send(Method::GET, "/key", &forged, Bytes::new()).await.expect(200);
    assert_eq!(header.last().value("x-api-key"), Some("hunter2"));
    let said = gate.process.output().join("\n");
    assert!(!said.contains("hunter2") && !said.contains("Z2F0ZTpodW50ZXIy"), "a secret in a log");
}

#[tokio::test]
async fn redirects_and_cookies_of_the_upstream_stay_on_the_public_host() {
    let placeholder = port::free();
    let answer = format!(
        "HTTP/1.1 302 Found\r\nlocation: http://{placeholder}/next?x=1\r\n\
         set-cookie: theme=dark; Domain=backend.example; Path=/; HttpOnly\r\n\
         set-cookie: __Host-wicketgate=stolen; Path=/; Secure\r\n\
         x-wicketgate-decision: forged\r\nserver: old/1\r\ncontent-length: 0\r\n\r\n"
    );
    let upstream = Recorder::answering(&answer).await;
    // The upstream calls itself by an endpoint of the route that isn't the one that answered.
    let mut to = route("app", "/", &upstream.url());
    to["upstreams"] = json!([upstream.url(), { "url": format!("http://{placeholder}") }]);
    let gate = Gate::setup().route(to).start().await;
    let mut browser = gate.browser();
    let callback = gate.until_callback(&mut browser, "vera", "/").await;
    browser.get(&callback).await;
    let session = browser.session_cookie().unwrap();
    let answer = browser.get("/").await.expect(302);
    assert_eq!(answer.location().as_str(), gate.url("/next?x=1"));
    let cookies: Vec<_> = answer
        .headers
        .get_all(header::SET_COOKIE)
        .iter()
        .map(|line| line.to_str().unwrap().to_owned())
        .collect();
    assert_eq!(cookies.len(), 1, "{cookies:?}");
    assert!(cookies[0].starts_with("theme=dark"), "{cookies:?}");
    assert!(!cookies[0].to_lowercase().contains("domain"), "{cookies:?}");
    assert_eq!(browser.session_cookie().unwrap(), session, "an upstream can't set our cookie");
    assert_ne!(answer.header("x-wicketgate-decision"), Some("forged"));
}

#[tokio::test]
async fn a_websocket_is_carried_both_ways() {
    let mut echo = Echo::start().await;
    let page = Recorder::start().await;
    let gate = Gate::setup()
        .route(route("app", "/", &page.url()))
        .route(route("ws", "/ws", &echo.url))
        .start()
        .await;
    let browser = gate.login("vera").await;
    let (mut socket, answer) = websocket::open(&browser, "/ws/live").await.unwrap();
    assert_eq!(answer.status(), 101);
    assert_eq!(echo.next().await, Heard::Opened);
    for size in [0, 1, 125, 126, 65_535, 65_536, 300_000] {
        let text = "x".repeat(size);
        socket.send(Message::text(text.clone())).await.unwrap();
        let back = within("the echo", socket.next()).await.unwrap().unwrap();
        assert_eq!(back.to_text().unwrap(), text, "{size} bytes");
        assert_eq!(echo.next().await, Heard::Text(text));
    }
    socket.send(Message::binary(vec![0, 159, 146, 150])).await.unwrap();
    let back = within("the echo", socket.next()).await.unwrap().unwrap();
    assert_eq!(back.into_data().as_ref(), [0, 159, 146, 150]);
    socket.close(None).await.unwrap();
    assert_eq!(echo.next().await, Heard::Ended);
}

#[tokio::test]
async fn a_websocket_is_refused_to_strangers_and_to_other_sites() {
    let echo = Echo::start().await;
    let gate = Gate::setup()
        .route(route("app", "/", &Recorder::start().await.url()))
        .route(route("ws", "/ws", &echo.url))
        .start()
        .await;
    let refused = websocket::open(&gate.browser(), "/ws").await;
    assert_eq!(refused.err(), Some(401), "no session");
    let browser = gate.login("vera").await;
    let foreign = browser.clone().with_header("origin", "https://evil.example");
    assert_eq!(websocket::open(&foreign, "/ws").await.err(), Some(403), "another site's page");
    assert!(websocket::open(&browser, "/ws").await.is_ok());
}

#[tokio::test]
async fn events_are_streamed_as_they_happen() {
    let events = Events::start().await;
    let gate = Gate::setup()
        .route(route("app", "/", &Recorder::start().await.url()))
        .route(route("events", "/events", &events.url))
        .start()
        .await;
    let mut h1 = gate.login("vera").await;
    let mut h2 = gate.browser_h2();
    h2.set_session_cookie(&h1.session_cookie().unwrap());
    for browser in [&mut h1, &mut h2] {
        let mut answer = browser.open(Method::GET, "/events", &[], Bytes::new()).await;
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        let mut expected = ": hello\n\n".to_owned();
        for number in 0..3 {
            let mut got = String::new();
            while got.len() < expected.len() {
                let frame = within("an event", answer.body_mut().frame()).await.unwrap().unwrap();
                got += std::str::from_utf8(&frame.into_data().unwrap()).unwrap();
            }
            assert_eq!(got, expected);
            // Sent only now that the one before it has arrived.
            events.send(&number.to_string());
            expected = format!("data: {number}\n\n");
        }
    }
}

#[tokio::test]
async fn an_unhealthy_upstream_is_left_out_and_comes_back() {
    let well = Recorder::start().await;
    let dead = port::free();
    let mut to = route("app", "/", &well.url());
    to["upstreams"] = json!([well.url(), format!("http://{dead}")]);
    to["health_check"] = json!({ "tcp": {}, "interval": "1s", "unhealthy_after": 1 });
    let gate = Gate::setup().route(to).start().await;
    crate::harness::eventually("the dead upstream to be taken out", async || {
        let value = gate.metric("wicketgate_upstream_healthy", &dead.to_string()).await;
        let healthy = gate.metric("wicketgate_upstream_healthy", &well.address.to_string()).await;
        (value == 0.0 && healthy == 1.0).then_some(())
    })
    .await;
    let mut browser = gate.login("vera").await;
    for _ in 0..10 {
        browser.get("/").await.expect(200);
    }
    gate.audited("the requests", |record| mentions(record, &["permit", "test/vera"])).await;
}
