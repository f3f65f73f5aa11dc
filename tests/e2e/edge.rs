//! Who is let in at the edge, whose address counts, and how much one client may take up.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio_tungstenite::tungstenite::Message;

use crate::harness::caller::{call, call_with, is_hung_up};
use crate::harness::gate::{HOST, mentions, route};
use crate::harness::servers::Echo;
use crate::harness::{Browser, Gate, Raw, Recorder, eventually, websocket, within};

const V1: &[u8] = b"PROXY TCP4 192.0.2.7 10.0.0.1 50000 443\r\n";

/// The same in version 2, with an extension.
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x10\xc0\0\x02\x07\x0a\0\0\x01\xc3\x50\x01\xbb\
    \x04\0\x01x";

fn listener(config: &mut Value) -> &mut Value {
    &mut config["listeners"][0]
}

/// A request of a signed-in browser, with these lines added.
fn get(gate: &Gate, browser: &Browser, path: &str, lines: &str) -> Vec<u8> {
    let cookie = browser.cookies_for(&browser.url("/"));
    let host = format!("host: {HOST}:{}\r\n", gate.port());
    format!("GET {path} HTTP/1.1\r\n{host}cookie: {cookie}\r\n{lines}\r\n").into_bytes()
}

async fn refused(gate: &Gate, reason: &str) {
    let labels = format!("reason=\"{reason}\"");
    eventually(&format!("a connection refused for {reason}"), async || {
        let count = gate.metric("wicketgate_connections_refused_total", &labels).await;
        (count >= 1.0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_proxy_protocol_says_where_a_trusted_peers_client_is() {
    let upstream = Recorder::start().await;
    let gate = Gate::with_upstream(&upstream)
        .configure(|config| {
            let proxy = json!({ "trusted": ["127.0.0.2"], "others": "serve" });
            listener(config)["proxy_protocol"] = proxy;
        })
        .start()
        .await;
    // From 127.0.0.1, without a header.
    let browser = gate.login("vera").await;
    for (header, client) in [
        (V1, "192.0.2.7"),
        (V2, "192.0.2.7"),
        (b"PROXY UNKNOWN\r\n", "127.0.0.2"),
        (b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0", "127.0.0.2"),
    ] {
        let mut raw = call_with(&gate, 2, header).await.expect("a handshake after the header");
        // What a client writes about itself changes nothing.
        let request = get(&gate, &browser, "/proxied", "x-forwarded-for: 198.51.100.1\r\n");
        raw.send(&request).await;
        assert_eq!(raw.answer().await.unwrap().status, 200);
        let seen = upstream.last();
        assert_eq!(seen.value("x-forwarded-for"), Some(client), "{header:?}");
        assert!(seen.value("forwarded").unwrap().starts_with(&format!("for={client};")));
        gate.audited("the client", |record| mentions(record, &["/proxied", client])).await;
    }
    assert!(!mentions(&json!(gate.audit()), &["198.51.100.1"]));
    // Nobody else's header is read: the bytes are no TLS.
    assert!(call_with(&gate, 3, V1).await.is_none());
    assert!(call_with(&gate, 3, b"").await.is_some());
    assert!(gate.metric("wicketgate_connections_refused_total", "").await < 0.5);
    for bad in
        [&b""[..], b"PROXY TCP4 192.0.2.7 10.0.0.1 50000 +443\r\n", b"\r\n\r\n\0\r\nQUIT\nxx"]
    {
        assert!(call_with(&gate, 2, bad).await.is_none(), "{bad:?}");
    }
    refused(&gate, "proxy-header").await;
}

#[tokio::test]
async fn around_the_proxy_there_is_no_way_in_unless_it_is_opened() {
    let gate = Gate::with_upstream(&Recorder::start().await)
        .configure(|config| {
            listener(config)["proxy_protocol"] = json!({ "trusted": ["127.0.0.2/31"] });
            // A header that does not come is not waited for longer than a handshake.
            listener(config)["limits"] = json!({ "handshake_timeout": "1s" });
        })
        .start()
        .await;
    assert!(is_hung_up(&mut call(&gate, 1).await).await);
    refused(&gate, "not-proxied").await;
    assert!(call_with(&gate, 3, V2).await.is_some());
    let mut slow = call(&gate, 2).await;
    slow.write_all(&V1[..20]).await.unwrap();
    assert!(is_hung_up(&mut slow).await);
    refused(&gate, "proxy-header").await;
}

#[tokio::test]
async fn each_request_through_a_trusted_proxy_has_the_address_of_its_own_client() {
    let upstream = Recorder::start().await;
    let gate = Gate::with_upstream(&upstream)
        .policy(
            "@id(\"office\") permit (principal is Wicketgate::User, action, resource) \
             when { context.source.isInRange(ip(\"192.0.2.0/24\")) };",
        )
        .configure(|config| {
            listener(config)["trusted_proxies"] = json!(["127.0.0.1", "10.0.0.0/8"])
        })
        .start()
        .await;
    let browser = gate.login_at("vera", "/.wicketgate/me").await.as_program();
    let mut raw = Raw::connect(&browser).await;
    for (field, client, status) in [
        ("x-forwarded-for: 192.0.2.7\r\n", "192.0.2.7", 200),
        ("x-forwarded-for: 192.0.2.7, 198.51.100.1\r\n", "198.51.100.1", 403),
        ("x-forwarded-for: 198.51.100.2, 192.0.2.8, 10.0.0.9\r\n", "192.0.2.8", 200),
        ("x-forwarded-for: 192.0.2.9\r\nx-forwarded-for: 198.51.100.3\r\n", "198.51.100.3", 403),
        ("x-forwarded-for: 192.0.2.9, nonsense, 10.0.0.7\r\n", "10.0.0.7", 400),
        ("x-forwarded-for: unknown\r\n", "127.0.0.1", 400),
        ("forwarded: for=192.0.2.9\r\nx-real-ip: 192.0.2.9\r\n", "127.0.0.1", 403),
    ] {
        raw.send(&get(&gate, &browser, "/page", field)).await;
        assert_eq!(raw.answer().await.unwrap().status, status, "{field:?}");
        gate.audited(field, |record| mentions(record, &["/page", client])).await;
        if status == 200 {
            let seen = upstream.last();
            assert_eq!(seen.value("x-forwarded-for"), Some(client));
            assert!(seen.value("forwarded").unwrap().starts_with(&format!("for={client};")));
        }
    }
    // From an address that is not trusted the field is only a header that is removed.
    let mut raw = call_with(&gate, 5, b"").await.unwrap();
    raw.send(&get(&gate, &browser, "/page", "x-forwarded-for: 192.0.2.7\r\n")).await;
    assert_eq!(raw.answer().await.unwrap().status, 403);
    gate.audited("its own", |record| mentions(record, &["/page", "127.0.0.5"])).await;
}

#[tokio::test]
async fn a_route_and_a_listener_take_requests_from_their_own_networks_only() {
    let upstream = Recorder::start().await;
    let mut plant = route("plant", "/plant", &upstream.url());
    plant["allow_from"] = json!(["192.0.2.0/24"]);
    let gate = Gate::with_upstream(&upstream)
        .route(plant)
        .configure(|config| {
            listener(config)["trusted_proxies"] = json!(["127.0.0.1"]);
            listener(config)["allow_from"] = json!(["127.0.0.0/30", "192.0.0.0/16"]);
        })
        .start()
        .await;
    let browser = gate.login("vera").await.as_program();
    for (path, client, status) in [
        ("/plant/a", "192.0.2.7", 200),
        ("/plant/a", "192.0.3.7", 403),
        ("/a", "192.0.3.7", 200),
        ("/a", "198.51.100.7", 403),
        ("/.wicketgate/me", "198.51.100.7", 403),
    ] {
        let before = upstream.requests().len();
        let mut from = browser.clone().with_header("x-forwarded-for", client);
        let answer = from.get(path).await.expect(status);
        if status == 403 {
            assert_eq!(answer.json()["type"], "urn:wicketgate:source-not-allowed");
            let id = answer.header("x-wicketgate-decision").unwrap();
            let words = ["refused", "source-not-allowed", client, id];
            gate.audited("the refusal", |record| mentions(record, &words)).await;
            assert_eq!(upstream.requests().len(), before);
        }
    }
    // Whoever comes from elsewhere, and is no proxy, gets no TLS.
    assert!(call_with(&gate, 3, b"").await.is_some());
    assert!(is_hung_up(&mut call(&gate, 4).await).await);
    refused(&gate, "source").await;
}

#[tokio::test]
async fn a_websocket_is_cut_when_its_address_is_taken_out_of_the_route() {
    let mut echo = Echo::start().await;
    let mut ws = route("ws", "/ws", &echo.url);
    ws["allow_from"] = json!(["127.0.0.0/8"]);
    let mut gate = Gate::with_upstream(&Recorder::start().await).route(ws).start().await;
    let browser = gate.login("vera").await;
    let mut socket = websocket::opened(&browser, &mut echo).await;
    gate.rewrite(|config| config["routes"][1]["allow_from"] = json!(["192.0.2.0/24"]));
    gate.process.signal("HUP");
    let close = within("the close", async {
        loop {
            match socket.next().await {
                Some(Ok(Message::Close(frame))) => break frame.unwrap(),
                Some(Ok(_)) => {}
                other => panic!("no close frame: {other:?}"),
            }
        }
    })
    .await;
    assert_eq!(u16::from(close.code), 1008, "{close:?}");
    gate.audited("the cut", |record| mentions(record, &["cut", "from this address"])).await;
    browser.clone().as_program().get("/ws").await.expect(403);
}

#[tokio::test]
async fn one_address_can_take_only_its_part_of_the_connections() {
    let gate = Gate::with_upstream(&Recorder::start().await)
        .configure(|config| {
            listener(config)["limits"] = json!({ "max_connections_per_address": 4 });
        })
        .start()
        .await;
    let mut open = Vec::new();
    for _ in 0..4 {
        open.push(call_with(&gate, 9, b"").await.expect("one of four"));
    }
    assert!(is_hung_up(&mut call(&gate, 9).await).await);
    refused(&gate, "address-limit").await;
    gate.browser().as_program().get("/").await.expect(401);
    open.pop();
    eventually("room for another one", async || call_with(&gate, 9, b"").await.map(drop)).await;
}

#[tokio::test]
async fn a_listener_has_only_so_many_connections_whatever_their_addresses() {
    let gate = Gate::with_upstream(&Recorder::start().await)
        .configure(|config| {
            listener(config)["limits"] =
                json!({ "max_connections": 3, "max_connections_per_address": 2 });
        })
        .start()
        .await;
    let mut open = Vec::new();
    for address in 7..=9 {
        open.push(call_with(&gate, address, b"").await.expect("one of three"));
    }
    assert!(is_hung_up(&mut call(&gate, 6).await).await);
    refused(&gate, "limit").await;
    open.pop();
    eventually("room for another one", async || call_with(&gate, 6, b"").await.map(drop)).await;
}

#[tokio::test]
async fn a_header_that_doesn_t_come_to_its_end_ends_the_connection() {
    let gate = Gate::with_upstream(&Recorder::start().await)
        .configure(|config| {
            listener(config)["limits"] = json!({ "header_timeout": "1s", "idle_timeout": "10m" });
        })
        .start()
        .await;
    let mut slow = gate.raw().await;
    slow.send(b"GET / HTTP/1.1\r\nhost: ").await;
    assert_eq!(slow.rest().await, "");
}

#[tokio::test]
async fn half_open_handshakes_make_room_for_those_who_mean_it() {
    let gate = Gate::with_upstream(&Recorder::start().await)
        .configure(|config| {
            listener(config)["limits"] = json!({ "max_handshakes": 4, "handshake_timeout": "10m" });
        })
        .start()
        .await;
    let mut silent = Vec::new();
    for _ in 0..4 {
        silent.push(call(&gate, 9).await);
    }
    gate.login("vera").await.get("/").await.expect(200);
    // Which of them is the oldest is for the workers to say, who took them one by one.
    refused(&gate, "handshakes").await;
    let hung_up = silent.iter_mut().map(|silent| Box::pin(is_hung_up(silent)));
    let (gone, ..) = futures_util::future::select_all(hung_up).await;
    assert!(gone, "one was given up");
}

#[tokio::test]
async fn a_body_that_drips_is_408_however_long_it_drips() {
    let upstream = Recorder::start().await;
    let gate = Gate::with_upstream(&upstream)
        .configure(|config| {
            listener(config)["limits"] =
                json!({ "min_data_rate": "1KiB", "data_rate_grace": "1s", "idle_timeout": "10m" });
        })
        .start()
        .await;
    let browser = gate.login("vera").await;
    let cookie = browser.cookies_for(&browser.url("/"));
    let head = format!(
        "POST /slow HTTP/1.1\r\nhost: {HOST}:{}\r\ncookie: {cookie}\r\n\
         content-length: 1000000\r\n\r\n",
        gate.port()
    );
    let (wire, _) = browser.connect(&browser.url("/")).await;
    let (reader, mut writer) = tokio::io::split(wire);
    let mut raw = Raw::over(Box::new(tokio::io::join(reader, tokio::io::sink())));
    writer.write_all(head.as_bytes()).await.unwrap();
    let drip = async {
        let mut ticks = tokio::time::interval(std::time::Duration::from_millis(50));
        while writer.write_all(b"x").await.is_ok() && writer.flush().await.is_ok() {
            ticks.tick().await;
        }
        std::future::pending::<()>().await;
    };
    let answer = tokio::select! {
        answer = raw.answer() => answer.unwrap(),
        () = drip => panic!("it dripped for ever"),
    };
    assert_eq!(answer.status, 408, "{answer:?}");
    assert_eq!(answer.value("connection"), Some("close"));
    assert!(upstream.requests().iter().all(|request| !request.line().contains("/slow")));
}

#[tokio::test]
async fn without_file_descriptors_those_who_are_connected_go_on_and_others_wait() {
    let upstream = Recorder::start().await;
    let gate = Gate::with_upstream(&upstream)
        .configure(|config| {
            config["audit"]["segment_size"] = json!("1MiB");
            listener(config)["limits"] = json!({ "handshake_timeout": "10m" });
        })
        .start()
        .await;
    let browser = gate.login("vera").await;
    let mut raw = Raw::connect(&browser).await;
    let request = get(&gate, &browser, &format!("/{}", "long/".repeat(400)), "");
    raw.send(&request).await;
    assert_eq!(raw.answer().await.unwrap().status, 200);

    let most = gate.process.descriptors() + 4;
    gate.process.limit_descriptors(most);
    let mut flood = Vec::new();
    for _ in 0..40 {
        flood.push(call(&gate, 9).await);
    }
    eventually("the gate to say so", async || {
        let said = gate.process.output();
        said.iter().any(|line| line.contains("no connection can be accepted")).then_some(())
    })
    .await;
    // Enough records for a new file, for which no descriptor is free.
    let before = gate.audit_files().len();
    while gate.audit_files().len() == before {
        raw.send(&request).await;
        assert_eq!(raw.answer().await.unwrap().status, 200);
    }
    // Each worker gives its reserve up now and then, for a moment.
    assert!(gate.process.descriptors() + 8 > most, "it was still without");
    raw.send(&request).await;
    assert_eq!(raw.answer().await.unwrap().status, 200);

    drop(flood);
    eventually("a new connection to be served", async || {
        let mut raw = Raw::try_connect(&browser).await?;
        raw.send(&request).await;
        raw.answer().await.filter(|answer| answer.status == 200)
    })
    .await;
    refused(&gate, "descriptors").await;
    assert!(gate.metric("wicketgate_audit_write_errors_total", "").await < 0.5);
    gate.assert_audit_verifies();
}

/// Without any that could be given up either: what waits can't be closed, and stays to be accepted.
#[tokio::test]
async fn a_gate_without_file_descriptors_rests_between_its_attempts_to_accept() {
    let gate = Gate::with_upstream(&Recorder::start().await).start().await;
    let browser = gate.login("vera").await;
    gate.process.limit_descriptors(4);
    let mut waiting = Vec::new();
    for _ in 0..8 {
        waiting.push(call(&gate, 9).await);
    }
    eventually("the gate to say so", async || {
        let said = gate.process.output();
        said.iter().any(|line| line.contains("no connection can be accepted")).then_some(())
    })
    .await;
    // Nothing is waited for here: this is the time over which is measured. Whoever asks again at
    // once takes all of a processor, and a good part of one that it shares.
    let (begun, before) = (Instant::now(), gate.process.processor_time());
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (used, took) = (gate.process.processor_time() - before, begun.elapsed());
    assert!(used < took / 6, "{used:?} of processor time in {took:?}");
    gate.process.limit_descriptors(1024);
    eventually("a new connection to be served", async || {
        let mut raw = Raw::try_connect(&browser).await?;
        raw.send(&get(&gate, &browser, "/", "")).await;
        raw.answer().await.filter(|answer| answer.status == 200)
    })
    .await;
}

#[tokio::test]
async fn clients_leave_the_descriptors_that_upstreams_need() {
    let (page, late) = (Recorder::start().await, Recorder::start().await);
    let gate = Gate::with_upstream(&page)
        .route(route("late", "/late", &late.url()))
        .configure(|config| {
            listener(config)["limits"] = json!({ "handshake_timeout": "10m" });
        })
        .descriptors(200)
        .start()
        .await;
    let browser = gate.login("vera").await;
    let mut raw = Raw::connect(&browser).await;
    raw.send(&get(&gate, &browser, "/", "")).await;
    assert_eq!(raw.answer().await.unwrap().status, 200);
    let mut flood = Vec::new();
    for _ in 0..300 {
        flood.push(call(&gate, 9).await);
    }
    assert!(is_hung_up(flood.last_mut().unwrap()).await);
    refused(&gate, "descriptors").await;
    // An upstream that nobody has asked yet.
    raw.send(&get(&gate, &browser, "/late", "")).await;
    assert_eq!(raw.answer().await.unwrap().status, 200);
    let said = gate.process.output();
    assert!(said.iter().any(|line| line.contains("200 file descriptors are enough for")));
    assert!(!said.iter().any(|line| line.contains("no connection can be accepted")));
}
