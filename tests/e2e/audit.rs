//! Nothing that was allowed is missing from the log, whatever happens to the process.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};

use crate::harness::gate::{mentions, route};
use crate::harness::{Gate, Raw, Recorder, eventually};

/// Kills while requests are under way, as often as the promise was made for.
const KILLS: usize = 100;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_durable_record_survives_a_hundred_kills_under_load() {
    let upstream = Recorder::start().await;
    let mut to = route("app", "/", &upstream.url());
    to["audit"] = json!("durable");
    let mut gate = Gate::setup().route(to).start().await;
    let browser = gate.login("vera").await;
    for round in 0..KILLS {
        let before = upstream.requests().len();
        let stop = Arc::new(AtomicBool::new(false));
        let load: Vec<_> = (0..4)
            .map(|client| {
                let (browser, stop) = (browser.clone(), Arc::clone(&stop));
                tokio::spawn(bombard(browser, stop, format!("/{round}/{client}")))
            })
            .collect();
        // Another number of requests each time, so that the kill meets every moment of a write.
        eventually("requests under way", async || {
            (upstream.requests().len() > before + round % 13).then_some(())
        })
        .await;
        gate.process.kill();
        stop.store(true, Ordering::Relaxed);
        for client in load {
            client.await.unwrap();
        }
        gate.restart().await;
    }
    let recorded: std::collections::HashSet<String> = gate
        .audit()
        .iter()
        .filter(|record| mentions(record, &["permit"]))
        .filter_map(|record| find_key(record, "path"))
        .collect();
    let forwarded = upstream.requests();
    assert!(forwarded.len() > KILLS);
    for request in &forwarded {
        let path = request.line().split(' ').nth(1).unwrap();
        assert!(recorded.contains(path), "{path} was forwarded without a record");
    }
    gate.assert_audit_verifies();
}

#[tokio::test]
async fn a_flood_of_refusals_is_counted_and_not_written_record_by_record() {
    const FLOOD: usize = 400;
    let upstream = Recorder::start().await;
    let mut gate = Gate::with_upstream(&upstream).start().await;
    let mut browser = gate.login("vera").await;
    let mut raw = Raw::connect(&gate.browser()).await;
    let host = crate::harness::client::authority(&browser.url("/"));
    for number in 0..FLOOD {
        let request = format!("GET /%zz{number} HTTP/1.1\r\nhost: {host}\r\n\r\n");
        raw.send(request.as_bytes()).await;
        assert_eq!(raw.answer().await.unwrap().status, 400);
    }
    // Whoever is signed in is on record, each time.
    for _ in 0..FLOOD {
        assert_eq!(browser.get("/in").await.status, 200);
    }
    let refused = gate.metric("wicketgate_requests_total", "outcome=\"refused\"").await;
    assert!(refused >= FLOOD as f64, "{refused}");
    gate.process.signal("TERM");
    eventually("the end of the gate", async || gate.process.exited()).await;

    let records = gate.audit();
    let of = |event: &str| -> Vec<&Value> {
        records.iter().filter(|record| record["event"] == event).collect()
    };
    let bad = |record: &&&Value| record["reason"] == "bad-target";
    let single = of("refused").iter().filter(bad).count();
    let counted: u64 = of("refusals-counted")
        .iter()
        .filter(bad)
        .map(|record| record["count"].as_u64().unwrap())
        .sum();
    assert_eq!(single + usize::try_from(counted).unwrap(), FLOOD, "every one is accounted for");
    assert!(counted > 0 && single >= 100, "{single} in records, {counted} in counts");
    let permits = of("decision").iter().filter(|record| mentions(record, &["/in"])).count();
    assert_eq!(permits, FLOOD);
    gate.assert_audit_verifies();
    let shown = gate.command(&["audit", "query", "--event", "refusals-counted"]);
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains("\"reason\":\"bad-target\""), "{shown}");
    assert!(shown.contains("\"network\":\"127.0.0.1\""), "{shown}");
}

/// Requests, one after the other on one connection, each with a path of its own.
async fn bombard(browser: crate::harness::Browser, stop: Arc<AtomicBool>, prefix: String) {
    let url = browser.url("/");
    let cookies = browser.cookies_for(&url);
    let host = crate::harness::client::authority(&url);
    // The kill may come in the middle of a handshake.
    let Some(mut raw) = Raw::try_connect(&browser).await else { return };
    for number in 0..100_000 {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let path = format!("{prefix}/{number}");
        let head = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\ncookie: {cookies}\r\n\r\n");
        raw.send(head.as_bytes()).await;
        if raw.answer().await.is_none() {
            return;
        }
    }
}

