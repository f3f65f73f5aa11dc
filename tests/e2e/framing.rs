//! Where a request ends is never a guess: raw bytes in, and what reached the upstream.

use bytes::Bytes;
use http::Method;

use crate::harness::gate::{HOST, mentions};
use crate::harness::raw::find;
use crate::harness::{Gate, Recorder};

struct World {
    gate: Gate,
    upstream: Recorder,
    cookie: String,
}

/// Stands for `host` and `cookie` lines in the cases below.
const WHO: &str = "{who}";

impl World {
    async fn start() -> Self {
        let upstream = Recorder::start().await;
        let gate = Gate::with_upstream(&upstream).start().await;
        let browser = gate.login("vera").await;
        let cookie = browser.cookies_for(&browser.url("/"));
        Self { gate, upstream, cookie }
    }

    fn who(&self) -> String {
        format!("host: {HOST}:{}\r\ncookie: {}\r\n", self.gate.port(), self.cookie)
    }

    /// Sends the bytes; asserts that at most `allowed` requests reach the upstream, that none of
    /// them is the smuggled one, that the first answer is one of `statuses` and that the gate
    /// serves the next client.
    async fn case(&self, bytes: &[u8], statuses: &[u16], allowed: usize) {
        let shown = String::from_utf8_lossy(bytes).into_owned();
        let who = self.who();
        let mut wire = bytes.to_vec();
        if let Some(at) = find(&wire, WHO.as_bytes()) {
            wire.splice(at..at + WHO.len(), who.bytes());
        }
        let before = self.upstream.requests().len();
        let mut raw = self.gate.raw().await;
        raw.send(&wire).await;
        let status = raw.answer().await.map_or(0, |answer| answer.status);
        assert!(statuses.contains(&status), "{status} for {shown:?}");
        let reached = self.upstream.requests().len() - before;
        assert!(reached <= allowed, "{reached} requests reached the upstream: {shown:?}");
        let bytes = self.upstream.bytes();
        assert_eq!(find(&bytes, b"/smuggled"), None, "smuggled by {shown:?}");
        self.still_works(&shown).await;
    }

    async fn still_works(&self, after: &str) {
        let mut raw = self.gate.raw().await;
        let head = format!("GET /next HTTP/1.1\r\n{}connection: close\r\n\r\n", self.who());
        raw.send(head.as_bytes()).await;
        let status = raw.answer().await.map(|answer| answer.status);
        assert_eq!(status, Some(200), "a normal request after {after:?}");
        assert_eq!(self.upstream.last().line(), "GET /next HTTP/1.1", "after {after:?}");
    }
}

/// No answer at all (0), or a refusal.
const REFUSED: &[u16] = &[0, 400, 411, 413, 414, 417, 421, 426, 431, 501, 505];

#[tokio::test]
async fn ambiguous_body_lengths_are_refused() {
    let world = World::start().await;
    let smuggled = "0\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: x\r\n\r\n";
    for headers in [
        "content-length: 5\r\ncontent-length: 6\r\n",
        "content-length: 5, 6\r\n",
        "content-length: +5\r\n",
        "content-length: -1\r\n",
        "content-length: 5 5\r\n",
        "content-length: 0x5\r\n",
        "content-length: 05\r\n",
        "content-length: \r\n",
        "content-length: 18446744073709551617\r\n",
        "content-length: 5\r\ntransfer-encoding: chunked\r\n",
        "transfer-encoding: chunked\r\ncontent-length: 5\r\n",
        "transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n",
        "transfer-encoding: chunked, identity\r\n",
        "transfer-encoding: identity\r\n",
        "transfer-encoding: xchunked\r\n",
        "transfer-encoding: chunked, chunked\r\n",
        "transfer-encoding: gzip, chunked\r\n",
        "transfer-encoding: \u{b}chunked\r\ncontent-length: 5\r\n",
        "transfer-encoding : chunked\r\n",
        "transfer-encoding\t: chunked\r\n",
        " transfer-encoding: chunked\r\ncontent-length: 5\r\n",
        "x: y\r\n transfer-encoding: chunked\r\n",
        "content-length: 5\r\n folded\r\n",
        "transfer_encoding: chunked\r\ncontent-length: 5\r\ncontent-length: 0\r\n",
    ] {
        let bytes = format!("POST /a HTTP/1.1\r\n{WHO}{headers}\r\n{smuggled}");
        world.case(bytes.as_bytes(), REFUSED, 0).await;
    }
}

