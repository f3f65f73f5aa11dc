//! How much passes: rates, what is under way at once, memory.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::Method;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::harness::gate::{HOST, SECOND_HOST, mentions, route};
use crate::harness::servers::{Echo, Events, Heard};
use crate::harness::{Gate, Raw, Recorder, eventually, websocket, within};

/// So long that no test is slow enough to see it pass.
fn limit(per: &str, requests: u32) -> Value {
    json!({ "per": per, "requests": requests, "window": "1h" })
}

fn bounded(name: &str, path: &str, upstream: &str, keys: Value) -> Value {
    let mut route = route(name, path, upstream);
    route.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
    route
}

async fn reload(gate: &mut Gate, change: impl FnOnce(&mut Value)) {
    let generation =
        async |gate: &Gate| gate.metric("wicketgate_configuration_generation", "").await;
    let before = generation(gate).await;
    gate.rewrite(change);
    eventually("the reload", async || (generation(gate).await > before).then_some(())).await;
}

#[tokio::test]
async fn the_nth_request_passes_and_the_next_is_refused_on_record_with_what_to_do() {
    let upstream = Recorder::start().await;
    let keys = json!({ "rate_limits": [limit("session", 3)] });
    let gate = Gate::setup()
        .route(bounded("app", "/app", &upstream.url(), keys))
        .route(route("free", "/", &upstream.url()))
        .start()
        .await;
    let mut vera = gate.login("vera").await.as_program();
    let before = upstream.requests().len();
    for left in [2, 1, 0] {
        let answer = vera.get("/app").await.expect(200);
        assert_eq!(answer.header("ratelimit-policy"), Some("\"session-3600s\";q=3;w=3600"));
        let state = answer.header("ratelimit").unwrap();
        assert!(state.starts_with(&format!("\"session-3600s\";r={left};t=")), "{state}");
    }
    let refused = vera.get("/app").await.expect(429);
    assert_eq!(upstream.requests().len() - before, 3);
    assert_eq!(refused.header("content-type"), Some("application/problem+json"));
    assert_eq!(refused.json()["violated-policies"], json!(["session-3600s"]));
    let state = refused.header("ratelimit").unwrap();
    let wait = state.strip_prefix("\"session-3600s\";r=0;t=").unwrap();
    assert_eq!(refused.header("retry-after"), Some(wait));
    assert!((3590..=4050).contains(&wait.parse::<u32>().unwrap()), "{wait}");
    let id = refused.header("x-wicketgate-decision").unwrap();
    gate.audited("the refusal", |record| mentions(record, &[id, "rate-limited", "test/vera"]))
        .await;
    let counted = gate.metric("wicketgate_rate_limited_total", "per=\"session\"").await;
    assert_eq!(counted, 1.0);
    // Another route, and another session, are none of its business.
    let free = vera.get("/").await.expect(200);
    assert_eq!(free.header("ratelimit"), None);
    gate.login("otto").await.get("/app").await.expect(200);
    gate.login("vera").await.get("/app").await.expect(200);
}