/// The first text under a key of this name, at any depth.
fn find_key(value: &serde_json::Value, key: &str) -> Option<String> {
    match value {
        serde_json::Value::Object(map) => map
            .get(key)
            .and_then(|found| found.as_str().map(str::to_owned))
            .or_else(|| map.values().find_map(|inner| find_key(inner, key))),
        serde_json::Value::Array(list) => list.iter().find_map(|inner| find_key(inner, key)),
        _ => None,
    }
}

#[tokio::test]
async fn an_altered_or_missing_record_is_found() {
    let gate = Gate::with_upstream(&Recorder::start().await).start().await;
    let mut browser = gate.login("vera").await;
    for number in 0..20 {
        browser.get(&format!("/page/{number}")).await.expect(200);
    }
    gate.audited("the last page", |record| mentions(record, &["/page/19"])).await;
    gate.assert_audit_verifies();
    let folder = gate.folder().join("audit");
    let file = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| fs::read_to_string(path).is_ok_and(|text| text.contains("/page/7")))
        .expect("the log's file");
    let good = fs::read_to_string(&file).unwrap();
    let without: String = good
        .lines()
        .filter(|line| !line.contains("\"/page/7\""))
        .fold(String::new(), |text, line| text + line + "\n");
    for bad in [good.replacen("/page/7", "/page/8", 1), without] {
        assert_ne!(bad, good);
        fs::write(&file, &bad).unwrap();
        let verdict = gate.command(&["audit", "verify"]);
        assert!(!verdict.status.success(), "{verdict:?}");
        fs::write(&file, &good).unwrap();
    }
    gate.assert_audit_verifies();
}

#[tokio::test]
async fn what_a_client_sends_cannot_forge_a_record_or_a_log_line() {
    let gate = Gate::with_upstream(&Recorder::start().await).start().await;
    let mut browser = gate.login("vera").await;
    let forged = "\u{1b}[2K{\"event\":\"session-started\",\"principal\":\"test/root\"}";
    let encoded = "/%0d%0a%7B%22event%22%3A%22session-started%22%7D%1b%5B31m";
    browser.get(encoded).await;
    let odd = [("user-agent", "x\\u000a\"}{\"event\":\"session-started\"")];
    browser.send(Method::GET, "/odd", &odd, Bytes::new()).await;
    let mut raw = gate.raw().await;
    let head = format!("GET /{forged} HTTP/1.1\r\nhost: x{forged}\r\n\r\n");
    raw.send(head.as_bytes()).await;
    raw.answer().await;
    // Allowed, so its path is in a record: decoded, as text.
    browser
        .get("/%7B%22event%22%3A%22session-started%22%2C%22principal%22%3A%22test%2Droot%22%7D")
        .await;
    gate.audited("the odd request", |record| mentions(record, &["/odd"])).await;
    gate.audited("the forged path", |record| mentions(record, &["test-root"])).await;
    let started = gate.audit().iter().filter(|one| one["event"] == "session-started").count();
    let nested = gate.audit().iter().filter(|one| mentions(one, &["test-root"])).count();
    assert_eq!(started, 1, "one login, one record");
    assert_eq!(nested, 1, "only as a quoted text");
    for line in gate.process.output() {
        assert!(!line.contains('\u{1b}'), "a terminal escape in the log: {line:?}");
    }
    gate.assert_audit_verifies();
}

#[tokio::test]
async fn no_record_holds_a_secret() {
    let gate = Gate::with_upstream(&Recorder::start().await).start().await;
    let mut browser = gate.browser();
    let callback = gate.until_callback(&mut browser, "vera", "/").await;
    browser.get(&callback).await;
    let code = callback.split("code=").nth(1).unwrap().split('&').next().unwrap();
    let session = browser.session_cookie().unwrap();
    browser.get("/page").await.expect(200);
    gate.audited("the page", |record| mentions(record, &["/page"])).await;
    let written = gate.audit().iter().map(ToString::to_string).collect::<String>()
        + &gate.process.output().join("\n");
    for secret in [code, &session, crate::harness::provider::SECRET] {
        assert!(!written.contains(secret), "a secret was written");
    }
}
