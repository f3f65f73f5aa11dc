//! Signing in and out: OpenID Connect with a certified provider.

use http::Method;

use serde_json::json;

use crate::harness::gate::{SECOND_HOST, mentions, route};
use crate::harness::{Gate, Recorder};

#[tokio::test]
async fn a_person_is_sent_to_the_provider_and_comes_back_to_the_page_asked_for() {
    let upstream = Recorder::start().await;
    let gate = Gate::with_upstream(&upstream).start().await;
    let mut browser = gate.browser();
    let refused = browser.get("/orders?page=2").await;
    assert!(matches!(refused.status, 302 | 303), "{refused:?}");
    assert!(refused.header("x-wicketgate-decision").is_some(), "{refused:?}");
    assert_eq!(upstream.bytes(), b"", "nothing passes before the login");

    let answer = gate.sign_in(&mut browser, "vera", "%2Forders%3Fpage%3D2").await.expect(200);
    assert_eq!(answer.url.as_str(), gate.url("/orders?page=2"));
    assert_eq!(upstream.last().line(), "GET /orders?page=2 HTTP/1.1");
    gate.audited("the session", |record| mentions(record, &["session-started", "test/vera"])).await;
}

#[tokio::test]
async fn the_session_cookie_is_opaque_and_bound_to_the_host() {
    let gate = Gate::with_upstream(&Recorder::start().await).start().await;
    let mut browser = gate.browser();
    let callback = gate.until_callback(&mut browser, "vera", "/").await;
    let answer = browser.get(&callback).await;
    let lines: Vec<_> = answer.headers.get_all("set-cookie").iter().collect();
    let session: Vec<_> = lines
        .iter()
        .filter_map(|line| line.to_str().ok()?.strip_prefix("__Host-wicketgate="))
        .collect();
    assert_eq!(session.len(), 1, "{lines:?}");
    let (value, attributes) = session[0].split_once(';').unwrap();
    let attributes = attributes.to_ascii_lowercase();
    for needed in ["secure", "httponly", "path=/", "samesite=lax"] {
        assert!(attributes.contains(needed), "{attributes}");
    }
    assert!(!attributes.contains("domain"), "{attributes}");
    assert!(value.len() >= 43 && !value.contains('.'), "no token, 256 bits: {value}");
    assert!(!value.contains("vera"));
}

/// A cookie that an application got hold of opens no other application.
#[tokio::test]
async fn a_session_of_one_host_is_none_on_another() {
    let upstream = Recorder::start().await;
    let gate = Gate::setup()
        .route(route("app", "/", &upstream.url()))
        .route(route("other", "/", &upstream.url()))
        .configure(|config| config["routes"][1]["host"] = json!(SECOND_HOST))
        .start()
        .await;
    let vera = gate.login("vera").await;
    let cookie = format!("__Host-wicketgate={}", vera.session_cookie().unwrap());
    let mut thief = gate.browser().as_program().with_header("cookie", &cookie);
    thief.get("/orders").await.expect(200);
    let seen = upstream.bytes().len();
    for path in ["/orders", "/.wicketgate/me"] {
        let elsewhere = format!("https://{SECOND_HOST}:{}{path}", gate.port());
        thief.get(&elsewhere).await.expect(401);
    }
    assert_eq!(upstream.bytes().len(), seen);
    thief.get("/orders").await.expect(200);
}

#[tokio::test]
async fn a_callback_counts_once() {
    let gate = Gate::with_upstream(&Recorder::start().await).start().await;
    let mut browser = gate.browser();
    let callback = gate.until_callback(&mut browser, "vera", "/").await;
    let mut copy = browser.clone();
    let first = browser.get(&callback).await;
    assert!(matches!(first.status, 302 | 303), "{first:?}");
    let replayed = copy.get(&callback).await;
    assert!((400..500).contains(&replayed.status), "{replayed:?}");
    assert_eq!(copy.session_cookie(), None);
    gate.audited("the replay", |record| mentions(record, &["login-failed"])).await;
    browser.get("/").await.expect(200);
}