#[tokio::test]
async fn an_address_is_limited_before_anything_it_says_counts() {
    let upstream = Recorder::start().await;
    let second = json!({ "host": SECOND_HOST });
    let gate = Gate::with_upstream(&upstream)
        .route(bounded("second", "/", &upstream.url(), second))
        .configure(|config| config["rate_limits"] = json!([limit("address", 10)]))
        .start()
        .await;
    let port = gate.port();
    let host = format!("{HOST}:{port}");
    // Ten requests of which no two look alike, none of them with a session.
    let heads = [
        format!("GET / HTTP/1.1\r\nhost: {host}\r\n"),
        format!("GET / HTTP/1.1\r\nhost: {}\r\n", host.to_uppercase()),
        format!("GET / HTTP/1.1\r\nhost: {HOST}.:{port}\r\n"),
        format!("GET //a HTTP/1.1\r\nhost: {host}\r\n"),
        format!("GET /%2e%2e/b HTTP/1.1\r\nhost: {host}\r\n"),
        format!("POST /x HTTP/1.1\r\nhost: {host}\r\ncontent-length: 0\r\n"),
        format!("GET /.wicketgate/me HTTP/1.1\r\nhost: {host}\r\n"),
        format!("GET / HTTP/1.1\r\nhost: {host}\r\nx-forwarded-for: 192.0.2.7\r\n"),
        format!("GET / HTTP/1.1\r\nhost: {host}\r\nforwarded: for=192.0.2.8\r\n"),
        format!("GET / HTTP/1.1\r\nhost: {host}\r\ncookie: __Host-wicketgate=a\r\n"),
    ];
    for head in &heads {
        let mut raw = gate.raw().await;
        raw.send(format!("{head}connection: close\r\n\r\n").as_bytes()).await;
        let answer = raw.answer().await.unwrap();
        assert_ne!(answer.status, 429, "{head}");
    }
    for head in &heads {
        let mut raw = gate.raw().await;
        raw.send(format!("{head}connection: close\r\n\r\n").as_bytes()).await;
        let answer = raw.answer().await.unwrap();
        assert_eq!(answer.status, 429, "{head}");
        assert!(answer.value("retry-after").is_some(), "{answer:?}");
        assert_eq!(answer.value("ratelimit-policy"), Some("\"all-address-3600s\";q=10;w=3600"));
    }
    let mut other = gate.browser();
    let answer = other.get(&format!("https://{SECOND_HOST}:{port}/")).await;
    answer.expect(429);
    assert_eq!(gate.metric("wicketgate_rate_limited_total", "route=\"-\"").await, 11.0);
    gate.audited("the refusal", |record| mentions(record, &["rate-limited", "127.0.0.1"])).await;
}

#[tokio::test]
async fn a_routes_limit_by_address_comes_before_sign_in_and_stays_with_its_route() {
    let upstream = Recorder::start().await;
    let keys = json!({ "rate_limits": [limit("address", 2)] });
    let gate = Gate::with_upstream(&upstream)
        .route(bounded("guarded", "/guarded", &upstream.url(), keys))
        .start()
        .await;
    let mut stranger = gate.browser().as_program();
    for path in ["/guarded", "/guarded/deeper"] {
        let answer = stranger.get(path).await.expect(401);
        assert_eq!(answer.header("ratelimit-policy"), Some("\"address-3600s\";q=2;w=3600"));
    }
    stranger.get("/guarded").await.expect(429);
    let mut modern = gate.browser_h2().as_program();
    modern.get("/guarded/elsewhere").await.expect(429);
    stranger.get("/").await.expect(401);
    assert_eq!(gate.metric("wicketgate_rate_limited_total", "route=\"guarded\"").await, 2.0);
    // A person gets a page.
    let page = gate.browser().get("/guarded").await.expect(429);
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    assert!(page.header("retry-after").is_some());
}

#[tokio::test]
async fn a_tenant_shares_its_limit_and_a_route_is_not_used_up_by_those_who_may_not_enter() {
    let upstream = Recorder::start().await;
    let shared = json!({ "rate_limits": [limit("tenant", 2)] });
    let whole = json!({ "rate_limits": [limit("route", 2)] });
    let gate = Gate::setup()
        .route(route("app", "/", &upstream.url()))
        .route(bounded("shared", "/shared", &upstream.url(), shared))
        .route(bounded("whole", "/whole", &upstream.url(), whole))
        .policy(
            r#"permit (principal is Wicketgate::User, action, resource);
               forbid (principal, action, resource == Wicketgate::Route::"whole")
               unless { principal in Wicketgate::Group::"ot-engineers" };"#,
        )
        .start()
        .await;
    // Two sessions are one tenant, and those who have none share one, too.
    for (first, second, third) in [("ada", "ada", "grace"), ("vera", "sam", "grace")] {
        let mut first = gate.login(first).await.as_program();
        let mut second = gate.login(second).await.as_program();
        first.get("/shared").await.expect(200);
        second.get("/shared").await.expect(200);
        first.get("/shared").await.expect(429);
        gate.login(third).await.get("/shared").await.expect(200);
    }
    let mut first = gate.login("vera").await.as_program();
    let mut engineer = gate.login("otto").await.as_program();
    for _ in 0..5 {
        let denied = first.get("/whole").await.expect(403);
        assert_eq!(denied.header("ratelimit"), None);
    }
    engineer.get("/whole").await.expect(200);
    engineer.get("/whole").await.expect(200);
    engineer.get("/whole").await.expect(429);
}