#[tokio::test]
async fn http_1_0_has_no_chunks() {
    let world = World::start().await;
    let bytes = format!(
        "POST /a HTTP/1.0\r\n{WHO}transfer-encoding: chunked\r\n\r\n\
         0\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: x\r\n\r\n"
    );
    world.case(bytes.as_bytes(), REFUSED, 0).await;
}

#[tokio::test]
async fn broken_chunks_end_the_connection() {
    let world = World::start().await;
    let next = "GET /smuggled HTTP/1.1\r\nhost: x\r\n\r\n";
    for chunks in [
        "fffffffffffffffff\r\n",
        "10000000000000000\r\n",
        "-1\r\nx\r\n0\r\n\r\n",
        "0x1\r\nx\r\n0\r\n\r\n",
        "+1\r\nx\r\n0\r\n\r\n",
        "1 \u{b}\r\nx\r\n0\r\n\r\n",
        "1\nx\n0\n\n",
        "1\r\nxx\r\n0\r\n\r\n",
        "\r\nx\r\n0\r\n\r\n",
        "zz\r\n",
    ] {
        let bytes =
            format!("POST /a HTTP/1.1\r\n{WHO}transfer-encoding: chunked\r\n\r\n{chunks}{next}");
        // The head was fine: the upstream may have seen it, but no whole request, and never more.
        world.case(bytes.as_bytes(), &[0, 400, 502], 0).await;
    }
}

#[tokio::test]
async fn bytes_that_parsers_disagree_on_are_refused() {
    let world = World::start().await;
    for head in [
        &b"GET /a HTTP/1.1\n{who}\n"[..],
        b"GET /a HTTP/1.1\r\n{who}x: y\n\r\n",
        b"GET /a HTTP/1.1\r\n{who}x: y\r\r\n\r\n",
        b"GET /a HTTP/1.1\r\n{who}x: a\rb\r\n\r\n",
        b"GET /a HTTP/1.1\r\n{who}x: a\0b\r\n\r\n",
        b"GET /a HTTP/1.1\r\n{who}x\0: y\r\n\r\n",
        b"GET /a HTTP/1.1\r\n{who}x : y\r\n\r\n",
        b"GET /a HTTP/1.1\r\n{who}: y\r\n\r\n",
        b"GET /a HTTP/1.1\r\n{who}x y: z\r\n\r\n",
        b"GET /a HTTP/1.1\r\n{who}x\r\n\r\n",
        b"GET /a HTTP/1.1\r\n x: y\r\n{who}\r\n",
        b"GET /a HTTP/1.1\r\n{who}x: y\r\n folded\r\n\r\n",
        b"GET /a\tHTTP/1.1\r\n{who}\r\n",
        b"GET /a HTTP/1.1 \r\n{who}\r\n",
        b"GET /a HTTP/1.10\r\n{who}\r\n",
        b"GET /a http/1.1\r\n{who}\r\n",
        b"GET /a\x7f HTTP/1.1\r\n{who}\r\n",
        b"\0GET /a HTTP/1.1\r\n{who}\r\n",
    ] {
        world.case(head, REFUSED, 0).await;
    }
}

#[tokio::test]
async fn oversized_heads_are_refused() {
    let world = World::start().await;
    let long = "a".repeat(200 * 1024);
    let many: String = (0..500).map(|number| format!("x-{number}: y\r\n")).collect();
    world.case(format!("GET /{long} HTTP/1.1\r\n{WHO}\r\n").as_bytes(), REFUSED, 0).await;
    world.case(format!("GET /a HTTP/1.1\r\n{WHO}x: {long}\r\n\r\n").as_bytes(), REFUSED, 0).await;
    world.case(format!("GET /a HTTP/1.1\r\n{WHO}{many}\r\n").as_bytes(), REFUSED, 0).await;
}

