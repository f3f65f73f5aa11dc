//! What the gate depends on fails, and comes back.

use http::Method;
use serde_json::json;

use crate::harness::gate::{mentions, route};
use crate::harness::{Browser, Gate, Recorder, eventually};

fn durable(upstream: &Recorder) -> crate::harness::Setup {
    let mut to = route("app", "/", &upstream.url());
    to["audit"] = json!("durable");
    Gate::setup().route(to)
}

#[tokio::test]
async fn access_that_cannot_be_recorded_is_refused_until_it_can_be() {
    let upstream = Recorder::start().await;
    let gate = durable(&upstream).start().await;
    let mut browser = gate.login("vera").await.as_program();
    browser.get("/before").await.expect(200);
    gate.audited("the request", |record| mentions(record, &["/before"])).await;

    // In the middle of the next record: as on a disk that fills up.
    let records: u64 = gate.audit_files().iter().map(|file| file.metadata().unwrap().len()).sum();
    gate.process.limit_files(Some(records + 100));
    let refused = browser.get("/full").await.expect(503);
    assert!(refused.header("x-wicketgate-decision").is_some(), "{refused:?}");
    assert!(refused.header("retry-after").is_some(), "{refused:?}");
    assert_eq!(refused.json()["type"], "urn:wicketgate:audit-unavailable");
    assert!(!upstream.requests().iter().any(|request| request.line().contains("/full")));
    assert!(gate.metric("wicketgate_audit_denied_total", "").await > 0.0);
    assert!((gate.metric("wicketgate_audit_healthy", "").await - 0.0).abs() < 0.5);
    gate.assert_audit_verifies();

    gate.process.limit_files(None);
    eventually("access after the disk has room again", async || {
        let answer = browser.get("/after").await;
        (answer.status == 200).then_some(())
    })
    .await;
    gate.audited("the refused request, too", |record| mentions(record, &["/full"])).await;
    assert!((gate.metric("wicketgate_audit_healthy", "").await - 1.0).abs() < 0.5);
    gate.assert_audit_verifies();
}

#[tokio::test]
async fn a_full_queue_of_records_refuses_where_records_are_buffered() {
    let upstream = Recorder::start().await;
    let gate = Gate::with_upstream(&upstream)
        .configure(|config| config["audit"]["queue"] = json!(8))
        .start()
        .await;
    let mut browser = gate.login("vera").await.as_program();
    browser.get("/before").await.expect(200);
    gate.audited("the request", |record| mentions(record, &["/before"])).await;
    gate.process.limit_files(Some(1));
    let passed = async || {
        let before = upstream.requests().len();
        for number in 0..40 {
            let answer = browser.clone().get(&format!("/full/{number}")).await;
            assert!(matches!(answer.status, 200 | 503), "{answer:?}");
        }
        upstream.requests().len() - before
    };
    assert!(passed().await <= 8 + 1, "no more than may wait, and what is being written");
    assert_eq!(passed().await, 0);
    gate.process.limit_files(None);
    eventually("access after the disk has room again", async || {
        (browser.get("/after").await.status == 200).then_some(())
    })
    .await;
    let passed: Vec<_> = upstream.requests();
    for request in &passed {
        let path = request.line().split(' ').nth(1).unwrap().to_owned();
        gate.audited("what passed", |record| mentions(record, &["permit", &path])).await;
    }
    gate.assert_audit_verifies();
}

#[tokio::test]
async fn a_store_that_cannot_be_written_gives_503_and_recovers() {
    let upstream = Recorder::start().await;
    let gate = Gate::with_upstream(&upstream).start().await;
    let mut known = gate.login("vera").await.as_program();
    let mut fresh = gate.browser();
    let callback = gate.until_callback(&mut fresh, "otto", "/").await;
    gate.process.limit_files(Some(1));
    let refused = fresh.get(&callback).await.expect(503);
    assert!(refused.header("x-wicketgate-decision").is_some(), "{refused:?}");
    assert_eq!(fresh.session_cookie(), None);
    known.get("/").await.expect(200);

    gate.process.limit_files(None);
    eventually("a login after the disk has room again", async || {
        let mut browser = gate.browser();
        let callback = gate.until_callback(&mut browser, "otto", "/").await;
        browser.get(&callback).await;
        browser.session_cookie()
    })
    .await;
    // What is not in the gate's memory either: it was written, and is read again.
    known.get("/").await.expect(200);
    gate.assert_audit_verifies();
}

#[tokio::test]
async fn without_the_provider_sessions_go_on_and_logins_get_503_until_it_is_back() {
    let upstream = Recorder::start().await;
    let mut gate = Gate::with_upstream(&upstream)
        .configure(|config| config["identity_providers"][0]["timeout"] = json!("500ms"))
        .start()
        .await;
    let mut known = gate.login("vera").await;
    // It takes connections and says nothing; and nothing of it is in memory any more.
    gate.provider.process.signal("STOP");
    gate.process.kill();
    gate.restart().await;
    known.get("/").await.expect(200);
    for (asks, target) in [
        (gate.browser(), "/.wicketgate/login?start&return_to=/"),
        (gate.browser(), "/orders"),
        (gate.browser_h2(), "/orders"),
    ] {
        refuses_logins(asks, target).await;
    }
    gate.browser().as_program().get("/orders").await.expect(401);
    let (status, _) = gate.admin("/readyz").await.unwrap();
    assert_eq!(status, 200, "whoever is signed in is served");

    gate.provider.process.signal("CONT");
    eventually("a login after the provider is back", async || {
        let answer = gate.browser().get("/.wicketgate/login?start&return_to=/").await;
        (answer.status == 303).then_some(())
    })
    .await;
    gate.login("otto").await.get("/").await.expect(200);
}

/// A page that says so: no redirect, which could lead in circles.
async fn refuses_logins(mut browser: Browser, target: &str) {
    let answer = browser.get(target).await.expect(503);
    assert!(answer.header("x-wicketgate-decision").is_some(), "{answer:?}");
    assert_eq!(answer.header("location"), None);
    assert!(answer.header("content-type").unwrap().starts_with("text/html"));
    let id = answer.header("x-wicketgate-decision").unwrap();
    assert!(answer.text().contains(id), "the page shows the id");
}

#[tokio::test]
async fn a_provider_that_dies_in_the_middle_of_a_login_gives_no_session() {
    let mut gate = Gate::with_upstream(&Recorder::start().await).start().await;
    let mut browser = gate.browser();
    let callback = gate.until_callback(&mut browser, "vera", "/").await;
    gate.provider.process.kill();
    let answer = browser.get(&callback).await.expect(503);
    assert!(answer.header("x-wicketgate-decision").is_some());
    assert_eq!(answer.header("location"), None);
    assert_eq!(browser.session_cookie(), None);
    gate.audited("the failure", |record| mentions(record, &["login-failed"])).await;
}

#[tokio::test]
async fn without_its_upstream_a_route_answers_502_and_the_others_go_on() {
    let upstream = Recorder::start().await;
    let gone = crate::harness::port::free();
    let gate = Gate::setup()
        .route(route("app", "/", &upstream.url()))
        .route(route("gone", "/gone", &format!("http://{gone}")))
        .start()
        .await;
    let mut browser = gate.login("vera").await.as_program();
    let answer = browser.send(Method::POST, "/gone", &[], "a=b".into()).await.expect(502);
    assert!(answer.header("x-wicketgate-decision").is_some(), "{answer:?}");
    assert!(!answer.text().contains(&gone.to_string()), "addresses behind the gate stay there");
    browser.get("/").await.expect(200);
}