#[tokio::test]
async fn a_reload_neither_forgets_what_passed_nor_keeps_an_old_limit() {
    let upstream = Recorder::start().await;
    let mut gate = Gate::with_upstream(&upstream)
        .configure(|config| config["routes"][0]["rate_limits"] = json!([limit("session", 2)]))
        .start()
        .await;
    let mut vera = gate.login("vera").await.as_program();
    // Signing in led to the page once.
    vera.get("/").await.expect(200);
    vera.get("/").await.expect(429);
    reload(&mut gate, |config| config["routes"][0]["max_in_flight"] = json!(7)).await;
    vera.get("/").await.expect(429);
    let more = json!([limit("session", 50)]);
    reload(&mut gate, |config| config["routes"][0]["rate_limits"] = more).await;
    vera.get("/").await.expect(200);
}

#[tokio::test]
async fn a_full_route_answers_503_at_once_and_has_room_again_however_a_request_ends() {
    let (page, events) = (Recorder::start().await, Events::start().await);
    let one = json!({ "max_in_flight": 1 });
    let shared = json!({ "max_upstream_in_flight": 1 });
    let gate = Gate::setup()
        .route(route("app", "/", &page.url()))
        .route(bounded("events", "/events", &events.url, one))
        .route(bounded("left", "/left", &events.url, shared.clone()))
        .route(bounded("right", "/right", &events.url, shared))
        .start()
        .await;
    let mut vera = gate.login("vera").await.as_program();
    let mut otto = gate.login("otto").await.as_program();
    for (held, other, full) in [("/events", "/events", "route"), ("/left", "/right", "upstream")] {
        let open = vera.open(Method::GET, held, &[], Bytes::new()).await;
        assert_eq!(open.status(), 200);
        let refused = otto.get(other).await.expect(503);
        assert_eq!(refused.header("retry-after"), Some("1"));
        assert!(refused.text().contains("urn:wicketgate:busy"), "{}", refused.text());
        otto.get("/").await.expect(200);
        let label = format!("full=\"{full}\"");
        assert_eq!(gate.metric("wicketgate_shed_total", &label).await, 1.0);
        // Also once the answer has lasted long enough to be watched.
        let route = format!("route=\"{}\"", held.trim_start_matches('/'));
        eventually("the watch", async || {
            let watched = gate.metric("wicketgate_live_connections", &route).await;
            (watched == 1.0).then_some(())
        })
        .await;
        otto.get(other).await.expect(503);
        // The client goes away in the middle of the answer.
        drop(open);
        let again = eventually("room", async || {
            let answer = otto.open(Method::GET, other, &[], Bytes::new()).await;
            (answer.status() == 200).then_some(answer)
        })
        .await;
        drop(again);
    }
}