#[tokio::test]
async fn a_callback_is_refused_in_another_browser() {
    let gate = Gate::with_upstream(&Recorder::start().await).start().await;
    let callback = gate.until_callback(&mut gate.browser(), "vera", "/").await;
    let mut victim = gate.browser();
    let answer = victim.get(&callback).await;
    assert!((400..500).contains(&answer.status), "{answer:?}");
    assert_eq!(victim.session_cookie(), None, "no login is forced on a browser");
}

#[tokio::test]
async fn a_tampered_callback_is_refused() {
    let gate = Gate::with_upstream(&Recorder::start().await).start().await;
    for change in TAMPERING {
        let mut browser = gate.browser();
        let callback = gate.until_callback(&mut browser, "vera", "/").await;
        let answer = browser.get(&change(&callback)).await;
        assert!((400..500).contains(&answer.status), "{answer:?}");
        assert_eq!(browser.session_cookie(), None, "{}", change(&callback));
    }
    gate.login("vera").await.get("/").await.expect(200);
}

const TAMPERING: &[fn(&str) -> String] = &[
    |url| url.replace("state=", "state=x"),
    |url| format!("{url}&state=other"),
    |url| format!("{url}&code=other"),
    |url| format!("{url}&iss=https://evil.example"),
    |url| url.replace("iss=http", "iss=https"),
    |url| url.replace("code=", "code=x"),
    |url| url.replace("code=", "error=access_denied&was="),
    |url| url.split('&').filter(|part| !part.contains("state=")).collect::<Vec<_>>().join("&"),
    |url| url.split_once('?').unwrap().0.to_owned(),
];

#[tokio::test]
async fn a_program_gets_a_problem_document_and_no_redirect() {
    let upstream = Recorder::start().await;
    let gate = Gate::with_upstream(&upstream).start().await;
    for (name, value) in [
        ("accept", "application/json"),
        ("accept", "*/*"),
        ("x-requested-with", "XMLHttpRequest"),
        ("sec-fetch-mode", "cors"),
    ] {
        let answer = gate.browser().as_program().with_header(name, value).get("/api").await;
        let answer = answer.expect(401);
        assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{name}");
        assert_eq!(answer.json()["status"], 401);
        assert!(answer.header("x-wicketgate-decision").is_some());
        assert_eq!(answer.header("location"), None);
    }
    let answer = gate.browser().send(Method::POST, "/form", &[], "a=b".into()).await;
    answer.expect(401);
    assert_eq!(upstream.bytes(), b"");
}

#[tokio::test]
async fn a_wrong_or_doubled_session_cookie_is_never_anonymous_and_never_a_session() {
    let upstream = Recorder::start().await;
    let gate = Gate::with_upstream(&upstream).start().await;
    let good = gate.login("vera").await.session_cookie().unwrap();
    let before = upstream.requests().len();
    for cookie in [
        "__Host-wicketgate=".to_owned(),
        "__Host-wicketgate=x".to_owned(),
        format!("__Host-wicketgate={}", "A".repeat(good.len())),
        format!("__Host-wicketgate={good}; __Host-wicketgate=x"),
        format!("__Host-wicketgate=x; __Host-wicketgate={good}"),
        format!("__host-wicketgate={good}"),
        format!("wicketgate={good}"),
    ] {
        let answer = gate.browser().as_program().with_header("cookie", &cookie).get("/").await;
        assert!(matches!(answer.status, 400 | 401), "{cookie}: {answer:?}");
    }
    assert_eq!(upstream.requests().len(), before);
}

#[tokio::test]
async fn a_new_login_replaces_the_old_session() {
    let gate = Gate::with_upstream(&Recorder::start().await).start().await;
    let mut browser = gate.login("vera").await;
    let old = browser.session_cookie().unwrap();
    browser.forget("127.0.0.1");
    gate.sign_in(&mut browser, "vera", "/").await.expect(200);
    assert_ne!(browser.session_cookie().unwrap(), old, "a session id is never fixed");
    let mut stale = gate.browser().as_program();
    stale.set_session_cookie(&old);
    stale.get("/").await.expect(401);
}

