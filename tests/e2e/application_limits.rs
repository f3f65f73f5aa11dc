//! Applications for which a session counts for a shorter time than it lasts.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use http::Method;
use serde_json::json;

use crate::harness::client::{Answer, Browser};
use crate::harness::gate::{mentions, route};
use crate::harness::servers::{Echo, Heard};
use crate::harness::{Gate, Recorder, Setup, eventually, websocket};

/// `/strict` belongs to an application with these limits, `/` doesn't.
fn world(upstream: &Recorder, limits: serde_json::Value) -> Setup {
    let mut strict = route("strict", "/strict", &upstream.url());
    strict["application"] = json!("strict");
    Gate::setup().route(route("app", "/", &upstream.url())).route(strict).configure(move |config| {
        let strict = json!({ "name": "strict", "session": limits });
        config["applications"].as_array_mut().unwrap().push(strict);
    })
}

fn an_hour_ago() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() - 3600
}

/// To the provider, and back after signing in with this form.
async fn follow(gate: &Gate, browser: &mut Browser, sent: Answer, form: &str) -> Answer {
    let page = browser.follow(sent).await.expect(200);
    assert!(page.url.as_str().starts_with(&gate.provider.issuer), "nobody was asked: {page:?}");
    let answer = browser.post(page.url.as_str(), form).await;
    browser.follow(answer).await
}

/// Signed in at the provider an hour ago.
async fn vera(gate: &Gate) -> Browser {
    let mut browser = gate.browser();
    let sent = browser.get("/").await;
    follow(gate, &mut browser, sent, &format!("user=vera&ts={}", an_hour_ago())).await.expect(200);
    browser
}

fn parameter(answer: &Answer, name: &str) -> Option<String> {
    let location = answer.location();
    location.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}

#[tokio::test]
async fn who_signed_in_too_long_ago_for_an_application_signs_in_anew_there_alone() {
    let upstream = Recorder::start().await;
    let gate = world(&upstream, json!({ "absolute_lifetime": "30m" })).start().await;
    let mut browser = vera(&gate).await;
    let session = browser.session_cookie().unwrap();
    let before = upstream.requests().len();

    let refused = browser.clone().as_program().get("/strict").await.expect(401);
    let told = refused.json();
    assert_eq!(told["type"], "urn:wicketgate:session-too-old");
    assert!(told["login"].as_str().unwrap().contains("max_age=1800"), "{told}");
    let decision = refused.header("x-wicketgate-decision").unwrap().to_owned();
    let words = [&*decision, "session-too-old", "test/vera"];
    gate.audited("the refusal", |record| mentions(record, &words)).await;
    assert_eq!(upstream.requests().len(), before);
    browser.clone().as_program().get("/").await.expect(200);

    let sent = browser.get("/strict?page=2").await.expect(303);
    assert_eq!(parameter(&sent, "max_age").as_deref(), Some("1800"));
    assert_eq!(parameter(&sent, "prompt").as_deref(), Some("login"));
    // A provider that answers with the sign-in of an hour ago.
    let mut stubborn = browser.clone();
    let answer = stubborn.get("/strict").await.expect(303);
    let form = format!("user=vera&ts={}", an_hour_ago());
    let page = follow(&gate, &mut stubborn, answer, &form).await.expect(403);
    assert!(page.text().contains("within the last 1800 seconds"), "{}", page.text());

    let page = follow(&gate, &mut browser, sent, "user=vera").await.expect(200);
    assert_eq!(page.url.as_str(), gate.url("/strict?page=2"));
    assert_ne!(browser.session_cookie().unwrap(), session, "a new id at every sign-in");
    browser.as_program().get("/strict").await.expect(200);
}