#[tokio::test]
async fn too_many_fields_over_http_2_are_refused_on_record() {
    let world = World::start().await;
    let mut h2 = world.gate.browser_h2();
    let before = world.upstream.requests().len();
    let names: Vec<String> = (0..101).map(|number| format!("x-{number}")).collect();
    let fields: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "y")).collect();
    let answer = h2.send(Method::GET, "/a", &fields, Bytes::new()).await.expect(431);
    let id = answer.header("x-wicketgate-decision").unwrap().to_owned();
    world.gate.audited("the refusal", |record| mentions(record, &["too-many-fields", &id])).await;
    assert_eq!(world.upstream.requests().len(), before);
}

#[tokio::test]
async fn an_upgrade_is_a_websocket_or_nothing() {
    let world = World::start().await;
    for headers in [
        "connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n",
        "connection: upgrade\r\nupgrade: tls/1.0\r\n",
        "connection: upgrade\r\nupgrade: foo\r\n",
        "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: a\r\n",
    ] {
        let next = "GET /smuggled HTTP/1.1\r\nhost: x\r\n\r\n";
        let before = world.upstream.requests().len();
        let mut raw = world.gate.raw().await;
        let head = format!("GET /a HTTP/1.1\r\n{}{headers}\r\n{next}", world.who());
        raw.send(head.as_bytes()).await;
        let status = raw.answer().await.map_or(0, |answer| answer.status);
        assert_ne!(status, 101, "{headers}");
        for request in &world.upstream.requests()[before..] {
            assert_eq!(request.value("upgrade"), None, "{headers}");
            assert_eq!(request.value("http2-settings"), None, "{headers}");
            assert!(!request.line().contains("smuggled"), "{headers}");
        }
        world.still_works(headers).await;
    }
}

#[tokio::test]
async fn what_follows_a_refused_request_is_never_read_as_a_request() {
    let world = World::start().await;
    // An anonymous POST is answered at once; its body must not become the next request.
    let smuggled = format!("GET /smuggled HTTP/1.1\r\n{}\r\n", world.who());
    let head = format!(
        "POST /a HTTP/1.1\r\nhost: {HOST}:{}\r\ncontent-length: {}\r\n\r\n{smuggled}",
        world.gate.port(),
        smuggled.len()
    );
    world.case(head.as_bytes(), &[401, 302, 303], 0).await;
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order_each_with_its_own_decision() {
    let world = World::start().await;
    let who = world.who();
    let anonymous = format!("host: {HOST}:{}\r\n", world.gate.port());
    let mut raw = world.gate.raw().await;
    let both = format!(
        "GET /one HTTP/1.1\r\n{who}\r\nGET /two HTTP/1.1\r\n{anonymous}accept: application/json\r\n\r\n"
    );
    raw.send(both.as_bytes()).await;
    assert_eq!(raw.answer().await.unwrap().status, 200);
    assert_eq!(raw.answer().await.unwrap().status, 401, "a session belongs to its request only");
    assert_eq!(find(&world.upstream.bytes(), b"/two"), None);
}

#[tokio::test]
async fn hop_by_hop_headers_end_at_the_gate() {
    let world = World::start().await;
    let mut raw = world.gate.raw().await;
    let head = format!(
        "GET /a HTTP/1.1\r\n{}connection: close, x-private\r\nx-private: 1\r\nkeep-alive: 5\r\n\
         te: gzip\r\nproxy-authorization: Basic eDp5\r\nproxy-connection: keep-alive\r\n\
         trailer: x\r\nx-kept: 1\r\n\r\n",
        world.who()
    );
    raw.send(head.as_bytes()).await;
    assert_eq!(raw.answer().await.unwrap().status, 200);
    let seen = world.upstream.last();
    for name in ["x-private", "keep-alive", "te", "proxy-authorization", "proxy-connection"] {
        assert_eq!(seen.value(name), None, "{name}");
    }
    assert_eq!(seen.value("x-kept"), Some("1"));
}