#[tokio::test]
async fn a_reload_that_changes_the_servers_still_counts_what_runs() {
    let (page, events) = (Recorder::start().await, Events::start().await);
    let more = Events::start().await;
    let mut gate = Gate::setup()
        .route(route("app", "/", &page.url()))
        .route(bounded("events", "/events", &events.url, json!({ "max_upstream_in_flight": 3 })))
        .start()
        .await;
    let mut vera = gate.login("vera").await.as_program();
    let mut otto = gate.login("otto").await.as_program();
    let mut held = Vec::new();
    for user in [&mut vera, &mut otto] {
        let open = user.open(Method::GET, "/events", &[], Bytes::new()).await;
        assert_eq!(open.status(), 200);
        held.push(open);
    }
    reload(&mut gate, |config| {
        config["routes"][1]["upstreams"] = json!([events.url, more.url]);
        config["routes"][1]["max_upstream_in_flight"] = json!(2);
    })
    .await;
    otto.get("/events").await.expect(503);
    // Nor is there room below a limit that is lower than what runs.
    reload(&mut gate, |config| config["routes"][1]["max_upstream_in_flight"] = json!(1)).await;
    drop(held.pop());
    vera.get("/events").await.expect(503);
    drop(held);
    eventually("room", async || {
        let answer = otto.open(Method::GET, "/events", &[], Bytes::new()).await;
        (answer.status() == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn one_user_can_not_take_every_place_of_a_route() {
    let (page, events) = (Recorder::start().await, Events::start().await);
    let gate = Gate::setup()
        .route(route("app", "/", &page.url()))
        .route(bounded("events", "/events", &events.url, json!({ "max_in_flight": 4 })))
        .start()
        .await;
    // As often as he signs in, he is one.
    let mut veras = [gate.login("vera").await.as_program(), gate.login("vera").await.as_program()];
    let mut otto = gate.login("otto").await.as_program();
    let mut held = Vec::new();
    for number in 0..3 {
        let open = veras[number % 2].open(Method::GET, "/events", &[], Bytes::new()).await;
        assert_eq!(open.status(), 200);
        held.push(open);
    }
    for vera in &mut veras {
        let refused = vera.get("/events").await.expect(503);
        assert!(refused.text().contains("is yours"), "{}", refused.text());
    }
    assert_eq!(gate.metric("wicketgate_shed_total", "full=\"caller\"").await, 2.0);
    let open = otto.open(Method::GET, "/events", &[], Bytes::new()).await;
    assert_eq!(open.status(), 200);
    assert_eq!(otto.get("/events").await.expect(503).header("retry-after"), Some("1"));
    assert_eq!(gate.metric("wicketgate_shed_total", "full=\"route\"").await, 1.0);
}

#[tokio::test]
async fn websockets_have_a_bound_of_their_own_for_as_long_as_they_live() {
    let (page, mut echo) = (Recorder::start().await, Echo::start().await);
    let keys = json!({ "max_websockets": 1, "max_in_flight": 1 });
    let gate = Gate::setup()
        .route(route("app", "/", &page.url()))
        .route(bounded("ws", "/ws", &echo.url, keys))
        .start()
        .await;
    let vera = gate.login("vera").await;
    let mut socket = websocket::opened(&vera, &mut echo).await;
    assert_eq!(websocket::open(&vera, "/ws").await.err(), Some(503));
    assert_eq!(gate.metric("wicketgate_shed_total", "full=\"websockets\"").await, 1.0);
    socket.close(None).await.unwrap();
    while let Some(Ok(_)) = within("the close", socket.next()).await {}
    eventually("room", async || websocket::open(&vera, "/ws").await.ok()).await;
}

#[tokio::test]
async fn a_websocket_message_over_the_limit_is_closed_with_1009_and_never_arrives() {
    let (page, mut echo) = (Recorder::start().await, Echo::start().await);
    let keys = json!({ "websocket_limits": { "max_message": "1KiB", "frames_per_second": 20 } });
    let gate = Gate::setup()
        .route(route("app", "/", &page.url()))
        .route(bounded("ws", "/ws", &echo.url, keys))
        .start()
        .await;
    let vera = gate.login("vera").await;
    for (messages, code) in [(vec!["x".repeat(1025)], 1009), (vec!["y".to_owned(); 500], 1008)] {
        let mut socket = websocket::opened(&vera, &mut echo).await;
        let fits = "z".repeat(1024);
        socket.send(Message::text(fits.as_str())).await.unwrap();
        assert_eq!(echo.next().await, Heard::Text(fits));
        for message in messages {
            let _ = socket.feed(Message::text(message)).await;
        }
        let _ = socket.flush().await;
        let closed = loop {
            match within("the close", socket.next()).await {
                Some(Ok(Message::Close(Some(frame)))) => break u16::from(frame.code),
                Some(Ok(_)) => {}
                other => panic!("no close frame: {other:?}"),
            }
        };
        assert_eq!(closed, code);
        let mut arrived = 0;
        while let Heard::Text(text) = echo.next().await {
            assert_eq!(text, "y");
            arrived += 1;
        }
        assert!(arrived <= 20, "{arrived}");
    }
}

/// Has the gate hold a mebibyte more: a header that is never complete.
pub async fn ballast(gate: &Gate) -> Option<Raw> {
    let mut raw = Raw::try_connect(&gate.browser()).await?;
    let padding = "x".repeat(900 * 1024);
    let header = format!("GET / HTTP/1.1\r\nhost: {HOST}\r\nx: {padding}");
    // A gate that is short of memory doesn't read it to the end.
    let _ = tokio::time::timeout(Duration::from_secs(1), raw.send(header.as_bytes())).await;
    Some(raw)
}

/// Waits until memory was looked at again; whether it is short.
pub async fn sampled(gate: &Gate, before: &mut f64) -> bool {
    *before = eventually("a sample of the memory", async || {
        let resident = gate.metric("wicketgate_memory_resident_bytes", "").await;
        (resident != *before).then_some(resident)
    })
    .await;
    gate.admin("/readyz").await.unwrap().0 == 503
}

#[tokio::test]
async fn a_gate_short_of_memory_turns_requests_away_then_connections_and_recovers() {
    let upstream = Recorder::start().await;
    let gate = Gate::with_upstream(&upstream)
        .configure(|config| {
            config["limits"] = json!({ "memory": "160MiB" });
            config["listeners"][0]["limits"] =
                json!({ "max_header_bytes": "1MiB", "header_timeout": "60s" });
        })
        .start()
        .await;
    let mut vera = gate.login("vera").await.as_program();
    vera.get("/").await.expect(200);
    let mut early = gate.raw().await;
    let (mut held, mut resident) = (Vec::new(), 0.0);
    while !sampled(&gate, &mut resident).await {
        for _ in 0..5 {
            held.push(ballast(&gate).await.expect("a connection"));
        }
    }
    let budget = gate.metric("wicketgate_memory_budget_bytes", "").await;
    assert_eq!(budget, f64::from(160 << 20));
    // The sample that was over the budget may be a later one than was read here; and as long as it
    // isn't nine tenths again, memory counts as short.
    assert!((budget * 0.9..budget * 1.125).contains(&resident), "{resident}");
    let refused = vera.get("/").await.expect(503);
    assert_eq!(refused.header("retry-after"), Some("5"));
    assert_eq!(refused.header("connection"), Some("close"));
    let (_, body) = gate.admin("/readyz").await.unwrap();
    assert!(body.contains("\"memory_short\": true"), "{body}");
    // A connection from before is answered, too, and closed.
    early.send(format!("GET / HTTP/1.1\r\nhost: {HOST}\r\n\r\n").as_bytes()).await;
    assert_eq!(early.answer().await.unwrap().status, 503);
    assert_eq!(early.rest().await, "");
    // Whoever pushes on finds the door closed.
    eventually("connections to be refused", async || {
        let more = ballast(&gate).await;
        let closed = more.is_none();
        held.extend(more);
        closed.then_some(())
    })
    .await;
    drop(held);
    eventually("the gate to recover", async || {
        (gate.admin("/readyz").await?.0 == 200).then_some(())
    })
    .await;
    vera.get("/").await.expect(200);
    gate.audited("the refusal", |record| mentions(record, &["overloaded"])).await;
}