#[tokio::test]
async fn after_signing_out_the_session_is_dead_at_once() {
    let upstream = Recorder::start().await;
    let gate = Gate::with_upstream(&upstream).start().await;
    let mut browser = gate.login("vera").await;
    let mut copy = browser.clone().as_program();
    copy.get("/").await.expect(200);

    let answer = browser.sign_out().await;
    let answer = browser.follow(answer).await.expect(200);
    assert_eq!(browser.session_cookie(), None, "{answer:?}");
    copy.get("/").await.expect(401);
    gate.audited("the logout", |record| mentions(record, &["session-ended", "logout"])).await;

    // The provider asks whether to end its own session too.
    if answer.url.as_str().starts_with(&gate.provider.issuer) {
        let page = answer.text();
        let token = page.split("name=\"xsrf\" value=\"").nth(1).unwrap().split('"').next().unwrap();
        let confirm = format!("{}/session/end/confirm", gate.provider.issuer);
        let answer = browser.post(&confirm, &format!("xsrf={token}&logout=yes")).await;
        let answer = browser.follow(answer).await.expect(200);
        assert!(answer.url.as_str().starts_with(&gate.url("/")), "back at the gate: {answer:?}");
    }
}

#[tokio::test]
async fn a_link_or_another_site_cannot_sign_anybody_out() {
    let gate = Gate::with_upstream(&Recorder::start().await).start().await;
    let mut browser = gate.login("vera").await;
    let mut program = browser.clone().as_program();
    browser.get("/.wicketgate/logout").await;
    program.get("/").await.expect(200);
    let unasked = browser.post("/.wicketgate/logout", "").await;
    assert!((400..500).contains(&unasked.status), "without the page's token: {unasked:?}");
    let forged = browser.post("/.wicketgate/logout?csrf=forged", "").await;
    assert!((400..500).contains(&forged.status), "{forged:?}");
    let foreign = [("origin", "https://evil.example"), ("sec-fetch-site", "cross-site")];
    let answer = program.send(Method::POST, "/.wicketgate/logout", &foreign, "".into()).await;
    assert!((400..500).contains(&answer.status), "{answer:?}");
    // Not even with the page's token, should it ever get out.
    let page = browser.get("/.wicketgate/logout").await.expect(200).text();
    let action = page.split("action=\"").nth(1).unwrap().split('"').next().unwrap();
    assert!(action.contains("csrf="), "{action}");
    browser.send(Method::POST, action, &foreign, "".into()).await.expect(403);
    program.get("/").await.expect(200);
}

#[tokio::test]
async fn nobody_is_led_off_the_host_after_a_login() {
    let gate = Gate::with_upstream(&Recorder::start().await).start().await;
    for target in [
        "https%3A%2F%2Fevil.example%2F",
        "%2F%2Fevil.example",
        "%2F%5Cevil.example",
        "%5C%5Cevil.example",
        "%2F%09%2Fevil.example",
        "javascript%3Aalert(1)",
        "https%3Aevil.example",
        "%2F.wicketgate%2Flogout",
    ] {
        let mut browser = gate.browser();
        let callback = gate.until_callback(&mut browser, "vera", target).await;
        let answer = browser.get(&callback).await;
        assert_eq!(answer.location().as_str(), gate.url("/"), "{target}");
    }
}

#[tokio::test]
async fn a_session_outlives_the_gate_but_not_its_logout() {
    let gate_upstream = Recorder::start().await;
    let mut gate = Gate::with_upstream(&gate_upstream).start().await;
    let mut kept = gate.login("vera").await.as_program();
    let mut ended = gate.login("otto").await;
    ended.sign_out().await;
    gate.process.kill();
    gate.restart().await;
    kept.get("/").await.expect(200);
    ended.as_program().get("/").await.expect(401);
}

#[tokio::test]
async fn without_the_provider_sessions_go_on_and_logins_get_503() {
    let mut gate = Gate::with_upstream(&Recorder::start().await).start().await;
    let mut browser = gate.login("vera").await;
    gate.provider.process.kill();
    browser.get("/").await.expect(200);
    gate.process.kill();
    gate.restart().await;
    browser.get("/").await.expect(200);
    let answer = gate.browser().get("/.wicketgate/login?start&return_to=/").await.expect(503);
    assert!(answer.header("x-wicketgate-decision").is_some());
}