#[tokio::test]
async fn a_form_for_an_application_that_wants_a_new_sign_in_is_kept_for_its_user() {
    let upstream = Recorder::start().await;
    let gate = world(&upstream, json!({ "absolute_lifetime": "30m" })).start().await;
    for (user, status) in [("otto", 403), ("vera", 200)] {
        let mut browser = vera(&gate).await;
        let before = upstream.requests().len();
        let origin = gate.url("");
        let headers = [
            ("content-type", "application/x-www-form-urlencoded"),
            ("origin", origin.as_str()),
            ("accept", "text/html"),
        ];
        let body = "item=N-3001".into();
        let kept = browser.send(Method::POST, "/strict/orders", &headers, body).await.expect(401);
        let text = kept.text().replace("&amp;", "&").replace("&#38;", "&");
        let link = text.split("href=\"").find(|rest| rest.starts_with("/.wicketgate/login"));
        let link = link.unwrap().split('"').next().unwrap().to_owned();
        assert!(link.contains("max_age=1800"), "{link}");
        // The provider knows nobody in this browser.
        browser.forget("127.0.0.1");
        let sent = browser.get(&link).await.expect(303);
        let page = follow(&gate, &mut browser, sent, &format!("user={user}")).await;
        let page = page.expect(status);
        assert_eq!(page.url.path(), "/.wicketgate/resume");
        assert_eq!(page.text().contains("item"), user == "vera");
        assert_eq!(upstream.requests().len(), before, "nothing is sent without a click");
    }
}

#[tokio::test]
async fn a_session_that_was_idle_for_too_long_for_an_application_stays_so_for_it() {
    const IDLE: Duration = Duration::from_secs(3);
    let (upstream, mut echo) = (Recorder::start().await, Echo::start().await);
    let (mut strict_ws, ws) =
        (route("ws", "/strict/ws", &echo.url), route("ws2", "/ws", &echo.url));
    strict_ws["application"] = json!("strict");
    // So long that nothing of the test is past it.
    let mut gate =
        world(&upstream, json!({ "idle_timeout": "20m" })).route(strict_ws).route(ws).start().await;
    // Before the session, so before anybody was idle.
    let begun = Instant::now();
    let mut browser = gate.login("vera").await;
    let (mut strict, _) = websocket::open(&browser, "/strict/ws").await.unwrap();
    assert_eq!(echo.next().await, Heard::Opened);
    let mut open = websocket::opened(&browser, &mut echo).await;
    browser.get("/strict").await.expect(200);

    gate.rewrite(|config| config["applications"][1]["session"]["idle_timeout"] = "3s".into());
    // Nothing is sent, so it ends by itself.
    websocket::closed(&mut strict).await;
    assert!(begun.elapsed() >= IDLE, "{:?}", begun.elapsed());
    let words = ["connection-cut", "test/vera", "idle for longer than the application takes"];
    gate.audited("the cut", |record| mentions(record, &words)).await;

    let mut program = browser.clone().as_program();
    program.get("/").await.expect(200);
    for _ in 0..2 {
        let refused = program.get("/strict").await.expect(401);
        assert_eq!(refused.json()["type"], "urn:wicketgate:session-too-idle");
    }
    let sent = browser.get("/strict").await.expect(303);
    assert_eq!(parameter(&sent, "prompt").as_deref(), Some("login"));
    // For as long as the way to the provider and back may take.
    gate.rewrite(|config| config["applications"][1]["session"]["idle_timeout"] = "20m".into());
    eventually("the longer limit", async || {
        let answer = program.get("/strict").await;
        (answer.status == 200).then_some(())
    })
    .await;
    let page = follow(&gate, &mut browser, sent, "user=vera").await.expect(200);
    assert_eq!(page.url.as_str(), gate.url("/strict"));
    // What was open elsewhere lived for as long as its session, which the new one replaced.
    websocket::closed(&mut open).await;
}

#[tokio::test]
async fn a_limit_that_is_new_holds_at_once_for_what_is_open() {
    let (upstream, mut echo) = (Recorder::start().await, Echo::start().await);
    let mut ws = route("ws", "/strict/ws", &echo.url);
    ws["application"] = json!("strict");
    let mut gate = world(&upstream, json!({ "absolute_lifetime": "2h" })).route(ws).start().await;
    let mut browser = vera(&gate).await;
    browser.get("/strict").await.expect(200);
    let (mut socket, _) = websocket::open(&browser, "/strict/ws").await.unwrap();
    assert_eq!(echo.next().await, Heard::Opened);
    gate.rewrite(|config| {
        config["applications"][1]["session"] = json!({ "absolute_lifetime": "30m" });
    });
    websocket::closed(&mut socket).await;
    assert_eq!(echo.next().await, Heard::Ended, "the upstream's side ends too");
    let words = ["connection-cut", "test/vera", "older than the application takes"];
    gate.audited("the cut", |record| mentions(record, &words)).await;
    browser.as_program().get("/strict").await.expect(401);
}
